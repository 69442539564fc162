"""The page of predictions and the JSON beside it: ``report.py``'s numbers as tables, charts and sentences."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from jpegcurr.analysis.class_names import full_name, readable_name
from jpegcurr.analysis.html.histogram_chart import Histogram, histogram_chart
from jpegcurr.analysis.html.line_chart import COLOURS, MARKERS, Series, page_chart
from jpegcurr.analysis.html.matrix_picture import matrix_picture
from jpegcurr.analysis.html.page import drawn, hash_script, source, template, to_script
from jpegcurr.analysis.html.scatter_chart import scatter_chart
from jpegcurr.analysis.prediction.class_metrics import Matrix, ReliabilityBin
from jpegcurr.analysis.prediction.one_class import OUTCOMES, Curves, Decision, OneClass
from jpegcurr.analysis.prediction.report import Confidence, Labelled, PredictionReport, Scatter
from jpegcurr.files import write_json, write_text
from jpegcurr.text import sanitize

SCHEMA_VERSION = 1
TABLE_COLUMNS = 30  # of a matrix that is a table; one of more true classes is a picture
PICTURE_CELLS = 1000  # a side of the picture; beyond, a cell is several classes
LISTED_CELLS = 20_000  # of the picture, which the script reads out
LISTED_FILES = 50  # files that could not be read
_OUTCOME_SERIES = dict(zip(OUTCOMES, (1, 2, 4, 8), strict=True))


def page_files(path: Path) -> list[Path]:
    """Return the files that ``write_page`` writes: the page, and its JSON."""
    return [path, path.parent / f"{path.stem}.json"]


def write_page(report: PredictionReport, path: Path) -> None:
    """Write the page to ``path`` and the JSON beside it, each whole or not at all, the page last."""
    page, as_json = page_files(path)
    text = render(report)
    write_json(as_json, report_values(report))
    write_text(page, text)


def render(report: PredictionReport) -> str:
    """Return the page: offline, without a picture of any image, and the same for the same report."""
    script = source("predictions.js")
    names, matrix = _Names(report.subject.classes), report.labelled.matrix if report.labelled else None
    is_large = matrix is not None and len(matrix.classes) > TABLE_COLUMNS
    picture = _picture(matrix, names) if matrix is not None and is_large else None
    page: str = template("jpegcurr.analysis", "predictions.html.jinja").render(
        report=report,
        names=names,
        table=_table(matrix, names) if matrix is not None and not is_large else None,
        picture=picture,
        charts=_charts(report),
        markers=MARKERS,
        colours=COLOURS,
        listed_files=LISTED_FILES,
        style=source("page.css") + source("predictions.css"),
        script=script,
        script_hash=hash_script(script),
        data=Markup(to_script(picture.data if picture else None)),  # noqa: S704  # nothing in it ends the element
    )
    return page


class _Names:
    """The classes' names as the page shows them, by label."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._classes = classes

    def __getitem__(self, label: int) -> str:
        return full_name(self._classes[label])

    def short(self, label: int) -> str:
        """Return the name for a narrow column: the readable one, which other classes may share."""
        return readable_name(self._classes[label])


# ---- the confusion matrix


