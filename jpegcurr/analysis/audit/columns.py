"""Columns of numbers about the files of one split, some 40 bytes a file, and the header fields that may tell a label."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.anatomy import LAYOUTS, MARKERS, PROCESSES
from jpegcurr.encoding.survey import FileFacts

MOST_ENCODERS = 1000  # different texts that are kept; all others count as one
OTHERS = "(others)"
# Codes of columns are places in these; the first is that of a file that is no JPEG, or whose header cannot be read.
PROCESS_NAMES = ("", *dict.fromkeys(PROCESSES.values()))
LAYOUT_NAMES = ("", *LAYOUTS, "other")
HUFFMAN_NAMES = ("", "standard", "optimised", "absent", "arithmetic")
MAKERS = ("", "libjpeg", "mozjpeg", "other")
# Formats by the suffixes that name them.
_SUFFIXES = {".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".png": "PNG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WEBP"}
_SUFFIXES |= {".tif": "TIFF", ".tiff": "TIFF"}

_DTYPES = {
    "format": np.uint8,
    "process": np.uint8,
    "layout": np.uint8,
    "huffman": np.uint8,
    "maker": np.uint8,
    "quality": np.uint8,  # 0 without one
    "chroma_quality": np.uint8,
    "factor": np.float32,
    "orientation": np.uint8,
    "restart": np.uint16,
    "markers": np.uint16,  # a bit for each of ``MARKERS``
    "encoder": np.uint16,
    "width": np.uint32,
    "height": np.uint32,
    "bytes": np.uint32,
    "crc32": np.uint32,
    "ended": np.bool_,
    "unread": np.bool_,
    "misnamed": np.bool_,
}


class FileColumns:
    """One value of every column for each file added, [n]; ``formats`` and ``encoders`` are what codes stand for."""

    def __init__(self, files: int) -> None:
        self._columns: dict[str, NDArray[Any]] = {name: np.zeros(files, dtype) for name, dtype in _DTYPES.items()}
        self._formats: dict[str, int] = {"": 0}
        self._encoders: dict[str, int] = {"": 0, OTHERS: 1}
        self._added = 0

    def __len__(self) -> int:
        return self._added

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._columns[name][: self._added]

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats by their codes."""
        return tuple(self._formats)

    @property
    def encoders(self) -> tuple[str, ...]:
        """The texts that name an encoder, by their codes."""
        return tuple(self._encoders)

    @property
    def fingerprints(self) -> NDArray[np.uint64]:
        """Size and checksum of every file as one number, uint64 [n]."""
        return self["bytes"].astype(np.uint64) << np.uint64(32) | self["crc32"].astype(np.uint64)

    @property
    def bits_per_pixel(self) -> NDArray[np.float64]:
        """Bits of the file for each pixel, float64 [n]; nan where the size is unknown."""
        pixels = self["width"].astype(np.float64) * self["height"].astype(np.float64)
        bits: NDArray[np.float64] = np.divide(8.0 * self["bytes"], pixels, out=np.full(len(self), np.nan), where=pixels > 0)
        return bits

    def add(self, key: str, facts: FileFacts) -> None:
        """Append a file."""
        place, columns = self._added, self._columns
        self._added += 1
        columns["format"][place] = self._formats.setdefault(facts.format, min(len(self._formats), 255))
        columns["width"][place], columns["height"][place] = facts.width, facts.height
        columns["bytes"][place], columns["crc32"][place] = facts.bytes_in, facts.crc32 or 0
        columns["unread"][place] = bool(facts.reason)
        columns["orientation"][place] = 1
        columns["ended"][place] = True
        stated = _SUFFIXES.get(PurePosixPath(key).suffix.lower())
        columns["misnamed"][place] = bool(facts.format and stated) and stated != facts.format
        if (anatomy := facts.anatomy) is None:
            return
        columns["process"][place] = PROCESS_NAMES.index(anatomy.process)
        columns["layout"][place] = LAYOUT_NAMES.index(anatomy.layout)
        columns["huffman"][place] = HUFFMAN_NAMES.index(anatomy.huffman)
        columns["orientation"][place] = anatomy.orientation
        columns["restart"][place] = anatomy.restart
        columns["markers"][place] = sum(1 << MARKERS.index(name) for name in anatomy.markers)
        columns["ended"][place] = anatomy.ended
        columns["encoder"][place] = self._encoder(anatomy.software or anatomy.comment or anatomy.make)
        if (quantisation := anatomy.quantisation) is not None:
            columns["maker"][place] = MAKERS.index(quantisation.maker)
            columns["quality"][place] = quantisation.quality
            columns["chroma_quality"][place] = quantisation.chroma or quantisation.quality
            columns["factor"][place] = quantisation.factor

    def _encoder(self, text: str) -> int:
        if text not in self._encoders and len(self._encoders) >= MOST_ENCODERS:
            text = OTHERS
        return self._encoders.setdefault(text, len(self._encoders))


def header_fields(splits: Sequence[FileColumns], images: NDArray[np.int64]) -> Mapping[str, Sequence[NDArray[Any]]]:
    """Return the header fields of ``images``, positions among the files of all ``splits``, as columns.

    Floats are numbers, unsigned integers are categories.
    """
    columns = {name: np.concatenate([split[name] for split in splits])[images] for name in _DTYPES}
    # Splits number formats and encoders by themselves.
    formats, encoders = (
        np.unique(np.concatenate([np.array(names)[split[code]] for split, names in numbered])[images], return_inverse=True)[1]
        for code, numbered in (
            ("format", [(split, split.formats) for split in splits]),
            ("encoder", [(split, split.encoders) for split in splits]),
        )
    )
    numbers = {name: column.astype(np.float64) for name, column in columns.items()}
    bits = np.concatenate([split.bits_per_pixel for split in splits])[images]
    return {
        "format and coding": [formats.astype(np.uint16), columns["process"], columns["huffman"], numbers["restart"]],
        "quality": [numbers["quality"], columns["maker"], numbers["chroma_quality"], numbers["factor"]],
        "chroma": [columns["layout"]],
        "sides": [numbers["width"], numbers["height"]],
        "bytes": [numbers["bytes"]],
        "bits a pixel": [bits],
        "markers": [(columns["markers"] >> bit & 1).astype(np.uint8) for bit in range(len(MARKERS))],
        "orientation": [columns["orientation"]],
        "encoder": [encoders.astype(np.uint16)],
    }
