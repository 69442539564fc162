"""Inspection of a ``.beton`` (its facts, without decoding) and verification (every byte, and every sample decoded)."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.encoding.beton.format import MODE_JPEG, BetonIndex
from jpegcurr.encoding.beton.manifest import Manifest, Totals, items_path, read_items, read_manifest, refuse_unnamed_labels
from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.anatomy import name_quality
from jpegcurr.encoding.jpeg.header import read_jpeg_header
from jpegcurr.errors import BetonError, ImageError
from jpegcurr.system import available_cpus

_BLOCK = 512  # samples submitted at a time
QUALITY_SAMPLE = 512  # samples whose tables are read


@dataclass(frozen=True, slots=True)
class Inspection:
    """The facts of a beton.

    ``labels`` is the number of different labels, ``highest_label`` the largest, -1 without samples.
    ``subsampling`` counts samples by chroma layout, read from every JPEG's own header: J:a:b notation, ``grey``, ``raw``
    for uncompressed samples, ``other`` for a layout without a name, ``unreadable``.
    ``qualities`` counts JPEGs by the quality of their tables (``name_quality``), of at most 512 evenly spaced samples.
    Sizes are (smallest, median, largest): widths and heights in pixels, samples in bytes.
    """

    path: Path
    manifest: Manifest | None
    samples: int
    labels: int
    highest_label: int
    subsampling: dict[str, int]
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    sample_bytes: tuple[int, int, int]
    page_size: int
    qualities: dict[str, int]


def inspect_beton(path: Path) -> Inspection:
    """Read the facts of a beton without decoding it; raises BetonError."""
    beton, manifest = Beton(path), read_manifest(path)
    highest = int(beton.labels.max(initial=-1))
    if manifest is not None:
        refuse_unnamed_labels(path, highest, manifest)
    layouts = Counter(_layout(beton, index) for index in range(len(beton)))
    some = [index for index in evenly_spaced(len(beton)) if beton.modes[index] == MODE_JPEG]
    qualities = Counter(name_quality(beton.payload(index)) for index in some)
    return Inspection(
        path,
        manifest,
        len(beton),
        len(np.unique(beton.labels)),
        highest,
        dict(layouts.most_common()),
        spread(beton.widths),
        spread(beton.heights),
        spread(beton.sizes),
        beton.page_size,
        dict(qualities.most_common()),
    )


def _layout(beton: Beton, index: int) -> str:
    if beton.modes[index] != MODE_JPEG:
        return "raw"
    header = read_jpeg_header(beton.payload(index))
    return header.layout if header else "unreadable"


def evenly_spaced(samples: int) -> range:
    """Return the samples whose tables are read."""
    return range(0, samples, max(1, -(-samples // QUALITY_SAMPLE)))


def spread(values: np.ndarray) -> tuple[int, int, int]:
    """Return the smallest, the median and the largest of some sizes; zeros for none."""
    if len(values) == 0:
        return 0, 0, 0
    return int(values.min()), int(np.median(values)), int(values.max())


def verify_beton(path: Path, on_sample: Callable[[int, int], None] = lambda _done, _total: None) -> Iterator[str]:
    """Yield a sentence for every sample, and every place between samples, that is wrong.

    Every sample is decoded. With a manifest and items, which FFCV's files do not have, every sample is also compared with
    its checksum, and every other byte of the file with the one that they imply. ``on_sample(done, total)`` is called after
    every sample.

    Raises:
        BetonError: the file is not a whole beton, or its items do not match its manifest.
    """
    beton, manifest = Beton(path), read_manifest(path)
    if manifest is None:
        samples: Iterator[tuple[int, str, int | None]] = ((index, "", None) for index in range(len(beton)))
    else:
        index = _rebuild_index(path, manifest)
        yield from (f"{path}: {problem}" for problem in _check_between_samples(beton, index, path))
        samples = ((n, row["key"], row["crc32"]) for n, row in enumerate(_stored_rows(path)))
    with ThreadPoolExecutor(available_cpus()) as pool:
        done = 0
        while block := list(islice(samples, _BLOCK)):
            for problem in pool.map(lambda sample: _check_sample(beton, *sample), block):
                done += 1
                on_sample(done, len(beton))
                if problem:
                    yield problem


def _check_sample(beton: Beton, index: int, key: str, crc32: int | None) -> str:
    """Return what is wrong with one sample; empty if nothing is."""
    name = f" ({key})" if key else ""
    if crc32 is not None and (index >= len(beton) or zlib.crc32(beton.payload(index)) != crc32):
        return f"sample {index}{name} of {beton.path}: its bytes have changed since they were written"
    try:
        read_pixels(beton, index)
    except ImageError as error:
        return f"{error}{name}"
    return ""


def _stored_rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for row in read_items(path) if row["status"] != "failed")


def _rebuild_index(path: Path, manifest: Manifest) -> BetonIndex:
    """Lay out the items again, as the writer did; raises BetonError if they do not match the manifest."""
    try:
        index, totals = BetonIndex(manifest.items, manifest.page_size), Totals()
        for row in read_items(path):
            totals.add(row)
            if row["status"] in ("copied", "encoded"):
                index.place(row["bytes"], row["width"], row["height"], row["label"])
        same = index.sha256() == manifest.index_sha256 and totals.as_dict().items() <= manifest.model_dump().items()
    except (ValueError, ArithmeticError) as error:
        raise BetonError(
            f"{items_path(path)} cannot be read ({error}), so {path} cannot be verified. Encode it again with --force."
        ) from None
    if not same:
        raise BetonError(
            f"{items_path(path)} does not match its manifest, so {path} cannot be verified. Encode it again with --force."
        )
    return index


def _check_between_samples(beton: Beton, index: BetonIndex, path: Path) -> Iterator[str]:
    """Yield where the header, the metadata, the allocation table or the zeros between records have changed."""
    for start, expected in ((0, index.prefix()), (index.end, index.table())):
        actual = np.frombuffer(beton.read(start, len(expected)), np.uint8)
        wrong = np.flatnonzero(actual != np.frombuffer(expected, np.uint8)[: len(actual)])
        if len(actual) < len(expected):
            yield "it is shorter than when it was written"
        elif len(wrong):
            yield f"{_describe_position(index, start + int(wrong[0]), path)} has changed since it was written"
    for start, stop in index.gaps():
        if beton.read(start, stop - start).strip(b"\0"):
            yield f"bytes {start} to {stop}, which belong to no sample, are not zero"


def _describe_position(index: BetonIndex, position: int, path: Path) -> str:
    """Name the part of the prefix or of the table at a byte, with the image that it is of."""
    part, sample = index.describe(position)
    rows = islice(_stored_rows(path), sample, None) if sample is not None else iter(())
    return next((f"{part} ({row['key']})" for row in rows), part)