@dataclass(frozen=True, slots=True)
class MatrixTable:
    """A small matrix: rows of (name, images, cells), a cell being (images, strength, right); names are (short, whole).

    ``folded`` classes that no image has are the last column; 0 if every class has a column.
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[tuple[str, str], int, list[tuple[int, float, bool]]]]
    folded: int


@dataclass(frozen=True, slots=True)
class MatrixPicture:
    """A large matrix: a data URI, its size in cells, classes a cell, and what the script reads out."""

    uri: str
    rows: int
    columns: int
    classes: int
    data: dict[str, Any]


def _table(matrix: Matrix, names: "_Names") -> MatrixTable:
    """Return the matrix with a column for every class, or with one for all classes that no image has if they are too many."""
    classes, columns = matrix.classes.tolist(), matrix.columns.tolist()
    others = len(columns) - len(classes)
    folded = others if others > 1 and len(columns) > TABLE_COLUMNS else 0
    listed = classes if folded else columns
    heads = [(names.short(label), names[label]) for label in listed]
    heads += [(f"{folded:,} other classes",) * 2] if folded else []
    places = dict.fromkeys(columns, len(listed)) | {label: place for place, label in enumerate(listed)}
    counts: NDArray[np.int64] = np.zeros((len(classes), len(heads)), np.int64)
    at = [[places[label] for label in labels.tolist()] for labels in (matrix.truth, matrix.predicted)]
    np.add.at(counts, tuple(at), matrix.images)
    rows = []
    for number, row in enumerate(counts.tolist()):
        cells = [(count, round(sqrt(count / sum(row)), 3), place == number) for place, count in enumerate(row)]
        rows.append((heads[number], sum(row), cells))
    return MatrixTable(heads, rows, folded)


def _picture(matrix: Matrix, names: "_Names") -> MatrixPicture:
    classes, columns = matrix.classes, matrix.columns
    width = -(-len(columns) // PICTURE_CELLS)  # classes a cell
    place = np.zeros(int(columns.max()) + 1, np.int64)
    place[columns] = np.arange(len(columns)) // width
    across = int(place[columns[-1]]) + 1
    down = int(place[classes[-1]]) + 1
    cells: NDArray[np.int64] = np.zeros((down, across), np.int64)
    np.add.at(cells, (place[matrix.truth], place[matrix.predicted]), matrix.images)
    images = cells.sum(axis=1)
    rows, over = np.nonzero(cells)
    counts = cells[rows, over]
    order = np.argsort(-counts, kind="stable")
    listed = order[:LISTED_CELLS]
    data = {
        "names": [_span(names, part) for part in np.split(columns, range(width, len(columns), width))],
        "images": images.tolist(),
        "cells": np.stack([rows, over, counts], axis=1)[listed].ravel().tolist(),
        "rest": int(counts[order[LISTED_CELLS]]) if len(order) > LISTED_CELLS else 0,
    }
    uri = matrix_picture(cells / images[:, None], np.eye(down, across, dtype=np.bool_))
    return MatrixPicture(uri, down, across, width, data)


def _span(names: _Names, labels: NDArray[np.int64]) -> str:
    """Return the name of one class, or of the first and the last of several that share a cell."""
    first, last = sanitize(names[labels[0]]), sanitize(names[labels[-1]])
    return first if len(labels) == 1 else f"{first} to {last}"


# ---- charts


def _charts(report: PredictionReport) -> dict[str, Markup]:
    charts = {"scatter": _scatter_chart(report.scatter, len(report.subject.files), "confidence")}
    if report.labelled:
        rows = [_histogram(group, series) for series, group in enumerate(report.labelled.confidence, start=1)]
        charts["confidence"] = drawn(histogram_chart(rows, x_label="confidence"))
        charts["reliability"] = _reliability_chart(report.labelled.bins)
    if report.unlabelled:
        rows = [_histogram(group, 1) for group in report.unlabelled]
        charts["unlabelled"] = drawn(histogram_chart(rows, x_label="confidence"))
    if report.positive and report.positive_scatter:
        label = f"probability of {full_name(report.subject.classes[report.positive.label])}"
        mark, count = report.positive.threshold, len(report.subject.files)
        rows = [_histogram(group, _OUTCOME_SERIES[group.name]) for group in report.positive_confidence]
        charts["outcomes"] = drawn(histogram_chart(rows, x_label=label, mark=mark))
        charts["positive_scatter"] = _scatter_chart(report.positive_scatter, count, label, mark)
        if report.positive.curves:
            charts |= _curve_charts(report.positive, report.positive.curves.thinned())
    return charts


def _histogram(group: Confidence, series: int) -> Histogram:
    return Histogram(group.name, group.counts.tolist(), group.mean, series)


def _scatter_chart(scatter: Scatter, files: int, label: str, mark: float | None = None) -> Markup:
    label_below = "number of the file, in the order of the table"
    return drawn(scatter_chart(scatter.groups, x_high=files - 1, x_label=label_below, y_label=label, mark=mark))


def _reliability_chart(bins: Sequence[ReliabilityBin]) -> Markup:
    series = [
        Series(
            "this model, with 95 % intervals",
            [row.accuracy for row in bins],
            [row.interval[0] for row in bins],
            [row.interval[1] for row in bins],
            x=[row.confidence for row in bins],
        ),
        Series("confidence equal to accuracy", [0.0, 1.0], x=[0.0, 1.0]),
    ]
    return page_chart(series, x_label="mean confidence of the bin", y_label="accuracy")


def _curve_charts(one: OneClass, curves: Curves) -> dict[str, Markup]:
    decision, base = one.at_threshold, curves.positives / (curves.positives + curves.negatives)
    here = f"from {one.threshold:g}"
    precision_recall = [
        Series("all thresholds", curves.precision.tolist(), x=curves.recall.tolist()),
        Series("chance", [base, base], x=[0.0, 1.0]),
    ]
    if isfinite(decision.precision):
        precision_recall.append(Series(here, [decision.precision], x=[decision.recall]))
    roc = [
        Series("all thresholds", [0.0, *curves.recall.tolist()], x=[0.0, *curves.fall_out.tolist()]),
        Series("chance", [0.0, 1.0], x=[0.0, 1.0]),
        Series(here, [decision.recall], x=[decision.fall_out]),
    ]
    by_threshold = [
        Series(name, values.tolist(), x=curves.threshold.tolist())
        for name, values in (("precision", curves.precision), ("recall", curves.recall), ("F1", curves.f1))
    ]
    marks = [(one.threshold, here)]
    return {
        "precision_recall": page_chart(precision_recall, x_label="recall", y_label="precision"),
        "roc": page_chart(roc, x_label="false positive rate", y_label="true positive rate (recall)"),
        "by_threshold": page_chart(by_threshold, x_label="threshold", y_label="precision, recall and F1", marks=marks),
    }


# ---- JSON


def report_values(report: PredictionReport) -> dict[str, Any]:
    """Return plain values for JSON: shares of 0 to 1, with every digit; what is undefined becomes None."""
    subject, labelled = report.subject, report.labelled
    classes = subject.classes
    values = {
        "schema_version": SCHEMA_VERSION,
        "model": subject.model,
        "weights": subject.weights,
        **subject.description.as_dict(),
        "view": subject.view,
        "files": len(subject.files),
        "labelled": labelled.images if labelled else 0,
        "unlabelled": report.unlabelled_images,
        "unread": len(report.unread),
        "unknown": subject.unknown or None,
        "summary": list(report.summary),
        "folder": report.folder,
        **(_labelled_values(labelled, classes) if labelled else {}),
        "confidence_without_label": [_confidence_values(group) for group in report.unlabelled],
        "positive": _positive_values(report.positive, report.positive_confidence, classes) if report.positive else None,
        "unread_files": [{"file": file, "reason": reason} for file, reason in report.unread],
        "provenance": report.provenance,
    }
    return {name: _plain(value) for name, value in values.items()}


def _labelled_values(labelled: Labelled, classes: Sequence[str]) -> dict[str, Any]:
    matrix = labelled.matrix
    pairs = zip(matrix.truth.tolist(), matrix.predicted.tolist(), matrix.images.tolist(), strict=True)
    return {
        "right": labelled.right,
        "accuracy": labelled.right / labelled.images,
        "accuracy_interval": labelled.interval,
        "macro": asdict(labelled.macro),
        "classes": [
            {
                "class": classes[row.label],
                "images": row.images,
                "predicted": row.predicted,
                "right": row.right,
                "precision": row.precision,
                "recall": row.recall,
                "f1": row.f1,
            }
            for row in labelled.classes
        ],
        "confusion": [
            {"truth": classes[truth], "predicted": classes[predicted], "images": images} for truth, predicted, images in pairs
        ],
        "calibration_error": labelled.calibration_error,
        "reliability": [asdict(row) for row in labelled.bins],
        "confidence": [_confidence_values(group) for group in labelled.confidence],
        "mistakes": [
            {"file": file, "truth": classes[truth], "predicted": classes[predicted], "confidence": share}
            for file, truth, predicted, share in labelled.mistakes
        ],
    }


def _confidence_values(group: Confidence) -> dict[str, Any]:
    return {"name": group.name, "images": group.images, "mean": group.mean, "counts": group.counts.tolist()}


def _positive_values(one: OneClass, groups: Sequence[Confidence], classes: Sequence[str]) -> dict[str, Any]:
    curves = one.curves
    return {
        "class": classes[one.label],
        "threshold": one.threshold,
        "decisions": [_decision_values(decision) for decision in one.decisions],
        "against_the_most_probable": asdict(one.trade),
        "probability": [_confidence_values(group) for group in groups],
        "average_precision": curves.average_precision if curves else None,
        "roc_area": curves.roc_area if curves else None,
        "thresholds": len(curves.threshold) if curves else 0,
        "curve": _curve_values(curves.thinned()) if curves else None,
    }


def _decision_values(decision: Decision) -> dict[str, Any]:
    rates = {name: getattr(decision, name) for name in ("precision", "recall", "f1", "accuracy")}
    return {**asdict(decision), **rates, "false_positive_rate": decision.fall_out}


def _curve_values(curves: Curves) -> dict[str, list[float]]:
    columns = {
        "threshold": curves.threshold,
        "tp": curves.tp,
        "fp": curves.fp,
        "precision": curves.precision,
        "recall": curves.recall,
        "false_positive_rate": curves.fall_out,
    }
    return {name: column.tolist() for name, column in columns.items()}


def _plain(value: Any) -> Any:
    """Return ``value`` with None for numbers that are undefined, at any depth, and every other number as it is."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not isfinite(value) else value
