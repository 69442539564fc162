"""Charts are SVG that any reader takes: well formed, named, with round ticks, and nothing over anything else."""

import re
from itertools import pairwise
from math import inf, isfinite, nan
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jpegcurr.analysis.html.axes import number_axis
from jpegcurr.analysis.html.interval_chart import Difference, interval_chart
from jpegcurr.analysis.html.line_chart import COLOURS, DASHES, MARKERS, Series, line_chart

SVG = "{http://www.w3.org/2000/svg}"
LINE = Series("run", [82.3, 81.0, 64.2], [81.0, 79.9, 63.0], [83.4, 82.2, 65.5])
NUMBERS = st.lists(st.floats(allow_infinity=False, allow_subnormal=False, width=32), min_size=1, max_size=30)


def parsed(drawn: str) -> ElementTree.Element:
    return ElementTree.fromstring(drawn)  # noqa: S314


def texts(drawn: str) -> list[str]:
    return [
        "".join(part.text or "" for part in text.iter() if part.tag != f"{SVG}title")
        for text in parsed(drawn).iter(f"{SVG}text")
    ]


def lines(drawn: str) -> list[list[tuple[float, float]]]:
    points = [line.get("points", "") for line in parsed(drawn).iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in points]


def test_a_chart_draws_its_values() -> None:
    drawn = line_chart([LINE], ticks=["source", "50", "10"], x_label="quality", y_label="top-1, %", title="Accuracy")
    root = parsed(drawn)
    assert (root.tag, root.get("role"), root[0].tag, root[0].text) == (f"{SVG}svg", "img", f"{SVG}title", "Accuracy")
    assert root[1].text == (
        "top-1, % by quality. run: source: 82.3 (81 to 83.4); 50: 81 (79.9 to 82.2); 10: 64.2 (63 to 65.5)."
    )
    assert {"source", "50", "10", "60", "65", "85", "quality", "top-1, %", "Accuracy", "run"} <= set(texts(drawn))
    (points,) = lines(drawn)
    steps, falls = [b[0] - a[0] for a, b in pairwise(points)], [b[1] - a[1] for a, b in pairwise(points)]
    assert steps[0] == pytest.approx(steps[1], abs=0.2)
    assert falls[1] / falls[0] == pytest.approx((81.0 - 64.2) / (82.3 - 81.0), rel=0.05)
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert "run, 50: 81 (79.9 to 82.2)" in titles
    assert drawn.count("h5M") == 3, "three error bars with ends"


def test_the_same_numbers_are_the_same_bytes() -> None:
    marks = [(1, "swap")]
    assert line_chart([LINE, LINE], marks=marks) == line_chart([LINE, LINE], marks=marks)
    assert line_chart([LINE]) != line_chart([LINE, LINE])


def test_a_page_gives_its_colours_and_a_file_brings_its_own() -> None:
    inside, alone = line_chart([LINE]), line_chart([LINE], standalone=True)
    assert "var(--series-1, #0072b2)" in inside
    assert "<style" not in inside
    assert "<rect" not in inside
    assert "prefers-color-scheme: dark" in alone
    assert "var(" not in alone, "what draws files may know no variables"
    assert parsed(alone).get("width") == "760"
    for drawn in (inside, alone):
        assert parsed(drawn).get("viewBox", "").startswith("0 0 760 ")
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|<script|<image|href", drawn)


def test_lines_of_one_thing_share_a_colour_and_spans_are_tinted() -> None:
    pair = [Series("raw", [1, 2], colour=1), Series("ema", [1, 3], colour=1)]
    drawn = line_chart(pair, shades=[(1, 4)], marks=[(1, "q50")])
    assert drawn.count(f"var(--series-2, {COLOURS[1]})") == 4, "fill and stroke of two lines"
    assert COLOURS[0] not in drawn
    (span,) = parsed(drawn).iter(f"{SVG}rect")
    (start, end) = float(span.get("x", "")), float(span.get("x", "")) + float(span.get("width", ""))
    ((_, _), (x, _)), _ = lines(drawn)
    assert start == pytest.approx(x, abs=0.2)
    assert "4" in texts(drawn), "the axis reaches to the end of the span"
    assert end == pytest.approx(start + 3 * (x - lines(drawn)[0][0][0]), abs=0.3)


def test_a_gap_is_a_gap_and_a_single_point_is_visible() -> None:
    drawn = line_chart([Series("a", [1, 2, nan, 3, inf, 5, 6, 7])])
    assert [len(run) for run in lines(drawn)] == [2, 3]
    assert len([path for path in parsed(drawn).iter(f"{SVG}path") if path.find(f"{SVG}title") is not None]) == 6


