"""Progress of long work, for people: its name, how many of how many, how fast, and the time left.

A ``Meter`` has the numbers. A display shows them on stderr: a live bar in a terminal; a line every few seconds in a pipe, a log
file or a terminal that cannot move its cursor; in a notebook one line that is replaced. Work that is over within a few seconds
writes no lines at all.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from jpegcurr.text import duration, sanitize

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

Clock = Callable[[], float]

WINDOW = 30  # seconds that the speed is of: the time left follows what is fast or slow now
KNOWN = 3  # seconds after which a speed is known
FIRST, LAST = 5, 60  # seconds between lines: at first, and at most in work of hours
_STEP = 0.25  # seconds between samples of the speed
_NOTEBOOK = 1  # seconds before a notebook's line appears, and between its replacements
_SHORTEST_TITLE, _SHORTEST_BAR, _LONGEST_BAR = 16, 10, 40  # columns


class Meter:
    """The numbers of one piece of work."""

    def __init__(self, title: str, unit: str, clock: Clock = monotonic) -> None:
        self.title = self.whole = title  # ``whole`` stays the name of all of it
        self.unit = unit
        self.done: float = 0
        self.total: float = 0
        self.resumed: float = 0  # how many an earlier run has done
        self._clock = clock
        self._began = self._updated = clock()
        self._samples: deque[tuple[float, float]] = deque()

    def update(self, done: float, total: float) -> None:
        """Note that ``done`` of ``total`` are done."""
        now = self._clock()
        self.done, self.total, self._updated = done, total, now
        if self._samples and now - self._samples[-1][0] < _STEP:
            return
        self._samples.append((now, done))
        while len(self._samples) > 2 and self._samples[1][0] <= now - WINDOW:
            self._samples.popleft()

    def elapsed(self) -> float:
        """Return the seconds since the work began."""
        return self._clock() - self._began

    def speed(self) -> float | None:
        """Return how many are done a second, lately; None before that is known.

        It is of the time up to the last update, so that it does not fall between two batches, unless the next update is
        overdue: then of the time up to now.
        """
        if not self._samples:
            return None
        since, before = self._samples[0]
        seconds = (self._clock() if self._waited() > self._patience() else self._updated) - since
        return (self.done - before) / seconds if self.done > before and seconds >= KNOWN else None

    def _waited(self) -> float:
        return self._clock() - self._updated

    def _patience(self) -> float:
        """Return the seconds after which an update is overdue: twice those that it took lately."""
        return 2 * max((self._updated - self._samples[0][0]) / max(len(self._samples) - 1, 1), KNOWN)

    def left(self) -> float | None:
        """Return the seconds that are left, at the speed of late; None before that is known."""
        speed = self.speed()
        if speed is None:
            return None
        since = self._waited() if self._waited() <= self._patience() else 0
        return max((self.total - self.done) / speed - since, 0)

    def describe(self) -> list[str]:
        """Return ``3,200 of 50,000 images``, ``412 images/s`` and ``2 min left``, as far as that is known."""
        if not self.total:
            return []
        return [f"{int(self.done):,} of {int(self.total):,} {self.unit}", *self.describe_speed(self.unit)]

    def describe_speed(self, unit: str) -> list[str]:
        """Return ``412 images/s`` and ``2 min left``, as far as that is known."""
        speed, left = self.speed(), self.left()
        if speed is None or left is None:
            return []
        return [_describe_rate(speed, unit), *([f"{duration(left)} left"] if self.total > self.done else [])]

    def describe_whole(self) -> str:
        """Return ``evaluating: 50,000 images in 2 min``, with how many of them are this run's, if not all."""
        now = f", {int(self.done - self.resumed):,} of them now," if self.resumed else ""
        return f"{_prefix(self.whole)}{int(self.done):,} {self.unit}{now} in {duration(self.elapsed())}"


def _describe_rate(speed: float, unit: str) -> str:
    """Return ``412 images/s`` or, of slow work, ``3.2 images/s``, ``5.0 images/min`` or ``5.0 images/h``."""
    for times, name in ((1, "s"), (60, "min"), (3600, "h")):
        if times * speed >= 1 or name == "h":
            break
    return f"{times * speed:,.0f} {unit}/{name}" if times * speed >= 10 else f"{times * speed:.1f} {unit}/{name}"


