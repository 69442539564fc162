"""What training an image costs in floating-point operations, and which share of a device's peak a speed is."""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

_DENSE = {linear, torch.conv1d, torch.conv2d, torch.conv3d}
_BATCH = 2  # batch norm refuses to learn from a single image

# Dense tensor-core FLOP/s in bfloat16 with float32 accumulators, from the vendor's data sheets, by what follows the maker in
# the device's name. What is not matched whole is another device: H200 NVL, RTX 4090 D and Laptop GPU are slower.
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
# The first tensor cores: float16 alone.
_FLOAT16_PEAKS: dict[str, float] = {r"V100-SXM2.*": 125e12, r"V100-PCIE.*": 112e12, r"T4": 65e12}
_MAKER = re.compile(r"^(NVIDIA )?(Tesla |GeForce )?")


def training_flops(model: torch.nn.Module, size: int) -> float:
    """Floating-point operations of training ``model`` on one image of ``size`` pixels a side, forward and backward.

    Counted are convolutions and linear layers, two operations for a multiply-add: forward, the gradient of the weight, and the
    gradient of the input, the last two where they are needed (no gradient of the image, none of frozen weights). Left out are
    depthwise convolutions, whose work is memory traffic, what attention multiplies, norms and activations. So ConvNeXt-T at
    224 pixels is 26.07e9. The model itself is asked for, not one wrapped for several devices or compiled; it is neither run
    nor changed: a copy without memory is.
    """
    count = _Count()
    with torch.enable_grad(), count:
        _without_memory(model).train()(torch.empty(_BATCH, 3, size, size, device="meta", dtype=_dtype(model)))
    return count.flops / _BATCH


def peak_flops(device_name: str, dtype: torch.dtype) -> float | None:
    """The dense peak of a GPU's tensor cores in FLOP/s, by the name that torch gives the device; None if it is not known.

    For float32 it is TF32's, half of bfloat16's on every device that has both. A part of a device (MIG) has no peak here.
    """
    name = "" if " MIG " in device_name else _MAKER.sub("", device_name)
    if dtype == torch.float16:
        return _matched(name, _PEAKS | _FLOAT16_PEAKS)
    peak = _matched(name, _PEAKS)
    shares = {torch.bfloat16: 1.0, torch.float32: 0.5}
    return peak * shares[dtype] if peak is not None and dtype in shares else None


def mfu(flops_per_image: float, images_per_second: float, peak: float) -> float:
    """Model FLOP utilisation (Chowdhery et al. 2022, appendix B): the share of ``peak`` that a training speed makes use of."""
    return flops_per_image * images_per_second / peak


class _Count(TorchFunctionMode):
    """Adds up what dense layers cost, whichever module calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _DENSE:
            self.flops += _dense_flops(out, *args, **(kwargs or {}))
        return out


def _dense_flops(out: torch.Tensor, input: torch.Tensor, weight: torch.Tensor, *_: object, **__: object) -> float:
    """Of a layer, forward and backward, by what it is called with; ``weight`` is [out, in / groups, ...]."""
    depthwise = weight.ndim > 2 and weight.shape[1] == 1 < input.shape[1]
    passes = 0 if depthwise else 1 + weight.requires_grad + input.requires_grad
    return 2.0 * out.numel() * weight[0].numel() * passes


def _without_memory(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the meta device; the weights are never copied."""
    tensors: dict[int, torch.Tensor] = {
        id(each): torch.nn.Parameter(torch.empty_like(each, device="meta"), each.requires_grad) for each in model.parameters()
    }
    tensors |= {id(each): torch.empty_like(each, device="meta") for each in model.buffers()}
    return deepcopy(model, tensors)  # which takes what it is told of for copied


def _dtype(model: torch.nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _matched(name: str, peaks: Mapping[str, float]) -> float | None:
    return next((peak for pattern, peak in peaks.items() if re.fullmatch(pattern, name)), None)
