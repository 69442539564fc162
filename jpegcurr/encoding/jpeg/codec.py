"""JPEG codec: image bytes in, JPEG bytes at other qualities out.

Decoding is simplejpeg's into a reused buffer, encoding is OpenCV's: together the fastest pair whose entropy-coded data
equals ``PIL.Image.save(quality=..)`` bit for bit (both use libjpeg's accurate DCT; simplejpeg's own encoder uses the
fast DCT below quality 96 and differs). Everything that is not a plain JPEG is read by Pillow (``pillow.py``). Another JPEG
library for ``encode`` would replace the calls in this file; compiled loaders encode on the fly with libturbojpeg
(``training/data/decode_kernel.py``).
"""

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from operator import index
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from jpegcurr.encoding.box_windows import Window
from jpegcurr.encoding.jpeg.header import JpegHeader, read_jpeg_header
from jpegcurr.encoding.jpeg.limits import BUDGET, MAX_PIXELS, MOST_PIXELS, PIXELS_PER_CPU, check_pixels
from jpegcurr.encoding.jpeg.pillow import (
    PillowImage,
    Pixels,
    load_upright,
    read_header,
    read_orientation,
    swap_red_blue,
)
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.system import return_freed_memory

# The packages that decide the bytes of an output; their versions are recorded and compared by --resume and with Dask.
LIBRARIES = ("jpegcurr", "numpy", "opencv-python-headless", "pillow", "simplejpeg")

Quality = int | Literal["source"]
Subsampling = Literal["420", "422", "444", "keep"]
Filter = Literal["box", "bilinear", "hamming", "bicubic", "lanczos"]

# The quality `source` of an image whose original bytes cannot be kept.
CONVERTED_QUALITY = 95
CONVERTED_SUBSAMPLING: Subsampling = "444"
LONGEST_SIDE = 65500  # libjpeg's JPEG_MAX_DIMENSION
_NO_QUALITY = "quality {!r} is not a JPEG quality. Give a whole number from 1 to 100, or source."
_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
_LAYOUT_NAMES = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}
# Along every side, a scaled decode leaves the resize at least this many pixels per output pixel. The result is then within
# 50 dB (PSNR) of that of a full decode, while quality 95 is within 35 dB (tools/bench/resize.py; Pillow calls a reducing_gap
# of 3 "indistinguishable"). With a box filter it would be within 35 dB, so that always gets a full decode.
HEADROOM = 3.0
_KEPT_SCRATCH = 1 << 26  # bytes of pixels, 22 megapixels


