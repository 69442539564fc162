"""The interface of one output's samples while they are written (``Sink``) and when they are read again (``Reader``)."""

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from jpegcurr.system import WINDOWS

Row = dict[str, Any]  # of the items; see ``read_items``


class Sink(Protocol):
    """The samples of one output, at a hidden place of its own, in the order of their rows.

    ``restart`` comes first, once. What ``append`` was given must outlive the process after ``flush``, unless the format says of
    its row that it does not (``OutputFormat.kept``), and the machine after ``sync``, behind which nothing is appended.
    """

    def restart(self, rows: Iterable[Row]) -> None:
        """Continue behind the samples of ``rows``, all of which are there; remove everything else."""

    def append(self, row: Row, data: bytes) -> None:
        """Add one sample: the row of a stored image, and its JPEG."""

    def flush(self) -> None:
        """Hand everything to the operating system."""

    def sync(self) -> None:
        """Wait until everything is on the disk; raises the OSError of this sync or of an earlier one."""

    def sync_failed(self) -> bool:
        """Return whether a sync in the background has failed, which the system reports only once. Ends the appending."""

    def complete(self) -> int:
        """Write what belongs behind the samples, wait until all is on the disk, and return the size of all files in bytes."""

    def index_sha256(self) -> str | None:
        """Return the hash of everything that is no sample, if the format has such a part (``Manifest.index_sha256``)."""

    def is_at(self, place: Path) -> bool:
        """Return whether ``place`` is still the file or folder that is being written."""

    def close(self) -> None:
        """Release the files, whether the output is complete or not."""


class Reader(Protocol):
    """The stored samples of an output, finished or not; ``read`` is called for every row of a stored image, in order."""

    def read(self, row: Row) -> bytes:
        """Return the sample's bytes, fewer or other ones where the files do not hold them; raises OSError of the disk."""

    def close(self) -> None:
        """Release the files."""


@contextmanager
def name_in_errors(path: Path | str) -> Iterator[None]:
    """Name the file in an OSError of a call that knows only its descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def write_fully(descriptor: int, data: bytes) -> None:
    """Write all of ``data``: the system may accept fewer bytes per call."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def sync_file_system(folder: Path) -> None:
    """Wait until everything on the file system of ``folder`` is on the disk: one call for a million files.

    Where the system has ``syncfs`` (Linux), an error of the disk is an OSError; ``sync`` of others reports none.
    """
    if WINDOWS:  # which has no such call: there the file system's journal must do
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "syncfs"):
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
