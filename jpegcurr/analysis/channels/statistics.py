"""Figures of a layer's channels at several qualities, from sums that grow batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from jpegcurr.analysis.channels.activations import Columns, LayerSummary
from jpegcurr.analysis.stats import LEVEL, Flags, holm

ROUNDING = 1e-6  # a deviation below this share of the mean is float32's rounding, no spread


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of the columns of a table; those of two parts add up.

    Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """

    count: int
    mean: Columns
    squares: Columns

    @classmethod
    def of(cls, values: Columns) -> Self:
        """Those of ``values`` [n c], n at least 1."""
        mean = values.mean(axis=0)
        return cls(len(values), mean, np.square(values - mean).sum(axis=0))

    def __add__(self, other: Self) -> Self:
        count, apart = self.count + other.count, other.mean - self.mean
        squares = self.squares + other.squares + np.square(apart) * (self.count * other.count / count)
        return type(self)(count, self.mean + apart * (other.count / count), squares)

    @property
    def deviation(self) -> Columns:
        """The sample's standard deviation; nan of one value."""
        if self.count < 2:
            return np.full_like(self.mean, np.nan)
        deviation: Columns = np.sqrt(self.squares / (self.count - 1))
        return deviation

    @property
    def root_mean_square(self) -> Columns:
        """Of the values, about 0."""
        size: Columns = np.sqrt(self.squares / self.count + np.square(self.mean))
        return size


@dataclass(frozen=True, slots=True, eq=False)
class RunningStats:
    """What is known so far of one layer's channels at one quality, [c] each.

    Attributes:
        means: of the channels' spatial means, over images.
        changes: of what these are more than the same image's at the first quality.
        high, low: the largest and the smallest activation anywhere.
        dead: the number of images in which the channel is dead (``LayerSummary.dead``).
    """

    means: Moments
    changes: Moments
    high: Columns
    low: Columns
    dead: NDArray[np.int64]

    @classmethod
    def of(cls, seen: LayerSummary, reference: LayerSummary, rows: Flags) -> Self:
        """Those of the images in ``rows``, of which there is at least one."""
        means = seen.mean[rows]
        changes = Moments.of(means - reference.mean[rows])
        high, low = seen.high[rows].max(axis=0), seen.low[rows].min(axis=0)
        return cls(Moments.of(means), changes, high, low, seen.dead[rows].sum(axis=0))

    def __add__(self, other: Self) -> Self:
        means, changes = self.means + other.means, self.changes + other.changes
        high, low = np.maximum(self.high, other.high), np.minimum(self.low, other.low)
        return type(self)(means, changes, high, low, self.dead + other.dead)


@dataclass(frozen=True, slots=True, eq=False)
class Channels:
    """One layer's channels at one quality, over ``images`` images; arrays [c], nan where undefined.

    Attributes:
        mean, deviation: of a channel's spatial mean, over images.
        high, low: its largest and smallest activation anywhere.
        dead: the share of images in which it is dead, 0 to 1 (``activations.LayerSummary``).
        change: the mean of what its spatial mean is more than at the first quality, and ``error`` that mean's standard error;
            over the same images, so what they have in common does not count.
        shift: ``change`` in standard deviations over images at the first quality; nan where there is no such spread.
        per_image: the root mean square of single images' changes, in the same unit: what is moved up in some images and down
            in others is no shift, and here is seen.
        t: ``change`` over ``error``, and ``p`` of the two-sided paired t-test.
        p_holm: the same, corrected for all channels, layers and qualities of the study by Holm's method.
    """

    images: int
    mean: Columns
    deviation: Columns
    high: Columns
    low: Columns
    dead: Columns
    change: Columns
    error: Columns
    shift: Columns
    per_image: Columns
    t: Columns
    p: Columns
    p_holm: Columns

    @property
    def moved(self) -> Flags:
        """Which channels have a shift, and one that can be told from noise: ``p_holm`` is below 5 %."""
        moved: Flags = np.isfinite(self.shift) & (self.p_holm < LEVEL)
        return moved

    def most_moved(self) -> list[int]:
        """The channels that have a shift, the largest of either sign first."""
        return by_size(self.shift)


def settle(tallies: Sequence[Sequence[RunningStats]]) -> list[tuple[Channels, ...]]:
    """The figures of every layer (rows) at every quality (columns), each held against the first quality."""
    tests = [[paired_t(each.changes) for each in row[1:]] for row in tallies]
    looks = [p for row in tests for _, _, p in row]
    corrected = iter(np.split(holm(np.concatenate(looks)), np.cumsum([len(p) for p in looks])[:-1]) if looks else [])
    settled = []
    for row, tested in zip(tallies, tests, strict=True):
        others = zip(row[1:], tested, strict=True)
        against = [_settle_one(each, row[0].means, test, next(corrected)) for each, test in others]
        settled.append((_settle_one(row[0], row[0].means), *against))
    return settled


def by_size(shift: Columns) -> list[int]:
    """The channels whose ``shift`` [c] is defined, the largest of either sign first; of equal ones the lower number."""
    order = np.argsort(-np.abs(shift), kind="stable")
    return [int(channel) for channel in order if np.isfinite(shift[channel])]


def paired_t(changes: Moments) -> tuple[Columns, Columns, Columns]:
    """Standard error, t and two-sided p of changes whose mean may be 0; where no image changes at all, t is 0 and p 1."""
    error = changes.deviation / np.sqrt(changes.count)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((changes.mean == 0) & (error == 0), 0.0, changes.mean / error)
    return error, t, 2 * student.sf(np.abs(t), max(changes.count - 1, 1))


def _settle_one(
    tally: RunningStats, reference: Moments, test: tuple[Columns, Columns, Columns] | None = None, p_holm: Columns | None = None
) -> Channels:
    """Without a ``test`` it is the first quality, which nothing is held against."""
    none = np.full_like(tally.high, np.nan)
    error, t, p = test or (none, none, none)
    change = none if test is None else tally.changes.mean
    size = none if test is None else tally.changes.root_mean_square
    spread = reference.deviation
    known = spread > ROUNDING * np.abs(reference.mean)
    return Channels(
        images=tally.means.count,
        mean=tally.means.mean,
        deviation=tally.means.deviation,
        high=tally.high,
        low=tally.low,
        dead=tally.dead / tally.means.count,
        change=change,
        error=error,
        shift=np.divide(change, spread, out=none.copy(), where=known),
        per_image=np.divide(size, spread, out=none.copy(), where=known),
        t=t,
        p=p,
        p_holm=none if p_holm is None else p_holm,
    )
