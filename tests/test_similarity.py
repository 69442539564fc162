"""The comparison of maps against cases whose answer is known, and its intervals against SciPy's."""

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, binomtest

from jpegcurr.analysis.bootstrap import estimate_means
from jpegcurr.analysis.cam import CamImage, CamStudy, CamView, Map, Seen
from jpegcurr.analysis.similarity import NAMES, compare_views, similarity
from jpegcurr.analysis.statistics import detectable_difference

maps = arrays(np.float32, (4, 5), elements=st.floats(0.015625, 8, width=32)).filter(lambda cam: cam.std() > 0.05)


@given(cam=maps, scale=st.floats(0.5, 4))
def test_a_map_is_like_itself_at_any_scale(cam: np.ndarray, scale: float) -> None:
    found = similarity(cam, (cam * scale).astype(np.float32))
    assert found.pearson == pytest.approx(1, abs=1e-4)
    assert found.jsd == pytest.approx(0, abs=1e-5)
    assert found.shift == pytest.approx(0, abs=1e-4)
    assert found.magnitude == pytest.approx(scale, rel=1e-4)


@given(first=maps, second=maps)
def test_figures_stay_in_their_ranges(first: np.ndarray, second: np.ndarray) -> None:
    found = similarity(first, second)
    assert -1.001 <= found.pearson <= 1.001
    assert -1.001 <= found.spearman <= 1.001
    assert -1e-9 <= found.jsd <= 1
    assert 0 <= found.iou <= 1
    assert 0 <= found.shift <= math.hypot(3, 4)


def test_known_cases() -> None:
    left = np.zeros((5, 5), np.float32)
    left[2, 0] = 1
    right = left[:, ::-1].copy()
    apart = similarity(left, right)
    assert (apart.shift, apart.jsd, apart.magnitude) == (4, pytest.approx(1), 1)
    assert apart.pearson == pytest.approx(-1 / 24)
    assert apart.iou == 0, "dark cells are not among the brightest"
    ramp = np.arange(25, dtype=np.float32).reshape(5, 5)
    assert similarity(ramp, ramp).iou == 1
    assert similarity(ramp, ramp[::-1].copy()).iou == 0
    assert similarity(ramp, ramp**3).spearman == pytest.approx(1)
    assert similarity(ramp, ramp**3).pearson < 0.95


def test_what_is_undefined_is_not_a_number() -> None:
    dark, ramp = np.zeros((3, 3), np.float32), np.arange(9, dtype=np.float32).reshape(3, 3)
    found = similarity(dark, ramp)
    assert all(
        math.isnan(value) for value in (found.pearson, found.spearman, found.jsd, found.iou, found.shift, found.magnitude)
    )


def test_the_detectable_difference_is_that_of_the_normal_approximation() -> None:
    """280 * sqrt(d / N): 5 % discordant of 50,000 show 0.28 points, 2 % show 0.18."""
    for images in (48, 500):
        share = detectable_difference(0, images) / 100
        power = sum(binom.pmf(lost, images, share) for lost in range(images + 1) if binomtest(lost, lost or 1).pvalue < 0.05)
        assert 0.78 < power < 0.9, "the exact test, where every change goes one way"
    assert detectable_difference(2500, 50_000) == pytest.approx(0.28, abs=0.005)
    assert detectable_difference(1000, 50_000) == pytest.approx(0.18, abs=0.005)


RAMP = np.arange(1, 10, dtype=np.float32).reshape(3, 3)


def seen(cam: Map, label: str = "cat", logit: float = 0.0) -> Seen:
    return Seen(((label, 1.0),), logit, cam)


def study(*images: tuple[str | None, list[Seen], Seen | None]) -> CamStudy:
    views = tuple(CamView(Path("run"), "raw", quality) for quality in ("source", "q50", "q10"))
    made = tuple(CamImage(str(n), truth, "cat", {}, tuple(each), near) for n, (truth, each, near) in enumerate(images))
    return CamStudy(views[: len(images[0][1])], made, (), len(images), "layer", "")


def random_map(seed: int) -> Map:
    return np.random.default_rng(seed).random((3, 3), np.float32)


def test_halved_and_doubled_magnitudes_are_no_change() -> None:
    (found,) = compare_views(study(*[("cat", [seen(RAMP), seen(RAMP * scale)], None) for scale in (2, 0.5, 2, 0.5)]))
    magnitude = found.figures["magnitude"]
    assert magnitude.mean == pytest.approx(1)
    assert 0.5 <= magnitude.low < 1 < magnitude.high <= 2


