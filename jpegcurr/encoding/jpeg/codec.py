"""Image bytes in, JPEG bytes at other qualities out.

Decoding is simplejpeg's into a reused buffer, encoding is OpenCV's: together the fastest pair whose entropy-coded data
equals ``PIL.Image.save(quality=..)`` bit for bit (both use libjpeg's accurate DCT; simplejpeg's own encoder uses the
fast DCT below quality 96 and differs). Everything that is not a plain JPEG goes through Pillow (``pictures.py``).
"""

import threading
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from jpegcurr.encoding.jpeg.header import JpegHeader, read_jpeg_header
from jpegcurr.encoding.jpeg.pillow import Picture, Pixels, max_pixels, open_picture, orientation_of
from jpegcurr.errors import ImageError, UsageError

Quality = int | Literal["source"]
Subsampling = Literal["420", "422", "444", "keep"]
Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]

# What `source` becomes when the original bytes cannot be passed through.
CONVERTED_QUALITY = 95
CONVERTED_SUBSAMPLING: Subsampling = "444"
LONGEST_SIDE = 65500  # libjpeg's JPEG_MAX_DIMENSION
_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
_NAMED = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}
# A scaled decode leaves the resize at least so many pixels a side for every one that it makes. The result is then 50 dB from
# that of a full decode, 15 dB below what quality 95 changes (tools/bench_resize.py; Pillow speaks of a reducing_gap of 3 and
# of "indistinguishable"). A box filter sees the difference between libjpeg's smaller transform and its own mean: 35 dB.
HEADROOM = 3.0
_KEPT_SCRATCH = 1 << 26  # bytes of pixels, 22 megapixels


@dataclass(frozen=True, slots=True)
class Resize:
    """Make an image smaller, never larger: its ``max`` (longer) or ``short`` side becomes ``pixels``.

    ``filter`` is one of Pillow's, antialiased. The aspect ratio is kept to within a pixel's rounding.
    """

    side: Literal["max", "short"]
    pixels: int
    filter: Filter = "bicubic"

    def target(self, width: int, height: int) -> tuple[int, int]:
        """The size after resizing, (width, height)."""
        side = max(width, height) if self.side == "max" else min(width, height)
        if side <= self.pixels:
            return width, height
        scale = self.pixels / side
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, slots=True)
class EncodeSpec:
    """One output: a JPEG quality of 1 to 100, or ``source`` for the original bytes.

    ``subsampling`` is the chroma layout written where an image is encoded anew; ``keep`` takes the source's (4:4:4 for
    what is no JPEG). ``resize`` holds for every quality: with it, ``source`` keeps the bytes of the images that fit.
    """

    quality: Quality
    subsampling: Subsampling = "420"
    resize: Resize | None = None

    @property
    def name(self) -> str:
        """``q50`` or ``source``, as in file names."""
        return "source" if self.quality == "source" else f"q{self.quality}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One JPEG.

    ``copied`` says that ``data`` are the original bytes, ``converted`` that ``source`` was asked for and they could not be
    kept, ``scaled`` that it was decoded at a smaller scale.
    """

    data: bytes
    width: int
    height: int
    copied: bool
    scaled: bool
    crc32: int
    converted: bool = False


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
    (CMYK, another format, a rotation flag, a chroma layout without a name, zeros where the end-of-image marker should be).
    A file that ends without that marker is cut off, to Pillow as to this. Transparency is dropped and colour profiles are
    not applied, as in torchvision's loader. Bytes that are passed through are not decoded here, so damage inside the scan
    shows only where another quality is made, or in ``jpegcurr inspect --verify``.

    Raises:
        ImageError: the bytes are no image that Pillow can read, it has more pixels than Pillow allows
            (``2 * PIL.Image.MAX_IMAGE_PIXELS``), or it does not fit into a JPEG.
    """
    opened = _open(data)
    ready: dict[Resize | None, tuple[Pixels, bool]] = {}
    resizes = {spec.resize for spec in specs}
    outputs = []
    for spec in specs:
        size = spec.resize.target(opened.width, opened.height) if spec.resize else (opened.width, opened.height)
        if spec.quality == "source" and opened.plain and size == (opened.width, opened.height):
            outputs.append(Encoded(data, *size, copied=True, scaled=False, crc32=zlib.crc32(data)))
            continue
        if max(size) > LONGEST_SIDE:
            raise ImageError(f"{size[0]}x{size[1]} pixels do not fit into a JPEG ({LONGEST_SIDE} a side at most)")
        if spec.resize not in ready:
            pixels, scaled = _resized(opened, spec.resize, size)
            ready[spec.resize] = (pixels.copy() if len(resizes) > 1 else pixels), scaled  # the next decode may take their place
        outputs.append(_encode(*ready[spec.resize], spec, opened.layout))
    return outputs


def decode_rgb(data: bytes, *, scratch: bool = False) -> Pixels:
    """Decode any image to upright RGB, uint8 [h w 3], with libjpeg's accurate DCT; raises ImageError.

    With ``scratch`` the array may be this thread's scratch memory: use it before the next call.
    """
    opened = _open(data)
    if opened.plain:
        buffer = _scratch.of(opened.width * opened.height * 3) if scratch else None
        with suppress(ValueError):  # a warning of libjpeg's, which Pillow may forgive
            rgb: Pixels = simplejpeg.decode_jpeg(data, "RGB", buffer=buffer)
            return rgb
    return np.ascontiguousarray((opened.picture or open_picture(data)).bgr()[:, :, ::-1])


