"""Line charts as SVG text, for a page or as a file: no script, real text, the same bytes for the same numbers."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, nan
from typing import Any

from jpegcurr.analysis.html.axes import Axis, category_axis, number_axis, printable, text_width
from jpegcurr.analysis.html.page import template

# Okabe and Ito's colours, those with the best contrast on white first. Their black is the text's colour, so that it is seen on
# dark pages too, and a grey stands for their yellow, which is not seen on white. Lines differ in marker and dash as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "currentColor", "#e69f00", "#56b4e9", "#808080")
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
MARKERS = (
    "M-3.8 0a3.8 3.8 0 1 0 7.6 0a3.8 3.8 0 1 0-7.6 0z",
    "M-3.5-3.5h7v7h-7z",
    "M0-4.6L4.4 3.4h-8.8z",
    "M0-5L5 0 0 5-5 0z",
    "M0 4.6L4.4-3.4h-8.8z",
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "M-4-4h8l-8 8h8z",
    "M-4.8-2h9.6v4h-9.6z",
)
WIDTH, HEIGHT = 760, 300  # of the whole, and of the plot at least
MOST_MARKERS = 15  # on a line over numbers
DESCRIBED = 12  # points of a line that are put in words
_ROW, _SAMPLE, _BESIDE = 17, 26, 7.0

Point = tuple[float, float]
Mark = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Series:
    """A line: ``y`` at ``x`` (None: 0, 1, 2, ...), with the ends of intervals; what is nan in ``y`` is a gap in the line.

    Raises:
        ValueError: the columns are not of one length, or one end of the intervals is missing.
    """

    name: str
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    x: Sequence[float] | None = None

    def __post_init__(self) -> None:
        columns = [column for column in (self.low, self.high, self.x) if column is not None]
        if any(len(column) != len(self.y) for column in columns) or (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.name!r}: y, low, high and x are not of one length, or low or high is missing")


@dataclass(frozen=True, slots=True)
class _Datum:
    x: float
    y: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return isfinite(self.x) and isfinite(self.y)

    @property
    def between(self) -> bool:
        return isfinite(self.low) and isfinite(self.high)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where things are; ``marks`` are (x, row, whether its text is left of it, text)."""

    across: Axis
    down: Axis
    marks: tuple[tuple[float, int, bool, str], ...]
    under: float  # the labels of the ticks below

    @property
    def tilted(self) -> bool:
        return self.under > 22


def line_chart(
    series: Sequence[Series],
    *,
    ticks: Sequence[str] | None = None,
    x_label: str = "",
    y_label: str = "",
    title: str = "",
    marks: Sequence[Mark] = (),
    standalone: bool = False,
) -> str:
    """Draw ``series`` over the categories ``ticks`` (x is a position among them, from 0) or, without ticks, over numbers.

    Intervals are error bars over categories, where lines stand a little beside each other, and bands over numbers. ``marks``
    are vertical lines at x, each with a label. What is drawn scales with the space it gets. A chart for a page takes the
    page's font and text colour, and its lines' colours from ``--series-1`` to ``--series-8`` where the page sets them; it
    has to be put in unescaped. ``standalone`` is a file: with a background, light or dark as the reader's system is.

    Raises:
        ValueError: a line or a mark has an x outside of the categories.
    """
    data = [_data(each) for each in series]
    places = [each.x for rows in data for each in rows if each.known] + [x for x, _ in marks]
    if ticks is not None and any(not 0 <= x <= len(ticks) - 1 for x in places):
        raise ValueError(f"a line or a mark has an x that is none of the {len(ticks)} categories, 0 to {len(ticks) - 1}")
    names = [_wrap(each.name, rows) for each, rows in zip(series, data, strict=True)]
    heights = [_ROW * len(rows) + 4 for rows in names]
    frame = _frame(data, places, ticks, marks, names, top=(32 if title else 10) + (20 if y_label else 0))
    lines = [_line(number, rows, frame, ticks, len(data)) for number, rows in enumerate(data)]
    middles = _spread([line["ends"] for line in lines], heights, frame.down.end, frame.down.start)
    for line, rows, middle, each in zip(lines, names, middles, series, strict=True):
        line |= {"rows": rows, "middle": middle, "name": printable(each.name)}
    return template("jpegcurr.analysis", "chart.svg.jinja").render(
        title=printable(title),
        rows_of_marks=1 + max((mark[1] for mark in frame.marks), default=0),
        description=printable(_describe(series, data, ticks, x_label, y_label)),
        x_label=printable(x_label),
        y_label=printable(y_label),
        width=WIDTH,
        height=frame.down.start + frame.under + (24 if x_label else 6),
        frame=frame,
        lines=lines,
        row=_ROW,
        standalone=standalone,
    )


def _data(series: Series) -> list[_Datum]:
    unknown = [nan] * len(series.y)
    places = range(len(series.y)) if series.x is None else series.x
    low, high = (unknown if column is None else column for column in (series.low, series.high))
    return [_Datum(*map(float, row)) for row in zip(places, series.y, low, high, strict=True)]


def _wrap(name: str, rows: list[_Datum]) -> list[str]:
    """At most three rows; what is longer ends in dots (and is whole in the name's title)."""
    name = printable(name) if not name or any(each.known for each in rows) else f"{printable(name)}: no data"
    across = 28 if text_width(name) <= 0.7 * 13 * len(name) else 16
    return textwrap.wrap(name, across, max_lines=3, placeholder=" ...")


