"""Survey of the image files of a data set: facts from every header, and traces of an earlier compression in some."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.anatomy import JpegAnatomy, is_jpeg, read_anatomy
from jpegcurr.encoding.jpeg.double_compression import Trace, decode_luma, find_moved_trace, find_trace
from jpegcurr.encoding.jpeg.former_size import LARGEST_SIDE, LEAST_IMAGES, MOST_IMAGES, SMALLEST_SIDE, BlockEdges, FormerSize
from jpegcurr.encoding.jpeg.limits import BUDGET, MAX_PIXELS, MOST_PIXELS, check_pixels
from jpegcurr.encoding.jpeg.pillow import read_header
from jpegcurr.encoding.sources.base import Item, Source, Store
from jpegcurr.encoding.workers import LARGEST_FILE, map_in_order, split_into_chunks
from jpegcurr.errors import EncodeError, ImageError

AHEAD = 4  # chunks submitted for each worker
MOVED_SAMPLE = 32  # images of a split that are searched on other grids too, at 0.1 s each
# libjpeg decodes these, with 8 bits a sample, and the first component of these colours is luma.
DECODED = ("baseline", "extended", "progressive")
_WITH_LUMA = ("grey", "YCbCr")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """The facts about one image file.

    Attributes:
        bytes_in, crc32: its size and checksum; the checksum of a file that cannot be read is None.
        format: as Pillow names it, ``JPEG`` for one with further pictures too; "" if it is no image.
        width, height: as stored, before any rotation; 0 if unknown.
        anatomy: of a JPEG whose header can be read.
        reason: why the header cannot be read; "" if it can.
        sampled: whether an earlier compression was looked for; ``trace`` is None where nothing can be told.
        moved_sampled: whether one was looked for on other grids too, which gave ``moved``.
    """

    bytes_in: int
    crc32: int | None
    format: str
    width: int
    height: int
    anatomy: JpegAnatomy | None = None
    reason: str = ""
    sampled: bool = False
    trace: Trace | None = None
    moved_sampled: bool = False
    moved: Trace | None = None


def read_facts(data: bytes, *, traces: bool = False, moved: bool = False) -> FileFacts:
    """Read the facts about an image from the bytes of its file.

    With ``traces`` an earlier compression is looked for, if it is a JPEG, and with ``moved`` on other grids too.
    """
    size, crc32 = len(data), zlib.crc32(data)
    jpeg = is_jpeg(data)
    try:
        if not jpeg:
            with read_header(data, MOST_PIXELS) as image:
                return FileFacts(size, crc32, image.format or "", *image.size)
        anatomy = read_anatomy(data)
    except ImageError as error:
        return FileFacts(size, crc32, "JPEG" if jpeg else "", 0, 0, reason=str(error))
    facts = FileFacts(size, crc32, "JPEG", anatomy.width, anatomy.height, anatomy)
    if not traces or anatomy.table is None or not _has_luma(anatomy):
        return facts
    with BUDGET.hold(anatomy.width * anatomy.height):
        facts = replace(facts, sampled=True, trace=find_trace(data, anatomy.table))
        if not moved or facts.trace is None:
            return facts
        return replace(facts, moved_sampled=True, moved=find_moved_trace(data, anatomy.table))


def _has_luma(anatomy: JpegAnatomy) -> bool:
    """Return whether the luma of a JPEG can be decoded, within the limit of pixels."""
    try:
        check_pixels(anatomy.width, anatomy.height, MAX_PIXELS)
    except ImageError:
        return False
    return anatomy.process in DECODED and anatomy.precision == 8 and anatomy.colour in _WITH_LUMA and anatomy.ended


def survey(source: Source, executor: Executor, workers: int, *, sample: int = 0, seed: int = 0) -> Iterator[list[FileFacts]]:
    """Yield the facts about the images of a split, in the order of its items, a few at a time.

    ``sample`` images, chosen by ``seed``, are searched for traces of an earlier compression, the first ``MOVED_SAMPLE`` of them
    on other grids too.

    Raises:
        EncodeError: the source fails, as in an encode.
    """
    chosen = np.zeros(len(source.items), np.int8)
    if sample:
        order = source.items.shuffled(seed)[:sample]
        chosen[order], chosen[order[:MOVED_SAMPLE]] = 1, 2
    read = partial(read_chunk, source.store)
    with closing(map_in_order(read, _parts(source, chosen), executor, AHEAD * workers)) as results:
        yield from results


def _parts(source: Source, chosen: NDArray[np.int8]) -> Iterator[tuple[list[Item], list[int]]]:
    start = 0
    for chunk in split_into_chunks(source.items, np.arange(len(source.items))):
        yield chunk, chosen[start : start + len(chunk)].tolist()
        start += len(chunk)


def read_chunk(store: Store, part: tuple[Sequence[Item], Sequence[int]]) -> list[FileFacts]:
    """Read the facts of a few images, of each with 0 its header, 1 its coefficients, and 2 those on other grids too."""
    return [_read_item(store, item, depth) for item, depth in zip(*part, strict=True)]


def _read_item(store: Store, item: Item, depth: int) -> FileFacts:
    try:
        if item.size > LARGEST_FILE:
            raise ImageError(f"{item.size} bytes are more than an image file may have ({LARGEST_FILE})")
        return read_facts(store.read(item), traces=depth > 0, moved=depth > 1)
    except ImageError as error:
        return FileFacts(max(item.size, 0), None, "", 0, 0, reason=str(error))
    except EncodeError:
        raise
    except Exception as error:  # too little memory, or a damaged file of the hub, must not count as a bad image
        raise EncodeError(f"{store.locate(item)}: {type(error).__name__}: {error}.") from error


def survey_former_size(
    source: Source,
    sizes: NDArray[np.int64],
    side: int,
    executor: Executor,
    workers: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FormerSize | None:
    """Look for blocks of JPEGs from before the images of a split were resized to ``side`` pixels, in those chosen by ``seed``.

    ``sizes``, [n 2], are their widths and heights. None if there are too few to tell, or their sides are too long. ``progress``
    is called with what is done and all that is to be done.

    Raises:
        EncodeError: the source fails, as in an encode.
    """
    order = source.items.shuffled(seed)
    chosen = order[(sizes[order] == side).any(axis=1)][:MOST_IMAGES]
    if len(chosen) < LEAST_IMAGES or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
        return None
    edges, read = BlockEdges(side), partial(_read_lumas, source.store)
    with closing(map_in_order(read, split_into_chunks(source.items, chosen), executor, AHEAD * workers)) as results:
        for lumas in results:
            for luma in lumas:
                edges.add(luma)
            if progress is not None:
                progress(edges.images, len(chosen))
    return edges.find()


def _read_lumas(store: Store, items: Sequence[Item]) -> list[NDArray[np.uint8]]:
    """Return the luma of those of a few images that are JPEGs with one, [h w]."""
    lumas = []
    for item in items:
        if item.size > LARGEST_FILE:
            continue
        try:
            data = store.read(item)
            if not is_jpeg(data):
                continue
            anatomy = read_anatomy(data)
        except ImageError:
            continue
        if _has_luma(anatomy):
            with BUDGET.hold(anatomy.width * anatomy.height):
                luma = decode_luma(data)
            if luma is not None:
                lumas.append(luma)
    return lumas
