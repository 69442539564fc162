"""Evaluations as tables: for the terminal, and for a CSV file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jpegcurr.analysis.class_names import full_name, have_readable_names, readable_name
from jpegcurr.analysis.evaluation.evaluate import Evaluation, described
from jpegcurr.analysis.evaluation.naming import (
    arm_name,
    data_name,
    many_runs,
    place_names,
    place_of,
    quality_lines,
    quality_name,
    run_name,
)
from jpegcurr.analysis.stats import ClassChange, Paired, class_accuracy, compare_classes, holm, short_p
from jpegcurr.files import csv_writer
from jpegcurr.text import sanitize

CSV_SCORES = ("run", "weights", "data", "quality", "tested", "at_load", "loader", "images", "top1", "top5", "loss", "ece")
CSV_PAIRED = ("difference", "low", "high", "lost", "gained", "p_value", "test", "detectable", "verdict")

Table = tuple[list[str], list[list[str]]]


def score_title(results: Sequence[Evaluation]) -> str:
    """What all arms have in common: the runs, the beton if it is one, weights and loader."""
    runs, betons = (list(dict.fromkeys(map(str, each))) for each in zip(*((one.run, one.data) for one in results), strict=True))
    on = f" on {betons[0]}" if len(betons) == 1 else ""
    return f"{', '.join(runs)}{on}, {results[0].weights} weights, {results[0].loader} loader"


def score_table(results: Sequence[Evaluation]) -> Table:
    """Column names, and one row an arm; with the run and the beton where there are several."""
    runs, betons = many_runs(results), len({each.data for each in results}) > 1
    rows = []
    for each in results:
        scores = each.scores
        names = [*([run_name(each, results)] if runs else []), *([data_name(each, results)] if betons else [])]
        figures = [f"{scores.images:,}", f"{scores.top1:.2f}", f"{scores.top5:.2f}", f"{scores.loss:.4f}"]
        rows.append([*names, quality_name(each), *figures, f"{each.outcomes.calibration_error:.2f}"])
    names = [*(["run"] if runs else []), *(["data"] if betons else []), "quality"]
    return [*names, "images", "top-1, %", "top-5, %", "loss", "ECE"], rows


def accuracy_matrix(results: Sequence[Evaluation]) -> Table | None:
    """Column names, and top-1 over the qualities, a line in a row; None unless there are several of both."""
    places, lines = sorted({place_of(each) for each in results}), quality_lines(results)
    if len(lines) < 2 or len(places) < 2:
        return None
    rows = []
    for name, arms in lines:
        cells = {place_of(each): f"{each.scores.top1:.2f}" for each in arms}
        rows.append([name, *(cells.get(place, "") for place in places)])
    names, treated = place_names(places)
    return [f"top-1, %{treated}", *names], rows


def paired_table(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> Table | None:
    """Column names, and one row for each arm that is held against the first; None if there is none."""
    rows = []
    for each, pair in zip(results, pairs, strict=True):
        if pair is not None:
            interval = f"{pair.low:+.2f} to {pair.high:+.2f}"
            figures = [f"{pair.difference:+.2f}", interval, f"{pair.lost:,}", f"{pair.gained:,}"]
            rows.append([arm_name(each, results), *figures, short_p(pair.p_value), f"{pair.detectable:.2f}"])
    columns = ["arm", "points", "95 % interval", "lost", "gained", "p", "detectable"]
    return (columns, rows) if rows else None


def paired_verdicts(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> str:
    """Which arms are lower and which higher than the first, in a sentence or two; for the others, that none is detectable."""
    named: dict[str, list[str]] = {}
    for each, pair in zip(results, pairs, strict=True):
        if pair is not None:
            named.setdefault(pair.verdict, []).append(arm_name(each, results))
    found = [f"{verdict}: {' | '.join(named[verdict])}" for verdict in ("lower", "higher") if verdict in named]
    none = "no detectable difference"
    if none in named:
        found.append(f"{none} in the others" if found else none)
    return f"By McNemar's test at 5 %, each arm by itself, {'; '.join(found)}."


def write_scores(path: Path, results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> None:
    """Write a CSV file: one row an arm, and beside it how it differs from the first; what is unknown or undefined is empty."""
    with csv_writer(path) as writer:
        writer.writerow([*CSV_SCORES, *CSV_PAIRED])
        for each, pair in zip(results, pairs, strict=True):
            row = each.as_dict() | (described(pair) or {})
            writer.writerow([row.get(name) for name in (*CSV_SCORES, *CSV_PAIRED)])


MOST = 5  # classes that are shown of those that lost, and of those that gained


def write_classes(path: Path, results: Sequence[Evaluation]) -> None:
    """Write a CSV file: a row a class with its images, then its top-1 in each arm, percent.

    There is one column of images where all arms have as many of each class, else one for each arm. A readable name stands
    beside ImageNet's. A class without images has empty cells.
    """
    classes = class_names(results)
    counts = [np.bincount(each.outcomes.labels, minlength=len(classes)).tolist() for each in results]
    shares = [class_accuracy(each.outcomes.labels, each.outcomes.right, len(classes)).tolist() for each in results]
    names = [arm_name(each, results) for each in results]
    same = all(count == counts[0] for count in counts)
    named = have_readable_names(classes)
    columns = ["class", *(["name"] if named else []), *(["images"] if same else [f"images, {name}" for name in names]), *names]
    with csv_writer(path) as writer:
        writer.writerow(columns)
        for label, name in enumerate(classes):
            images = [count[label] for count in (counts[:1] if same else counts)]
            cells = [share[label] if count[label] else "" for share, count in zip(shares, counts, strict=True)]
            writer.writerow([name, *([readable_name(name)] if named else []), *images, *cells])


def class_names(results: Sequence[Evaluation]) -> tuple[str, ...]:
    """Of the first run that knows names; one that was trained on a beton without a manifest knows numbers only."""
    return next((each.classes for each in results if any(not name.isdigit() for name in each.classes)), results[0].classes)


def changed_classes(results: Sequence[Evaluation], pairs: Sequence[Paired | None]) -> tuple[Table, int] | None:
    """Column names and rows of the classes that changed most against the first arm, and how many comparisons there are.

    That is at most five that lost and five that gained, each in the arm where that is least likely by chance, and the least
    likely first. The p-values are McNemar's, after Holm's correction for every class of every arm: the largest of many
    differences is large by chance. None if there is no other arm, or one class, or nothing changed.
    """
    classes, first = class_names(results), results[0].outcomes
    pairwise = [(each, pair) for each, pair in zip(results, pairs, strict=True) if pair is not None]
    changes = [(each, compare_classes(first.labels, first.right, each.outcomes.right)) for each, _ in pairwise]
    looks = [(each, change) for each, some in changes for change in some]
    adjusted = holm([change.p_value for _, change in looks])
    ranked = [
        (each, change, p_value) for (each, change), p_value in zip(looks, adjusted.tolist(), strict=True) if change.difference
    ]
    ranked.sort(key=lambda look: (look[1].p_value, -abs(look[1].difference)))
    surest: dict[tuple[bool, int], tuple[Evaluation, ClassChange, float]] = {}
    for look in ranked:
        surest.setdefault((look[1].difference < 0, look[1].label), look)
    lost, gained = ([look for (fewer, _), look in surest.items() if fewer is less][:MOST] for less in (True, False))
    if len(classes) < 2 or not surest:
        return None
    rows = []
    for each, change, p_value in [*lost, *gained]:
        before = f"{100 * change.right / change.images:.1f}"
        figures = [f"{change.images:,}", before, f"{change.difference:+.1f}", f"{change.lost:,}", f"{change.gained:,}"]
        name = sanitize(full_name(classes[change.label]).split(",")[0])
        rows.append([name, arm_name(each, results), *figures, short_p(p_value)])
    return (["class", "arm", "images", "first, %", "points", "lost", "gained", "p (Holm)"], rows), len(looks)
