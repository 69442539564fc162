"""What is in a ``.beton``: its manifest's word, and what its samples say themselves."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.header import read_jpeg_header
from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.manifest import Manifest, read_manifest


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
