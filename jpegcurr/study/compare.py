"""Comparison of arms with the control: a paired t-test over seeds, McNemar's within a seed, and Holm's correction."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from jpegcurr.analysis.stats import LEVEL, Flags, Paired, compare_paired, holm, score_interval
from jpegcurr.files import json_values
from jpegcurr.study.power import corrected_level, seeds_needed, smallest_detectable

Floats = NDArray[np.float64]
TARGET_DIFFERENCE = 0.2  # points of top-1: the gain that was claimed for training on quality 50


@dataclass(frozen=True, slots=True)
class TTest:
    """A paired t-test over seeds, in points: mean, standard deviation, 95 % interval and two-sided p-value of differences.

    ``floored`` is whether the observed deviation was raised to ``spread``, on which all that follows depends.
    """

    mean: Floats
    spread: Floats
    floored: NDArray[np.bool_]
    low: Floats
    high: Floats
    p_value: Floats


def judge(difference: float, adjusted: float) -> str:
    """Return the verdict on a difference whose p-value, after correction, is ``adjusted``; nan is none."""
    if not adjusted < LEVEL:
        return "no detectable difference"
    return "higher" if difference > 0 else "lower"


def paired_t_test(differences: Floats, images: int | None) -> TTest:
    """Test ``differences`` [... seeds], in points of top-1 on ``images`` images; return arrays [...], nan for one seed.

    Accuracies move in steps of ``100 / images``, so that a few seeds may agree exactly and seem to have no spread. The
    spread is therefore at least that of two seeds that differ by one image. With ``images`` None, for differences of any
    other metric, it is as observed, and must not be 0.
    """
    seeds = differences.shape[-1]
    mean = differences.mean(axis=-1)
    if seeds < 2:
        unknown = np.full_like(mean, nan)
        return TTest(mean, unknown, np.zeros_like(mean, np.bool_), unknown, unknown, unknown)
    observed, least = differences.std(axis=-1, ddof=1), 100 / images / sqrt(2) if images else 0.0
    floored = observed < least * (1 - 1e-9)  # two seeds one image apart are not, whatever the rounding
    spread = np.maximum(observed, least)
    error = spread / sqrt(seeds)
    reach = t.ppf(1 - LEVEL / 2, seeds - 1) * error
    return TTest(mean, spread, floored, mean - reach, mean + reach, 2 * t.sf(np.abs(mean) / error, seeds - 1))


@dataclass(frozen=True, slots=True)
class ArmComparison:
    """The comparison of an arm with the control on the ``seeds`` that both have finished, in points of top-1.

    Attributes:
        pairs: McNemar's test and its interval for the two runs of each seed on the same images.
        difference: the mean over the seeds.
        spread, low, high, p_value: the standard deviation over the seeds, the 95 % interval and the p-value of the paired
            t-test. With one seed all are nan, except ``p_value``, which is McNemar's.
        spread_floored: whether the seeds spread by less than two that differ by one image, so that ``spread`` is that of such
            two. Intervals over seeds, p-values and what can be detected are then for this least spread.
        image_low, image_high: the 95 % interval of the mean over images, for the trained weights as they are; see
            ``stats.score_interval``.
        adjusted: ``p_value`` after Holm's correction for the number of arms.
        detectable: the difference that a study of these seeds finds with 80 % power at the corrected level; with one seed,
            McNemar's.
        seeds_wanted: the number of seeds of this spread that 0.2 points would take; None for one seed, or over a million.
    """

    arm: str
    seeds: tuple[int, ...]
    pairs: tuple[Paired, ...]
    difference: float
    spread: float
    spread_floored: bool
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
        """``higher``, ``lower`` or ``no detectable difference``, at 5 % after correction."""
        return judge(self.difference, self.adjusted)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON; undefined ones are None."""
        names = [name for name in self.__slots__ if name not in ("pairs", "seeds")]
        plain = {name: getattr(self, name) for name in names}
        pairs = [
            {"seed": seed, **{name: getattr(pair, name) for name in Paired.__slots__}}
            for seed, pair in zip(self.seeds, self.pairs, strict=True)
        ]
        values: dict[str, Any] = json_values({**plain, "verdict": self.verdict, "seeds": list(self.seeds), "pairs": pairs})
        return values


def compare_arms(correct: Mapping[str, Mapping[int, Flags]], control: str) -> list[ArmComparison]:
    """Compare every other arm of ``correct`` with ``control``: correct answers, bool [images], by arm and seed.

    Arms without a seed in common with the control are omitted. Raises ValueError if runs are of different images.
    """
    shared = {
        arm: seeds
        for arm, runs in correct.items()
        if arm != control and (seeds := tuple(seed for seed in runs if seed in correct.get(control, {})))
    }
    if not shared:
        return []
    pairs = {arm: _pairs(correct[arm], correct[control], seeds) for arm, seeds in shared.items()}
    images = next(iter(pairs.values()))[0].images
    tests = {arm: paired_t_test(np.array([pair.difference for pair in pairs[arm]]), images) for arm in shared}
    p_values = [float(tests[arm].p_value) if len(seeds) > 1 else pairs[arm][0].p_value for arm, seeds in shared.items()]
    adjusted = holm(np.array(p_values))
    intervals = [score_interval(_count_changes(correct[arm], correct[control], seeds)) for arm, seeds in shared.items()]
    level = corrected_level(len(shared))
    return [
        ArmComparison(
            arm,
            seeds,
            pairs[arm],
            float(tests[arm].mean),
            spread := float(tests[arm].spread),
            bool(tests[arm].floored),
            float(tests[arm].low),
            float(tests[arm].high),
            *interval,
            p_values[number],
            float(adjusted[number]),
            smallest_detectable(spread, len(seeds), level=level) if isfinite(spread) else pairs[arm][0].detectable,
            seeds_needed(TARGET_DIFFERENCE, spread, level=level) if isfinite(spread) else None,
        )
        for number, ((arm, seeds), interval) in enumerate(zip(shared.items(), intervals, strict=True))
    ]


def _pairs(runs: Mapping[int, Flags], control: Mapping[int, Flags], seeds: Sequence[int]) -> tuple[Paired, ...]:
    return tuple(compare_paired(control[seed], runs[seed]) for seed in seeds)


def _count_changes(runs: Mapping[int, Flags], control: Mapping[int, Flags], seeds: Sequence[int]) -> tuple[int, ...]:
    """Return the number of images that the control alone has right in all seeds, in one seed fewer net, and so on to none."""
    net = sum((runs[seed].astype(np.int64) - control[seed] for seed in seeds), start=np.int64(len(seeds)))
    return tuple(np.bincount(net, minlength=2 * len(seeds) + 1).tolist())
