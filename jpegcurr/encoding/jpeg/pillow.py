"""Decoding with Pillow, as upright RGB, of every image that is not a plain JPEG."""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jpegcurr.errors import ImageError

Pixels = NDArray[np.uint8]
_EXIF_ORIENTATION = 0x0112
_PILLOW = re.compile(r"PIL\.")


def max_pixels() -> int | None:
    """Return the maximum pixels of an image, Pillow's limit for a decompression bomb; None if that check is off."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None


@dataclass(frozen=True, slots=True)
class PillowImage:
    """An image whose header is read. ``width`` and ``height`` are those of the upright image."""

    image: Image.Image
    orientation: int

    @property
    def rotated(self) -> bool:
        """Whether EXIF turns or mirrors the image."""
        return self.orientation > 1

    @property
    def width(self) -> int:
        """Pixels, upright."""
        return self.image.height if self.orientation > 4 else self.image.width

    @property
    def height(self) -> int:
        """Pixels, upright."""
        return self.image.width if self.orientation > 4 else self.image.height

    def decode_bgr(self) -> Pixels:
        """Decode to upright BGR, uint8 [h w 3], like Pillow's ``convert("RGB")``; 16-bit grey becomes its upper byte.

        Raises:
            ImageError: the data are damaged, or have no fixed range (floating point, 32-bit integers).
        """
        try:
            upright = _convert_to_8_bit(ImageOps.exif_transpose(self.image) if self.rotated else self.image)
            rgb = upright if upright.mode == "RGB" else upright.convert("RGB")  # convert would copy an RGB image
            return np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1])
        except ImageError:
            raise
        except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, EOFError, struct.error, ...
            raise ImageError(_reason(error)) from None


def open_with_pillow(data: bytes) -> PillowImage:
    """Read an image's header; raises ImageError if ``data`` is empty, no image, or larger than Pillow allows.

    Other formats than JPEG are loaded whole: a PNG may have its EXIF block behind the pixels, Pillow turns a TIFF upright
    when it loads it, and an ICO may then have another size. A failed load raises only once, so ``getexif`` must not be first.
    """
    if not data:
        raise ImageError("the file is empty")
    _silence_pillow()
    try:
        image = Image.open(BytesIO(data))
        if image.format == "EPS":
            raise ImageError("PostScript is a program that Pillow would run in Ghostscript, not an image")
        if image.format not in ("JPEG", "MPO"):
            image.load()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except Exception as error:
        raise ImageError(_reason(error)) from None
    return PillowImage(image, _orientation(image))


def _silence_pillow() -> None:
    """Ignore Pillow's warnings about images that it reads: a broken EXIF block, 90 megapixels, dropped transparency.

    The filter applies to the whole process and stays, in front of all others: ``warnings.catch_warnings`` is not safe in
    threads, where one would restore the filters that another has changed.
    """
    if not warnings.filters or warnings.filters[0][3] != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)


def _convert_to_8_bit(image: Image.Image) -> Image.Image:
    """Return 16-bit grey as its upper byte, like 8-bit PNG decoders; Pillow's own conversion would clip it at 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode} have no fixed range, so they cannot become 8-bit")
    return image


def read_orientation(app1: Sequence[bytes]) -> int | None:
    """Return the orientation in a JPEG's APP1 segments, 1 to 8; None unless they are one plain EXIF block."""
    if len(app1) != 1 or not app1[0].startswith(b"Exif\0\0"):
        return None
    _silence_pillow()
    exif = Image.Exif()
    try:
        exif.load(app1[0])
        return _checked(exif)
    except Exception:
        return None


def _orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF or XMP block, 1 to 8; 1 if the block cannot be read."""
    try:
        return _checked(image.getexif())
    except Exception:
        return 1


def _checked(exif: Image.Exif) -> int:
    value = exif.get(_EXIF_ORIENTATION, 1)
    return int(value) if value in range(2, 9) else 1


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
