"""FFCV's loader behind our contract; only this file and ``ffcv_kernel`` import FFCV's pipeline.

FFCV's graph, compiler, epoch thread and queue are used as they are. Through FFCV's own extension points we replace the decoder
(``ffcv_kernel``), the storage state (here the tasks of a batch, from any number of betons), the memory (each batch keeps its
own) and the epoch thread's error handling (errors reach the caller). Swapping data sets changes only the tasks, so nothing has
to be compiled, opened or warmed up.
"""

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, suppress
from queue import Empty
from types import SimpleNamespace
from typing import Any

import numba
import numpy as np
import torch
from ffcv.fields import RGBImageField
from ffcv.loader import Loader as StockLoader
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.graph import Graph
from ffcv.pipeline.pipeline_spec import PipelineSpec
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import TrainingError
from jpegcurr.runtime import Runtime, torch_threads_kept
from jpegcurr.system import available_cpus
from jpegcurr.training.data.decode_kernel import BYTE, GOOD, TASK, tasks_of
from jpegcurr.training.data.device_jpeg import finish_on_device
from jpegcurr.training.data.ffcv_kernel import SampleDecoder
from jpegcurr.training.data.readahead import Readahead
from jpegcurr.training.data.sampling import Batch, EpochSampler, Indices
from jpegcurr.training.data.thread_loader import upload_targets
from jpegcurr.training.data.transforms import make_sample

BATCHES_AHEAD = 3  # FFCV's default
# numba prints an ignored KeyError when a compiled loader is freed before the process ends, so all of them are kept.
_kept: list["_Loader"] = []
# FFCV's graph, and the code that it generates and numba compiles, by interpolation. All else of a batch comes with its tasks.
_compiled: dict[str, tuple[Graph, Any]] = {}


class FfcvLoader:
    """``ffcv.loader.Loader`` with ``sampler.workers`` threads (0 means 1; more than there are processors means all).

    Raises ImageError, with the sample's name, for one that does not decode (with ``sampler.skip_broken``: replaces it).
    """

    def __init__(self, sampler: EpochSampler, runtime: Runtime) -> None:
        self._sampler = sampler
        self._runtime = runtime
        self.replaced = 0
        self._loader = _Loader(sampler)
        _kept.append(self._loader)

    def __len__(self) -> int:
        return len(self._sampler)

    def at(self, epoch: int, first: int = 0) -> Generator[Batch]:
        """Iterate over an epoch; see ``sampling.Loader``."""
        self.replaced = 0
        self._sampler.check_files()
        thread = _Epoch(self._loader, self._sampler, epoch, first, self._runtime)
        try:
            for number, numbers in enumerate(thread.batches, first):
                with torch_threads_kept():  # FFCV's thread sets them when it starts
                    images, samples, status = thread.take()
                indices = self._repaired(epoch, numbers, images.numpy(), status)
                uploaded = self._runtime.upload(images.permute(0, 3, 1, 2))
                shown = finish_on_device(uploaded, self._sampler, epoch, samples, indices, self._runtime)
                labels = self._runtime.upload(torch.from_numpy(self._sampler.labels[indices]))
                position = self._sampler.position(epoch, number)
                targets = upload_targets(self._sampler, indices, self._runtime)
                yield Batch(shown, labels, numbers, epoch, position, targets)
        finally:
            thread.end()

    def _repaired(self, epoch: int, numbers: Indices, images: Pixels, status: NDArray[np.int8]) -> Indices:
        """Decode again, with ``make_sample``, what FFCV could not; return the indices of the samples now in ``images``."""
        indices = self._sampler.indices(numbers)
        if (status == GOOD).all():
            return indices
        repaired = indices.copy()
        for position in np.flatnonzero(status != GOOD):
            sample = self._sampler.samples(epoch, numbers[position : position + 1])[0]
            repaired[position] = make_sample(self._sampler, epoch, sample, images[position])
        self.replaced += int((repaired != indices).sum())
        return repaired


class _Loader(StockLoader):  # type: ignore[misc]
    """FFCV's loader without its constructor, which builds Python dictionaries of all samples: 714 MB for ImageNet."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.code: Any
        self.batch_size = sampler.batch
        self.batches_ahead = BATCHES_AHEAD
        self.num_workers = min(max(sampler.workers, 1), available_cpus(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        self.memory_manager = _NoMemory()
        metadata = np.zeros(1, [("f0", np.uint8)])  # FFCV only passes it through: the tasks hold all metadata
        self.reader = SimpleNamespace(metadata=metadata)
        interpolation = sampler.image.interpolation
        if interpolation not in _compiled:
            spec = PipelineSpec("image", decoder=SampleDecoder(interpolation))
            self.graph = Graph({"image": spec}, {"image": RGBImageField()}, {"image": 0}, metadata, None)
            self.generate_code()
            self._compile()
            _compiled[interpolation] = self.graph, self.code
        self.graph, self.code = _compiled[interpolation]

    def _compile(self) -> None:
        """Compile now, or load numba's cache, rather than at the first batch, by running the pipeline on no samples."""
        none = np.zeros(0, np.int64)
        state = (np.zeros(0, TASK), none, np.zeros(2, np.int64), np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, BYTE))
        stages, _ = self.code
        for stage, _ in stages:
            memory = {f"{kind}memory_{node}": None for kind in ("", "shared_") for node in self.graph.id_to_node}
            stage(batch_indices=none, metadata=self.reader.metadata, storage_state=state, **memory)