@dataclass(frozen=True, slots=True)
class Resize:
    """A resize that only shrinks: the ``max`` (longer) or ``short`` side of a larger image becomes ``pixels``.

    ``filter`` is one of Pillow's antialiased filters. The aspect ratio is kept up to rounding.
    """

    side: Literal["max", "short"]
    pixels: int
    filter: Filter = "bicubic"

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Return the size after resizing, (width, height)."""
        side = max(width, height) if self.side == "max" else min(width, height)
        if side <= self.pixels:
            return width, height
        scale = self.pixels / side
        return max(1, round(width * scale)), max(1, round(height * scale))


@dataclass(frozen=True, slots=True)
class EncodeSpec:
    """The encoding of one output: a JPEG quality, 1 to 100, or ``source`` for the original bytes.

    ``subsampling`` is the chroma layout of re-encoded images; ``keep`` uses that of the source (4:4:4 for other formats than
    JPEG). ``resize`` applies to every quality: with it, ``source`` keeps the bytes of images that are small enough.
    """

    quality: Quality
    subsampling: Subsampling = "420"
    resize: Resize | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a quality that is none: libjpeg would take the nearest for it, in silence."""
        object.__setattr__(self, "quality", check_quality(self.quality))
        if self.subsampling not in get_args(Subsampling):
            raise UsageError(f"subsampling {self.subsampling!r} is not known. Give {', '.join(get_args(Subsampling))}.")

    @property
    def name(self) -> str:
        """The name in file names: ``q50`` or ``source``."""
        return "source" if self.quality == "source" else f"q{self.quality}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """One JPEG.

    ``copied`` says that ``data`` are the original bytes, ``converted`` that ``source`` was requested but the original bytes
    could not be kept, ``scaled`` that the image was decoded at a smaller scale. ``window`` is the part of the upright image
    that was encoded, None if it was the whole.
    """

    data: bytes
    width: int
    height: int
    copied: bool
    scaled: bool
    crc32: int
    converted: bool = False
    window: Window | None = None


def parse_quality(text: str) -> Quality:
    """Return 50 for ``"50"`` and ``"source"`` for ``"source"``; raise UsageError for anything else."""
    try:
        return check_quality(text if text == "source" else int(text))
    except ValueError:
        raise UsageError(_NO_QUALITY.format(text)) from None


def check_quality(quality: object) -> Quality:
    """Return a JPEG quality, 1 to 100 or ``source``, as it is; raise UsageError for anything else."""
    if quality == "source":
        return "source"
    try:
        number = 0 if isinstance(quality, bool) else index(quality)  # type: ignore[arg-type]  # which is what is tried here
    except TypeError:
        number = 0
    if not 1 <= number <= 100:
        raise UsageError(_NO_QUALITY.format(quality))
    return number


def reencode(
    data: bytes | str | Path,
    specs: Sequence[EncodeSpec | Quality],
    max_pixels: int = MAX_PIXELS,
    window: Callable[[int, int], Window] | None = None,
) -> list[Encoded]:
    """Encode one image, a file or its bytes, at every quality of ``specs``, decoding it at most once.

    Pixels are upright (EXIF orientation applied) and RGB at every quality, including ``source``: it keeps the original bytes
    only if any plain JPEG decoder reads upright RGB or grey from them. Others become quality 95, 4:4:4 (CMYK, another
    format, a rotation flag, a chroma layout without a name, zeros in place of the end-of-image marker). A file that ends
    without this marker is an error, as for Pillow. Transparency is dropped and colour profiles are not applied, as in
    torchvision's loader. Copied bytes are not decoded here, so damage inside their scan is noticed only at other qualities
    or by ``jpegcurr inspect --verify``.

    With ``window``, only the part that ``window(width, height)`` returns of the upright image is encoded. It has no original
    bytes, so at ``source`` it has quality 95, 4:4:4, and it is resized by its own size.

    Raises:
        OversizeError: the image has more than ``max_pixels``, by its header; nothing was decoded.
        ImageError: the bytes are no image that Pillow can read, it has more pixels than Pillow allows
            (``2 * PIL.Image.MAX_IMAGE_PIXELS``), its values have no fixed range, or it does not fit into a JPEG; or the file
            cannot be read.
        UsageError: a quality is none.
    """
    with _name_file(data), _open(_read(data), max_pixels) as opened:
        wanted = [as_spec(spec) for spec in specs]
        return _encode_all(opened, wanted) if window is None else _encode_part(opened, wanted, window)


def as_spec(spec: EncodeSpec | Quality) -> EncodeSpec:
    """Return the specification itself, or that of a quality alone, as a number or ``source``; raise UsageError for others."""
    return spec if isinstance(spec, EncodeSpec) else EncodeSpec(check_quality(spec))


def _encode_all(opened: "_Opened", specs: Sequence[EncodeSpec]) -> list[Encoded]:
    resized: dict[Resize | None, tuple[Pixels, bool]] = {}
    resizes = {spec.resize for spec in specs}
    outputs = []
    for spec in specs:
        size = spec.resize.target(opened.width, opened.height) if spec.resize else (opened.width, opened.height)
        if spec.quality == "source" and opened.plain and size == (opened.width, opened.height):
            outputs.append(Encoded(opened.data, *size, copied=True, scaled=False, crc32=zlib.crc32(opened.data)))
            continue
        _refuse_long(size)
        if spec.resize not in resized:
            pixels, scaled = _resize(opened, spec.resize, size)
            resized[spec.resize] = (pixels.copy() if len(resizes) > 1 else pixels), scaled  # the next decode may overwrite them
        outputs.append(_encode(*resized[spec.resize], spec, opened.layout))
    return outputs


def as_specs(specs: Sequence[EncodeSpec | Quality]) -> list[EncodeSpec]:
    """Return specifications as ``as_spec`` does; raise UsageError for none at all, or for two of one name."""
    named = [as_spec(spec) for spec in specs]
    if not named:
        raise UsageError('No quality is given. Give some, such as ["source", 50].')
    if twice := next((name for name, count in Counter(spec.name for spec in named).items() if count > 1), None):
        raise UsageError(f"The quality {twice} is given twice, so two outputs would have one name. Give it once.")
    return named


def _encode_part(opened: "_Opened", specs: Sequence[EncodeSpec], choose: Callable[[int, int], Window]) -> list[Encoded]:
    window = left, top, right, bottom = choose(opened.width, opened.height)
    whole = right - left, bottom - top
    part = np.ascontiguousarray(_decode(opened)[top:bottom, left:right])
    outputs = []
    for spec in specs:
        size = spec.resize.target(*whole) if spec.resize else whole
        _refuse_long(size)
        pixels = _shrink(part, spec.resize, size) if spec.resize and size != whole else part
        outputs.append(replace(_encode(pixels, False, spec, opened.layout), window=window))
    return outputs


def _refuse_long(size: tuple[int, int]) -> None:
    if max(size) > LONGEST_SIDE:
        raise ImageError(f"{size[0]}x{size[1]} pixels do not fit into a JPEG (at most {LONGEST_SIDE} per side)")


def decode_rgb(
    data: bytes | str | Path,
    *,
    scratch: bool = False,
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Pixels:
    """Decode any image, a file or its bytes, to upright RGB, uint8 [h w 3], with libjpeg's accurate DCT; raises ImageError.

    With ``scratch`` the array may be this thread's scratch memory: use it before the next call. An image that should have a
    ``size`` (width, height) is refused before it is decoded if it has another; any other image if it has more than
    ``max_pixels``.
    """
    with _name_file(data), _open(_read(data), MOST_PIXELS if size else max_pixels) as opened:
        if size and size != (opened.width, opened.height):
            actual = f"{opened.width}x{opened.height}"
            raise ImageError(f"decodes to {actual} pixels, but its metadata say {size[0]}x{size[1]}")
        if opened.plain:
            buffer = _scratch.reserve(opened.width * opened.height * 3) if scratch else None
            with suppress(ValueError):  # libjpeg warned, but Pillow may still read the image
                rgb: Pixels = simplejpeg.decode_jpeg(opened.data, "RGB", buffer=buffer)
                return rgb
        return swap_red_blue(opened.decode_with_pillow())


def decode_resized(data: bytes | str | Path, resize: Resize, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode any image to the upright RGB that ``reencode`` encodes with ``resize``, uint8 [h w 3]; raises ImageError."""
    with _name_file(data), _open(_read(data), max_pixels) as opened:
        return swap_red_blue(_resize(opened, resize, resize.target(opened.width, opened.height))[0])


