"""The loader that needs no compiler: threads that make one batch after the other, by ``views.render``.

Decoding and resizing run outside the interpreter lock, so threads do what processes would, without copying every batch
from one to the other, without shared memory, and the first batch of an epoch is there after the time of one batch.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial

import numpy as np

from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.readahead import Readahead
from jpegcurr.training.data.sampling import Batch, EpochSampler, Indices
from jpegcurr.training.data.transforms import make_sample

AHEAD = 3  # batches under way, the one that is waited for included
PIECE = 8  # samples a task


class PlainLoader:
    """Memory-mapped betons, decoded by ``view.workers`` threads; by the caller's own if 0.

    Raises ImageError, with the sample's name, for one that does not decode (``view.skip_broken``: replaces it).
    """

    def __init__(self, sampler: EpochSampler, runtime: Runtime) -> None:
        self._sampler = sampler
        self._runtime = runtime
        self.replaced = 0

    def __len__(self) -> int:
        return len(self._sampler)

    def at(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """See ``contract.Loader``."""
        self.replaced = 0
        if not self._sampler.workers:
            yield from self._batches(epoch, first, lambda task: task)
            return
        pool = ThreadPoolExecutor(self._sampler.workers, thread_name_prefix="load")
        try:
            yield from self._batches(epoch, first, lambda task: pool.submit(task).result)
        finally:
            pool.shutdown(cancel_futures=True)

    def _batches(self, epoch: int, first: int, begin: "Callable[[_Task], _Task]") -> Iterator[Batch]:
        batches = self._sampler.batches(epoch)[first:]
        pending: deque[_Pending] = deque()
        with closing(Readahead(self._sampler, epoch, batches)) as readahead:
            for number, samples in enumerate(self._sampler.samples_of(epoch, batches)):
                readahead.start(number, kept=AHEAD)
                pending.append(_Pending(self._sampler, epoch, samples, self._runtime, begin))
                if len(pending) == AHEAD:
                    yield self._finished(pending.popleft())
            while pending:
                yield self._finished(pending.popleft())

    def _finished(self, pending: "_Pending") -> Batch:
        made = pending.made()
        self.replaced += int((made != pending.indices).sum())
        images = self._runtime.upload(pending.images.permute(0, 3, 1, 2))
        return images, self._runtime.upload(self._sampler.labels(made))


_Task = Callable[[], list[int]]


class _Pending:
    """A batch whose pieces are begun."""

    def __init__(
        self, sampler: EpochSampler, epoch: int, samples: np.ndarray, runtime: Runtime, begin: Callable[[_Task], _Task]
    ) -> None:
        self.indices: Indices = samples["index"]
        size = sampler.size(epoch)
        self.images = runtime.memory(len(samples), size, size, 3)
        out = self.images.numpy()
        pieces = [slice(start, start + PIECE) for start in range(0, len(samples), PIECE)]
        self._tasks = [begin(partial(_make, sampler, epoch, samples[piece], out[piece])) for piece in pieces]

    def made(self) -> Indices:
        """Wait; returns the indices of the samples that stand in ``images``."""
        return np.array([index for task in self._tasks for index in task()], np.int64)


def _make(sampler: EpochSampler, epoch: int, samples: np.ndarray, out: Pixels) -> list[int]:
    return [make_sample(sampler, epoch, sample, image) for sample, image in zip(samples, out, strict=True)]
