"""FFCV's ``.beton`` format, version 2: what stands where, and where the next record goes.

    header                24 bytes
    field descriptors     1041 bytes a field
    metadata              one fixed record a sample, no padding before it
    pages                 addresses from n * page_size to (n + 1) * page_size; a stored record never crosses into the next
    allocation table      to the end of the file: one row of (sample, pointer, size) a stored record

All numbers are little-endian and pointers are absolute. Source: ffcv 1.0.2, ``ffcv/types.py``, ``ffcv/reader.py`` and
``ffcv/memory_managers``. FFCV's own writer gives the metadata and the last record whole pages to themselves, which no
reader asks for; here they share theirs, so a small file is as small as its images. Its rows come in the order in which
its workers finished, it hangs when one of them dies, and it cannot store a JPEG's original bytes.
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

    With fewer, the holes at the pages' ends are more than a hundredth of the file.
    """
    wanted = max(largest, 24 * mean)
    return min(max(DEFAULT_PAGE_SIZE, 1 << max(wanted - 1, 0).bit_length()), MAX_PAGE_SIZE)


class BetonIndex:
    """Where every record of a beton lies, and all its bytes that are not records.

    A function of the records' sizes and order, of ``capacity`` and of ``page_size`` alone, so that a stopped writer can go
    on and a finished file can be checked. A record goes to the end of the last page but one if that still has room for it,
    which leaves a fifth of the holes that filling page after page does. Memory is 28 bytes a sample.
    """

    def __init__(self, capacity: int, page_size: int) -> None:
        self._page_size = page_size
        self._labels, self._ptrs, self._sizes = array("q"), array("Q"), array("Q")
        self._widths, self._heights = array("H"), array("H")
        self._earlier = self._earlier_end = 0  # what is left of the page before
        self.start = self.end = PREFIX + capacity * RECORD.itemsize
        self._page_end = _round_up(self.end + 1, page_size)

    def __len__(self) -> int:
        return len(self._ptrs)

    @property
    def hole(self) -> tuple[int, int]:
        """From where to where the last page but one is free: in a file that goes on, the one place that may hold old bytes."""
        return self._earlier, self._earlier_end

    def place(self, size: int, width: int, height: int, label: int) -> int:
        """Add a sample, of no more bytes than a page has, and return where its bytes go."""
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
        """Header, field descriptors and metadata, from byte 0 on."""
        records = np.zeros(len(self), RECORD)
        records["image"]["width"], records["image"]["height"] = self._widths, self._heights
        records["image"]["ptr"], records["label"] = self._ptrs, self._labels
        header = np.array((VERSION, 2, self._page_size, len(self), self.end), HEADER)
        fields = np.array([(RGB, b"image", b""), (INT, b"label", b"")], FIELD)
        return header.tobytes() + fields.tobytes() + records.tobytes()

    def gaps(self) -> list[tuple[int, int]]:
        """From where to where bytes belong to nothing, and are zero: before, between and behind the records."""
        starts, sizes = np.array(self._ptrs, np.int64), np.array(self._sizes, np.int64)
        order = np.argsort(starts)
        edges = [PREFIX + len(self) * RECORD.itemsize, *(starts + sizes)[order].tolist()]
        return [(edge, start) for edge, start in zip(edges, [*starts[order].tolist(), self.end], strict=True) if edge < start]

    def sha256(self) -> str:
        """Of prefix and table; ``Beton.index_sha256`` of the finished file."""
        return hashlib.sha256(self.prefix() + self.table()).hexdigest()

    def describe(self, position: int) -> tuple[str, int | None]:
        """What stands at a byte of the prefix or of the table, and of which sample."""
        if position >= self.end:
            sample = (position - self.end) // ROW.itemsize
            return f"the allocation table's row of sample {sample}", sample
        if position >= PREFIX:
            sample = (position - PREFIX) // RECORD.itemsize
            return f"the metadata of sample {sample}", sample
        return "the header", None

    def table(self) -> bytes:
        """The allocation table, from byte ``end`` on."""
        rows = np.zeros(len(self), ROW)
        rows["sample"] = np.arange(len(self))
        rows["ptr"], rows["size"] = self._ptrs, self._sizes
        return rows.tobytes()


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
