"""A JPEG's effect on pixels as integer arithmetic on tensors: Pillow's round trip to the bit, on any device, without a codec.

Huffman coding loses nothing, so what ``PIL.Image.save(quality=q)`` followed by ``PIL.Image.open`` does to pixels is what these
steps of libjpeg do: conversion to YCbCr, averaging of chroma, DCT, quantisation, and their inverses. libjpeg does all of them
in integers, with shifts for its divisions, and so do the functions below, in its order and with its constants (jccolor.c,
jcsample.c, jfdctint.c, jcdctmgr.c, jidctint.c, jdsample.c, jdcolor.c). Integers of 32 bits hold every intermediate result, so
the pixels are the same on every device, compiled or not; no setting of matrix products or of floating point changes them.
"""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from jpegcurr.encoding.jpeg.codec import Subsampling, check_quality
from jpegcurr.encoding.jpeg.quantisation import CHROMA, LUMA
from jpegcurr.errors import UsageError

Gradient = Literal["none", "straight-through"]

# Pixels of the images that are in work at once: about a processor's cache, or enough for every core of a GPU.
_CHUNK = {"cpu": 1 << 18}
_DEVICE_CHUNK = 1 << 24
# Horizontal and vertical pixels per sample of chroma.
_FACTORS = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
# Fractional bits of the colour conversions and of the DCT's factors, and those that its first pass leaves to the second.
_COLOR_BITS, _DCT_BITS, _PASS_BITS = 16, 13, 2


def jpeg(images: Tensor, quality: int | Tensor, *, subsampling: Subsampling = "420", gradient: Gradient = "none") -> Tensor:
    """Return what a JPEG of ``quality`` shows of images: the pixels of Pillow's ``save`` and ``open``, to the bit.

        jpegcurr.jpeg(images, 50)
        jpegcurr.jpeg(images, torch.randint(30, 96, (len(images),)), subsampling="444")

    A batch is processed in chunks, so that the memory beside its result is bounded: about 30 MB on a CPU, 1 GB on a GPU, unless
    one image alone needs more, at about 70 bytes a pixel. ``torch.compile`` fuses the steps and processes the batch at once; on
    a CPU that is fastest for batches that fit into the processor's cache, of about four images of 224 pixels. Uncompiled on a
    CPU, the transform ``JPEG``, which encodes and decodes, is faster.

    Args:
        images: uint8 [n 3 h w], RGB, or [n 1 h w], grey; or one image, [3 h w] or [1 h w]. Sides may be of any length.
        quality: 1 to 100; or an integer tensor [n], one for each image. A tensor on a GPU is waited for, to be checked; one on
            the CPU is not.
        subsampling: the chroma layout: 420 (Pillow's default), 422 or 444. Grey images have none.
        gradient: ``straight-through`` takes images of floating point, levels from 0 to 255, which are rounded, and returns
            such. Backward, every rounding counts as the identity: the gradient of luma passes as it is and that of chroma
            through the averaging. Clamping and ``quality`` have no gradient.

    Raises:
        UsageError: the images are no such tensor, or a quality or an option is none. Within ``torch.compile`` a tensor of
            qualities is checked by an assertion, which is a RuntimeError.
    """
    _check_images(images, gradient)
    if subsampling not in _FACTORS:
        raise UsageError(f"subsampling {subsampling!r} is not known. Give {', '.join(_FACTORS)}.")
    if images.ndim == 3:
        return jpeg(images[None], quality, subsampling=subsampling, gradient=gradient)[0]
    qualities = _check_qualities(quality, images)
    if gradient == "none":
        return jpeg_unchecked(images, qualities, subsampling)
    linear = _without_rounding(images, subsampling)
    shown = jpeg_unchecked(images.detach().round().clamp(0, 255).to(torch.uint8), qualities, subsampling)
    return shown + (linear - linear.detach())  # the difference is zero, so that the levels are exact


