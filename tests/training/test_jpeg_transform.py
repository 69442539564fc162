"""The transform ``JPEG``: Pillow's pixels, a quality of its own for every image, and draws that belong to samples."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from jpegcurr.errors import UsageError
from jpegcurr.training.augment.jpeg import JPEG
from jpegcurr.training.data.beton_dataset import BetonDataset
from jpegcurr.training.data.sampling import QUALITY_STREAM
from jpegcurr.training.sample_rng import SampleRng

LAYOUTS = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}


def noise(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def by_pillow(image: torch.Tensor, quality: int, subsampling: str = "420") -> np.ndarray:
    """Return what Pillow shows of uint8 [3|1 h w] that it has saved, as [h w 3] or [h w]."""
    file = BytesIO()
    pixels = image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality, subsampling=LAYOUTS[subsampling])
    with Image.open(file) as shown:
        return np.asarray(shown)


def rows(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy() if len(image) == 3 else image[0].numpy()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    qualities=st.tuples(st.integers(1, 100), st.integers(1, 100)).map(sorted),
    channels=st.sampled_from([1, 3]),
    subsampling=st.sampled_from(sorted(LAYOUTS)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_pixels_are_pillows_at_a_quality_for_every_image(
    height: int, width: int, qualities: list[int], channels: int, subsampling: Any, layout: torch.memory_format
) -> None:
    images = noise(3, channels, height, width).contiguous(memory_format=layout)
    shown = JPEG((qualities[0], qualities[1]), seed=1, subsampling=subsampling)(images, samples=[4, 5, 6])
    drawn = SampleRng(1, 0, np.array([4, 5, 6])).integer(QUALITY_STREAM, *qualities)
    for before, after, quality in zip(images, shown, drawn.tolist(), strict=True):
        assert np.array_equal(rows(after), by_pillow(before, quality, subsampling))


def test_images_are_encoded_and_everything_else_is_left_alone() -> None:
    picture = noise(3, 20, 30)
    sample = {
        "image": tv_tensors.Image(picture),
        "mask": tv_tensors.Mask(picture[:1]),
        "boxes": tv_tensors.BoundingBoxes([[0, 0, 9, 9]], format="XYXY", canvas_size=(20, 30)),
        "label": torch.tensor(3),
    }
    after = v2.Compose([JPEG(10)])(sample)
    assert isinstance(after["image"], tv_tensors.Image)
    assert np.array_equal(rows(after["image"]), by_pillow(picture, 10))
    assert all(after[name] is sample[name] for name in ("mask", "boxes", "label"))
    grey = JPEG(10)(Image.fromarray(picture[0].numpy()))
    assert np.array_equal(np.asarray(grey), by_pillow(picture[:1], 10))
    assert grey.mode == "L"
    frames = tv_tensors.Video(noise(4, 3, 16, 16))
    torch.manual_seed(0)
    quality = int(torch.randint(5, 96, ()))
    torch.manual_seed(0)  # torch's generator, as torchvision's own draws
    video = JPEG((5, 95))(frames)
    assert isinstance(video, tv_tensors.Video)
    assert all(np.array_equal(rows(after), by_pillow(before, quality)) for before, after in zip(frames, video, strict=True))


def test_a_schedule_changes_at_its_epochs_in_workers_that_outlive_them(betons: Path) -> None:
    """Load with workers that live for all epochs; the draws of a seed are those of the process itself."""
    jpeg = JPEG({0: "source", 1: 50, 2: (5, 95)}, seed=7)
    dataset = BetonDataset(betons / "val-source.beton", transform=v2.Compose([jpeg, v2.PILToTensor(), v2.Resize((24, 24))]))
    loader = DataLoader(dataset, batch_size=8, num_workers=2, persistent_workers=True, multiprocessing_context="fork")
    expected = {0: BetonDataset(dataset.path), 1: BetonDataset(betons / "val-q50.beton"), 2: dataset, 3: dataset}
    epochs = []
    for epoch, of_epoch in expected.items():
        jpeg.set_epoch(epoch)
        epochs.append(torch.cat([images for images, _ in loader]))
        plain = v2.Compose([v2.PILToTensor(), v2.Resize((24, 24))])
        own = [image if of_epoch is dataset else plain(image) for image, _ in of_epoch]
        assert torch.equal(epochs[-1], torch.stack(own)), epoch
    assert not torch.equal(epochs[2], epochs[3])


def calls() -> list[tuple[Any, str]]:
    images = noise(2, 3, 8, 8)
    return [
        (lambda: JPEG(0), "quality 0 is not a JPEG quality"),
        (lambda: JPEG((90, 30)), r"quality \(90, 30\) is no range"),
        (lambda: JPEG({5: 50}), "A schedule begins with epoch 0"),
        (lambda: JPEG(50, subsampling="keep"), "no chroma subsampling that could be kept"),
        (lambda: JPEG(50)(images.float()), r"not float32 \[2, 3, 8, 8\]"),
        (lambda: JPEG(50)(Image.new("RGBA", (8, 8))), "modes RGB and L, not RGBA"),
        (lambda: JPEG((5, 9), seed=0)(images), "draws by sample and was not told which"),
        (lambda: JPEG((5, 9), seed=0)(images, samples=3), "1 samples are named for 2 images"),
        (lambda: JPEG((5, 9))(images, samples=[3, 4]), "does nothing without a seed"),
        (lambda: JPEG(50)(tv_tensors.Image(images), tv_tensors.Image(images[0])), "do not belong to one batch"),
    ]


@pytest.mark.parametrize("number", range(len(calls())))
def test_a_mistake_is_a_sentence(number: int) -> None:
    call, message = calls()[number]
    with pytest.raises(UsageError, match=message):
        call()
