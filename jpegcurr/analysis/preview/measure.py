"""Measurement of images at JPEG qualities: bytes, PSNR and SSIM, image by image on threads."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from math import isinf

from jpegcurr.analysis.preview.distortion import Distortion, measure_distortion
from jpegcurr.analysis.preview.picture_set import Picture
from jpegcurr.encoding.jpeg.codec import Encoded, EncodeSpec, decode_resized, decode_rgb, reencode
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS, PixelBudget
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.encoding.workers import LARGEST_FILE, map_in_order
from jpegcurr.errors import ImageError

AHEAD = 2  # images submitted for each worker
# Threads that compare hold two images of 3 bytes a pixel for longer than the decoder's own budget counts them.
_BUDGET = PixelBudget(MAX_PIXELS)


@dataclass(frozen=True, slots=True)
class QualityMeasure:
    """One JPEG of an image: its ``size`` in bytes, and how far its pixels are from those that were encoded."""

    size: int
    distortion: Distortion

    @property
    def identical(self) -> bool:
        """True if no pixel differs."""
        return isinf(self.distortion.psnr)


@dataclass(frozen=True, slots=True)
class ImageMeasure:
    """One image: its file's ``size`` in bytes, width and height as encoded, and a measure for every specification, in order.

    ``converted`` says that ``source`` was requested but the original bytes could not be kept.
    """

    picture: Picture
    size: int
    width: int
    height: int
    converted: bool
    qualities: tuple[QualityMeasure, ...]

    def bits_per_pixel(self, number: int) -> float:
        """Return the bits a pixel of the JPEG of this number."""
        return 8 * self.qualities[number].size / (self.width * self.height)


@dataclass(frozen=True, slots=True)
class Failure:
    """An image that cannot be read: its file's ``size`` in bytes, -1 if unknown, and the ``reason``."""

    picture: Picture
    size: int
    reason: str


def measure_pictures(
    pictures: Sequence[Picture],
    specs: Sequence[EncodeSpec],
    executor: Executor,
    workers: int,
    *,
    max_pixels: int,
    done: Callable[[int], None],
) -> list[ImageMeasure | Failure]:
    """Measure images in their order; ``done`` is called with the number of images so far.

    Raises:
        EncodeError: the source itself fails, as in an encode.
    """
    function = partial(measure, specs=specs, max_pixels=max_pixels)
    measures = []
    for number, measured in enumerate(map_in_order(function, pictures, executor, AHEAD * workers), 1):
        measures.append(measured)
        done(number)
    return measures


def measure(picture: Picture, specs: Sequence[EncodeSpec], max_pixels: int) -> ImageMeasure | Failure:
    """Encode an image at every specification, all of which have the same resize, and compare it with what was encoded."""
    try:
        data = read(picture)
        encoded = reencode(data, specs, max_pixels)
        with _BUDGET.hold(encoded[0].width * encoded[0].height):
            pixels = reference_pixels(data, specs, max_pixels)
            qualities = tuple(_measure_jpeg(pixels, jpeg) for jpeg in encoded)
    except ImageError as error:
        return Failure(picture, picture.item.size, str(error))
    height, width = pixels.shape[:2]
    return ImageMeasure(picture, len(data), width, height, any(jpeg.converted for jpeg in encoded), qualities)


def read(picture: Picture) -> bytes:
    """Return the bytes of an image's file; raises ImageError, or EncodeError if the source itself fails."""
    if picture.item.size > LARGEST_FILE:
        raise ImageError(f"{picture.item.size} bytes are more than an image file may have ({LARGEST_FILE})")
    return picture.store.read(picture.item)


def reference_pixels(data: bytes, specs: Sequence[EncodeSpec], max_pixels: int) -> Pixels:
    """Return the pixels that every quality encodes, upright RGB, uint8 [h w 3]; raises ImageError."""
    resize = specs[0].resize
    return decode_rgb(data, max_pixels=max_pixels) if resize is None else decode_resized(data, resize, max_pixels)


def _measure_jpeg(reference: Pixels, jpeg: Encoded) -> QualityMeasure:
    if jpeg.copied:
        return QualityMeasure(len(jpeg.data), measure_distortion(reference, reference))
    shown = decode_rgb(jpeg.data, scratch=True, size=(jpeg.width, jpeg.height))
    return QualityMeasure(len(jpeg.data), measure_distortion(reference, shown))
