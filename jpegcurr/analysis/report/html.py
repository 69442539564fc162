"""The page itself: what stands in it without a script, the script and its data, and room for the pictures."""

import base64
import hashlib
from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from jpegcurr.analysis.cam.results import CamStudy, ClassRow, Example
from jpegcurr.analysis.cam.similarity import Comparison, by_class, compare_views
from jpegcurr.analysis.class_names import full_name, readable_name
from jpegcurr.analysis.html.line_chart import Series, line_chart
from jpegcurr.analysis.html.page import drawn, source, template
from jpegcurr.analysis.report.data import class_row, map_pooling, page_data, to_script
from jpegcurr.analysis.report.export import write_classes, write_figures, write_images, write_views
from jpegcurr.analysis.report.images import Pictures, embed_pictures, without_pictures
from jpegcurr.analysis.report.text import FAITHFUL, NULLS, provenance, runs_told, summary, verdict, warnings
from jpegcurr.analysis.report.views import arms, opening_view, qualities, view_names
from jpegcurr.analysis.stats import MeanCI, accuracy_interval, estimate_means
from jpegcurr.files import write_text
from jpegcurr.text import sanitize

LARGEST = 10_000_000  # bytes of a page: what people still send to each other
_SPARE = 100_000
_SCRIPTS = ("report_maps.js", "report.js")


def render(study: CamStudy, comparisons: Sequence[Comparison], rows: Sequence[ClassRow]) -> str:
    """The page: offline, under 10 MB (the pictures take what the rest leaves), and the same for the same study."""
    static = _static(study, comparisons, rows)
    bare = _page(study, rows, static, without_pictures(study.examples, qualities(study)))
    room = LARGEST - _SPARE - len(bare.encode("utf-8"))
    return _page(study, rows, static, embed_pictures(study.examples, qualities(study), room))


def _page(study: CamStudy, rows: Sequence[ClassRow], static: dict[str, Any], pictures: Pictures) -> str:
    script = Markup("\n").join(source(name) for name in _SCRIPTS)
    page: str = template("jpegcurr.analysis", "report.html.jinja").render(
        **static,
        pictures=pictures,
        largest=LARGEST // 1_000_000,
        style=source("page.css") + source("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii"),
        data=Markup(to_script(page_data(study, rows, pictures))),  # noqa: S704  # nothing in it ends the element
    )
    return page


def _static(study: CamStudy, comparisons: Sequence[Comparison], rows: Sequence[ClassRow]) -> dict[str, Any]:
    """What the template shows by itself."""
    names = [sanitize(name) for name in view_names(study)]
    return {
        "study": study,
        "names": names,
        "runs": runs_told(study),
        "summary": [sanitize(sentence) for sentence in summary(study, comparisons)],
        "verdict": [sanitize(sentence) for sentence in verdict(study, comparisons)],
        "opening": opening_view(study),
        "warnings": warnings(study),
        "provenance": provenance(study),
        "qualities": qualities(study),
        "matrix": _matrix(study),
        "charts": {"accuracy": _accuracy_chart(study), "similarity": _similarity_chart(study, comparisons)},
        "comparisons": list(zip(names[1:], comparisons, strict=True)),
        "anchors": _anchors(comparisons),
        "faithfulness": _faithfulness(study, names),
        "faithful": FAITHFUL,
        "rows": [class_row(row) for row in rows],
        "examples": [_example(study, example) for example in study.examples],
        "pooling": map_pooling(study),
    }


def _matrix(study: CamStudy) -> list[dict[str, Any]]:
    """Accuracy, percent, with its interval, of every arm at every quality; nothing without labels."""
    labelled = int((study.truth >= 0).sum())
    if not labelled:
        return []
    found = []
    for arm in arms(study):
        cells: list[tuple[float, float, float, int] | None] = []
        for quality in qualities(study):
            view = arm.views.get(quality)
            right = int(study.right(view).sum()) if view is not None else 0
            cells.append(None if view is None else (100 * right / labelled, *accuracy_interval(right, labelled), right))
        found.append({"name": sanitize(arm.name), "cells": cells, "labelled": labelled})
    return found


