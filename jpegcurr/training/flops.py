"""Operations of a network on an image, in training and forward alone, and the share of a device's peak that a speed uses."""

import logging
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

log = logging.getLogger("jpegcurr")

_DENSE = {linear, torch.conv1d, torch.conv2d, torch.conv3d}
_BATCH = 2  # batch norm refuses to learn from a single image

# Dense tensor-core FLOP/s in bfloat16 with float32 accumulators, from the vendor's data sheets, by the device's name without
# its maker. A pattern must match the whole name: H200 NVL, RTX 4090 D and Laptop GPU are other, slower devices.
_PEAKS: dict[str, float] = {
    r"H200|GH200 .*|H100 \d+GB HBM3e?|H100 SXM.*": 989e12,
    r"H100 PCIe": 756e12,
    r"L40S": 362e12,
    r"A100-.*|A100 80GB PCIe": 312e12,
    r"RTX 4090": 165e12,
    r"RTX A6000": 155e12,
    r"L4": 121e12,
    r"RTX 3090": 71e12,
}
# The first tensor cores compute in float16 only.
_FLOAT16_PEAKS: dict[str, float] = {r"V100-SXM2.*": 125e12, r"V100-PCIE.*": 112e12, r"T4": 65e12}
_MAKER = re.compile(r"^(NVIDIA )?(Tesla |GeForce )?")


def training_flops(model: torch.nn.Module, size: int) -> float:
    """Return the floating-point operations of training ``model`` on one image of ``size`` pixels a side, forward and backward.

    Convolutions and linear layers are counted, with two operations for a multiply-add: the forward pass and, where they are
    needed, the gradients of the weight and of the input (no gradient of the image, none of frozen weights). Not counted are
    depthwise convolutions, whose time is memory traffic, the products of attention, norms and activations. So ConvNeXt-T at
    224 pixels is 26.07e9. ``model`` must be the bare model, neither compiled nor wrapped for several devices; it is not run: a
    copy on the meta device is.
    """
    count = _Count(_dense_flops)
    with torch.enable_grad(), count:
        _without_memory(model).train()(torch.empty(_BATCH, 3, size, size, device="meta", dtype=_dtype(model)))
    return count.total / _BATCH


def multiply_adds(model: torch.nn.Module, size: int) -> int:
    """Return the multiply-adds of convolutions and linear layers, depthwise ones too, in the forward pass of one image.

    It is what papers call FLOPs: 4.456e9 for ConvNeXt-T at 224 pixels a side. The products of attention are not counted.
    ``model`` is as for ``training_flops``, and may be on the meta device.
    """
    count = _Count(_forward_products)
    with torch.no_grad(), count:
        _without_memory(model).eval()(torch.empty(1, 3, size, size, device="meta", dtype=_dtype(model)))
    return round(count.total)


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """Return the dense peak of a GPU's tensor cores in FLOP/s, by torch's name of the device; None if it is not known.

    For float32 it is the peak of TF32, half of bfloat16's on every device that has both. A MIG slice has no known peak.
    """
    name = "" if " MIG " in device_name else _MAKER.sub("", device_name)
    if dtype == torch.float16:
        return _matched(name, _PEAKS | _FLOAT16_PEAKS)
    peak = _matched(name, _PEAKS)
    shares = {torch.bfloat16: 1.0, torch.float32: 0.5}
    return peak * shares[dtype] if peak is not None and dtype in shares else None


def mfu(flops_per_image: float, images_per_second: float, peak: float) -> float:
    """Return the model FLOP utilisation (Chowdhery et al. 2022, appendix B): the share of ``peak`` that a speed uses."""
    return flops_per_image * images_per_second / peak


class Utilisation:
    """The share of the device's ``peak``, in FLOP/s, that the training of ``model`` uses; None where either is not known.

    The operations are counted before an epoch, once for every size of images and for a model with and without frozen weights.
    A network for which that fails has no share: no number in the log is worth a run.
    """

    def __init__(self, model: torch.nn.Module, peak: float | None) -> None:
        self._model, self._peak = model, peak
        self._counted: dict[tuple[int, int], float | None] = {}

    def count(self, size: int) -> None:
        """Count the operations of training on one image of ``size`` pixels a side, as the model is now."""
        key = self._key(size)
        if self._peak is None or key in self._counted:
            return
        try:
            self._counted[key] = training_flops(self._model, size)
        except Exception as error:  # of whatever kind: the network may be anyone's
            log.warning("mfu is not known: the operations of the network cannot be counted (%s)", _one_line(error))
            self._counted[key] = None

    def at(self, images_per_second: float, size: int) -> float | None:
        """Return the share at a speed on one device; None if it is not known or ``count`` was not called."""
        flops = self._counted.get(self._key(size))
        return None if flops is None or self._peak is None else mfu(flops, images_per_second, self._peak)

    def _key(self, size: int) -> tuple[int, int]:
        return size, sum(parameter.requires_grad for parameter in self._model.parameters())


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


class _Count(TorchFunctionMode):
    """A mode that adds up what ``count`` says of the calls of dense layers, whichever module calls them."""

    def __init__(self, count: Callable[..., float]) -> None:
        super().__init__()
        self.total, self._count = 0.0, count

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _DENSE:
            self.total += self._count(out, *args, **(kwargs or {}))
        return out


def _dense_flops(out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *_: object, **__: object) -> float:
    """Return a layer's operations, forward and backward, from its arguments; ``weight`` is [out, in / groups, ...]."""
    depthwise = weight.ndim > 2 and weight.shape[1] == 1 < input.shape[1]
    passes = 0 if depthwise else 1 + weight.requires_grad + input.requires_grad
    return 2.0 * out.numel() * weight[0].numel() * passes


def _forward_products(out: torch.Tensor, _input: torch.Tensor, weight: torch.Tensor, *_: object, **__: object) -> float:
    """Return the multiplications in the forward pass of a layer."""
    return float(out.numel() * weight[0].numel())


def _without_memory(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy on the meta device; the weights are never copied."""
    tensors: dict[int, torch.Tensor] = {
        id(weight): torch.nn.Parameter(torch.empty_like(weight, device="meta"), weight.requires_grad)
        for weight in model.parameters()
    }
    tensors |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()}
    return deepcopy(model, tensors)  # the memo: deepcopy takes these for copies that exist already


def _dtype(model: torch.nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _matched(name: str, peaks: Mapping[str, float]) -> float | None:
    return next((peak for pattern, peak in peaks.items() if re.fullmatch(pattern, name)), None)
