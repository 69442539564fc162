"""Means with intervals, by resampling the images."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_CELLS = 1 << 21  # of a block of images: 16 MB each of a few arrays, however many images there are


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``images`` images, and where it lies in 95 % of resamples of them; nan where it is undefined."""

    mean: float
    low: float
    high: float
    images: int


def estimate_means(values: NDArray[np.floating], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """The mean of every column of ``values`` [images columns] with its percentile bootstrap interval (Efron 1979).

    Images are drawn with replacement, the same ones for all columns; nan is left out. One image has no interval. The same
    values give the same interval. Beside ``values`` it takes the memory of a block of images.
    """
    images, columns = values.shape
    sums, counts = np.zeros((resamples, columns)), np.zeros((resamples, columns))
    total, known = np.zeros(columns), np.zeros(columns, np.int64)
    for start, times in _drawn(images, resamples, seed):
        block = values[start : start + times.shape[1]].astype(np.float64)
        there = np.isfinite(block)
        block[~there] = 0
        sums += times @ block  # how often each image is drawn is all that a mean needs
        counts += times @ there.astype(np.float64)
        total += block.sum(axis=0)
        known += there.sum(axis=0)
    with np.errstate(invalid="ignore"):  # a resample in which a figure is nowhere defined
        means = sums / counts
    estimates = []
    for column, count in enumerate(known.tolist()):
        mean = float(total[column] / count) if count else nan
        low, high = np.nanpercentile(means[:, column], [2.5, 97.5]).tolist() if count > 1 else (nan, nan)
        estimates.append(Estimate(mean, low, high, count))
    return estimates


def _drawn(images: int, resamples: int, seed: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """How often each resample has each image, [resamples images], one block of images after the other, with its first.

    How many of a resample's draws fall into each block is multinomial, and within a block they fall anywhere: drawing the
    numbers and then the places is the same bootstrap as drawing images from the whole list.
    """
    random = np.random.default_rng(seed)
    size = max(1, _CELLS // resamples)
    starts = np.arange(0, images, size)
    sizes = np.minimum(size, images - starts)
    falls = random.multinomial(images, sizes / images, size=resamples)
    for number, (start, count) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        rows = np.repeat(count * np.arange(resamples), falls[:, number])
        cells = rows + random.integers(count, size=len(rows))
        times = np.bincount(cells, minlength=resamples * count).reshape(resamples, count)
        yield start, times.astype(np.float64)
