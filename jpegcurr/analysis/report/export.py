"""All that the page says as one JSON file, raw maps of the examples included."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.analysis.cam.results import FIGURES, CamStudy, ClassRow, Example, ExamplePrediction, Map, ViewColumns
from jpegcurr.analysis.cam.similarity import Comparison
from jpegcurr.analysis.report.text import provenance, runs_told, summary, verdict
from jpegcurr.analysis.stats import accuracy_interval, mean_known
from jpegcurr.files import csv_writer, json_values, staged
from jpegcurr.text import sanitize

SCHEMA_VERSION = 3


def write_figures(study: CamStudy, comparisons: Sequence[Comparison], rows: Sequence[ClassRow], path: Path) -> None:
    """Write the figures to ``path``, indented, but for a class or an example, which is a line each."""
    lists = {
        "classes": [_class(row) for row in rows],
        "examples": [_example(study, example) for example in study.examples],
    }
    whole = json.dumps(json_values(_summary(study, comparisons)), indent=2, ensure_ascii=False, allow_nan=False)
    with staged(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(whole.removesuffix("\n}"))
        for name, values in lists.items():
            lines = (json.dumps(json_values(value), ensure_ascii=False, allow_nan=False) for value in values)
            file.write(f",\n  {json.dumps(name)}: [")
            for number, line in enumerate(lines):
                file.write(f"{',' if number else ''}\n    {line}")
            file.write("\n  ]" if values else "]")
        file.write("\n}\n")


def _summary(study: CamStudy, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """``views`` are told with how many images are labelled, right and flipped in them; what is undefined is null."""
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": study.layer,
        "grid": list(study.grid),
        "method": study.method,
        "explains": study.explains,
        "null_of": study.null_of,
        "seed": study.seed,
        "images": len(study.names),
        "found": study.found,
        "labelled": int((study.truth >= 0).sum()),
        "views": [_view(study, index) for index in range(len(study.views))],
        "summary": summary(study, comparisons),
        "verdict": verdict(study, comparisons),
        "comparisons": [asdict(each) for each in comparisons],
        "skipped": [{"file": sanitize(name), "reason": reason} for name, reason in study.skipped],
        "runs": [dict(zip(("name", "run", "weights", "sha256"), told, strict=True)) for told in runs_told(study)],
        "provenance": provenance(study),
    }


def _view(study: CamStudy, index: int) -> dict[str, Any]:
    view, columns = study.views[index], study.columns[index]
    return {
        "run": sanitize(view.run),
        "weights": view.weights,
        "quality": view.quality,
        "sha256": view.sha256,
        "right": int(study.right(index).sum()),
        "flips": int(study.flipped(index).sum()),
        "dark": int(columns.dark.sum()),
        "faithfulness": {name: mean_known(values) for name, values in columns.faithfulness.items()},
    }


def _class(row: ClassRow) -> dict[str, Any]:
    return {**asdict(row), "name": sanitize(row.name)}


def _example(study: CamStudy, example: Example) -> dict[str, Any]:
    truth = int(study.truth[example.index])
    return {
        "index": example.index,
        "name": sanitize(study.names[example.index]),
        "truth": sanitize(study.classes[truth]) if truth >= 0 else None,
        "rules": list(example.rules),
        "seen": [_seen(seen) for seen in example.seen],
    }


def _seen(seen: ExamplePrediction) -> dict[str, Any]:
    top = [[sanitize(name), share] for name, share in seen.top]
    return {"target": sanitize(seen.target), "top": top, "logit": seen.logit, "cam": _numbers(seen.cam)}


def _numbers(cam: Map) -> list[list[float]]:
    """The shortest decimals that are the same float32."""
    return [[float(str(cell)) for cell in row] for row in cam]


_VIEW = ("run", "weights", "quality")
_ESTIMATES = ("", "_low", "_high", "_images", "_null", "_ceiling", "_flipped", "_unflipped")
_BLOCK = 1024  # images that are made into lines at a time


def write_views(study: CamStudy, comparisons: Sequence[Comparison], path: Path) -> None:
    """One row a view; what is undefined, or not compared, is empty."""
    faithful = _faithfulness(study)
    scores = ("sha256", "images", "labelled", "right", "accuracy", "accuracy_low", "accuracy_high", "dark")
    paired = ("flips", "lost", "gained", "p_value", "detectable")
    with csv_writer(path) as writer:
        figures = [f"{name}{suffix}" for name in FIGURES for suffix in _ESTIMATES]
        writer.writerow([*_VIEW, *scores, *paired, *figures, *faithful])
        for index, compared in enumerate((None, *comparisons)):
            changes = _compared(compared) if compared else [""] * (len(paired) + len(figures))
            columns = study.columns[index].faithfulness
            means = [_text(mean_known(columns[name])) if name in columns else "" for name in faithful]
            writer.writerow([*_place(study, index), *_scores(study, index), *changes, *means])


def write_classes(study: CamStudy, rows: Sequence[ClassRow], path: Path) -> None:
    """One row a class and view."""
    with csv_writer(path) as writer:
        writer.writerow(["class", "images", *_VIEW, "right", "accuracy", "flips", "pearson"])
        for row in rows:
            for index in range(len(study.views)):
                accuracy = 100 * row.right[index] / row.images if row.images else float("nan")
                counts = [row.right[index], _text(accuracy), row.flips[index], _text(row.pearson[index])]
                writer.writerow([row.name, row.images, *_place(study, index), *counts])


def write_images(study: CamStudy, path: Path) -> None:
    """One row an image and view, those of an image together; classes by name."""
    faithful = _faithfulness(study)
    with csv_writer(path) as writer:
        what = ("truth", "target", "predicted", "confidence", "logit")
        writer.writerow(["image", *_VIEW, *what, *FIGURES, *faithful])
        for start in range(0, len(study.names), _BLOCK):
            writer.writerows(_image_rows(study, slice(start, start + _BLOCK), faithful))


def _image_rows(study: CamStudy, block: slice, faithful: Sequence[str]) -> Iterator[list[Any]]:
    places = [_place(study, index) for index in range(len(study.views))]
    views = [list(zip(*_cells(study, columns, block, faithful), strict=True)) for columns in study.columns]
    truth = [study.classes[label] if label >= 0 else "" for label in study.truth[block].tolist()]
    for row, name in enumerate(study.names[block]):
        for place, cells in zip(places, views, strict=True):
            yield [name, *place, truth[row], *cells[row]]


def _cells(study: CamStudy, columns: ViewColumns, block: slice, faithful: Sequence[str]) -> list[list[str]]:
    """A list for each column of a view's rows."""
    figures = columns.figures[block]
    nothing = [""] * len(figures)
    return [
        [study.classes[label] for label in columns.target[block].tolist()],
        [study.classes[label] for label in columns.predicted[block].tolist()],
        _texts(columns.confidence[block]),
        _texts(columns.logit[block]),
        *(_texts(figures[:, column]) for column in range(len(FIGURES))),
        *(_texts(columns.faithfulness[name][block]) if name in columns.faithfulness else nothing for name in faithful),
    ]


