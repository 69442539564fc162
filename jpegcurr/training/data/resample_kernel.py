"""Antialiased resizing in compiled code, for FFCV's threads: Pillow's bicubic and torch's bilinear, to the last bit.

And OpenCV's area, which takes OpenCV itself three times as long.

The algorithm is that of Pillow's ``libImaging/Resample.c`` for 8 bits per channel, which torch took over for its
``interpolate(antialias=True)``, with fewer bits for a weight. Each side is resized in a pass of its own,
rows first, with 8 bits between the two: what Pillow does up to version 12 and torch does still. (From 13 on Pillow resizes
columns first where that is cheaper, which gives other pixels; a view should not depend on the version.) An output pixel is a
weighted sum over a window of the input, in integers, whose order does not matter; the weights are computed in double
precision, operation by operation as there, and rounded to fixed point.

The sums take all the time, and LLVM does not vectorise them over three channels by itself: ``_blend`` is written in its own
terms. numba comes with the extra ``ffcv``, so only the code for that loader may import this file.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # has no stubs
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
# For every output pixel: the first pixel of its window of the input, how many there are, and their weights [out taps].
Windows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]

AREA, BILINEAR, BICUBIC = 0, 1, 2  # the last two are the radii of their filters, in pixels, too

_BITS = 32 - 8 - 2  # of a weight after the binary point: an int32 holds 255 times any sum of weights
_ROWS = 4  # in one _blend
_INT8, _INT32, _INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)

_F = TypeVar("_F", bound=Callable[..., object])


def _compiled(function: _F) -> _F:
    """Apply ``njit``. Whoever calls with fastmath would hand it down, and weights would differ, were it not refused here."""
    return cast("_F", njit(nogil=True, cache=True, error_model="numpy", fastmath=False)(function))


@_compiled
def resample(source: Bytes, top: int, left: int, height: int, width: int, destination: Bytes, kind: int) -> None:
    """Crop RGB ``source`` (uint8 [h w 3]), then resize that to fill ``destination`` (uint8 [h w 3]); both C-contiguous.

    ``kind`` is BILINEAR, BICUBIC, or AREA, which is OpenCV's ``INTER_AREA`` to within one level, for sides that do not grow
    alone. Nothing is checked: the crop lies in the source, and no side is 0.
    """
    top, left, height, width = int(np.int64(top)), int(np.int64(left)), int(np.int64(height)), int(np.int64(width))
    out_height, out_width = destination.shape[:2]
    if kind == AREA:
        across, down = _shares(width, out_width), _shares(height, out_height)
    else:
        across, down = _windows(width, out_width, kind), _windows(height, out_height, kind)
    between = np.empty((height, out_width, 3), np.uint8)
    _resize_rows(source, top, left, height, width, across, between)
    _resize_columns(between, down, destination)


@_compiled
def _windows(size: int, out_size: int, kind: int) -> Windows:
    scale = size / out_size
    stretch = max(scale, 1.0)
    radius = kind * stretch
    starts, counts = np.empty(out_size, np.int64), np.empty(out_size, np.int64)
    weights = np.zeros((out_size, 2 * math.ceil(radius) + 1))
    for i in range(out_size):
        centre = (i + 0.5) * scale
        starts[i] = max(int(centre - radius + 0.5), 0)
        counts[i] = min(int(centre + radius + 0.5), size) - starts[i]
        total = 0.0
        for tap in range(counts[i]):
            weights[i, tap] = _weight((tap + starts[i] - centre + 0.5) * (1.0 / stretch), kind)
            total += weights[i, tap]
        for tap in range(counts[i]):
            weights[i, tap] /= total
    return starts, counts, _fixed_points(weights, _bits_of_torch(weights) if kind == BILINEAR else _BITS)


@_compiled
def _shares(size: int, out_size: int) -> Windows:
    """Windows of the mean over the part of the input that an output pixel covers."""
    scale = size / out_size
    starts, counts = np.empty(out_size, np.int64), np.empty(out_size, np.int64)
    weights = np.zeros((out_size, math.ceil(scale) + 2))
    for i in range(out_size):
        first, last = i * scale, min((i + 1) * scale, size)
        starts[i] = int(first)
        counts[i] = min(math.ceil(last), size) - starts[i]
        for tap in range(counts[i]):
            pixel = starts[i] + tap
            weights[i, tap] = (min(pixel + 1.0, last) - max(pixel, first)) / scale
    return starts, counts, _fixed_points(weights, _BITS)


@_compiled
def _weight(x: float, kind: int) -> float:
    """The triangle or the cubic (a = -0.5) at ``x`` pixels from its centre."""
    x = abs(x)
    if kind == BILINEAR:
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@_compiled
def _bits_of_torch(weights: NDArray[np.float64]) -> int:
    """After the binary point, so that the largest weight fits into an int16."""
    bits = 0
    while bits < _BITS and int(0.5 + weights.max() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits


@_compiled
def _fixed_points(weights: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """With ``_BITS`` after the binary point, of which the first ``bits`` may be set. Half is rounded away from zero."""
    fixed = np.empty(weights.shape, np.int32)
    for i in range(weights.shape[0]):
        for tap in range(weights.shape[1]):
            weight = weights[i, tap]
            fixed[i, tap] = int(weight * (1 << bits) + math.copysign(0.5, weight)) << (_BITS - bits)
    return fixed


@_compiled
def _resize_rows(source: Bytes, top: int, left: int, height: int, width: int, windows: Windows, out: Bytes) -> None:
    """The rows of a crop of ``source`` [h w 3] -> ``out`` [height out_width 3].

    All arrays have three dimensions: stock FFCV marks those of one and two as read-only, for all that is compiled after it.

    Pixels are taken four bytes at a time, unless the fourth might lie beyond the source, and written so: the next pixel goes
    over it. Fewer rows than a blend has are each done as many times.
    """
    starts, counts, weights = windows
    pitch, out_pitch = 3 * source.shape[1], 3 * len(starts)
    crop = source.ctypes.data + top * pitch + 3 * left
    rows, together = (_ROWS, 1) if height >= _ROWS else (1, 0)
    for first in range(0, height, rows):
        row = min(first, height - rows)
        for x in range(len(starts)):
            pixels = crop + row * pitch + 3 * starts[x]
            taps = weights.ctypes.data + x * weights.strides[0]
            to = out.ctypes.data + row * out_pitch + 3 * x
            if starts[x] + counts[x] < width:
                _blend(4, pixels, together * pitch, 3, taps, counts[x], to, together * out_pitch)
            else:
                _blend(3, pixels, together * pitch, 3, taps, counts[x], to, together * out_pitch)


@_compiled
def _resize_columns(source: Bytes, windows: Windows, out: Bytes) -> None:
    """The columns of ``source`` [h w 3] -> ``out`` [out_height w 3]."""
    starts, counts, weights = windows
    length = pitch = 3 * source.shape[1]
    for y in range(len(starts)):
        row = source.ctypes.data + starts[y] * pitch
        taps = weights.ctypes.data + y * weights.strides[0]
        to = out.ctypes.data + y * length
        if length >= 8 * _ROWS:
            for first in range(0, length, 8 * _ROWS):
                x = min(first, length - 8 * _ROWS)
                _blend(8, row + x, 8, pitch, taps, counts[y], to + x, 8)
        else:
            for x in range(length):
                _blend(1, row + x, 0, pitch, taps, counts[y], to + x, 0)


def _type_blend(
    _context: Any, lanes: Any, source: Any, apart: Any, step: Any, weights: Any, count: Any, out: Any, out_apart: Any
) -> tuple[Any, Callable[..., Any]]:
    """Weighted sums of _ROWS runs of ``lanes`` (a literal) bytes, ``apart`` bytes apart, to runs ``out_apart`` bytes apart.

    Weight k (int32) of ``count`` is for the runs that begin k * ``step`` bytes after ``source``. ``source``, ``weights`` and
    ``out`` are addresses, and may be unaligned.
    """
    numbers = (source, apart, step, weights, count, out, out_apart)
    return types.void(lanes, *[types.int64] * len(numbers)), _emit_blend


def _emit_blend(_context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
    lanes = signature.args[0].literal_value
    levels, sums = ir.VectorType(_INT8, lanes), ir.VectorType(_INT32, lanes)
    _, source, apart, step, weights, count, out, out_apart = arguments
    half = sums([1 << (_BITS - 1)] * lanes)
    totals = [cgutils.alloca_once_value(builder, half) for _ in range(_ROWS)]  # type: ignore[no-untyped-call]
    with cgutils.for_range(builder, count) as loop:
        at = builder.add(weights, builder.mul(loop.index, _INT64(4)))
        weight = _splat(builder, builder.load(_pointer(builder, at, 0, apart, _INT32)), sums)
        tap = builder.add(source, builder.mul(loop.index, step))
        for row, total in enumerate(totals):
            values = builder.zext(builder.load(_pointer(builder, tap, row, apart, levels), align=1), sums)
            builder.store(builder.add(builder.load(total), builder.mul(values, weight)), total)
    for row, total in enumerate(totals):
        values = _clip(builder, builder.ashr(builder.load(total), sums([_BITS] * lanes)), sums)
        builder.store(builder.trunc(values, levels), _pointer(builder, out, row, out_apart, levels), align=1)


def _pointer(builder: Any, first: Any, row: int, apart: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(first, builder.mul(apart, _INT64(row))), kind.as_pointer())


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    undefined = vector(ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(first, undefined, vector([0] * vector.count))


def _clip(builder: Any, values: Any, vector: Any) -> Any:
    low, high = vector([0] * vector.count), vector([255] * vector.count)
    values = builder.select(builder.icmp_signed(">", values, low), values, low)
    return builder.select(builder.icmp_signed("<", values, high), values, high)


_blend: Any = intrinsic(prefer_literal=True)(_type_blend)
