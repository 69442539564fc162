"""The report's page and the files beside it: tables and charts as HTML, the script and its data, and room for the pictures."""

import base64
from collections.abc import Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from jpegcurr.analysis.cam.faithfulness import FAITHFULNESS
from jpegcurr.analysis.cam.results import CamStudy, ClassRow, ExamplePrediction, Map
from jpegcurr.analysis.cam.similarity import METRICS
from jpegcurr.analysis.class_names import full_name, readable_name
from jpegcurr.analysis.html.line_chart import Series, page_chart
from jpegcurr.analysis.html.page import hash_script, source, template, to_script
from jpegcurr.analysis.report.export import write_classes, write_images, write_json_report, write_views
from jpegcurr.analysis.report.images import Picture, Pictures, distances, embed_pictures, without_pictures
from jpegcurr.analysis.report.model import ExampleRow, Report, build_report
from jpegcurr.analysis.report.text import CONVERTED
from jpegcurr.analysis.stats import precise_p
from jpegcurr.errors import UsageError
from jpegcurr.files import write_text
from jpegcurr.text import sanitize

LARGEST = 10_000_000  # bytes of a page that people still send to each other
MAP_ROOM = 1_500_000  # characters that the maps may take on a page
_SPARE = 100_000
_SCRIPTS = ("report_maps.js", "report.js")
_LEVELS = 65535


def report_files(path: Path) -> list[Path]:
    """Return the files that ``write_report`` writes: the page, its JSON, and tables of the views, classes and images.

    Raises UsageError for a ``path`` that does not end in ``.html``.
    """
    if path.suffix != ".html":
        raise UsageError(f"{path}: the report is a page; give it a name that ends in .html.")
    return [path, *(path.with_suffix(suffix) for suffix in (".json", ".views.csv", ".classes.csv", ".images.csv"))]


def write_report(study: CamStudy, path: str | Path) -> Report:
    """Write the page to ``path`` and the other ``report_files`` beside it, each whole or not at all, the page last.

    Files of these names are replaced. The same study gives the same bytes. Returns the report that the files render.

    Raises:
        UsageError: ``path`` does not end in ``.html``.
    """
    page, as_json, views, classes, images = report_files(Path(path))
    report = build_report(study)
    text = render(report)
    write_json_report(report, as_json)
    write_views(report, views)
    write_classes(report, classes)
    write_images(report, images)
    write_text(page, text)
    return report


def render(report: Report) -> str:
    """Return the page: offline, under 10 MB (the pictures take what the rest leaves), and the same for the same report."""
    content, examples = _content(report), report.study.examples
    bare = _page(report, content, without_pictures(examples, report.qualities))
    room = LARGEST - _SPARE - len(bare.encode("utf-8"))
    return _page(report, content, embed_pictures(examples, report.qualities, room))


def _page(report: Report, content: dict[str, Any], pictures: Pictures) -> str:
    script = Markup("\n").join(source(name) for name in _SCRIPTS)
    page: str = template("jpegcurr.analysis", "report.html.jinja").render(
        **content,
        report=report,
        pictures=pictures,
        largest=LARGEST // 1_000_000,
        style=source("page.css") + source("report.css"),
        script=script,
        script_hash=hash_script(script),
        data=Markup(to_script(page_data(report, pictures))),  # noqa: S704  # nothing in it ends the element
    )
    return page


# ---- the page as it is without its script


def _content(report: Report) -> dict[str, Any]:
    """Return the template's values other than the report's own fields."""
    return {
        "metrics": METRICS,
        "precise_p": precise_p,
        "runs": [(row.name, sanitize(row.run), row.weights, row.sha256) for row in report.rows],
        "charts": {"accuracy": _accuracy_chart(report), "bytes": _bytes_chart(report), "similarity": _similarity_chart(report)},
        "meanings": {metric.column: metric.meaning for metric in FAITHFULNESS.values()},
        "rows": [class_row(row) for row in report.classes],
        "examples": [_example(row) for row in report.examples],
        "pooling": map_pooling(report.study),
    }


def _accuracy_chart(report: Report) -> Markup:
    if not report.labelled or len(report.qualities) < 2:
        return Markup()
    series = []
    for row, views in zip(report.rows, report.matrix, strict=True):
        accuracies = [view.accuracy if view else None for view in views]
        y, low, high = ([getattr(at, part) if at else nan for at in accuracies] for part in ("percent", "low", "high"))
        series.append(Series(row.name, y, low, high))
    return _chart(report, series, "accuracy, %")


def _bytes_chart(report: Report) -> Markup:
    """Draw accuracy over the mean bytes of an image, if these were counted and there are at least two qualities.

    Intervals are in ``_accuracy_chart``: here they would be bands, of which several hide one another.
    """
    jpegs = report.study.jpegs
    if not report.labelled or len(report.qualities) < 2 or not all(quality in jpegs for quality in report.qualities):
        return Markup()
    order = sorted(range(len(report.qualities)), key=lambda column: jpegs[report.qualities[column]].mean)
    names = [report.qualities[column] for column in order]
    series = []
    for number, (row, views) in enumerate(zip(report.rows, report.matrix, strict=True)):
        y = [view.accuracy.percent if (view := views[column]) and view.accuracy else nan for column in order]
        labels = None if number else names  # other runs' points are above or below those of the first
        series.append(Series(row.name, y, x=[jpegs[name].mean / 1e3 for name in names], labels=labels))
    return page_chart(series, x_label="kB an image", y_label="accuracy, %")


