"""JPEG bytes in, JPEG bytes at other qualities out.

Decoding is simplejpeg's into a reused buffer, encoding is OpenCV's: together the fastest pair whose entropy-coded data
equals ``PIL.Image.save(quality=..)`` bit for bit (both use libjpeg's accurate DCT and 4:2:0; simplejpeg's own encoder
uses the fast DCT below quality 96 and differs). Everything that is not a plain JPEG goes through Pillow.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from jpegcurr.errors import ImageError, UsageError

Quality = int | Literal["source"]
Pixels = NDArray[np.uint8]

# What `source` becomes when the original bytes cannot be passed through.
CONVERTED_QUALITY = 95
_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class EncodeSpec:
    """One output: a JPEG quality of 1 to 100 at 4:2:0, or ``source`` for the original bytes."""

    quality: Quality

    @property
    def name(self) -> str:
        """``q50`` or ``source``, as in file names."""
        return "source" if self.quality == "source" else f"q{self.quality}"

    @property
    def subsampling(self) -> str:
        """The chroma layout written, in J:a:b notation."""
        return "as in the source" if self.quality == "source" else "4:2:0"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One JPEG: ``copied`` says that ``data`` are the original bytes."""

    data: bytes
    width: int
    height: int
    copied: bool


def parse_quality(text: str) -> Quality:
    """``"50"`` -> 50, ``"source"`` -> ``"source"``; anything else raises UsageError."""
    if text == "source":
        return "source"
    try:
        quality = int(text)
    except ValueError:
        quality = 0
    if not 1 <= quality <= 100:
        raise UsageError(f"quality {text!r} is not a JPEG quality. Give a whole number from 1 to 100, or source.")
    return quality


def reencode(data: bytes, specs: Sequence[EncodeSpec]) -> list[Encoded]:
    """Encode one image at every quality of ``specs``, decoding it at most once.

    Pixels are upright (EXIF orientation applied) and RGB at every quality, ``source`` included: the original bytes are
    passed through only where a plain JPEG decoder reads them as such, and become quality 95, 4:4:4 where it does not
    (CMYK, another format, a rotation flag, no end-of-image marker). Bytes that are passed through are not decoded here,
    so damage inside the scan shows only where another quality is made, or in ``jpegcurr inspect --verify``.

    Raises:
        ImageError: the bytes are no image that Pillow can read, or it does not fit into a JPEG.
    """
    opened = _open(data)
    pixels: Pixels | None = None
    outputs = []
    for spec in specs:
        if spec.quality == "source" and opened.plain:
            outputs.append(Encoded(data, opened.image.width, opened.image.height, copied=True))
            continue
        if pixels is None:
            pixels = _decode(opened)
        if spec.quality == "source":
            outputs.append(_encode(pixels, CONVERTED_QUALITY, "4:4:4"))
        else:
            outputs.append(_encode(pixels, spec.quality, "4:2:0"))
    return outputs


def decode_rgb(data: bytes) -> Pixels:
    """Decode any image to upright RGB, uint8 [h w 3], with libjpeg's accurate DCT; raises ImageError."""
    return np.ascontiguousarray(_decode(_open(data))[:, :, ::-1])


class _Scratch(threading.local):
    """One decode buffer a thread: a fresh array for every image costs up to 0.3 ms in page faults."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def of(self, size: int) -> bytearray:
        if len(self.buffer) < size:
            self.buffer = bytearray(size)
        return self.buffer


_scratch = _Scratch()


@dataclass(frozen=True, slots=True)
class _Opened:
    """An image whose header is read; ``plain``: any JPEG decoder reads ``data`` as the upright RGB or grey it is."""

    image: Image.Image
    data: bytes
    plain: bool


def _open(data: bytes) -> _Opened:
    if not data:
        raise ImageError("the file is empty")
    file = BytesIO(data)
    try:
        image = Image.open(file)
    except UnidentifiedImageError:
        raise ImageError("not an image that Pillow can read") from None
    except Exception as error:  # of Pillow's plugins: OSError, SyntaxError, ValueError, EOFError, struct.error, ...
        raise ImageError(str(error) or type(error).__name__) from None
    ended = data.rfind(b"\xff\xd9", file.tell()) >= 0  # Pillow has read up to where the scan begins
    kind = image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")
    return _Opened(image, data, kind and ended and not _is_rotated(image))


def _is_rotated(image: Image.Image) -> bool:
    """What the EXIF block says; one that cannot be read says nothing."""
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1) in range(2, 9)
    except Exception:
        return False


def _decode(opened: _Opened) -> Pixels:
    """Upright BGR, uint8 [h w 3]; the array may be this thread's scratch, so use it before the next call."""
    image = opened.image
    if opened.plain:
        try:
            buffer = _scratch.of(image.width * image.height * 3)
            bgr: Pixels = simplejpeg.decode_jpeg(opened.data, "BGR", buffer=buffer)
        except ValueError:
            pass  # a warning of libjpeg's, which Pillow may forgive
        else:
            return bgr
    try:
        upright = (ImageOps.exif_transpose(image) if _is_rotated(image) else image).convert("RGB")
    except Exception as error:
        raise ImageError(str(error) or type(error).__name__) from None
    return np.ascontiguousarray(np.asarray(upright)[:, :, ::-1])


def _encode(pixels: Pixels, quality: int, subsampling: str) -> Encoded:
    height, width = pixels.shape[:2]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[subsampling]]
    try:
        done, jpeg = cv2.imencode(".jpg", pixels, options)
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"{width}x{height} pixels do not fit into a JPEG (65500 a side at most)")
    return Encoded(jpeg.tobytes(), width, height, copied=False)
