"""What a number of seeds can tell: the power of the paired t-test over seeds, by the noncentral t, not an approximation."""

from math import isfinite, sqrt

import numpy as np
from scipy.optimize import brentq
from scipy.stats import chi, norm, t

from jpegcurr.analysis.stats import LEVEL

POWER = 0.8
MOST_SEEDS = 1_000_000
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(400)
# Top-1 on ImageNet's validation set over the seeds of one recipe: Picard, "torch.manual_seed(3407) is all you need", 2021
# (arXiv 2109.08203): about 0.1 points, and 0.5 between the best and the worst of 50. Small data sets spread much more.
SEED_SPREAD = 0.10
SPREAD_SOURCE = "ImageNet's, of Picard, arXiv 2109.08203; small data sets spread several times as much"


def of_differences(spread: float) -> float:
    """The deviation of a difference of two arms whose seeds are independent and spread by ``spread`` each, points.

    Arms that share a trunk, or their order of images, are alike in part: theirs is smaller, by how much is not known before.
    """
    return spread * sqrt(2)


def level_of(comparisons: int) -> float:
    """The level that the smallest p-value of so many has to stay below in Holm's procedure, for 5 % over all of them."""
    return LEVEL / max(comparisons, 1)


def power(difference: float, spread: float, seeds: int, *, level: float = LEVEL) -> float:
    """How often the two-sided paired t-test over ``seeds`` finds ``difference``, where differences spread by ``spread``.

    Raises:
        ValueError: fewer than two seeds, which have no spread to test against, or a ``spread`` that is not above 0.
    """
    _check(spread, seeds)
    free, shift = seeds - 1, difference / spread * sqrt(seeds)
    least = t.ppf(1 - level / 2, free)
    # The noncentral t's two tails, by its definition: a shifted normal over the deviation of the seeds, integrated over the
    # latter. SciPy's nct gives nan for some shifts of 10 and more (its 1.17), in the midst of others that are right.
    lowest, highest = chi.ppf([1e-16, 1 - 1e-16], free)
    middle, half = (lowest + highest) / 2, (highest - lowest) / 2
    deviations = middle + half * _NODES
    reach = least * deviations / sqrt(free)
    found = half * _WEIGHTS @ (chi.pdf(deviations, free) * (norm.sf(reach - shift) + norm.cdf(-reach - shift)))
    return min(float(found), 1.0)


def smallest_detectable(spread: float, seeds: int, *, level: float = LEVEL, wanted: float = POWER) -> float:
    """The difference, points, that is found with power ``wanted``; see ``power``."""
    _check(spread, seeds)
    high = 1.0
    while power(high, 1.0, seeds, level=level) < wanted:
        high *= 2
    return spread * float(brentq(lambda each: power(each, 1.0, seeds, level=level) - wanted, 0.0, high, xtol=1e-9))


def seeds_needed(difference: float, spread: float, *, level: float = LEVEL, wanted: float = POWER) -> int | None:
    """The fewest seeds with which ``difference`` is found with power ``wanted``; None for more than a million."""
    if difference <= 0:
        raise ValueError(f"a difference of {difference} is none")
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
        raise ValueError("one seed has no spread: a t-test needs two")
    if not (spread > 0 and isfinite(spread)):
        raise ValueError(f"a spread of {spread} is none")
