"""Whether a ``.beton`` is, to the bit, what was written."""

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
from jpegcurr.encoding.beton.manifest import Manifest, Totals, items_path, read_items, read_manifest
from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.header import read_jpeg_header
from jpegcurr.errors import BetonError, ImageError
from jpegcurr.system import available_cpus


@dataclass(frozen=True, slots=True)
class Inspection:
    """A beton's facts.

    ``subsampling`` counts samples by chroma layout, read from every JPEG's own header: J:a:b notation, ``grey``, ``raw``
    for uncompressed samples, ``other`` for a layout without a name, ``unreadable``.
    Sizes are (smallest, median, largest), pixels a side and bytes a sample.
    """

    path: Path
    manifest: Manifest | None
    samples: int
    labels: int
    subsampling: dict[str, int]
    widths: tuple[int, int, int]
    heights: tuple[int, int, int]
    sample_bytes: tuple[int, int, int]
    page_size: int


def inspect_beton(path: Path) -> Inspection:
    """Read what is in a beton without decoding it; raises BetonError."""
    beton = Beton(path)
    layouts = Counter(_layout(beton, index) for index in range(len(beton)))
    return Inspection(
        path,
        read_manifest(path),
        len(beton),
        len(np.unique(beton.labels)),
        dict(layouts.most_common()),
        _spread(beton.widths),
        _spread(beton.heights),
        _spread(beton.sizes),
        beton.page_size,
    )


def _layout(beton: Beton, index: int) -> str:
    if beton.modes[index] != MODE_JPEG:
        return "raw"
    header = read_jpeg_header(beton.payload(index))
    return header.layout if header else "unreadable"


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    if len(values) == 0:
        return 0, 0, 0
    return int(values.min()), int(np.median(values)), int(values.max())


_BLOCK = 512  # samples under way


def verify_beton(path: Path, on_sample: Callable[[int, int], None] = lambda _done, _total: None) -> Iterator[str]:
    """Yield a sentence for every sample, and every place between samples, that is not right.

    Each sample is decoded. With its manifest and items, which FFCV's files do not have, each is also held against its
    checksum, and every other byte of the file against what they imply.

    Raises:
        BetonError: the file is not a whole beton, or its items are not those of its manifest.
    """
    beton, manifest = Beton(path), read_manifest(path)
    if manifest is None:
        samples: Iterator[tuple[int, str, int | None]] = ((index, "", None) for index in range(len(beton)))
    else:
        index = _index_of(path, manifest)
        yield from (f"{path}: {wrong}" for wrong in _beside_samples(beton, index, path))
        samples = ((n, row["key"], row["crc32"]) for n, row in enumerate(_stored_rows(path)))
    with ThreadPoolExecutor(available_cpus()) as pool:
        done = 0
        while block := list(islice(samples, _BLOCK)):
            for complaint in pool.map(lambda sample: _check(beton, *sample), block):
                done += 1
                on_sample(done, len(beton))
                if complaint:
                    yield complaint


def _check(beton: Beton, index: int, key: str, crc32: int | None) -> str:
    """What is wrong with one sample, if anything."""
    called = f" ({key})" if key else ""
    if crc32 is not None and (index >= len(beton) or zlib.crc32(beton.payload(index)) != crc32):
        return f"sample {index}{called} of {beton.path}: its bytes are not those that were written"
    try:
        read_pixels(beton, index)
    except ImageError as error:
        return f"{error}{called}"
    return ""


def _stored_rows(path: Path) -> Iterator[dict[str, Any]]:
    return (row for row in read_items(path) if row["status"] != "failed")


def _index_of(path: Path, manifest: Manifest) -> BetonIndex:
    """Lay the items out again, as they were when the file was written."""
    try:
        index, totals = BetonIndex(manifest.items, manifest.page_size), Totals()
        for row in read_items(path):
            totals.add(row)
            if row["status"] in ("copied", "encoded"):
                index.place(row["bytes"], row["width"], row["height"], row["label"])
                int(row["crc32"])
            elif row["status"] != "failed":
                raise ValueError(f"status {row['status']}")
        same = index.sha256() == manifest.index_sha256 and totals.as_dict().items() <= manifest.model_dump().items()
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise BetonError(f"{items_path(path)} cannot be read ({error}), so {path} cannot be checked. Make it again.") from None
    if not same:
        raise BetonError(f"{items_path(path)} is not what its manifest describes, so {path} cannot be checked. Make it again.")
    return index


def _beside_samples(beton: Beton, index: BetonIndex, path: Path) -> Iterator[str]:
    """Where header, metadata, allocation table or the zeros between records are not as written."""
    for start, expected in ((0, index.prefix()), (index.end, index.table())):
        there = np.frombuffer(beton.read(start, len(expected)), np.uint8)
        wrong = np.flatnonzero(there != np.frombuffer(expected, np.uint8)[: len(there)])
        if len(there) < len(expected):
            yield "it is shorter than what was written"
        elif len(wrong):
            yield f"{_described(index, start + int(wrong[0]), path)} is not what was written"
    for start, stop in index.gaps():
        if beton.read(start, stop - start).strip(b"\0"):
            yield f"bytes {start} to {stop}, which belong to no sample, are not zero"


def _described(index: BetonIndex, position: int, path: Path) -> str:
    """What stands at a byte of the prefix or of the table, and of which image."""
    what, sample = index.describe(position)
    rows = islice(_stored_rows(path), sample, None) if sample is not None else iter(())
    return next((f"{what} ({row['key']})" for row in rows), what)
