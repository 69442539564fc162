"""Evaluations as tables: for the terminal, and for a CSV file."""

from collections.abc import Sequence
from pathlib import Path

from jpegcurr.analysis.evaluate import Evaluation, described
from jpegcurr.analysis.prediction_tables import csv_writer
from jpegcurr.analysis.statistics import Paired

CSV_SCORES = ("run", "weights", "data", "quality", "tested", "at_load", "loader", "images", "top1", "top5", "loss", "ece")
CSV_PAIRED = ("difference", "low", "high", "lost", "gained", "p_value", "test", "detectable", "verdict")

Table = tuple[list[str], list[list[str]]]


def score_table(results: Sequence[Evaluation]) -> Table:
    """Column names, and one row an arm; with the run where there are several."""
    many = _many_runs(results)
    rows = []
    for each in results:
        scores = each.scores
        figures = [f"{scores.images:,}", f"{scores.top1:.2f}", f"{scores.top5:.2f}", f"{scores.loss:.4f}"]
        rows.append([*([run_name(each, results)] if many else []), str(each.data), arm_quality(each), *figures])
        rows[-1].append(f"{each.outcomes.calibration_error:.2f}")
    return [*(["run"] if many else []), "data", "quality", "images", "top-1, %", "top-5, %", "loss", "ECE, points"], rows


def accuracy_matrix(results: Sequence[Evaluation]) -> Table | None:
    """Column names, and top-1 of each run in a row; None unless there are several runs and several arms of each."""
    arms = list(dict.fromkeys(_arm(each, results) for each in results))
    if not _many_runs(results) or len(arms) < 2:
        return None
    cells = {(run_name(each, results), _arm(each, results)): f"{each.scores.top1:.2f}" for each in results}
    runs = list(dict.fromkeys(run_name(each, results) for each in results))
    return ["top-1, %", *arms], [[run, *(cells[run, arm] for arm in arms)] for run in runs]


def paired_table(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> Table | None:
    """Column names, and one row for each arm that is held against the first; None if there is none."""
    rows = []
    for each, pair in zip(results, pairs, strict=True):
        if pair is not None:
            interval = f"{pair.low:+.2f} to {pair.high:+.2f}"
            flips = [f"{pair.lost:,}", f"{pair.gained:,}"]
            p_value = f"{pair.p_value:.3f}" if pair.p_value >= 0.001 else "< 0.001"
            figures = [f"{pair.difference:+.2f}", interval, *flips, f"{p_value} ({pair.test})", f"{pair.detectable:.2f}"]
            rows.append([arm_name(each, results), pair.verdict, *figures])
    columns = ["arm", "verdict", "top-1, points", "95 % interval", "lost", "gained", "McNemar's p", "detectable"]
    return (columns, rows) if rows else None


def write_scores(path: Path, results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> None:
    """Write a CSV file: one row an arm, and beside it how it differs from the first; what is unknown or undefined is empty."""
    with csv_writer(path) as writer:
        writer.writerow([*CSV_SCORES, *CSV_PAIRED])
        for each, pair in zip(results, pairs, strict=True):
            row = each.as_dict() | (described(pair) or {})
            writer.writerow([row.get(name) for name in (*CSV_SCORES, *CSV_PAIRED)])


def run_name(each: Evaluation, results: Sequence[Evaluation]) -> str:
    """The folder's name, or its path where two are called alike."""
    runs: set[Path] = {other.run for other in results}
    return each.run.name if len({run.name for run in runs}) == len(runs) and each.run.name else str(each.run)


def arm_quality(each: Evaluation) -> str:
    """``source``, ``50``, or what is done at loading."""
    return str(each.at_load or each.quality or "?")


def arm_name(each: Evaluation, results: Sequence[Evaluation]) -> str:
    """What tells an arm from the others."""
    return f"{run_name(each, results)}, {_arm(each, results)}" if _many_runs(results) else _arm(each, results)


def _arm(each: Evaluation, results: Sequence[Evaluation]) -> str:
    """The quality; and the data where one quality is that of several."""
    told = {(other.data, other.at_load, other.quality) for other in results}
    after = ", after the resize" if each.at_load and each.at_load.endswith("view") else ""
    short = f"{each.tested if each.tested is not None else arm_quality(each)}{after}"
    alike = len({data for data, *_ in told}) > 1 and sum(each.at_load == at and each.quality == of for _, at, of in told) > 1
    return f"{each.data}, {short}" if alike else short


def _many_runs(results: Sequence[Evaluation]) -> bool:
    return len({each.run for each in results}) > 1