def _similarity_chart(report: Report) -> Markup:
    """Draw the mean correlation with the first view's maps and its anchors, if at least two views are compared."""
    if len(report.compared) < 2 or len(report.qualities) < 2:
        return Markup()
    series = []
    for row, views in zip(report.rows, report.matrix, strict=True):
        means = [view.comparison.metrics["pearson"] if view and view.comparison else None for view in views]
        y, low, high = ([getattr(mean, part) if mean else nan for mean in means] for part in ("mean", "low", "high"))
        series.append(Series(row.name, y, low, high))
    for name, anchor in report.anchors.items():
        if isfinite(anchor["pearson"].mean):
            series.append(Series(name, [anchor["pearson"].mean] * len(report.qualities)))
    return _chart(report, series, "Pearson correlation of the maps")


def _chart(report: Report, series: Sequence[Series], y_label: str) -> Markup:
    return page_chart(series, ticks=report.qualities, x_label="JPEG quality", y_label=y_label)


def _example(row: ExampleRow) -> dict[str, Any]:
    """Return an image as the page shows it without the script, in the first view."""
    first = row.example.predictions[0]
    return {
        "name": row.name,
        "truth": None if row.truth is None else sanitize(readable_name(row.truth)),
        "target": sanitize(readable_name(first.target)),
        "reasons": row.reasons,
        "top": [(sanitize(readable_name(name)), sanitize(full_name(name)), f"{100 * share:.1f}") for name, share in first.top],
        "logit": f"{first.logit:+.2f}" if isfinite(first.logit) else "undefined",
        "size": next(iter(row.example.pictures.values())).shape[0],
    }


# ---- the data of the script


def page_data(report: Report, pictures: Pictures) -> dict[str, Any]:
    """Return everything that the script draws and sorts; classes are numbers in its ``classes``."""
    names = _Numbered()
    pooling = map_pooling(report.study)
    examples = [
        _example_data(row, picture, report.qualities, pooling, names)
        for row, picture in zip(report.examples, pictures.pictures, strict=True)
    ]
    return {
        "views": [view.name for view in report.views],
        "runs": [
            {"name": row.name, "views": [row.views.get(quality, -1) for quality in report.qualities]} for row in report.rows
        ],
        "qualities": list(report.qualities),
        "opening": report.opening,
        "converted": CONVERTED,
        "grid": [-(-side // pooling) for side in report.study.grid],
        "own": report.study.target_rule == "own",
        "classes": list(names),
        "examples": examples,
        "rows": [class_row(row) for row in report.classes],
    }


def class_row(row: ClassRow) -> dict[str, Any]:
    """Return one class as the script and the template take it."""
    return {
        "name": sanitize(full_name(row.name)),
        "images": row.images,
        "right": list(row.right),
        "flips": list(row.flips),
        "pearson": [round(value, 4) if isfinite(value) else None for value in row.pearson],
    }


def map_pooling(study: CamStudy) -> int:
    """Return how many cells a side are averaged on the page: 1, or more where all maps would take more than ``MAP_ROOM``."""
    rows, columns = study.grid
    maps = len(study.examples) * len(study.views)
    factor = 1
    while maps * -(-rows // factor) * -(-columns // factor) * 8 / 3 > MAP_ROOM and factor < max(rows, columns):
        factor += 1
    return factor


def pooled(cam: Map, factor: int) -> Map:
    """Average blocks of ``factor`` cells a side, [h w] -> [h/factor w/factor], rounded up: the last may be smaller."""
    if factor == 1:
        return cam
    places = [np.arange(0, side, factor) for side in cam.shape]
    sums = np.add.reduceat(np.add.reduceat(cam, places[0], axis=0), places[1], axis=1)
    sizes = [np.diff(np.append(start, side)) for start, side in zip(places, cam.shape, strict=True)]
    means: Map = (sums / np.outer(*sizes)).astype(np.float32)
    return means


class _Numbered(dict[str, int]):
    """Names, numbered in the order in which they were first asked for."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def _example_data(
    row: ExampleRow, picture: Picture, qualities: Sequence[str], pooling: int, names: _Numbered
) -> dict[str, Any]:
    return {
        "name": row.name,
        "truth": -1 if row.truth is None else names[sanitize(full_name(row.truth))],
        "rules": list(row.example.rules),
        "converted": row.converted,
        "changes": [[difference.strength, difference.webp] for difference in picture.differences],
        "rms": [[round(value, 3) for value in values] for values in distances(row.example, qualities)],
        "predictions": [_prediction_data(prediction, pooling, names) for prediction in row.example.predictions],
    }


def _prediction_data(prediction: ExamplePrediction, pooling: int, names: _Numbered) -> dict[str, Any]:
    return {
        "top": [[names[sanitize(full_name(name))], round(share, 5)] for name, share in prediction.top],
        "target": names[sanitize(full_name(prediction.target))],
        "logit": round(prediction.logit, 4) if isfinite(prediction.logit) else None,
        **_packed(pooled(prediction.cam, pooling)),
    }


def _packed(cam: Map) -> dict[str, Any]:
    """Return a map's peak, and its cells as 16-bit levels of the peak, base64: exact to a hundred-thousandth of the peak."""
    peak = float(f"{float(cam.max()):.7g}")
    if not (isfinite(peak) and peak > 0):  # the script draws it as zero everywhere
        cam, peak = np.zeros_like(cam), 0.0
    levels = np.clip(np.rint(cam.astype(np.float64) / (peak or 1.0) * _LEVELS), 0, _LEVELS)
    return {"peak": peak, "cam": base64.b64encode(levels.astype("<u2").tobytes()).decode("ascii")}
