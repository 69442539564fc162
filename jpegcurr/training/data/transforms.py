"""The transform from a stored image to the pixels that the model gets: crop, resize, shift, JPEG on the fly, mirror.

This is the reference in Python. The plain loader uses it, and compiled code gives the same pixels (by area, to within one level
of 255, where no side grows); ``tests/training/test_decode_kernel.py`` checks that.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image

from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.jpeg.codec import round_trip
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import ImageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import Interpolation
from jpegcurr.training.data.crops import blocks_around, centre_start, columns_first, validation_views, whole_views
from jpegcurr.training.data.sampling import SHIFT, VIEW, EpochSampler

ATTEMPTS = 10  # samples that are tried as a replacement of a broken one


def make_sample(sampler: EpochSampler, epoch: int, sample: np.void, out: Pixels) -> int:
    """Render one sample into ``out``, uint8 [size size 3], and return the index of the sample that ``out`` now shows.

    That is another than the sample's own if it does not decode and ``sampler.skip_broken`` is set. The replacement is a
    function of (seed, epoch, index), so every loader takes the same. Validation never replaces a sample.

    Raises:
        ImageError: the sample does not decode, and neither do ten replacements if they are allowed.
    """
    try:
        out[:] = render(sampler, sample, len(out))
        return int(sample["index"])
    except ImageError as error:
        if not sampler.train:
            raise ImageError(f"{error}. Encode the file again.") from None
        if not sampler.skip_broken:
            raise ImageError(
                f"{error}. Encode the file again, or set loader.on_error=skip, which replaces such samples."
            ) from None
        return _make_replacement(sampler, epoch, int(sample["index"]), out, error)


def _make_replacement(sampler: EpochSampler, epoch: int, index: int, out: Pixels, first: ImageError) -> int:
    for attempt in range(ATTEMPTS):
        other = sampler.replacement(epoch, index, attempt)
        try:
            out[:] = render(sampler, sampler.samples(epoch, np.array([other]))[0], len(out))
        except ImageError:
            continue
        return other
    raise ImageError(f"{first}; nor do {ATTEMPTS} samples drawn to replace it. Encode the file again.") from None


def render(sampler: EpochSampler, sample: np.void, size: int) -> Pixels:
    """Return one sample as RGB uint8 [size size 3]; raise ImageError, which names it, if it does not decode.

    One that the device encodes is returned as it is before that (``device_jpeg``).
    """
    variant = list(sampler.variants.values())[sample["variant"]]
    quality, index = int(sample["quality"]), int(sample["index"])
    before_crop = quality > 0 and variant.before_crop
    image, view = read_pixels(variant.beton, index, scratch=True), [int(sample[name]) for name in VIEW]
    if before_crop:
        image, view = _encode_blocks(image, view, quality)
    pixels = _take_view(image, view, size, sampler.image.interpolation)
    pixels = shift(pixels, *(int(sample[name]) for name in SHIFT))
    if sampler.deferred(sample):
        return pixels
    if quality and not before_crop:
        pixels = round_trip(pixels, quality)
    return np.asarray(cv2.flip(pixels, 1), np.uint8) if sample["flip"] else pixels  # OpenCV takes a third of NumPy's time


def _encode_blocks(image: Pixels, view: Sequence[int], quality: int) -> tuple[Pixels, list[int]]:
    """Return the part of an image that a view is of, as a JPEG of the whole image shows it, and where in it the view lies."""
    top, left, height, width, *to = view
    first_row, end_row = blocks_around(top, height, image.shape[0])
    first_column, end_column = blocks_around(left, width, image.shape[1])
    part = np.ascontiguousarray(image[first_row:end_row, first_column:end_column])
    return round_trip(part, quality), [top - first_row, left - first_column, height, width, *to]


def centre_crop(pixels: Pixels, image: ImageSection) -> torch.Tensor:
    """Return what validation shows of an image: RGB uint8 [h w 3] -> uint8 [3 size size]."""
    height, width = pixels.shape[:2]
    view = validation_views(np.array([height]), np.array([width]), image)[0].tolist()
    return torch.from_numpy(_take_view(pixels, view, image.size, image.interpolation)).permute(2, 0, 1)


def whole_image(pixels: Pixels, image: ImageSection) -> torch.Tensor:
    """Return a whole image at the scale of validation: RGB uint8 [h w 3] -> uint8 [3 h' w'], see ``crops.whole_views``."""
    height, width = pixels.shape[:2]
    view = whole_views(np.array([height]), np.array([width]), image)[0].tolist()
    top, left, height, width, to_height, to_width = view
    resized = resize_whole(pixels[top : top + height, left : left + width], (to_height, to_width), image.interpolation)
    return torch.from_numpy(resized).permute(2, 0, 1)


def _take_view(pixels: Pixels, view: Sequence[int], size: int, interpolation: Interpolation) -> Pixels:
    top, left, height, width, to_height, to_width = view
    box = pixels[top : top + height, left : left + width]
    return resize_centre(box, (to_height, to_width), size, interpolation) if to_height else resize(box, size, interpolation)


def shift(pixels: Pixels, row: int, column: int) -> Pixels:
    """Return an image, uint8 [h w 3], of the same size that begins at ``row`` and ``column`` of it, and is black outside."""
    if not row and not column:
        return pixels
    height, width = pixels.shape[:2]
    shifted = np.zeros_like(pixels)
    inside = pixels[max(row, 0) : height + min(row, 0), max(column, 0) : width + min(column, 0)]
    top, left = max(-row, 0), max(-column, 0)
    shifted[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return shifted


def resize(crop: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    """Resize RGB uint8 [h w 3] to [size size 3], by OpenCV's area, torch's antialiased bilinear or Pillow's bicubic.

    Rows are resized before columns, as in torch and in Pillow before version 13.
    """
    if interpolation == "area":  # FFCV's filter; torch's area is another one
        return np.asarray(cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    if interpolation == "bicubic":  # torch's has coarser weights: up to three levels from Pillow's
        rows = Image.fromarray(np.ascontiguousarray(crop)).resize((size, crop.shape[0]), Image.Resampling.BICUBIC)
        return np.array(rows.resize((size, size), Image.Resampling.BICUBIC))
    # torch's bilinear is four times as fast as Pillow's. NumPy makes the crop contiguous, because torch would use all of its
    # threads for that in every thread of the loader. The batch dimension is added before the channels are moved: otherwise
    # torch takes the image for another memory layout and transposes the result.
    batch = torch.from_numpy(np.require(crop, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(batch, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def resize_whole(pixels: Pixels, to: tuple[int, int], interpolation: Interpolation) -> Pixels:
    """Resize RGB uint8 [h w 3] to the size ``to``, in the order of passes of ``resize_centre``, or by OpenCV's area."""
    (height, width), (to_height, to_width) = pixels.shape[:2], to
    if interpolation == "area":
        return np.asarray(cv2.resize(pixels, (to_width, to_height), interpolation=cv2.INTER_AREA), np.uint8)
    filter_ = Image.Resampling[interpolation.upper()]
    between = (width, to_height) if columns_first(height, width, to_height, to_width) else (to_width, height)
    return np.array(
        Image.fromarray(np.ascontiguousarray(pixels)).resize(between, filter_).resize((to_width, to_height), filter_)
    )


def resize_centre(pixels: Pixels, to: tuple[int, int], size: int, interpolation: Interpolation) -> Pixels:
    """Return the centre [size size 3] of RGB uint8 [h w 3] resized to the size ``to`` by Pillow's bilinear or bicubic.

    Each pass is a call of its own, because the order in which Pillow does both depends on its version; here it is that of
    version 13. Between the passes everything but the centre is cut away.
    """
    (height, width), (to_height, to_width) = pixels.shape[:2], to
    top, left = centre_start(to_height, size), centre_start(to_width, size)
    filter_ = Image.Resampling[interpolation.upper()]
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if columns_first(height, width, to_height, to_width):
        image = image.resize((width, to_height), filter_).crop((0, top, width, top + size))
        image = image.resize((to_width, size), filter_).crop((left, 0, left + size, size))
    else:
        image = image.resize((to_width, height), filter_).crop((left, 0, left + size, height))
        image = image.resize((size, to_height), filter_).crop((0, top, size, top + size))
    return np.array(image)
