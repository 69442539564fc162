"""The division of an output's samples into shards, and what the folders of both kinds of shards have in common."""

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from jpegcurr.files import sync_folder

SHARD_BYTES = 256_000_000
SHARD_IMAGES = 10_000


class Sharding:
    """The rule, from the first sample on: a shard ends before the JPEG with which its JPEGs would exceed ``shard_bytes``.

    A shard has at most 10,000 images, and at least one. ``number`` is that of the sample placed last, counted from 0.
    """

    def __init__(self, shard_bytes: int) -> None:
        self._shard_bytes = shard_bytes
        self.number, self._images, self._bytes = -1, SHARD_IMAGES, 0
        self.lengths: list[int] = []

    def place(self, size: int) -> bool:
        """Place the next sample, a JPEG of ``size`` bytes; return whether it begins a shard."""
        begins = self._images == SHARD_IMAGES or self._bytes + size > self._shard_bytes
        if begins:
            self.number, self._images, self._bytes = self.number + 1, 0, 0
            self.lengths.append(0)
        self._images += 1
        self._bytes += size
        self.lengths[-1] += 1
        return begins


class ShardFolder:
    """The folder of shards that is being written, and a thread that waits for the disk meanwhile."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._status = place.stat()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sync")
        self._tasks: list[Future[None]] = []

    def run_behind(self, task: Callable[[], None]) -> None:
        """Call ``task`` in the thread; raises the OSError of a task before it, of which at most one still runs."""
        self.wait()
        self._tasks.append(self._worker.submit(task))

    def wait(self) -> None:
        """Wait for the thread; raises the OSError of a task."""
        while self._tasks:
            self._tasks[0].result()  # stays in the list if it has failed, for failed()
            del self._tasks[0]

    def failed(self) -> bool:
        """Return whether a task has failed."""
        self._worker.shutdown()
        return any(task.exception() is not None for task in self._tasks)

    def sync_names(self) -> None:
        """Wait until the names in the folder are on the disk."""
        sync_folder(self.place)

    def size(self) -> int:
        """Return the size of all files in bytes."""
        return sum(entry.stat().st_size for entry in os.scandir(self.place))

    def is_at(self, place: Path) -> bool:
        """Return whether ``place`` is still this folder."""
        return place.exists() and os.path.samestat(self._status, place.stat())

    def close(self) -> None:
        """End the thread."""
        self._worker.shutdown()


def remove_other_files(folder: Path, kept: set[str]) -> None:
    """Remove the files of a folder whose names are not in ``kept``."""
    for entry in list(os.scandir(folder)):
        if entry.name not in kept:
            os.unlink(entry.path)  # noqa: PTH108
