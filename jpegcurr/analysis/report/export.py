"""Files beside the page: the report as JSON, with the raw maps of the examples, and as CSV by view, class and image."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.analysis.cam.results import CamView, ClassRow, ExamplePrediction, Map, ViewColumns
from jpegcurr.analysis.cam.similarity import METRICS, Comparison, MetricSummary
from jpegcurr.analysis.evaluation.jpeg_bytes import BYTES
from jpegcurr.analysis.report.model import ExampleRow, Report, RunRow, ViewRow
from jpegcurr.analysis.stats import Paired
from jpegcurr.files import csv_writer, json_values, staged
from jpegcurr.text import escape_json, sanitize

SCHEMA_VERSION = 3


def write_json_report(report: Report, path: Path) -> None:
    """Write the report to ``path``, indented, with a line for every class and every example."""
    lists = {
        "classes": [_class(row) for row in report.classes],
        "examples": [_example(row) for row in report.examples],
    }
    whole = escape_json(json.dumps(report_values(report), indent=2, ensure_ascii=False, allow_nan=False))
    with staged(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(whole.removesuffix("\n}"))
        for name, values in lists.items():
            lines = (escape_json(json.dumps(json_values(value), ensure_ascii=False, allow_nan=False)) for value in values)
            file.write(f",\n  {json.dumps(name)}: [")
            for number, line in enumerate(lines):
                file.write(f"{',' if number else ''}\n    {line}")
            file.write("\n  ]" if values else "]")
        file.write("\n}\n")


def report_values(report: Report) -> dict[str, Any]:
    """Return plain values of all but the classes and examples, for JSON; a number that is undefined becomes None."""
    study = report.study
    values = {
        "schema_version": SCHEMA_VERSION,
        "layer": study.layer,
        "grid": list(study.grid),
        "method": study.method,
        "explains": study.target_rule,
        "null_of": study.baseline_of,
        "seed": study.seed,
        "images": report.images,
        "found": study.available,
        "labelled": report.labelled,
        "source_converted": int(study.converted.sum()),
        "views": [_view(row) | _bytes(report, row.view) for row in report.views],
        "summary": list(report.summary),
        "verdict": list(report.verdict),
        "warnings": list(report.warnings),
        "class_verdict": report.class_verdict,
        "comparisons": [_comparison(comparison) for _, comparison in report.compared],
        "skipped": [{"file": sanitize(name), "reason": reason} for name, reason in study.skipped],
        "runs": [_run(row) for row in report.rows],
        "provenance": report.provenance,
    }
    return {name: json_values(value) for name, value in values.items()}


def _view(row: ViewRow) -> dict[str, Any]:
    return {
        "run": sanitize(row.view.run),
        "weights": row.view.weights,
        "quality": row.view.quality,
        "sha256": row.view.sha256,
        "right": row.right,
        "flips": row.flips,
        "dark": row.dark,
        "faithfulness": {name: mean.mean for name, mean in row.faithfulness.items()},
    }


def _bytes(report: Report, view: CamView) -> dict[str, Any]:
    """Return the bytes of a view's JPEGs by name; nothing where they were not counted."""
    jpegs = report.study.jpegs.get(view.quality)
    return jpegs.as_dict() if jpegs else {}


def _comparison(comparison: Comparison) -> dict[str, Any]:
    return {
        "figures": {name: _metric(metric) for name, metric in comparison.metrics.items()},
        "null_of": comparison.baseline_of,
        "flips": comparison.flips,
        "labelled": comparison.labelled,
        "right": comparison.right,
        "right_reference": comparison.right_reference,
        "lost": comparison.lost,
        "gained": comparison.gained,
        "difference": comparison.paired.difference if comparison.paired else None,
        "low": comparison.paired.low if comparison.paired else None,
        "high": comparison.paired.high if comparison.paired else None,
        "p_value": comparison.p_value,
        "detectable": comparison.detectable,
    }


def _metric(metric: MetricSummary) -> dict[str, Any]:
    return {"null" if key == "baseline" else key: value for key, value in asdict(metric).items()}


def _run(row: RunRow) -> dict[str, str]:
    return {"name": row.name, "run": sanitize(row.run), "weights": row.weights, "sha256": row.sha256}


def _class(row: ClassRow) -> dict[str, Any]:
    return {**asdict(row), "name": sanitize(row.name)}


def _example(row: ExampleRow) -> dict[str, Any]:
    return {
        "index": row.example.index,
        "name": row.name,
        "truth": None if row.truth is None else sanitize(row.truth),
        "rules": list(row.example.rules),
        "source_converted": row.converted,
        "seen": [_prediction(prediction) for prediction in row.example.predictions],
    }


def _prediction(prediction: ExamplePrediction) -> dict[str, Any]:
    top = [[sanitize(name), share] for name, share in prediction.top]
    return {"target": sanitize(prediction.target), "top": top, "logit": prediction.logit, "cam": _cells(prediction.cam)}


