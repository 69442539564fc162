"""Reader of ``.beton`` files, which checks every offset before it uses it."""

import hashlib
import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.format import FIELD, FIELD_DTYPES, HEADER, INT, RGB, ROW, VERSION
from jpegcurr.errors import BetonError


class Beton:
    """A whole, memory-mapped ``.beton`` of images and integer labels, written by jpegcurr or by FFCV.

    Attributes:
        labels: int64 [n].
        widths, heights: uint16 [n], pixels.
        modes: uint8 [n], 0 for a JPEG, 1 for raw RGB.
        pointers: int64 [n], position of each sample's bytes in the file.
        sizes: int64 [n], bytes of each sample.

    Raises:
        BetonError: the file is missing, is not a version-2 beton, is cut short, or has other fields.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _open(path) as file:
            self._mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map: NDArray[np.uint8] = np.frombuffer(self._mmap, np.uint8)
        header = self._header()
        self.page_size = int(header["page_size"])
        records = self._read_records(int(header["fields"]), int(header["samples"]))
        image, label = self._columns()
        self.labels: NDArray[np.int64] = records[label].astype(np.int64)
        self.widths: NDArray[np.uint16] = records[image]["width"].copy()
        self.heights: NDArray[np.uint16] = records[image]["height"].copy()
        self.modes: NDArray[np.uint8] = records[image]["mode"].copy()
        self.pointers: NDArray[np.int64] = records[image]["ptr"].astype(np.int64)
        self._table = int(header["table"])
        self.sizes: NDArray[np.int64] = self._read_sizes(self._table)

    @property
    def file_size(self) -> int:
        """The size of the file, bytes."""
        return len(self._map)

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type["Beton"], tuple[Path]]:
        return Beton, (self.path,)  # a worker process maps the file itself

    def payload(self, index: int) -> bytes:
        """Return the stored bytes of one sample: a JPEG in mode 0, RGB rows [h w 3] in mode 1."""
        start = int(self.pointers[index])
        return self._map[start : start + int(self.sizes[index])].tobytes()

    @property
    def address(self) -> int:
        """The file's address in this process's memory, valid as long as this object lives."""
        return int(self._map.ctypes.data)

    def fetch_page(self, page: int) -> None:
        """Ask the system to start reading a page of ``page_size`` bytes."""
        self._advise(page, "WILLNEED")

    def release_page(self, page: int) -> None:
        """Let the system drop a page from memory; it is read again when it is needed."""
        self._advise(page, "DONTNEED")

    def index_sha256(self) -> str:
        """Hash everything before and behind the samples: header, field descriptors, metadata and allocation table."""
        return hashlib.sha256(self._map[: self._prefix].tobytes() + self._map[self._table :].tobytes()).hexdigest()

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the file itself; fewer where it ends before."""
        return self._map[start : start + size].tobytes()

    def _advise(self, page: int, advice: str) -> None:
        """Advise the map and then the file, since the system keeps mapped pages. Do nothing on systems without the call."""
        start = page * self.page_size
        size = min(self.page_size, len(self._map) - start)
        if size > 0 and hasattr(mmap, f"MADV_{advice}") and hasattr(os, "posix_fadvise"):
            self._mmap.madvise(getattr(mmap, f"MADV_{advice}"), start, size)
            with suppress(OSError), self.path.open("rb") as file:  # the map outlives the file's name
                os.posix_fadvise(file.fileno(), start, size, getattr(os, f"POSIX_FADV_{advice}"))

    def _header(self) -> np.void:
        if len(self._map) < HEADER.itemsize:
            raise BetonError(f"{self.path} is not a .beton: it has only {len(self._map)} bytes.")
        header: np.void = self._map[: HEADER.itemsize].view(HEADER)[0]
        size = int(header["page_size"])
        if header["version"] != VERSION or size.bit_count() != 1 or not 1 <= header["fields"] <= 64:
            raise BetonError(f"{self.path} is not a version-{VERSION} .beton. Write one with jpegcurr encode.")
        table, length = int(header["table"]), len(self._map)
        if table == 0 or table > length or (length - table) % ROW.itemsize or (header["samples"] and table == length):
            raise BetonError(f"{self.path} is cut short, or its writer did not finish. Encode it again with --force.")
        return header

    def _read_records(self, fields: int, samples: int) -> np.ndarray:
        start = HEADER.itemsize + fields * FIELD.itemsize
        descriptors = self._slice(HEADER.itemsize, FIELD, fields)
        kinds = [int(kind) for kind in descriptors["type"]]
        unknown = [kind for kind in kinds if kind not in FIELD_DTYPES]
        if unknown:
            raise BetonError(
                f"{self.path} has a field of FFCV type {unknown[0]}. Only image, int and float fields can be read."
            )
        dtype = np.dtype([(f"f{i}", FIELD_DTYPES[kind]) for i, kind in enumerate(kinds)], align=True)
        self._kinds = kinds
        self._prefix = start + samples * dtype.itemsize
        return self._slice(start, dtype, samples)

    def _columns(self) -> tuple[str, str]:
        if self._kinds.count(RGB) != 1 or self._kinds.count(INT) != 1:
            raise BetonError(
                f"{self.path} must have one image field and one integer field (the label). Write one with jpegcurr encode."
            )
        return f"f{self._kinds.index(RGB)}", f"f{self._kinds.index(INT)}"

    def _read_sizes(self, table: int) -> NDArray[np.int64]:
        """Return the stored size of every sample from the allocation table; check that every record has its row."""
        rows = self._map[table:].view(ROW)
        rows = rows[np.argsort(rows["ptr"], kind="stable")]
        pointers = self.pointers.view(np.uint64)
        position = np.searchsorted(rows["ptr"], pointers)
        listed = position < len(rows)
        listed[listed] = rows["ptr"][position[listed]] == pointers[listed]
        if not listed.all():
            first = int(np.argmin(listed))
            raise BetonError(
                f"{self.path} is damaged: its allocation table lacks sample {first}. Encode it again with --force."
            )
        if (rows["ptr"] > table).any() or (rows["size"] > table - rows["ptr"]).any():
            raise BetonError(f"{self.path} is damaged: its allocation table points behind the samples. Encode it again.")
        return rows["size"][position].astype(np.int64)

    def _slice(self, start: int, dtype: np.dtype, count: int) -> np.ndarray:
        stop = start + dtype.itemsize * count
        if stop > len(self._map):
            raise BetonError(f"{self.path} is cut short: its metadata end at byte {stop} of {len(self._map)}. Encode it again.")
        return self._map[start:stop].view(dtype)


def _open(path: Path) -> BinaryIO:
    if path.is_dir():
        raise BetonError(f"{path} is a folder. Name one .beton in it.")
    if not path.is_file():
        interrupted = path.with_name(f".{path.stem}.beton.partial").exists()
        hint = "Its encode was interrupted: continue it with --resume." if interrupted else "Write it with jpegcurr encode."
        raise BetonError(f"{path} does not exist. {hint}")
    if not os.access(path, os.R_OK):
        raise BetonError(f"{path} cannot be read: no permission. Change its permissions.")
    if path.stat().st_size == 0:
        raise BetonError(f"{path} is not a .beton: it is empty.")
    return path.open("rb")