def test_intervals_are_bands_over_numbers_and_bars_where_they_are_alone() -> None:
    y = [1.0, 2, 3, 4, 5]
    drawn = line_chart([Series("a", y, [0, 1, nan, 3, nan], [2, 3, nan, 5, nan])])
    (band,) = parsed(drawn).iter(f"{SVG}polygon")
    assert len(band.get("points", "").split()) == 4
    assert drawn.count("h5M") == 1


def test_a_line_without_data_says_so() -> None:
    assert "run: no data" in texts(line_chart([Series("run", [nan, nan])], ticks=["a", "b"]))
    for drawn in (line_chart([]), line_chart([], ticks=[]), line_chart([Series("run", [])])):
        assert lines(drawn) == []


def test_eight_lines_differ_in_more_than_colour_and_their_names_do_not_meet() -> None:
    many = [Series(f"runs/of a very long name number {number}, on betons/val-source.beton", [80, 79.9]) for number in range(8)]
    drawn = line_chart(many, ticks=["source", "50"])
    assert len(set(COLOURS)) == len(MARKERS) == 8
    looks = {(n % 8, DASHES[(n + n // 8) % 4]) for n in range(32)}
    assert len(looks) == 32
    names = [
        [float(row.get("y", "nan")) for row in text.iter(f"{SVG}tspan")]
        for text in parsed(drawn).iter(f"{SVG}text")
        if text.find(f"{SVG}tspan") is not None
    ]
    assert [len(rows) for rows in names] == [3] * 8
    rows = sorted(y for name in names for y in name)
    assert all(after - before >= 16 for before, after in pairwise(rows))
    height = float(parsed(drawn).get("viewBox", "").split()[3])
    assert rows[0] > 0
    assert rows[-1] < height


def test_marks_whose_names_would_meet_stand_in_rows() -> None:
    drawn = line_chart([Series("loss", [3.0, 2, 1, 1] * 40)], marks=[(100, "swap to q50"), (102, "size 256"), (10, "warm")])
    at = {
        "".join(text.itertext()): (float(text.get("x", "nan")), float(text.get("y", "nan")))
        for text in parsed(drawn).iter(f"{SVG}text")
    }
    assert at["warm"][1] == at["swap to q50"][1] == at["size 256"][1] - 17
    assert at["warm"][0] < at["swap to q50"][0] < at["size 256"][0]


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\"&'", "zero\0", "not UTF-8 \udcff", "a\nb", "日本語" * 20])
def test_whatever_a_name_is_the_text_is_well_formed(name: str) -> None:
    for standalone in (True, False):
        drawn = line_chart(
            [Series(name, [1, 2])],
            ticks=[name, "b"],
            x_label=name,
            y_label=name,
            title=name,
            marks=[(0, name)],
            standalone=standalone,
        )
        drawn.encode()
        assert not list(parsed(drawn).iter("script"))
        assert not list(parsed(drawn).iter(f"{SVG}script"))


@given(NUMBERS, st.booleans())
def test_any_numbers_lie_on_their_axis(values: list[float], whole: bool) -> None:
    values = [
        value
        for value in ([float(round(value)) for value in values if isfinite(value)] if whole else values)
        if isfinite(value)
    ]
    for ends_on_ticks in (True, False):
        axis = number_axis(values, start=400, end=0, about=6, ends_on_ticks=ends_on_ticks)
        assert all(-1e-6 <= axis.at(value) <= 400 + 1e-6 for value in [*values, *(tick for tick, _ in axis.ticks)])
        assert 1 <= len(axis.ticks) <= 13
        assert len({label for _, label in axis.ticks}) == len(axis.ticks)
    parsed(line_chart([Series("a", values)]))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ((80.2, 82.9), ["80.0", "80.5", "81.0", "81.5", "82.0", "82.5", "83.0"]),
        ((64, 82), ["60", "65", "70", "75", "80", "85"]),
        ((0, 1281167), ["0", "2.5e5", "5e5", "7.5e5", "1e6", "1.25e6", "1.5e6"]),
        ((1e-6, 4e-3), ["0", "0.001", "0.002", "0.003", "0.004"]),
        ((0, 8e-5), ["0", "2e-5", "4e-5", "6e-5", "8e-5"]),
        ((-3, 3), ["-3", "-2", "-1", "0", "1", "2", "3"]),
        ((50,), ["47", "48", "49", "50", "51", "52", "53"]),
    ],
)
def test_ticks_are_round(values: tuple[float, ...], labels: list[str]) -> None:
    assert [label for _, label in number_axis(values, start=1, end=0, about=6, ends_on_ticks=True).ticks] == labels


