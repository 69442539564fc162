"""Traces of an earlier compression in the DCT coefficients of a JPEG, on the grid of its blocks or on another.

Coefficients that were rounded to multiples of one step and then of another have gaps and peaks in their histogram (Lukas and
Fridrich, DFRWS 2003). What the histogram would be without the first rounding is known from the same image: pixels cut four rows
and columns off the grid have coefficients as they were before it (calibration: Fridrich, Goljan and Hogea, 2002). For every
quality of an earlier compression, their histogram is rounded by its steps, blurred by the rounding of pixels in between, and
rounded by the steps of the file; the likelihood of the file's own coefficients says which of these, if any, it was.

On another grid, where an image was cropped in between, the later compression is noise on the coefficients of the earlier one,
which lie around multiples of its steps: the same likelihood, with more blur, for each of the 49 grids that share no line with
that of the file. That needs a later quality from about 85; coarser steps leave patterns of their own on other grids.

No library gives the coefficients of a file. Those of its decoded luma are the same but for the rounding of pixels, which only
matters for steps of 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.quantisation import ZIGZAG, Table, libjpeg_tables

THRESHOLD = 30.0  # of the log-likelihood ratio; how often photographs without a trace exceed it: experiments/010
MOVED_THRESHOLD = 60.0  # the same on other grids
TRIED = range(10, 100)  # qualities of the earlier compression
TRIED_MOVED = range(30, 95, 5)  # those tried on every other grid, before all of them on the likeliest
LEAST = 500  # coefficients other than 0: of an image with fewer nothing can be told
_MODES = range(1, 16)  # of the zigzag order, without the first, which is the blocks' mean
_ALIKE = 3.0  # log-likelihood: qualities this near to the best fit as well

_LARGEST, _WIDTH = 200.0, 0.25  # of coefficients, and of a bin of their histogram
_BINS = int(_LARGEST / _WIDTH)
_CENTRES = (np.arange(_BINS) + 0.5) * _WIDTH
_BLUR = 0.55  # standard deviation of a coefficient by the rounding of RGB pixels
_MIXED = 0.1  # share of coefficients that an alternative leaves as they are: pixels at black or white, edited parts
_FLOOR = 0.05  # images in a bin where the reference has none
_SHIFT = 4  # pixels, the furthest from a grid
_MOVED_MODES = range(1, 10)
_MOST_BLUR = 1.6  # of a file's steps, on other grids
_SIDE = 1024  # pixels of the part of a large image that is used
_FLATTEST, _DARKEST, _BRIGHTEST = (
    4,
    1,
    254,
)  # blocks with less contrast, or with black or white, have rounded values of their own

_FREQUENCIES = np.arange(8)
_DCT = np.sqrt(2 / 8) * np.cos((2 * _FREQUENCIES + 1) * _FREQUENCIES[:, None] * np.pi / 16)
_DCT[0] /= np.sqrt(2)
_DCT = _DCT.astype(np.float32)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trace:
    """The likeliest earlier compression with libjpeg's tables.

    ``lowest`` to ``highest`` are the qualities that fit alike. ``score`` is the logarithm of their likelihood over that of no
    earlier compression, for the ``coefficients`` that were used. ``offset`` is where its grid of blocks begins, in pixels from
    the left and the top: (0, 0) if it is that of the file.
    """

    lowest: int
    highest: int
    score: float
    coefficients: int
    offset: tuple[int, int] = (0, 0)

    @property
    def detected(self) -> bool:
        """Whether the trace is one that photographs without an earlier compression practically never show."""
        return self.score > (MOVED_THRESHOLD if any(self.offset) else THRESHOLD)


def find_trace(data: bytes, table: Table) -> Trace | None:
    """Look for an earlier compression of a JPEG on its own grid; its luma has the quantisation ``table``.

    An earlier one at the same or a higher quality leaves little or no trace, and one before a resize leaves none that this
    finds.

    Returns:
        The likeliest one; None where nothing can be told: too few coefficients, or a file about which libjpeg warns.
    """
    luma = decode_luma(data)
    if luma is None:
        return None
    luma = _middle(luma)
    steps = [table[mode] for mode in _MODES]
    return _likeliest(_coefficients(luma), _coefficients(luma[_SHIFT:, _SHIFT:]), _MODES, steps, _BLUR, TRIED)


def find_moved_trace(data: bytes, table: Table) -> Trace | None:
    """Look for an earlier compression of a JPEG on other grids, as ``find_trace`` does on its own; this takes 0.1 s.

    The image was then cropped in between, along both sides by other than multiples of 8 pixels. Nothing can be told of files
    below a quality of about 85.
    """
    blur = max(_BLUR, float(np.sqrt(np.mean(np.square(table[:16])) / 12)))  # of rounding by the file's steps
    luma = decode_luma(data) if blur <= _MOST_BLUR else None
    if luma is None:
        return None
    luma = _middle(luma)
    grids = {(left, top): _coefficients(luma[top:, left:]) for left in range(8) for top in range(8)}
    best: Trace | None = None
    for offset, levels in grids.items():
        if not all(offset):
            continue
        reference = grids[_far_from(offset)]
        for tried in (TRIED_MOVED, TRIED):
            trace = _likeliest(levels, reference, _MOVED_MODES, [1] * len(_MOVED_MODES), blur, tried)
            if trace is None or (best is not None and trace.score <= best.score):
                break
            if tried is TRIED:
                best = replace(trace, offset=offset)
    return best


def _far_from(offset: tuple[int, int]) -> tuple[int, int]:
    """Return the grid that is furthest from one and shares no line with that of the file."""
    left, top = ((side + _SHIFT) % 8 or 1 for side in offset)
    return left, top


def decode_luma(data: bytes) -> NDArray[np.uint8] | None:
    """Return the luma of a JPEG, uint8 [h w]; None if libjpeg warns."""
    try:
        luma: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "GRAY")[:, :, 0]
    except ValueError:
        return None
    return luma


def _middle(luma: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the middle of a large image, on the same grid, and a small one whole."""
    top, left = (max(0, side - _SIDE) // 16 * 8 for side in luma.shape)
    return luma[top : top + _SIDE, left : left + _SIDE]


def _likeliest(
    levels: NDArray[np.float32],
    references: NDArray[np.float32],
    modes: range,
    steps: Sequence[int],
    blur: float,
    tried: range,
) -> Trace | None:
    """Return the likeliest of the qualities ``tried``; None for too few coefficients.

    ``levels`` and ``references`` are coefficients on the grid and off it, float32 [blocks 8 8], and ``steps`` those by which
    the former were rounded, or are to be.
    """
    scores, used = np.zeros(len(tried)), 0
    for mode, step in zip(modes, steps, strict=True):
        most = int((_LARGEST - 1) / step) - 1
        if most < 1:
            continue
        place = ZIGZAG[mode]
        level = np.abs(np.rint(levels[:, *place] / step)).astype(np.int64)
        counts = np.bincount(level[level <= most], minlength=most + 1)[1:]  # zeros are of flat blocks, not of the rounding
        reference = _smoothed(np.abs(references[:, *place]))
        scores += _score_mode(counts, reference, step, blur, _earlier_steps(mode, tried))
        used += int(counts.sum())
    if used < LEAST:
        return None
    alike = np.flatnonzero(scores >= scores.max() - _ALIKE)
    return Trace(tried[int(alike[0])], tried[int(alike[-1])], float(scores.max()), used)


def _coefficients(luma: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the DCT of the blocks of 8x8 pixels that have contrast and neither black nor white, float32 [blocks 8 8]."""
    height, width = (side // 8 for side in luma.shape)
    blocks = luma[: 8 * height, : 8 * width].reshape(height, 8, width, 8).swapaxes(1, 2).reshape(-1, 8, 8)
    low, high = blocks.min(axis=(1, 2)), blocks.max(axis=(1, 2))
    kept = blocks[(low > _DARKEST) & (high < _BRIGHTEST) & (high - low > _FLATTEST)]
    result: NDArray[np.float32] = _DCT @ (kept.astype(np.float32) - 128) @ _DCT.T
    return result


def _smoothed(values: NDArray[np.float32]) -> Floats:
    """Return the histogram of absolute ``values`` in bins of a quarter, smoothed the more, the rarer they are."""
    counts = np.bincount(np.minimum((values / _WIDTH).astype(np.int64), _BINS), minlength=_BINS + 1)[:_BINS]
    sums = np.concatenate([[0], np.cumsum(counts)])
    places = np.arange(_BINS)
    half = np.maximum(2, (0.15 * places).astype(np.int64)) + 3

    def below(place: NDArray[np.int64]) -> Floats:
        values = sums[np.minimum(np.abs(place), _BINS)]
        return np.where(place < 0, -values, values)  # the histogram is the same on both sides of 0

    smoothed: Floats = (below(places + half + 1) - below(places - half)) / (2 * half + 1)
    return smoothed


def _score_mode(counts: NDArray[np.int64], reference: Floats, step: int, blur: float, earlier_steps: Sequence[int]) -> Floats:
    """Return the log-likelihood ratios of one mode for every earlier step; ``counts`` are of the levels from 1."""
    most = len(counts)
    single = np.bincount(_rounded(step), reference, minlength=most + 1)[1 : most + 1] + _FLOOR
    single /= single.sum()
    scores: dict[int, float] = {}
    for earlier in set(earlier_steps):
        mass = np.bincount(_rounded(earlier), reference, minlength=int(_LARGEST / earlier) + 2)
        double = (mass @ _requantised(earlier, step, blur))[1 : most + 1] + _FLOOR
        mixed = (1 - _MIXED) * double / double.sum() + _MIXED * single
        scores[earlier] = float(counts @ np.log(mixed / single))
    return np.array([scores[earlier] for earlier in earlier_steps])


@cache
def _earlier_steps(mode: int, tried: range) -> tuple[int, ...]:
    """Return the step of one mode at every quality tried."""
    return tuple(libjpeg_tables(quality)[0][mode] for quality in tried)


@cache
def _rounded(step: int) -> NDArray[np.int64]:
    """Return the level of every bin of a histogram."""
    return np.floor(_CENTRES / step + 0.5).astype(np.int64)


@lru_cache(1 << 10)
def _requantised(earlier: int, step: int, blur: float) -> Floats:
    """Return the chance that a coefficient of every earlier level has every later one, float64 [earlier levels, levels].

    Levels are absolute: those below 0 count as those above.
    """
    from scipy.special import ndtr

    values = earlier * np.arange(int(_LARGEST / earlier) + 2)[:, None]
    levels = np.arange(int(_LARGEST / step) + 2)

    def chance(level: NDArray[np.int64]) -> Floats:
        high, low = (step * (level + side) for side in (0.5, -0.5))
        result: Floats = ndtr((high - values) / blur) - ndtr((low - values) / blur)
        return result

    negative = chance(-levels)
    negative[:, 0] = 0
    return chance(levels) + negative
