"""The loader without a compiler: threads that decode one batch after the other with ``transforms.make_sample``.

Decoding and resizing release the interpreter lock, so threads do the work of processes without copying batches between them,
without shared memory, and the first batch of an epoch takes the time of one batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np
import torch

from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.readahead import Readahead
from jpegcurr.training.data.sampling import Batch, EpochSampler, Indices
from jpegcurr.training.data.transforms import make_sample

AHEAD = 3  # batches in progress, including the one that the caller waits for
PIECE = 8  # samples a task


class PlainLoader:
    """Betons, read and decoded by ``sampler.workers`` threads; by the caller's own if 0.

    Raises ImageError, with the sample's name, for one that does not decode (with ``sampler.skip_broken``: replaces it).
    """

    def __init__(self, sampler: EpochSampler, runtime: Runtime) -> None:
        self._sampler = sampler
        self._runtime = runtime
        self.replaced = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def at(self, epoch: int, first: int = 0) -> Generator[Batch]:
        """Iterate over an epoch; see ``sampling.Loader``."""
        self.replaced = 0
        self._sampler.check_files()
        if not self._sampler.workers:
            yield from self._batches(epoch, first, lambda task: task)
            return
        pool = ThreadPoolExecutor(self._sampler.workers, thread_name_prefix="load")
        try:
            yield from self._batches(epoch, first, lambda task: pool.submit(task).result)
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, epoch: int, first: int, start: "Callable[[_Task], _Task]") -> Iterator[Batch]:
        batches = self._sampler.batches(epoch)[first:]
        pending: deque[_PendingBatch] = deque()
        with closing(Readahead(self._sampler, epoch, batches)) as readahead:
            for number, samples in enumerate(self._sampler.samples_of(epoch, batches)):
                readahead.start(number, kept=AHEAD)
                pending.append(
                    _PendingBatch(self._sampler, epoch, first + number, batches[number], samples, self._runtime, start)
                )
                if len(pending) == AHEAD:
                    yield self._finished(pending.popleft())
            while pending:
                yield self._finished(pending.popleft())

    def _finished(self, pending: "_PendingBatch") -> Batch:
        indices = pending.wait()
        self.replaced += int((indices != pending.indices).sum())
        images = self._runtime.upload(pending.images.permute(0, 3, 1, 2))
        labels = self._runtime.upload(torch.from_numpy(self._sampler.labels[indices]))
        position = self._sampler.position(pending.epoch, pending.number)
        return Batch(images, labels, pending.numbers, pending.epoch, position)


_Task = Callable[[], list[int]]


class _PendingBatch:
    """Batch ``number`` of an epoch, whose pieces are being decoded into ``images``, uint8 [b h w 3]."""

    def __init__(
        self,
        sampler: EpochSampler,
        epoch: int,
        number: int,
        numbers: Indices,
        samples: np.ndarray,
        runtime: Runtime,
        start: Callable[[_Task], _Task],
    ) -> None:
        self.epoch, self.number, self.numbers = epoch, number, numbers
        self.indices: Indices = samples["index"]
        size = sampler.size(epoch)
        self.images = runtime.memory(len(samples), size, size, 3)
        out = self.images.numpy()
        pieces = [slice(first, first + PIECE) for first in range(0, len(samples), PIECE)]
        self._tasks = [start(partial(_make_samples, sampler, epoch, samples[piece], out[piece])) for piece in pieces]

    def wait(self) -> Indices:
        """Wait for all pieces, and return the indices of the samples that ``images`` now holds."""
        return np.array([index for task in self._tasks for index in task()], np.int64)


def _make_samples(sampler: EpochSampler, epoch: int, samples: np.ndarray, out: Pixels) -> list[int]:
    return [make_sample(sampler, epoch, sample, image) for sample, image in zip(samples, out, strict=True)]
