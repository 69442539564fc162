"""The comparison of maps against cases whose answer is known, and its intervals against SciPy's."""

import copy
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import rel_entr
from scipy.stats import binom, binomtest

from jpegcurr.analysis.cam.results import CamStudy, CamView, Column, Map, ViewColumns
from jpegcurr.analysis.cam.similarity import METRICS, by_class, compare_views, similarities, unknown_columns
from jpegcurr.analysis.stats import _draw_blocks, detectable_difference, estimate_means

maps = arrays(np.float32, (4, 5), elements=st.floats(0.015625, 8, width=32)).filter(lambda cam: cam.std() > 0.05)


class Similarity(NamedTuple):
    pearson: float
    spearman: float
    jsd: float
    iou: float
    shift: float
    magnitude: float


assert (*Similarity._fields, "logit_change") == tuple(METRICS)


def similarity(first: Map, second: Map) -> Similarity:
    values = similarities(first[None], second[None])
    assert np.isnan(values.pop("logit_change"))
    return Similarity(**{name: float(value[0]) for name, value in values.items()})


def one_pair(a: Map, b: Map) -> list[float]:
    """The metrics of two maps by SciPy and by sets of cells, one pair at a time."""
    grid = np.indices(a.shape).reshape(2, -1)
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    varied, lit = len(set(a)) > 1 and len(set(b)) > 1, a.any() and b.any()
    correlations = [scipy.stats.pearsonr(a, b)[0], scipy.stats.spearmanr(a, b)[0]] if varied else [math.nan] * 2
    if not lit:
        return [*correlations, *[math.nan] * 4]
    p, q = a / a.sum(), b / b.sum()
    brightest = [{cell for cell in np.argsort(-cam, kind="stable")[: round(len(a) / 5)] if cam[cell] > 0} for cam in (a, b)]
    iou = len(brightest[0] & brightest[1]) / len(brightest[0] | brightest[1])
    jsd = (rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)).sum() / (2 * math.log(2))
    return [*correlations, jsd, iou, float(np.hypot(*(grid * (p - q)).sum(axis=1))), b.sum() / a.sum()]


# Few values, so that there are ties, dark maps and constant ones
batches = st.integers(1, 6).flatmap(
    lambda size: arrays(np.float32, (2, size, 3, 4), elements=st.sampled_from([0, 0, 0.25, 0.3, 1, 7]))
)


@given(both=batches)
def test_a_batch_is_compared_as_scipy_does_pair_by_pair(both: np.ndarray) -> None:
    values = similarities(*both)
    expected = np.array([one_pair(a, b) for a, b in zip(*both, strict=True)])
    for name, column in zip(Similarity._fields, expected.T, strict=True):
        assert np.allclose(values[name], column, rtol=1e-9, atol=1e-9, equal_nan=True), name


def test_a_pair_has_the_same_metrics_in_any_batch() -> None:
    first, second = np.random.default_rng(0).random((2, 40, 7, 7), np.float32)
    whole = similarities(first, second)
    parts = [similarities(first[part], second[part]) for part in (slice(13), slice(13, None))]
    for name in Similarity._fields:
        assert np.array_equal(whole[name], np.concatenate([part[name] for part in parts])), name


@given(cam=maps, scale=st.floats(0.5, 4))
def test_a_map_is_like_itself_at_any_scale(cam: np.ndarray, scale: float) -> None:
    values = similarity(cam, (cam * scale).astype(np.float32))
    assert values.pearson == pytest.approx(1, abs=1e-4)
    assert values.jsd == pytest.approx(0, abs=1e-5)
    assert values.shift == pytest.approx(0, abs=1e-4)
    assert values.magnitude == pytest.approx(scale, rel=1e-4)


@given(first=maps, second=maps)
def test_metrics_stay_in_their_ranges(first: np.ndarray, second: np.ndarray) -> None:
    values = similarity(first, second)
    assert -1.001 <= values.pearson <= 1.001
    assert -1.001 <= values.spearman <= 1.001
    assert -1e-9 <= values.jsd <= 1
    assert 0 <= values.iou <= 1
    assert 0 <= values.shift <= math.hypot(3, 4)


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
    values = similarity(dark, ramp)
    assert all(math.isnan(value) for value in values)


def test_the_detectable_difference_is_that_of_the_normal_approximation() -> None:
    """280 * sqrt(d / N): 5 % discordant of 50,000 show 0.28 points, 2 % show 0.18."""
    for images in (48, 500):
        share = detectable_difference(0, images) / 100
        power = sum(binom.pmf(lost, images, share) for lost in range(images + 1) if binomtest(lost, lost or 1).pvalue < 0.05)
        assert 0.78 < power < 0.9, "the exact test, where every change goes one way"
    assert detectable_difference(2500, 50_000) == pytest.approx(0.28, abs=0.005)
    assert detectable_difference(1000, 50_000) == pytest.approx(0.18, abs=0.005)


