"""Reader of ``.beton`` files, which checks every offset before it uses it.

The file is read with ``pread`` and never mapped: a mapped file that another program cuts short ends the process with SIGBUS,
without a word, while a read that comes back short becomes an error that names the file.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from jpegcurr.descriptors import advise, open_to_read, read_at, read_into
from jpegcurr.encoding.beton.format import FIELD, FIELD_DTYPES, HEADER, INT, RGB, ROW, VERSION
from jpegcurr.encoding.outputs.paths import format_of
from jpegcurr.encoding.sources.class_labels import MOST_CLASSES
from jpegcurr.errors import BetonError

log = logging.getLogger("jpegcurr")

_PIECE = 1 << 24  # bytes hashed at a time


class Beton:
    """A whole, open ``.beton`` of images and integer labels, written by jpegcurr or by FFCV.

    Threads may read at the same time. The file stays open as long as this object lives.

    Attributes:
        labels: int64 [n], from 0 to 2^20 - 1.
        widths, heights: uint16 [n], pixels.
        modes: uint8 [n], 0 for a JPEG, 1 for raw RGB.
        pointers: int64 [n], position of each sample's bytes in the file.
        sizes: int64 [n], bytes of each sample.
        descriptor: of the open file, for compiled code that reads it.
        file_size: bytes, when the file was opened.

    Raises:
        BetonError: the file is missing, is not a version-2 beton, is cut short, or has other fields, or labels that are no
            numbers of classes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.descriptor = _open(self.path)
        finalize(self, os.close, self.descriptor)
        self._opened = os.fstat(self.descriptor)
        self._replaced = False
        self.file_size = self._opened.st_size
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
        self._check_labels()

    def __len__(self) -> int:
        return len(self.labels)

    def __reduce__(self) -> tuple[type["Beton"], tuple[Path]]:
        return Beton, (self.path,)  # a worker process opens the file itself

    def payload(self, index: int) -> bytes:
        """Return the stored bytes of one sample: a JPEG in mode 0, RGB rows [h w 3] in mode 1.

        Raises:
            BetonError: the file was cut short since it was opened, or its disk fails.
        """
        start, size = int(self.pointers[index]), int(self.sizes[index])
        with self._disk_in_errors():
            data = read_at(self.descriptor, size, start)
        return data if len(data) == size else self._read(start, size).tobytes()  # the system reads at most 2 GiB at a time

    def check_unchanged(self) -> None:
        """Check that the open file is still what it was when it was opened.

        A file of the same size and index that only has another modification time, as ``touch`` gives it, is accepted with a
        warning: its images are not compared. So is a path that now names another file, because the open one is still whole.

        Raises:
            BetonError: the file was cut short, or written to.
        """
        now = os.fstat(self.descriptor)
        if now.st_size != self.file_size:
            raise self._changed(now.st_size)
        if not self._replaced and not self._is_at_path(now):
            self._replaced = True
            log.warning("%s was moved or replaced; what was opened before is still read, and is whole", self.path)
        if now.st_mtime_ns != self._opened.st_mtime_ns:
            if self._replaced or not self._same_index(Beton(self.path)):
                raise self._changed(now.st_size)
            log.warning("%s was touched or rewritten since it was opened; its index is the same, its images unknown", self.path)
            self._opened = now

    def fetch_page(self, page: int) -> None:
        """Ask the system to start reading a page of ``page_size`` bytes."""
        self._advise(page, "WILLNEED")

    def release_page(self, page: int) -> None:
        """Let the system drop a page from memory; it is read again when it is needed."""
        self._advise(page, "DONTNEED")

    def index_sha256(self) -> str:
        """Hash everything before and behind the samples: header, field descriptors, metadata and allocation table."""
        digest = hashlib.sha256()
        for start, stop in ((0, self._prefix), (self._table, self.file_size)):
            for piece in range(start, stop, _PIECE):
                digest.update(self._read(piece, min(_PIECE, stop - piece)).data)
        return digest.hexdigest()

    def read(self, start: int, size: int) -> bytes:
        """Return bytes of the file itself; fewer where it ends before. Raises as ``payload``."""
        return self._read(start, max(0, min(size, self.file_size - start))).tobytes()

    def _read(self, start: int, size: int) -> NDArray[np.uint8]:
        """Return bytes that the file had when it was opened, uint8 [size]."""
        data, done = np.empty(size, np.uint8), 0
        while done < size:
            with self._disk_in_errors():
                count = read_into(self.descriptor, data[done:].data, start + done)
            if count == 0:
                raise self._changed(os.fstat(self.descriptor).st_size)
            done += count
        return data

    @contextmanager
    def _disk_in_errors(self) -> Iterator[None]:
        """Name the file in the error of a disk or network that fails."""
        try:
            yield
        except OSError as error:
            raise BetonError(f"{self.path} cannot be read: {error.strerror}. Check its disk, or copy it again.") from None

    def _changed(self, size: int) -> BetonError:
        change = f"it had {self.file_size} bytes and has {size}" if size != self.file_size else "its content is another"
        return BetonError(
            f"{self.path} was changed while it was in use: {change}. Copy it again, or encode it again with --force, and start "
            "this command again when the file is whole."
        )

    def _is_at_path(self, opened: os.stat_result) -> bool:
        try:
            return os.path.samestat(self.path.stat(), opened)
        except OSError:
            return False

    def _same_index(self, other: "Beton") -> bool:
        columns = ("labels", "widths", "heights", "modes", "pointers", "sizes")
        return all(np.array_equal(getattr(self, name), getattr(other, name)) for name in columns)

    def _advise(self, page: int, advice: Literal["WILLNEED", "DONTNEED"]) -> None:
        """Advise the system about a page."""
        start = page * self.page_size
        size = min(self.page_size, self.file_size - start)
        if size > 0:
            advise(self.descriptor, start, size, advice)

    def _header(self) -> np.void:
        if self.file_size < HEADER.itemsize:
            raise BetonError(f"{self.path} is not a .beton: it has only {self.file_size} bytes.")
        header: np.void = self._read(0, HEADER.itemsize).view(HEADER)[0]
        size = int(header["page_size"])
        if header["version"] != VERSION or size.bit_count() != 1 or not 1 <= header["fields"] <= 64:
            raise BetonError(f"{self.path} is not a version-{VERSION} .beton. Write one with jpegcurr encode.")
        table, length = int(header["table"]), self.file_size
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
        rows = self._read(table, self.file_size - table).view(ROW)
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
        if stop > self.file_size:
            raise BetonError(f"{self.path} is cut short: its metadata end at byte {stop} of {self.file_size}. Encode it again.")
        return self._read(start, stop - start).view(dtype)

    def _check_labels(self) -> None:
        """Raise BetonError for a label that cannot be the number of a class: every class becomes an output of a model."""
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= MOST_CLASSES))
        if len(wrong):
            raise BetonError(
                f"{self.path} is damaged, or its labels are no classes: that of sample {wrong[0]} is {self.labels[wrong[0]]}. "
                f"Classes are numbered from 0 to at most {MOST_CLASSES - 1}, as jpegcurr encode does. Write the file again."
            )


def encode_command(path: Path) -> str:
    """Return the command that writes a beton, with the quality that its name states, if it does."""
    named = re.search(r"-(?:q(\d+)|(source))$", path.stem)
    return f"jpegcurr encode --quality {named[1] or named[2]}" if named else "jpegcurr encode"


def _open(path: Path) -> int:
    if path.is_dir() and (kind := format_of(path)) != "beton":
        raise BetonError(
            f"{path} is a folder of the format {kind}, and only a .beton is read here. If jpegcurr wrote it, convert it: "
            f"jpegcurr convert {path} --to beton."
        )
    if path.is_dir():
        raise BetonError(f"{path} is a folder. Name one .beton in it.")
    if not path.is_file():
        interrupted = path.with_name(f".{path.stem}.beton.partial").exists()
        hint = (
            "Its encode was interrupted: continue it with --resume."
            if interrupted
            else f"Write it with {encode_command(path)}."
        )
        raise BetonError(f"{path} does not exist. {hint}")
    if not os.access(path, os.R_OK):
        raise BetonError(f"{path} cannot be read: no permission. Change its permissions.")
    if path.stat().st_size == 0:
        raise BetonError(f"{path} is not a .beton: it is empty.")
    return open_to_read(path)
