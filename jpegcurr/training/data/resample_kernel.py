"""Antialiased resizing in compiled code: Pillow's bicubic and torch's bilinear, to the last bit.

OpenCV's area is there too: to within one level and three times as fast as in OpenCV where no side grows, and to the last bit
where one does, for which OpenCV has another formula.

The algorithm is that of Pillow's ``libImaging/Resample.c`` for 8 bits per channel, which torch's
``interpolate(antialias=True)`` uses with fewer bits per weight. Rows and columns are resized in separate passes, rows first,
with 8 bits in between, as in torch and in Pillow up to version 12. (From version 13 Pillow resizes columns first where that is
cheaper, which gives other pixels; training images must not depend on the version. Validation follows it, whatever the version.)
An output pixel is a weighted sum over a
window of the input, in integers, so the order of summation does not matter. The weights are computed in double precision, with
Pillow's operations in Pillow's order, and rounded to fixed point.

The sums take nearly all of the time, and LLVM does not vectorise them over three channels by itself, so ``_blend`` is written
as LLVM code. Only the compiled code of the loaders may import this file: the plain loader does without numba.
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

from jpegcurr.training.data.crops import centre_start, columns_first

Bytes = NDArray[np.uint8]
# For every output pixel: the first pixel of its window of the input, the number of pixels in it, and their weights [out taps].
Windows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]

AREA, BILINEAR, BICUBIC = 0, 1, 2  # the last two numbers are also the radii of these filters in pixels

_BITS = 32 - 8 - 2  # fraction bits of a weight: 255 times any sum of weights then fits into an int32
_ROWS = 4  # runs that one _blend sums at once
_MIXED = 32  # bytes that one _mix computes at once
_INT8, _INT16, _INT32, _INT64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)

_F = TypeVar("_F", bound=Callable[..., object])


def _compiled(function: _F) -> _F:
    """Apply ``njit`` without fastmath, which a caller's fastmath would otherwise turn on here and change the weights."""
    return cast("_F", njit(nogil=True, cache=True, error_model="numpy", fastmath=False)(function))


_centre_start, _columns_first = _compiled(centre_start), _compiled(columns_first)


@_compiled
def resample_centre(
    source: Bytes, top: int, left: int, height: int, width: int, to_height: int, to_width: int, destination: Bytes, kind: int
) -> None:
    """Fill ``destination`` with the centre of a crop of ``source`` that is resized to ``to_height`` by ``to_width`` pixels.

    Only that centre is computed. The pixels are those of ``transforms.resize_centre``, to the bit. ``kind`` is BILINEAR, with
    Pillow's weights, or BICUBIC; all else is as for ``resample``.
    """
    top, left, height, width = int(np.int64(top)), int(np.int64(left)), int(np.int64(height)), int(np.int64(width))
    out_height, out_width = destination.shape[:2]
    down = _filter_windows(height, to_height, _centre_start(to_height, out_height), out_height, kind, _BITS)
    across = _filter_windows(width, to_width, _centre_start(to_width, out_width), out_width, kind, _BITS)
    first_row, rows, down = _cut(down)
    first_column, columns, across = _cut(across)
    if _columns_first(height, width, to_height, to_width):
        between = np.empty((out_height, columns, 3), np.uint8)
        _resize_columns(source, top + first_row, left + first_column, down, between)
        _resize_rows(between, 0, 0, out_height, columns, across, destination)
    else:
        between = np.empty((rows, out_width, 3), np.uint8)
        _resize_rows(source, top + first_row, left + first_column, rows, columns, across, between)
        _resize_columns(between, 0, 0, down, destination)


@_compiled
def _cut(windows: Windows) -> tuple[int, int, Windows]:
    """Return where the input of all windows begins, how long it is, and the windows counted from there."""
    starts, counts, weights = windows
    return starts[0], starts[-1] + counts[-1] - starts[0], (starts - starts[0], counts, weights)


