"""Results of a study, written to ``study.json`` and ``runs.csv``: scores of every run, comparisons and the verdict."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.analysis.stats import LEVEL, Flags, short_p, state_p
from jpegcurr.errors import UsageError
from jpegcurr.files import csv_writer, json_values, write_json
from jpegcurr.study.compare import TARGET_DIFFERENCE, ArmComparison, compare_arms
from jpegcurr.study.config import Study
from jpegcurr.study.folder import SCHEMA_VERSION, STUDY, describe_design
from jpegcurr.study.measure import WEIGHTS, load_outcomes, outcome_path
from jpegcurr.study.tasks import Task, is_done, list_tasks
from jpegcurr.text import join_words
from jpegcurr.training.metrics import Scores
from jpegcurr.training.tracking import Row, read_metrics

Column = tuple[str, str]  # weights and validation set
_SCORES = ("images", "top1", "top5", "loss", "ece")
_CSV_COLUMNS = ("arm", "seed", "epochs", "weights", "data", *_SCORES, "seconds", "shared_seconds")


@dataclass(frozen=True, slots=True)
class RunResult:
    """The result of one arm with one seed.

    Attributes:
        epochs: the number of epochs trained, those of the trunk included, as in ``metrics``.
        scores, calibration: the scores and the expected calibration error in every column whose weights the run has.
        seconds: the training time of the run's own epochs.
        shared: the training time of its trunk's.
        metrics: a row for every epoch.
    """

    arm: str
    seed: int
    epochs: int
    scores: dict[Column, Scores]
    calibration: dict[Column, float]
    seconds: float
    shared: float
    metrics: list[Row]


@dataclass(frozen=True, slots=True)
class Cell:
    """Top-1 of an arm over its seeds, in percent: the mean, and the standard deviation, which is nan for one seed."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Results:
    """The results so far of a study.

    Attributes:
        columns: the columns of the matrix.
        runs: the finished runs.
        comparisons: the comparisons with the control in every column.
        planned: the number of runs of the whole study.
        conditions: the loader and the device that the runs were measured with, and the images of every validation set.
    """

    study: Study
    columns: tuple[Column, ...]
    runs: tuple[RunResult, ...]
    comparisons: dict[Column, list[ArmComparison]]
    planned: int
    conditions: dict[str, Any]

    @property
    def primary(self) -> Column:
        """The column that the verdict is about."""
        return self.study.config.primary.weights, self.study.config.primary.data

    @property
    def verdict(self) -> list[str]:
        """The sentences of the verdict, the first about all arms."""
        compared = self.comparisons[self.primary]
        return format_verdict(self.study.config.control, compared, self.primary, len(self.runs), self.planned)

    def cell(self, arm: str, column: Column) -> Cell | None:
        """Return a cell of the matrix, or None for an arm without a finished run or without such weights."""
        tops = [run.scores[column].top1 for run in self.runs if run.arm == arm and column in run.scores]
        if not tops:
            return None
        return Cell(float(np.mean(tops)), float(np.std(tops, ddof=1)) if len(tops) > 1 else nan, len(tops))


def read_results(study: Study, out: Path) -> Results:
    """Read the outcomes of all finished runs of a study, and compare the arms.

    Raises:
        UsageError: a file is damaged, or two runs were measured on different images.
    """
    kinds = [weights for weights in WEIGHTS if any(weights in recipe.weights for recipe in study.recipes.values())]
    columns: tuple[Column, ...] = tuple((weights, name) for weights in kinds for name in study.evaluate)
    tasks = list_tasks(study)
    done = [task for task in tasks if task.arm and is_done(study, task, out)]
    scores: dict[str, dict[Column, tuple[Scores, float]]] = {task.name: {} for task in done}
    comparisons: dict[Column, list[ArmComparison]] = {}
    conditions: dict[str, Any] = {}
    for column in columns:  # the outcomes of one column are in memory at a time
        correct: dict[str, dict[int, Flags]] = {}
        for task in [task for task in done if column[0] in study.recipes[str(task.arm)].weights]:
            outcomes, facts = _load(task, column, out, conditions)
            scores[task.name][column] = outcomes.scores, outcomes.calibration_error
            correct.setdefault(str(task.arm), {})[task.seed] = outcomes.right
            conditions.setdefault("decoded by", facts["loader"])
            conditions.setdefault("computed", facts["computed"])
        comparisons[column] = compare_arms(correct, study.config.control)
    runs = tuple(_run_result(task, out, scores[task.name]) for task in done)
    return Results(study, columns, runs, comparisons, sum(task.arm is not None for task in tasks), conditions)


def _load(task: Task, column: Column, out: Path, conditions: dict[str, Any]) -> tuple[Outcomes, dict[str, Any]]:
    """Load the outcomes of a run, and check that they are of the same images as those of the runs before."""
    path = outcome_path(out, str(task.arm), task.seed, *column)
    outcomes, facts = load_outcomes(path)
    images = conditions.setdefault(f"images of {column[1]}", len(outcomes))
    keys = conditions.setdefault(f"keys of {column[1]}", facts["keys"])
    if images != len(outcomes) or keys != facts["keys"]:
        raise UsageError(
            f"{path} was measured on other images than the runs before it. If {facts['data']} was replaced, delete "
            f"{out / 'outcomes' / '*' / '*' / f'*-{column[1]}.npz'}, and the study measures all runs again."
        )
    return outcomes, facts


