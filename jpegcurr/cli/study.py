"""The command ``study``: its plan, a live table of its runs, and its verdict."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from jpegcurr.cli.command_study import plan_commands, refuse_own_options, run_commands
from jpegcurr.cli.completion import complete_study
from jpegcurr.cli.options import CompileOption, DeviceOption, JsonOption, PlannedImagesOption, PrecisionOption, QuietOption
from jpegcurr.cli.terminal import describe_failures, err, out, print_table, show_log
from jpegcurr.errors import Interrupted, JpegcurrError, UsageError
from jpegcurr.progress import Lines, Nothing, Progress
from jpegcurr.system import TERMINATION, keep_freed_memory, stop_on_signals
from jpegcurr.text import duration

if TYPE_CHECKING:
    from jpegcurr.study.config import Study
    from jpegcurr.study.cost import StudyCost
    from jpegcurr.study.results import Results
    from jpegcurr.study.run import TaskResult
    from jpegcurr.study.tasks import Task


def study(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY",
            help="A YAML file, or a shipped study: two_phase_study, roadmap_study, kernel_study.",
            autocompletion=complete_study,
        ),
    ],
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="The study's folder; studies/<name of the file> if not given."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", "--dry-run", help="Print what it costs and which differences it can detect, and exit.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ARM", help="Run only this arm; repeatable.")] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", min=1, metavar="N", help="Concurrent runs, each on its own GPU or with its share of the CPU."
        ),
    ] = 1,
    launch: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Command that starts each run's process, on another machine perhaps.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE",
            help="Submit each run as a Slurm job, with options of sbatch: partition=P, time=24:00:00; repeatable.",
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="COMMAND",
            help="For a file without recipe: train by this command, 'python train.py {data} --seed {seed} --out {out}'.",
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(metavar="FILE:COLUMN", help="For --command: the number in the last row of a CSV or JSON-lines file."),
    ] = None,
    images_per_second: Annotated[
        float | None,
        typer.Option(min=0.01, metavar="X", help="For --plan: training speed of one device; measured here if not given."),
    ] = None,
    images: PlannedImagesOption = None,
    val_images: Annotated[
        int | None,
        typer.Option("--val-images", min=1, metavar="N", help="For --plan: images of a validation set, likewise."),
    ] = None,
    seed_spread: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="POINTS", help="For --plan: standard deviation of top-1 over seeds."),
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile_model: CompileOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train arms that differ in one thing with several seeds, and test whether their difference is real.

    Writes study.json, runs.csv and study.html. The same command continues after any stop, and after seeds were added to the
    file: finished runs are kept and interrupted ones are resumed.
    """
    from jpegcurr.recipe.loading import find_study
    from jpegcurr.study.command.config import is_command_study, load_command_study
    from jpegcurr.study.config import load_study
    from jpegcurr.study.folder import locked_study, validates_by

    for option, value in (("--images-per-second", images_per_second), ("--seed-spread", seed_spread)):
        if value is not None and not plan:
            raise UsageError(f"{option} is for --plan; a study that runs measures it.")
    for option, count in (("--images", images), ("--val-images", val_images)):
        if count is not None and not plan:
            raise UsageError(f"{option} is for --plan; a study that runs counts the images of its files.")
    if slurm and launch:
        raise UsageError("--slurm submits each run as a job, and --launch starts it as a process. Give only one of them.")
    show_log(quiet=quiet)
    folder = out_folder or Path("studies") / find_study(file).stem
    if is_command_study(file, command, metric):
        refuse_own_options(
            {
                "--slurm": bool(slurm),
                "--images-per-second": images_per_second is not None,
                "--images": images is not None,
                "--val-images": val_images is not None,
                "--device": device != "auto",
                "--precision": precision != "auto",
                "--compile": compile_model is not None,
            }
        )
        commands = load_command_study(file, command, metric)
        if plan:
            plan_commands(commands, folder, only or (), seed_spread, as_json=as_json)
        else:
            run_commands(
                context, commands, folder, only or (), jobs, tuple(shlex.split(launch or "")), quiet=quiet, as_json=as_json
            )
        return
    resolved = load_study(file, validates_by(folder), encoded=images is None)
    if not plan:
        context.with_resource(locked_study(folder))  # before torch is imported
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.slurm.jobs import check_accounts, check_machine, parse_options
    from jpegcurr.study.config import check_arms
    from jpegcurr.study.cost import estimate_study, measure_control_speed
    from jpegcurr.study.folder import check_folder, write_design
    from jpegcurr.study.measure import check_data
    from jpegcurr.study.page import write_page
    from jpegcurr.study.parallel import LocalLauncher, run_parallel
    from jpegcurr.study.power import SEED_SPREAD, SPREAD_SOURCE
    from jpegcurr.study.results import as_dict, read_results, write_results
    from jpegcurr.study.run import run_all
    from jpegcurr.study.slurm import SlurmLauncher
    from jpegcurr.study.tasks import list_tasks, list_unfinished

    check_arms(resolved, only or ())
    tasks = list_tasks(resolved, only or ())
    if plan:
        runtime = resolve_runtime(device, precision=precision, compile=compile_model)
        speed, source = (images_per_second, "as given") if images_per_second else measure_control_speed(resolved, runtime)
        spread, spread_source = (seed_spread, "as given") if seed_spread else (SEED_SPREAD, SPREAD_SOURCE)
        cost = estimate_study(
            resolved,
            tasks,
            images=images,
            val_images=val_images,
            speed=speed,
            speed_from=source,
            spread=spread,
            spread_from=spread_source,
        )
        print_cost(resolved, cost, as_json=as_json)
        return
    check_folder(resolved, folder)
    local = LocalLauncher(jobs, device, precision, compile_model, tuple(shlex.split(launch or "")))
    launcher = SlurmLauncher(local, parse_options(slurm)) if slurm else local
    in_processes = jobs > 1 or bool(launch or slurm)
    if slurm:
        check_machine(otherwise="without --slurm")
        check_accounts()
    elif in_processes:
        local.environments()
    else:
        runtime = resolve_runtime(device, precision=precision, compile=compile_model)
    again = f"Finished work is kept. To resume: {shlex.join(['jpegcurr', *sys.argv[1:]])}"
    keep_freed_memory()

    def report() -> "Results":
        results = read_results(resolved, folder)
        write_results(results, folder)
        write_page(results, folder / "study.html")
        return results

    try:
        with (
            stop_on_signals(signal.SIGINT, *TERMINATION) as stop,
            show_board(resolved, tasks, folder, quiet=quiet) as board,
        ):
            left = list_unfinished(resolved, tasks, folder)
            check_data(resolved, dict.fromkeys(task.trained_as for task in left), folder)
            write_design(resolved, folder)
            if in_processes:
                failed = run_parallel(resolved, left, folder, launcher, board, report)
            else:
                failed = run_all(resolved, left, folder, runtime, board, stop, report)
            results = report()
    except Interrupted as error:
        raise type(error)(f"{error} {again}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped. {again}") from None
    if as_json:
        out.print_json(json.dumps(as_dict(results)))
    else:
        print_results(results, folder)
    if failed:
        raise JpegcurrError(describe_failures(failed))


