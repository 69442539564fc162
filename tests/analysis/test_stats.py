"""Statistics of right answers: calibration, classes, and two models on the same images."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest, norm

from jpegcurr.analysis.stats import (
    EXACT_BELOW,
    accuracy_interval,
    calibration_error,
    class_accuracy,
    compare_classes,
    compare_paired,
    holm,
    mcnemar,
    score_interval,
)

IMAGES = 4000


def simulated(random: np.random.Generator, *, points: float) -> tuple[np.ndarray, np.ndarray]:
    """Right answers of two models at 80 %, the second better by ``points``; about 10 % of the images are discordant."""
    uniform = random.random(IMAGES)
    reference = uniform < 0.8
    gained, lost = (0.05 + points / 200) / 0.2, (0.05 - points / 200) / 0.8
    return reference, reference ^ (random.random(IMAGES) < np.where(reference, lost, gained))


def test_the_calibration_error_is_that_computed_by_hand() -> None:
    # Bins of a fifteenth: 0.35 is alone in its own; 0.95 and 1.0 share the last, confidence 0.975 and accuracy 0.5; 0 is sure.
    confidence, right = np.array([0.35, 0.95, 1.0, 0.0]), np.array([True, True, False, False])
    assert calibration_error(confidence, right) == pytest.approx(100 * (0.65 + 0.95 + 0) / 4)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0


def test_class_accuracies_weighted_by_their_images_are_top1() -> None:
    random = np.random.default_rng(0)
    labels, right = random.integers(0, 7, 500), random.random(500) < 0.6
    shares = class_accuracy(labels, right, 8)
    assert np.isnan(shares[7])
    assert np.average(shares[:7], weights=np.bincount(labels)) == pytest.approx(100 * right.mean())


@pytest.mark.parametrize(("right", "images"), [(0, 16), (16, 16), (1, 1), (3141, 3925), (41_400, 50_000)])
def test_the_interval_of_an_accuracy_is_wilsons(right: int, images: int) -> None:
    share, z = right / images, norm.ppf(0.975)
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2))
    low, high = accuracy_interval(right, images)
    assert (low, high) == (pytest.approx(100 * (middle - half), abs=1e-9), pytest.approx(100 * (middle + half), abs=1e-9))
    assert 0 <= low <= 100 * share <= high <= 100 + 1e-9


def test_an_accuracy_of_no_images_has_no_interval() -> None:
    with pytest.raises(ValueError, match="no images"):
        accuracy_interval(0, 0)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 5), (0, 6), (3, 9), (12, 12)])
def test_few_flips_are_tested_exactly(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar(lost, gained) == (pytest.approx(expected), "exact")


@pytest.mark.parametrize(("lost", "gained"), [(10, 15), (40, 70), (200, 200), (900, 1000)])
def test_many_flips_are_tested_by_mid_p(lost: int, gained: int) -> None:
    """Mid-p is the exact p less the probability of the observed flips."""
    flips = lost + gained
    observed = binomtest(lost, flips, alternative="less").pvalue - (
        binomtest(lost - 1, flips, alternative="less").pvalue if lost else 0
    )
    expected = min(2 * binomtest(lost, flips, alternative="less").pvalue - observed, 1)
    assert flips >= EXACT_BELOW
    assert mcnemar(lost, gained) == (pytest.approx(expected), "mid-p")
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


def test_flips_and_difference_are_counted() -> None:
    pair = compare_paired(np.array([True, True, False, False]), np.array([True, False, True, True]))
    assert (pair.images, pair.lost, pair.gained, pair.difference, pair.verdict) == (4, 1, 2, 25, "no detectable difference")
    with pytest.raises(ValueError, match="not outcomes of the same images"):
        compare_paired(np.ones(3, np.bool_), np.ones(4, np.bool_))


def tangos_interval(lost: int, gained: int, images: int) -> tuple[float, float]:
    """Tango's interval in points, as real roots of the quartic of Yang, Sun and Hardin (Stat. Med. 32:1336, 2013)."""
    d, flips, g = gained - lost, gained + lost, norm.ppf(0.975) ** 2
    n = images
    quartic = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (flips / g + 1),
        n * d * (2 * flips / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - flips) / g,
    ]
    roots = np.roots(quartic)
    real = np.sort(roots[np.abs(roots.imag) < 1e-9].real)
    return 100 * float(real[0]), 100 * float(real[-1])


