"""FFCV's ``.beton`` format, version 2: its parts, and the position of every record.

    header                24 bytes
    field descriptors     1041 bytes per field
    metadata              one fixed record per sample, no padding before it
    pages                 addresses from n * page_size to (n + 1) * page_size; a stored record never crosses into the next
    allocation table      to the end of the file: one row (sample, pointer, size) per stored record

All numbers are little-endian and pointers are absolute. Source: ffcv 1.0.2, ``ffcv/types.py``, ``ffcv/reader.py`` and
``ffcv/memory_managers``. FFCV's own writer gives the metadata and the last record pages of their own, which no reader
needs; here they share pages, so a small file is as small as its images. FFCV's writer also orders its rows as its workers
finish, hangs when one of them dies, and cannot store a JPEG's original bytes.
"""

import hashlib
from array import array

import numpy as np

VERSION = 2
DEFAULT_PAGE_SIZE = 1 << 23
MAX_PAGE_SIZE = 1 << 26  # a page is FFCV's unit of reading; no photograph that Pillow opens needs a larger one
MODE_JPEG = 0

HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page_size", "<u4"), ("samples", "<u8"), ("table", "<u8")])
FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
ROW = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
FLOAT, INT, RGB = 0, 1, 2
FIELD_DTYPES = {FLOAT: np.dtype("<f8"), INT: np.dtype("<i8"), RGB: IMAGE}
RECORD = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
PREFIX = HEADER.itemsize + 2 * FIELD.itemsize


def page_size_for(largest: int, mean: int = 0) -> int:
    """Return the smallest power of two from 8 to 64 MiB that holds ``largest`` bytes, and 24 records of ``mean`` bytes.

    With fewer records in a page, the holes at the pages' ends are more than a hundredth of the file.
    """
    wanted = max(largest, 24 * mean)
    return min(max(DEFAULT_PAGE_SIZE, 1 << max(wanted - 1, 0).bit_length()), MAX_PAGE_SIZE)


class BetonIndex:
    """The position of every record of a beton, and all bytes of the file that are not records.

    It depends on the records' sizes and order, ``capacity`` and ``page_size`` alone, so that an interrupted writer can
    continue and a finished file can be verified. A record goes to the end of the page before the last if it fits there; holes
    then take a fifth of the space that they would take if only the last page were filled. Memory is 28 bytes per sample.
    """

    def __init__(self, capacity: int, page_size: int) -> None:
        self._page_size = page_size
        self._labels, self._ptrs, self._sizes = array("q"), array("Q"), array("Q")
        self._widths, self._heights = array("H"), array("H")
        self._earlier = self._earlier_end = 0  # the free rest of the page before
        self.start = self.end = PREFIX + capacity * RECORD.itemsize
        self._page_end = _round_up(self.end + 1, page_size)

    def __len__(self) -> int:
        return len(self._ptrs)

    @property
    def hole(self) -> tuple[int, int]:
        """The free range (start, stop) of the last page but one; in a resumed file, only it may hold stale bytes."""
        return self._earlier, self._earlier_end

    def place(self, size: int, width: int, height: int, label: int) -> int:
        """Add a sample, not larger than a page, and return the position of its bytes."""
        if size <= self._earlier_end - self._earlier:
            pointer = self._earlier
            self._earlier += size
        else:
            if size > self._page_end - self.end:
                self._earlier, self._earlier_end = self.end, self._page_end
                self.end, self._page_end = self._page_end, self._page_end + self._page_size
            pointer = self.end
            self.end += size
        self._ptrs.append(pointer)
        self._sizes.append(size)
        self._widths.append(width)
        self._heights.append(height)
        self._labels.append(label)
        return pointer

    def prefix(self) -> bytes:
        """Return the header, the field descriptors and the metadata, which start at byte 0."""
        records = np.zeros(len(self), RECORD)
        records["image"]["width"], records["image"]["height"] = self._widths, self._heights
        records["image"]["ptr"], records["label"] = self._ptrs, self._labels
        header = np.array((VERSION, 2, self._page_size, len(self), self.end), HEADER)
        fields = np.array([(RGB, b"image", b""), (INT, b"label", b"")], FIELD)
        return header.tobytes() + fields.tobytes() + records.tobytes()

    def gaps(self) -> list[tuple[int, int]]:
        """Return the ranges (start, stop) of zeros that belong to no record: before, between and behind the records."""
        starts, sizes = np.array(self._ptrs, np.int64), np.array(self._sizes, np.int64)
        order = np.argsort(starts)
        edges = [PREFIX + len(self) * RECORD.itemsize, *(starts + sizes)[order].tolist()]
        return [(edge, start) for edge, start in zip(edges, [*starts[order].tolist(), self.end], strict=True) if edge < start]

    def sha256(self) -> str:
        """Hash the prefix and the table; equals ``Beton.index_sha256`` of the finished file."""
        return hashlib.sha256(self.prefix() + self.table()).hexdigest()

    def describe(self, position: int) -> tuple[str, int | None]:
        """Name the part of the prefix or of the table at a byte; return the name and the sample that it is of."""
        if position >= self.end:
            sample = (position - self.end) // ROW.itemsize
            return f"the allocation table's row of sample {sample}", sample
        if position >= PREFIX:
            sample = (position - PREFIX) // RECORD.itemsize
            return f"the metadata of sample {sample}", sample
        return "the header", None

    def table(self) -> bytes:
        """Return the allocation table, which starts at byte ``end``."""
        rows = np.zeros(len(self), ROW)
        rows["sample"] = np.arange(len(self))
        rows["ptr"], rows["size"] = self._ptrs, self._sizes
        return rows.tobytes()


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
