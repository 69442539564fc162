"""The accuracy-quality curve: top-1 of runs over the JPEG qualities that they were tested at."""

from collections.abc import Sequence
from pathlib import Path

from jpegcurr.analysis.charts import Series, line_chart
from jpegcurr.analysis.evaluate import Evaluation
from jpegcurr.analysis.evaluation_tables import run_name
from jpegcurr.analysis.statistics import accuracy_interval

Line = tuple[str, list[Evaluation]]
_Place = tuple[int, int, bool]  # sorts source first, then falling qualities, then what is not known


def accuracy_curve(results: Sequence[Evaluation]) -> str:
    """Top-1 with Wilson's 95 % intervals, as the text of an SVG file.

    A run has one line for each set of images, through its betons of several qualities. Where that is one quality more than
    once, of several betons, it has one line for each beton.
    """
    places = sorted({_place(each) for each in results})
    resized = all(after for _, quality, after in places if quality)
    series = []
    for name, arms in curve_lines(results):
        intervals = [accuracy_interval(int(each.outcomes.right.sum()), len(each.outcomes)) for each in arms]
        low, high = zip(*intervals, strict=True)
        series.append(
            Series(name, [each.scores.top1 for each in arms], low, high, [places.index(_place(each)) for each in arms])
        )
    counts = {len(each.outcomes) for each in results}
    images = f"{counts.pop():,} validation images" if len(counts) == 1 else "validation images"
    return line_chart(
        series,
        ticks=[_named(place, told=not resized) for place in places],
        x_label=f"JPEG quality of the {images}" + (", encoded after the resize" if resized and len(places) > 1 else ""),
        y_label="top-1, %, with 95 % intervals (Wilson)",
        title=f"Accuracy by JPEG quality, {results[0].weights} weights",
        standalone=True,
    )


def curve_lines(results: Sequence[Evaluation]) -> list[Line]:
    """The name of each line and its arms, source first, then by falling quality."""
    lines = _grouped(results, by_data=False)
    if any(len(arms) > len({_place(each) for each in arms}) for arms in lines):
        lines = _grouped(results, by_data=True)
    runs, sets = len({each.run for each in results}), {tuple(dict.fromkeys(each.data for each in arms)) for arms in lines}
    named = []
    for arms in lines:
        data = ", ".join(dict.fromkeys(str(each.data) for each in arms))
        name = [run_name(arms[0], results)] if runs > 1 or len(sets) == 1 else []
        named.append((", ".join([*name, *([data] if len(sets) > 1 else [])]), sorted(arms, key=_place)))
    return named


def _grouped(results: Sequence[Evaluation], *, by_data: bool) -> list[list[Evaluation]]:
    """Arms of one run and the same images, or of one run and beton; an arm that was asked for twice counts once."""
    lines: dict[tuple[Path, str], dict[tuple[Path, _Place], Evaluation]] = {}
    for each in results:
        images = str(each.data) if by_data or each.keys is None else each.keys
        lines.setdefault((each.run, images), {})[each.data, _place(each)] = each
    return [list(arms.values()) for arms in lines.values()]


def _place(each: Evaluation) -> _Place:
    after = bool(each.at_load and each.at_load.endswith("view"))
    if each.tested is None:
        return 2, 0, after
    return (0, 0, after) if each.tested == "source" else (1, -each.tested, after)


def _named(place: _Place, *, told: bool) -> str:
    kind, quality, after = place
    return ("source", str(-quality), "not known")[kind] + (", after the resize" if after and told else "")
