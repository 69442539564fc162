"""The loader on threads, which decode the next batches while the caller works on one: compiled code, or the reference.

Decoding and resizing release the interpreter lock, so threads do the work of processes without copying batches between them,
without shared memory, and the first batch of an epoch takes the time of one batch.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.device_jpeg import finish_on_device
from jpegcurr.training.data.readahead import Readahead
from jpegcurr.training.data.sampling import Batch, EpochSampler, Indices
from jpegcurr.training.data.transforms import make_sample

AHEAD = 3  # batches in progress, including the one that the caller waits for
PIECE = 8  # samples a task of the plain loader
MOST_TOGETHER = 32  # samples a task of compiled code, which takes much less time

# Renders ``SAMPLE`` records of an epoch into uint8 [n size size 3]; returns the indices of the samples that these now show.
MakeSamples = Callable[[EpochSampler, int, np.ndarray, Pixels], list[int]]


def make_plain(sampler: EpochSampler, epoch: int, samples: np.ndarray, out: Pixels) -> list[int]:
    """Render samples one after the other with ``transforms.make_sample``; see ``MakeSamples``."""
    return [make_sample(sampler, epoch, sample, image) for sample, image in zip(samples, out, strict=True)]


def piece_of(sampler: EpochSampler) -> int:
    """Return how many samples to hand to compiled code at a time: few enough that a batch keeps all workers busy."""
    return max(1, min(sampler.batch // max(sampler.workers, 1), MOST_TOGETHER))


def upload_targets(sampler: EpochSampler, indices: Indices, runtime: Runtime) -> torch.Tensor | None:
    """Return the distributions of the images at ``indices`` on the device, float32 [b classes]; None if labels are targets."""
    return None if sampler.soft is None else runtime.upload(torch.from_numpy(sampler.soft.of(indices)))


class ThreadLoader:
    """Betons, read and decoded by ``sampler.workers`` threads, ``piece`` samples at a time; by the caller's own if 0.

    Raises ImageError, with the sample's name, for one that does not decode (with ``sampler.skip_broken``: replaces it).
    """

    def __init__(
        self, sampler: EpochSampler, runtime: Runtime, make_samples: MakeSamples = make_plain, piece: int = PIECE
    ) -> None:
        self._sampler = sampler
        self._runtime = runtime
        self._make_samples = make_samples
        self._piece = piece
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
                place = epoch, self._sampler.position(epoch, first + number)
                pending.append(self._started(place, batches[number], samples, start))
                if len(pending) == AHEAD:
                    yield self._finished(pending.popleft())
            while pending:
                yield self._finished(pending.popleft())

    def _started(
        self, place: tuple[int, int], numbers: Indices, samples: np.ndarray, start: "Callable[[_Task], _Task]"
    ) -> "_PendingBatch":
        epoch, _ = place
        size = self._sampler.size(epoch)
        images = self._runtime.memory(len(samples), size, size, 3)
        out = images.numpy()
        pieces = [slice(first, first + self._piece) for first in range(0, len(samples), self._piece)]
        make = partial(self._make_samples, self._sampler, epoch)
        tasks = [start(partial(make, samples[piece], out[piece])) for piece in pieces]
        return _PendingBatch(images, numbers, place, samples, tasks)

    def _finished(self, pending: "_PendingBatch") -> Batch:
        indices = np.array([index for task in pending.tasks for index in task()], np.int64)
        self.replaced += int((indices != pending.samples["index"]).sum())
        images = self._runtime.upload(pending.images.permute(0, 3, 1, 2))
        images = finish_on_device(images, self._sampler, pending.place[0], pending.samples, indices, self._runtime)
        labels = self._runtime.upload(torch.from_numpy(self._sampler.labels[indices]))
        return Batch(images, labels, pending.numbers, *pending.place, upload_targets(self._sampler, indices, self._runtime))


_Task = Callable[[], list[int]]


@dataclass(frozen=True, slots=True)
class _PendingBatch:
    """A batch whose pieces are being decoded into ``images``, uint8 [b h w 3], by ``tasks``, which wait when called.

    ``place`` is its epoch, and its position in it; ``samples`` are its ``SAMPLE`` records.
    """

    images: torch.Tensor
    numbers: Indices
    place: tuple[int, int]
    samples: np.ndarray
    tasks: list[_Task]
