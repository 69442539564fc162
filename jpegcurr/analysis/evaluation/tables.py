"""Evaluations as tables: for the terminal, and as CSV files."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

from jpegcurr.analysis.class_names import full_name, have_readable_names, readable_name
from jpegcurr.analysis.evaluation.evaluate import Evaluation, paired_values
from jpegcurr.analysis.evaluation.jpeg_bytes import BYTES
from jpegcurr.analysis.evaluation.naming import (
    axis_labels,
    axis_position,
    data_name,
    evaluation_name,
    have_many_runs,
    quality_lines,
    run_name,
    tested_name,
)
from jpegcurr.analysis.evaluation.sets import BETON
from jpegcurr.analysis.stats import LEVEL, ClassChange, Paired, compare_classes, explain_no_class, holm, short_p
from jpegcurr.files import csv_writer

CSV_SCORES = ("run", "weights", "data", "quality", "tested", "at_load", "loader", "images", "top1", "top5", "loss", "ece")
CSV_PAIRED = ("difference", "low", "high", "lost", "gained", "p_value", "test", "detectable", "verdict")
MAX_CLASSES = 5  # listed of those that lost accuracy, and of those that gained

Table = tuple[list[str], list[list[str]]]  # column names, and rows of cells


def score_title(results: Sequence[Evaluation]) -> str:
    """Return what all evaluations have in common: the runs, the beton if there is one, weights and loader."""
    runs = dict.fromkeys(str(evaluation.run) for evaluation in results)
    betons = list(dict.fromkeys(str(evaluation.data) for evaluation in results))
    on = f" on {betons[0]}" if len(betons) == 1 else ""
    return f"{', '.join(runs)}{on}, {results[0].weights} weights, {results[0].loader} loader"


def score_table(results: Sequence[Evaluation]) -> Table:
    """Return one row of scores for each evaluation, with the run and the beton where these differ, and bytes where known."""
    many_runs, many_betons = have_many_runs(results), len({evaluation.data for evaluation in results}) > 1
    names = [*(["run"] if many_runs else []), *(["data"] if many_betons else []), "quality"]
    sizes = ["kB/image", "MB"] if any(evaluation.jpegs for evaluation in results) else []
    rows = []
    for evaluation in results:
        scores = evaluation.scores
        row = [run_name(evaluation, results)] if many_runs else []
        row += [data_name(evaluation, results)] if many_betons else []
        row += [tested_name(evaluation), f"{scores.images:,}", f"{scores.top1:.2f}", f"{scores.top5:.2f}"]
        row += [f"{scores.loss:.4f}", f"{evaluation.outcomes.calibration_error:.2f}"]
        jpegs = evaluation.jpegs
        measured = [f"{jpegs.mean / 1e3:,.2f}", f"{jpegs.total / 1e6:,.2f}"] if jpegs else [""] * len(sizes)
        rows.append([*row, *measured])
    return [*names, "images", "top-1, %", "top-5, %", "loss", "ECE", *sizes], rows


def describe_bytes(results: Sequence[Evaluation]) -> str:
    """Return what is counted as bytes; empty if nothing is."""
    if not any(evaluation.jpegs for evaluation in results):
        return ""
    kinds = dict.fromkeys("samples as they are stored" if one.data.suffix == BETON else "files as they are" for one in results)
    encoded = any(evaluation.jpegs and evaluation.at_load for evaluation in results)
    at_quality = ["at a quality, JPEGs of whole images as encode writes them (4:2:0)"] if encoded else []
    return f"Bytes: {'; '.join([*kinds, *at_quality])}."


def accuracy_matrix(results: Sequence[Evaluation]) -> Table | None:
    """Return top-1 with a row for each line and a column for each quality; None with fewer than two of either."""
    positions, lines = sorted(set(map(axis_position, results))), quality_lines(results)
    if len(lines) < 2 or len(positions) < 2:
        return None
    rows = []
    for name, line in lines:
        cells = {axis_position(evaluation): f"{evaluation.scores.top1:.2f}" for evaluation in line}
        rows.append([name, *(cells.get(position, "") for position in positions)])
    labels, remark = axis_labels(positions)
    return [f"top-1, %{remark}", *labels], rows


def paired_table(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> Table | None:
    """Return one row for each evaluation that is compared with the first; None if there is none."""
    rows = []
    for evaluation, pair in zip(results, pairs, strict=True):
        if pair is not None:
            name, interval = evaluation_name(evaluation, results), f"{pair.low:+.2f} to {pair.high:+.2f}"
            counts = [f"{pair.lost:,}", f"{pair.gained:,}"]
            rows.append([name, f"{pair.difference:+.2f}", interval, *counts, short_p(pair.p_value), f"{pair.detectable:.2f}"])
    columns = ["evaluation", "points", "95 % interval", "lost", "gained", "p", "detectable"]
    return (columns, rows) if rows else None


def paired_verdicts(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> str:
    """Return a sentence that names the evaluations below and above the first, or says that no difference is detectable."""
    by_verdict: dict[str, list[str]] = {}
    for evaluation, pair in zip(results, pairs, strict=True):
        if pair is not None:
            by_verdict.setdefault(pair.verdict, []).append(evaluation_name(evaluation, results))
    parts = [f"{verdict}: {' | '.join(by_verdict[verdict])}" for verdict in ("lower", "higher") if verdict in by_verdict]
    undetected = "no detectable difference"
    if undetected in by_verdict:
        parts.append(f"{undetected} in the others" if parts else undetected)
    return f"By McNemar's test at 5 %, each comparison by itself, {'; '.join(parts)}."


def changed_classes(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> tuple[Table | None, str] | None:
    """Return a table of the classes whose accuracy is told apart from the first evaluation's, and a sentence about the tests.

    The table has at most five classes that lost and five that gained, each in the evaluation with its lowest p-value, and
    sorted by it; without any it is None, and the sentence says why. The p-values are McNemar's, corrected by Holm's method for
    every class of every evaluation, because the largest of many differences is large by chance. None in place of both if there
    is no other evaluation, one class alone, or no change.
    """
    classes, first = class_names(results), results[0].outcomes
    changes = [
        (evaluation, change)
        for evaluation, pair in zip(results, pairs, strict=True)
        if pair is not None
        for change in compare_classes(first.labels, first.right, evaluation.outcomes.right)
    ]
    adjusted = holm([change.p_value for _, change in changes]).tolist()
    ranked = [(*change, p_value) for change, p_value in zip(changes, adjusted, strict=True) if change[1].difference]
    ranked.sort(key=lambda row: (row[1].p_value, -abs(row[1].difference)))
    surest: dict[tuple[bool, int], tuple[Evaluation, ClassChange, float]] = {}
    for row in ranked:
        surest.setdefault((row[1].difference < 0, row[1].label), row)
    apart = [(fewer, row) for (fewer, _), row in surest.items() if row[2] < LEVEL]
    lost, gained = ([row for fewer, row in apart if fewer is less][:MAX_CLASSES] for less in (True, False))
    if len(classes) < 2 or not surest:
        return None
    if not lost and not gained:
        why = explain_no_class([change for _, change in changes], adjusted)
        return None, f"No class is told apart from {evaluation_name(results[0], results)}: {why}. --classes FILE lists all."
    rows = []
    for evaluation, change, p_value in [*lost, *gained]:
        name = full_name(classes[change.label]).split(",")[0]
        before, counts = f"{100 * change.right / change.images:.1f}", [f"{change.lost:,}", f"{change.gained:,}"]
        head = [name, evaluation_name(evaluation, results), f"{change.images:,}", before, f"{change.difference:+.1f}"]
        rows.append([*head, *counts, short_p(p_value)])
    columns = ["class", "evaluation", "images", "first, %", "points", "lost", "gained", "p (Holm)"]
    others = f"{len(apart) - len(rows):,} more" if len(apart) > len(rows) else "no others"
    tests = f"McNemar's test within the class, with Holm's correction for all {len(changes):,} comparisons of a class"
    return (columns, rows), f"p: {tests}. Told apart are these, and {others}."


def write_scores(path: Path, results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> None:
    """Write a CSV file: a row for each evaluation with its difference from the first; unknown or undefined cells are empty.

    Where outputs were merged there is a last column that says which.
    """
    merged = ["merged"] if any(evaluation.merged for evaluation in results) else []
    with csv_writer(path) as writer:
        names = [*CSV_SCORES, *BYTES, *CSV_PAIRED, *merged]
        writer.writerow(names)
        for evaluation, pair in zip(results, pairs, strict=True):
            row = evaluation.as_dict() | (paired_values(pair) or {}) | {"merged": describe_merge(evaluation)}
            writer.writerow([row.get(name) for name in names])


def describe_merge(evaluation: Evaluation) -> str:
    """Return which outputs were merged, as ``--merge`` takes it; empty if none were."""
    return ";".join(f"{name}={','.join(outputs)}" for name, outputs in (evaluation.merged or {}).items())


def write_classes(path: Path, results: Sequence[Evaluation]) -> None:
    """Write a CSV file: a row for each class with its number of images, then its top-1 in each evaluation, percent.

    There is one column of image numbers if they are the same in all evaluations, else one for each. ImageNet's classes have a
    column of readable names. The cells of a class without images are empty.
    """
    classes = class_names(results)
    counts, shares = [], []
    for result in results:
        of_class, accuracy, own_names = result.class_images(), result.class_accuracy(), _own_names(classes, result)
        counts.append([of_class.get(name, 0) for name in own_names])
        shares.append([accuracy.get(name, nan) for name in own_names])
    names = [evaluation_name(result, results) for result in results]
    same = all(count == counts[0] for count in counts)
    readable = have_readable_names(classes)
    head = ["class", *(["name"] if readable else []), *(["images"] if same else [f"images, {name}" for name in names]), *names]
    with csv_writer(path) as writer:
        writer.writerow(head)
        for label, name in enumerate(classes):
            images = [count[label] for count in (counts[:1] if same else counts)]
            cells = [share[label] if count[label] else "" for share, count in zip(shares, counts, strict=True)]
            writer.writerow([name, *([readable_name(name)] if readable else []), *images, *cells])


def _own_names(classes: Sequence[str], result: Evaluation) -> list[str]:
    """Return the name in ``result`` of each of ``classes``, empty if it has none; numbers are matched by position."""
    if result.names_known:
        own = set(result.classes)
        return [name if name in own else "" for name in classes]
    return [*result.classes, *[""] * len(classes)][: len(classes)]


def class_names(results: Sequence[Evaluation]) -> tuple[str, ...]:
    """Return the class names of the first run that has any: a run trained on a beton without a manifest has only numbers."""
    return next((result.classes for result in results if result.names_known), results[0].classes)
