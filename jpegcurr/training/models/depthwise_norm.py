"""A 7x7 depthwise convolution and the LayerNorm after it as one operation on a GPU, in kernels of our own, for ``--kernels``.

ConvNeXt's blocks begin with this pair, which is bound by memory: torch writes the convolution's result, reads it again to
normalise it, and its own depthwise kernels are slow in channels_last. Here a program computes some pixels of a row with
all their channels, so that it has in registers what the LayerNorm takes its mean of. Sums are float32 whatever the dtype of the
tensors.

Forward, one kernel: reads the images; writes the result and, for the backward pass, the normalised values before the scale,
and one over the standard deviation of each pixel. Backward, three: the LayerNorm's gradient; the convolution's gradient of its
input, which is a convolution with the kernel turned by 180 degrees; its gradient of the weights. What is summed over all pixels
is summed by each program for its own share and then over the programs by torch, in an order that does not depend on which
program ends first: there are no atomic additions, and equal inputs give equal bits. Nothing waits for the GPU.

The only file that imports triton. With TRITON_INTERPRET=1 in the environment, before triton is imported, the kernels run on a
CPU, slowly; the tests compare them with torch so. They have not been measured on a GPU yet.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from timm.layers import LayerNorm, LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch.autograd.function import once_differentiable

from jpegcurr.errors import UsageError

SIDE = 7  # of the kernel; the padding is half of it, so that the result has the size of the images
_TAPS = SIDE * SIDE
# Elements of a program's tile, and pixels at most: more need more registers than a GPU has for each thread.
_TILE, _PIXELS = 4096, 8
_SHARES = 512  # programs at most among which the pixels are divided for sums over all of them

Pair = tuple[torch.nn.Conv2d, torch.nn.LayerNorm]


def depthwise_norm(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    norm_weight: torch.Tensor,
    norm_bias: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """Return the LayerNorm over channels of a depthwise convolution with padding 3.

    Args:
        images: [n c h w] float32, bfloat16 or float16; copied into channels_last if they have another layout. Under autocast
            they are cast to its dtype, as for a convolution.
        weight: [c 1 7 7], of the convolution; this and the other parameters may have any of the three dtypes.
        bias: [c], of the convolution.
        norm_weight: [c], the scale after the normalisation.
        norm_bias: [c], what is added at the end.
        eps: added to the variance.

    Returns:
        [n c h w] in channels_last, with the dtype that ``images`` have after autocast's cast. It can be differentiated once.
    """
    device = images.device.type
    if torch.is_autocast_enabled(device):
        images = images.to(torch.get_autocast_dtype(device))
    images = images.contiguous(memory_format=torch.channels_last)
    result: torch.Tensor = _DepthwiseNorm.apply(images, weight, bias, norm_weight, norm_bias, eps)
    return result


class KernelForward(torch.nn.Module):
    """``model`` with these kernels in those of its ConvNeXt blocks that they can compute, while this is called.

    Parameters and state are those of ``model``. Between calls it is as it was: evaluation computes as it does elsewhere.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self._pairs = replaceable_pairs(model)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the model's output."""
        with _replaced(self._pairs):
            output: torch.Tensor = self.model(images)
        return output


def count_blocks(model: torch.nn.Module) -> str:
    """Return how many ConvNeXt blocks of ``model`` the kernels compute, such as ``18 of 18``; UsageError if it is none."""
    blocks, pairs = sum(isinstance(module, ConvNeXtBlock) for module in model.modules()), replaceable_pairs(model)
    if not pairs:
        raise UsageError(
            "--kernels: the model has no block that the kernels can compute, which is ConvNeXt's, with a 7x7 depthwise "
            "convolution of stride 1 and a LayerNorm. Omit --kernels."
        )
    return f"{len(pairs)} of {blocks}"


def replaceable_pairs(model: torch.nn.Module) -> list[Pair]:
    """Return the convolution and the LayerNorm of each ConvNeXt block in ``model`` that ``depthwise_norm`` can compute."""
    blocks = [block for block in model.modules() if isinstance(block, ConvNeXtBlock)]
    fitting = [block for block in blocks if _fits(block.conv_dw) and _is_norm(block.norm, channels_first=block.use_conv_mlp)]
    return [(block.conv_dw, block.norm) for block in fitting]


