"""Progress: the numbers by a clock of the test's own, and what a terminal, a pipe and a notebook get of them."""

import os
import pty
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from jpegcurr import progress as progress_module
from jpegcurr.progress import KNOWN, Lines, Meter, Progress, can_animate, fit, show_progress


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def work(clock: Clock, progress: Progress, rates: list[float], total: int, done: int = 0) -> None:
    """Do so many images in every second."""
    exact = float(done)
    for rate in rates:
        clock.now += 1
        exact += rate
        progress(min(int(exact), total), total)


def written(rates: list[float], total: int, done: int = 0, title: str = "evaluating a on b") -> list[str]:
    clock, lines = Clock(), list[str]()
    progress = Progress(Lines(lines.append), clock=clock)
    progress.begin(title)
    if done:
        progress.resume(done, total)
    work(clock, progress, rates, total, done)
    progress.end()
    return lines


def test_a_pipe_gets_a_line_every_few_seconds_and_one_for_the_whole() -> None:
    lines = written([10] * 20, 200)
    assert lines == [
        "evaluating a on b: 50 of 200 images, 10 images/s, 15 s left",
        "evaluating a on b: 100 of 200 images, 10 images/s, 10 s left",
        "evaluating a on b: 150 of 200 images, 10 images/s, 5 s left",
        "evaluating a on b: 200 images in 20 s",
    ]


def test_short_work_is_silent_and_long_work_is_not_chatty() -> None:
    assert written([50] * 4, 200) == []
    hour = written([10] * 3600, 36000)
    assert 60 < len(hour) < 120, "a minute apart, at last"
    assert len(set(hour)) == len(hour)


def test_no_line_is_written_twice_while_nothing_moves() -> None:
    lines = written([10] * 6 + [0] * 60 + [10] * 14, 200)
    assert len(set(lines)) == len(lines)
    assert lines[-1] == "evaluating a on b: 200 images in 80 s"


def test_work_that_fails_has_no_line_for_the_whole() -> None:
    clock, file = Clock(), StringIO()
    with suppress(OSError), show_progress("encoding", console=Console(file=file), clock=clock) as progress:
        work(clock, progress, [10] * 7, 200)
        raise OSError("disk")
    assert file.getvalue().splitlines() == ["encoding: 50 of 200 images, 10 images/s, 15 s left"]


def test_the_time_left_is_not_shown_before_it_is_known_and_follows_the_last_half_minute() -> None:
    clock = Clock()
    meter = Meter("", "images", clock)
    meter.update(32, 100_000)
    assert meter.describe() == ["32 of 100,000 images"]
    clock.now += KNOWN - 0.1
    meter.update(64, 100_000)
    assert meter.speed() is None
    for second in range(1, 601):
        clock.now += 1
        meter.update(100 * second, 100_000)
    assert meter.describe() == ["60,000 of 100,000 images", "100 images/s", "7 min left"]
    for second in range(1, 46):
        clock.now += 1
        meter.update(60_000 + 10 * second, 100_000)
    assert meter.describe()[1:] == ["10 images/s", "1 h 06 min left"]
    clock.now += 60  # nothing comes any more
    assert meter.describe()[1:] == ["3.3 images/s", "3 h 18 min left"]


def test_batches_of_minutes_have_a_speed_too() -> None:
    clock = Clock()
    meter = Meter("", "images", clock)
    for batch in range(4):
        clock.now += 60
        meter.update(6 * batch, 60)
    assert meter.describe() == ["18 of 60 images", "6.0 images/min", "7 min left"]
    clock.now += 50
    assert meter.describe() == ["18 of 60 images", "6.0 images/min", "6 min left"], "it passes between two batches"
    clock.now += 150
    assert meter.describe() == ["18 of 60 images", "1.4 images/min", "30 min left"], "and the next one is overdue"


def test_what_an_earlier_run_has_done_counts_as_done_and_not_as_fast() -> None:
    lines = written([10] * 10, 1100, done=1000, title="")
    assert lines == ["1,050 of 1,100 images, 10 images/s, 5 s left", "1,100 images, 100 of them now, in 10 s"]


