"""The terminal: progress, log and errors on stderr, results on stdout.

Everything goes through ``SafeConsole``, so that no name or value of a user's data can steer the terminal.
"""

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.highlighter import JSONHighlighter
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as LiveProgress
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from jpegcurr.progress import Lines, Meter, Progress, can_animate, show_progress
from jpegcurr.text import escape_json, sanitize, sanitize_lines

if TYPE_CHECKING:
    from jpegcurr.study.run import TaskResult
    from jpegcurr.training.loop import StepInfo

WIDE = 240  # columns where stdout is not a terminal, so that no line of a file is wrapped


class SafeConsole(Console):
    """A console on which text is only text: a string is one line, and characters that could do harm are replaced."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as rich does; the line breaks and control characters of strings become replacement characters."""
        super().print(*(sanitize(item) if isinstance(item, str) else item for item in objects), **options)

    def print_lines(self, markup: str) -> None:
        """Print markup of several lines, of which all but the first are indented."""
        super().print(sanitize_lines(markup, indent="  "))

    def print_json(self, json: str | None = None, **_options: Any) -> None:
        """Print JSON, indented; characters that could do harm are escaped, so the values stay what they are."""
        super().print(JSONHighlighter()(Text(_indent(json or "null"))), soft_wrap=True)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; in the text of tables, bars and all else only line breaks are left of control characters."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control or text.isprintable() else Segment(sanitize_lines(text), style)


def _indent(text: str) -> str:
    return escape_json(json.dumps(json.loads(text), indent=2, ensure_ascii=False))


out = SafeConsole(highlight=False, soft_wrap=True, emoji=False, width=None if sys.stdout.isatty() else WIDE)
err = SafeConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)


class StepBar:
    """An epoch of training, live: steps, mean loss so far, learning rate, speed, share of time spent waiting, time left."""

    def __init__(self, progress: LiveProgress | None) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=None, metrics="") if progress else None
        self._read_at = -1.0
        self._loss = 0.0

    def update(self, info: "StepInfo") -> None:
        """Show a step. The loss is read once a second, because every read waits for the device."""
        if self._progress is None or self._task is None:
            return
        title = f"epoch {info.plan.epoch} ({info.plan.data})"
        if self._progress.tasks[0].description != title:
            self._progress.reset(self._task, total=info.steps, description=title)
        if monotonic() - self._read_at >= 1:
            self._loss, self._read_at = info.mean_loss(), monotonic()
        speed = f"{info.images_per_second:,.0f} img/s  {info.waited:.0%} waiting"
        metrics = f"loss {self._loss:.3f}  lr {info.learning_rate:.1e}  {speed}"
        self._progress.update(self._task, completed=info.step, metrics=metrics)


class StepLines:
    """An epoch of training in a pipe or a file: images, speed and time left, every few seconds, and later less often."""

    def __init__(self) -> None:
        self._lines = Lines(lambda line: err.print(line, markup=False))
        self._meter: Meter | None = None

    def update(self, info: "StepInfo") -> None:
        """Write a line if it is time. How the epoch ended is for the log."""
        title = f"epoch {info.plan.epoch} ({info.plan.data})"
        if self._meter is None or self._meter.title != title:
            self._meter = Meter(title, "images")
        self._meter.update(info.step * info.plan.batch, info.steps * info.plan.batch)
        self._lines.show(self._meter)


@contextmanager
def step_bar(*, quiet: bool = False) -> Iterator[StepBar | StepLines]:
    """Show the steps of training on stderr while the block runs: a live bar where there can be one, else lines."""
    if quiet:
        yield StepBar(None)
        return
    if not can_animate(err):
        yield StepLines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
    metrics = TextColumn("{task.fields[metrics]}", markup=False)
    with LiveProgress(*columns, metrics, TimeRemainingColumn(), console=err, transient=True) as progress:
        yield StepBar(progress)


def progress_bar(unit: str = "images", *, quiet: bool = False) -> AbstractContextManager[Progress]:
    """Show progress on stderr during a block; see ``jpegcurr.progress``."""
    return show_progress(unit=unit, quiet=quiet, console=err)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print_lines(escape(self.format(record)))


def show_log(*, quiet: bool, mute: bool = False) -> None:
    """Send the package's log to stderr, above any bar; only warnings if ``quiet``, nothing if ``mute``."""
    logger = logging.getLogger("jpegcurr")
    logger.handlers = [logging.NullHandler() if mute else _Lines()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


def print_table(columns: list[str], rows: list[list[str]], *, title: str = "", left: int = 1) -> None:
    """Print a table on stdout: the first ``left`` columns aligned to the left, the numbers after them to the right."""
    table = Table(title=escape(sanitize(title)) or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(escape(sanitize(name)), justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(sanitize(cell)) for cell in row))
    out.print(table, soft_wrap=False)


def print_error(message: str) -> None:
    """Print an error on stderr."""
    label = "[bold red]error:[/] " if sys.stderr.isatty() else "error: "
    err.print_lines(label + escape(message))


def describe_failures(failed: "Sequence[TaskResult]") -> str:
    """Return which runs failed, why, and what to do."""
    lines = "".join(f"\n  {run.task.name}: {run.reason}" + (f" ({run.log})" if run.log else "") for run in failed)
    runs = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
    return f"{runs} failed; the others are done. To try again, give the same command.{lines}"
