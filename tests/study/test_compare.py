"""Planted cases: thousands of studies simulated from outcomes, without training."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, false_discovery_control, nct, t, ttest_1samp

from jpegcurr.analysis.stats import holm
from jpegcurr.study.compare import compare_arms, paired_t_test
from jpegcurr.study.power import (
    corrected_level,
    difference_spread,
    power,
    seeds_needed,
    smallest_detectable,
)

STUDIES = 1000
# Limits that a rate, in 1,000 studies, exceeds one time in a thousand. The simulated studies are the same in every run of the
# tests: the tolerance is for the choice of their seed.
AT_MOST = int(binom.ppf(0.999, STUDIES, 0.05))  # 73 false alarms


def between(rate: float) -> tuple[int, int]:
    return int(binom.ppf(0.0005, STUDIES, rate)), int(binom.ppf(0.9995, STUDIES, rate))


def simulated(random: np.random.Generator, *, arms: int, seeds: int, images: int, spread: float, gains: NDArray) -> NDArray:
    """Return top-1 [studies arms seeds] in points: every run has an accuracy of its own, which spreads over the seeds."""
    share = 0.8 + (gains[:, None] + spread * random.standard_normal((STUDIES, arms, seeds))) / 100
    return 100 * random.binomial(images, share) / images


def observed_spread(spread: float, images: int) -> float:
    """Return the deviation of top-1 over such runs: that of their accuracies and that of the sampled images."""
    return float(np.hypot(spread, 100 * np.sqrt(0.8 * 0.2 / images)))


def alarms(top1: NDArray, images: int) -> NDArray:
    """Return the arms, bool [studies arms-1], that are found to differ from the first."""
    tested = paired_t_test(top1[:, 1:] - top1[:, :1], images)
    return holm(tested.p_value) < 0.05


@pytest.mark.parametrize("images", [400, 5000, 50_000])
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("arms", [2, 8])
def test_identical_arms_give_a_false_alarm_in_at_most_5_percent_of_1000_studies(arms: int, seeds: int, images: int) -> None:
    """A study with any arm that seems to differ is a false alarm; a rate of 5 % gives over 73 in 1,000 once in a thousand."""
    random = np.random.default_rng(arms * seeds)
    top1 = simulated(random, arms=arms, seeds=seeds, images=images, spread=0.5, gains=np.zeros(arms))
    assert int(alarms(top1, images).any(axis=1).sum()) <= AT_MOST


@pytest.mark.parametrize(("seeds", "arms"), [(3, 2), (5, 2), (5, 8), (8, 8)])
def test_a_gain_of_1_point_is_found_as_often_as_the_plan_announced(seeds: int, arms: int) -> None:
    """The share of 1,000 studies is the power, within 3.3 deviations of a binomial; Holm can only find more."""
    spread = 0.4
    gains = np.zeros(arms)
    gains[1] = 1.0
    announced = power(1.0, difference_spread(observed_spread(spread, 50_000)), seeds, level=corrected_level(arms - 1))
    random = np.random.default_rng(seeds)
    top1 = simulated(random, arms=arms, seeds=seeds, images=50_000, spread=spread, gains=gains)
    detected = int(alarms(top1, 50_000)[:, 0].sum())
    low, high = between(announced)
    assert low <= detected <= high + (arms > 2) * 0.02 * STUDIES


@pytest.mark.parametrize("seeds", [2, 4, 10])
def test_the_smallest_detectable_difference_is_found_in_80_percent(seeds: int) -> None:
    gain = smallest_detectable(difference_spread(observed_spread(0.3, 50_000)), seeds)
    random = np.random.default_rng(seeds)
    top1 = simulated(random, arms=2, seeds=seeds, images=50_000, spread=0.3, gains=np.array([0, gain]))
    low, high = between(0.8)
    assert low <= int(alarms(top1, 50_000).sum()) <= high


def test_whole_studies_of_single_images() -> None:
    """Outcomes image by image: five seeds, an arm with a planted gain of 2 points, and an arm without."""
    random = np.random.default_rng(1)
    images, seeds = 4000, range(5)
    easy = random.beta(4, 1, images)  # how likely an image is right, the same in every run
    better = np.clip(easy + 0.02 / (1 - easy).mean() * (1 - easy), 0, 1)
    correct = {
        "control": {seed: random.random(images) < easy for seed in seeds},
        "same": {seed: random.random(images) < easy for seed in seeds},
        "better": {seed: random.random(images) < better for seed in seeds},
    }
    same, gained = compare_arms(correct, "control")
    assert (same.arm, same.verdict) == ("same", "no detectable difference")
    assert same.low < 0 < same.high
    assert (gained.arm, gained.verdict) == ("better", "higher")
    assert gained.low < 2 < gained.high
    assert gained.image_low < 2 < gained.image_high
    assert gained.adjusted == pytest.approx(2 * gained.p_value)
    top1 = {arm: [100 * runs[seed].mean() for seed in seeds] for arm, runs in correct.items()}
    differences = np.subtract(top1["better"], top1["control"])
    assert gained.p_value == pytest.approx(ttest_1samp(differences, 0).pvalue)
    assert (gained.low, gained.high) == pytest.approx(ttest_1samp(differences, 0).confidence_interval())
    assert gained.spread == pytest.approx(np.std(differences, ddof=1))
    assert [pair.difference for pair in gained.pairs] == pytest.approx(differences.tolist())
    assert gained.detectable == pytest.approx(smallest_detectable(gained.spread, 5, level=0.025))


def test_one_seed_has_no_interval_and_is_judged_by_its_images() -> None:
    flags = np.arange(100) < 50
    (only,) = compare_arms({"a": {3: flags}, "b": {3: np.arange(100) < 90, 4: flags}}, "a")
    assert only.seeds == (3,)
    assert np.isnan([only.spread, only.low, only.high]).all()
    assert only.p_value == only.adjusted == only.pairs[0].p_value < 1e-9
    assert only.verdict == "higher"
    assert only.detectable == only.pairs[0].detectable
    assert only.seeds_wanted is None
    assert only.as_dict()["low"] is None


def test_only_seeds_that_both_have_count() -> None:
    flags = {seed: np.random.default_rng(seed).random(500) < 0.7 for seed in range(4)}
    compared = compare_arms({"c": flags, "late": {1: flags[2], 2: flags[3]}, "none": {}, "alone": {9: flags[0]}}, "c")
    assert [(comparison.arm, comparison.seeds) for comparison in compared] == [("late", (1, 2))]
    assert compare_arms({"c": {}, "other": flags}, "c") == []


def test_seeds_that_agree_to_the_digit_are_no_proof() -> None:
    """Two seeds of 400 images that both gain one image have no deviation at all."""
    tested = paired_t_test(np.array([0.25, 0.25]), 400)
    assert float(tested.p_value) > 0.2
    assert float(paired_t_test(np.zeros(3), 400).p_value) == 1


def test_a_spread_that_was_raised_is_known() -> None:
    """Of three pairs of seeds: alike, one image apart, and two; the second is the least spread itself and not raised."""
    for images in (400, 3925, 50_000):
        tested = paired_t_test(np.array([[7, 7], [7, 8], [7, 9]]) * 100 / images, images)
        assert tested.floored.tolist() == [True, False, False]
        assert tested.spread == pytest.approx(np.array([1, 1, 2]) * 100 / images / np.sqrt(2))
    assert not paired_t_test(np.zeros(1), 400).floored


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_equal_arms_have_an_interval_over_images(seeds: int) -> None:
    """However many seeds agree on 64 images, they rule out no more than one seed does."""
    flags = {seed: np.random.default_rng(seed).random(64) < 0.5 for seed in range(seeds)}
    (same,) = compare_arms({"c": flags, "same": flags}, "c")
    assert (same.image_low, same.image_high) == (pytest.approx(-5.66, abs=0.01), pytest.approx(5.66, abs=0.01))


def test_the_interval_over_images_is_of_the_mean_over_seeds() -> None:
    """An arm that gains 40 images in both seeds, or 40 in each apart: the second is surer of the same mean."""
    none, first, second = np.zeros(2000, np.bool_), np.arange(2000) < 40, (np.arange(2000) >= 40) & (np.arange(2000) < 80)
    same, apart = compare_arms({"c": {0: none, 1: none}, "same": {0: first, 1: first}, "apart": {0: first, 1: second}}, "c")
    assert same.difference == apart.difference == 2
    assert (same.image_low, same.image_high) == pytest.approx((same.pairs[0].low, same.pairs[0].high))
    assert same.image_low < apart.image_low < 2 < apart.image_high < same.image_high


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_holms(p_values: list[float]) -> None:
    adjusted = holm(np.array(p_values))
    order = np.argsort(p_values)
    ranked = adjusted[order]
    assert all(low <= high for low, high in pairwise(ranked))
    assert ranked[0] == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    assert (adjusted >= np.array(p_values)).all()
    # never stricter than Bonferroni's, and never more lenient than Benjamini and Hochberg's, which controls less
    assert (adjusted <= np.minimum(1, len(p_values) * np.array(p_values)) + 1e-12).all()
    assert (adjusted >= false_discovery_control(p_values) - 1e-12).all()


def test_power_is_that_of_the_noncentral_t() -> None:
    """Small, medium and large effects take 199, 34 and 15 pairs, as in every table of the paired t-test."""
    assert [seeds_needed(effect, 1.0) for effect in (0.2, 0.5, 0.8)] == [199, 34, 15]
    assert power(0.0, 1.0, 5) == pytest.approx(0.05)
    assert power(-0.7, 0.5, 6) == pytest.approx(power(0.7, 0.5, 6))
    assert power(100, 0.1, 5) == 1
    for seeds, difference in [(2, 2.0), (3, 2.0), (6, 0.8), (40, 0.4)]:
        least, shift = t.ppf(0.975, seeds - 1), difference * np.sqrt(seeds)
        known = nct.sf(least, seeds - 1, shift) + nct.cdf(-least, seeds - 1, shift)
        assert power(difference, 1.0, seeds) == pytest.approx(known, rel=1e-9)


@given(st.floats(0.02, 3), st.floats(0.05, 2))
def test_the_seeds_needed_are_the_fewest(spread: float, difference: float) -> None:
    seeds = seeds_needed(difference, spread)
    assert seeds is not None
    assert power(difference, spread, seeds) >= 0.8
    assert seeds == 2 or power(difference, spread, seeds - 1) < 0.8
    assert smallest_detectable(spread, seeds) <= difference + 1e-6


@pytest.mark.parametrize(("spread", "difference", "seeds"), [(0.1, 0.2, 7), (0.1, 0.5, 3), (0.15, 0.2, 11), (0.2, 0.2, 18)])
def test_seeds_for_the_claim(spread: float, difference: float, seeds: int) -> None:
    assert seeds_needed(difference, difference_spread(spread)) == seeds


def test_what_has_no_answer() -> None:
    with pytest.raises(ValueError, match="needs two seeds"):
        power(1, 1, 1)
    with pytest.raises(ValueError, match="spread"):
        smallest_detectable(0, 3)
    with pytest.raises(ValueError, match="difference has to be above 0"):
        seeds_needed(0, 1)
    assert seeds_needed(0.0001, 20) is None