RAMP = np.arange(1, 10, dtype=np.float32).reshape(3, 3)


class Row(NamedTuple):
    """One image in one view."""

    cam: Map
    predicted: int = 0
    logit: float = 0.0


def study(rows: list[list[Row]], truth: list[int] | None = None, near: list[Row] | None = None) -> CamStudy:
    """``rows`` are of every image, in every view; the baseline compares each image with the next one."""

    def columns(number: int) -> ViewColumns:
        view = [image[number] for image in rows]
        return ViewColumns(
            predicted=np.array([row.predicted for row in view], np.int32),
            target=np.zeros(len(view), np.int32),
            confidence=np.ones(len(view), np.float32),
            logit=np.array([row.logit for row in view], np.float32),
            dark=np.array([not row.cam.any() for row in view]),
            similarity=metrics(first, view) if number else unknown_columns(len(rows)),
        )

    first = [image[0] for image in rows]
    baseline = metrics(first, [*first[1:], first[0]])
    baseline["logit_change"][:] = np.nan
    return CamStudy(
        views=tuple(CamView(Path("run"), "raw", quality) for quality in ("source", "q50", "q10")[: len(rows[0])]),
        classes=("cat", "dog", "fox"),
        names=tuple(f"{n}.jpg" for n in range(len(rows))),
        truth=np.array(truth or [0] * len(rows), np.int32),
        converted=np.zeros(len(rows), np.bool_),
        columns=tuple(columns(number) for number in range(len(rows[0]))),
        baseline=baseline,
        ceiling=metrics(first, near) if near else unknown_columns(len(rows)),
        baseline_of="same class",
        examples=(),
        skipped=(),
        unknown="",
        available=len(rows),
        layer="layer",
        grid=(3, 3),
        runtime="",
        preprocessing=("224 pixels",),
        method="gradcam",
        target_rule="reference",
        seed=0,
    )


def metrics(first: list[Row], second: list[Row]) -> dict[str, Column]:
    maps = (np.stack([row.cam for row in rows]) for rows in (first, second))
    logits = tuple(np.array([row.logit for row in rows], np.float32) for rows in (first, second))
    return {name: values.astype(np.float32) for name, values in similarities(*maps, logits).items()}


def random_map(seed: int) -> Map:
    return np.random.default_rng(seed).random((3, 3), np.float32)


def test_halved_and_doubled_magnitudes_are_no_change() -> None:
    (comparison,) = compare_views(study([[Row(RAMP), Row(RAMP * scale)] for scale in (2, 0.5, 2, 0.5)]))
    magnitude = comparison.metrics["magnitude"]
    assert magnitude.mean == pytest.approx(1)
    assert 0.5 <= magnitude.low < 1 < magnitude.high <= 2


def test_intervals_are_scipys_and_the_same_every_time() -> None:
    values = np.random.default_rng(1).exponential(size=(60, 3))
    values[::4, 1] = np.nan
    values[1:, 2] = np.nan
    estimates = estimate_means(values)
    assert list(map(repr, estimates)) == list(map(repr, estimate_means(values))), "where nan equals nan"
    assert [estimate.images for estimate in estimates] == [60, 45, 1]
    for column, estimate in enumerate(estimates[:2]):
        sample = values[:, column][np.isfinite(values[:, column])]
        theirs = scipy.stats.bootstrap((sample,), np.mean, n_resamples=9999, method="percentile").confidence_interval
        assert estimate.mean == pytest.approx(sample.mean())
        assert (estimate.low, estimate.high) == pytest.approx(
            (theirs.low, theirs.high), abs=0.25 * sample.std() / math.sqrt(len(sample))
        )
    assert estimates[2].mean == values[0, 2]
    assert math.isnan(estimates[2].low), "one image has no interval"
    assert math.isnan(estimate_means(np.full((3, 1), np.nan))[0].mean)


def test_an_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(2).normal(size=(40, 400))  # 400 studies of 40 images, whose true mean is 0
    covered = sum(estimate.low <= 0 <= estimate.high for estimate in estimate_means(draws, resamples=500))
    assert 0.90 < covered / 400 < 0.97