@_compiled
def resample(source: Bytes, top: int, left: int, height: int, width: int, destination: Bytes, kind: int) -> None:
    """Crop RGB ``source`` (uint8 [h w 3]) and resize the crop to fill ``destination`` (uint8 [h w 3]); both C-contiguous.

    ``kind`` is BILINEAR, BICUBIC, or AREA: OpenCV's ``INTER_AREA``, to within one level if no side grows, else to the bit.
    Nothing is checked: the crop must lie within the source, and no side may be 0.
    """
    top, left, height, width = int(np.int64(top)), int(np.int64(left)), int(np.int64(height)), int(np.int64(width))
    out_height, out_width = destination.shape[:2]
    if kind == AREA and (height < out_height or width < out_width):
        _enlarge(source, top, left, height, width, destination)
        return
    if kind == AREA:
        across, down = _area_windows(width, out_width), _area_windows(height, out_height)
    else:
        bits = 0 if kind == BILINEAR else _BITS
        across = _filter_windows(width, out_width, 0, out_width, kind, bits)
        down = _filter_windows(height, out_height, 0, out_height, kind, bits)
    between = np.empty((height, out_width, 3), np.uint8)
    _resize_rows(source, top, left, height, width, across, between)
    _resize_columns(between, 0, 0, down, destination)


@_compiled
def _filter_windows(size: int, out_size: int, first: int, count: int, kind: int, bits: int) -> Windows:
    """Return the windows of the bilinear or the bicubic filter along a side, of ``count`` output pixels from ``first`` on.

    Weights have ``bits`` fraction bits, or as many as torch would give them if 0.
    """
    scale = size / out_size
    stretch = max(scale, 1.0)
    radius = kind * stretch
    starts, counts = np.empty(count, np.int64), np.empty(count, np.int64)
    weights = np.zeros((count, 2 * math.ceil(radius) + 1))
    for i in range(count):
        centre = (first + i + 0.5) * scale
        starts[i] = max(int(centre - radius + 0.5), 0)
        counts[i] = min(int(centre + radius + 0.5), size) - starts[i]
        total = 0.0
        for tap in range(counts[i]):
            weights[i, tap] = _weight((tap + starts[i] - centre + 0.5) * (1.0 / stretch), kind)
            total += weights[i, tap]
        for tap in range(counts[i]):
            weights[i, tap] /= total
    return starts, counts, _to_fixed_point(weights, bits or _torch_bits(weights))


@_compiled
def _area_windows(size: int, out_size: int) -> Windows:
    """Return the windows of the mean over the part of the input that an output pixel covers."""
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
    return starts, counts, _to_fixed_point(weights, _BITS)


@_compiled
def _enlarge(source: Bytes, top: int, left: int, height: int, width: int, out: Bytes) -> None:
    """Resize a crop of ``source`` [h w 3] into ``out`` as OpenCV's ``INTER_AREA`` does where a side grows, to the bit.

    That is an interpolation between two neighbours along both sides, with the weights of ``_pair_windows``. Rows are resized to
    7 fraction bits, and then mixed. Source: ``resizeGeneric_`` in OpenCV's ``modules/imgproc/src/resize.cpp``.
    """
    length = 3 * out.shape[1]
    across = _pair_windows(width, out.shape[1])
    starts, weights = _pair_windows(height, out.shape[0])
    lines = np.empty((2, 1, length + 1), np.int16)  # two resized rows, an even and an odd one; the last number is written over
    held = np.full((1, 1, 2), -1, np.int64)  # their numbers
    crop, pitch = source.ctypes.data + 3 * (top * source.shape[1] + left), 3 * source.shape[1]
    for y in range(out.shape[0]):
        first, second = starts[y], min(starts[y] + 1, height - 1)
        for row in (first, second):
            if held[0, 0, row & 1] != row:
                _enlarge_row(crop + row * pitch, width, across, lines[row & 1].ctypes.data)
                held[0, 0, row & 1] = row
        upper, lower = lines[first & 1].ctypes.data, lines[second & 1].ctypes.data
        to = out.ctypes.data + y * length
        if length >= _MIXED:
            for start in range(0, length, _MIXED):
                x = min(start, length - _MIXED)
                _mix(_MIXED, upper + 2 * x, lower + 2 * x, to + x, weights[y, 0], weights[y, 1])
        else:
            for x in range(length):
                _mix(1, upper + 2 * x, lower + 2 * x, to + x, weights[y, 0], weights[y, 1])


