"""Scatter charts as SVG text: groups of points, each with its name; points are found by the page's script, or by hovering."""

from collections.abc import Sequence
from dataclasses import dataclass

from jpegcurr.analysis.html.axes import number_axis, printable
from jpegcurr.analysis.html.line_chart import COLOURS, MARKERS
from jpegcurr.analysis.html.page import template

WIDTH, HEIGHT = 800, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 20, 16, 56  # room for text that predictions.css enlarges on a phone


@dataclass(frozen=True, slots=True)
class PointGroup:
    """Points of one colour and marker: (x, y, name) each, and the number of the group's colour."""

    name: str
    points: Sequence[tuple[float, float, str]]
    series: int


def scatter_chart(groups: Sequence[PointGroup], *, x_high: int, x_label: str, y_label: str, mark: float | None = None) -> str:
    """Draw the points of ``groups``, x from 0 to ``x_high`` and y from 0 to 1, each with its name as a title.

    ``mark`` is a horizontal line. Groups have the class ``group-0``, ``group-1``, ..., by which a page hides them. Insert the
    result into a page unescaped.
    """
    across = number_axis([0, max(1, x_high)], start=_LEFT, end=WIDTH - _RIGHT, about=5, ends_on_ticks=False)
    up = number_axis([0.0, 1.0], start=HEIGHT - _BOTTOM, end=_TOP, about=5, ends_on_ticks=True)
    drawings = [
        {
            "colour": f"var(--series-{group.series}, {COLOURS[group.series - 1]})",
            "marker": MARKERS[group.series - 1],
            "points": [(across.at(x), up.at(y), name) for x, y, name in group.points],
        }
        for group in groups
    ]
    counts = ", ".join(f"{group.name}: {len(group.points):,}" for group in groups)
    return template("jpegcurr.analysis", "scatter.svg.jinja").render(
        width=WIDTH,
        height=HEIGHT,
        across=across,
        up=up,
        groups=drawings,
        mark=mark,
        x_label=printable(x_label),
        y_label=printable(y_label),
        description=printable(f"{y_label} by {x_label}, points by group: {counts}."),
    )
