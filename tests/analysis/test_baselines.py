"""Reference maps of two images against each other: the same pairs as from a list of all of them."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpegcurr.analysis.cam.baselines import HalfTheList, SameClass, open_null
from jpegcurr.analysis.cam.similarity import similarities


def maps_of(count: int) -> np.ndarray:
    return np.random.default_rng(count).random((count, 3, 3), np.float32)


def streamed(kind: type[SameClass | HalfTheList], truth: list[int], maps: np.ndarray, batch: int) -> tuple[np.ndarray, str]:
    """Every other one of the images that are expected does not come."""
    null = kind(np.repeat(np.array(truth, np.int32), 2))
    for start in range(0, len(maps), batch):
        places = np.arange(start, min(start + batch, len(maps)))
        null.add(maps[places], 2 * places)
    figures, null_of = null.finish()
    assert np.isnan(figures[1::2]).all()
    return figures[::2], null_of


@given(truth=st.lists(st.integers(-1, 3), min_size=1, max_size=20), batch=st.integers(1, 7))
def test_each_image_stands_against_the_next_of_its_class_round_to_the_first(truth: list[int], batch: int) -> None:
    maps = maps_of(len(truth))
    found, null_of = streamed(SameClass, truth, maps, batch)
    expected = np.full((len(truth), 7), np.nan)
    for label in set(truth) - {-1}:
        own = [place for place, each in enumerate(truth) if each == label]
        if len(own) > 1:
            expected[own, :6] = similarities(maps[own], maps[[*own[1:], own[0]]])
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6, equal_nan=True)
    assert null_of == ("same class" if np.isfinite(found).any() else "")


@given(count=st.integers(2, 20), batch=st.integers(1, 7))
def test_each_image_stands_against_the_one_half_the_list_away(count: int, batch: int) -> None:
    maps = maps_of(count)
    found, null_of = streamed(HalfTheList, [-1] * count, maps, batch)
    half = count // 2
    expected = similarities(maps, np.concatenate([maps[half:], maps[:half]]))
    assert np.allclose(found[:, :6], expected, rtol=1e-5, atol=1e-6)
    assert np.isnan(found[:, 6]).all(), "logits of different images cannot be compared"
    assert null_of == "half the list"


def test_one_image_stands_against_none() -> None:
    for kind in (SameClass, HalfTheList):
        found, null_of = streamed(kind, [0], maps_of(1), 1)
        assert np.isnan(found).all()
        assert null_of == ""


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
def test_the_null_is_by_class_where_at_least_half_have_a_fellow(truth: list[int], kind: type) -> None:
    assert type(open_null(np.array(truth, np.int32))) is kind


def test_of_a_class_two_maps_are_kept_and_no_batch() -> None:
    null, batches = SameClass(np.array([0, 1] * 20, np.int32)), []
    for start in range(0, 40, 8):
        maps = np.random.default_rng(start).random((8, 3, 3), np.float32)
        null.add(maps, np.arange(start, start + 8))
        batches.append(weakref.ref(maps))
    del maps
    assert [each() for each in batches] == [None] * 5
    assert null._ends is not None
    assert null._ends.shape == (2, 2, 3, 3)
