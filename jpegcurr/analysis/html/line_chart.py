"""Line charts as SVG text, for a page or as a file: no script, real text, the same bytes for the same numbers."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import inf, isfinite, nan
from typing import Any

from markupsafe import Markup

from jpegcurr.analysis.html.axes import Axis, category_axis, number_axis, printable, text_width
from jpegcurr.analysis.html.page import drawn, template

# Okabe and Ito's colours, those with the best contrast on white first. Their black is the text's colour, which is visible on
# dark pages too, and grey replaces their yellow, which is invisible on white. Lines differ in marker and dash as well.
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
WIDTH, HEIGHT = 760, 300  # of the whole chart, and of the plot at least
NARROW = 400  # the width for a phone
SMALL = 11  # pixels, of the labels of points
MOST_MARKERS = 15  # on a line over numbers
DESCRIBED = 12  # points of a line that the description lists
_ROW, _SAMPLE, _BESIDE = 17, 26, 7.0

Point = tuple[float, float]
Mark = tuple[float, str]


@dataclass(frozen=True, slots=True)
class Series:
    """A line: ``y`` at ``x`` (None: 0, 1, 2, ...), with the ends of intervals; nan in ``y`` is a gap in the line.

    ``colour`` is its number among ``COLOURS``, for lines that are of one thing; None is its place among the lines. ``labels``
    are names of its points, which are drawn above them where there is room, and are in the description.

    Raises:
        ValueError: the columns are not of one length, or one end of the intervals is missing.
    """

    name: str
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    x: Sequence[float] | None = None
    colour: int | None = None
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        columns = [len(column) for column in (self.low, self.high, self.x, self.labels) if column is not None]
        if any(length != len(self.y) for length in columns) or (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.name!r}: y, low, high, x and labels differ in length, or low or high is missing")


@dataclass(frozen=True, slots=True)
class _Datum:
    x: float
    y: float
    low: float
    high: float
    label: str

    @property
    def known(self) -> bool:
        return isfinite(self.x) and isfinite(self.y)

    @property
    def has_interval(self) -> bool:
        return isfinite(self.low) and isfinite(self.high)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The layout of a chart; ``marks`` are (x, row, True if the text is left of x, text)."""

    across: Axis
    down: Axis
    marks: tuple[tuple[float, int, bool, str], ...]
    under: float  # height of the labels below the plot

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
    shades: Sequence[tuple[float, float]] = (),
    standalone: bool = False,
    narrow: bool = False,
) -> str:
    """Draw ``series`` over the categories ``ticks`` (x is a position among them, from 0) or, without ticks, over numbers.

    Intervals are error bars over categories, where lines are a little apart from each other, and bands over numbers. ``marks``
    are vertical lines at x, each with a label; ``shades`` are spans of x that are tinted over the whole height. The chart
    scales with its space. A chart for a page uses the page's font and text colour, and its lines' colours from ``--series-1``
    to ``--series-8`` where the page sets them; insert it unescaped. A ``standalone`` one is a file with a background, light or
    dark as the reader's system is. A ``narrow`` one is for a phone: it is 400 pixels wide, and the names of its lines are below
    the plot, not to its right.

    Raises:
        ValueError: a line or a mark has an x outside of the categories.
    """
    data = [_data(line) for line in series]
    places = [datum.x for line in data for datum in line if datum.known]
    places += [x for x, _ in marks] + [x for span in shades for x in span]
    if ticks is not None and any(not 0 <= x <= len(ticks) - 1 for x in places):
        raise ValueError(f"a line or a mark has an x that is none of the {len(ticks)} categories, 0 to {len(ticks) - 1}")
    names = [_wrap(line.name, points) for line, points in zip(series, data, strict=True)]
    heights = [_ROW * len(rows) + 4 for rows in names]
    width, top = NARROW if narrow else WIDTH, (32 if title else 10) + (20 if y_label else 0)
    frame = _frame(data, places, ticks, marks, [] if narrow else names, top=top, width=width)
    lines = [_line(number, points, frame, ticks, len(data)) for number, points in enumerate(data)]
    under = frame.down.start + frame.under + (24 if x_label else 6)
    if narrow:
        middles = [under + sum(heights[:number]) + height / 2 for number, height in enumerate(heights)]
    else:
        middles = _spread([line["ends"] for line in lines], heights, frame.down.end, frame.down.start)
    for number, (drawing, rows, middle, line) in enumerate(zip(lines, names, middles, series, strict=True)):
        colour = (number if line.colour is None else line.colour) % len(COLOURS)
        drawing |= {"colour": COLOURS[colour], "variable": f"--series-{colour + 1}"}
        drawing |= {"rows": rows, "middle": middle, "name": printable(line.name)}
    return template("jpegcurr.analysis", "chart.svg.jinja").render(
        title=printable(title),
        rows_of_marks=1 + max((mark[1] for mark in frame.marks), default=0),
        description=printable(_describe(series, data, ticks, x_label, y_label)),
        x_label=printable(x_label),
        y_label=printable(y_label),
        width=width,
        height=under + (sum(heights) if narrow and any(names) else 0),
        keys=8 if narrow else frame.across.end + 14,
        joined=not narrow,
        shades=[(frame.across.at(start), frame.across.at(end)) for start, end in shades],
        frame=frame,
        lines=lines,
        row=_ROW,
        standalone=standalone,
    )


