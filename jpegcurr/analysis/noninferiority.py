"""Non-inferiority: a test that one model's accuracy is less than a margin below another's on the same images.

The hypothesis that the test rejects is "the loss is the margin or more", one-sided. Its statistic is Tango's score for a paired
difference (Stat. Med. 17:891, 1998), whose intervals ``stats.score_interval`` gives. Compared with the normal distribution, as
usual, that score rejects too often where few answers change: in 6.6 % of cases instead of 5 % (541 images, a margin of half a
point, none gained). A claim that something is safe must not be wrong more often than it says, so the p-value here is exact: the
probability of a score at least as high under the trinomial distribution of lost, unchanged and gained images, the highest for
all shares of gained images that the data allow (Hsueh, Liu and Chen, Biometrics 57:478, 2001; Sidik, Stat. Med. 22:265, 2003).

Losses and margins are shares of the images here, from 0 to 1, not points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, log, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr
from scipy.stats import binom, binomtest, norm

from jpegcurr.analysis.stats import paired_variance

UNLIKELY = 1e-4  # the chance, added to every p-value, that the share of gained images is not where it is looked for
POWER = 0.8
Counts = NDArray[np.int64]
_TAIL = 1e-12  # of the number of gained images, which is not summed
_GRID = 24  # shares of gained images; the probability is smooth in them, and the grid is refined once
_RESOLUTION = 1e-5  # of the bound: a thousandth of a point
_SLACK = 1e-9  # of the score, relative: the outcome itself is among those that are at least as extreme


@dataclass(frozen=True, slots=True)
class Noninferiority:
    """A test that the loss of accuracy is below ``margin``; see ``assess_noninferiority``.

    Attributes:
        images, lost, gained: as in ``stats.Paired``.
        margin, level: of the test; the level is one-sided.
        p_value: exact, at most ``level`` if the loss is shown to be below the margin.
        bound: the loss that is not reached, at confidence 1 - ``level``; below ``margin`` if and only if that is shown.
        images_needed: see ``count_images_needed``.
    """

    images: int
    lost: int
    gained: int
    margin: float
    level: float
    p_value: float
    bound: float
    images_needed: int | None

    @property
    def loss(self) -> float:
        """The loss that was measured."""
        return (self.lost - self.gained) / self.images

    @property
    def shown(self) -> bool:
        """Whether the loss is shown to be below the margin."""
        return self.p_value <= self.level


def assess_noninferiority(lost: int, gained: int, images: int, margin: float, level: float) -> Noninferiority:
    """Test whether the loss of accuracy is below ``margin``, from the numbers of images ``lost`` and ``gained`` of ``images``.

    Raises:
        ValueError: the counts are not of so many images, ``margin`` is not between 0 and 1, or ``level`` not from 0.001 to 0.5.
    """
    if min(lost, gained) < 0 or images < 1 or lost + gained > images:
        raise ValueError(f"{lost} lost and {gained} gained are no outcomes of {images} images")
    if not (0 < margin < 1 and 0.001 <= level <= 0.5):
        raise ValueError(f"no test has the margin {margin} and the level {level}")
    p_value = noninferiority_p(lost, gained, images, margin)
    needed = count_images_needed(lost, gained, images, margin, level)
    return Noninferiority(images, lost, gained, margin, level, p_value, _bound(lost, gained, images, margin, level), needed)


@cache
def noninferiority_p(lost: int, gained: int, images: int, margin: float) -> float:
    """Return the p-value under which the loss is ``margin`` or more.

    For a given share of gained images the outcomes with a score at least as high as the observed one are, for each number of
    gained images, those with at most so many lost ones, so a larger loss makes them less likely, and a loss of exactly the
    margin is the worst case. The share of gained images is not known. The probability is the highest for any in its
    Clopper-Pearson interval of confidence 1 - 0.0001, and 0.0001 is added for all others (Berger and Boos, J. Am. Stat. Assoc.
    89:1012, 1994).
    """
    interval = binomtest(gained, images).proportion_ci(1 - UNLIKELY, method="exact")
    low, high = float(interval.low), min(float(interval.high), (1 - margin) / 2)
    if low >= high:
        return UNLIKELY  # no such share goes with a loss of the margin
    numbers = np.arange(int(binom.ppf(_TAIL, images, low)), int(binom.isf(_TAIL, images, high)) + 1)
    limits = _most_lost(numbers, images, margin, float(score(lost, gained, images, margin)))
    shares = np.linspace(low, high, _GRID)
    highest = int(np.argmax(chances := _rejected(shares, numbers, limits, images, margin)))
    around = np.linspace(shares[max(highest - 1, 0)], shares[min(highest + 1, _GRID - 1)], _GRID)
    refined = _rejected(around, numbers, limits, images, margin)
    return min(1.0, UNLIKELY + float(max(chances[highest], refined.max())))


def score(lost: ArrayLike, gained: ArrayLike, images: int, margin: float) -> NDArray[np.float64]:
    """Return Tango's score, standard deviations by which the loss is below ``margin``, in the shape of the counts."""
    below = margin - (np.asarray(lost, np.float64) - np.asarray(gained, np.float64)) / images
    return np.asarray(sqrt(images) * below / np.sqrt(paired_variance(lost, gained, images, -margin)))


