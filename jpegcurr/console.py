"""What people see: progress on stderr, results on stdout."""

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from jpegcurr.analysis.evaluate import Evaluation
    from jpegcurr.analysis.predict import Prediction
    from jpegcurr.encoding.encode import Outcome
    from jpegcurr.encoding.inspect import Inspection
    from jpegcurr.encoding.manifest import Manifest

SHOWN_PREDICTIONS = 40

WIDE = 240  # columns where stdout is no terminal, so that nothing is wrapped in a file

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Bar:
    """Progress through a known number of things: a live bar on a terminal, a line every tenth elsewhere."""

    def __init__(self, progress: Progress | None, unit: str) -> None:
        self._progress = progress
        self._unit = unit
        self._task = progress.add_task("", total=None) if progress else None
        self._tenth = 0

    def update(self, title: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done; a new title begins anew."""
        if self._progress is not None and self._task is not None:
            if self._progress.tasks[0].description != title:
                self._progress.reset(self._task, total=total, description=title)
            self._progress.update(self._task, completed=done)
        elif 10 * done // total > self._tenth:
            self._tenth = 10 * done // total % 10
            err.print(f"{title}: {done}/{total} {self._unit}", markup=False)


class _NoBar(Bar):
    def update(self, title: str, done: int, total: int) -> None:
        """Show nothing."""


class _Speed(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Things a second over the last half minute."""
        return Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed else "")


@contextmanager
def progress_bar(unit: str, *, quiet: bool = False, live_only: bool = False) -> Iterator[Bar]:
    """Show a bar on stderr while the block runs; off a terminal, nothing if ``live_only``."""
    if quiet or (live_only and not err.is_terminal):
        yield _NoBar(None, unit)
        return
    if not err.is_terminal:
        yield Bar(None, unit)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Speed(unit))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as progress:
        yield Bar(progress, unit)


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        err.print(escape(self.format(record)))


def show_log(*, quiet: bool) -> None:
    """Send the package's log to stderr, above any bar; warnings only if ``quiet``."""
    logger = logging.getLogger("jpegcurr")
    logger.handlers = [_Lines()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


def print_table(columns: list[str], rows: list[list[str]], *, title: str = "", left: int = 1) -> None:
    """Print a table on stdout: the first ``left`` columns to the left, the numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table, soft_wrap=False)


def fail(message: str) -> None:
    """Print an error on stderr."""
    label = "[bold red]error:[/] " if sys.stderr.isatty() else "error: "
    err.print(label + escape(message))


def megabytes(count: int) -> str:
    """``1234567`` -> ``1.2 MB``."""
    return f"{count / 1e6:,.1f} MB"


@contextmanager
def encode_progress(split: str, images: int, *, quiet: bool) -> "Iterator[Callable[[Outcome], None]]":
    """Yield what ``encode_dataset`` calls after every image."""
    done = 0
    with progress_bar("img", quiet=quiet) as bar:

        def on_outcome(outcome: "Outcome") -> None:
            nonlocal done
            done += 1
            bar.update(f"encode {split}", done, images)
            if outcome.reason and not quiet:
                err.print(f"left out: {outcome.item.path}: {outcome.reason}", markup=False)

        yield on_outcome


def print_encoded(done: "Mapping[Path, Manifest]") -> None:
    """The closing table of ``encode``."""
    rows = []
    for path, manifest in done.items():
        ratio = manifest.bytes_out / manifest.bytes_in
        sizes = [megabytes(manifest.bytes_in), megabytes(manifest.bytes_out), f"{ratio:.2f}"]
        rows.append([str(path), f"{manifest.images:,}", *sizes, f"{manifest.failures:,}"])
    print_table(["beton", "images", "bytes in", "bytes out", "ratio", "failures"], rows)


def print_inspection(found: "Inspection", *, as_json: bool) -> None:
    """Everything that ``inspect`` says."""
    manifest = found.manifest
    if as_json:
        facts = {
            "path": str(found.path),
            "samples": found.samples,
            "subsampling": found.subsampling,
            "page_size": found.page_size,
        }
        facts |= {"widths": found.widths, "heights": found.heights, "sample_bytes": found.sample_bytes}
        out.print_json(json.dumps(facts | {"manifest": manifest.model_dump() if manifest else None}))
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(found).items():
        table.add_row(name, escape(value))
    out.print(table, soft_wrap=False)


def _facts(found: "Inspection") -> dict[str, str]:
    """What an inspection found, in words, by name."""
    manifest = found.manifest
    unknown = "not recorded: there is no manifest beside the file"
    spread = "smallest {:,}, median {:,}, largest {:,}".format
    layouts = ", ".join(f"{name} {100 * count / found.samples:.1f} %" for name, count in found.subsampling.items())
    facts = {
        "file": str(found.path),
        "samples": f"{found.samples:,}",
        "classes": f"{len(manifest.classes):,}, {found.labels:,} with samples" if manifest else f"{found.labels:,} labels",
        "quality": str(manifest.quality) if manifest else unknown,
        "subsampling": layouts,
        "width, pixels": spread(*found.widths),
        "height, pixels": spread(*found.heights),
        "bytes a sample": spread(*found.sample_bytes),
        "page size": megabytes(found.page_size),
    }
    if manifest:
        order = f"shuffle, seed {manifest.seed}" if manifest.order == "shuffle" else "folder"
        facts |= {
            "failures": f"{manifest.failures:,}",
            "original bytes kept": f"{manifest.copied:,}",
            "split and source": f"{manifest.split} of {manifest.source}",
            "order": order,
            "versions": ", ".join(f"{name} {number}" for name, number in manifest.versions.items()),
        }
    return facts


def print_evaluations(results: "Sequence[Evaluation]", *, as_json: bool) -> None:
    """One row a validation set."""
    if as_json:
        out.print_json(json.dumps([each.as_dict() for each in results]))
        return
    rows = []
    for each in results:
        scores = each.scores
        figures = [f"{scores.images:,}", f"{scores.top1:.2f}", f"{scores.top5:.2f}", f"{scores.loss:.4f}"]
        rows.append([str(each.data), str(each.quality or "?"), *figures])
    title = f"{results[0].run}, {results[0].weights} weights, {results[0].loader} loader"
    print_table(["data", "quality", "images", "top-1, %", "top-5, %", "loss"], rows, title=title, left=2)


def print_predictions(predictions: "Sequence[Prediction]", csv: Path) -> None:
    """The first files' likeliest classes, and where all of them are."""
    rows = []
    for each in predictions[:SHOWN_PREDICTIONS]:
        tops = [f"{name} {100 * share:.1f} %" for name, share in each.top]
        rows.append([each.file, ", ".join(tops) if tops else f"not read: {each.error}"])
    print_table(["file", "likeliest"], rows, left=2)
    if len(predictions) > SHOWN_PREDICTIONS:
        out.print(f"... and {len(predictions) - SHOWN_PREDICTIONS} more", markup=False)
    out.print(f"{csv}", markup=False)
