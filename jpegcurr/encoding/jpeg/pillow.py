"""Decoding with Pillow, as upright RGB of 8 bits, of every image that is not a plain JPEG."""

import re
import struct
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from jpegcurr.encoding.jpeg.limits import check_pixels
from jpegcurr.errors import ImageError

Pixels = NDArray[np.uint8]
_EXIF_ORIENTATION = 0x0112
_PILLOW = re.compile(r"PIL\.")
_STRIP = 1 << 20  # pixels
# Tags of TIFF 6.0, with the value of _PHOTOMETRIC that turns grey around.
_BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 259, 262, 284, 339
_WHITE_IS_ZERO = 0
_FILLS_16_BITS = {"PNG", "JPEG2000"}  # formats whose grey of 9 to 16 bits Pillow scales to 16
_ICON, _LARGEST_ICON = b"\0\0\1\0", 1024 * 1024
_INSIDE = "a container of images in other formats, whose size is unknown until they are decoded"
_REFUSED = {
    "EPS": "PostScript is a program that Pillow would run in Ghostscript, not an image",
    **{name: f"{name} is {_INSIDE}" for name in ("BLP", "FPX", "ICNS", "IPTC", "MIC")},
}


def swap_red_blue(pixels: Pixels) -> Pixels:
    """Copy RGB as BGR, or BGR as RGB, uint8 [h w 3]: OpenCV takes a fortieth of the time of a reversed copy by NumPy."""
    swapped: Pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    return swapped


