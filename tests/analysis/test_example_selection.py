"""The rules by which images are shown."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpegcurr.analysis.cam.example_selection import changes, choose_examples
from jpegcurr.analysis.cam.results import ViewColumns
from jpegcurr.analysis.cam.similarity import unknown_columns


def view(predicted: list[int], pearson: list[float] | None = None, dark: list[bool] | None = None) -> ViewColumns:
    count = len(predicted)
    similarity = unknown_columns(count)
    similarity["pearson"][:] = np.nan if pearson is None else pearson
    nothing = np.zeros(count, np.float32)
    return ViewColumns(
        predicted=np.array(predicted, np.int32),
        target=np.zeros(count, np.int32),
        confidence=nothing,
        logit=nothing,
        dark=np.array(dark or [False] * count),
        similarity=similarity,
    )


def by_rule(chosen: list[tuple[int, tuple[str, ...]]], rule: str) -> list[int]:
    return [index for index, rules in chosen if rule in rules]


def spread(count: int, **flips: list[int]) -> tuple[list[ViewColumns], np.ndarray]:
    """Images that change the less the later they come, all right in both views but those that are lost or gained."""
    before, after = np.zeros(count, int), np.zeros(count, int)
    after[flips.get("lost", [])] = 1
    before[flips.get("gained", [])] = 1
    alike = np.linspace(-0.5, 0.9, count).tolist()
    return [view(before.tolist()), view(after.tolist(), alike)], np.zeros(count, np.int32)


def test_each_rule_has_an_equal_share() -> None:
    columns, truth = spread(99, lost=[20, 40, 41], gained=[97, 60])
    chosen = choose_examples(columns, truth, 12, seed=0)
    assert len(chosen) == 12
    assert [index for index, _ in chosen] == sorted(index for index, _ in chosen), "most changed first"
    random = np.random.default_rng(0).permutation(99)[:2].tolist()
    assert by_rule(chosen, "most changed") == [0, 1, 2], "one more, because the least changed one is also a gained one"
    assert by_rule(chosen, "median") == [48, 49]
    assert by_rule(chosen, "least changed") == [97, 98]
    assert by_rule(chosen, "lost") == [20, 40]
    assert by_rule(chosen, "gained") == [60, 97]
    assert by_rule(chosen, "random") == sorted(random)
    assert dict(chosen)[97] == ("least changed", "gained")


def test_a_rule_that_has_too_few_leaves_its_share_to_the_others() -> None:
    columns, truth = spread(90, lost=[45])
    chosen = choose_examples(columns, truth, 18, seed=1)
    assert len(chosen) == 18
    assert by_rule(chosen, "lost") == [45]
    assert by_rule(chosen, "gained") == []
    for rule in ("most changed", "median", "least changed", "random"):
        assert 4 <= len(by_rule(chosen, rule)) <= 5, rule
    assert by_rule(chosen, "most changed") == list(range(len(by_rule(chosen, "most changed"))))


def test_without_a_truth_flips_are_neither_lost_nor_gained() -> None:
    columns, _ = spread(40, lost=[5], gained=[30])
    unknown = choose_examples(columns, np.full(40, -1, np.int32), 10, seed=0)
    assert by_rule(unknown, "flipped") == [5, 30]
    assert by_rule(unknown, "lost") == by_rule(unknown, "gained") == []
    half = np.where(np.arange(40) < 20, 0, -1).astype(np.int32)
    mixed = choose_examples(columns, half, 14, seed=0)
    assert (by_rule(mixed, "lost"), by_rule(mixed, "gained"), by_rule(mixed, "flipped")) == ([5], [], [30])


def test_lost_in_any_view_is_lost() -> None:
    alike = np.linspace(0, 1, 12).tolist()
    answers = [[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 1, 1]]  # of the first four; the others are right
    columns = [view([*labels, *[0] * 8], alike) for labels in answers]
    chosen = choose_examples(columns, np.zeros(12, np.int32), 6, seed=0)
    assert (by_rule(chosen, "lost"), by_rule(chosen, "gained")) == ([1], [3])


def test_with_one_view_there_is_nothing_to_rank() -> None:
    chosen = choose_examples([view([0] * 20)], np.zeros(20, np.int32), 5, seed=3)
    assert [index for index, _ in chosen] == sorted(np.random.default_rng(3).permutation(20)[:5].tolist())
    assert {rules for _, rules in chosen} == {("random",)}
    again = choose_examples([view([0] * 20)], np.zeros(20, np.int32), 5, seed=4)
    assert [index for index, _ in chosen] != [index for index, _ in again]


def test_a_map_that_vanishes_changes_most_and_other_undefined_ones_not_at_all() -> None:
    nan = float("nan")
    first = view([0] * 5, dark=[False, True, True, False, False])
    second = view([0] * 5, [nan, nan, nan, nan, -0.2], dark=[True, False, True, False, False])
    assert changes([first, second]).tolist() == pytest.approx([-1, -1, 1, 1, -0.2])
    chosen = choose_examples([first, second], np.zeros(5, np.int32), 5, seed=0)
    assert [index for index, _ in chosen] == [0, 1, 4, 2, 3], "of equals the earlier first"


@given(
    count=st.integers(1, 40),
    views=st.integers(1, 3),
    pictures=st.integers(0, 50),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_as_many_are_shown_as_asked_for_and_no_more_each_for_a_reason(
    count: int, views: int, pictures: int, seed: int, data: st.DataObject
) -> None:
    def drawn(values: st.SearchStrategy[float]) -> list[float]:
        return data.draw(st.lists(values, min_size=count, max_size=count))

    labels = st.integers(0, 2)
    columns = [
        view(drawn(labels), drawn(st.sampled_from([-1, 0, 0.5, 0.9, float("nan")])) if number else None, drawn(st.booleans()))
        for number in range(views)
    ]
    truth = np.array(drawn(st.integers(-1, 2)), np.int32)
    chosen = choose_examples(columns, truth, pictures, seed)
    assert chosen == choose_examples(columns, truth, pictures, seed)
    assert len(chosen) == len({index for index, _ in chosen}) == min(pictures, count)
    assert all(rules and len(set(rules)) == len(rules) for _, rules in chosen)
    ranked = changes(columns)
    assert [ranked[index] for index, _ in chosen] == sorted(ranked[index] for index, _ in chosen)
    most, least = (by_rule(chosen, rule) for rule in ("most changed", "least changed"))
    assert not set(most) & set(least)
    others = np.delete(ranked, most)
    assert not most or not len(others) or max(ranked[most]) <= min(others)
