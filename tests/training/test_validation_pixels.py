"""The pixels of validation compared with the transforms of timm and torchvision, by which accuracies are published."""

from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from samples import COMPILED, jpeg, photograph, write_beton
from timm.data import create_transform
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.crops import (
    HEIGHT,
    LEFT,
    LONGEST,
    TO_HEIGHT,
    TO_WIDTH,
    TOP,
    WIDTH,
    centre_start,
    columns_first,
    validation_views,
)
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import SAMPLE, EpochSampler, Variant
from jpegcurr.training.data.transforms import centre_crop

# Heights and widths: as ImageNet's, odd, as large as the resized image, smaller than the crop, long, thin.
SIZES = (
    ("cat", 300, 400),
    ("coffee", 400, 301),
    ("coffee", 375, 499),
    ("astronaut", 511, 333),
    ("cat", 256, 256),
    ("grass", 224, 224),
    ("cat", 73, 110),
    ("astronaut", 101, 57),
    ("grass", 500, 31),
    ("astronaut", 23, 480),
    ("cat", 1, 9),
)
# timm's crop mode, size, share and filter; at 0.9655 the resize is to 232 pixels, at 0.9 and 0.95 to an odd number.
VIEWS = {
    "ImageNet's": ("center", 224, 0.875, "bicubic"),
    "torchvision's": ("center", 224, 0.9655, "bilinear"),
    "odd": ("center", 160, 0.95, "bicubic"),
    "whole": ("center", 288, 1.0, "bicubic"),
    "small": ("center", 96, 0.875, "bilinear"),
    "squashed": ("squash", 384, 1.0, "bicubic"),
    "squashed, bilinear": ("squash", 128, 1.0, "bilinear"),
    "squashed and cut": ("squash", 120, 0.9, "bicubic"),
}
ORDER_OF_13 = int(PIL.__version__.split(".")[0]) >= 13  # before, Pillow never resized columns first


def picture(name: str, height: int, width: int) -> Image.Image:
    """Return a part of a photograph with high contrast, so that bicubic overshoots are clipped."""
    image = photograph(name).crop((0, 0, width, height))
    return image.point([max(0, min(255, 3 * level - 255)) for level in range(256)] * 3)


def section(mode: str, size: int, share: float, interpolation: str) -> ImageSection:
    way = "squash" if mode == "squash" else "shorter_side"
    return ImageSection.model_validate({"size": size, "val_crop": share, "interpolation": interpolation, "val_resize": way})


def by_timm(image: Image.Image, mode: str, size: int, share: float, interpolation: str) -> Pixels:
    transform = create_transform((3, size, size), interpolation=interpolation, crop_pct=share, crop_mode=mode, normalize=False)
    return np.asarray(transform(image).permute(1, 2, 0))


def by_torchvision(image: Image.Image, mode: str, size: int, share: float, interpolation: str) -> Pixels:
    resized = int(size / share)
    resize = transforms.Resize((resized, resized) if mode == "squash" else resized, InterpolationMode(interpolation))
    return np.asarray(transforms.CenterCrop(size)(resize(image)))


def is_comparable(view: np.ndarray) -> bool:
    """Return whether the installed Pillow resizes in the order of version 13, which ours always is."""
    return ORDER_OF_13 or not columns_first(view[HEIGHT], view[WIDTH], view[TO_HEIGHT], view[TO_WIDTH])


def view_of(image: Image.Image, of: ImageSection) -> np.ndarray:
    return validation_views(np.array([image.height]), np.array([image.width]), of)[0]


@pytest.mark.parametrize("view", VIEWS)
def test_they_are_those_of_timm_and_torchvision_to_the_bit(view: str) -> None:
    compared = 0
    for size in SIZES:
        image = picture(*size)
        if is_comparable(view_of(image, section(*VIEWS[view]))):
            ours = centre_crop(np.asarray(image), section(*VIEWS[view])).permute(1, 2, 0).numpy()
            assert np.array_equal(ours, by_timm(image, *VIEWS[view])), size
            assert np.array_equal(ours, by_torchvision(image, *VIEWS[view])), size
            compared += 1
    assert compared == len(SIZES) or not ORDER_OF_13


