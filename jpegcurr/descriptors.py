"""Open files by their descriptors: reading and writing at a position, advice on caching, and ``fdatasync``, on any system.

POSIX has calls that read or write at a position without moving it, so threads share a descriptor. Where the system has none of
them (Windows), or not all (macOS), the same is done in steps, under a lock that all descriptors share.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Literal

_BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends otherwise
_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_moving = Lock()


def open_to_read(path: str | Path) -> int:
    """Open a file for reading; a pipe without a writer does not hang."""
    return os.open(path, os.O_RDONLY | _NONBLOCK | _BINARY)


def open_to_write(path: Path, *, append: bool = False) -> int:
    """Open a file for reading and writing, created if there is none; with ``append``, ``os.write`` writes at its end."""
    return os.open(path, os.O_RDWR | os.O_CREAT | (os.O_APPEND if append else 0) | _BINARY, 0o666)


def read_at(descriptor: int, size: int, position: int) -> bytes:
    """Return bytes from ``position``: fewer than ``size`` at the end of the file, or above 2 GiB."""
    if hasattr(os, "pread"):
        data: bytes = os.pread(descriptor, size, position)
        return data
    with _moving:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.read(descriptor, size)


def read_into(descriptor: int, buffer: memoryview, position: int) -> int:
    """Fill ``buffer`` (bytes) from ``position``; return how many bytes were read, as for ``read_at``."""
    if hasattr(os, "preadv"):
        count: int = os.preadv(descriptor, [buffer], position)
        return count
    data = read_at(descriptor, len(buffer), position)
    buffer[: len(data)] = data
    return len(data)


def write_at(descriptor: int, parts: Sequence[bytes], position: int) -> None:
    """Write all of ``parts``, up to 1,024 of them, one after the other from ``position``."""
    written, total = 0, sum(map(len, parts))
    if hasattr(os, "pwritev"):
        written = os.pwritev(descriptor, parts, position)
    if written < total:  # the system may accept fewer bytes per call
        rest = memoryview(b"".join(parts))
        while written < total:
            written += _write_some(descriptor, rest[written:], position + written)


def _write_some(descriptor: int, data: memoryview, position: int) -> int:
    if hasattr(os, "pwrite"):
        count: int = os.pwrite(descriptor, data, position)
        return count
    with _moving:
        os.lseek(descriptor, position, os.SEEK_SET)
        return os.write(descriptor, data)


def sync_data(descriptor: int) -> None:
    """Wait until the bytes of a file are on the disk, but not the time of its change where the system tells them apart."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def advise(descriptor: int, start: int, size: int, advice: Literal["WILLNEED", "DONTNEED"]) -> None:
    """Tell the system that bytes (``size`` 0: to the end) will be needed soon, or not again, if it takes such advice."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, start, size, getattr(os, f"POSIX_FADV_{advice}"))


def drop_cache(descriptor: int) -> None:
    """Write out and drop the system's cached pages of an open file."""
    with suppress(OSError):
        os.fsync(descriptor)
    advise(descriptor, 0, 0, "DONTNEED")
