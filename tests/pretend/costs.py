"""The costs of operations as a GPU would have them: kernels that are launched, bytes, dtypes and memory layouts.

Launches are a lower bound: an operator counts as one kernel unless it is known to take more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import torch

# Operators that start no kernel, besides views.
_FREE = (
    "empty empty_like new_empty empty_strided new_empty_strided detach alias _unsafe_view lift_fresh _reshape_alias set_ "
    "record_stream is_pinned _pin_memory"
)
FREE = frozenset(_FREE.split())
# Those that do not read what they are given.
_WRITING_NAMES = (
    "fill_ zero_ zeros zeros_like ones ones_like full full_like new_full new_zeros new_ones arange bernoulli_ uniform_ normal_ "
    "scalar_tensor"
)
_WRITING = frozenset(_WRITING_NAMES.split())
_TWO_KERNELS = frozenset(["native_layer_norm_backward", "convolution_backward"])
_TENSORS_AT_ONCE = {1: 110, 2: 64, 3: 48, 4: 36}  # of multi_tensor_apply, by the number of lists
_ELEMENTS_AT_ONCE = 320 * 65536


@dataclass(frozen=True, slots=True)
class Tensor:
    """What is known of a tensor that an operator read or wrote; ``layout`` of ``layout_of``."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    layout: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "Tensor":
        return cls(tensor.dtype, tuple(tensor.shape), layout_of(tensor))


@dataclass(frozen=True, slots=True)
class Operation:
    """One operator, by its name in ATen, in a ``phase``, with its ``launches`` and the ``bytes`` that it reads and writes."""

    name: str
    phase: str
    launches: int
    bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def measure(name: str, phase: str, args: Any, reads: list[torch.Tensor], writes: list[torch.Tensor]) -> Operation:
    """Return the operation ``name`` on tensors of the device; ``args`` are its arguments."""
    given = [] if name in _WRITING else reads
    read, written, launches = sum(map(size_of, given)), sum(map(size_of, writes)), 1 + (name in _TWO_KERNELS)
    if name.startswith("_foreach"):
        lists = [each for each in args if isinstance(each, list | tuple) and each and isinstance(each[0], torch.Tensor)]
        written = sum(map(size_of, lists[0]))
        at_once = _TENSORS_AT_ONCE[min(len(lists) + (not name.endswith("_")), 4)]
        elements = sum(tensor.numel() for tensor in lists[0])
        launches = max(ceil(len(lists[0]) / at_once), ceil(elements / _ELEMENTS_AT_ONCE))
    elif name in ("index_put_", "_index_put_impl_"):
        read, written = size_of(args[2]), max(args[2].numel(), 1) * args[0].element_size()
    elif name == "index":
        read = written
    return Operation(name, phase, launches, read + written, tuple(map(Tensor.of, given)), tuple(map(Tensor.of, writes)))


def size_of(tensor: torch.Tensor) -> int:
    """Return the bytes of distinct elements: what is expanded is read once."""
    if 0 not in tensor.stride():
        return tensor.numel() * tensor.element_size()
    return tensor.element_size() * prod(size for size, step in zip(tensor.shape, tensor.stride(), strict=True) if step)


def layout_of(tensor: torch.Tensor) -> str:
    """Return ``nhwc`` or ``nchw`` of images, ``any`` where both are the same, ``strided`` of parts; else ``flat``."""
    if tensor.dim() != 4:
        return "flat"
    nhwc, nchw = (tensor.is_contiguous(memory_format=form) for form in (torch.channels_last, torch.contiguous_format))
    return "any" if nhwc and nchw else "nhwc" if nhwc else "nchw" if nchw else "strided"


def table(operations: list[Operation], waits: list[Any]) -> Iterator[str]:
    """Yield lines with the launches, gigabytes and waits of each phase."""
    yield f"{'phase':<16}{'launches':>10}{'GB':>9}{'waits':>7}"
    for phase in dict.fromkeys(operation.phase for operation in operations):
        mine = [operation for operation in operations if operation.phase == phase]
        launches, gigabytes = sum(each.launches for each in mine), sum(each.bytes for each in mine) / 1e9
        yield f"{phase:<16}{launches:>10}{gigabytes:>9.2f}{sum(wait.phase == phase for wait in waits):>7}"
