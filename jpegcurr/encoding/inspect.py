"""What is in a ``.beton``: its manifest's word, and what its samples say themselves."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

from jpegcurr.encoding.beton import MODE_JPEG, Beton
from jpegcurr.encoding.executors import available_cpus
from jpegcurr.encoding.manifest import Manifest, read_manifest
from jpegcurr.encoding.pixels import read_pixels
from jpegcurr.errors import ImageError


@dataclass(frozen=True, slots=True)
class Inspection:
    """A beton's facts.

    ``subsampling`` counts samples by chroma layout, read from every JPEG's own header: J:a:b notation, ``grey``, ``raw``
    for uncompressed samples, ``unreadable``. Sizes are (smallest, median, largest), pixels a side and bytes a sample.
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


def verify_beton(path: Path, on_sample: Callable[[int, int], None] = lambda _done, _total: None) -> list[str]:
    """Decode every sample and return what is wrong with those that do not decode as they should."""
    beton = Beton(path)

    def check(index: int) -> str:
        try:
            read_pixels(beton, index)
        except ImageError as error:
            return str(error)
        return ""

    complaints = []
    with ThreadPoolExecutor(available_cpus()) as pool:
        for done, complaint in enumerate(pool.map(check, range(len(beton))), start=1):
            on_sample(done, len(beton))
            if complaint:
                complaints.append(complaint)
    return complaints


def _layout(beton: Beton, index: int) -> str:
    if beton.modes[index] != MODE_JPEG:
        return "raw"
    try:
        _, _, colour, subsampling = simplejpeg.decode_jpeg_header(beton.payload(index))
    except ValueError:
        return "unreadable"
    return "grey" if colour == "Gray" else ":".join(subsampling)


def _spread(values: np.ndarray) -> tuple[int, int, int]:
    if len(values) == 0:
        return 0, 0, 0
    return int(values.min()), int(np.median(values)), int(values.max())