def _fits(conv: torch.nn.Module) -> bool:
    if type(conv) is not torch.nn.Conv2d or conv.bias is None:
        return False
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.padding_mode
    whole = conv.groups == conv.in_channels == conv.out_channels
    return whole and shape == ((SIDE, SIDE), (1, 1), (SIDE // 2, SIDE // 2), (1, 1), "zeros")


def _is_norm(norm: torch.nn.Module, *, channels_first: bool) -> bool:
    """Return whether this is the LayerNorm over channels that is a block's own, with both parameters; subclasses may differ."""
    return type(norm) is (LayerNorm2d if channels_first else LayerNorm) and norm.weight is not None and norm.bias is not None


@contextmanager
def _replaced(pairs: Sequence[Pair]) -> Iterator[None]:
    """Let the convolutions compute the LayerNorms too, which then return what they are given."""
    try:
        for conv, norm in pairs:
            conv.__dict__["forward"], norm.__dict__["forward"] = partial(_compute, conv, norm), _unchanged
        yield
    finally:
        for pair in pairs:
            for module in pair:
                module.__dict__.pop("forward", None)


def _compute(conv: torch.nn.Conv2d, norm: torch.nn.LayerNorm, images: torch.Tensor) -> torch.Tensor:
    assert conv.bias is not None  # noqa: S101 (for mypy; see _fits)
    return depthwise_norm(images, conv.weight, conv.bias, norm.weight, norm.bias, norm.eps)


def _unchanged(images: torch.Tensor) -> torch.Tensor:
    return images


class _DepthwiseNorm(torch.autograd.Function):
    """The operation of ``depthwise_norm``, for images in channels_last."""

    @staticmethod
    def forward(
        ctx: Any,
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        norm_weight: torch.Tensor,
        norm_bias: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        n, c, h, w = images.shape
        taps = _by_tap(weight)
        result, standard = _empty_like(images), _empty_like(images)
        scale = torch.empty(n * h * w, dtype=torch.float32, device=images.device)
        if images.numel():
            block_c, block_w = _tile(c, w)
            _forward_kernel[(n * h, triton.cdiv(w, block_w))](
                images, taps, bias, norm_weight, norm_bias, result, standard, scale, h, w, c, eps,
                SIDE=SIDE, BLOCK_W=block_w, BLOCK_C=block_c, num_warps=_warps(block_w * block_c),
            )  # fmt: skip
        ctx.save_for_backward(images, taps, norm_weight, standard, scale)
        ctx.dtypes = weight.dtype, bias.dtype, norm_weight.dtype, norm_bias.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        images, taps, norm_weight, standard, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_conv, sums = _norm_backward(gradient, standard, scale, norm_weight)
        of_images = _turned(of_conv, taps) if ctx.needs_input_grad[0] else None
        of_weight = _weight_gradient(images, of_conv) if ctx.needs_input_grad[1] else None
        of_parameters = (of_weight, sums[2], sums[0], sums[1])
        cast = (
            known.to(dtype) if known is not None and needed else None
            for known, dtype, needed in zip(of_parameters, ctx.dtypes, ctx.needs_input_grad[1:5], strict=True)
        )
        return of_images, *cast, None


def _norm_backward(
    gradient: torch.Tensor, standard: torch.Tensor, scale: torch.Tensor, norm_weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of the convolution's result; and [3 c], of the norm's weight and bias and the convolution's bias."""
    c, pixels = standard.shape[1], scale.numel()
    block_c, block_p = _tile(c, pixels)
    tiles = triton.cdiv(pixels, block_p)
    shares = min(tiles, _SHARES)
    of_conv = _empty_like(standard)
    sums = torch.zeros(max(shares, 1), 3, c, dtype=torch.float32, device=standard.device)
    if standard.numel():
        _norm_backward_kernel[(shares,)](
            gradient, standard, scale, norm_weight, of_conv, sums, pixels, tiles, c,
            BLOCK_P=block_p, BLOCK_C=block_c, num_warps=_warps(block_p * block_c),
        )  # fmt: skip
    return of_conv, sums.sum(0)


def _turned(of_conv: torch.Tensor, taps: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the images: a convolution with the kernel turned by 180 degrees."""
    n, c, h, w = of_conv.shape
    of_images = _empty_like(of_conv)
    if of_conv.numel():
        block_c, block_w = min(triton.next_power_of_2(c), 128), _PIXELS
        _turned_kernel[(n * h, triton.cdiv(w, block_w), triton.cdiv(c, block_c))](
            of_conv, taps, of_images, h, w, c, SIDE=SIDE, BLOCK_W=block_w, BLOCK_C=block_c
        )
    return of_images


def _weight_gradient(images: torch.Tensor, of_conv: torch.Tensor) -> torch.Tensor:
    """Return the gradient of the convolution's weight, [c 1 7 7] float32."""
    n, c, h, w = images.shape
    block_c = min(triton.next_power_of_2(c), 64)
    shares = max(min(n * h, _SHARES // SIDE), 1)
    sums = torch.zeros(shares, _TAPS, c, dtype=torch.float32, device=images.device)
    if images.numel():
        _weight_kernel[(triton.cdiv(c, block_c), SIDE, shares)](
            images, of_conv, sums, n * h, h, w, c, shares, SIDE=SIDE, BLOCK_TAPS=SIDE + 1, BLOCK_W=4, BLOCK_C=block_c
        )
    return sums.sum(0).t().reshape(c, 1, SIDE, SIDE)


def _by_tap(weight: torch.Tensor) -> torch.Tensor:
    """Return the weights of a convolution, [c 1 7 7], as [49 c], so that neighbouring threads read neighbouring channels."""
    return weight.reshape(weight.shape[0], _TAPS).t().contiguous()


def _empty_like(images: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(images, memory_format=torch.channels_last)


def _tile(channels: int, pixels: int) -> tuple[int, int]:
    """Return the sides of a tile that has all channels: the powers of two for channels and for pixels."""
    block_c = triton.next_power_of_2(channels)
    return block_c, max(1, min(_PIXELS, _TILE // block_c, triton.next_power_of_2(pixels)))


def _warps(elements: int) -> int:
    return 4 if elements <= 1024 else 8


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _convolve(  # type: ignore[no-untyped-def]
    images, taps, row, h, w, c, columns, channels,
    TURNED: tl.constexpr, SIDE: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return the convolution of ``row``, counted over all images, at columns and channels: float32 [BLOCK_W BLOCK_C]."""
    sums = tl.zeros([BLOCK_W, BLOCK_C], dtype=tl.float32)
    y = row % h
    for i in range(SIDE):
        other_y = y + i - SIDE // 2
        end = tl.where((other_y >= 0) & (other_y < h), w, 0)  # no pixel of a row that is outside
        start = images + (row + i - SIDE // 2).to(tl.int64) * w * c
        for j in tl.static_range(SIDE):
            x = columns + j - SIDE // 2
            mask = ((x >= 0) & (x < end))[:, None] & (channels < c)[None, :]
            values = tl.load(start + x[:, None] * c + channels[None, :], mask=mask, other=0.0).to(tl.float32)
            place = i * SIDE + j
            if TURNED:
                place = SIDE * SIDE - 1 - place
            factors = tl.load(taps + place * c + channels, mask=channels < c, other=0.0).to(tl.float32)
            sums += values * factors[None, :]
    return sums


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _forward_kernel(  # type: ignore[no-untyped-def]
    images, taps, bias, norm_weight, norm_bias, result, standard, scale, h, w, c, eps,
    SIDE: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row, columns = tl.program_id(0), tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < c
    values = _convolve(images, taps, row, h, w, c, columns, channels, False, SIDE, BLOCK_W, BLOCK_C)
    values += tl.load(bias + channels, mask=is_channel, other=0.0).to(tl.float32)[None, :]
    mean = tl.sum(values, axis=1) / c
    centred = tl.where(is_channel[None, :], values - mean[:, None], 0.0)  # the tile's other channels hold no values
    inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / c + eps)
    normal = centred * inverse[:, None]
    factors = tl.load(norm_weight + channels, mask=is_channel, other=0.0).to(tl.float32)
    shifts = tl.load(norm_bias + channels, mask=is_channel, other=0.0).to(tl.float32)
    first = row.to(tl.int64) * w
    mask = (columns < w)[:, None] & is_channel[None, :]
    places = (first + columns)[:, None] * c + channels[None, :]
    tl.store(result + places, (normal * factors[None, :] + shifts[None, :]).to(result.dtype.element_ty), mask=mask)
    tl.store(standard + places, normal.to(standard.dtype.element_ty), mask=mask)
    tl.store(scale + first + columns, inverse, mask=columns < w)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _norm_backward_kernel(  # type: ignore[no-untyped-def]
    gradient, standard, scale, norm_weight, of_conv, sums, pixels, tiles, c,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    share, channels = tl.program_id(0), tl.arange(0, BLOCK_C)
    is_channel = channels < c
    factors = tl.load(norm_weight + channels, mask=is_channel, other=0.0).to(tl.float32)
    of_weight = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    of_shift = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    of_bias = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for tile in range(share, tiles, tl.num_programs(0)):
        places = tile * BLOCK_P + tl.arange(0, BLOCK_P)
        is_pixel = places < pixels
        mask = is_pixel[:, None] & is_channel[None, :]
        offsets = places.to(tl.int64)[:, None] * c + channels[None, :]
        coming = tl.load(gradient + offsets, mask=mask, other=0.0).to(tl.float32)
        normal = tl.load(standard + offsets, mask=mask, other=0.0).to(tl.float32)
        inverse = tl.load(scale + places, mask=is_pixel, other=0.0)
        scaled = coming * factors[None, :]
        mean, along = tl.sum(scaled, axis=1) / c, tl.sum(scaled * normal, axis=1) / c
        going = (scaled - mean[:, None] - normal * along[:, None]) * inverse[:, None]
        tl.store(of_conv + offsets, going.to(of_conv.dtype.element_ty), mask=mask)
        of_weight += coming * normal
        of_shift += coming
        of_bias += tl.where(mask, going, 0.0)
    start = sums + share * 3 * c + channels
    tl.store(start, tl.sum(of_weight, axis=0), mask=is_channel)
    tl.store(start + c, tl.sum(of_shift, axis=0), mask=is_channel)
    tl.store(start + 2 * c, tl.sum(of_bias, axis=0), mask=is_channel)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _turned_kernel(  # type: ignore[no-untyped-def]
    of_conv, taps, of_images, h, w, c,
    SIDE: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row, columns = tl.program_id(0), tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    channels = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    values = _convolve(of_conv, taps, row, h, w, c, columns, channels, True, SIDE, BLOCK_W, BLOCK_C)
    places = (row.to(tl.int64) * w + columns)[:, None] * c + channels[None, :]
    tl.store(of_images + places, values.to(of_images.dtype.element_ty), mask=(columns < w)[:, None] & (channels < c)[None, :])


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weight_kernel(  # type: ignore[no-untyped-def]
    images, of_conv, sums, rows, h, w, c, shares,
    SIDE: tl.constexpr, BLOCK_TAPS: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sum row ``program_id(1)`` of the kernels' gradients over a share of the images' rows."""
    i, share = tl.program_id(1), tl.program_id(2)
    channels = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    is_channel = channels < c
    taps, pixels = tl.arange(0, BLOCK_TAPS), tl.arange(0, BLOCK_W)
    total = tl.zeros([BLOCK_TAPS, BLOCK_W, BLOCK_C], dtype=tl.float32)
    for row in range(share, rows, shares):
        other_y = row % h + i - SIDE // 2
        end = tl.where((other_y >= 0) & (other_y < h), w, 0)
        here = of_conv + tl.cast(row, tl.int64) * w * c + channels[None, None, :]
        there = images + tl.cast(row + i - SIDE // 2, tl.int64) * w * c + channels[None, None, :]
        for start in range(0, w, BLOCK_W):
            columns = (start + pixels)[None, :, None]
            x = columns + taps[:, None, None] - SIDE // 2
            going = tl.load(here + columns * c, mask=(columns < w) & is_channel[None, None, :], other=0.0)
            values = tl.load(there + x * c, mask=(x >= 0) & (x < end) & is_channel[None, None, :], other=0.0)
            total += going.to(tl.float32) * values.to(tl.float32)
    places = (share * SIDE * SIDE + i * SIDE + taps)[:, None] * c + channels[None, :]
    tl.store(sums + places, tl.sum(total, axis=1), mask=(taps < SIDE)[:, None] & is_channel[None, :])