@_compiled
def _enlarge_row(row: int, width: int, across: tuple[NDArray[np.int64], NDArray[np.int16]], line: int) -> None:
    """Resize the row of ``width`` pixels at address ``row`` to 7 fraction bits, int16, at address ``line``.

    A pixel is read as four bytes, unless the fourth might lie beyond the row.
    """
    starts, weights = across
    for x in range(len(starts)):
        here, there = row + 3 * starts[x], row + 3 * min(starts[x] + 1, width - 1)
        if starts[x] + 2 < width:
            _pair(4, here, there, line + 6 * x, weights[x, 0], weights[x, 1])
        else:
            _pair(3, here, there, line + 6 * x, weights[x, 0], weights[x, 1])


@_compiled
def _pair_windows(size: int, out_size: int) -> tuple[NDArray[np.int64], NDArray[np.int16]]:
    """Return the first of the two input pixels of every output pixel, and their weights [out 2] with 11 fraction bits."""
    growth = out_size / size
    starts, weights = np.empty(out_size, np.int64), np.empty((out_size, 2), np.int16)
    for i in range(out_size):
        start = math.floor(i * (1.0 / growth))
        share = np.float32((i + 1) - (start + 1) * growth)  # of the output pixel that lies in the second input pixel
        share = share - np.float32(math.floor(share)) if share > 0 else np.float32(0.0)
        starts[i] = min(start, size - 1)
        weights[i, 0] = np.int16(np.rint((np.float32(1.0) - share) * np.float32(1 << 11)))
        weights[i, 1] = np.int16(np.rint(share * np.float32(1 << 11)))
    return starts, weights


