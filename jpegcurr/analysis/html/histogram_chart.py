"""Histograms of shares as SVG text, one below the other over one axis from 0 to 1, each on its own scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from jpegcurr.analysis.html.axes import number_axis, printable
from jpegcurr.analysis.html.line_chart import COLOURS
from jpegcurr.analysis.html.page import template

WIDTH = 520  # of the whole: a phone's text stays large enough to read
_LEFT, _ROW, _BAR, _HEAD = 12, 92, 58, 24


@dataclass(frozen=True, slots=True)
class Histogram:
    """One row: ``counts`` of values in bins of equal width from 0 to 1, their mean, and the number of the row's colour."""

    name: str
    counts: Sequence[int]
    mean: float
    series: int = 1

    @property
    def total(self) -> int:
        """The number of values."""
        return sum(self.counts)

    @property
    def words(self) -> str:
        """The row as text."""
        return f"{self.name}: {self.total:,}" + (f", mean {self.mean:.3f}" if self.total else "")


def histogram_chart(rows: Sequence[Histogram], *, x_label: str, mark: float | None = None) -> str:
    """Draw ``rows`` from top to bottom; ``mark`` is a vertical line. Insert the result into a page unescaped.

    The tallest bar of a row fills its height, so heights are compared within a row only; each row states its numbers.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no histograms to draw")
    axis = number_axis([0.0, 1.0], start=_LEFT, end=WIDTH - 16, about=5, ends_on_ticks=True)
    drawings = []
    for number, row in enumerate(rows):
        foot, most, bins = _ROW * number + _HEAD + _BAR, max(max(row.counts), 1), len(row.counts)
        bars = [
            (
                *map(axis.at, ends := (place / bins, (place + 1) / bins)),
                "{:.2f} to {:.2f}".format(*ends),
                count,
                _BAR * count / most,
            )
            for place, count in enumerate(row.counts)
            if count
        ]
        drawings.append({"row": row, "foot": foot, "bars": bars, "words": printable(row.words), "bins": bins})
    return template("jpegcurr.analysis", "histograms.svg.jinja").render(
        width=WIDTH,
        height=_ROW * len(rows) + 34,
        bottom=_ROW * len(rows) - _ROW + _HEAD + _BAR,
        head=_HEAD,
        bar=_BAR,
        axis=axis,
        colours=COLOURS,
        drawings=drawings,
        mark=mark,
        x_label=printable(x_label),
        description=" ".join(f"{drawing['words']}." for drawing in drawings),
    )
