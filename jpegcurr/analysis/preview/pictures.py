"""Pictures for the page: the JPEGs themselves, whole or of a window in the middle, in as many bytes as a page may have."""

import io
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache, partial

from PIL import Image

from jpegcurr.analysis.preview.measure import AHEAD, ImageMeasure, read, reference_pixels
from jpegcurr.encoding.box_windows import Window
from jpegcurr.encoding.jpeg.codec import EncodeSpec, encode_rgb, reencode
from jpegcurr.encoding.jpeg.header import read_jpeg_header, strip_metadata
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.encoding.workers import map_in_order
from jpegcurr.errors import EncodeError, ImageError

# Sides of the window, in pixels, from the largest: multiples of the largest block of pixels that a JPEG encodes by itself.
SIDES = (1024, 768, 640, 512, 448, 384, 320, 288, 256, 224, 192, 160, 128, 96, 64)
BLOCK = 32  # pixels: those of 4:1:1; 4:2:0 has 16
_SAMPLE = 16  # pictures from which the size of all is estimated


@dataclass(frozen=True, slots=True)
class PagePicture:
    """One image of the page: its measure, and the files that a browser shows.

    ``window`` is the part of the upright image that they show, None if it is the whole. ``source`` is a JPEG, the file's own
    bytes without metadata, or WebP of exactly its pixels; ``jpegs`` are those of the other specifications, in order.
    """

    measure: ImageMeasure
    window: Window | None
    source: bytes
    jpegs: tuple[bytes, ...]

    @property
    def source_type(self) -> str:
        """The MIME type of the source."""
        return "image/jpeg" if self.source.startswith(b"\xff\xd8") else "image/webp"

    @property
    def size(self) -> tuple[int, int]:
        """The width and height that are shown."""
        if self.window is None:
            return self.measure.width, self.measure.height
        left, top, right, bottom = self.window
        return right - left, bottom - top

    @property
    def characters(self) -> int:
        """The characters of all files in base64."""
        return sum(-(-len(data) // 3) * 4 for data in (self.source, *self.jpegs))


def fit_pictures(
    measures: Sequence[ImageMeasure],
    specs: Sequence[EncodeSpec],
    room: int,
    executor: Executor,
    workers: int,
    *,
    max_pixels: int,
    done: Callable[[int], None],
) -> tuple[int, tuple[PagePicture, ...]]:
    """Return a large side of ``SIDES`` at which all pictures take at most ``room`` characters, else the last, and the pictures.

    ``specs`` begin with ``source``. The side is estimated from 16 pictures, and all are tried from the next larger one on, so
    the same images always give the same pictures.

    Raises:
        EncodeError: an image that was measured cannot be read any more.
    """

    sample = measures[:: max(1, -(-len(measures) // _SAMPLE))]
    share = room * len(sample) / max(1, len(measures))

    @cache  # where the sample is all, what was tried is the result
    def embed(side: int, whole: bool) -> tuple[PagePicture, ...]:
        function = partial(embed_picture, specs=specs, side=side, max_pixels=max_pixels)
        pictures = []
        for number, picture in enumerate(map_in_order(function, measures if whole else sample, executor, AHEAD * workers), 1):
            pictures.append(picture)
            if whole:
                done(number)
        return tuple(pictures)

    def fits(side: int) -> bool:
        return _characters(embed(side, len(sample) == len(measures))) <= share

    start = 0 if fits(SIDES[0]) else max(0, bisect_left(SIDES, True, key=fits) - 1)  # the sample may be larger than the rest
    for side in SIDES[start:]:
        pictures = embed(side, True)
        if _characters(pictures) <= room:
            break
    return side, pictures


def embed_picture(measure: ImageMeasure, specs: Sequence[EncodeSpec], side: int, max_pixels: int) -> PagePicture:
    """Return an image as the page shows it: whole if no side exceeds ``side``, else the window of that side in its middle.

    The window begins on the grid of the JPEG's blocks, each of which is encoded by itself. So its JPEG has the blocks of the
    whole image's, and decodes to the same pixels, except that where chroma is subsampled decoders smooth it across blocks: its
    outermost pixels may differ.

    Raises:
        EncodeError: the image cannot be read any more.
    """
    try:
        data = read(measure.picture)
        pixels = reference_pixels(data, specs, max_pixels)
        window = middle_window(pixels.shape[1], pixels.shape[0], side)
        if window is None:
            source, *jpegs = reencode(data, specs, max_pixels)
            own = strip_metadata(data) if source.copied else _lossless(pixels)
            return PagePicture(measure, None, own, tuple(jpeg.data for jpeg in jpegs))
    except ImageError as error:
        raise EncodeError(f"{measure.picture.place} has changed since it was measured: {error}.") from None
    left, top, right, bottom = window
    part, header = pixels[top:bottom, left:right], read_jpeg_header(data)
    layout = header.layout if header is not None else "4:4:4"
    encoded = tuple(
        encode_rgb(part, int(spec.quality), spec.subsampling, source_layout=layout)
        for spec in specs
        if spec.quality != "source"
    )
    return PagePicture(measure, window, _lossless(part), encoded)


def middle_window(width: int, height: int, side: int) -> Window | None:
    """Return the window of at most ``side`` pixels a side in the middle, on the grid of blocks; None if that is all."""
    if max(width, height) <= side:
        return None
    left, top = (max(0, whole - side) // 2 // BLOCK * BLOCK for whole in (width, height))
    return left, top, left + min(width, side), top + min(height, side)


def _characters(pictures: Sequence[PagePicture]) -> int:
    return sum(picture.characters for picture in pictures)


def _lossless(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=30, method=2)  # quality is effort here
    return file.getvalue()
