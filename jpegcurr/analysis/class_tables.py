"""Evaluations class by class: every arm's accuracies, and the classes that changed most."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jpegcurr.analysis.class_names import full_name, have_readable_names, readable_name
from jpegcurr.analysis.contact_sheet import shown
from jpegcurr.analysis.evaluate import Evaluation
from jpegcurr.analysis.evaluation_tables import Table, arm_name
from jpegcurr.analysis.prediction_tables import csv_writer
from jpegcurr.analysis.statistics import ClassChange, Paired, class_accuracy, compare_classes, holm

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
    """Column names and rows of the classes that changed most against the first arm, in any other; and how many were looked at.

    That is at most five that lost and five that gained, the least likely by chance first. The p-values are McNemar's, after
    Holm's correction for every class of every arm: the largest of many differences is large by chance. None if there is no
    other arm, or one class, or nothing changed.
    """
    classes, first = class_names(results), results[0].outcomes
    looks: list[tuple[Evaluation, ClassChange]] = []
    for each, pair in zip(results, pairs, strict=True):
        if pair is not None:
            looks += [(each, change) for change in compare_classes(first.labels, first.right, each.outcomes.right)]
    adjusted = holm([change.p_value for _, change in looks])
    ranked = sorted(zip(looks, adjusted, strict=True), key=lambda look: (look[0][1].p_value, -abs(look[0][1].difference)))
    lost = [look for look in ranked if look[0][1].difference < 0][:MOST]
    gained = [look for look in ranked if look[0][1].difference > 0][:MOST]
    if len(classes) < 2 or not (lost or gained):
        return None
    rows = []
    for (each, change), p_value in [*lost, *gained]:
        before = 100 * change.right / change.images
        figures = [f"{change.images:,}", f"{before:.1f}", f"{before + change.difference:.1f}", f"{change.difference:+.1f}"]
        flips = [f"{change.lost:,}", f"{change.gained:,}", f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"]
        rows.append([shown(full_name(classes[change.label])), arm_name(each, results), *figures, *flips])
    columns = ["class", "arm", "images", "first, %", "arm, %", "points", "lost", "gained", "p (Holm)"]
    return (columns, rows), len(looks)
