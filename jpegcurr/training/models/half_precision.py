"""The forward pass of training in half precision on a GPU, where it is not compiled: less memory traffic, fewer kernels.

Autocast leaves two things of ConvNeXt in float32 that cost a third of its memory traffic: the LayerNorms, and everything from
the layer scale to the end of a block, since a float32 ``gamma`` makes the product float32. And it casts every weight by a
kernel of its own. Here the LayerNorms are timm's fast ones, which compute in float32 and read and write the lower
precision, ``gamma`` has that precision too, and the small parameters are cast together. Compiled code has no use
for this: it fuses the casts.

The gradient of global average pooling is the same for all pixels, so it has no layout, and torch computes the last stage's
gradients in NCHW. Here they are put into channels_last, that of all other stages, where they begin.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import LayerNorm, LayerNorm2d, SelectAdaptivePool2d
from timm.models.convnext import ConvNeXtBlock
from torch.func import functional_call

from jpegcurr.runtime import Runtime

_Norm = LayerNorm | LayerNorm2d
_PRODUCTS = (torch.nn.Linear, torch.nn.Conv2d)


def prepare_for_training(model: torch.nn.Module, runtime: Runtime) -> torch.nn.Module:
    """Return ``model`` as training calls it on this device; see ``Runtime.prepare``."""
    prepared = HalfPrecisionForward(model, runtime.dtype) if runtime.eager_half else model
    if runtime.kernels:
        from jpegcurr.training.models.depthwise_norm import KernelForward  # imports triton, which is only there for GPUs

        prepared = KernelForward(prepared)
    return runtime.prepare(prepared)


def kernel_blocks(model: torch.nn.Module, runtime: Runtime) -> str | None:
    """Return how many ConvNeXt blocks kernels of our own train, such as ``18 of 18``; None if the runtime has none of them.

    Raises:
        UsageError: kernels are asked for, and the model has no block that they can compute.
    """
    if not runtime.kernels:
        return None
    from jpegcurr.training.models.depthwise_norm import count_blocks

    return count_blocks(model)


class HalfPrecisionForward(torch.nn.Module):
    """``model`` with its small parameters in ``dtype`` and its LayerNorms in half precision, while this is called.

    To be called under autocast, for training. The parameters are those of ``model``, in float32, and get float32 gradients.
    Between calls the model is as it was: evaluation computes as it does elsewhere.
    """

    def __init__(self, model: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype
        self._names = list(_small_parameters(model))
        self._norms = [module for module in model.modules() if isinstance(module, _Norm)]
        self._pools = [module for module in model.modules() if isinstance(module, SelectAdaptivePool2d)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the model's output."""
        parameters = {name: self.model.get_parameter(name) for name in self._names}
        trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
        cast = dict(zip(trained, _Cast.apply(self.dtype, *trained.values()), strict=True)) if trained else {}
        with _fast(self._norms), _channels_last_gradients(self._pools):
            output: torch.Tensor = functional_call(self.model, cast, (images,))
        return output


def _small_parameters(model: torch.nn.Module) -> Iterator[str]:
    """Yield the names of the layer scales, of the LayerNorms' parameters, and of the biases that autocast would cast."""
    for prefix, module in model.named_modules():
        names: tuple[str, ...] = ()
        if isinstance(module, _Norm):
            names = ("weight", "bias")
        elif isinstance(module, _PRODUCTS):
            names = ("bias",)
        elif isinstance(module, ConvNeXtBlock):
            names = ("gamma",)
        yield from (f"{prefix}.{name}".lstrip(".") for name in names if getattr(module, name) is not None)


@contextmanager
def _fast(norms: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let LayerNorms of timm's compute as after ``timm.layers.set_fast_norm``, which they ask when they are constructed."""
    before = [norm._fast_norm for norm in norms]
    _set_fast(norms, [True] * len(norms))
    try:
        yield
    finally:
        _set_fast(norms, before)


@contextmanager
def _channels_last_gradients(pools: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let the gradients of what ``pools`` get be in channels_last."""
    handles = [pool.register_forward_pre_hook(_hook_gradient) for pool in pools]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook_gradient(_pool: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    if inputs[0].requires_grad and inputs[0].dim() == 4:
        inputs[0].register_hook(_in_channels_last)  # type: ignore[no-untyped-call]


def _in_channels_last(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


def _set_fast(norms: Sequence[torch.nn.Module], values: Sequence[object]) -> None:
    for norm, value in zip(norms, values, strict=True):
        setattr(norm, "_fast_norm", value)  # noqa: B010 (torch's types have no such attribute)


class _Cast(torch.autograd.Function):
    """Tensors in another precision, by a kernel for many of them; their gradients likewise."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        return tuple(_cast(tensors, [dtype] * len(tensors)))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        known = [(gradient, dtype) for gradient, dtype in zip(gradients, ctx.dtypes, strict=True) if gradient is not None]
        cast = iter(_cast([gradient for gradient, _ in known], [dtype for _, dtype in known]) if known else [])
        return None, *(None if gradient is None else next(cast) for gradient in gradients)


def _cast(tensors: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype]) -> list[torch.Tensor]:
    cast = [torch.empty_like(tensor, dtype=dtype) for tensor, dtype in zip(tensors, dtypes, strict=True)]
    torch._foreach_copy_(cast, list(tensors))
    return cast
