"""Results of a command's study: comparisons over seeds, the verdict, and the lock of what is fixed in advance."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from jpegcurr.analysis.stats import LEVEL, holm, short_p, state_p
from jpegcurr.errors import UsageError
from jpegcurr.files import csv_writer, json_values, write_json
from jpegcurr.json_files import read_json, read_json_map
from jpegcurr.study.command.config import CommandStudy, list_command_tasks
from jpegcurr.study.command.run import RunOutcome, read_outcome
from jpegcurr.study.compare import judge, paired_t_test
from jpegcurr.study.folder import LOCK, STUDY
from jpegcurr.study.power import corrected_level, smallest_detectable
from jpegcurr.text import join_words

SCHEMA_VERSION = 1
_COMPLAINT, _REMEDY = "cannot be read as a command's study", "Choose another folder with --out."
_LEAST = 1e-9  # of the largest value: a spread over seeds that is smaller is rounding
NO_IMAGES = "A command leaves no outcome of each image: tests are over seeds alone."


@dataclass(frozen=True, slots=True)
class SeedComparison:
    """The comparison of an arm with the control on the ``seeds`` that both have finished, in units of the metric.

    Attributes:
        differences: of each seed, arm minus control; ``difference`` is their mean.
        spread, low, high, p_value: the standard deviation over the seeds, the 95 % interval and the p-value of the paired
            t-test; nan for one seed, or where the seeds do not spread at all, which is no basis for a test.
        adjusted: ``p_value`` after Holm's correction for the number of arms.
        detectable: the difference that these seeds find with 80 % power at the corrected level.
    """

    arm: str
    seeds: tuple[int, ...]
    differences: tuple[float, ...]
    difference: float
    spread: float
    low: float
    high: float
    p_value: float
    adjusted: float
    detectable: float

    @property
    def verdict(self) -> str:
        """``higher``, ``lower`` or ``no detectable difference``, at 5 % after correction."""
        return judge(self.difference, self.adjusted)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON; undefined ones are None."""
        values: dict[str, Any] = json_values({**asdict(self), "verdict": self.verdict})
        return values


def compare_values(values: Mapping[str, Mapping[int, float]], control: str) -> list[SeedComparison]:
    """Compare every other arm of ``values``, by arm and seed, with ``control``; arms without a common seed are omitted."""
    reference = values.get(control, {})
    shared = {
        arm: seeds
        for arm, by_seed in values.items()
        if arm != control and (seeds := tuple(seed for seed in by_seed if seed in reference))
    }
    level = corrected_level(len(shared))
    largest = max((abs(value) for by_seed in values.values() for value in by_seed.values()), default=0.0)
    tests = {
        arm: _test([values[arm][seed] - reference[seed] for seed in seeds], level, _LEAST * largest)
        for arm, seeds in shared.items()
    }
    # An arm that cannot be tested counts as one of the comparisons, and is never different.
    adjusted = holm(np.array([1.0 if isnan(test["p_value"]) else test["p_value"] for test in tests.values()]))
    return [
        SeedComparison(
            arm,
            seeds,
            tuple(values[arm][seed] - reference[seed] for seed in seeds),
            adjusted=nan if isnan(tests[arm]["p_value"]) else float(corrected),
            **tests[arm],
        )
        for (arm, seeds), corrected in zip(shared.items(), adjusted, strict=True)
    ]


def _test(differences: Sequence[float], level: float, least: float) -> dict[str, float]:
    """Return the numbers of a ``SeedComparison``; a spread up to ``least`` is none."""
    column = np.array(differences)
    mean, unknown = float(column.mean()), dict.fromkeys(("spread", "low", "high", "p_value", "detectable"), nan)
    if len(column) < 2:
        return {"difference": mean, **unknown}
    spread = float(column.std(ddof=1))
    if spread <= least:
        return {"difference": mean, **unknown, "spread": 0.0}
    test = paired_t_test(column, None)
    detectable = smallest_detectable(spread, len(column), level=level)
    numbers = {"low": float(test.low), "high": float(test.high), "p_value": float(test.p_value), "detectable": detectable}
    return {"difference": mean, "spread": spread, **numbers}