def _check_images(images: Tensor, gradient: str) -> None:
    if gradient not in get_args(Gradient):
        raise UsageError(f"gradient {gradient!r} is not known. Give {' or '.join(get_args(Gradient))}.")
    if not isinstance(images, Tensor):
        raise UsageError(f"jpeg takes a tensor, not {type(images).__name__}. The transform JPEG takes images of Pillow's.")
    straight = gradient == "straight-through"
    right_type = images.is_floating_point() if straight else images.dtype == torch.uint8
    if not right_type or images.ndim not in (3, 4) or images.shape[-3] not in (1, 3) or 0 in images.shape[-2:]:
        kind = "images of floating point" if straight else "uint8"
        actual = f"{str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        raise UsageError(f"jpeg takes {kind} [n 3 h w], [n 1 h w], [3 h w] or [1 h w], not {actual}.")


def _check_qualities(quality: int | Tensor, images: Tensor) -> Tensor:
    """Return the qualities as int32 [n] or [1] on the images' device; raise UsageError for one that is none."""
    if not isinstance(quality, Tensor):
        if check_quality(quality) == "source":
            raise UsageError("quality 'source' is none for pixels, which have no file that could be kept. Give 1 to 100.")
        return torch.full((1,), int(quality), dtype=torch.int32, device=images.device)
    if quality.dtype.is_floating_point or quality.dtype.is_complex or quality.dtype == torch.bool:
        raise UsageError(f"Qualities of {quality.dtype} are not whole numbers. Give a tensor of integers.")
    if quality.ndim > 1 or quality.numel() not in (1, len(images)):
        raise UsageError(f"Qualities {list(quality.shape)} do not fit {len(images)} images. Give one, or one for each.")
    valid = ((quality >= 1) & (quality <= 100)).all()
    if torch.compiler.is_compiling():
        torch._assert_async(valid, "a quality is not from 1 to 100")
    elif not valid:
        raise UsageError(f"Qualities from {int(quality.min())} to {int(quality.max())} are not all from 1 to 100.")
    return quality.reshape(-1).to(images.device, torch.int32, non_blocking=True)


