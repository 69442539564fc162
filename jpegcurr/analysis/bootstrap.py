"""Means with intervals, by resampling the images."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_CELLS = 1 << 21  # of a block of resamples: 16 MB each of a few arrays, however many images there are


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over ``images`` images, and where it lies in 95 % of resamples of them; nan where it is undefined."""

    mean: float
    low: float
    high: float
    images: int


def estimate_means(values: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0) -> list[Estimate]:
    """The mean of every column of ``values`` [images columns] with its percentile bootstrap interval (Efron 1979).

    Images are drawn with replacement, the same ones for all columns; nan is left out. One image has no interval. The same
    values give the same interval.
    """
    known = np.isfinite(values)
    filled, counts = np.where(known, values, 0.0), known.sum(axis=0)
    means = np.concatenate(list(_resampled_means(filled, known.astype(np.float64), resamples, seed)))
    estimates = []
    for column, count in enumerate(counts.tolist()):
        mean = float(filled[:, column].sum() / count) if count else nan
        low, high = np.nanpercentile(means[:, column], [2.5, 97.5]).tolist() if count > 1 else (nan, nan)
        estimates.append(Estimate(mean, low, high, count))
    return estimates


def _resampled_means(
    filled: NDArray[np.float64], known: NDArray[np.float64], resamples: int, seed: int
) -> Iterator[NDArray[np.float64]]:
    """Blocks of [resamples columns]. How often each image is drawn is all that a mean needs: two matrix products."""
    random = np.random.default_rng(seed)
    images = len(filled)
    size = max(1, min(resamples, _CELLS // images))
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = random.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float64)
        with np.errstate(invalid="ignore"):  # a resample in which a figure is nowhere defined
            yield (times @ filled) / (times @ known)