def test_images_are_drawn_with_replacement_in_blocks_as_from_the_whole_list() -> None:
    """Each resample has as many draws as there are images, and how often an image is drawn is binomial."""
    images, resamples = 5000, 1000
    blocks = list(_draw_blocks(images, resamples, 0))
    assert [start for start, _ in blocks] == [0, 2097, 4194]
    times = np.concatenate([block for _, block in blocks], axis=1)
    assert times.shape == (resamples, images)
    assert np.all(times.sum(axis=1) == images)
    expected = binom.pmf(np.arange(5), images, 1 / images)
    assert np.bincount(times.astype(int).ravel())[:5] / times.size == pytest.approx(expected, abs=0.002)
    halves = times[:, : images // 2].sum(axis=1)
    assert halves.std() == pytest.approx(binom.std(images, 0.5), rel=0.1), "images of different blocks compete for draws"


def test_many_images_are_resampled_in_blocks_to_the_same_end() -> None:
    values = np.random.default_rng(3).normal(size=(30_000, 2))
    (first, second) = estimate_means(values, resamples=200)
    assert second.high - second.low == pytest.approx(2 * 1.96 / math.sqrt(30_000), rel=0.25)
    assert first.low < first.mean < first.high


def test_each_metric_lies_between_its_baseline_and_its_ceiling() -> None:
    """Maps change a little, hardly at q95, and are another image's in the baseline; flipped ones change more."""
    rows, near = [], []
    for n in range(12):
        cam, flips = random_map(n), n % 3 == 0
        changed = cam + (0.5 if flips else 0.1) * random_map(100 + n)
        rows.append([Row(cam), Row(changed, int(flips), -1.0 if flips else 0.5), Row(cam.copy())])
        near.append(Row(cam + 0.01 * random_map(200 + n), logit=0.25))
    comparison, same = compare_views(study(rows, near=near))
    pearson, logit = comparison.metrics["pearson"], comparison.metrics["logit_change"]
    assert list(comparison.metrics) == list(METRICS)
    assert pearson.baseline.mean < pearson.flipped.mean < pearson.mean < pearson.unflipped.mean < pearson.ceiling.mean < 1
    assert pearson.low < pearson.mean < pearson.high
    assert (comparison.flips, pearson.flipped.images, pearson.unflipped.images, pearson.baseline.images) == (4, 4, 8, 12)
    assert (logit.mean, logit.flipped.mean, logit.unflipped.mean, logit.ceiling.mean) == (0, -1, 0.5, 0.25)
    assert math.isnan(logit.baseline.mean), "logits of different images cannot be compared"
    assert same.metrics["pearson"].mean == pytest.approx(1)
    assert math.isnan(same.metrics["pearson"].flipped.mean)
    assert same.metrics["pearson"].ceiling == pearson.ceiling


def test_right_and_wrong_are_counted_where_the_truth_is_known() -> None:
    """Of 4 labelled images one is lost and two are gained; the last has no truth."""
    answers = [(0, 0), (0, 1), (1, 0), (2, 0), (0, 1)]
    rows = [[Row(random_map(n), before), Row(random_map(9 + n), after)] for n, (before, after) in enumerate(answers)]
    (comparison,) = compare_views(study(rows, truth=[0, 0, 0, 0, -1]))
    assert (
        comparison.labelled,
        comparison.right_reference,
        comparison.right,
        comparison.lost,
        comparison.gained,
        comparison.flips,
    ) == (4, 2, 3, 1, 2, 4)
    assert comparison.p_value == 1
    (unknown,) = compare_views(study(rows, truth=[-1] * 5))
    assert (unknown.labelled, unknown.right, unknown.lost, unknown.p_value) == (0, 0, 0, 1)
    assert math.isnan(unknown.detectable)
    assert compare_views(study([row[:1] for row in rows])) == []


def test_comparing_leaves_the_study_as_it_was() -> None:
    original = study([[Row(random_map(n)), Row(2 * random_map(n + 1))] for n in range(4)])
    before = copy.deepcopy((original.columns[1].similarity, original.baseline))
    assert str(compare_views(original)) == str(compare_views(original))
    for ours, theirs in zip((original.columns[1].similarity, original.baseline), before, strict=True):
        assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in METRICS)


def test_without_quality_95_there_is_no_ceiling() -> None:
    (comparison,) = compare_views(study([[Row(random_map(n)), Row(random_map(n + 5))] for n in range(3)]))
    assert all(math.isnan(metric.ceiling.mean) for metric in comparison.metrics.values())
    assert comparison.metrics["pearson"].ceiling.images == 0


def test_classes_that_have_images_have_rows_in_their_order() -> None:
    dark = np.zeros((3, 3), np.float32)
    rows = [
        [Row(random_map(1), 2), Row(random_map(2), 2)],  # a fox, right in both
        [Row(random_map(3), 0), Row(random_map(3), 2)],  # a cat that becomes a fox, with the same map
        [Row(random_map(4), 1), Row(dark, 0)],  # a cat that was a dog, without a map
        [Row(random_map(5), 1), Row(dark, 0)],  # nobody knows
    ]
    original = study(rows, truth=[2, 0, 0, -1])
    cat, fox = by_class(original)
    assert (cat.name, cat.images, cat.right, cat.flips) == ("cat", 2, (1, 1), (0, 2))
    assert math.isnan(cat.pearson[0]), "the first view is not compared with itself"
    assert cat.pearson[1] == pytest.approx(1), "the dark map has no correlation"
    assert (fox.name, fox.images, fox.right, fox.flips) == ("fox", 1, (1, 1), (0, 0))
    assert fox.pearson[1] == pytest.approx(similarity(random_map(1), random_map(2)).pearson)
    assert by_class(study(rows, truth=[-1] * 4)) == []
