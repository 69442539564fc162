"""A chart of differences as SVG text: a row each, with intervals and single values, about the line of no difference."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan

from jpegcurr.analysis.html.axes import number_axis, printable, text_width
from jpegcurr.analysis.html.page import template

WIDTH = 520  # of the whole: a phone's text stays large enough to read
_ROW, _TOP, _BESIDE = 36, 10, 12


@dataclass(frozen=True, slots=True)
class Difference:
    """A row: ``value`` with the interval ``low`` to ``high``, a line, and ``bar_low`` to ``bar_high``, a bar; nan: not drawn.

    ``single`` are values with their names, which are small rings.
    """

    name: str
    value: float
    low: float = nan
    high: float = nan
    bar_low: float = nan
    bar_high: float = nan
    single: Sequence[tuple[str, float]] = ()

    @property
    def line(self) -> tuple[float, float] | None:
        """The interval, if there is one."""
        return (self.low, self.high) if isfinite(self.low) and isfinite(self.high) else None

    @property
    def bar(self) -> tuple[float, float] | None:
        """The other one, if there is one."""
        return (self.bar_low, self.bar_high) if isfinite(self.bar_low) and isfinite(self.bar_high) else None

    @property
    def extent(self) -> list[float]:
        """All that has to be on the axis."""
        return [self.value, *(self.line or ()), *(self.bar or ()), *(value for _, value in self.single)]

    @property
    def words(self) -> str:
        """``+0.20 (-0.10 to +0.50)``."""
        return f"{self.value:+.2f}" + (f" ({self.low:+.2f} to {self.high:+.2f})" if self.line else "")


def interval_chart(rows: Sequence[Difference], *, x_label: str) -> str:
    """Draw ``rows`` from top to bottom over one axis that holds 0; for a page, into which it has to be put unescaped.

    It takes the page's font and text colour, and ``--series-1`` where the page sets it.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("no differences to draw")
    names = [printable(each.name) for each in rows]
    start = 8 + max(map(text_width, names)) + _BESIDE
    bottom = _TOP + _ROW * len(rows)
    axis = number_axis(
        [0.0, *(value for each in rows for value in each.extent)], start=start, end=WIDTH - 20, about=6, ends_on_ticks=True
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
        description=" ".join(f"{name}: {each.words}." for name, each in zip(names, rows, strict=True)),
    )
