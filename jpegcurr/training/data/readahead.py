"""Reading files that are larger than the memory: pages are fetched before they are needed and given back after.

A page here is a beton's own, 8 MiB as a rule. Everything is advice to the kernel (``posix_fadvise``, ``madvise``) about the
memory map that both loaders read from, so that wrong advice costs time and never a pixel, and several processes on one machine
share what is read. In quasi-random order a few hundred pages are in use at a time; in random order all of them would be.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.training.data.sampling import EpochSampler, Indices
from jpegcurr.training.sample_rng import SampleRng

AHEAD = 3  # batches


class Readahead:
    """One epoch's pages; ``start`` is called before each batch is begun. Does nothing where ``view.os_cache`` is set."""

    def __init__(self, sampler: EpochSampler, epoch: int, batches: Sequence[Indices]) -> None:
        self._files = list(dict.fromkeys(variant.beton for variant in sampler.variants.values()))
        self._wanted = self._left = np.empty((0, 3), np.int64)
        self._asked = self._given = 0
        if not sampler.os_cache and len(batches):
            self._wanted, self._left = _schedule(self._files, *_uses(sampler, self._files, epoch, batches))

    def start(self, batch: int, kept: int = 1) -> None:
        """Ask for the pages of ``batch`` and the next few; give back what only the batches ``kept`` ago and before needed."""
        while self._asked < len(self._wanted) and self._wanted[self._asked, 0] <= batch + AHEAD:
            _, file, page = self._wanted[self._asked]
            self._files[file].fetch_page(int(page))
            self._asked += 1
        self._give_back(batch - kept)

    def close(self) -> None:
        """Give back what is left."""
        self._give_back(np.iinfo(np.int64).max)

    def _give_back(self, before: int) -> None:
        while self._given < len(self._left) and self._left[self._given, 0] <= before:
            _, file, page = self._left[self._given]
            self._files[file].release_page(int(page))
            self._given += 1


def _uses(
    sampler: EpochSampler, files: Sequence[Beton], epoch: int, batches: Sequence[Indices]
) -> tuple[Indices, Indices, Indices]:
    """Of every sample in order: its batch, file and index. Several members may be of one file."""
    occurrences = np.concatenate(batches)
    numbers = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    file_of = np.array([files.index(variant.beton) for variant in sampler.variants.values()])
    drawn = sampler.drawn_variants(epoch, SampleRng(sampler.seed, epoch, occurrences))
    return numbers, file_of[drawn], sampler.indices(occurrences)


def _schedule(
    files: Sequence[Beton], batches: Indices, drawn: Indices, indices: Indices
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of (batch, file, page), sorted by batch: which first needs a page, and which is the last to."""
    uses = []
    for position, beton in enumerate(files):
        mine = indices[drawn == position]
        starts, sizes = beton.pointers[mine], beton.sizes[mine]
        for ends in (starts, starts + np.maximum(sizes, 1) - 1):  # a record lies in one page, but a foreign file's may not
            uses.append(np.stack([batches[drawn == position], np.full(len(mine), position), ends // beton.page_size], axis=1))
    every = np.concatenate(uses)
    every = every[np.lexsort((every[:, 0], every[:, 2], every[:, 1]))]
    new = np.append(True, (every[1:, 1:] != every[:-1, 1:]).any(axis=1))
    first, last = every[new], every[np.append(new[1:], True)]
    return first[np.argsort(first[:, 0], kind="stable")], last[np.argsort(last[:, 0], kind="stable")]