@pytest.mark.parametrize(
    ("lost", "gained", "images"),
    [(0, 0, 64), (1, 0, 44), (0, 3, 64), (5, 9, 200), (20, 40, 160), (7, 1, 21), (2, 2, 6), (300, 450, 50_000), (100, 0, 5000)],
)
def test_the_interval_of_a_difference_is_tangos(lost: int, gained: int, images: int) -> None:
    interval = score_interval((lost, images - lost - gained, gained))
    assert interval == pytest.approx(tangos_interval(lost, gained, images), abs=1e-6)
    low, high = score_interval((gained, images - lost - gained, lost))
    assert interval == pytest.approx((-high, -low), abs=1e-9), "the reverse comparison"


def test_published_intervals_are_found() -> None:
    """Airway reactivity of 21 children (Bentur et al., 2009), as R's packages PropCIs and ratesci have it."""
    assert score_interval((7, 13, 1)) == pytest.approx((-51.7, -2.6), abs=0.05)


def test_no_flip_leaves_an_interval() -> None:
    """Without a flip it is Wilson's for no success in as many trials, to either side; a lone image is no exception."""
    same = np.arange(64) < 50
    pair = compare_paired(same, same)
    assert (pair.difference, pair.low, pair.high) == (0, pytest.approx(-5.66, abs=0.01), pytest.approx(5.66, abs=0.01))
    assert pair.high == pytest.approx(accuracy_interval(0, 64)[1])
    assert score_interval((0, 1, 0)) == pytest.approx((-79.3, 79.3), abs=0.1)
    assert score_interval((9, 0, 0))[0] == -100
    assert score_interval((0, 0, 9))[1] == 100
    with pytest.raises(ValueError, match="no images"):
        score_interval((0, 0, 0))


