"""``BetonDataset``: the pixels and labels of a beton for loops and loaders that are not ours."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import encode_all, photograph, write_beton
from timm.data import create_loader
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from jpegcurr.errors import ImageError, UsageError
from jpegcurr.training.data.beton_dataset import BetonDataset

TO_TENSOR = v2.Compose([v2.Resize((32, 32)), v2.PILToTensor()])


def pixels(dataset: BetonDataset) -> list[np.ndarray]:
    return [np.asarray(image) for image, _ in dataset]


def test_a_quality_on_the_fly_gives_the_pixels_of_the_stored_file(betons: Path) -> None:
    stored, made = BetonDataset(betons / "val-q50.beton"), BetonDataset(str(betons / "val-source.beton"), quality=50)
    pairs = list(zip(pixels(stored), pixels(made), strict=True))
    assert len(pairs) == 16
    assert all(np.array_equal(first, second) for first, second in pairs)
    source = pixels(BetonDataset(betons / "val-source.beton", "source"))
    assert not any(np.array_equal(first, second) for (first, _), second in zip(pairs, source, strict=True))


def test_it_has_what_torchvisions_folders_have(betons: Path) -> None:
    dataset = BetonDataset(betons / "val-source.beton", target_transform=lambda label: -label)
    assert dataset.classes == ["astronaut", "cat", "coffee", "grass"]
    assert dataset.class_to_idx["grass"] == 3
    assert dataset.targets == [label for label in range(4) for _ in range(4)]
    picture, label = dataset[-1]
    assert (picture.mode, label) == ("RGB", -3)
    assert np.array_equal(np.asarray(picture), np.asarray(dataset[torch.tensor(15)][0]))
    assert repr(dataset).endswith("val-source.beton': 16 images of 4 classes)")


@pytest.mark.parametrize("index", [16, -17])
def test_an_index_out_of_range_is_an_index_error_in_a_sentence(index: int, betons: Path) -> None:
    with pytest.raises(IndexError, match=f"val-source.beton has no sample {index}: it holds 16, from 0 to 15"):
        BetonDataset(betons / "val-source.beton")[index]


def test_what_would_be_other_images_than_one_thinks_is_refused(betons: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match=r"quality 0 is not a JPEG quality\. Give a whole number from 1 to 100"):
        BetonDataset(betons / "val-source.beton", quality=0)
    with pytest.raises(UsageError, match=r"has quality 50: quality=30 would encode it a second time.* or omit quality to"):
        BetonDataset(betons / "val-q50.beton", quality=30)
    broken = write_beton(Path("broken.beton"), [(b"no image", 40, 30, 0)])
    with pytest.raises(ImageError, match=r"sample 0 of broken\.beton"):
        BetonDataset(broken)[0]
    Path("images/cat").mkdir(parents=True)
    photograph("cat").crop((0, 0, 40, 30)).save("images/cat/0.png")
    encode_all("images", Path("pngs"), ["source"])
    BetonDataset("pngs/images-source.beton", quality=50)
    assert "1 of 1 images were converted or resized to quality 95" in caplog.messages[-1]


def test_workers_load_what_the_process_itself_loads(betons: Path) -> None:
    """Load in two forked workers, and after a pickle, which is what spawned ones get (each imports torch, for seconds)."""
    dataset = BetonDataset(betons / "val-source.beton", quality=30, transform=TO_TENSOR)
    loader = DataLoader(dataset, batch_size=5, num_workers=2, multiprocessing_context="fork")
    images, labels = (torch.cat(column) for column in zip(*loader, strict=True))
    assert torch.equal(images, torch.stack([image for image, _ in pickle.loads(pickle.dumps(dataset))]))  # noqa: S301
    assert labels.tolist() == dataset.targets


def test_timms_loader_takes_it(betons: Path) -> None:
    dataset = BetonDataset(betons / "train-q50.beton")
    loader = create_loader(
        dataset,
        (3, 32, 32),
        batch_size=16,
        is_training=True,
        num_workers=0,
        device=torch.device("cpu"),
        persistent_workers=False,
    )
    batches = list(loader)
    assert [tuple(images.shape) for images, _ in batches] == [(16, 3, 32, 32)] * 3
    assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == sorted(dataset.targets)