@pytest.mark.parametrize("kind", [COMPILED, "plain"])
@pytest.mark.parametrize("view", ["ImageNet's", "small", "squashed", "squashed and cut"])
def test_both_loaders_show_them(tmp_path: Path, cpu: Runtime, kind: str, view: str) -> None:
    images = [picture(*size) for size in SIZES]
    payloads = [jpeg(image, quality=95, subsampling="4:4:4") for image in images]
    beton = write_beton(
        tmp_path / "all.beton",
        [(data, image.width, image.height, 0) for data, image in zip(payloads, images, strict=True)],
    )
    sampler = EpochSampler.of(Variant(Beton(beton)), section(*VIEWS[view]), batch=4, workers=2)
    shown = torch.cat([batch.images for batch in open_loader(kind, sampler, cpu).at(0)]).permute(0, 2, 3, 1).numpy()
    for size, payload, ours in zip(SIZES, payloads, shown, strict=True):
        with Image.open(BytesIO(payload)) as image:
            if is_comparable(view_of(image, section(*VIEWS[view]))):
                assert np.array_equal(ours, by_timm(image.convert("RGB"), *VIEWS[view])), size


def test_a_squashed_whole_image_is_one_thing_however_it_is_said() -> None:
    pixels = np.asarray(picture("astronaut", 450, 250))
    said = [
        ImageSection(size=96, val_crop="squash"),
        ImageSection(size=96, val_crop="squash", val_resize="squash"),
        ImageSection(size=96, val_crop=1.0, val_resize="squash"),
    ]
    first, *others = (centre_crop(pixels, image) for image in said)
    assert all(torch.equal(first, other) for other in others)
    before = centre_crop(pixels, ImageSection(size=96, val_crop="squash", val_resize="box"))
    assert (first.int() - before.int()).abs().max() > 4, "rows first, as jpegcurr did, clips other overshoots"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_former_way_is_the_box_resized_alone(interpolation: str) -> None:
    """The pixels around the box have no effect, and its corners are whole pixels."""
    image = ImageSection(size=64, interpolation=interpolation, val_resize="box")
    pixels = np.asarray(photograph("cat").crop((0, 0, 111, 90)))
    around = np.zeros_like(pixels)
    around[6:84, 16:94] = pixels[6:84, 16:94]  # 0.875 of 90, rounded down, is 78
    assert torch.equal(centre_crop(pixels, image), centre_crop(around, image))
    today = image.model_copy(update={"val_resize": "shorter_side"})
    assert not torch.equal(centre_crop(pixels, today), centre_crop(around, today)), "the filter sees what is outside"


def test_the_centre_begins_where_pythons_round_puts_it() -> None:
    for resized in range(64, 200):
        assert centre_start(resized, 64) == round((resized - 64) / 2)


def test_a_thread_of_pixels_takes_no_memory() -> None:
    """Whole, one of these images would be resized to 16 million by 256 pixels."""
    image = ImageSection(size=224)
    for height, width in ((1, 60_000), (60_000, 1), (3, 50_000)):
        (view,) = validation_views(np.array([height]), np.array([width]), image)
        longest = LONGEST * min(height, width)
        assert (view[[HEIGHT, WIDTH]] == np.minimum((height, width), longest)).all()
        assert sorted(view[[TO_HEIGHT, TO_WIDTH]]) == [256, 256 * LONGEST]
        assert (view[TOP], view[LEFT]) == ((height - view[HEIGHT]) // 2, (width - view[WIDTH]) // 2)
        pixels = np.full((height, width, 3), 90, np.uint8)
        assert (centre_crop(pixels, image) == 90).all()


def test_records_of_samples_stay_small() -> None:
    assert SAMPLE.itemsize <= 40