class Display(Protocol):
    """A place where progress is shown."""

    def show(self, meter: Meter) -> None:
        """Show how far the work is."""

    def end(self, meter: Meter) -> None:
        """Show that the work has ended."""


class Progress:
    """Progress of one piece of work after another; called with the numbers done and in all, as ``progress=`` wants it."""

    def __init__(self, display: Display, unit: str = "images", clock: Clock = monotonic) -> None:
        self._display, self._unit, self._clock = display, unit, clock
        self._meter: Meter | None = None

    def begin(self, title: str, unit: str | None = None) -> Meter:
        """Begin the next piece of work, which ``title`` names: ``encoding val``."""
        self.end()
        self._meter = Meter(sanitize(title), unit or self._unit, self._clock)
        return self._meter

    def rename(self, title: str) -> None:
        """Name what the same work is at now."""
        self.meter.title = sanitize(title)

    @property
    def meter(self) -> Meter:
        """The numbers of the current piece of work."""
        return self._meter or self.begin("")

    def __call__(self, done: float, total: float) -> None:
        """Show that ``done`` of ``total`` are done."""
        self.meter.update(done, total)
        self._display.show(self.meter)

    def resume(self, done: float, total: float) -> None:
        """Show that ``done`` of ``total`` were done by an earlier run."""
        self.meter.resumed = done
        self(done, total)

    def update(self, title: str, done: int, total: int, unit: str | None = None) -> None:
        """Show that ``done`` of ``total`` of the work ``title`` are done; another title begins the next piece of work."""
        if self._meter is None or self._meter.title != sanitize(title):
            self.begin(title, unit)
        self(done, total)

    def counter(self, title: str, total: int) -> Callable[[int], None]:
        """Begin the next piece of work; return a function that adds to the number done, of ``total``, and shows it."""
        self.begin(title)
        done = 0

        def add(more: int) -> None:
            nonlocal done
            done += more
            self(done, total)

        return add

    def end(self) -> None:
        """End the piece of work, if there is one."""
        if self._meter is not None:
            self._display.end(self._meter)
        self._meter = None


class Nothing:
    """The display of ``--quiet``."""

    def show(self, meter: Meter) -> None:
        """Show nothing."""

    def end(self, meter: Meter) -> None:
        """Show nothing."""


class Lines:
    """Lines for a pipe or a file: every few seconds, later less often, never the same twice, and one for the whole."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._meter: Meter | None = None
        self._due = 0.0
        self._line = ""

    def show(self, meter: Meter) -> None:
        """Write a line if it is time, and there is something new."""
        if self._meter is not meter:
            self._meter, self._due = meter, FIRST
        elapsed = meter.elapsed()
        if elapsed < self._due or meter.done >= meter.total:
            return
        self._due = elapsed + min(max(elapsed / 20, FIRST), LAST)
        line = _prefix(meter.title) + ", ".join(meter.describe())
        if line != self._line:
            self._write(line)
        self._line = line

    def end(self, meter: Meter) -> None:
        """Write how long all of it took, unless it was over before the first line was due."""
        if meter.elapsed() >= FIRST and meter.done:
            self._write(meter.describe_whole())


class NotebookLine:
    """One line in the output of a notebook's cell, which IPython's ``display`` makes, replaced as the work continues."""

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._meter: Meter | None = None
        self._due = 0.0
        self._handle: Any = None

    def show(self, meter: Meter) -> None:
        """Replace the line if it is time."""
        if self._meter is not meter:
            self._meter, self._due, self._handle = meter, _NOTEBOOK, None
        elapsed = meter.elapsed()
        if elapsed >= self._due:
            self._due = elapsed + _NOTEBOOK
            self._draw(_prefix(meter.title) + ", ".join(meter.describe()))

    def end(self, meter: Meter) -> None:
        """Replace the line, if there is one, by how long all of it took."""
        if self._meter is meter and self._handle is not None:
            self._draw(meter.describe_whole())

    def _draw(self, line: str) -> None:
        data = {"text/plain": line}
        if self._handle is None:
            self._handle = self._display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)


class LiveBar:
    """A bar that rich's ``Live`` draws again and again, in as many columns as there are."""

    def __init__(self) -> None:
        from rich.spinner import Spinner

        self._meter: Meter | None = None
        self._spinner = Spinner("dots", style="progress.spinner")

    def show(self, meter: Meter) -> None:
        """Draw this work from now on."""
        self._meter = meter

    def end(self, meter: Meter) -> None:
        """Draw this work no more."""
        self._meter = None if self._meter is meter else self._meter

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        meter = self._meter
        if meter is None:
            return
        title, bar, numbers = fit(meter, options.max_width - 2)
        cells: list[Any] = [self._spinner, *([title] if title else []), numbers]
        if bar:
            cells.insert(-1, ProgressBar(meter.total or None, meter.done, width=bar))
        grid = Table.grid(padding=(0, 1), collapse_padding=True)
        grid.add_row(*cells)
        yield grid