def print_cost(study: "Study", cost: "StudyCost", *, as_json: bool) -> None:
    """Print what a study costs and which differences it can detect."""
    if as_json:
        out.print_json(json.dumps(cost.as_dict()))
        return
    rows = [
        ["runs", f"{cost.arms} arms x {cost.seeds} {_seeds(cost.seeds)}", f"{cost.runs:,}"],
        ["epochs", _describe_fork(study, cost), f"{cost.epochs:,}"],
        ["images trained", "", f"{cost.images:,}"],
        ["images evaluated", *_describe_val_images(cost)],
        ["images trained per second", cost.speed_from, f"{cost.speed:,.1f}"],
    ]
    for devices, hours in cost.hours.items():
        how, name = ("one run on each", "devices") if devices > 1 else ("if loading keeps up", "device")
        rows.append([f"time on {devices} such {name}", how, duration(3600 * hours)])
    print_table([study.name, "", ""], rows, left=2)
    for sentence in describe_power(cost):
        out.print(sentence, markup=False)


def _describe_val_images(cost: "StudyCost") -> tuple[str, str]:
    if not cost.val_images:
        return "not counted: no validation set is encoded yet; give --val-images N", "?"
    return "after every epoch and at the end, raw and averaged weights, if any", f"{cost.val_images:,}"


def _describe_fork(study: "Study", cost: "StudyCost") -> str:
    if not study.trunks:
        return "every run from its first epoch"
    starts = "1 shared start" if len(study.trunks) == 1 else f"{len(study.trunks)} shared starts"
    return f"{cost.apart:,} without the fork at epoch {study.trunks[0].epoch}: {starts} per seed"


def describe_power(cost: "StudyCost") -> list[str]:
    """Return the power of the design, in sentences."""
    corrected = f"corrected for {cost.comparisons} comparisons" if cost.comparisons > 1 else ""
    spread = f"Assumed standard deviation of top-1 over seeds: {cost.spread:g} points ({cost.spread_from}; --seed-spread)."
    for_one, for_all = cost.seeds_wanted
    counts = f"{_count(for_one)} for one comparison" + (f", {_count(for_all)} {corrected}" if corrected else "")
    needed = f"Seeds needed to detect 0.2 points: {counts}."
    if cost.detectable is None:
        return [spread, "One seed detects no difference between arms, only between these trained weights.", needed]
    in_one, in_all = cost.detectable
    differences = f"{in_one:.2f} points in one comparison" + (f", {in_all:.2f} {corrected}" if corrected else "")
    return [spread, f"Detectable with 80 % power by {cost.seeds} seeds: {differences}.", needed]