def test_intervals_are_scipys_and_the_same_every_time() -> None:
    values = np.random.default_rng(1).exponential(size=(60, 3))
    values[::4, 1] = np.nan
    values[1:, 2] = np.nan
    found = estimate_means(values)
    assert found == estimate_means(values)
    assert [each.images for each in found] == [60, 45, 1]
    for column, each in enumerate(found[:2]):
        sample = values[:, column][np.isfinite(values[:, column])]
        theirs = scipy.stats.bootstrap((sample,), np.mean, n_resamples=9999, method="percentile").confidence_interval
        assert each.mean == pytest.approx(sample.mean())
        assert (each.low, each.high) == pytest.approx(
            (theirs.low, theirs.high), abs=0.25 * sample.std() / math.sqrt(len(sample))
        )
    assert found[2].mean == values[0, 2]
    assert math.isnan(found[2].low), "one image has no interval"
    assert math.isnan(estimate_means(np.full((3, 1), np.nan))[0].mean)


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(2).normal(size=(40, 400))  # 400 studies of 40 images, whose true mean is 0
    held = sum(each.low <= 0 <= each.high for each in estimate_means(draws, resamples=500))
    assert 0.90 < held / 400 < 0.97


def test_many_images_are_resampled_in_blocks_to_the_same_end() -> None:
    values = np.random.default_rng(3).normal(size=(30_000, 2))
    (first, second) = estimate_means(values, resamples=200)
    assert second.high - second.low == pytest.approx(2 * 1.96 / math.sqrt(30_000), rel=0.25)
    assert first.low < first.mean < first.high


def test_each_figure_stands_between_its_null_and_its_ceiling() -> None:
    """Maps that change a little, at q95 hardly, and that are another's in the null; flipped ones change more."""
    rows = []
    for n in range(12):
        cam, flips = random_map(n), n % 3 == 0
        changed = cam + (0.5 if flips else 0.1) * random_map(100 + n)
        after = seen(changed, "dog" if flips else "cat", logit=-1.0 if flips else 0.5)
        rows.append(("cat", [seen(cam), after, seen(cam)], seen(cam + 0.01 * random_map(200 + n), logit=0.25)))
    found, same = compare_views(study(*rows))
    pearson, logit = found.figures["pearson"], found.figures["logit_change"]
    assert set(found.figures) == set(NAMES)
    assert pearson.null.mean < pearson.flipped.mean < pearson.mean < pearson.unflipped.mean < pearson.ceiling.mean < 1
    assert pearson.low < pearson.mean < pearson.high
    assert (found.flips, pearson.flipped.images, pearson.unflipped.images, pearson.null.images) == (4, 4, 8, 12)
    assert (logit.mean, logit.flipped.mean, logit.unflipped.mean, logit.ceiling.mean) == (0, -1, 0.5, 0.25)
    assert math.isnan(logit.null.mean), "logits of different images cannot be compared"
    assert (found.mean["pearson"], found.null["pearson"], found.logit_change) == (pearson.mean, pearson.null.mean, 0)
    assert same.mean["pearson"] == pytest.approx(1)
    assert math.isnan(same.figures["pearson"].flipped.mean)
    assert same.ceiling == found.ceiling


def test_the_null_is_another_image_of_the_class_where_there_are_such() -> None:
    """Maps that depend on the class alone: within it they are equal, between classes they are not."""
    cams = {"cat": RAMP, "dog": RAMP[::-1].copy()}

    def null(*truths: str | None) -> tuple[str, float]:
        (found,) = compare_views(study(*[(truth, [seen(cams[truth or "cat"])] * 2, None) for truth in truths]))
        return found.null_of, found.null["pearson"]

    assert null("cat", "cat", "dog", "dog") == ("same class", pytest.approx(1))
    assert null("cat", "dog", "cat", "dog") == ("same class", pytest.approx(1)), "in any order"
    assert null("cat", "dog") == ("half the list", pytest.approx(-0.8))
    assert null(None, None, None) == ("half the list", pytest.approx(1))
    assert null("cat")[0] == ""
    assert math.isnan(null("cat")[1])


def test_without_quality_95_there_is_no_ceiling() -> None:
    (found,) = compare_views(study(*[("cat", [seen(random_map(n)), seen(random_map(n))], None) for n in range(3)]))
    assert all(math.isnan(value) for value in found.ceiling.values())
    assert found.figures["pearson"].ceiling.images == 0
