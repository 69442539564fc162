"""The report: one HTML page that works offline, and beside it all its figures for machines."""

from pathlib import Path

from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.report.export import write_figures
from jpegcurr.analysis.report.html import render
from jpegcurr.analysis.report.summary import summary
from jpegcurr.analysis.report.tables import write_classes, write_images, write_views
from jpegcurr.analysis.cam.similarity import Comparison, by_class, compare_views
from jpegcurr.files import write_text

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