@_compiled
def _weight(x: float, kind: int) -> float:
    """Return the triangle (bilinear) or the cubic with a = -0.5 (bicubic) at ``x`` pixels from its centre."""
    x = abs(x)
    if kind == BILINEAR:
        return max(1.0 - x, 0.0)
    if x < 1.0:
        return (1.5 * x - 2.5) * x * x + 1.0
    if x < 2.0:
        return (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return 0.0


@_compiled
def _torch_bits(weights: NDArray[np.float64]) -> int:
    """Return the fraction bits that torch gives to weights: as many as let the largest weight fit into an int16."""
    bits = 0
    while bits < _BITS and int(0.5 + weights.max() * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    return bits


@_compiled
def _to_fixed_point(weights: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """Round weights to ``bits`` fraction bits, half away from zero, and return them with ``_BITS`` fraction bits."""
    fixed = np.empty(weights.shape, np.int32)
    for i in range(weights.shape[0]):
        for tap in range(weights.shape[1]):
            weight = weights[i, tap]
            fixed[i, tap] = int(weight * (1 << bits) + math.copysign(0.5, weight)) << (_BITS - bits)
    return fixed


@_compiled
def _resize_rows(source: Bytes, top: int, left: int, height: int, width: int, windows: Windows, out: Bytes) -> None:
    """Resize the rows of a crop of ``source`` [h w 3] into ``out`` [height out_width 3].

    All arrays have three dimensions, because stock FFCV marks numba's types of one and two dimensions as read-only.

    The last window must end at ``width``. A pixel is read and written as four bytes, unless the fourth might lie beyond that;
    the next pixel overwrites the fourth. A crop of fewer rows than one blend sums is done row by row, and all runs of a blend
    are then the same row.
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
def _resize_columns(source: Bytes, top: int, left: int, windows: Windows, out: Bytes) -> None:
    """Resize the columns of a crop of ``source`` [h w 3] into ``out`` [out_height width 3]."""
    starts, counts, weights = windows
    length, pitch = 3 * out.shape[1], 3 * source.shape[1]
    crop = source.ctypes.data + top * pitch + 3 * left
    for y in range(len(starts)):
        row = crop + starts[y] * pitch
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
    """Declare ``_blend``, which writes weighted sums of bytes for _ROWS runs of ``lanes`` (a literal) bytes at once.

    Weight k (int32) of ``count`` belongs to the runs that begin k * ``step`` bytes after ``source``. Runs are ``apart`` bytes
    apart in the source and ``out_apart`` in the output. ``source``, ``weights`` and ``out`` are addresses, which may be
    unaligned.
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


def _type_pair(
    _context: Any, lanes: Any, here: Any, there: Any, out: Any, here_weight: Any, there_weight: Any
) -> tuple[Any, Callable[..., Any]]:
    """Declare ``_pair``, which writes weighted sums of ``lanes`` (a literal) bytes at two addresses, as int16.

    Weights, int16, have 11 fraction bits and sums 7. ``_mix`` does the same from int16 with 7 fraction bits to bytes.
    """
    addresses, weights = (here, there, out), (here_weight, there_weight)
    return types.void(lanes, *[types.int64] * len(addresses), *[types.int16] * len(weights)), _emit_pair


def _emit_pair(_context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
    lanes = signature.args[0].literal_value
    levels, sums = ir.VectorType(_INT8, lanes), ir.VectorType(_INT32, lanes)
    _, here, there, out, *weights = arguments
    parts = []
    for address, weight in zip((here, there), weights, strict=True):
        values = builder.load(builder.inttoptr(address, levels.as_pointer()), align=1)
        factor = _splat(builder, builder.sext(weight, _INT32), sums)
        parts.append(builder.mul(builder.zext(values, sums), factor))
    total = builder.ashr(builder.add(*parts), sums([4] * lanes))
    words = ir.VectorType(_INT16, lanes)
    builder.store(builder.trunc(total, words), builder.inttoptr(out, words.as_pointer()), align=1)


def _type_mix(
    context: Any, lanes: Any, upper: Any, lower: Any, out: Any, upper_weight: Any, lower_weight: Any
) -> tuple[Any, Callable[..., Any]]:
    signature, _ = _type_pair(context, lanes, upper, lower, out, upper_weight, lower_weight)
    return signature, _emit_mix


def _emit_mix(_context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> None:
    """Emit products of int16 of which only the upper halves are added: one instruction of the processor for both."""
    lanes = signature.args[0].literal_value
    levels, words, sums = (ir.VectorType(kind, lanes) for kind in (_INT8, _INT16, _INT32))
    _, upper, lower, out, *weights = arguments
    halves = []
    for address, weight in zip((upper, lower), weights, strict=True):
        values = builder.load(builder.inttoptr(address, words.as_pointer()), align=1)
        product = builder.mul(builder.sext(values, sums), builder.sext(_splat(builder, weight, words), sums))
        halves.append(builder.trunc(builder.ashr(product, sums([16] * lanes)), words))
    total = builder.ashr(builder.add(builder.add(*halves), words([2] * lanes)), words([2] * lanes))
    builder.store(builder.trunc(total, levels), builder.inttoptr(out, levels.as_pointer()), align=1)


def _pointer(builder: Any, first: Any, row: int, apart: Any, kind: Any) -> Any:
    return builder.inttoptr(builder.add(first, builder.mul(apart, _INT64(row))), kind.as_pointer())


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    undefined = vector(ir.Undefined)
    first = builder.insert_element(undefined, value, _INT32(0))
    return builder.shuffle_vector(first, undefined, ir.VectorType(_INT32, vector.count)([0] * vector.count))


def _clip(builder: Any, values: Any, vector: Any) -> Any:
    low, high = vector([0] * vector.count), vector([255] * vector.count)
    values = builder.select(builder.icmp_signed(">", values, low), values, low)
    return builder.select(builder.icmp_signed("<", values, high), values, high)


_blend: Any = intrinsic(prefer_literal=True)(_type_blend)
_pair: Any = intrinsic(prefer_literal=True)(_type_pair)
_mix: Any = intrinsic(prefer_literal=True)(_type_mix)
