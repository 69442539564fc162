"""Evaluations class by class: every arm's accuracies, and the classes that changed most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jpegcurr.analysis.evaluation.naming import arm_name
from jpegcurr.analysis.class_names import full_name, have_readable_names, readable_name
from jpegcurr.analysis.prediction.contact_sheet import shown
from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.evaluation.tables import Table
from jpegcurr.analysis.prediction.tables import csv_writer
from jpegcurr.analysis.stats import ClassChange, Paired, class_accuracy, compare_classes, holm, short_p

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
        name = shown(full_name(classes[change.label]).split(",")[0])
        rows.append([name, arm_name(each, results), *figures, short_p(p_value)])
    return (["class", "arm", "images", "first, %", "points", "lost", "gained", "p (Holm)"], rows), len(looks)
