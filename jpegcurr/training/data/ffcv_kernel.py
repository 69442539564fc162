"""The compiled decoder in FFCV's pipeline, in place of FFCV's ``RandomResizedCropRGBImageDecoder``."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from ffcv.pipeline.operation import Operation
from ffcv.pipeline.state import State
from numba import njit, prange
from numpy.typing import NDArray

from jpegcurr.training.data.decode_kernel import FILTERS, SOURCES, decode_tasks, version_of
from jpegcurr.training.data.decode_kernel import __file__ as decode_source


class SampleDecoder(Operation):  # type: ignore[misc]
    """FFCV's extension point: decodes the tasks of a batch, which arrive as the storage state, together with output memory.

    That memory belongs to the batch. FFCV's own ring of buffers would cost a copy, and as much memory as stock FFCV takes.
    """

    def __init__(self, interpolation: str) -> None:
        super().__init__()
        self._filter = FILTERS[interpolation]

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        """Declare nothing: the output memory comes with the batch. See ``ffcv.pipeline.operation.Operation``."""
        return previous_state, None

    def generate_code(self) -> Callable[..., object]:
        """Return the function that FFCV compiles and calls. See ``ffcv.pipeline.operation.Operation``."""
        filter_ = self._filter

        def decode(_batch_indices, _memory, _metadata, storage_state):  # type: ignore[no-untyped-def]
            tasks, order, ends, images, status = storage_state
            make_batch(tasks, order, ends, images, status, filter_)
            return status

        return decode


def _compile(version: str) -> Callable[..., None]:
    """Compile the loop over lanes and cache it on the disk; ``version`` is as in ``decode_kernel``."""

    @njit(parallel=True, nogil=True, cache=True)
    def make_batch(
        tasks: np.ndarray,
        order: NDArray[np.int64],
        ends: NDArray[np.int64],
        images: NDArray[np.uint8],
        status: NDArray[np.int8],
        filter_: int,
    ) -> None:
        """Decode ``tasks`` as ``decode_tasks`` does. Lane k, of several in parallel, has ``order[ends[k]:ends[k + 1]]``."""
        _ = version
        for lane in prange(len(ends) - 1):
            decode_tasks(tasks, order[ends[lane] : ends[lane + 1]], images, status, filter_)

    kernel: Callable[..., None] = make_batch
    return kernel


make_batch = _compile(version_of(Path(decode_source), *SOURCES))