def _count(seeds: int | None) -> str:
    return f"{seeds:,}" if seeds else "more than a million"


def _seeds(count: int) -> str:
    return "seed" if count == 1 else "seeds"


class Board:
    """The state of every task: a live table on a terminal, a line for each start and end elsewhere."""

    def __init__(self, study: "Study", tasks: "Sequence[Task]", folder: Path, live: Live | None, *, quiet: bool) -> None:
        self._study, self._tasks, self._folder, self._live, self._quiet = study, tasks, folder, live, quiet
        self._cells: dict[str, str] = {}
        self._epochs: dict[str, float] = {}  # trained, by task
        silent = quiet or live is not None
        self._progress = Progress(Nothing() if silent else Lines(lambda line: err.print(line, markup=False)), "epochs")
        self._began = monotonic()
        self._drawn = -1.0

    def refresh(self) -> None:
        """Read from the folder which tasks are done or begun."""
        from jpegcurr.study.tasks import epochs_recorded, is_done

        for task in self._tasks:
            epochs = epochs_recorded(self._folder / task.folder)
            self._cells[task.name] = (
                "done" if is_done(self._study, task, self._folder) else f"{epochs}/{task.last}" if epochs else "-"
            )
            self._epochs[task.name] = max(0, min(epochs, task.last) - task.first)
        self._progress.begin(self._study.name)
        self._progress.resume(*self._count_epochs())
        self._draw()

    def _count_epochs(self) -> tuple[float, int]:
        """Return the epochs that are trained, and those of all tasks."""
        return sum(self._epochs.values()), sum(task.last - task.first for task in self._tasks)

    def started(self, task: "Task") -> None:
        """Show that a task starts or resumes."""
        self._cells[task.name] = f"{task.first}/{task.last} ..."
        self._print_line(f"{task.name}: epochs {task.first} to {task.last - 1}")
        self._draw()

    def reached(self, task: "Task", epochs: float) -> None:
        """Show how many epochs of a task are done."""
        self._cells[task.name] = f"{max(epochs, task.first):.1f}/{task.last} ..."
        self._epochs[task.name] = max(epochs - task.first, 0)
        self._progress(*self._count_epochs())
        if monotonic() - self._drawn >= 0.5:
            self._draw()

    def ended(self, ended: "TaskResult") -> None:
        """Show that a task is done or has failed."""
        self._cells[ended.task.name] = ended.status
        if ended.status == "done":
            self._epochs[ended.task.name] = ended.task.last - ended.task.first
            self._progress(*self._count_epochs())
        reason = f": {ended.reason}" if ended.reason else ""
        done = sum(cell == "done" for cell in self._cells.values())
        self._print_line(
            f"{ended.task.name}: {ended.status} after {duration(ended.seconds)}{reason} ({done} of {len(self._tasks)} done)"
        )
        self._draw()

    def _print_line(self, text: str) -> None:
        if self._live is None and not self._quiet:
            err.print(text, markup=False)

    def _draw(self) -> None:
        self._drawn = monotonic()
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """Return a table with a row for every arm and shared start, and a column for every seed."""
        done = sum(cell == "done" for cell in self._cells.values())
        facts = [f"{done} of {len(self._tasks)} done", duration(monotonic() - self._began)]
        title = f"{self._study.name}: {', '.join([*facts, *self._progress.meter.describe_speed('epochs')])}"
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
def show_board(study: "Study", tasks: "Sequence[Task]", folder: Path, *, quiet: bool) -> Iterator[Board]:
    """Show the state of a study on stderr while the block runs."""
    if quiet or not err.is_terminal:
        board = Board(study, tasks, folder, None, quiet=quiet)
        board.refresh()
        yield board
        return
    with Live(console=err, auto_refresh=False, transient=True) as live:
        board = Board(study, tasks, folder, live, quiet=quiet)
        board.refresh()
        yield board


def print_results(results: "Results", folder: Path) -> None:
    """Print the primary outcome of every arm, the verdict, and the path of the page."""
    rows = []
    for arm in results.study.arms:
        cells = [results.cell(arm, column) for column in results.columns]
        means = [f"{cell.mean:.2f}" + (f" ±{cell.spread:.2f}" if cell.seeds > 1 else "") if cell else "-" for cell in cells]
        rows.append([arm, *means])
    columns = ["top-1, %", *(f"{name}, {weights}" for weights, name in results.columns)]
    print_table(columns, rows, title=f"{results.study.name}: means over seeds, ± their standard deviation")
    for sentence in results.verdict:
        out.print(sentence, markup=False)
    out.print(f"{folder / 'study.html'}", markup=False)