class _NoMemory(AbstractContextManager[Any]):
    """A memory manager for FFCV that does nothing: our tasks hold the file and the position of every sample."""

    state = None

    def schedule_epoch(self, _batches: Sequence[Indices]) -> "_NoMemory":
        """Return the context of an epoch: FFCV calls this when one starts."""
        return self

    def start_batch(self, _number: int) -> None:
        """Do nothing: FFCV calls this before each batch."""

    def __exit__(self, *_error: object) -> None:
        pass


class _Epoch(EpochIterator):  # type: ignore[misc]
    """FFCV's epoch thread, on our tasks. An error in it reaches the caller, where FFCV's own ``next`` would wait for ever."""

    def __init__(self, loader: _Loader, sampler: EpochSampler, epoch: int, first: int, runtime: Runtime) -> None:
        self.batches = sampler.batches(epoch)[first:]
        self._sampler, self._epoch, self._runtime = sampler, epoch, runtime
        self._lanes = loader.num_workers
        self._samples = sampler.samples_of(epoch, self.batches)
        self._readahead = Readahead(sampler, epoch, self.batches)
        self._rendering: deque[tuple[torch.Tensor, np.ndarray]] = deque()  # images, and the ``SAMPLE`` records of a batch
        self._failure: Exception | None = None
        super().__init__(loader, np.concatenate(self.batches) if self.batches else np.empty(0, np.int64))

    def run(self) -> None:
        """Run FFCV's thread, and keep its error for ``take``."""
        try:
            super().run()
        except Exception as error:  # of any class: take() raises it for the caller
            self._failure = error
            self.output_queue.put(None)

    def run_pipeline(self, number: int, batch_indices: Indices, *others: object) -> Any:
        """Run FFCV's pipeline on the tasks of the next batch."""
        self._readahead.start(number)
        samples = next(self._samples)
        tasks = tasks_of(self._sampler, samples)
        size = self._sampler.size(self._epoch)
        images = self._runtime.memory(len(tasks), size, size, 3)
        self.storage_state = (tasks, *_lanes(tasks, self._lanes), images.numpy(), np.zeros(len(tasks), BYTE))
        result = super().run_pipeline(number, batch_indices, *others)
        self._rendering.append((images, samples))
        return result

    def take(self) -> tuple[torch.Tensor, np.ndarray, NDArray[np.int8]]:
        """Return the next batch: images, uint8 [b h w 3], their ``SAMPLE`` records, and the decoder's status, int8 [b]."""
        fields = next(self, None)
        if fields is None:
            reason = f"{type(self._failure).__name__}: {self._failure}" if self._failure else "it ended early"
            raise TrainingError(
                f"FFCV's loading thread failed ({reason}). Use the other loader: set loader.kind=plain."
            ) from self._failure
        (status,) = fields
        return *self._rendering.popleft(), status

    def end(self) -> None:
        """Stop after the current batch.

        FFCV's ``close`` is not enough: the thread checks it only after the queue has been full for half a second, and waits for
        ever to put its last None into a full queue. So the thread gets nothing more to load, and the queue is emptied.
        """
        self.iter_ixes = iter(())
        self.close()
        while self.is_alive():
            with suppress(Empty):
                self.output_queue.get_nowait()
            self.join(timeout=0.005)
        self._readahead.close()


def _lanes(tasks: np.ndarray, lanes: int) -> tuple[Indices, Indices]:
    """Divide tasks into lanes of about equal cost: the most expensive first, back and forth.

    An image costs about 10 ns per byte of its JPEG and 2 ns per pixel. Returns the tasks lane by lane, and where lanes end.
    """
    cost = 5 * tasks["size"] + tasks["image_height"].astype(np.int64) * tasks["image_width"]
    turn = np.arange(len(tasks)) % (2 * lanes)
    lane = np.minimum(turn, 2 * lanes - 1 - turn)
    order = np.argsort(-cost, kind="stable")[np.argsort(lane, kind="stable")]
    return order, np.concatenate([[0], np.cumsum(np.bincount(lane, minlength=lanes))])
