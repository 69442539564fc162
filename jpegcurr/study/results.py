"""What came of a study: every run's scores, the arms against the control, the verdict; as ``study.json`` and ``runs.csv``."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.analysis.stats import LEVEL, Flags, short_p
from jpegcurr.errors import UsageError
from jpegcurr.files import json_values, write_json, write_text
from jpegcurr.study.compare import WORTH_FINDING, ArmComparison, compare_arms
from jpegcurr.study.config import Study
from jpegcurr.study.folder import SCHEMA_VERSION, STUDY, design
from jpegcurr.study.measure import WEIGHTS, load_outcomes, outcome_path
from jpegcurr.study.tasks import Task, is_done, list_tasks
from jpegcurr.text import join_words
from jpegcurr.training.metrics import Scores
from jpegcurr.training.tracking import Row, read_metrics


def conclude(
    control: str, compared: Sequence[ArmComparison], outcome: tuple[str, str], finished: int, planned: int
) -> list[str]:
    """The verdict on the primary ``outcome`` (weights, set): one sentence on all arms, then one or two on each."""
    what = f"top-1 of the {outcome[0]} weights on {outcome[1]} after the last epoch"
    so_far = f" So far: {finished} of {planned} runs are finished." if finished < planned else ""
    if not compared:
        return [f"Nothing can be compared yet: no arm and {control} have finished the same seed.{so_far}"]
    return [f"{_headline(control, compared, what)}{so_far}", *(_sentence(each, control) for each in compared)]


def _headline(control: str, compared: Sequence[ArmComparison], what: str) -> str:
    found = [each for each in compared if each.adjusted < LEVEL]
    held = "" if len(compared) == 1 else f", corrected for {len(compared)} comparisons"
    if not found:
        arms = compared[0].arm if len(compared) == 1 else f"any of {len(compared)} other arms"
        said = f"No detectable difference between {control} and {arms} in {what}."
    elif len(found) == 1:
        said = f"{found[0].arm} is {found[0].verdict} than {control} in {what}, at 5 %{held}."
    else:
        named = join_words([f"{each.arm} ({each.verdict})" for each in found])
        said = f"{len(found)} of {len(compared)} arms differ from {control} in {what}, at 5 %{held}: {named}."
    if single := [each.arm for each in compared if len(each.seeds) < 2]:
        have = f"{join_words(single)} {'has' if len(single) == 1 else 'have'}"
        said += f" {have} one seed, which cannot be told from luck: that is about these weights, not the recipe."
    return said


def _sentence(each: ArmComparison, control: str) -> str:
    if len(each.seeds) == 1:
        interval = f"images alone: {each.image_low:+.2f} to {each.image_high:+.2f}, McNemar's {_equals(each.p_value)}"
        head = f"{each.arm}: {each.difference:+.2f} points against {control} with one seed ({interval}"
        return f"{head}, {short_p(each.adjusted)} after Holm). No interval over seeds."
    interval = f"95 % over {len(each.seeds)} seeds: {each.low:+.2f} to {each.high:+.2f}"
    p_values = f"{_equals(each.p_value)}, {short_p(each.adjusted)} after Holm"
    said = f"{each.arm}: {each.difference:+.2f} points against {control} ({interval}; {p_values})"
    if each.adjusted < LEVEL:
        return f"{said}: {each.verdict}."
    seeds = f"{each.seeds_wanted:,}" if each.seeds_wanted else "more than a million"
    return (
        f"{said}: no detectable difference. With 80 % power {each.detectable:.2f} points or more would have shown; "
        f"at this spread {WORTH_FINDING} points would take {seeds} seeds."
    )


def _equals(value: float) -> str:
    """``p = 0.034``, or ``p < 0.001``."""
    said = short_p(value)
    return f"p {said}" if said.startswith("<") else f"p = {said}"


Column = tuple[str, str]  # weights and validation set


@dataclass(frozen=True, slots=True)
class RunResult:
    """One arm with one seed. ``seconds`` are those of its own epochs, ``shared`` those of its trunk's; ``metrics`` has both."""

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
    """Top-1 of an arm over its seeds, percent: mean, and the deviation over the seeds, which one seed has none of."""

    mean: float
    spread: float
    seeds: int


@dataclass(frozen=True, slots=True)
class Results:
    """A study as far as it is: ``columns`` of the matrix, finished ``runs``, and each column's comparisons."""

    study: Study
    columns: tuple[Column, ...]
    runs: tuple[RunResult, ...]
    comparisons: dict[Column, list[ArmComparison]]
    planned: int
    conditions: dict[str, Any]

    @property
    def primary(self) -> Column:
        """The column that the verdict is about."""
        return self.study.plan.primary.weights, self.study.plan.primary.data

    @property
    def verdict(self) -> list[str]:
        """Sentences, the first about all arms."""
        return conclude(self.study.plan.control, self.comparisons[self.primary], self.primary, len(self.runs), self.planned)

    def cell(self, arm: str, column: Column) -> Cell | None:
        """None for an arm without a finished run."""
        tops = [run.scores[column].top1 for run in self.runs if run.arm == arm]
        if not tops:
            return None
        return Cell(float(np.mean(tops)), float(np.std(tops, ddof=1)) if len(tops) > 1 else nan, len(tops))


