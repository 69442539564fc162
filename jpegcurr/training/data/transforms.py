"""What the model sees of an image: a crop, resized to a square; at another JPEG quality and mirrored where a job says so.

This is the reference: every loader makes these pixels; by area, to within one level of 255 (``test_ffcv_decode``).
"""

import cv2
import numpy as np
import torch
from PIL import Image

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, encode_rgb, reencode
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import ImageError
from jpegcurr.recipe.schema import ImageSection, Interpolation
from jpegcurr.training.data.crops import HEIGHT, LEFT, TOP, WIDTH, centre_boxes
from jpegcurr.training.data.sampling import EpochSampler, Variant


def centre_view(pixels: Pixels, image: ImageSection) -> torch.Tensor:
    """RGB uint8 [h w 3] -> the validation view, uint8 [3 size size]."""
    height, width = pixels.shape[:2]
    (box,) = centre_boxes(np.array([height]), np.array([width]), image)
    part = pixels[box[TOP] : box[TOP] + box[HEIGHT], box[LEFT] : box[LEFT] + box[WIDTH]]
    return torch.from_numpy(resized(part, image.size, image.interpolation)).permute(2, 0, 1)


def render(sampler: EpochSampler, sample: np.void, size: int) -> Pixels:
    """Make one sample, RGB uint8 [size size 3]; raises ImageError, with its name, if it does not decode."""
    variant = list(sampler.variants.values())[sample["variant"]]
    quality = int(sample["quality"])
    stored = quality > 0 and variant.before_crop
    index = int(sample["index"])
    pixels = _read_at(variant, index, quality) if stored else read_pixels(variant.beton, index, scratch=True)
    part = pixels[sample["top"] : sample["top"] + sample["height"], sample["left"] : sample["left"] + sample["width"]]
    seen = resized(part, size, sampler.image.interpolation)
    if quality and not stored:
        seen = decode_rgb(encode_rgb(seen, quality))
    return np.asarray(cv2.flip(seen, 1), np.uint8) if sample["flip"] else seen  # a third of what NumPy takes


def _read_at(variant: Variant, index: int, quality: int) -> Pixels:
    """The pixels of a beton encoded at ``quality`` from this one."""
    beton = variant.beton
    try:
        if beton.modes[index] != MODE_JPEG:
            return decode_rgb(encode_rgb(read_pixels(beton, index), quality))
        (encoded,) = reencode(beton.payload(index), [EncodeSpec(quality)])
    except ImageError as error:
        raise ImageError(f"sample {index} of {beton.path}: {error}") from None
    if (encoded.height, encoded.width) != (beton.heights[index], beton.widths[index]):
        read_pixels(beton, index)  # says so
    return decode_rgb(encoded.data, scratch=True)


def resized(part: Pixels, size: int, interpolation: Interpolation) -> Pixels:
    """RGB uint8 [h w 3] -> [size size 3], by OpenCV's area, torch's antialiased bilinear or Pillow's bicubic.

    Rows are resized before columns, as by every Pillow before version 13, and by torch.
    """
    if interpolation == "area":  # as FFCV does; torch's area filter is another
        return np.asarray(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
    if interpolation == "bicubic":  # torch's has coarser weights: up to three levels from Pillow's
        rows = Image.fromarray(np.ascontiguousarray(part)).resize((size, part.shape[0]), Image.Resampling.BICUBIC)
        return np.array(rows.resize((size, size), Image.Resampling.BICUBIC))
    # Torch's is four times as fast as Pillow's. NumPy copies: torch would with all its threads, in each of the loader's. The
    # batch of one is made before the channels are moved, or torch takes it for another layout and transposes the result.
    image = torch.from_numpy(np.require(part, requirements=["C", "W"]))[None].permute(0, 3, 1, 2)
    done = torch.nn.functional.interpolate(image, (size, size), mode="bilinear", antialias=True)
    return np.ascontiguousarray(done[0].permute(1, 2, 0).numpy())


ATTEMPTS = 10


def make_sample(sampler: EpochSampler, epoch: int, sample: np.void, out: Pixels) -> int:
    """Make one sample into ``out``, uint8 [size size 3]; returns the index of the sample that stands there.

    That is another than ``job``'s where its own does not decode and ``view.skip_broken`` is set: which one is a function of
    (seed, epoch, sample), so that every loader takes the same. Validation never replaces.

    Raises:
        ImageError: the sample does not decode, nor, where they were allowed, do ten others drawn for it.
    """
    try:
        out[:] = render(sampler, sample, len(out))
        return int(sample["index"])
    except ImageError as error:
        if not sampler.train:
            raise ImageError(f"{error}. Make the file again.") from None
        if not sampler.skip_broken:
            raise ImageError(f"{error}. Make the file again, or replace what is broken: --set loader.on_error=skip.") from None
        return _replaced(sampler, epoch, int(sample["index"]), out, error)


def _replaced(sampler: EpochSampler, epoch: int, index: int, out: Pixels, first: ImageError) -> int:
    for attempt in range(ATTEMPTS):
        other = sampler.replacement(epoch, index, attempt)
        try:
            out[:] = render(sampler, sampler.samples(epoch, np.array([other]))[0], len(out))
        except ImageError:
            continue
        return other
    raise ImageError(f"{first}; nor do {ATTEMPTS} samples drawn to replace it. Make the file again.") from None
