"""The page of an audit: one offline file with the facts of every split, their distributions, the classes, and their meaning."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup

from jpegcurr.analysis.audit.report import AuditReport
from jpegcurr.analysis.audit.summary import Histogram
from jpegcurr.analysis.audit.text import (
    CLASS_COLUMNS,
    FIELD_COLUMNS,
    class_rows,
    fact_rows,
    field_rows,
    former_sides,
    sentences,
    trace_rows,
)
from jpegcurr.analysis.html.line_chart import Series, page_chart
from jpegcurr.analysis.html.page import source, template
from jpegcurr.files import write_text


def write_audit(report: AuditReport, path: str | Path) -> None:
    """Write the page to ``path``, whole or not at all, in place of what is there."""
    write_text(Path(path), render(report))


def render(report: AuditReport) -> str:
    """Return the page; the same for the same report."""
    page: str = template("jpegcurr.analysis", "audit.html.jinja").render(
        report=report,
        style=source("page.css"),
        sentences=sentences(report),
        facts=fact_rows(report),
        charts=_charts(report),
        predictions=[(prediction, field_rows(prediction)) for prediction in report.predictions],
        field_columns=FIELD_COLUMNS,
        traces=[(split.name, trace_rows(split.traces)) for split in report.splits if split.traces.detected],
        former=[
            (split.name, split.former, former_sides(split.former))
            for split in report.splits
            if split.former is not None and split.former.detected
        ],
        judged=sum(split.traces.judged for split in report.splits),
        encoders=[split for split in report.splits if split.encoders],
        classes=class_rows(report.classes),
        class_columns=CLASS_COLUMNS,
    )
    return page


def _charts(report: AuditReport) -> list[tuple[str, Markup]]:
    """Return the charts of distributions with their titles, of what varies."""
    charts = []
    for title, label, of_split in (
        ("JPEG quality", "quality, exact or nearest", lambda split: split.quality_histogram),
        ("Bits a pixel", "bits of the file for each pixel", lambda split: split.bits_histogram),
        ("Longer side", "pixels", lambda split: split.side_histogram),
    ):
        series = _series(report, of_split)
        if series:
            charts.append((title, page_chart(series, x_label=label, y_label="% of the files")))
    return charts


def _series(report: AuditReport, of_split: Callable[..., Histogram]) -> list[Series]:
    """Return a line of shares for every split; none if all files of all splits are in one bin."""
    histograms = [of_split(split) for split in report.splits]
    if len({place for places, counts in histograms for place, count in zip(places, counts, strict=True) if count}) < 2:
        return []
    return [
        Series(split.name, _shares(counts), x=list(places))
        for split, (places, counts) in zip(report.splits, histograms, strict=True)
        if sum(counts)
    ]


def _shares(counts: Sequence[int]) -> list[float]:
    total = np.sum(counts)
    return [float(100 * count / total) for count in counts]
