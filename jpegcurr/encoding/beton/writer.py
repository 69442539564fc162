"""The ordered writer of a ``.beton``, which is none until it is finished."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from jpegcurr.encoding.beton.format import DEFAULT_PAGE_SIZE, HEADER, ROW, BetonIndex

_BUFFERED = 1 << 22  # bytes that a writer holds back at most
_SYNC_EVERY = 1 << 24  # bytes
_sync = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter
_VECTORS = 512  # buffers in one system call; Linux takes 1024


class BetonWriter:
    """Append (JPEG, label) samples in order, then ``finish``; a context manager that closes the file.

    ``capacity`` is the largest number of samples that will be appended; fewer leave zeros behind the metadata. Until
    ``finish`` the file has no header, so nothing takes it for a beton.
    """

    def __init__(self, path: Path, capacity: int, page_size: int = DEFAULT_PAGE_SIZE) -> None:
        self.path = path
        self.index = BetonIndex(capacity, page_size)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._held: list[bytes] = []
        self._held_at = self._held_bytes = 0
        self._syncer = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._syncing: Future[None] | None = None
        self._unsynced = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._syncer.shutdown()
        os.close(self._file)

    def append(self, jpeg: bytes, width: int, height: int, label: int) -> None:
        """Store one sample, of no more bytes than a page has."""
        pointer = self.index.place(len(jpeg), width, height, label)
        if pointer != self._held_at + self._held_bytes or self._held_bytes >= _BUFFERED or len(self._held) == _VECTORS:
            self.flush()
            self._held_at = pointer
        self._held.append(jpeg)
        self._held_bytes += len(jpeg)

    def flush(self) -> None:
        """Hand everything appended to the operating system; it then outlives this process."""
        if self._held:
            self._write(self._held, self._held_at)
            self._unsynced += self._held_bytes
            self._held, self._held_bytes = [], 0
            self._sync_behind()

    def stored(self, pointer: int, size: int) -> bytes:
        """Read back what was flushed; fewer bytes where the file ends before."""
        return os.pread(self._file, size, pointer)

    def drop_cache(self) -> None:
        """Have ``stored`` read the disk, and not what the system still holds of a write that failed."""
        drop_cache(self._file)

    def sync_failed(self) -> bool:
        """Whether a sync behind the writer has failed; the system says so only once. Nothing more can be appended."""
        self._syncer.shutdown()
        return self._syncing is not None and self._syncing.exception() is not None

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` is still the file that is written."""
        return path.exists() and os.path.samestat(os.fstat(self._file), path.stat())

    def restart(self, index: BetonIndex) -> None:
        """Go on behind the samples of ``index``, whose bytes are in the file; whatever else it holds is taken out."""
        self.index = index
        os.ftruncate(self._file, index.end)
        places = [index.hole]
        if any(os.pread(self._file, HEADER.itemsize, 0)):  # a finish was cut off
            places.append((0, index.start))
        for start, stop in places:
            if stop > start:
                self._write([bytes(stop - start)], start)

    def finish(self) -> None:
        """Write the allocation table, the metadata and the header, and wait until all is on the disk."""
        self.flush()
        self._write([self.index.table()], self.index.end)
        os.ftruncate(self._file, self.index.end + len(self.index) * ROW.itemsize)
        self.sync()  # a header never stands before what it speaks of
        self._write([self.index.prefix()], 0)
        self.sync()

    def sync(self) -> None:
        """Wait until everything that was flushed is on the disk; raises what the disk says, also to a sync before."""
        try:
            if self._syncing:
                self._syncing.result()
            os.fsync(self._file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None

    def _sync_behind(self) -> None:
        """Keep the disk at work beside the encoding, so that neither ``finish`` nor the page cache has it all to do."""
        if self._unsynced < _SYNC_EVERY or (self._syncing and not self._syncing.done()):
            return
        if self._syncing and self._syncing.exception():
            self.sync()
        self._unsynced = 0
        self._syncing = self._syncer.submit(_sync, self._file)

    def _write(self, parts: list[bytes], position: int) -> None:
        """Write ``parts`` one behind the other; the system may take fewer bytes at a time."""
        total = sum(map(len, parts))
        try:
            written = os.pwritev(self._file, parts, position)
            if written < total:
                rest = memoryview(b"".join(parts))
                while written < total:
                    written += os.pwrite(self._file, rest[written:], position + written)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from None


def drop_cache(file: int) -> None:
    """Write what can be written, and forget what the system holds of an open file."""
    with suppress(OSError):
        os.fsync(file)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
