"""Ordered writer of a ``.beton``, which gets its header last, so that an unfinished file is not taken for one."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from jpegcurr.descriptors import drop_cache, open_to_write, read_at, sync_data, write_at
from jpegcurr.encoding.beton.format import DEFAULT_PAGE_SIZE, HEADER, ROW, BetonIndex

_BUFFERED = 1 << 22  # maximum bytes that a writer holds back
_SYNC_EVERY = 1 << 24  # bytes
_VECTORS = 512  # buffers in one system call; Linux takes 1024


class BetonWriter:
    """Append (JPEG, label) samples in order, then ``finish``; a context manager that closes the file.

    ``capacity`` is the maximum number of samples; if fewer are appended, zeros follow the metadata. The file has no header
    before ``finish``.
    """

    def __init__(self, path: Path, capacity: int, page_size: int = DEFAULT_PAGE_SIZE) -> None:
        self.path = path
        self.index = BetonIndex(capacity, page_size)
        self._file = open_to_write(path)
        self._pending: list[bytes] = []
        self._pending_at = self._pending_bytes = 0
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, once; the context manager does so too."""
        self._syncer.shutdown()
        if self._open:
            self._open = False
            os.close(self._file)

    def append(self, jpeg: bytes, width: int, height: int, label: int) -> None:
        """Store one sample, not larger than a page."""
        pointer = self.index.place(len(jpeg), width, height, label)
        if (
            pointer != self._pending_at + self._pending_bytes
            or self._pending_bytes >= _BUFFERED
            or len(self._pending) == _VECTORS
        ):
            self.flush()
            self._pending_at = pointer
        self._pending.append(jpeg)
        self._pending_bytes += len(jpeg)

    def flush(self) -> None:
        """Hand all appended samples to the operating system, so that they outlive this process."""
        if self._pending:
            self._write(self._pending, self._pending_at)
            self._unsynced += self._pending_bytes
            self._pending, self._pending_bytes = [], 0
            self._sync_in_background()

    def read_stored(self, pointer: int, size: int) -> bytes:
        """Return flushed bytes; fewer than ``size`` where the file ends before."""
        return read_at(self._file, size, pointer)

    def drop_cache(self) -> None:
        """Make ``read_stored`` read the disk, not the system's copy of a failed write."""
        drop_cache(self._file)

    def sync_failed(self) -> bool:
        """Return whether a background sync has failed, which the system reports only once. Ends the appending."""
        self._syncer.shutdown()
        return self._syncing is not None and self._syncing.exception() is not None

    def is_at(self, path: Path) -> bool:
        """Return whether ``path`` is still the file that is being written."""
        return path.exists() and os.path.samestat(os.fstat(self._file), path.stat())

    def restart(self, index: BetonIndex) -> None:
        """Continue behind the samples of ``index``, whose bytes are in the file; remove all other bytes."""
        self.index = index
        os.ftruncate(self._file, index.end)
        places = [index.hole]
        if any(read_at(self._file, HEADER.itemsize, 0)):  # a finish was interrupted
            places.append((0, index.start))
        for start, stop in places:
            if stop > start:
                self._write([bytes(stop - start)], start)

    def finish(self) -> None:
        """Write the allocation table, the metadata and the header, and wait until they are on the disk."""
        self.flush()
        self._write([self.index.table()], self.index.end)
        os.ftruncate(self._file, self.index.end + len(self.index) * ROW.itemsize)
        self.sync()  # the header must not be on the disk before the bytes that it refers to
        self._write([self.index.prefix()], 0)
        self.sync()

    def sync(self) -> None:
        """Wait until all flushed bytes are on the disk; raises the OSError of this sync or of an earlier one."""
        try:
            if self._syncing:
                self._syncing.result()
            os.fsync(self._file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def _sync_in_background(self) -> None:
        """Keep the disk busy during the encoding, so that ``finish`` does not have to write everything."""
        if self._unsynced < _SYNC_EVERY or (self._syncing and not self._syncing.done()):
            return
        if self._syncing and self._syncing.exception():
            self.sync()
        self._unsynced = 0
        self._syncing = self._syncer.submit(sync_data, self._file)

    def _write(self, parts: list[bytes], position: int) -> None:
        """Write ``parts`` one after the other."""
        try:
            write_at(self._file, parts, position)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None
