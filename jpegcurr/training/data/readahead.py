"""Reading of files larger than memory: pages are fetched ahead of their use and released after it.

A page here is a beton's own, 8 MiB by default. All of this is advice to the kernel (``posix_fadvise``) about files that all
loaders read with ``pread``: wrong advice costs time and never changes a pixel, and processes on one machine share the pages. In
quasi-random order a few hundred pages are in use at a time; in random order all of them would be.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.training.data.sampling import EpochSampler, Indices
from jpegcurr.training.sample_rng import SampleRng

AHEAD = 3  # batches


class Readahead:
    """The pages of one epoch. Call ``start`` before every batch; it does nothing if ``sampler.os_cache`` is set."""

    def __init__(self, sampler: EpochSampler, epoch: int, batches: Sequence[Indices]) -> None:
        self._files = list(dict.fromkeys(variant.beton for variant in sampler.variants.values()))
        self._first_uses = self._last_uses = np.empty((0, 3), np.int64)
        self._fetched = self._released = 0
        if not sampler.os_cache and len(batches):
            self._first_uses, self._last_uses = _schedule(self._files, *_find_samples(sampler, self._files, epoch, batches))

    def start(self, batch: int, kept: int = 1) -> None:
        """Fetch the pages of ``batch`` and the next few; release those whose last use is at least ``kept`` batches ago."""
        while self._fetched < len(self._first_uses) and self._first_uses[self._fetched, 0] <= batch + AHEAD:
            _, file, page = self._first_uses[self._fetched]
            self._files[file].fetch_page(int(page))
            self._fetched += 1
        self._release(batch - kept)

    def close(self) -> None:
        """Release all remaining pages."""
        self._release(np.iinfo(np.int64).max)

    def _release(self, last_batch: int) -> None:
        while self._released < len(self._last_uses) and self._last_uses[self._released, 0] <= last_batch:
            _, file, page = self._last_uses[self._released]
            self._files[file].release_page(int(page))
            self._released += 1


def _find_samples(
    sampler: EpochSampler, files: Sequence[Beton], epoch: int, batches: Sequence[Indices]
) -> tuple[Indices, Indices, Indices]:
    """Return the batch, file and index of every sample in order. Variants may share a file."""
    occurrences = np.concatenate(batches)
    batch_numbers = np.repeat(np.arange(len(batches)), [len(batch) for batch in batches])
    file_of_variant = np.array([files.index(variant.beton) for variant in sampler.variants.values()])
    variants = sampler.drawn_variants(epoch, SampleRng(sampler.seed, epoch, occurrences))
    return batch_numbers, file_of_variant[variants], sampler.indices(occurrences)


def _schedule(
    files: Sequence[Beton], batch_numbers: Indices, file_numbers: Indices, indices: Indices
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first and the last use of every page, as rows of (batch, file, page) sorted by batch."""
    uses = []
    for number, beton in enumerate(files):
        in_file = file_numbers == number
        starts, sizes = beton.pointers[indices[in_file]], beton.sizes[indices[in_file]]
        # Our writer keeps a record within one page; a file of another writer may not.
        for bytes_ in (starts, starts + np.maximum(sizes, 1) - 1):
            uses.append(np.stack([batch_numbers[in_file], np.full(len(starts), number), bytes_ // beton.page_size], axis=1))
    rows = np.concatenate(uses)
    rows = rows[np.lexsort((rows[:, 0], rows[:, 2], rows[:, 1]))]
    is_first = np.append(True, (rows[1:, 1:] != rows[:-1, 1:]).any(axis=1))
    first, last = rows[is_first], rows[np.append(is_first[1:], True)]
    return first[np.argsort(first[:, 0], kind="stable")], last[np.argsort(last[:, 0], kind="stable")]
