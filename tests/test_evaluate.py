"""Runs held against each other on the same images, at qualities that are stored or made in memory."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from jpegcurr.analysis.evaluate import at_qualities, compare_evaluations, evaluate_run, evaluate_runs, open_arms
from jpegcurr.analysis.evaluation_tables import accuracy_matrix, paired_table, to_csv
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.model import load_run


def test_quality_50_made_in_memory_gives_the_predictions_of_the_stored_file(betons: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    (stored,) = evaluate_run(run, {"q50": betons / "val-q50.beton"}, cpu)
    (made,) = evaluate_run(run, at_qualities([betons / "val-source.beton"], [50]), cpu)
    (view,) = evaluate_run(run, at_qualities([betons / "val-source.beton"], [50], "view"), cpu)
    for name in ("labels", "predicted", "confidence", "top5", "loss"):
        assert np.array_equal(getattr(stored.outcomes, name), getattr(made.outcomes, name)), name
    assert not np.array_equal(view.outcomes.confidence, made.outcomes.confidence), "after the resize is another treatment"
    assert (made.tested, made.at_load, view.at_load) == (50, "quality 50, at load, stored", "quality 50, at load, view")


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
    arms = open_arms(runs, at_qualities([betons / "val-source.beton"], ["source", 10]))
    results = list(evaluate_runs(runs, arms, cpu))
    pairs = compare_evaluations(results)
    matrix, paired = accuracy_matrix(results), paired_table(results, pairs)
    assert matrix is not None
    assert paired is not None
    assert (matrix[0], [row[0] for row in matrix[1]]) == (["top-1, %", "source", "10"], ["run", "other"])
    assert [row[0] for row in paired[1]] == ["run, 10", "other, source", "other, 10"]
    rows = list(csv.DictReader(io.StringIO(to_csv(results, pairs))))
    assert [(row["run"], row["tested"]) for row in rows[1:]] == [(str(trained), "10"), ("other", "source"), ("other", "10")]
    assert rows[0]["verdict"] == ""
    for row, each, pair in zip(rows[1:], results[1:], pairs[1:], strict=True):
        assert pair is not None
        assert (float(row["top1"]), float(row["low"]), row["verdict"]) == (each.scores.top1, pair.low, pair.verdict)


def test_a_file_that_is_not_of_the_source_is_not_encoded_again(betons: Path) -> None:
    with pytest.raises(UsageError, match=r"val-q50\.beton has quality 50: --qualities would encode it a second time"):
        at_qualities([betons / "val-q50.beton"], [90])