@dataclass(frozen=True, slots=True)
class PillowImage:
    """An image that is open; ``width`` and ``height`` are those of the upright image, ``rotated`` says that EXIF turns it."""

    image: Image.Image
    width: int
    height: int
    rotated: bool

    def decode_bgr(self) -> Pixels:
        """Decode to upright BGR, uint8 [h w 3], like Pillow's ``convert("RGB")``; deeper grey becomes its upper 8 bits.

        Raises:
            ImageError: the data are damaged, or have no fixed range (floating point, 32-bit integers).
        """
        try:
            if self.rotated:
                ImageOps.exif_transpose(self.image, in_place=True)  # a second call finds nothing left to turn
            to_rgb = _rgb_converter(self.image)
            bgr = np.empty((self.height, self.width, 3), np.uint8)
            rows = max(1, _STRIP // self.width)
            for top in range(0, self.height, rows):  # converted at once, a large image would take twice the memory
                strip = self.image.crop((0, top, self.width, min(top + rows, self.height)))
                cv2.cvtColor(to_rgb(strip), cv2.COLOR_RGB2BGR, dst=bgr[top : top + rows])
            return bgr
        except ImageError:
            raise
        except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, EOFError, struct.error, ...
            raise ImageError(_reason(error)) from None


def read_header(data: bytes, max_pixels: int) -> Image.Image:
    """Read an image's header and return the image, whose pixels are not loaded; except an icon's, which has few.

    Raises:
        ImageError: ``data`` is empty, no image, one with more than ``max_pixels`` or more than Pillow allows, or one whose
            depth is unknown.
    """
    if not data:
        raise ImageError("the file is empty")
    silence_pillow()
    try:
        if data.startswith(_ICON):
            _check_icon(data, max_pixels)
        image = Image.open(BytesIO(data))
        if image.format in _REFUSED:
            raise ImageError(_REFUSED[image.format])
        check_pixels(*image.size, max_pixels)
        _rgb_converter(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not an image that Pillow can read{_name_depth(data)}") from None
    except Exception as error:
        raise ImageError(_reason(error)) from None
    return image


def load_upright(image: Image.Image) -> PillowImage:
    """Load an image and read its orientation; raises ImageError if it is damaged.

    A JPEG is not loaded yet. Others are: a PNG may have its EXIF block behind the pixels, Pillow turns a TIFF upright when it
    loads it, and an ICO may then have another size. A failed load raises only once, so ``getexif`` must not be first.
    """
    try:
        if image.format not in ("JPEG", "MPO"):
            image.load()
    except Exception as error:
        raise ImageError(_reason(error)) from None
    orientation = _orientation(image)
    width, height = reversed(image.size) if orientation > 4 else image.size
    return PillowImage(image, width, height, rotated=orientation > 1)


def silence_pillow() -> None:
    """Ignore Pillow's warnings about images that it reads: a broken EXIF block, 90 megapixels, dropped transparency.

    The filter applies to the whole process and stays, in front of all others: ``warnings.catch_warnings`` is not safe in
    threads, where one would restore the filters that another has changed.
    """
    if not warnings.filters or warnings.filters[0][3] != _PILLOW:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)


def _check_icon(data: bytes, max_pixels: int) -> None:
    """Raise ImageError if an image in an ICO is large, whatever its directory says: Pillow decodes it as it opens the file."""
    with suppress(struct.error):  # it is cut off, as Pillow will notice
        for number in range(int.from_bytes(data[4:6], "little")):
            (start,) = struct.unpack_from("<I", data, 6 + 16 * number + 12)
            if data[start : start + 8] == b"\x89PNG\r\n\x1a\n":
                width, height = struct.unpack_from(">II", data, start + 16)
            else:
                width, height = (abs(side) for side in struct.unpack_from("<ii", data, start + 4))
                height //= 2  # below the bitmap is its mask
            check_pixels(width, height, min(max_pixels, _LARGEST_ICON))


def _rgb_converter(image: Image.Image) -> Callable[[Image.Image], Pixels]:
    """Return a function that converts parts of ``image`` to RGB, uint8 [h w 3].

    Grey of 9 to 16 bits becomes its upper 8, like in 8-bit PNG decoders; Pillow's own conversion would clip it at 255.

    Raises:
        ImageError: the file does not state the range of its values, or not one that 8 bits can show.
    """
    if image.format == "TIFF":
        _refuse_misread(image)
    if not image.mode.startswith(("I", "F")):
        return lambda part: np.asarray(part.convert("RGB") if part.mode != "RGB" else part)
    bits = _stated_bits(image)
    inverted = image.format == "TIFF" and _tiff_tag(image, _PHOTOMETRIC, 1) == (_WHITE_IS_ZERO,)  # Pillow heeds it up to 8 bits

    def convert(part: Image.Image) -> Pixels:
        grey = (np.asarray(part) >> (bits - 8)).clip(0, 255).astype(np.uint8)
        return np.repeat((255 - grey if inverted else grey)[:, :, None], 3, axis=2)

    return convert


def _stated_bits(image: Image.Image) -> int:
    """Return the bits of a grey value of mode I or I;16, 9 to 16; raise ImageError if the file does not state them."""
    if image.mode.startswith("I;16"):
        if image.format == "TIFF":
            return int(_tiff_tag(image, _BITS_PER_SAMPLE, 16)[0])
        if image.format in _FILLS_16_BITS:
            return 16
    if image.mode == "I" and image.format == "PPM":
        return 16  # Pillow scales by the file's maxval
    raise ImageError(f"{image.format} pixels of mode {image.mode} have no fixed range, so they cannot become 8-bit")


def _refuse_misread(image: Image.Image) -> None:
    """Raise ImageError for a TIFF whose pixels Pillow reads as others."""
    if 2 in _tiff_tag(image, _SAMPLE_FORMAT, 1):
        raise ImageError("a TIFF of signed numbers has no fixed black and white, so it cannot become 8-bit")
    apart = _tiff_tag(image, _PLANAR, 1) == (2,) and _tiff_tag(image, _COMPRESSION, 1) == (1,)
    if apart and max(_tiff_tag(image, _BITS_PER_SAMPLE, 1)) > 8:
        raise ImageError("an uncompressed TIFF with more than 8 bits per sample and each channel by itself is not supported")


def _tiff_tag(image: Image.Image, tag: int, default: int) -> tuple[int, ...]:
    value = image.tag_v2.get(tag, default)  # type: ignore[attr-defined]  # every TIFF image has it
    return value if isinstance(value, tuple) else (value,)


def _name_depth(data: bytes) -> str:
    """Return the depth of a TIFF that Pillow cannot read, in words; empty if it is not the reason."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return ""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        bits = tags.get(_BITS_PER_SAMPLE, ())
    except Exception:
        return ""
    depths = sorted(set(bits if isinstance(bits, tuple) else (bits,)) - {1, 8})
    return f": a TIFF with {' and '.join(map(str, depths))} bits per sample in this arrangement" if depths else ""


def read_orientation(app1: Sequence[bytes]) -> int | None:
    """Return the orientation in a JPEG's APP1 segments, 1 to 8; None unless they are one plain EXIF block."""
    if len(app1) != 1 or not app1[0].startswith(b"Exif\0\0"):
        return None
    silence_pillow()
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
