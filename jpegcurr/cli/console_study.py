"""Studies on the terminal: the plan, a table of what is running, and the verdict."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table

from jpegcurr.cli.terminal import err, out, print_table
from jpegcurr.text import duration

if TYPE_CHECKING:
    from jpegcurr.study.config import Study
    from jpegcurr.study.cost import StudyCost
    from jpegcurr.study.results import Results
    from jpegcurr.study.run import TaskResult
    from jpegcurr.study.tasks import Task


def print_estimate(study: "Study", estimate: "StudyCost", *, as_json: bool) -> None:
    """What a study costs and could find."""
    if as_json:
        out.print_json(json.dumps(estimate.as_dict()))
        return
    rows = [
        ["runs", f"{estimate.arms} arms x {estimate.seeds} {_seeds(estimate.seeds)}", f"{estimate.runs:,}"],
        ["epochs", _forked(study, estimate), f"{estimate.epochs:,}"],
        ["images trained", "", f"{estimate.images:,}"],
        ["images evaluated", "after every epoch and at the end, raw and averaged weights", f"{estimate.val_images:,}"],
        ["images trained a second", estimate.speed_from, f"{estimate.speed:,.1f}"],
    ]
    for devices, hours in estimate.hours.items():
        how, name = ("one run on each", "devices") if devices > 1 else ("if loading keeps up", "device")
        rows.append([f"time on {devices} such {name}", how, duration(3600 * hours)])
    print_table([study.name, "", ""], rows, left=2)
    for sentence in what_could_be_found(estimate):
        out.print(sentence, markup=False)


def _forked(study: "Study", estimate: "StudyCost") -> str:
    if not study.trunks:
        return "every run whole"
    starts = "1 shared start" if len(study.trunks) == 1 else f"{len(study.trunks)} shared starts"
    return f"{estimate.apart:,} without the fork at epoch {study.trunks[0].epoch}: {starts} a seed"


def what_could_be_found(estimate: "StudyCost") -> list[str]:
    """The power of the design, in sentences."""
    corrected = f"corrected for {estimate.comparisons} comparisons" if estimate.comparisons > 1 else ""
    spread = f"Top-1 is taken to spread by {estimate.spread:g} points over seeds ({estimate.spread_from}; --seed-spread)."
    single, held = estimate.seeds_wanted
    needed = f"{_count(single)} for one comparison" + (f", {_count(held)} {corrected}" if corrected else "")
    wanted = f"Seeds for 0.2 points: {needed}."
    if estimate.detectable is None:
        return [spread, "One seed finds no difference between arms, only between these trained weights.", wanted]
    one, many = estimate.detectable
    found = f"{one:.2f} points in one comparison" + (f", {many:.2f} {corrected}" if corrected else "")
    return [spread, f"Found with 80 % power by {estimate.seeds} seeds: {found}.", wanted]


def _count(seeds: int | None) -> str:
    return f"{seeds:,}" if seeds else "more than a million"


def _seeds(count: int) -> str:
    return "seed" if count == 1 else "seeds"


class Board:
    """Which tasks are done, running, failed or left: a live table on a terminal, a line at each end elsewhere."""

    def __init__(self, study: "Study", tasks: "Sequence[Task]", folder: Path, live: Live | None, *, quiet: bool) -> None:
        self._study, self._tasks, self._folder, self._live, self._quiet = study, tasks, folder, live, quiet
        self._cells: dict[str, str] = {}
        self._began = monotonic()
        self._drawn = -1.0

    def look(self) -> None:
        """See what is there already."""
        from jpegcurr.study.tasks import epochs_recorded, is_done

        for task in self._tasks:
            epochs = epochs_recorded(self._folder / task.folder)
            self._cells[task.name] = (
                "done" if is_done(self._study, task, self._folder) else f"{epochs}/{task.last}" if epochs else "-"
            )
        self._draw()

    def started(self, task: "Task") -> None:
        """See ``study.run.Watcher``."""
        self._cells[task.name] = f"{task.first}/{task.last} ..."
        self._say(f"{task.name}: epochs {task.first} to {task.last - 1}")
        self._draw()

    def reached(self, task: "Task", epochs: float) -> None:
        """See ``study.run.Watcher``."""
        self._cells[task.name] = f"{max(epochs, task.first):.1f}/{task.last} ..."
        if monotonic() - self._drawn >= 0.5:
            self._draw()

    def ended(self, ended: "TaskResult") -> None:
        """See ``study.run.Watcher``."""
        self._cells[ended.task.name] = ended.status
        reason = f": {ended.reason}" if ended.reason else ""
        done = sum(cell == "done" for cell in self._cells.values())
        self._say(
            f"{ended.task.name}: {ended.status} after {duration(ended.seconds)}{reason} ({done} of {len(self._tasks)} done)"
        )
        self._draw()

    def _say(self, text: str) -> None:
        if self._live is None and not self._quiet:
            err.print(text, markup=False)

    def _draw(self) -> None:
        self._drawn = monotonic()
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """A row for every arm and every shared start, a column for every seed."""
        done = sum(cell == "done" for cell in self._cells.values())
        title = f"{self._study.name}: {done} of {len(self._tasks)} done, {duration(monotonic() - self._began)}"
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        table.add_column("arm")
        for seed in self._study.seeds:
            table.add_column(f"seed {seed}", justify="right")
        for row in dict.fromkeys(task.name.rpartition("/")[0] for task in self._tasks):
            shared = next((trunk for trunk in self._study.trunks if trunk.name == row), None)
            name = f"shared by {', '.join(shared.arms)}" if shared else row
            table.add_row(name, *(self._cells.get(f"{row}/seed-{seed}", "") for seed in self._study.seeds))
        return table


@contextmanager
def board(study: "Study", tasks: "Sequence[Task]", folder: Path, *, quiet: bool) -> Iterator[Board]:
    """Show how far a study is on stderr while the block runs."""
    if quiet or not err.is_terminal:
        shown = Board(study, tasks, folder, None, quiet=quiet)
        shown.look()
        yield shown
        return
    with Live(console=err, auto_refresh=False, transient=True) as live:
        shown = Board(study, tasks, folder, live, quiet=quiet)
        shown.look()
        yield shown


def print_results(results: "Results", folder: Path) -> None:
    """The primary outcome of every arm, the verdict, and where all of it is."""
    rows = []
    for arm in results.study.arms:
        cells = [results.cell(arm, column) for column in results.columns]
        shown = [f"{cell.mean:.2f}" + (f" ±{cell.spread:.2f}" if cell.seeds > 1 else "") if cell else "-" for cell in cells]
        rows.append([arm, *shown])
    columns = ["top-1, %", *(f"{name}, {weights}" for weights, name in results.columns)]
    print_table(columns, rows, title=f"{results.study.name}: means over seeds, ± their deviation")
    for sentence in results.verdict:
        out.print(sentence, markup=False)
    out.print(f"{folder / 'study.html'}", markup=False)


def describe_failures(failed: "Sequence[TaskResult]") -> str:
    """Which runs failed, why, and what to do."""
    lines = "".join(f"\n  {each.task.name}: {each.reason}" + (f" ({each.log})" if each.log else "") for each in failed)
    runs = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
    return f"{runs} failed; the others are done. The same command tries them again.{lines}"