def _scores(study: CamStudy, index: int) -> list[Any]:
    labelled, right = int((study.truth >= 0).sum()), int(study.right(index).sum())
    interval = accuracy_interval(right, labelled) if labelled else (float("nan"), float("nan"))
    accuracy = 100 * right / labelled if labelled else float("nan")
    counts = [len(study.names), labelled, right if labelled else "", *map(_text, (accuracy, *interval))]
    return [study.views[index].sha256, *counts, int(study.columns[index].dark.sum())]


def _compared(compared: Comparison) -> list[Any]:
    paired = [compared.lost, compared.gained, _text(compared.p_value), _text(compared.detectable)]
    cells: list[Any] = [compared.flips, *(paired if compared.labelled else [""] * 4)]
    for name in FIGURES:
        each = compared.figures[name]
        cells += [_text(each.mean), _text(each.low), _text(each.high), each.images]
        cells += [_text(part.mean) for part in (each.null, each.ceiling, each.flipped, each.unflipped)]
    return cells


def _place(study: CamStudy, index: int) -> list[str]:
    view = study.views[index]
    return [str(view.run), view.weights, view.quality]


def _faithfulness(study: CamStudy) -> list[str]:
    """The name of every such column."""
    return list(dict.fromkeys(name for columns in study.columns for name in columns.faithfulness))


def _texts(values: np.ndarray) -> list[str]:
    return [_text(value) for value in values.tolist()]


def _text(value: float) -> str:
    return f"{value:.7g}" if isfinite(value) else ""