def test_epochs_are_whole() -> None:
    for epochs in ([0.0], [0.0, 1.0], [0.0, 1.0, 2.0]):
        ticks = number_axis(epochs, start=0, end=1, about=8, ends_on_ticks=False).ticks
        assert {float(epoch) for epoch in epochs} <= {value for value, _ in ticks}
        assert all(value == round(value) for value, _ in ticks)


def test_points_are_named_above_them_where_there_is_room() -> None:
    near, far = Series("a", [1, 1, 2], x=[10, 10.1, 20], labels=["ten", "meets it", "<20>"]), Series("b", [1, 2], x=[10, 20])
    svg = line_chart([near, far])
    placed = {element.text: float(element.get("y", "nan")) for element in parsed(svg).iter(f"{SVG}text") if not len(element)}
    assert "ten" in placed
    assert "<20>" in placed
    assert "meets it" not in placed
    assert placed["<20>"] < placed["ten"], "a higher point has a higher name"
    assert "meets it, 10.1: 1" in svg, "and what has no room is in the description"


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="'a': y, low, high, x and labels differ in length"):
        Series("a", [1, 2], x=[1])
    with pytest.raises(ValueError, match="low or high is missing"):
        Series("a", [1], low=[1])
    with pytest.raises(ValueError, match="none of the 2 categories"):
        line_chart([LINE], ticks=["source", "50"])


def across(path: str) -> list[float]:
    """Every x of a path of M, H and absolute moves."""
    return [float(x) for x in re.findall(r"[MH](-?[\d.]+)", path)]


def test_differences_stand_about_the_line_of_none() -> None:
    """The same distance to both sides, and every part at its place on the axis."""
    rows = [
        Difference("up", 1.0, -0.5, 2.5, 0.5, 1.5, [("seed 0", 0.0), ("seed 1", 2.0)]),
        Difference("down <b>", -1.0, bar_low=-1.5, bar_high=-0.5),
    ]
    drawn = interval_chart(rows, x_label="points against clean")
    root = parsed(drawn)
    assert root[1].text == "up: +1.00 (-0.50 to +2.50). down <b>: -1.00."
    assert {"up", "down <b>", "points against clean", "0", "-1"} <= set(texts(drawn))
    first, second = [part for part in root if part.tag == f"{SVG}g" and part.get("stroke", "").startswith("var")]
    (zero,) = [across(part.get("d", ""))[0] for part in root if part.get("stroke-width") == "1.5" and part.tag == f"{SVG}path"]
    moved = [part.get("transform", "") for row in (first, second) for part in row if part.get("transform")]
    places = [float(re.findall(r"translate\((-?[\d.]+)", transform)[0]) for transform in moved]
    unit = places[0] - zero
    assert unit > 0
    assert places[1] == pytest.approx(zero - unit, abs=0.2)
    paths = [across(path.get("d", "")) for path in first.iter(f"{SVG}path")][:2]
    bar, line = ([(x - zero) / unit for x in path] for path in paths)
    assert bar == pytest.approx([0.5, 1.5, 0.5], abs=0.02)
    assert line == pytest.approx([-0.5, 2.5], abs=0.02)
    rings = [(float(circle.get("cx", "")) - zero) / unit for circle in first.iter(f"{SVG}circle")]
    assert rings == pytest.approx([0, 2], abs=0.02)
    assert not list(second.iter(f"{SVG}circle"))
    assert len(list(second.iter(f"{SVG}path"))) == 2, "a bar and the mean, no line"


def test_differences_of_nothing_are_no_chart() -> None:
    with pytest.raises(ValueError, match="no differences"):
        interval_chart([], x_label="points")


@given(
    st.lists(
        st.tuples(st.text(max_size=30), *[st.floats(-100, 100)] * 3, st.lists(st.floats(-100, 100), max_size=4)),
        min_size=1,
        max_size=8,
    )
)
def test_any_differences_are_well_formed_and_within_the_picture(
    rows: list[tuple[str, float, float, float, list[float]]],
) -> None:
    differences = [
        Difference(name, value, min(low, high), max(low, high), single=[(f"seed {n}", x) for n, x in enumerate(single)])
        for name, value, low, high, single in rows
    ]
    root = parsed(interval_chart(differences, x_label="points"))
    width = float(root.get("viewBox", "").split()[2])
    for part in root.iter():
        for x in [*across(part.get("d", "")), *([float(part.get("cx", "0"))] if "cx" in part.keys() else [])]:  # noqa: SIM118
            assert -6.5 <= x <= width