def _frame(
    data: list[list[_Datum]],
    places: list[float],
    ticks: Sequence[str] | None,
    marks: Sequence[Mark],
    names: list[list[str]],
    top: float,
) -> _Frame:
    """Lay everything out: the lines' names to the right of the plot, the marks' above it."""
    keys = max((text_width(row) for rows in names for row in rows), default=0)
    right = WIDTH - (keys + _SAMPLE + 30 if keys else 20)
    values = [value for rows in data for each in rows if each.known for value in _extent(each)]
    left = 14 + max(text_width(label) for _, label in number_axis(values, start=1, end=0, about=6, ends_on_ticks=True).ticks)
    if ticks is None:
        across, under = number_axis(places, start=left, end=right, about=8, ends_on_ticks=False), 22.0
    else:
        across, under = category_axis([printable(each) for each in ticks], start=left, end=right)
    placed, rows_of_marks = _place_marks(marks, across)
    top += _ROW * rows_of_marks
    bottom = top + max(HEIGHT, sum(_ROW * len(rows) + 4 for rows in names))
    return _Frame(across, number_axis(values, start=bottom, end=top, about=6, ends_on_ticks=True), placed, under)


def _extent(each: _Datum) -> tuple[float, ...]:
    return (each.y, each.low, each.high) if each.between else (each.y,)


def _place_marks(marks: Sequence[Mark], across: Axis) -> tuple[tuple[tuple[float, int, bool, str], ...], int]:
    """Each in the first row where its text meets no other, from the top: no line then goes through a text to its left."""
    ends: list[float] = []
    placed = []
    for value, text in sorted(marks, key=lambda mark: mark[0]):
        x, wide = across.at(value), text_width(text) + 10
        leftwards = x + wide > WIDTH and x - wide > 0
        start, end = (x - wide, x) if leftwards else (x, x + wide)
        row = next((number for number, taken in enumerate(ends) if taken <= start), len(ends))
        ends[row : row + 1] = [end]
        placed.append((x, row, leftwards, printable(text)))
    return tuple(placed), len(ends)


def _line(number: int, rows: list[_Datum], frame: _Frame, ticks: Sequence[str] | None, lines: int) -> dict[str, Any]:
    """What the template draws of one line."""
    apart = any(each.between for each in rows) and ticks is not None
    room = (frame.across.end - frame.across.start) / max(1, len(ticks or ()))
    beside = (number - (lines - 1) / 2) * min(_BESIDE, 0.5 * room / lines) if apart else 0.0

    def at(x: float, y: float) -> Point:
        return frame.across.at(x) + beside, frame.down.at(y)

    runs = [list(run) for known, run in groupby(rows, key=lambda each: each.known) if known]
    known = [each for run in runs for each in run]
    bands = [list(run) for between, run in groupby(known, key=lambda each: each.between) if between and ticks is None]
    bands = [run for run in bands if len(run) > 1]
    banded = {id(each) for run in bands for each in run}
    every = 1 if ticks is not None else -(-len(known) // MOST_MARKERS)
    shown = [each for run in runs for place, each in enumerate(run) if place % every == 0 or each is run[-1]]
    return {
        "colour": COLOURS[number % len(COLOURS)],
        "variable": f"--series-{number % len(COLOURS) + 1}",
        "dash": DASHES[(number + number // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "runs": [[at(each.x, each.y) for each in run] for run in runs if len(run) > 1],
        "bands": [[at(e.x, e.high) for e in run] + [at(e.x, e.low) for e in reversed(run)] for run in bands],
        "bars": [(at(e.x, e.low), at(e.x, e.high)) for e in known if e.between and id(e) not in banded],
        "points": [(at(each.x, each.y), _say(each, ticks)) for each in shown],
        "ends": at(known[-1].x, known[-1].y)[1] if known else frame.down.start,
        "to_the_end": ticks is None and bool(known) and frame.across.at(known[-1].x) > frame.across.end - 20,
    }


def _say(each: _Datum, ticks: Sequence[str] | None) -> str:
    """``50: 81.2 (80.1 to 82.3)``."""
    place = f"{each.x:g}" if ticks is None else ticks[round(each.x)]
    return printable(f"{place}: {each.y:.4g}" + (f" ({each.low:.4g} to {each.high:.4g})" if each.between else ""))


def _spread(wanted: list[float], heights: list[int], top: float, bottom: float) -> list[float]:
    """Middles as near to the wanted ones as they can be without meeting, in their order, between ``top`` and ``bottom``."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    found, edge = dict.fromkeys(order, 0.0), top
    for number in order:
        found[number] = max(wanted[number], edge + heights[number] / 2)
        edge = found[number] + heights[number] / 2
    edge = bottom
    for number in reversed(order):
        found[number] = min(found[number], edge - heights[number] / 2)
        edge = found[number] - heights[number] / 2
    return [found[number] for number in range(len(wanted))]


def _describe(
    series: Sequence[Series], data: list[list[_Datum]], ticks: Sequence[str] | None, x_label: str, y_label: str
) -> str:
    """The chart in words, for who cannot see it."""
    said = [f"{y_label or 'Values'} by {x_label}." if x_label else f"{y_label or 'Values'}."]
    for each, rows in zip(series, data, strict=True):
        known = [_say(row, ticks) for row in rows if row.known]
        few = known if len(known) <= DESCRIBED else [known[0], f"... {len(known) - 2} more points ...", known[-1]]
        said.append(f"{each.name or 'One line'}: {'; '.join(few) or 'no data'}.")
    return " ".join(said)
