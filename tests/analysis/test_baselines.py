"""Baselines: reference maps of two images compared as they stream by, the same pairs as from a list of all maps."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpegcurr.analysis.cam.baselines import HalfTheList, SameClass, open_baseline
from jpegcurr.analysis.cam.similarity import METRICS, similarities


def maps_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, 3), np.float32)


def streamed(
    kind: type[SameClass | HalfTheList], truth: list[int], maps: np.ndarray, batch: int
) -> tuple[dict[str, np.ndarray], str]:
    """Return the metrics where every other image that is expected does not come."""
    baseline = kind(np.repeat(np.array(truth, np.int32), 2))
    for start in range(0, len(maps), batch):
        places = np.arange(start, min(start + batch, len(maps)))
        baseline.add(maps[places], 2 * places)
    columns, baseline_of = baseline.finish()
    assert list(columns) == list(METRICS)
    assert all(np.isnan(column[1::2]).all() for column in columns.values())
    return {name: column[::2] for name, column in columns.items()}, baseline_of


def assert_close(columns: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    for name in METRICS:
        assert np.allclose(columns[name], expected[name], rtol=1e-5, atol=1e-6, equal_nan=True), name


@given(truth=st.lists(st.integers(-1, 3), min_size=1, max_size=20), batch=st.integers(1, 7))
def test_each_image_is_compared_with_the_next_of_its_class_and_the_last_with_the_first(truth: list[int], batch: int) -> None:
    maps = maps_of(len(truth))
    columns, baseline_of = streamed(SameClass, truth, maps, batch)
    expected = {name: np.full(len(truth), np.nan) for name in METRICS}
    for label in set(truth) - {-1}:
        own = [place for place, other in enumerate(truth) if other == label]
        if len(own) > 1:
            for name, values in similarities(maps[own], maps[[*own[1:], own[0]]]).items():
                expected[name][own] = values
    assert_close(columns, expected)
    assert baseline_of == ("same class" if np.isfinite(columns["pearson"]).any() else "")


@given(count=st.integers(2, 20), batch=st.integers(1, 7))
def test_each_image_is_compared_with_the_one_half_the_list_away(count: int, batch: int) -> None:
    maps = maps_of(count)
    columns, baseline_of = streamed(HalfTheList, [-1] * count, maps, batch)
    half = count // 2
    assert_close(columns, similarities(maps, np.concatenate([maps[half:], maps[:half]])))
    assert np.isfinite(columns["pearson"]).all()
    assert np.isnan(columns["logit_change"]).all(), "logits of different images cannot be compared"
    assert baseline_of == "half the list"


def test_one_image_is_compared_with_none() -> None:
    for kind in (SameClass, HalfTheList):
        columns, baseline_of = streamed(kind, [0], maps_of(1), 1)
        assert all(np.isnan(column).all() for column in columns.values())
        assert baseline_of == ""


@pytest.mark.parametrize(
    ("truth", "kind"),
    [
        ([0, 0, 1, 1], SameClass),
        ([0, 1, 0, 1], SameClass),
        ([0, 0, 1, -1], SameClass),
        ([0, 0, 1, 2, 3], HalfTheList),
        ([0, 1], HalfTheList),
        ([-1, -1, -1], HalfTheList),
        ([0], HalfTheList),
    ],
)
def test_the_baseline_is_within_classes_if_at_least_half_have_a_partner(truth: list[int], kind: type) -> None:
    assert type(open_baseline(np.array(truth, np.int32))) is kind


def test_of_a_class_two_maps_are_kept_and_no_batch() -> None:
    baseline, batches = SameClass(np.array([0, 1] * 20, np.int32)), []
    for start in range(0, 40, 8):
        maps = np.random.default_rng(start).random((8, 3, 3), np.float32)
        baseline.add(maps, np.arange(start, start + 8))
        batches.append(weakref.ref(maps))
    del maps
    assert [reference() for reference in batches] == [None] * 5
    assert baseline._ends is not None
    assert baseline._ends.shape == (2, 2, 3, 3)