@dataclass(frozen=True, slots=True)
class CommandResults:
    """The results so far: the outcome of every finished run by arm and seed, and the comparisons with the control."""

    study: CommandStudy
    outcomes: dict[str, dict[int, RunOutcome]]
    comparisons: list[SeedComparison]
    planned: int

    @property
    def finished(self) -> int:
        """The number of finished runs."""
        return sum(map(len, self.outcomes.values()))

    def values(self, arm: str) -> dict[int, float]:
        """Return the metric of an arm by seed."""
        return {seed: outcome.value for seed, outcome in self.outcomes[arm].items()}

    def mean(self, arm: str) -> tuple[float, float]:
        """Return the mean over the seeds and the standard deviation, which is nan for one seed; both are nan for none."""
        column = list(self.values(arm).values())
        return float(np.mean(column)) if column else nan, float(np.std(column, ddof=1)) if len(column) > 1 else nan

    @property
    def verdict(self) -> list[str]:
        """The sentences of the verdict: one on all arms, one on each, and what is unusual."""
        so_far = f" So far: {self.finished} of {self.planned} runs are finished." if self.finished < self.planned else ""
        control = self.study.config.control
        if not self.comparisons:
            return [f"Nothing can be compared yet: no arm and {control} have finished the same seed.{so_far}"]
        sentences = [describe_comparison(comparison, control) for comparison in self.comparisons]
        return [f"{_headline(control, self.comparisons, self.study.column)}{so_far}", *sentences, *self._remarks()]

    def _remarks(self) -> Iterator[str]:
        same = [arm for arm in self.study.arms if len(values := self.values(arm)) > 1 and len(set(values.values())) == 1]
        if same:
            yield f"All seeds of {join_words(same)} gave the same value: does the trainer use the seed?"
        yield NO_IMAGES


def _headline(control: str, compared: Sequence[SeedComparison], column: str) -> str:
    different = [comparison for comparison in compared if comparison.adjusted < LEVEL]
    corrected = "" if len(compared) == 1 else f", corrected for {len(compared)} comparisons"
    if len(different) == 1:
        return f"{different[0].arm} is {different[0].verdict} than {control} in {column}, at 5 %{corrected}."
    if different:
        arms = join_words([f"{comparison.arm} ({comparison.verdict})" for comparison in different])
        return f"{len(different)} of {len(compared)} arms differ from {control} in {column}, at 5 %{corrected}: {arms}."
    arms = compared[0].arm if len(compared) == 1 else f"any of {len(compared)} other arms"
    single = " One seed cannot be told from chance." if max(len(comparison.seeds) for comparison in compared) < 2 else ""
    return f"No detectable difference between {control} and {arms} in {column}.{single}"


def describe_comparison(comparison: SeedComparison, control: str) -> str:
    """Return a sentence on one arm."""
    difference = f"{comparison.arm}: {comparison.difference:+.4g} compared with {control}"
    if len(comparison.seeds) == 1:
        return f"{difference} with one seed, for which there is no test."
    if not isfinite(comparison.p_value):
        return f"{difference} in each of {len(comparison.seeds)} seeds alike: without any spread there is no test."
    interval = f"95 % over {len(comparison.seeds)} seeds: {comparison.low:+.4g} to {comparison.high:+.4g}"
    p_values = f"{state_p(short_p(comparison.p_value))}, {short_p(comparison.adjusted)} after Holm"
    sentence = f"{difference} ({interval}; {p_values})"
    if comparison.adjusted < LEVEL:
        return f"{sentence}: {comparison.verdict}."
    power = f"The study would have found {comparison.detectable:.3g} or more with 80 % power."
    return f"{sentence}: no detectable difference. {power}"


def read_results(study: CommandStudy, out: Path) -> CommandResults:
    """Read the outcomes of all finished runs, and compare the arms; raise UsageError if one cannot be read."""
    outcomes: dict[str, dict[int, RunOutcome]] = {arm: {} for arm in study.arms}
    tasks = list_command_tasks(study)
    for task in tasks:
        if outcome := read_outcome(out, task):
            outcomes[str(task.arm)][task.seed] = outcome
    values = {arm: {seed: outcome.value for seed, outcome in by_seed.items()} for arm, by_seed in outcomes.items()}
    return CommandResults(study, outcomes, compare_values(values, study.config.control), len(tasks))