@pytest.mark.parametrize("counts", [(1, 4, 60, 7, 0), (0, 2, 50, 0, 0), (2, 0, 1, 30, 3, 0, 1), (0, 0, 0, 9, 1, 2, 0)])
def test_the_interval_of_several_pairs_ends_where_the_score_test_rejects(counts: tuple[int, ...]) -> None:
    """The score is that of the likeliest distribution with the tested mean, which a general optimiser finds."""
    pairs, images = len(counts) // 2, sum(counts)
    changes, seen = np.arange(-pairs, pairs + 1) / pairs, np.array(counts) > 0
    observed = np.array(counts) @ changes / images

    def score(tested: float) -> float:
        found = minimize(
            lambda shares: -np.array(counts)[seen] @ np.log(np.maximum(shares[seen], 1e-12)) / images,
            np.full(len(counts), 1 / len(counts)),
            bounds=[(0, 1)] * len(counts),
            constraints=[
                {"type": "eq", "fun": lambda shares: shares.sum() - 1},
                {"type": "eq", "fun": lambda shares: shares @ changes - tested},
            ],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        return float((observed - tested) / np.sqrt(found.x @ (changes - tested) ** 2 / images))

    low, high = score_interval(counts)
    assert score(low / 100) == pytest.approx(1.96, abs=0.01)
    assert score(high / 100) == pytest.approx(-1.96, abs=0.01)


@pytest.mark.parametrize("flips", [0.5, 1, 2, 4, 8, 16])
@pytest.mark.parametrize("gained", [0.5, 0.75, 1])
def test_the_interval_covers_the_true_difference_for_few_flips(flips: float, gained: float) -> None:
    """It does in at least 92.5 % of 2,000 cases, where the bootstrap does in 31 % (half a flip, three in four gained)."""
    images, random = 500, np.random.default_rng(int(8 * flips))
    shares = np.array([(1 - gained) * flips, images - flips, gained * flips]) / images
    true = 100 * (shares[2] - shares[0])
    intervals = [score_interval(tuple(counts)) for counts in random.multinomial(images, shares, size=2000).tolist()]
    assert np.mean([low <= true <= high for low, high in intervals]) >= 0.925


@pytest.mark.parametrize("shares", [(0, 0, 1, 3, 0, 0), (1, 2, 2, 2, 2, 4), (1, 0, 0, 0, 0, 3)], ids=["one", "some", "all"])
@pytest.mark.parametrize("changed", [1, 4, 16])
def test_the_interval_covers_the_true_mean_of_three_seeds(changed: int, shares: tuple[int, ...]) -> None:
    """Whether images change in one seed, in some, or in all alike."""
    images, random = 500, np.random.default_rng(changed)
    probabilities = np.array([*shares[:3], 0, *shares[3:]]) / sum(shares) * changed / images
    probabilities[3] = 1 - changed / images
    true = 100 * probabilities @ np.arange(-3, 4) / 3
    intervals = [score_interval(tuple(counts)) for counts in random.multinomial(images, probabilities, size=300).tolist()]
    assert np.mean([low <= true <= high for low, high in intervals]) >= 0.91


def test_the_interval_covers_the_true_difference() -> None:
    """It does in 95 % of 1,000 cases, to three standard deviations of that binomial (2.1 %)."""
    random = np.random.default_rng(1)
    pairs = [compare_paired(*simulated(random, points=1)) for _ in range(1000)]
    assert np.mean([pair.low <= 1 <= pair.high for pair in pairs]) == pytest.approx(0.95, abs=0.021)


def test_equal_models_differ_in_no_more_than_5_of_100_cases() -> None:
    """Over twenty hundreds, to three standard deviations of the binomial (1.5 %): the tolerance of any one choice of seed."""
    random = np.random.default_rng(2)
    verdicts = [compare_paired(*simulated(random, points=0)).verdict for _ in range(2000)]
    assert np.mean([verdict == "no detectable difference" for verdict in verdicts]) >= 0.95 - 0.015


def test_a_planted_difference_of_two_points_is_detected() -> None:
    """With 4,000 images, a tenth discordant, 1.4 points are detected with 80 % power, two with 97 or 98 %."""
    random = np.random.default_rng(3)
    pairs = [compare_paired(*simulated(random, points=2)) for _ in range(200)]
    assert pairs[0].verdict == "higher"
    assert pairs[0].detectable == pytest.approx(1.4, abs=0.1)
    assert np.mean([pair.verdict == "higher" for pair in pairs]) >= 0.93


def test_holms_correction_is_that_of_the_textbook_and_skips_nan() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04, np.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, np.nan, 0.06, 0.02], nan_ok=True)
    assert holm([[0.5, 0.9], [0.01, np.nan]]) == pytest.approx(np.array([[1.0, 1.0], [0.01, np.nan]]), nan_ok=True)
    assert holm([]).tolist() == []


def test_classes_are_compared_by_themselves() -> None:
    random = np.random.default_rng(4)
    labels = random.choice([0, 1, 3], 300)
    reference, other = random.random(300) < 0.7, random.random(300) < 0.6
    changes = compare_classes(labels, reference, other)
    assert [change.label for change in changes] == [0, 1, 3], "a class without images is left out"
    for change in changes:
        pair = compare_paired(reference[labels == change.label], other[labels == change.label])
        assert (change.images, change.lost, change.gained) == (pair.images, pair.lost, pair.gained)
        assert (change.difference, change.p_value) == (pytest.approx(pair.difference), pair.p_value)
        assert change.right == reference[labels == change.label].sum()