def page_chart(series: Sequence[Series], **options: Any) -> Markup:
    """Return a chart for a page, twice: ``page.css`` shows the wide one, and the narrow one on a phone."""
    wide, narrow = (drawn(line_chart(series, narrow=narrow, **options)) for narrow in (False, True))
    return Markup('<div class="wide">{}</div><div class="narrow">{}</div>').format(wide, narrow)


def _data(series: Series) -> list[_Datum]:
    unknown = [nan] * len(series.y)
    places = range(len(series.y)) if series.x is None else series.x
    low, high = (unknown if column is None else column for column in (series.low, series.high))
    labels = [""] * len(series.y) if series.labels is None else series.labels
    rows = zip(places, series.y, low, high, labels, strict=True)
    return [_Datum(float(x), float(y), float(least), float(most), label) for x, y, least, most, label in rows]


def _wrap(name: str, points: list[_Datum]) -> list[str]:
    """Wrap a name to at most three rows; a longer one ends in dots, and is complete in its title."""
    name = printable(name) if not name or any(datum.known for datum in points) else f"{printable(name)}: no data"
    across = 28 if text_width(name) <= 0.7 * 13 * len(name) else 16
    return textwrap.wrap(name, across, max_lines=3, placeholder=" ...")


def _frame(
    data: list[list[_Datum]],
    places: list[float],
    ticks: Sequence[str] | None,
    marks: Sequence[Mark],
    names: list[list[str]],
    top: float,
    width: int,
) -> _Frame:
    """Lay out the chart: the ``names`` of lines to the right of the plot, those of marks above it."""
    keys = max((text_width(row) for rows in names for row in rows), default=0)
    right = width - (keys + _SAMPLE + 30 if keys else 20)
    values = [value for line in data for datum in line if datum.known for value in _extent(datum)]
    left = 14 + max(text_width(label) for _, label in number_axis(values, start=1, end=0, about=6, ends_on_ticks=True).ticks)
    if ticks is None:
        across, under = number_axis(places, start=left, end=right, about=8, ends_on_ticks=False), 22.0
    else:
        across, under = category_axis([printable(tick) for tick in ticks], start=left, end=right)
    placed, rows_of_marks = _place_marks(marks, across, width)
    top += _ROW * rows_of_marks
    bottom = top + max(HEIGHT, sum(_ROW * len(rows) + 4 for rows in names))
    return _Frame(across, number_axis(values, start=bottom, end=top, about=6, ends_on_ticks=True), placed, under)


def _extent(datum: _Datum) -> tuple[float, ...]:
    return (datum.y, datum.low, datum.high) if datum.has_interval else (datum.y,)


def _place_marks(marks: Sequence[Mark], across: Axis, width: int) -> tuple[tuple[tuple[float, int, bool, str], ...], int]:
    """Place every mark in the first row from the top where its text meets no other; no line then crosses a text to its left."""
    ends: list[float] = []
    placed = []
    for value, text in sorted(marks, key=lambda mark: mark[0]):
        x, wide = across.at(value), text_width(text) + 10
        leftwards = x + wide > width and x - wide > 0
        start, end = (x - wide, x) if leftwards else (x, x + wide)
        row = next((number for number, taken in enumerate(ends) if taken <= start), len(ends))
        ends[row : row + 1] = [end]
        placed.append((x, row, leftwards, printable(text)))
    return tuple(placed), len(ends)