def encode_rgb(pixels: Pixels, quality: int, subsampling: Subsampling = "420", *, source_layout: str = "4:4:4") -> bytes:
    """Encode RGB, uint8 [h w 3], or grey, [h w] or [h w 1], to a JPEG: the bytes of ``reencode`` and of Pillow's ``save``.

    ``source_layout`` is the chroma layout that the subsampling ``keep`` uses, as a ``JpegHeader`` states it.

    Raises:
        UsageError: the pixels are no such array, or ``quality`` is no number from 1 to 100.
        ImageError: the image does not fit into a JPEG.
    """
    if check_quality(quality) == "source":
        raise UsageError("Pixels have no source whose bytes could be kept. Give a quality from 1 to 100.")
    if (
        pixels.dtype != np.uint8
        or not pixels.size
        or pixels.ndim not in (2, 3)
        or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3))
    ):
        raise UsageError(
            f"An array of {pixels.dtype} {list(pixels.shape)} is no image. Give RGB, uint8 [h w 3], or grey, uint8 [h w]."
        )
    bgr = swap_red_blue(pixels) if pixels.shape[2:] == (3,) else pixels
    return _encode(bgr, False, EncodeSpec(quality, subsampling), source_layout).data


def round_trip(pixels: Pixels, quality: int, subsampling: Subsampling = "420") -> Pixels:
    """Return what a JPEG shows of RGB, uint8 [h w 3], or grey, [h w] or [h w 1]: Pillow's pixels. Raises as ``encode_rgb``."""
    data = encode_rgb(pixels, quality, subsampling)
    shown: Pixels = simplejpeg.decode_jpeg(data, "RGB" if pixels.shape[2:] == (3,) else "GRAY")
    return shown.reshape(pixels.shape)


def _read(data: bytes | str | Path) -> bytes:
    """Return the bytes of an image, which may be given as a file; raises ImageError."""
    if not isinstance(data, str | Path):
        return data
    try:
        return Path(data).read_bytes()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from None


@contextmanager
def _name_file(data: bytes | str | Path) -> Iterator[None]:
    """Add the name of an image that is given as a file to every ImageError."""
    try:
        yield
    except ImageError as error:
        if isinstance(data, str | Path):
            raise type(error)(f"{data}: {error}") from None
        raise


@dataclass(frozen=True, slots=True)
class _Opened:
    """An image whose header is read: its upright size, and its chroma layout (4:4:4 for other formats than JPEG).

    ``plain`` says that any JPEG decoder reads ``data`` as upright RGB or grey; Pillow's ``image`` may then be None.
    """

    data: bytes
    width: int
    height: int
    layout: str
    plain: bool
    image: PillowImage | None = None

    def decode_with_pillow(self) -> Pixels:
        """Decode to upright BGR, uint8 [h w 3]; raises ImageError."""
        return (self.image or load_upright(read_header(self.data, MOST_PIXELS))).decode_bgr()