def _run_result(task: Task, out: Path, scores: Mapping[Column, tuple[Scores, float]]) -> RunResult:
    metrics = read_metrics(out / task.folder)
    own, shared = (
        sum(float(row["seconds"]) for row in metrics if (int(row["epoch"]) >= task.first) == is_own) for is_own in (True, False)
    )
    tops = {column: pair[0] for column, pair in scores.items()}
    errors = {column: pair[1] for column, pair in scores.items()}
    return RunResult(str(task.arm), task.seed, len(metrics), tops, errors, own, shared, metrics)


def format_verdict(control: str, compared: Sequence[ArmComparison], primary: Column, finished: int, planned: int) -> list[str]:
    """Return the verdict on the primary outcome: one sentence on all arms, then one or two on each."""
    outcome = f"top-1 of the {primary[0]} weights on {primary[1]} after the last epoch"
    so_far = f" So far: {finished} of {planned} runs are finished." if finished < planned else ""
    if not compared:
        return [f"Nothing can be compared yet: no arm and {control} have finished the same seed.{so_far}"]
    return [f"{_headline(control, compared, outcome)}{so_far}", *(_sentence(arm, control) for arm in compared)]


def _headline(control: str, compared: Sequence[ArmComparison], outcome: str) -> str:
    different = [comparison for comparison in compared if comparison.adjusted < LEVEL]
    corrected = "" if len(compared) == 1 else f", corrected for {len(compared)} comparisons"
    if not different:
        arms = compared[0].arm if len(compared) == 1 else f"any of {len(compared)} other arms"
        sentence = f"No detectable difference between {control} and {arms} in {outcome}."
    elif len(different) == 1:
        sentence = f"{different[0].arm} is {different[0].verdict} than {control} in {outcome}, at 5 %{corrected}."
    else:
        arms = join_words([f"{comparison.arm} ({comparison.verdict})" for comparison in different])
        sentence = f"{len(different)} of {len(compared)} arms differ from {control} in {outcome}, at 5 %{corrected}: {arms}."
    if single := [comparison.arm for comparison in compared if len(comparison.seeds) < 2]:
        has = "has" if len(single) == 1 else "have"
        sentence += (
            f" {join_words(single)} {has} one seed, which cannot be told from chance: this is about the trained weights, "
            "not about the recipe."
        )
    return sentence


def _sentence(comparison: ArmComparison, control: str) -> str:
    difference = f"{comparison.arm}: {comparison.difference:+.2f} points compared with {control}"
    p_values = f"{state_p(short_p(comparison.p_value))}, {short_p(comparison.adjusted)} after Holm"
    if len(comparison.seeds) == 1:
        interval = f"95 % over images: {comparison.image_low:+.2f} to {comparison.image_high:+.2f}"
        return f"{difference} with one seed ({interval}; McNemar's {p_values}). There is no interval over seeds."
    interval = f"95 % over {len(comparison.seeds)} seeds: {comparison.low:+.2f} to {comparison.high:+.2f}"
    sentence = f"{difference} ({interval}; {p_values}{_least_spread(comparison)})"
    if comparison.adjusted < LEVEL:
        return f"{sentence}: {comparison.verdict}."
    seeds = f"{comparison.seeds_wanted:,}" if comparison.seeds_wanted else "more than a million"
    return (
        f"{sentence}: no detectable difference. The study would have found {comparison.detectable:.2f} points or more with "
        f"80 % power; at this spread, {TARGET_DIFFERENCE} points would take {seeds} seeds."
    )


def _least_spread(comparison: ArmComparison) -> str:
    """Return what interval and p-values assume where the observed spread was raised; empty where it was not."""
    if not comparison.spread_floored:
        return ""
    least = f"a spread of {comparison.spread:.2f} points, that of two seeds one image apart"
    return f"; interval and p are for {least}, because the observed one is smaller"


def write_results(results: Results, out: Path) -> None:
    """Write ``study.json`` and ``runs.csv``."""
    rows = _rows(results)
    with csv_writer(out / "runs.csv") as writer:
        writer.writerow(_CSV_COLUMNS)
        writer.writerows([row[name] for name in _CSV_COLUMNS] for row in rows)
    write_json(out / STUDY, as_dict(results))


def as_dict(results: Results) -> dict[str, Any]:
    """Return design, verdict, matrix, comparisons and runs as plain values for ``study.json``."""
    study = results.study
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "design": describe_design(study),
        "finished": len(results.runs),
        "planned": results.planned,
        "conditions": results.conditions,
        "verdict": results.verdict,
        "matrix": [
            {"arm": arm, "weights": weights, "data": name, **json_values(asdict(cell))}
            for arm in study.arms
            for weights, name in results.columns
            if (cell := results.cell(arm, (weights, name)))
        ],
        "against_control": [
            {"weights": weights, "data": name, "primary": (weights, name) == results.primary, **comparison.as_dict()}
            for (weights, name), compared in results.comparisons.items()
            for comparison in compared
        ],
        "runs": json_values(_rows(results)),
    }


def _rows(results: Results) -> list[dict[str, Any]]:
    return [_row(run, column) for run in results.runs for column in results.columns if column in run.scores]


def _row(run: RunResult, column: Column) -> dict[str, Any]:
    identity = {"arm": run.arm, "seed": run.seed, "epochs": run.epochs, "weights": column[0], "data": column[1]}
    seconds = {"seconds": round(run.seconds, 3), "shared_seconds": round(run.shared, 3)}
    return {**identity, **run.scores[column].as_dict(), "ece": run.calibration[column], **seconds}