def jpeg_unchecked(images: Tensor, qualities: Tensor, subsampling: Subsampling = "420") -> Tensor:
    """Return what ``jpeg`` does of qualities, int32 [n] or [1] on the images' device, known to be valid: nothing waits."""
    count = max(1, _CHUNK.get(images.device.type, _DEVICE_CHUNK) // (images.shape[2] * images.shape[3]))
    if torch.compiler.is_compiling() or len(images) <= count:
        return _round_trip(images, qualities, subsampling)
    shown = torch.empty_like(images, memory_format=torch.contiguous_format)
    for first in range(0, len(images), count):
        part = slice(first, first + count)
        shown[part] = _round_trip(images[part], qualities if len(qualities) == 1 else qualities[part], subsampling)
    return shown


def _round_trip(images: Tensor, qualities: Tensor, subsampling: Subsampling) -> Tensor:
    luma_table = _table(LUMA, qualities)
    if images.shape[1] == 1:
        return _code([images[:, 0].int()], [luma_table])[0].to(torch.uint8)[:, None]
    height, width = images.shape[2:]
    across, down = _FACTORS[subsampling]
    y, cb, cr = _to_ycc(images)
    chroma = _downsample(torch.cat([cb, cr]), across, down)
    chroma_table = _table(CHROMA, qualities if len(qualities) == 1 else qualities.repeat(2))
    y, chroma = _code([y, chroma], [luma_table, chroma_table])
    return _to_rgb(y, *_upsample(chroma, width, across, down)[:, :height, :width].chunk(2))


def _color_factor(number: float) -> int:
    """Return a positive factor of a colour conversion as libjpeg's integers have it, with 16 fractional bits."""
    return int(number * (1 << _COLOR_BITS) + 0.5)


def _dct_factor(number: float) -> int:
    """Return a positive factor of the DCT as libjpeg's integers have it, with 13 fractional bits."""
    return int(number * (1 << _DCT_BITS) + 0.5)


def _descale(numbers: Tensor, bits: int) -> Tensor:
    """Divide by a power of 2 and round, halves up, in place."""
    return numbers.add_(1 << bits - 1).bitwise_right_shift_(bits)


def _to_ycc(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convert RGB, uint8 [n 3 h w], to Y, Cb and Cr, int32 [n h w]. Their sums stay below 2^25."""
    red, green, blue = images.int().unbind(1)
    half, center = 1 << _COLOR_BITS - 1, 128 << _COLOR_BITS
    y = (red * _color_factor(0.299)).add_(green, alpha=_color_factor(0.587)).add_(blue, alpha=_color_factor(0.114))
    cb = (blue * half).sub_(red, alpha=_color_factor(0.16874)).sub_(green, alpha=_color_factor(0.33126))
    cr = (red * half).sub_(green, alpha=_color_factor(0.41869)).sub_(blue, alpha=_color_factor(0.08131))
    # One less than a half, so that the sum for a pure blue or red does not reach level 256.
    cb, cr = (plane.add_(center + half - 1).bitwise_right_shift_(_COLOR_BITS) for plane in (cb, cr))
    return _descale(y, _COLOR_BITS), cb, cr


def _to_rgb(y: Tensor, cb: Tensor, cr: Tensor) -> Tensor:
    """Convert Y, Cb and Cr, int32 [n h w], to RGB, uint8 [n 3 h w]."""
    cb, cr = cb - 128, cr - 128
    red = _descale(cr * _color_factor(1.402), _COLOR_BITS).add_(y)
    green = (cb * -_color_factor(0.34414)).sub_(cr, alpha=_color_factor(0.71414))
    blue = _descale(cb * _color_factor(1.772), _COLOR_BITS).add_(y)
    return torch.stack([red, _descale(green, _COLOR_BITS).add_(y), blue], 1).clamp_(0, 255).to(torch.uint8)


def _repeat_edges(planes: Tensor, height: int, width: int) -> Tensor:
    """Repeat the last row and column of [n h w] until it is as high and wide as given."""
    rows, columns = height - planes.shape[1], width - planes.shape[2]
    if columns:
        planes = torch.cat([planes, planes[:, :, -1:].expand(-1, -1, columns)], 2)
    if rows:
        planes = torch.cat([planes, planes[:, -1:].expand(-1, rows, -1)], 1)
    return planes


def _downsample(planes: Tensor, across: int, down: int) -> Tensor:
    """Average chroma, int32 [n h w], over ``down`` rows and ``across`` columns; halves go down and up in turns.

    The result is as wide as its blocks of 8, because libjpeg repeats the last pixel of a row before it averages. It repeats the
    last row of averages, not of pixels, which is left to ``_code``.
    """
    if across == 1:
        return planes
    height, width = planes.shape[1:]
    planes = _repeat_edges(planes, _ceil(height, down), _ceil(width, 8 * across))
    sums = planes[:, :, ::2] + planes[:, :, 1::2]
    if down == 2:
        sums = sums[:, ::2] + sums[:, 1::2]
    bias = torch.arange(sums.shape[2], device=planes.device, dtype=torch.int32) & 1
    return sums + (bias + (down - 1)) >> down


def _upsample(planes: Tensor, width: int, across: int, down: int) -> Tensor:
    """Interpolate chroma, int32 [n h w], linearly to ``down`` times the rows and ``across`` times the columns.

    ``planes`` may be wider than the samples of an image of ``width``, which alone count. Where rows have one or two samples,
    samples are repeated instead, in both directions (jdsample.c: "fancy upsampling" needs more than two).
    """
    if across == 1:
        return planes
    planes = planes[:, :, : _ceil(width, 2) // 2]
    if planes.shape[2] <= 2:
        return planes.repeat_interleave(down, 1).repeat_interleave(2, 2)
    if down == 2:
        above = torch.cat([planes[:, :1], planes[:, :-1]], 1)
        below = torch.cat([planes[:, 1:], planes[:, -1:]], 1)
        planes = torch.stack([torch.add(above, planes, alpha=3), torch.add(below, planes, alpha=3)], 2).flatten(1, 2)
    left = torch.cat([planes[:, :, :1], planes[:, :, :-1]], 2)
    right = torch.cat([planes[:, :, 1:], planes[:, :, -1:]], 2)
    bias = (8, 7) if down == 2 else (1, 2)
    first = torch.add(left, planes, alpha=3).add_(bias[0])
    second = torch.add(right, planes, alpha=3).add_(bias[1])
    return torch.stack([first, second], 3).flatten(2).bitwise_right_shift_(2 * down)


def _ceil(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _table(base: tuple[tuple[int, ...], ...], qualities: Tensor) -> Tensor:
    """Return the divisors at some qualities, int32 [8 8 n], from those at quality 50."""
    scale = torch.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    at_50 = torch.tensor(base, dtype=torch.int32).to(qualities.device, non_blocking=True)  # a GPU is not waited for
    return ((at_50[:, :, None] * scale + 50) // 100).clamp(1, 255)


def _code(planes: list[Tensor], tables: list[Tensor]) -> list[Tensor]:
    """Transform, quantise and transform back planes of levels, int32 [n h w], with their divisors, [8 8 n] or [8 8 1].

    The blocks of all planes are one tensor [8 8 blocks], so that every step of the transforms is one of long vectors.
    """
    parts, divisors, shapes = [], [], []
    for plane, table in zip(planes, tables, strict=True):
        whole = _repeat_edges(plane, _ceil(plane.shape[1], 8), _ceil(plane.shape[2], 8))
        count, height, width = whole.shape
        grid = whole.reshape(count, height // 8, 8, width // 8, 8).permute(2, 4, 0, 1, 3)
        parts.append(grid.flatten(2))
        divisors.append(table[..., None, None].expand(grid.shape).flatten(2))
        shapes.append(grid.shape)
    blocks = torch.cat(parts, 2) - 128
    blocks = _transform(_transform(blocks, 1, last=False), 0, last=True)
    blocks = _quantise(blocks, torch.cat(divisors, 2))
    blocks = _transform_back(_transform_back(blocks, 0, last=False), 1, last=True)
    blocks = blocks.add_(128).clamp_(0, 255)
    shown = []
    for part, shape, plane in zip(torch.split(blocks, [part.shape[2] for part in parts], 2), shapes, planes, strict=True):
        whole = part.reshape(shape).permute(2, 3, 0, 4, 1).flatten(1, 2).flatten(2)
        shown.append(whole[:, : plane.shape[1], : plane.shape[2]])
    return shown


def _quantise(coefficients: Tensor, table: Tensor) -> Tensor:
    """Round coefficients, 8 times those of the DCT, to multiples of the divisors.

    The quotient is taken in float32, which takes a fraction of an integer division's time and is exact: for whole numbers
    a < 2^16 and d, (a + 0.5) / d is at least 1 / 2d from every whole number, and its product with a rounded reciprocal is
    wrong by less than 2^-22 of itself, which is below 2^-6 / d. Coefficients are below 2^14.
    """
    divisor, signed = (table * 8).float(), coefficients.float()
    levels = signed.abs().add_(divisor / 2 + 0.5).mul_(divisor.reciprocal()).floor_()
    return levels.copysign_(signed).int().mul_(table)


def _transform(blocks: Tensor, dim: int, *, last: bool) -> Tensor:
    """Apply the DCT of 8 points along ``dim``: that of Loeffler, Ligtenberg and Moschytz, in libjpeg's integers.

    The first pass leaves results scaled by sqrt(8) * 4, the ``last`` one by 8 in all. The half that makes a shift round is
    added where it reaches every result once.
    """
    x = blocks.unbind(dim)
    bits = _DCT_BITS + _PASS_BITS if last else _DCT_BITS - _PASS_BITS
    half = 1 << bits - 1
    outer, inner = x[0] + x[7], x[3] + x[4]
    outer_1, inner_1 = x[1] + x[6], x[2] + x[5]
    even_0, even_3 = outer + inner, outer - inner
    even_1, even_2 = outer_1 + inner_1, outer_1 - inner_1
    y0, y4 = even_0 + even_1, even_0 - even_1
    y0, y4 = (_descale(y0, _PASS_BITS), _descale(y4, _PASS_BITS)) if last else (y0 << _PASS_BITS, y4 << _PASS_BITS)
    z = (even_2 + even_3).mul_(_dct_factor(0.541196100)).add_(half)
    y2 = torch.add(z, even_3, alpha=_dct_factor(0.765366865)) >> bits
    y6 = torch.sub(z, even_2, alpha=_dct_factor(1.847759065)) >> bits
    odd = _rotate_odd(x[3] - x[4], x[2] - x[5], x[1] - x[6], x[0] - x[7], half)
    y7, y5, y3, y1 = (value >> bits for value in odd)
    return torch.stack([y0, y1, y2, y3, y4, y5, y6, y7], dim)


def _transform_back(blocks: Tensor, dim: int, *, last: bool) -> Tensor:
    """Apply the inverse of ``_transform`` along ``dim``; the ``last`` pass ends in levels around 0."""
    y = blocks.unbind(dim)
    bits = _DCT_BITS + _PASS_BITS + 3 if last else _DCT_BITS - _PASS_BITS
    half = 1 << bits - 1
    z = (y[2] + y[6]).mul_(_dct_factor(0.541196100))
    even_2 = torch.sub(z, y[6], alpha=_dct_factor(1.847759065))
    even_3 = torch.add(z, y[2], alpha=_dct_factor(0.765366865))
    even_0 = (y[0] + y[4]).bitwise_left_shift_(_DCT_BITS).add_(half)
    even_1 = (y[0] - y[4]).bitwise_left_shift_(_DCT_BITS).add_(half)
    evens = (even_0 + even_3, even_1 + even_2, even_1 - even_2, even_0 - even_3)
    odds = _rotate_odd(y[7], y[5], y[3], y[1], 0)[::-1]
    pairs = list(zip(evens, odds, strict=True))
    sums = [even + odd for even, odd in pairs] + [even - odd for even, odd in reversed(pairs)]
    return torch.stack(sums, dim).bitwise_right_shift_(bits)


def _rotate_odd(a: Tensor, b: Tensor, c: Tensor, d: Tensor, half: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the rotations that the odd half of both transforms shares (figure 8 of the paper), unscaled, plus ``half``."""
    z3, z4 = a + c, b + d
    z5 = (z3 + z4).mul_(_dct_factor(1.175875602)).add_(half)
    z1, z2 = (a + d).mul_(-_dct_factor(0.899976223)), (b + c).mul_(-_dct_factor(2.562915447))
    z3 = torch.sub(z5, z3, alpha=_dct_factor(1.961570560))
    z4 = torch.sub(z5, z4, alpha=_dct_factor(0.390180644))
    return (
        torch.add(z1, a, alpha=_dct_factor(0.298631336)).add_(z3),
        torch.add(z2, b, alpha=_dct_factor(2.053119869)).add_(z4),
        torch.add(z2, c, alpha=_dct_factor(3.072711026)).add_(z3),
        torch.add(z1, d, alpha=_dct_factor(1.501321110)).add_(z4),
    )


def _without_rounding(images: Tensor, subsampling: Subsampling) -> Tensor:
    """Return what a JPEG shows of images of floating point if nothing is rounded: chroma is averaged and interpolated."""
    across, down = _FACTORS[subsampling]
    if images.shape[1] == 1 or across == 1:
        return images
    height, width = images.shape[2:]
    red, green, blue = torch.split(images, 1, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = images - luma  # as linear as Cb and Cr, of which it is a function
    padded = functional.pad(chroma, (0, width % 2, 0, height % down), mode="replicate")
    averaged = functional.avg_pool2d(padded, (down, 2))
    mode = "bilinear" if averaged.shape[3] > 2 else "nearest"
    shown = functional.interpolate(averaged, scale_factor=(float(down), 2.0), mode=mode)
    chroma = shown[:, :, :height, :width]
    return luma + chroma