def gather(study: Study, out: Path) -> Results:
    """Read what is finished of a study.

    Raises:
        UsageError: a file is damaged, or two runs were measured on other images.
    """
    columns: tuple[Column, ...] = tuple((weights, name) for weights in WEIGHTS for name in study.evaluate)
    tasks = list_tasks(study)
    done = [task for task in tasks if task.arm and is_done(study, task, out)]
    scores: dict[str, dict[Column, tuple[Scores, float]]] = {task.name: {} for task in done}
    comparisons: dict[Column, list[ArmComparison]] = {}
    conditions: dict[str, Any] = {}
    for column in columns:  # one set's outcomes are in memory at a time
        right: dict[str, dict[int, Flags]] = {}
        for task in done:
            outcomes, facts = _load(task, column, out, conditions)
            scores[task.name][column] = outcomes.scores, outcomes.calibration_error
            right.setdefault(str(task.arm), {})[task.seed] = outcomes.right
            conditions.setdefault("decoded by", facts["loader"])
            conditions.setdefault("computed", facts["computed"])
        comparisons[column] = compare_arms(right, study.plan.control)
    runs = tuple(_run(task, out, scores[task.name]) for task in done)
    return Results(study, columns, runs, comparisons, sum(task.arm is not None for task in tasks), conditions)


def _load(task: Task, column: Column, out: Path, conditions: dict[str, Any]) -> tuple[Outcomes, dict[str, Any]]:
    """A run's outcomes; every run of a column has to be of the same images."""
    path = outcome_path(out, str(task.arm), task.seed, *column)
    outcomes, facts = load_outcomes(path)
    images = conditions.setdefault(f"images of {column[1]}", len(outcomes))
    keys = conditions.setdefault(f"keys of {column[1]}", facts["keys"])
    if images != len(outcomes) or keys != facts["keys"]:
        raise UsageError(
            f"{path} is of other images than the runs before it. Remove it, and the study measures that run again."
        )
    return outcomes, facts


def _run(task: Task, out: Path, scores: Mapping[Column, tuple[Scores, float]]) -> RunResult:
    metrics = read_metrics(out / task.folder)
    own, shared = (
        sum(float(row["seconds"]) for row in metrics if (int(row["epoch"]) >= task.first) == mine) for mine in (True, False)
    )
    tops = {column: pair[0] for column, pair in scores.items()}
    errors = {column: pair[1] for column, pair in scores.items()}
    return RunResult(str(task.arm), task.seed, len(metrics), tops, errors, own, shared, metrics)


def write_results(results: Results, out: Path) -> None:
    """Write ``study.json`` and ``runs.csv``."""
    write_text(out / "runs.csv", to_csv(results.runs, results.columns))
    write_json(out / STUDY, as_dict(results))


def write_design(study: Study, out: Path) -> None:
    """Write down what is fixed before the next run; results that are there stay."""
    known = json.loads((out / STUDY).read_text(encoding="utf-8")) if (out / STUDY).is_file() else {}
    write_json(out / STUDY, {**known, "schema_version": SCHEMA_VERSION, "name": study.name, "design": design(study)})


def as_dict(results: Results) -> dict[str, Any]:
    """All that the page says, for machines."""
    study = results.study
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "design": design(study),
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
            {"weights": weights, "data": name, "primary": (weights, name) == results.primary, **each.as_dict()}
            for (weights, name), compared in results.comparisons.items()
            for each in compared
        ],
        "runs": [_row(run, column) for run in results.runs for column in results.columns],
    }


def to_csv(runs: Sequence[RunResult], columns: Sequence[Column]) -> str:
    """One row for every run, weights and validation set."""
    rows = [_row(run, column) for run in runs for column in columns]
    file = io.StringIO()
    names = ("arm", "seed", "epochs", "weights", "data", "images", "top1", "top5", "loss", "ece", "seconds", "shared_seconds")
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _row(run: RunResult, column: Column) -> dict[str, Any]:
    where = {"arm": run.arm, "seed": run.seed, "epochs": run.epochs, "weights": column[0], "data": column[1]}
    seconds = {"seconds": round(run.seconds, 3), "shared_seconds": round(run.shared, 3)}
    return {**where, **run.scores[column].as_dict(), "ece": run.calibration[column], **seconds}