def _line(number: int, points: list[_Datum], frame: _Frame, ticks: Sequence[str] | None, lines: int) -> dict[str, Any]:
    """Return the parts of one line for the template."""
    apart = any(datum.has_interval for datum in points) and ticks is not None
    room = (frame.across.end - frame.across.start) / max(1, len(ticks or ()))
    beside = (number - (lines - 1) / 2) * min(_BESIDE, 0.5 * room / lines) if apart else 0.0

    def at(x: float, y: float) -> Point:
        return frame.across.at(x) + beside, frame.down.at(y)

    runs = [list(run) for known, run in groupby(points, key=lambda datum: datum.known) if known]
    known = [datum for run in runs for datum in run]
    by_interval = groupby(known, key=lambda datum: datum.has_interval)
    bands = [list(run) for has_interval, run in by_interval if has_interval and ticks is None]
    bands = [run for run in bands if len(run) > 1]
    banded = {id(datum) for run in bands for datum in run}
    every = 1 if ticks is not None else -(-len(known) // MOST_MARKERS)
    shown = [datum for run in runs for place, datum in enumerate(run) if place % every == 0 or datum is run[-1]]
    return {
        "dash": DASHES[(number + number // len(COLOURS)) % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
        "runs": [[at(datum.x, datum.y) for datum in run] for run in runs if len(run) > 1],
        "bands": [[at(e.x, e.high) for e in run] + [at(e.x, e.low) for e in reversed(run)] for run in bands],
        "bars": [(at(e.x, e.low), at(e.x, e.high)) for e in known if e.has_interval and id(e) not in banded],
        "points": [(at(datum.x, datum.y), _describe_point(datum, ticks)) for datum in shown],
        "labels": _place_labels([(at(datum.x, datum.y), printable(datum.label)) for datum in shown if datum.label]),
        "ends": at(known[-1].x, known[-1].y)[1] if known else frame.down.start,
        "to_the_end": ticks is None and bool(known) and frame.across.at(known[-1].x) > frame.across.end - 20,
    }


def _place_labels(labels: list[tuple[Point, str]]) -> list[tuple[Point, str]]:
    """Return the places of labels above their points, from left to right, without those that would meet the one before."""
    placed: list[tuple[Point, str]] = []
    edge, height = -inf, inf
    for (x, y), text in sorted(labels):
        half = text_width(text, SMALL) / 2
        if x - half > edge or abs(y - height) > SMALL:
            placed.append(((x, y - 8), text))
            edge, height = x + half, y
    return placed


def _describe_point(datum: _Datum, ticks: Sequence[str] | None) -> str:
    """Return ``50: 81.2 (80.1 to 82.3)``."""
    place = f"{datum.x:g}" if ticks is None else ticks[round(datum.x)]
    place = f"{datum.label}, {datum.x:.4g}" if datum.label and ticks is None else place
    return printable(f"{place}: {datum.y:.4g}" + (f" ({datum.low:.4g} to {datum.high:.4g})" if datum.has_interval else ""))


def _spread(wanted: list[float], heights: list[int], top: float, bottom: float) -> list[float]:
    """Move middles apart as little as needed so that they do not meet, in their order, between ``top`` and ``bottom``."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    middles, edge = dict.fromkeys(order, 0.0), top
    for number in order:
        middles[number] = max(wanted[number], edge + heights[number] / 2)
        edge = middles[number] + heights[number] / 2
    edge = bottom
    for number in reversed(order):
        middles[number] = min(middles[number], edge - heights[number] / 2)
        edge = middles[number] - heights[number] / 2
    return [middles[number] for number in range(len(wanted))]


def _describe(
    series: Sequence[Series], data: list[list[_Datum]], ticks: Sequence[str] | None, x_label: str, y_label: str
) -> str:
    """Describe the chart in words, for readers who cannot see it."""
    sentences = [f"{y_label or 'Values'} by {x_label}." if x_label else f"{y_label or 'Values'}."]
    for line, points in zip(series, data, strict=True):
        known = [_describe_point(datum, ticks) for datum in points if datum.known]
        few = known if len(known) <= DESCRIBED else [known[0], f"... {len(known) - 2} more points ...", known[-1]]
        sentences.append(f"{line.name or 'One line'}: {'; '.join(few) or 'no data'}.")
    return " ".join(sentences)
