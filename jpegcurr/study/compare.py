"""Arms against a control: over seeds by a paired t-test, within a seed by McNemar's, corrected for the number of arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from jpegcurr.analysis.stats import LEVEL, Flags, Paired, compare_paired, estimate_means, holm
from jpegcurr.files import json_values
from jpegcurr.study.power import level_of, seeds_needed, smallest_detectable

Floats = NDArray[np.float64]
WORTH_FINDING = 0.2  # points: what the claim was about


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """Differences over seeds, points, each of the leading shape: mean, deviation, 95 % t interval, two-sided p-value."""

    mean: Floats
    spread: Floats
    low: Floats
    high: Floats
    p_value: Floats


def over_seeds(differences: Floats, images: int) -> OverSeeds:
    """The paired t-test of ``differences`` [... seeds], points of top-1 on ``images`` images; nan for one seed.

    Accuracies move in steps of ``100 / images``, so that a few seeds may agree to the digit and seem to have no spread. It is
    taken to be at least what two seeds that differ by one image have.
    """
    seeds = differences.shape[-1]
    mean = differences.mean(axis=-1)
    if seeds < 2:
        unknown = np.full_like(mean, nan)
        return OverSeeds(mean, unknown, unknown, unknown, unknown)
    spread = np.maximum(differences.std(axis=-1, ddof=1), 100 / images / sqrt(2))
    error = spread / sqrt(seeds)
    reach = t.ppf(1 - LEVEL / 2, seeds - 1) * error
    return OverSeeds(mean, spread, mean - reach, mean + reach, 2 * t.sf(np.abs(mean) / error, seeds - 1))


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """An arm against the control, on the ``seeds`` that both have finished; points of top-1.

    Attributes:
        pairs: the two runs of each seed on the same images: McNemar's test and its interval.
        difference: the mean over the seeds; ``spread`` is their deviation, ``low`` to ``high`` the 95 % t interval, ``p_value``
            of the t-test over seeds; all nan with one seed, where ``p_value`` is McNemar's.
        image_low, image_high: the 95 % interval of that mean by the bootstrap over images: how much other images could change
            it for these very weights.
        adjusted: ``p_value`` after Holm's correction for the number of arms.
        detectable: the difference that such seeds find with 80 % power at the corrected level; with one seed, McNemar's.
        seeds_wanted: how many seeds of this spread 0.2 points would take; None for one seed, or too many.
    """

    arm: str
    seeds: tuple[int, ...]
    pairs: tuple[Paired, ...]
    difference: float
    spread: float
    low: float
    high: float
    image_low: float
    image_high: float
    p_value: float
    adjusted: float
    detectable: float
    seeds_wanted: int | None

    @property
    def verdict(self) -> str:
        """``higher``, ``lower`` or ``no detectable difference``, after correction, at 5 %."""
        if not self.adjusted < LEVEL:
            return "no detectable difference"
        return "higher" if self.difference > 0 else "lower"

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON; what is undefined is None."""
        names = [name for name in self.__slots__ if name not in ("pairs", "seeds")]
        plain = json_values({name: getattr(self, name) for name in names})
        pairs = [
            {"seed": seed, **{name: getattr(pair, name) for name in Paired.__slots__}}
            for seed, pair in zip(self.seeds, self.pairs, strict=True)
        ]
        return {**plain, "verdict": self.verdict, "seeds": list(self.seeds), "pairs": pairs}


def compare_arms(right: Mapping[str, Mapping[int, Flags]], control: str) -> list[ArmComparison]:
    """Hold every arm of ``right`` against ``control``: right answers, bool [images], by arm and seed.

    Arms without a seed in common with the control are left out. Raises ValueError if they are not of the same images.
    """
    shared = {
        arm: seeds
        for arm, runs in right.items()
        if arm != control and (seeds := tuple(seed for seed in runs if seed in right.get(control, {})))
    }
    if not shared:
        return []
    pairs = {arm: _pairs(right[arm], right[control], seeds) for arm, seeds in shared.items()}
    images = next(iter(pairs.values()))[0].images
    tests = {arm: over_seeds(np.array([each.difference for each in pairs[arm]]), images) for arm in shared}
    p_values = [float(tests[arm].p_value) if len(seeds) > 1 else pairs[arm][0].p_value for arm, seeds in shared.items()]
    adjusted = holm(np.array(p_values))
    by_image = np.stack([_mean_change(right[arm], right[control], seeds) for arm, seeds in shared.items()], axis=1)
    level = level_of(len(shared))
    return [
        ArmComparison(
            arm,
            seeds,
            pairs[arm],
            float(tests[arm].mean),
            spread := float(tests[arm].spread),
            float(tests[arm].low),
            float(tests[arm].high),
            interval.low,
            interval.high,
            p_values[number],
            float(adjusted[number]),
            smallest_detectable(spread, len(seeds), level=level) if isfinite(spread) else pairs[arm][0].detectable,
            seeds_needed(WORTH_FINDING, spread, level=level) if isfinite(spread) else None,
        )
        for number, ((arm, seeds), interval) in enumerate(zip(shared.items(), estimate_means(by_image), strict=True))
    ]


def _pairs(runs: Mapping[int, Flags], control: Mapping[int, Flags], seeds: Sequence[int]) -> tuple[Paired, ...]:
    return tuple(compare_paired(control[seed], runs[seed]) for seed in seeds)


def _mean_change(runs: Mapping[int, Flags], control: Mapping[int, Flags], seeds: Sequence[int]) -> Floats:
    """By how much an image is right more often than under the control, points, [images]."""
    change = np.stack([runs[seed].astype(np.float64) - control[seed] for seed in seeds])
    return np.asarray(100 * change.mean(axis=0))