def _accuracy_chart(study: CamStudy) -> Markup:
    matrix = _matrix(study)
    if not matrix or len(qualities(study)) < 2:
        return Markup()
    series = []
    for row in matrix:
        cells = [cell or (nan, nan, nan, 0) for cell in row["cells"]]
        series.append(Series(row["name"], *([cell[part] for cell in cells] for part in range(3))))
    return _chart(series, study, "accuracy, %")


def _similarity_chart(study: CamStudy, comparisons: Sequence[Comparison]) -> Markup:
    """The mean correlation with the first view's maps, between its anchors; where two views or more are compared."""
    if len(comparisons) < 2 or len(qualities(study)) < 2:
        return Markup()
    figures = [None, *(each.figures["pearson"] for each in comparisons)]
    series = []
    for arm in arms(study):
        places = [figures[arm.views[quality]] if quality in arm.views else None for quality in qualities(study)]
        parts = [[getattr(each, part) if each else nan for each in places] for part in ("mean", "low", "high")]
        series.append(Series(sanitize(arm.name), *parts))
    for name, anchor in _anchors(comparisons).items():
        if isfinite(anchor["pearson"].mean):
            series.append(Series(name, [anchor["pearson"].mean] * len(qualities(study))))
    return _chart(series, study, "Pearson correlation of the maps")


def _chart(series: Sequence[Series], study: CamStudy, y_label: str) -> Markup:
    return drawn(line_chart(series, ticks=qualities(study), x_label="JPEG quality", y_label=y_label))


def _anchors(comparisons: Sequence[Comparison]) -> dict[str, dict[str, MeanCI]]:
    """The rows that figures are read against: what hardly any change gives, and what maps of two images give."""
    if not comparisons:
        return {}
    figures, null = comparisons[0].figures, NULLS.get(comparisons[0].null_of)
    found = {"the same images at quality 95": {name: each.ceiling for name, each in figures.items()}}
    found |= {null: {name: each.null for name, each in figures.items()}} if null else {}
    return {name: row for name, row in found.items() if any(each.images for each in row.values())}


def _faithfulness(study: CamStudy, names: Sequence[str]) -> dict[str, dict[str, MeanCI]]:
    """Of every such figure its mean by view, where the view has it."""
    found: dict[str, dict[str, MeanCI]] = {}
    for name, columns in zip(names, study.columns, strict=True):
        for figure, values in columns.faithfulness.items():
            (found.setdefault(figure, {})[name],) = estimate_means(values[:, None].astype(np.float64))
    return found


def _example(study: CamStudy, example: Example) -> dict[str, Any]:
    """What is shown of an image without the script: as the first view sees it."""
    seen, truth = example.seen[0], int(study.truth[example.index])
    return {
        "name": sanitize(study.names[example.index]),
        "truth": sanitize(readable_name(study.classes[truth])) if truth >= 0 else None,
        "target": sanitize(readable_name(seen.target)),
        "rules": example.rules,
        "top": [(sanitize(readable_name(name)), sanitize(full_name(name)), f"{100 * share:.1f}") for name, share in seen.top],
        "logit": f"{seen.logit:+.2f}" if isfinite(seen.logit) else "undefined",
        "size": next(iter(example.pictures.values())).shape[0],
    }


__all__ = ["report_files", "summary", "write_report"]


def report_files(path: Path) -> list[Path]:
    """The files that ``write_report`` writes: the page, its figures, and tables of the views, the classes and the images."""
    return [path, *(path.with_suffix(suffix) for suffix in (".json", ".views.csv", ".classes.csv", ".images.csv"))]


def write_report(study: CamStudy, path: Path) -> list[Comparison]:
    """Write the page to ``path`` and its figures beside it (``report_files``), each whole or not at all; the page last.

    The same study gives the same bytes. Returns the comparisons of every view but the first with the first.
    """
    comparisons, rows = compare_views(study), by_class(study)
    page, figures, views, classes, images = report_files(path)
    text = render(study, comparisons, rows)
    write_figures(study, comparisons, rows, figures)
    write_views(study, comparisons, views)
    write_classes(study, rows, classes)
    write_images(study, images)
    write_text(page, text)
    return comparisons
