"""FFCV's loader behind our contract. The only file that imports ffcv's pipeline.

What stock FFCV does differently from the plain loader, until its decoder is replaced: it decodes with libjpeg's fast DCT
(mean difference about 1 level), and its crops and flips cannot be seeded (the order can).
"""

from collections.abc import Iterator
from contextlib import suppress
from queue import Empty

import numpy as np
import torch
from ffcv.fields import IntField, RGBImageField
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder
from ffcv.loader import Loader as StockLoader
from ffcv.loader import OrderOption
from ffcv.loader.epoch_iterator import EpochIterator
from ffcv.pipeline.operation import Operation
from ffcv.reader import Reader
from ffcv.transforms import RandomHorizontalFlip, ToTensor, ToTorchImage
from ffcv.traversal_order.base import TraversalOrder
from numpy.typing import NDArray

from jpegcurr.encoding.executors import available_cpus
from jpegcurr.errors import TrainingError
from jpegcurr.runtime import Runtime, torch_threads_kept
from jpegcurr.training.contract import Batch, View

# numba prints an ignored KeyError when a compiled loader is dropped before the process ends, so none is.
_kept: list[StockLoader] = []


class FfcvLoader:
    """``ffcv.loader.Loader`` with ``view.workers`` threads (0 means 1, more than there are processors means all)."""

    def __init__(self, view: View, runtime: Runtime) -> None:
        self._view = view
        self._runtime = runtime
        with torch_threads_kept():
            self._loader = StockLoader(
                str(view.beton.path),
                batch_size=view.batch,
                num_workers=min(max(view.workers, 1), available_cpus()),
                os_cache=True,
                order=OrderOption.SEQUENTIAL,
                seed=view.seed,
                drop_last=False,
                pipelines=_pipelines(view),
            )
        _kept.append(self._loader)
        self._loader.traversal_order = _OurOrder(self._loader, view)  # the constructor of 1.0.2 refuses a class here

    def __len__(self) -> int:
        return len(self._view)

    def at(self, epoch: int) -> Iterator[Batch]:
        """See ``contract.Loader``."""
        self._loader.next_epoch = epoch
        self._loader.first_traversal_order = self._view.order(epoch)
        with torch_threads_kept():
            batches = iter(self._loader)
        try:
            for fields in _alive(batches):
                images, labels = sorted(fields, key=torch.Tensor.dim, reverse=True)  # in the file's order, whichever it is
                yield self._own(images), self._own(labels).flatten()
        finally:
            _end(batches)

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy out of FFCV's ring of buffers, which the batches after next overwrite."""
        return tensor.to(self._runtime.device, copy=True)


def _alive(batches: EpochIterator) -> Iterator[list[torch.Tensor]]:
    """Iterate FFCV's batches; its own ``next`` waits for ever when its thread has died of an exception."""
    while True:
        while batches.output_queue.empty():
            batches.join(timeout=0.002)
            if not batches.is_alive() and batches.output_queue.empty():
                raise TrainingError("FFCV's loading thread died; its own error stands above. Set loader.kind=plain to go on.")
        fields = next(batches, None)
        if fields is None:
            return
        yield fields


def _end(batches: EpochIterator) -> None:
    """Stop FFCV's thread after the batch it is on.

    ``close`` is not enough: the thread looks at it only when the queue has been full for half a second, and waits for
    ever to put its last None into a full one. So it is given nothing more to load, and the queue is emptied.
    """
    batches.iter_ixes = iter(())
    batches.close()
    while batches.is_alive():
        with suppress(Empty):
            batches.output_queue.get(timeout=0.05)


class _OurOrder(TraversalOrder):  # type: ignore[misc]
    def __init__(self, loader: StockLoader, view: View) -> None:
        super().__init__(loader)
        self._view = view

    def sample_order(self, epoch: int) -> NDArray[np.uint64]:
        return self._view.order(epoch).astype(np.uint64)


def _pipelines(view: View) -> dict[str, list[Operation] | None]:
    """The operations of every field by name, in the file's order, which is the order in which FFCV yields them."""
    image = view.image
    square = (image.size, image.size)
    decoder: list[Operation]
    if view.train:
        decoder = [
            RandomResizedCropRGBImageDecoder(square, image.scale, image.ratio),
            RandomHorizontalFlip(image.hflip),
        ]
    else:
        decoder = [CenterCropRGBImageDecoder(square, image.val_crop)]
    pipelines: dict[str, list[Operation] | None] = {}
    for name, field in Reader(str(view.beton.path)).handlers.items():
        if isinstance(field, RGBImageField):
            pipelines[name] = [*decoder, ToTensor(), ToTorchImage()]
        else:
            pipelines[name] = [IntDecoder(), ToTensor()] if isinstance(field, IntField) else None
    return pipelines
