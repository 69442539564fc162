"""Statistics of a layer's channels at JPEG qualities, from sums that grow batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from jpegcurr.analysis.channels.activations import Floats, LayerSummary
from jpegcurr.analysis.stats import LEVEL, Flags, holm

ROUNDING = 1e-6  # a deviation below this share of the mean is float32's rounding, not a spread


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of each column of a table; the moments of two parts can be added.

    Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """

    count: int
    mean: Floats
    squares: Floats

    @classmethod
    def of(cls, values: Floats) -> Self:
        """Return the moments of ``values`` [n c], n at least 1."""
        mean = values.mean(axis=0)
        return cls(len(values), mean, np.square(values - mean).sum(axis=0))

    def __add__(self, other: Self) -> Self:
        count, apart = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + np.square(apart) * (self.count * other.count / count)
        return type(self)(count, self.mean + apart * (other.count / count), squares)

    @property
    def deviation(self) -> Floats:
        """The sample's standard deviation; nan for a single value."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        deviation: Floats = np.sqrt(self.squares / (self.count - 1))
        return deviation

    @property
    def root_mean_square(self) -> Floats:
        """The root mean square of the values."""
        size: Floats = np.sqrt(self.squares / self.count + np.square(self.mean))
        return size


@dataclass(frozen=True, slots=True, eq=False)
class RunningStats:
    """Statistics so far of one layer's channels at one quality, [c] each; those of two parts can be added.

    Attributes:
        means: moments of the channels' spatial means, over images.
        changes: moments of the differences of these means from the same image's at the first quality.
        high, low: the largest and the smallest activation anywhere.
        dead: the number of images in which the channel is dead (``LayerSummary.dead``).
    """

    means: Moments
    changes: Moments
    high: Floats
    low: Floats
    dead: NDArray[np.int64]

    @classmethod
    def of(cls, summary: LayerSummary, reference: LayerSummary, rows: Flags) -> Self:
        """Return the statistics of the images in ``rows``, at least one, against their ``reference`` at the first quality."""
        means = summary.mean[rows]
        changes = Moments.of(means - reference.mean[rows])
        high, low = summary.high[rows].max(axis=0), summary.low[rows].min(axis=0)
        return cls(Moments.of(means), changes, high, low, summary.dead[rows].sum(axis=0))

    def __add__(self, other: Self) -> Self:
        means, changes = self.means + other.means, self.changes + other.changes
        high, low = np.maximum(self.high, other.high), np.minimum(self.low, other.low)
        return type(self)(means, changes, high, low, self.dead + other.dead)


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """Statistics of one layer's channels at one quality, over ``images`` images; arrays [c], nan where undefined.

    Attributes:
        mean, deviation: of a channel's spatial mean, over images.
        high, low: its largest and smallest activation anywhere.
        dead: the share of images in which it is dead, 0 to 1 (``activations.LayerSummary``).
        change: the mean difference of its spatial mean from the first quality's; ``error`` is that mean's standard error. The
            images are the same, so differences between images do not enter.
        shift: ``change`` in standard deviations over images at the first quality; nan without such a spread.
        per_image: the root mean square of single images' changes, in the same unit. It also shows a channel that moves up in
            some images and down in others, which has no shift.
        t: ``change`` over ``error``, and ``p`` the p-value of the two-sided paired t-test.
        p_holm: ``p`` corrected for all channels, layers and qualities of the study by Holm's method.
    """

    images: int
    mean: Floats
    deviation: Floats
    high: Floats
    low: Floats
    dead: Floats
    change: Floats
    error: Floats
    shift: Floats
    per_image: Floats
    t: Floats
    p: Floats
    p_holm: Floats

    @property
    def moved(self) -> Flags:
        """Whether the channel has a shift that is significant: ``p_holm`` is below 5 %."""
        moved: Flags = np.isfinite(self.shift) & (self.p_holm < LEVEL)
        return moved

    def most_moved(self) -> list[int]:
        """Return the channels that have a shift, the largest of either sign first."""
        return rank_by_size(self.shift)


def summarise_channels(layers: Sequence[Sequence[RunningStats]]) -> list[tuple[Channels, ...]]:
    """Return the statistics of every layer (rows) at every quality (columns), each compared with the first quality."""
    tests = [[paired_t(stats.changes) for stats in row[1:]] for row in layers]
    p_values = [p for row in tests for _, _, p in row]
    sizes = [len(p) for p in p_values]
    corrected = iter(np.split(holm(np.concatenate(p_values)), np.cumsum(sizes)[:-1]) if p_values else [])
    summaries = []
    for row, row_tests in zip(layers, tests, strict=True):
        others = zip(row[1:], row_tests, strict=True)
        compared = [_summarise_one(stats, row[0].means, test, next(corrected)) for stats, test in others]
        summaries.append((_summarise_one(row[0], row[0].means), *compared))
    return summaries


def rank_by_size(shift: Floats) -> list[int]:
    """Return the channels whose ``shift`` [c] is defined, the largest of either sign first; of equal ones the lower number."""
    order = np.argsort(-np.abs(shift), kind="stable")
    return [int(channel) for channel in order if np.isfinite(shift[channel])]


def paired_t(changes: Moments) -> tuple[Floats, Floats, Floats]:
    """Return standard error, t and two-sided p of the paired t-test; where no image changes at all, t is 0 and p is 1."""
    error = changes.deviation / np.sqrt(changes.count)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((changes.mean == 0) & (error == 0), 0.0, changes.mean / error)
    return error, t, 2 * student.sf(np.abs(t), max(changes.count - 1, 1))


def _summarise_one(
    stats: RunningStats, reference: Moments, test: tuple[Floats, Floats, Floats] | None = None, p_holm: Floats | None = None
) -> Channels:
    """Return the statistics at one quality; without a ``test`` it is the first, which is compared with nothing."""
    none = np.full_like(stats.high, np.nan)
    error, t, p = test or (none, none, none)
    change = none if test is None else stats.changes.mean
    size = none if test is None else stats.changes.root_mean_square
    spread = reference.deviation
    known = spread > ROUNDING * np.abs(reference.mean)
    return Channels(
        images=stats.means.count,
        mean=stats.means.mean,
        deviation=stats.means.deviation,
        high=stats.high,
        low=stats.low,
        dead=stats.dead / stats.means.count,
        change=change,
        error=error,
        shift=np.divide(change, spread, out=none.copy(), where=known),
        per_image=np.divide(size, spread, out=none.copy(), where=known),
        t=t,
        p=p,
        p_holm=none if p_holm is None else p_holm,
    )