def _cells(cam: Map) -> list[list[float]]:
    """Return the cells as the shortest decimals that are the same float32."""
    return [[float(str(cell)) for cell in row] for row in cam]


_VIEW = ("run", "weights", "quality")
_SUFFIXES = ("", "_low", "_high", "_images", "_null", "_ceiling", "_flipped", "_unflipped")
_BLOCK = 1024  # images whose lines are made at a time


def write_views(report: Report, path: Path) -> None:
    """Write one row a view; a cell is empty where a number is undefined or there is no comparison."""
    scores = ("sha256", "images", "labelled", "right", "accuracy", "accuracy_low", "accuracy_high", "dark")
    paired = ("flips", "lost", "gained", "difference", "difference_low", "difference_high", "p_value", "detectable")
    metrics = [f"{name}{suffix}" for name in METRICS for suffix in _SUFFIXES]
    with csv_writer(path) as writer:
        writer.writerow([*_VIEW, *scores, *BYTES, *paired, *metrics, *report.faithfulness])
        for row in report.views:
            changes = _changes(row.comparison) if row.comparison else [""] * (len(paired) + len(metrics))
            means = [_text(row.faithfulness[name].mean) if name in row.faithfulness else "" for name in report.faithfulness]
            sizes = [_text(value) for value in _bytes(report, row.view).values()] or [""] * len(BYTES)
            writer.writerow([*_place(row.view), *_scores(report, row), *sizes, *changes, *means])


def write_classes(report: Report, path: Path) -> None:
    """Write one row a class and view."""
    with csv_writer(path) as writer:
        writer.writerow(["class", "images", *_VIEW, "right", "accuracy", "flips", "pearson"])
        for row in report.classes:
            for index, view in enumerate(report.views):
                accuracy = 100 * row.right[index] / row.images if row.images else nan
                counts = [row.right[index], _text(accuracy), row.flips[index], _text(row.pearson[index])]
                writer.writerow([row.name, row.images, *_place(view.view), *counts])


def write_images(report: Report, path: Path) -> None:
    """Write one row an image and view, the rows of an image together; classes by name."""
    study = report.study
    with csv_writer(path) as writer:
        answers = ("truth", "target", "predicted", "confidence", "logit")
        writer.writerow(["image", *_VIEW, *answers, *METRICS, *report.faithfulness])
        for start in range(0, len(study.names), _BLOCK):
            writer.writerows(_image_rows(report, slice(start, start + _BLOCK)))


def _image_rows(report: Report, block: slice) -> Iterator[list[Any]]:
    study = report.study
    places = [_place(view) for view in study.views]
    views = [list(zip(*_columns(report, columns, block), strict=True)) for columns in study.columns]
    truth = [study.classes[label] if label >= 0 else "" for label in study.truth[block].tolist()]
    for row, name in enumerate(study.names[block]):
        for place, cells in zip(places, views, strict=True):
            yield [name, *place, truth[row], *cells[row]]


def _columns(report: Report, columns: ViewColumns, block: slice) -> list[Sequence[str]]:
    """Return a list for each column of a view's rows."""
    classes = report.study.classes
    optional = [columns.faithfulness.get(name) for name in report.faithfulness]
    return [
        [classes[label] for label in columns.target[block].tolist()],
        [classes[label] for label in columns.predicted[block].tolist()],
        _texts(columns.confidence[block]),
        _texts(columns.logit[block]),
        *(_texts(columns.similarity[name][block]) for name in METRICS),
        *([""] * len(columns.logit[block]) if values is None else _texts(values[block]) for values in optional),
    ]


def _scores(report: Report, row: ViewRow) -> list[Any]:
    accuracy = row.accuracy
    percents = ["", "", ""] if accuracy is None else [_text(value) for value in (accuracy.percent, accuracy.low, accuracy.high)]
    return [row.view.sha256, report.images, report.labelled, "" if accuracy is None else row.right, *percents, row.dark]


def _changes(comparison: Comparison) -> list[Any]:
    cells: list[Any] = [comparison.flips, *(_paired(comparison.paired) if comparison.paired else [""] * 7)]
    for name in METRICS:
        metric = comparison.metrics[name]
        cells += [_text(metric.mean), _text(metric.low), _text(metric.high), metric.images]
        cells += [_text(part.mean) for part in (metric.baseline, metric.ceiling, metric.flipped, metric.unflipped)]
    return cells


def _place(view: CamView) -> list[str]:
    return [str(view.run), view.weights, view.quality]


def _paired(pair: Paired) -> list[Any]:
    numbers = (pair.difference, pair.low, pair.high, pair.p_value, pair.detectable)
    return [pair.lost, pair.gained, *map(_text, numbers)]


def _texts(values: np.ndarray) -> list[str]:
    return [_text(value) for value in values.tolist()]


def _text(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.7g}" if isfinite(value) else ""
