"""Power of the paired t-test over seeds, by the noncentral t distribution rather than a normal approximation."""

from math import isfinite, sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi, norm, t

from jpegcurr.analysis.stats import LEVEL

POWER = 0.8
MOST_SEEDS = 1_000_000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)
# Standard deviation of top-1 on ImageNet's validation set over the seeds of one recipe, in points: Picard,
# "torch.manual_seed(3407) is all you need", 2021 (arXiv 2109.08203); the best and the worst of its 50 seeds are 0.5 points
# apart. Small data sets spread much more.
SEED_SPREAD = 0.10
SPREAD_SOURCE = "as on ImageNet, Picard, arXiv 2109.08203; small data sets spread several times as much"


def difference_spread(spread: float) -> float:
    """Return the standard deviation of the difference of two independent arms that spread by ``spread`` over seeds, in points.

    The runs of arms that share a trunk, or the order of images, are correlated: their differences spread less, by an amount
    that is not known in advance.
    """
    return spread * sqrt(2)


def corrected_level(comparisons: int) -> float:
    """Return the level for the smallest p-value of so many comparisons in Holm's procedure, for 5 % over all of them."""
    return LEVEL / max(comparisons, 1)


def power(difference: float, spread: float, seeds: int, *, level: float = LEVEL) -> float:
    """Return the probability that the two-sided paired t-test over ``seeds`` finds ``difference``.

    ``spread`` is the standard deviation of the difference over seeds.

    Raises:
        ValueError: there are fewer than two seeds, or ``spread`` is not above 0.
    """
    _check(spread, seeds)
    free, shift = seeds - 1, difference / spread * sqrt(seeds)
    least = t.ppf(1 - level / 2, free)
    # The two tails of the noncentral t by its definition: a shifted normal divided by the deviation of the seeds, integrated
    # over the latter. SciPy 1.17's nct is nan for some shifts of 10 and more, among others that are right.
    lowest, highest = chi.ppf([1e-16, 1 - 1e-16], free)
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    deviations = middle + half * _NODES
    reach = least * deviations / sqrt(free)
    probability = half * _WEIGHTS @ (chi.pdf(deviations, free) * (norm.sf(reach - shift) + norm.cdf(-reach - shift)))
    return min(float(probability), 1.0)


def smallest_detectable(spread: float, seeds: int, *, level: float = LEVEL, wanted: float = POWER) -> float:
    """Return the smallest difference, in points, that is found with power ``wanted``; see ``power``."""
    _check(spread, seeds)
    high = 1.0
    while power(high, 1.0, seeds, level=level) < wanted:
        high *= 2
    return spread * float(brentq(lambda shift: power(shift, 1.0, seeds, level=level) - wanted, 0.0, high, xtol=1e-9))


def seeds_needed(difference: float, spread: float, *, level: float = LEVEL, wanted: float = POWER) -> int | None:
    """Return the fewest seeds that find ``difference`` with power ``wanted``; None for more than a million."""
    if difference <= 0:
        raise ValueError(f"the difference has to be above 0, and is {difference}")
    low, high = 1, 2
    while power(difference, spread, high, level=level) < wanted:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(difference, spread, middle, level=level) >= wanted else (middle, high)
    return high


def _check(spread: float, seeds: int) -> None:
    if seeds < 2:
        raise ValueError("a t-test needs two seeds: one seed has no spread")
    if not (spread > 0 and isfinite(spread)):
        raise ValueError(f"the spread has to be above 0, and is {spread}")
