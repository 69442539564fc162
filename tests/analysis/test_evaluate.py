"""Runs held against each other on the same images, at qualities that are stored or made in memory."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jpegcurr.analysis.evaluation import evaluate
from jpegcurr.analysis.evaluation.evaluate import (
    Evaluation,
    compare_evaluations,
    evaluate_run,
    evaluate_runs,
    expand_qualities,
    open_sets,
)
from jpegcurr.analysis.evaluation.naming import quality_lines
from jpegcurr.analysis.evaluation.outputs import accuracy_curve
from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.analysis.evaluation.tables import (
    accuracy_matrix,
    changed_classes,
    paired_table,
    paired_verdicts,
    score_table,
    write_classes,
    write_scores,
)
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.load import Run, load_run


def simulated(
    right: Sequence[bool],
    labels: Sequence[int],
    *,
    run: str = "run",
    data: str = "val.beton",
    quality: Quality | None = "source",
    tested: Quality | None = None,
    at_load: str | None = None,
    classes: tuple[str, ...] = ("cat", "dog", "hen"),
    keys: str | None = "same",
) -> Evaluation:
    """What a model would have made of images of these ``labels``."""
    truth, hit = np.array(labels), np.array(right)
    outcomes = Outcomes(truth, np.where(hit, truth, truth + 1), np.full(len(hit), 0.5), hit, np.ones(len(hit)))
    seen = tested if at_load else quality
    return Evaluation(Path(run), "raw", Path(data), quality, seen, at_load, "plain", classes, keys, outcomes)


def same_outcomes(one: Evaluation, other: Evaluation) -> bool:
    names = ("labels", "predicted", "confidence", "top5", "loss")
    return all(np.array_equal(getattr(one.outcomes, name), getattr(other.outcomes, name)) for name in names)


def table(path: str) -> list[list[str]]:
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_quality_50_made_in_memory_gives_the_predictions_of_the_stored_file(betons: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    (stored,) = evaluate_run(run, {"q50": betons / "val-q50.beton"}, cpu)
    (made,) = evaluate_run(run, expand_qualities([betons / "val-source.beton"], [50]), cpu)
    (view,) = evaluate_run(run, expand_qualities([betons / "val-source.beton"], [50], "after_resize"), cpu)
    assert same_outcomes(stored, made)
    assert not np.array_equal(view.outcomes.confidence, made.outcomes.confidence), "after the resize is another treatment"
    assert (made.tested, made.at_load, view.at_load) == (
        50,
        "quality 50, on the fly, before the crop",
        "quality 50, on the fly, after the resize",
    )


def test_every_image_counts_once_with_any_batch(betons: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    batch = run.recipe.batch.model_copy(update={"per_device": 5, "size": 15})
    for each in (run, replace(run, recipe=run.recipe.model_copy(update={"batch": batch}))):
        (result,) = evaluate_run(each, {"": betons / "val-source.beton"}, cpu)
        assert result.outcomes.labels.tolist() == sorted([0, 1, 2, 3] * 4), "in the order of the file"
        shares = list(result.class_accuracy().values())
        assert np.mean(shares) == pytest.approx(result.scores.top1), "four classes of four images"


def test_arms_are_held_against_the_first_and_written_as_csv(betons: Path, trained: Path, cpu: Runtime) -> None:
    runs = [load_run(trained, cpu), replace(load_run(trained, cpu, "ema"), path=Path("other"))]
    arms = open_sets(runs, expand_qualities([betons / "val-source.beton"], ["source", 10]))
    results = list(evaluate_runs(runs, arms, cpu))
    pairs = compare_evaluations(results)
    matrix, paired = accuracy_matrix(results), paired_table(results, pairs)
    assert matrix is not None
    assert paired is not None
    assert (matrix[0], [row[0] for row in matrix[1]]) == (["top-1, %", "source", "10"], ["run", "other"])
    assert [row[0] for row in paired[1]] == ["run, 10", "other, source", "other, 10"]
    write_scores(Path("all.csv"), results, pairs)
    columns, *cells = table("all.csv")
    rows = [dict(zip(columns, row, strict=True)) for row in cells]
    assert [(row["run"], row["tested"]) for row in rows[1:]] == [(str(trained), "10"), ("other", "source"), ("other", "10")]
    assert rows[0]["verdict"] == ""
    for row, each, pair in zip(rows[1:], results[1:], pairs[1:], strict=True):
        assert pair is not None
        assert (float(row["top1"]), float(row["low"]), row["verdict"]) == (each.scores.top1, pair.low, pair.verdict)


def test_a_file_that_is_not_of_the_source_is_not_encoded_again(betons: Path) -> None:
    with pytest.raises(UsageError, match=r"val-q50\.beton has quality 50: --qualities would encode it a second time"):
        expand_qualities([betons / "val-q50.beton"], [90])


def test_runs_that_see_alike_share_one_pass(betons: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw and averaged weights, the latter normalised otherwise, and a run that sees a smaller centre."""
    raw, ema = load_run(trained, cpu), replace(load_run(trained, cpu, "ema"), path=Path("ema"))
    ema = replace(ema, normalise=Normaliser((0.5,) * 3, (0.5,) * 3))
    closer = raw.recipe.image.model_copy(update={"val_crop": 0.5})
    other = replace(raw, path=Path("closer"), recipe=raw.recipe.model_copy(update={"image": closer}))
    runs: list[Run] = [raw, other, ema]
    arms = open_sets(runs, expand_qualities([betons / "val-source.beton"], ["source", 10]))
    alone = [result for run in runs for result in evaluate_runs([run], arms, cpu)]
    opened: list[object] = []

    def counted(*arguments: Any) -> Any:
        opened.append(arguments)
        return open_loader(*arguments)

    open_loader = evaluate.open_loader
    monkeypatch.setattr(evaluate, "open_loader", counted)
    told: list[int] = []
    together = list(evaluate_runs(runs, arms, cpu, on_images=told.append))
    assert len(opened) == 4, "two arms, for raw and ema, and for the other"
    assert sum(told) == 3 * 2 * 16
    assert [(each.run, each.tested) for each in together] == [(each.run, each.tested) for each in alone]
    assert [(each.run.name, each.tested) for each in together[2:]] == [
        ("closer", "source"),
        ("closer", 10),
        ("ema", "source"),
        ("ema", 10),
    ]
    assert all(same_outcomes(one, by_itself) for one, by_itself in zip(together, alone, strict=True))
    assert not same_outcomes(together[0], together[2])
    assert not same_outcomes(together[0], together[4])