def _most_lost(gained: Counts, images: int, margin: float, least: float) -> Counts:
    """Return the most lost images with a score of ``least`` or more for every number of ``gained`` ones; -1 if none has it."""
    threshold = least - _SLACK * (1 + abs(least))
    low, high = np.full(gained.shape, -1), images - gained  # the score falls with the number of lost images
    while (open_ := low < high).any():
        middle = np.where(open_, (low + high + 1) // 2, 0)
        reached = score(middle, gained, images, margin) >= threshold
        low, high = np.where(open_ & reached, middle, low), np.where(open_ & ~reached, middle - 1, high)
    return np.asarray(low)


def _rejected(shares: NDArray[np.float64], gained: Counts, limits: Counts, images: int, margin: float) -> NDArray[np.float64]:
    """Return the probability of at most ``limits`` lost images where the loss is ``margin``, for every share of gained ones."""
    column = shares[:, None]
    of_the_rest = np.minimum((column + margin) / (1 - column), 1)
    at_most = np.where(limits >= 0, bdtr(np.maximum(limits, 0), images - gained, of_the_rest), 0)
    return np.asarray((binom.pmf(gained, images, column) * at_most).sum(axis=1))


def _bound(lost: int, gained: int, images: int, margin: float, level: float) -> float:
    """Return the margin from which on the loss is shown to be smaller, by bisection on the side of ``margin`` where it is."""
    if noninferiority_p(lost, gained, images, margin) <= level:
        low, high = max((lost - gained) / images, 0.0), margin
    else:
        low, high = margin, min(2 * margin, 1.0)
        while high < 1 and noninferiority_p(lost, gained, images, high) > level:
            low, high = high, min(2 * high, 1.0)
    while high - low > _RESOLUTION:
        middle = (low + high) / 2
        if noninferiority_p(lost, gained, images, middle) <= level:
            high = middle
        else:
            low = middle
    return high


def count_images_needed(lost: int, gained: int, images: int, margin: float, level: float) -> int | None:
    """Return about how many images it takes to show that the loss is below ``margin``, in 80 % of samples.

    The assumption is that the true shares of lost and gained images are the observed ones; None if these lose ``margin`` or
    more, because then no number would do. Nam's formula for the score test (Biometrics 53:1422, 1997), but at least
    ``fewest_images``.
    """
    loss = (lost - gained) / images
    if loss >= margin:
        return None
    at_margin = sqrt(float(paired_variance(lost, gained, images, -margin)))
    observed = sqrt(max((lost + gained) / images - loss**2, 0.0))
    needed = float((norm.isf(level) * at_margin + norm.isf(1 - POWER) * observed) / (margin - loss)) ** 2
    return max(ceil(needed), fewest_images(margin, level))


def fewest_images(margin: float, level: float) -> int:
    """Return the fewest images that show a loss below ``margin`` by none lost and none gained: 599 for half a point, at 5 %.

    With that many, a loss of the margin leaves all unchanged in at most ``level`` of samples.
    """
    return ceil(log(level - UNLIKELY) / log(1 - margin))


def count_shown(tests: Sequence[Noninferiority]) -> int:
    """Return how many of ``tests``, from the first on, are shown before one is not: the fixed-sequence procedure.

    All tests are at the full level, and yet the chance that any of those counted is wrong is at most the level, however the
    tests depend on each other and whatever their true losses: a wrong one is counted only if the first whose loss is not below
    the margin is shown, which is one test at the level (Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen, J. Stat.
    Plan. Inference 99:25, 2001). For this the order must be fixed without the outcomes, and nothing may be claimed of what
    comes behind the first test that is not shown.
    """
    return next((number for number, test in enumerate(tests) if not test.shown), len(tests))