def encode_rgb(pixels: Pixels, quality: int) -> bytes:
    """RGB, uint8 [h w 3], to a JPEG of ``quality``, 4:2:0: the bytes that ``reencode`` makes of these pixels."""
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    return _encode(bgr, False, EncodeSpec(quality), "4:4:4").data


@dataclass(frozen=True, slots=True)
class _Opened:
    """An image whose header is read: its upright size, and its chroma layout (4:4:4 for what is no JPEG).

    ``plain``: any JPEG decoder reads ``data`` as the upright RGB or grey it is, so there may be no ``picture``.
    """

    data: bytes
    width: int
    height: int
    layout: str
    plain: bool
    picture: Picture | None = None


def _open(data: bytes) -> _Opened:
    header = read_jpeg_header(data)
    plain = header is not None and _is_plain(header)
    if header is not None and plain and (not header.app1 or orientation_of(header.app1) == 1):
        limit = max_pixels()
        if limit is not None and header.width * header.height > limit:
            raise ImageError(f"{header.width}x{header.height} pixels are more than the {limit} that Pillow allows an image")
        return _Opened(data, header.width, header.height, header.layout, plain=True)
    picture = open_picture(data)
    layout = header.layout if header is not None else "4:4:4"
    return _Opened(data, picture.width, picture.height, layout, plain and not picture.rotated, picture)


def _is_plain(header: JpegHeader) -> bool:
    known = header.components in (1, 3) and header.layout != "other"
    return known and header.ended and max(header.width, header.height) <= LONGEST_SIDE


class _Scratch(threading.local):
    """One decode buffer a thread: a fresh array for every image costs up to 0.3 ms in page faults."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def of(self, size: int) -> bytearray:
        """At least ``size`` bytes; a buffer for a giant is not kept."""
        if size > _KEPT_SCRATCH:
            return bytearray(size)
        if len(self.buffer) < size:
            self.buffer = bytearray(size)
        return self.buffer


_scratch = _Scratch()


def _decode(opened: _Opened, scale: int = 1) -> Pixels:
    """Upright BGR, uint8 [h w 3], at 1/``scale``; the array may be this thread's scratch, so use it before the next call."""
    if opened.plain:
        width, height = -(-opened.width // scale), -(-opened.height // scale)
        try:
            bgr: Pixels = simplejpeg.decode_jpeg(
                opened.data, "BGR", min_width=width, min_height=height, buffer=_scratch.of(width * height * 3)
            )
        except ValueError:
            pass  # a warning of libjpeg's, which Pillow may forgive
        else:
            return bgr
    return (opened.picture or open_picture(opened.data)).bgr()


def _resized(opened: _Opened, resize: Resize | None, size: tuple[int, int]) -> tuple[Pixels, bool]:
    """BGR pixels at ``size`` (width, height), and whether they were decoded at a smaller scale."""
    if resize is None or size == (opened.width, opened.height):
        return _decode(opened), False
    scale = _decode_scale(opened, size) if resize.filter != "box" else 1
    pixels = _decode(opened, scale)
    # The last column and row of a scaled decode may stand for less than a whole pixel.
    seen = (0.0, 0.0, opened.width / scale, opened.height / scale) if pixels.shape[1] < opened.width else None
    small = Image.fromarray(pixels).resize(size, Image.Resampling[resize.filter.upper()], box=seen)
    return np.asarray(small), pixels.shape[1] < opened.width


def _decode_scale(opened: _Opened, size: tuple[int, int]) -> int:
    """The coarsest of 1/1, 1/2, 1/4 and 1/8 that leaves the resize ``HEADROOM`` times the pixels a side that it makes."""
    room = min(opened.width / size[0], opened.height / size[1]) / HEADROOM
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(room, 1))


def _encode(pixels: Pixels, scaled: bool, spec: EncodeSpec, source_layout: str) -> Encoded:
    height, width = pixels.shape[:2]
    quality, layout = _settings(spec, source_layout)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[layout]]
    try:
        done, jpeg = cv2.imencode(".jpg", pixels, options)
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"{width}x{height} pixels cannot be encoded")
    data = jpeg.tobytes()
    converted = spec.quality == "source"
    return Encoded(data, width, height, copied=False, scaled=scaled, crc32=zlib.crc32(data), converted=converted)


def _settings(spec: EncodeSpec, source_layout: str) -> tuple[int, str]:
    """Quality and chroma layout; what is converted keeps all its chroma, a layout that has no name becomes 4:2:0."""
    if spec.quality == "source":
        return CONVERTED_QUALITY, _NAMED[CONVERTED_SUBSAMPLING]
    if spec.subsampling == "keep":
        wanted = "4:4:4" if source_layout == "grey" else source_layout
        return spec.quality, wanted if wanted in _SAMPLING else "4:2:0"
    return spec.quality, _NAMED[spec.subsampling]