def test_models_are_put_back_where_the_pass_breaks(betons: Path, trained: Path, cpu: Runtime) -> None:
    runs = [load_run(trained, cpu), load_run(trained, cpu, "ema")]
    runs[1].model.train()

    def stop(_more: int) -> None:
        assert not any(run.model.training for run in runs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(evaluate_runs(runs, open_sets(runs, {"": betons / "val-source.beton"}), cpu, on_images=stop))
    assert [run.model.training for run in runs] == [False, True]


def test_a_run_is_one_line_through_its_qualities_and_one_for_each_beton_where_they_meet() -> None:
    def arm(run: str, data: str, quality: Quality | None, keys: str | None = "same", **more: Any) -> Evaluation:
        return simulated([True, True, False], [0, 1, 2], run=run, data=data, quality=quality, keys=keys, **more)

    stored = [arm(run, f"q{quality}", quality) for run in ("a", "b") for quality in (10, "source", 90)]
    assert [(name, [each.quality for each in arms]) for name, arms in quality_lines(stored)] == [
        ("a", ["source", 90, 10]),
        ("b", ["source", 90, 10]),
    ]
    again = [*stored, arm("a", "new/q10", 10)]
    assert [name for name, _ in quality_lines(again)] == [
        "a, q10",
        "a, qsource",
        "a, q90",
        "b, q10",
        "b, qsource",
        "b, q90",
        "a, new/q10",
    ]
    twice = [arm("a", "one", "source", "1"), arm("a", "one 50", 50, "1"), arm("a", "two", "source", "2")]
    assert [(name, len(arms)) for name, arms in quality_lines(twice)] == [("one, one 50", 2), ("two", 1)]
    assert [(name, len(arms)) for name, arms in quality_lines([stored[0], stored[0]])] == [("a", 1)]
    unknown = [arm("a", "one", None, None), arm("a", "two", None, None)]
    assert [name for name, _ in quality_lines(unknown)] == ["one", "two"]
    assert ">not known</text>" in accuracy_curve(unknown)


def test_the_curve_says_what_was_tested() -> None:
    right, labels = [True] * 30 + [False] * 10, [0] * 40
    views = [
        simulated(right, labels),
        *(
            simulated(right, labels, tested=quality, at_load=f"quality {quality}, on the fly, after the resize")
            for quality in (10, 90)
        ),
    ]
    drawn = accuracy_curve(views)
    assert "JPEG quality of the 40 validation images, encoded after the resize" in drawn
    assert "source: 75 (59.81 to 85.81); 90: 75 (59.81 to 85.81); 10: 75 (59.81 to 85.81)" in drawn
    mixed = accuracy_curve([*views, simulated(right, labels, data="val-q10.beton", quality=10)])
    assert "10, after the resize" in mixed
    assert "images, encoded after" not in mixed


def test_classes_are_written_with_their_images(trained: Path, betons: Path, cpu: Runtime) -> None:
    results = list(evaluate_run(load_run(trained, cpu), expand_qualities([betons / "val-source.beton"], ["source", 10]), cpu))
    write_classes(Path("classes.csv"), results)
    columns, *rows = table("classes.csv")
    assert columns == ["class", "images", "source", "10"]
    assert [(row[0], row[1]) for row in rows] == [(name, "4") for name in ("astronaut", "cat", "coffee", "grass")]
    for column, each in ((2, results[0]), (3, results[1])):
        assert np.mean([float(row[column]) for row in rows]) == pytest.approx(each.scores.top1)
        assert {row[0]: float(row[column]) for row in rows} == each.as_dict()["class_accuracy"]
    assert results[0].as_dict()["class_images"] == dict.fromkeys(results[0].classes, 4)


def test_classes_of_other_images_are_counted_for_each_arm_and_names_keep_their_bytes() -> None:
    classes = ("n01440764", "caf\udce9", "empty")
    one = simulated([True, True, False], [0, 1, 1], data="one", classes=("0", "1", "2"))
    two = simulated([True], [0], data="two", classes=classes, keys="other")
    write_classes(Path("classes.csv"), [one, two])
    assert table("classes.csv") == [
        ["class", "name", "images, one, source", "images, two, source", "one, source", "two, source"],
        ["n01440764", "tench, Tinca tinca", "1", "1", "100.0", "100.0"],
        ["caf\udce9", "caf\udce9", "2", "0", "50.0", ""],
        ["empty", "empty", "0", "0", "", ""],
    ]


def test_the_classes_that_changed_most_are_told_with_what_chance_would_do() -> None:
    """Of three classes of 100 images one loses 30, one gains 3 and one loses as many as it gains."""
    labels = [0] * 100 + [1] * 100 + [2] * 100
    before = [True] * 300
    before[100:103] = [False] * 3
    before[200:205] = [False] * 5
    after = [True] * 300
    after[:30] = [False] * 30
    after[205:210] = [False] * 5
    results = [simulated(before, labels), simulated(after, labels, quality=50, data="q50")]
    found = changed_classes(results, compare_evaluations(results))
    assert found is not None
    (columns, rows), looks = found
    assert (looks, columns[-1]) == (3, "p (Holm)")
    assert rows == [
        ["cat", "50", "100", "100.0", "-30.0", "30", "0", "< 0.001"],
        ["dog", "50", "100", "97.0", "+3.0", "0", "3", "0.500"],
    ]
    assert changed_classes(results[:1], [None]) is None
    assert changed_classes([results[0], results[0]], compare_evaluations([results[0], results[0]])) is None


def test_equal_models_have_no_class_that_stands_out_in_19_of_20() -> None:
    """50 classes of 40 images, a tenth of the images flip: without Holm's correction most comparisons would show a class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(50), 40)
    names = tuple(f"class {number}" for number in range(50))
    told: Counter[bool] = Counter()
    for _ in range(200):
        first = random.random(2000) < 0.8
        second = first ^ (random.random(2000) < np.where(first, 0.05 / 0.8, 0.05 / 0.2))
        arms = [simulated(list(each), list(labels), classes=names) for each in (first, second)]
        found = changed_classes(arms, compare_evaluations(arms))
        assert found is not None
        assert len(found[0][1]) == 10
        told[any(float(row[-1].removeprefix("<")) < 0.05 for row in found[0][1])] += 1
    assert told[True] <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_tables_of_two_runs_at_six_qualities_fit_a_terminal_of_80_columns() -> None:
    labels = [0] * 4000
    results = []
    for run in ("two_phase", "restart_only"):
        for quality, right in (("source", 3000), (90, 3000), (10, 2910)):
            at_load = None if quality == "source" else f"quality {quality}, on the fly, before the crop"
            hits = [True] * right + [False] * (4000 - right)
            results.append(simulated(hits, labels, run=run, at_load=at_load, tested=quality))
    pairs = compare_evaluations(results)
    for shown in (score_table(results), accuracy_matrix(results), paired_table(results, pairs)):
        assert shown is not None
        wide = [max(len(cell) for cell in column) for column in zip(shown[0], *shown[1], strict=True)]
        assert sum(wide) + 2 * (len(wide) - 1) <= 80
    matrix = accuracy_matrix(list(reversed(results)))
    assert matrix == (
        ["top-1, %", "source", "90", "10"],
        [["restart_only", "75.00", "75.00", "72.75"], ["two_phase", "75.00", "75.00", "72.75"]],
    )
    assert paired_verdicts(results, pairs) == (
        "By McNemar's test at 5 %, each comparison by itself, lower: two_phase, 10 | restart_only, 10; no detectable "
        "difference in the others."
    )
    assert paired_verdicts(results[:2], pairs[:2]).endswith("each comparison by itself, no detectable difference.")


def test_several_betons_are_told_apart_by_their_names() -> None:
    right, labels = [True, False], [0, 1]
    betons = [simulated(right, labels, data=f"betons/{name}.beton") for name in ("val", "other")]
    made = [replace(each, tested=10, at_load="quality 10, on the fly, before the crop") for each in betons]
    assert accuracy_matrix([*betons, *made]) == (
        ["top-1, %", "source", "10"],
        [["val", "50.00", "50.00"], ["other", "50.00", "50.00"]],
    )
    columns, rows = score_table(betons)
    assert (columns[:2], [row[0] for row in rows]) == (["data", "quality"], ["val", "other"])
    alike = [betons[0], replace(betons[1], data=Path("elsewhere/val.beton"))]
    assert [row[0] for row in score_table(alike)[1]] == ["betons/val", "elsewhere/val"]
