"""FFCV's ``.beton`` format, version 2, in NumPy: an ordered writer and a memory-mapped reader.

    header                24 bytes
    field descriptors     1041 bytes a field
    metadata              one fixed record a sample, no padding before it
    zeros                 up to the next multiple of page_size
    pages                 page_size bytes each; a record never crosses a page
    allocation table      to the end of the file: one row of (sample, pointer, size) a stored record

All numbers are little-endian and pointers are absolute. Source: ffcv 1.0.2, ``ffcv/types.py``, ``ffcv/reader.py`` and
``ffcv/memory_allocator.py``. FFCV's own writer orders rows by whichever worker came first, hangs when a worker dies and
cannot store a JPEG's original bytes; this one is a plain sequential file.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from jpegcurr.errors import BetonError, ImageError

VERSION = 2
DEFAULT_PAGE_SIZE = 1 << 23
MAX_PAGE_SIZE = 1 << 31
MODE_JPEG = 0

_HEADER = np.dtype([("version", "<u2"), ("fields", "<u2"), ("page_size", "<u4"), ("samples", "<u8"), ("table", "<u8")])
_FIELD = np.dtype([("type", "u1"), ("name", "S16"), ("arguments", "V1024")])
_ROW = np.dtype([("sample", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
_IMAGE = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
_FLOAT, _INT, _RGB = 0, 1, 2
_FIELD_DTYPES = {_FLOAT: np.dtype("<f8"), _INT: np.dtype("<i8"), _RGB: _IMAGE}
_RECORD = np.dtype([("image", _IMAGE), ("label", "<i8")], align=True)


def page_size_for(largest: int) -> int:
    """Return the smallest page size of at least 8 MiB, a power of two, that holds a record of ``largest`` bytes."""
    return max(DEFAULT_PAGE_SIZE, 1 << max(largest - 1, 0).bit_length())


class BetonWriter:
    """Append (JPEG, label) samples in order, then ``finish``; a context manager that closes the file.

    The bytes are a function of the samples, their order, ``capacity`` and ``page_size`` alone. Memory is 48 bytes a
    sample. ``capacity`` is the largest number of samples that will be appended; fewer leave zeros behind the metadata.
    """

    def __init__(self, path: Path, capacity: int, page_size: int = DEFAULT_PAGE_SIZE) -> None:
        self._file: BinaryIO = path.open("wb", buffering=1 << 20)
        self._page_size = page_size
        self._records = np.zeros(capacity, _RECORD)
        self._rows = np.zeros(capacity, _ROW)
        self._count = 0
        prefix = _HEADER.itemsize + 2 * _FIELD.itemsize + self._records.nbytes
        self._position = _round_up(prefix, page_size)
        self._file.seek(self._position)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def append(self, jpeg: bytes, width: int, height: int, label: int) -> None:
        """Store one sample; ``check_fits`` says beforehand whether a page can hold it."""
        left = self._page_size - self._position % self._page_size
        if len(jpeg) > left:
            self._pad(left)
        self._records[self._count] = ((MODE_JPEG, width, height, self._position), label)
        self._rows[self._count] = (self._count, self._position, len(jpeg))
        self._file.write(jpeg)
        self._position += len(jpeg)
        self._count += 1

    def check_fits(self, jpeg: bytes) -> None:
        """Raise ImageError if no page can hold ``jpeg``."""
        if len(jpeg) > self._page_size:
            raise ImageError(f"{len(jpeg)} bytes do not fit into a page of {self._page_size}")

    def _pad(self, zeros: int) -> None:
        self._file.write(bytes(zeros))
        self._position += zeros

    def finish(self) -> None:
        """Write the allocation table, the metadata and the header; without it the file is no beton."""
        self._pad(-self._position % self._page_size)
        self._file.write(self._rows[: self._count].tobytes())
        header = np.array((VERSION, 2, self._page_size, self._count, self._position), _HEADER)
        fields = np.array([(_RGB, b"image", b""), (_INT, b"label", b"")], _FIELD)
        self._file.seek(0)
        self._file.write(header.tobytes() + fields.tobytes() + self._records[: self._count].tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())  # the slow part, before any of an output's files gets its name


class Beton:
    """A whole ``.beton`` of images and integer labels, memory-mapped: ours or one that FFCV wrote.

    Attributes:
        labels: int64 [n].
        widths, heights: uint16 [n], pixels.
        modes: uint8 [n], 0 for a JPEG, 1 for raw RGB.

    Raises:
        BetonError: the file is missing, is not a version-2 beton, is cut short, or has other fields.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map = _map(path)
        header = self._header()
        self.page_size = int(header["page_size"])
        records = self._read_records(int(header["fields"]), int(header["samples"]))
        image, label = self._columns()
        self.labels: NDArray[np.int64] = records[label].astype(np.int64)
        self.widths: NDArray[np.uint16] = records[image]["width"].copy()
        self.heights: NDArray[np.uint16] = records[image]["height"].copy()
        self.modes: NDArray[np.uint8] = records[image]["mode"].copy()
        self._ptrs: NDArray[np.uint64] = records[image]["ptr"].copy()
        self.sizes = self._read_sizes(int(header["table"]))

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type["Beton"], tuple[Path]]:
        return Beton, (self.path,)  # a worker process maps the file itself

    def payload(self, index: int) -> bytes:
        """Return the stored bytes of one sample: a JPEG in mode 0, RGB rows [h w 3] in mode 1."""
        start = int(self._ptrs[index])
        return self._map[start : start + int(self.sizes[index])].tobytes()

    def _header(self) -> np.void:
        if len(self._map) < _HEADER.itemsize:
            raise BetonError(f"{self.path} is not a .beton: it has only {len(self._map)} bytes.")
        header: np.void = self._map[: _HEADER.itemsize].view(_HEADER)[0]
        size = int(header["page_size"])
        if header["version"] != VERSION or size & (size - 1) or not 1 <= header["fields"] <= 64:
            raise BetonError(f"{self.path} is not a version-{VERSION} .beton. `jpegcurr encode` makes one.")
        table, length = int(header["table"]), len(self._map)
        if table == 0 or table > length or (length - table) % _ROW.itemsize or (header["samples"] and table == length):
            raise BetonError(f"{self.path} is cut short, or its writer did not finish. Make it again with --force.")
        return header

    def _read_records(self, fields: int, samples: int) -> np.ndarray:
        start = _HEADER.itemsize + fields * _FIELD.itemsize
        descriptors = self._slice(_HEADER.itemsize, _FIELD, fields)
        kinds = [int(kind) for kind in descriptors["type"]]
        strange = [kind for kind in kinds if kind not in _FIELD_DTYPES]
        if strange:
            raise BetonError(f"{self.path} has a field of FFCV type {strange[0]}; only image, int and float are read.")
        dtype = np.dtype([(f"f{i}", _FIELD_DTYPES[kind]) for i, kind in enumerate(kinds)], align=True)
        self._kinds = kinds
        return self._slice(start, dtype, samples)

    def _columns(self) -> tuple[str, str]:
        if self._kinds.count(_RGB) != 1 or self._kinds.count(_INT) != 1:
            raise BetonError(f"{self.path} must have one image field and one integer field (the label).")
        return f"f{self._kinds.index(_RGB)}", f"f{self._kinds.index(_INT)}"

    def _read_sizes(self, table: int) -> NDArray[np.int64]:
        """The stored size of every sample, through the allocation table; checks that every record has its row."""
        rows = self._map[table:].view(_ROW)
        rows = rows[np.argsort(rows["ptr"], kind="stable")]
        position = np.searchsorted(rows["ptr"], self._ptrs)
        found = position < len(rows)
        found[found] = rows["ptr"][position[found]] == self._ptrs[found]
        if not found.all() or (rows["ptr"] + rows["size"] > table).any():
            raise BetonError(f"{self.path} is damaged: its allocation table does not match its samples. Make it again.")
        return rows["size"][position].astype(np.int64)

    def _slice(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        stop = start + dtype.itemsize * count
        if stop > len(self._map):
            raise BetonError(f"{self.path} is cut short: its metadata ends at byte {stop} of {len(self._map)}.")
        return self._map[start:stop].view(dtype)


def _map(path: Path) -> NDArray[np.uint8]:
    if path.is_dir():
        raise BetonError(f"{path} is a folder. Name one .beton in it.")
    if not path.is_file():
        raise BetonError(f"{path} does not exist. Make it with jpegcurr encode, from data/imagenet or the folder you name.")
    if not os.access(path, os.R_OK):
        raise BetonError(f"{path} cannot be read: no permission.")
    if path.stat().st_size == 0:
        raise BetonError(f"{path} is not a .beton: it is empty.")
    return np.asarray(np.memmap(path, np.uint8, mode="r"))


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
