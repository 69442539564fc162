"""Any image that Pillow reads, as upright RGB: what is not a plain JPEG comes through here."""

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
    """How many pixels an image may have: where Pillow speaks of a decompression bomb; None if that check is off."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None


@dataclass(frozen=True, slots=True)
class Picture:
    """An image whose header is read. ``width`` and ``height`` are upright; ``rotated``: its EXIF block turns or mirrors it."""

    image: Image.Image
    orientation: int

    @property
    def rotated(self) -> bool:
        """Whether it is turned or mirrored."""
        return self.orientation > 1

    @property
    def width(self) -> int:
        """Upright, pixels."""
        return self.image.height if self.orientation > 4 else self.image.width

    @property
    def height(self) -> int:
        """Upright, pixels."""
        return self.image.width if self.orientation > 4 else self.image.height

    def bgr(self) -> Pixels:
        """Decode to upright BGR, uint8 [h w 3]: what ``convert("RGB")`` gives, and 16-bit grey by its upper byte.

        Raises:
            ImageError: the data are damaged, or have no 8-bit meaning (floating point, 32-bit integers).
        """
        try:
            upright = _eight_bit(ImageOps.exif_transpose(self.image) if self.rotated else self.image)
            rgb = upright if upright.mode == "RGB" else upright.convert("RGB")  # which copies an RGB image too
            return np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1])
        except ImageError:
            raise
        except Exception as error:  # of Pillow's plugins: OSError, SyntaxError, ValueError, EOFError, struct.error, ...
            raise ImageError(_reason(error)) from None


def open_picture(data: bytes) -> Picture:
    """Read an image's header; raises ImageError if it is empty, none, or larger than Pillow allows.

    Only of a JPEG is it the header alone: a PNG may have its EXIF block behind the pixels, Pillow turns a TIFF upright when
    it loads it, and an ICO may then have another size. What fails to load says so only once, so it is not left to ``getexif``.
    """
    if not data:
        raise ImageError("the file is empty")
    _hush_pillow()
    try:
        image = Image.open(BytesIO(data))
        if image.format == "EPS":
            raise ImageError("PostScript is a program, which Pillow would have Ghostscript run, and no image")
        if image.format not in ("JPEG", "MPO"):
            image.load()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except Exception as error:
        raise ImageError(_reason(error)) from None
    return Picture(image, _orientation(image))


def _hush_pillow() -> None:
    """Ignore what Pillow warns of and reads all the same: a broken EXIF block, 90 megapixels, transparency that is dropped.

    The filter is the process's and stays there, in front of all others: ``warnings.catch_warnings`` is not for threads, one
    of which would put back what another has set.
    """
    if not warnings.filters or warnings.filters[0][3] != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Pillow clips 16-bit grey at 255 when it converts; the upper byte is what PNG decoders with 8-bit output give."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ImageError(f"pixels of mode {image.mode} have no fixed range, so no 8-bit meaning")
    return image


def orientation_of(app1: Sequence[bytes]) -> int | None:
    """What a JPEG's APP1 segments say, 1 to 8; None if they are more than one plain EXIF block, and Pillow should judge."""
    if len(app1) != 1 or not app1[0].startswith(b"Exif\0\0"):
        return None
    _hush_pillow()
    exif = Image.Exif()
    try:
        exif.load(app1[0])
        return _checked(exif)
    except Exception:
        return None


def _orientation(image: Image.Image) -> int:
    """1 to 8, as the EXIF or XMP block says; one that cannot be read says nothing."""
    try:
        return _checked(image.getexif())
    except Exception:
        return 1


def _checked(exif: Image.Exif) -> int:
    value = exif.get(_EXIF_ORIENTATION, 1)
    return int(value) if value in range(2, 9) else 1


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