def test_one_bar_serves_one_piece_of_work_after_another() -> None:
    clock, lines = Clock(), list[str]()
    progress = Progress(Lines(lines.append), clock=clock)
    for title in ("encoding train", "encoding val"):
        for second in range(8):
            progress.update(title, 10 * second, 70)
            clock.now += 1
    progress.end()
    assert lines == [
        "encoding train: 50 of 70 images, 10 images/s, 2 s left",
        "encoding train: 70 images in 8 s",
        "encoding val: 50 of 70 images, 10 images/s, 2 s left",
        "encoding val: 70 images in 8 s",
    ]
    more = progress.counter("pruning", 30)
    clock.now += 6
    more(10)
    more(10)
    progress.rename("pruning\nlate\x1b[2J")
    clock.now += 5
    more(5)
    progress.end()
    assert lines[4:] == [
        "pruning: 10 of 30 images",
        "pruning\ufffdlate\ufffd[2J: 25 of 30 images, 3.0 images/s, 2 s left",
        "pruning: 25 images in 11 s",
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=60),
    st.integers(10, 160),
    st.integers(0, 10**7),
    st.floats(0.01, 1e5),
)
def test_a_bar_fits_into_any_terminal(title: str, columns: int, total: int, rate: float) -> None:
    clock = Clock()
    meter = Meter(title, "images", clock)
    meter.update(0, total)
    clock.now += 10
    meter.update(min(int(10 * rate), total), total)
    name, bar, numbers = fit(meter, columns)
    cells = [width for width in (cell_len(name.plain), bar, cell_len(numbers.plain)) if width]
    assert sum(cells) + len(cells) - 1 <= columns
    assert bar == 0 or bar >= 10
    if total and columns >= 60:
        assert f"{total:,}" in numbers.plain


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Iterator[tuple[Console, list[str]]]:
    """Yield rich's console in a terminal with these variables, and what the terminal has got, when the block has ended."""
    for name in ("TERM", "NO_COLOR", "COLUMNS", "JPY_PARENT_PID", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment}.items():
        monkeypatch.setenv(name, value)
    reader, writer = pty.openpty()
    output: list[str] = []

    def read() -> None:
        try:
            while data := os.read(reader, 4096):
                output.append(data.decode())
        except OSError:  # Linux's way to say that the other side is closed
            pass

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(writer, "w", encoding="utf-8") as file:
        yield Console(file=file), output
    thread.join(10)
    os.close(reader)


def shown(console: Console, clock: Clock) -> None:
    """Show ten seconds of work that has twenty, by a clock that is ahead of the display's."""
    drawn = threading.Event()
    original = progress_module.LiveBar.__rich_console__

    def drawing(self: Any, *arguments: Any) -> Any:
        yield from original(self, *arguments)
        if self._meter is not None and self._meter.done == 1000:
            drawn.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress_module.LiveBar, "__rich_console__", drawing)
        with show_progress("evaluating two_phase on val-q50", console=console, clock=clock) as progress:
            work(clock, progress, [100] * 10, 2000)
            if can_animate(console):
                assert drawn.wait(10)


CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
LINE = "evaluating two_phase on val-q50: 500 of 2,000 images, 100 images/s, 15 s left"
LAST = "evaluating two_phase on val-q50: 1,000 of 2,000 images, 100 images/s, 10 s left"
WHOLE = "evaluating two_phase on val-q50: 1,000 images in 10 s"


def test_a_terminal_gets_a_bar_that_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, COLUMNS="120") as (console, output):
        shown(console, Clock())
    text = "".join(output)
    assert re.search(
        "evaluating two_phase on val-q50 [━╸╺]+ 1,000 of 2,000 images {2}100 images/s {2}10 s left", CODES.sub("", text)
    )
    assert text.rstrip("\r").endswith("\x1b[2K\x1b[?25h"), "the line is cleared, and the cursor is there again"


def test_a_narrow_terminal_without_colours_gets_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch, COLUMNS="40", NO_COLOR="1") as (console, output):
        shown(console, Clock())
    lines = CODES.sub("", "".join(output)).replace("\r", "\n").split("\n")
    assert max(map(cell_len, lines)) <= 40
    assert any("1,000/2,000" in line and "evaluating" in line for line in lines)
    assert not re.search(r"\x1b\[(3|4|9)\d", "".join(output))


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"JPY_PARENT_PID": "1"}])
def test_a_terminal_that_cannot_draw_in_place_gets_lines(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    with terminal(monkeypatch, **environment) as (console, output):
        shown(console, Clock())
    assert "".join(output).replace("\r\n", "\n").splitlines() == [LINE, LAST, WHOLE]
    assert "\x1b" not in "".join(output)


def test_a_pipe_gets_no_control_characters_even_if_colours_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = StringIO()
    shown(Console(file=file, width=200), Clock())
    assert "\x1b[2K" not in file.getvalue()
    assert CODES.sub("", file.getvalue()).splitlines() == [LINE, LAST, WHOLE]


def test_a_notebook_has_one_line_that_is_replaced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    cells: list[list[str]] = []

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        cells.append([data["text/plain"]])
        return SimpleNamespace(update=lambda data, raw: cells[-1].append(data["text/plain"]))

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, __path__=[]))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    clock = Clock()
    with show_progress(clock=clock) as progress:
        progress.begin("short")
        progress(10, 10)
        progress.begin("encoding")
        work(clock, progress, [10] * 5, 50)
    assert cells == [
        [
            "encoding: 10 of 50 images",
            "encoding: 20 of 50 images",
            "encoding: 30 of 50 images",
            "encoding: 40 of 50 images, 10 images/s, 1 s left",
            "encoding: 50 of 50 images, 10 images/s",
            "encoding: 50 images in 5 s",
        ]
    ]
    del shell.kernel  # IPython in a terminal is a terminal
    with show_progress("encoding", clock=clock) as progress:
        work(clock, progress, [10] * 7, 100)
    assert capsys.readouterr().err.splitlines() == [
        "encoding: 50 of 100 images, 10 images/s, 5 s left",
        "encoding: 70 images in 7 s",
    ]
    with show_progress("encoding", quiet=True, clock=clock) as progress:
        work(clock, progress, [10] * 7, 100)
    assert capsys.readouterr().err == ""