@contextmanager
def _open(data: bytes, max_pixels: int = MAX_PIXELS) -> Iterator[_Opened]:
    """Yield an image that the block may decode: while it lasts, the image's pixels are taken from the budget of all threads."""
    header = read_jpeg_header(data)
    plain = header is not None and _is_plain(header)
    if header is not None and plain and (not header.app1 or read_orientation(header.app1) == 1):
        check_pixels(header.width, header.height, max_pixels)
        with BUDGET.hold(header.width * header.height):
            yield _Opened(data, header.width, header.height, header.layout, plain=True)
        return
    image = read_header(data, max_pixels)
    layout = header.layout if header is not None else "4:4:4"
    pixels = image.width * image.height
    with BUDGET.hold(pixels):
        try:
            picture = load_upright(image)
            yield _Opened(data, picture.width, picture.height, layout, plain and not picture.rotated, picture)
        finally:
            image.close()
            if pixels > PIXELS_PER_CPU:  # every thread would keep the memory of the largest image that it has decoded
                return_freed_memory()


def _is_plain(header: JpegHeader) -> bool:
    known = header.components in (1, 3) and header.layout != "other"
    return known and header.ended and max(header.width, header.height) <= LONGEST_SIDE


class _Scratch(threading.local):
    """One decode buffer per thread: a fresh array for every image costs up to 0.3 ms in page faults."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def reserve(self, size: int) -> bytearray:
        """Return at least ``size`` bytes; a buffer for a huge image is not kept."""
        if size > _KEPT_SCRATCH:
            return bytearray(size)
        if len(self.buffer) < size:
            self.buffer = bytearray(size)
        return self.buffer


_scratch = _Scratch()


def _decode(opened: _Opened, scale: int = 1) -> Pixels:
    """Decode to upright BGR, uint8 [h w 3], at 1/``scale``; use the array before the next call, which may overwrite it."""
    if opened.plain:
        width, height = -(-opened.width // scale), -(-opened.height // scale)
        try:
            bgr: Pixels = simplejpeg.decode_jpeg(
                opened.data, "BGR", min_width=width, min_height=height, buffer=_scratch.reserve(width * height * 3)
            )
        except ValueError:
            pass  # libjpeg warned, but Pillow may still read the image
        else:
            return bgr
    return opened.decode_with_pillow()


def _resize(opened: _Opened, resize: Resize | None, size: tuple[int, int]) -> tuple[Pixels, bool]:
    """Return BGR pixels of ``size`` (width, height), and whether they were decoded at a smaller scale."""
    if resize is None or size == (opened.width, opened.height):
        return _decode(opened), False
    scale = _decode_scale(opened, size) if resize.filter != "box" else 1
    pixels = _decode(opened, scale)
    # The last column and row of a scaled decode may cover less than a whole pixel.
    visible = (0.0, 0.0, opened.width / scale, opened.height / scale) if pixels.shape[1] < opened.width else None
    return _shrink(pixels, resize, size, visible), pixels.shape[1] < opened.width


def _shrink(
    pixels: Pixels, resize: Resize, size: tuple[int, int], visible: tuple[float, float, float, float] | None = None
) -> Pixels:
    """Resize pixels, or the ``visible`` part of them, to ``size`` (width, height)."""
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling[resize.filter.upper()], box=visible))


def _decode_scale(opened: _Opened, size: tuple[int, int]) -> int:
    """Return the largest scale of 1, 2, 4 and 8 at which a decode at 1/scale has ``HEADROOM`` times ``size``."""
    room = min(opened.width / size[0], opened.height / size[1]) / HEADROOM
    return next(scale for scale in (8, 4, 2, 1) if scale <= max(room, 1))


def _encode(pixels: Pixels, scaled: bool, spec: EncodeSpec, source_layout: str) -> Encoded:
    height, width = pixels.shape[:2]
    quality, layout = resolve_settings(spec, source_layout)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[layout]]
    try:
        done, jpeg = cv2.imencode(".jpg", pixels, options)
    except cv2.error:
        done = False
    if not done:
        raise ImageError(f"{width}x{height} pixels cannot be encoded as a JPEG")
    data = jpeg.tobytes()
    converted = spec.quality == "source"
    return Encoded(data, width, height, copied=False, scaled=scaled, crc32=zlib.crc32(data), converted=converted)


def resolve_settings(spec: EncodeSpec, source_layout: str) -> tuple[int, str]:
    """Return quality and chroma layout; ``source`` keeps all chroma, and a layout without a name becomes 4:2:0."""
    if spec.quality == "source":
        return CONVERTED_QUALITY, _LAYOUT_NAMES[CONVERTED_SUBSAMPLING]
    if spec.subsampling == "keep":
        wanted = "4:4:4" if source_layout == "grey" else source_layout
        return spec.quality, wanted if wanted in _SAMPLING else "4:2:0"
    return spec.quality, _LAYOUT_NAMES[spec.subsampling]