def fit(meter: Meter, columns: int) -> "tuple[Text, int, Text]":
    """Return the title, the columns of the bar, 0 for none, and the numbers, so that all of it fits into a line."""
    from rich.text import Text

    few = f"{int(meter.done):,}/{int(meter.total):,}" if meter.total else ""
    candidates = ["  ".join(meter.describe()), "  ".join([few, *meter.describe_speed("")]), few]
    title = Text(meter.title, no_wrap=True)
    shortest = min(title.cell_len, _SHORTEST_TITLE)
    numbers = next((text for text in candidates if shortest + 1 + len(text) <= columns), few[:columns])
    room = columns - len(numbers) - 1
    title.truncate(room, overflow="ellipsis") if room > 1 else title.truncate(0, overflow="crop")
    left = columns - title.cell_len - len(numbers) - 2
    return title, min(left, _LONGEST_BAR) if left >= _SHORTEST_BAR else 0, Text(numbers, no_wrap=True)


def _prefix(title: str) -> str:
    return f"{title}: " if title else ""


@contextmanager
def show_progress(
    title: str = "",
    *,
    unit: str = "images",
    quiet: bool = False,
    console: "Console | None" = None,
    clock: Clock = monotonic,
) -> Iterator[Progress]:
    """Show progress on stderr, or in a notebook's cell, while the block runs.

        with jpegcurr.show_progress("encoding") as progress:
            jpegcurr.encode_dataset("data/imagenet", ["source", 50], "betons", progress=progress)

    Args:
        title: names the work, ``encoding val``.
        unit: what is counted.
        quiet: show nothing.
        console: rich's, for a program that prints on stderr meanwhile.
        clock: a clock in seconds.
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
    notebook = _notebook_display()
    if quiet:
        yield from _run(Nothing(), title, unit, clock)
    elif notebook is not None:
        yield from _run(NotebookLine(notebook), title, unit, clock)
    elif can_animate(console):
        bar = LiveBar()
        with Live(bar, console=console, transient=True, refresh_per_second=5):
            yield from _run(bar, title, unit, clock)
    else:
        yield from _run(Lines(lambda line: console.print(line, markup=False, highlight=False)), title, unit, clock)


def _run(display: Display, title: str, unit: str, clock: Clock) -> Iterator[Progress]:
    progress = Progress(display, unit, clock)
    if title:
        progress.begin(title)
    yield progress
    progress.end()  # not of work that has failed


def can_animate(console: "Console") -> bool:
    """Return whether a line can be drawn again in place: not in a pipe, a dumb terminal, or a command of a notebook (``!``)."""
    in_notebook = "JPY_PARENT_PID" in os.environ
    return console.is_terminal and console.file.isatty() and not console.is_dumb_terminal and not in_notebook


def _notebook_display() -> Callable[..., Any] | None:
    """Return IPython's ``display`` in the kernel of a notebook; None elsewhere, as in IPython's terminal."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    from IPython.display import display

    return display
