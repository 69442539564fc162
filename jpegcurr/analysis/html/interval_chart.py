"""Interval charts as SVG text: rows of differences with intervals and single values, around the line of no difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

from jpegcurr.analysis.html.axes import number_axis, printable, text_width
from jpegcurr.analysis.html.page import template

WIDTH = 520  # of the whole: a phone's text stays large enough to read
_ROW, _TOP, _BESIDE = 36, 10, 12


@dataclass(frozen=True, slots=True)
class Difference:
    """A row of the chart. An interval with an end that is nan is not drawn.

    Attributes:
        value: the difference, a diamond.
        low, high: its interval, a line.
        bar_low, bar_high: a second interval, a bar.
        single: values with their names, small rings.
        form: the format of its numbers as text.
    """

    name: str
    value: float
    low: float = nan
    high: float = nan
    bar_low: float = nan
    bar_high: float = nan
    single: Sequence[tuple[str, float]] = ()
    form: str = "+.2f"

    @property
    def line(self) -> tuple[float, float] | None:
        """The interval drawn as a line, None if there is none."""
        return (self.low, self.high) if isfinite(self.low) and isfinite(self.high) else None

    @property
    def bar(self) -> tuple[float, float] | None:
        """The interval drawn as a bar, None if there is none."""
        return (self.bar_low, self.bar_high) if isfinite(self.bar_low) and isfinite(self.bar_high) else None

    @property
    def extent(self) -> list[float]:
        """All values that the axis has to hold."""
        return [self.value, *(self.line or ()), *(self.bar or ()), *(value for _, value in self.single)]

    @property
    def words(self) -> str:
        """The difference as text, such as ``+0.20 (-0.10 to +0.50)``."""
        value, low, high = (format(number, self.form) for number in (self.value, self.low, self.high))
        return f"{value} ({low} to {high})" if self.line else value


def interval_chart(rows: Sequence[Difference], *, x_label: str) -> str:
    """Draw ``rows`` from top to bottom over one axis that holds 0; insert the result into a page unescaped.

    It uses the page's font and text colour, and ``--series-1`` where the page sets it.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no differences to draw")
    names = [printable(row.name) for row in rows]
    start = 8 + max(map(text_width, names)) + _BESIDE
    bottom = _TOP + _ROW * len(rows)
    axis = number_axis(
        [0.0, *(value for row in rows for value in row.extent)], start=start, end=WIDTH - 20, about=6, ends_on_ticks=True
    )
    middles = [_TOP + _ROW * (number + 0.5) for number in range(len(rows))]
    return template("jpegcurr.analysis", "intervals.svg.jinja").render(
        width=WIDTH,
        height=bottom + 46,
        top=_TOP,
        bottom=bottom,
        axis=axis,
        rows=list(zip(names, middles, rows, strict=True)),
        x_label=printable(x_label),
        description=" ".join(f"{name}: {row.words}." for name, row in zip(names, rows, strict=True)),
    )