def write_results(results: CommandResults, out: Path) -> None:
    """Write ``study.json`` and ``runs.csv``."""
    study, placeholders = results.study, list(dict.fromkeys(name for values in results.study.arms.values() for name in values))
    rows = [(arm, seed, outcome) for arm, by_seed in results.outcomes.items() for seed, outcome in by_seed.items()]
    with csv_writer(out / "runs.csv") as writer:
        writer.writerow(["arm", "seed", *placeholders, study.column, "seconds"])
        for arm, seed, outcome in rows:
            values = [study.arms[arm].get(name, "") for name in placeholders]
            writer.writerow([arm, seed, *values, outcome.value, outcome.seconds])
    write_json(out / STUDY, as_dict(results))


def as_dict(results: CommandResults) -> dict[str, Any]:
    """Return design, verdict, comparisons and runs as plain values for ``study.json``."""
    study = results.study
    return {
        "schema_version": SCHEMA_VERSION,
        "name": study.name,
        "design": describe_design(study),
        "finished": results.finished,
        "planned": results.planned,
        "verdict": results.verdict,
        "against_control": [comparison.as_dict() for comparison in results.comparisons],
        "runs": [
            {"arm": arm, "seed": seed, **json_values(outcome.model_dump())}
            for arm, by_seed in results.outcomes.items()
            for seed, outcome in by_seed.items()
        ],
    }


class _Design(BaseModel):
    command: str
    metric: str
    control: str
    seeds: list[int]
    arms: dict[str, dict[str, str]]


class _StudyFile(BaseModel):
    design: _Design


def describe_design(study: CommandStudy) -> dict[str, Any]:
    """Return what is fixed before a study runs, as plain values for ``study.json``."""
    config = study.config
    return {
        "command": config.command,
        "metric": config.metric,
        "control": config.control,
        "seeds": list(study.seeds),
        "arms": study.arms,
    }


def write_design(study: CommandStudy, out: Path) -> None:
    """Write the design to ``study.json`` before the first run; results that the file holds are kept."""
    path = out / STUDY
    content = read_json_map(path, _StudyFile, complaint=_COMPLAINT, remedy=_REMEDY) if path.is_file() else {}
    write_json(path, {**content, "schema_version": SCHEMA_VERSION, "name": study.name, "design": describe_design(study)})


def check_folder(study: CommandStudy, out: Path) -> None:
    """Check that ``study`` may continue in ``out``: it may add seeds and arms, but change nothing that has results.

    Raises:
        UsageError: ``out`` is not the folder of a command's study, or the file changes what is fixed in advance.
    """
    if not (out / STUDY).is_file():
        if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
            raise UsageError(f"{out} exists and is not a study. Choose another folder with --out.")
        return
    before = read_json(out / STUDY, _StudyFile, complaint=_COMPLAINT, remedy=_REMEDY).design
    measured = sorted((path.parent.name, int(path.stem.removeprefix("seed-"))) for path in out.glob("outcomes/*/seed-*.json"))
    for complaint in _complaints(before, study, measured):
        raise UsageError(f"{complaint} {out} has results already: undo the change, or start another study with --out.")


def _complaints(before: _Design, study: CommandStudy, measured: Sequence[tuple[str, int]]) -> Iterator[str]:
    """Yield a sentence for every change that is not allowed once there are results."""
    now = _Design.model_validate(describe_design(study))
    for key in ("command", "metric", "control") if measured else ():
        if getattr(before, key) != getattr(now, key):
            change = f"{key} was {getattr(before, key)!r} when this study began, and is {getattr(now, key)!r}"
            yield f"{change}: it is fixed in advance."
    for arm, seed in measured:
        if arm not in now.arms:
            yield (
                f"arms.{arm} has results and is no longer in the study file: with fewer comparisons the other arms would look "
                "more certain than they are."
            )
        elif before.arms.get(arm) != now.arms[arm]:
            yield f"arms.{arm} was {before.arms.get(arm)}, and is {now.arms[arm]}."
        elif seed not in now.seeds:
            yield f"seeds: {seed} has results and is no longer in the study file: seeds must not be chosen by their results."
