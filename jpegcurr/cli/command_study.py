"""The part of the command ``study`` for a trainer of anybody's: its plan, its runs, and its verdict."""

import json
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from jpegcurr.cli.terminal import describe_failures, err, out, print_table
from jpegcurr.errors import Interrupted, JpegcurrError, UsageError
from jpegcurr.system import TERMINATION, stop_on_signals
from jpegcurr.text import duration

if TYPE_CHECKING:
    from jpegcurr.study.command.config import CommandStudy
    from jpegcurr.study.command.results import CommandResults
    from jpegcurr.study.run import TaskResult
    from jpegcurr.study.tasks import Task


def refuse_own_options(options: Mapping[str, bool]) -> None:
    """Raise UsageError for an option, by name, that was given and is about jpegcurr's own training."""
    if wrong := next((name for name, there in options.items() if there), None):
        ways = {"--slurm": "--launch 'srun --gpus 1' starts it on another machine."}
        ways |= dict.fromkeys(
            ("--images", "--val-images", "--images-per-second"), "How long a command takes is not known. Omit it."
        )
        way = ways.get(wrong, "Put it into the command.")
        raise UsageError(f"{wrong} is for jpegcurr's own training, and this study has a command. {way}")


def plan_commands(study: "CommandStudy", folder: Path, only: Sequence[str], spread: float | None, *, as_json: bool) -> None:
    """Print the runs, the differences that they can detect, and the command of each arm with the first seed."""
    from jpegcurr.study.command.config import list_command_tasks
    from jpegcurr.study.power import corrected_level, difference_spread, smallest_detectable

    tasks = list_command_tasks(study, only)
    comparisons, seeds = len(study.arms) - 1, len(study.seeds)
    detectable = [
        smallest_detectable(difference_spread(spread or 1.0), seeds, level=corrected_level(count)) if seeds > 1 else None
        for count in (1, comparisons)
    ]
    commands = {str(task.arm): shlex.join(study.command(task, folder)) for task in tasks if task.seed == study.seeds[0]}
    if as_json:
        known: dict[str, Any] = {
            "arms": len(study.arms),
            "seeds": seeds,
            "runs": len(tasks),
            "comparisons": comparisons,
            "spread": spread or 1.0,
        }
        known["unit"] = "the metric's" if spread else "standard deviations over the seeds of one arm"
        out.print_json(json.dumps({**known, "detectable": detectable, "commands": commands}))
        return
    print_table(
        [study.name, "", ""],
        [["runs", f"{len(commands)} arms x {seeds} seed{'' if seeds == 1 else 's'}", f"{len(tasks):,}"]],
        left=2,
    )
    for line in commands.values():
        out.print(line, markup=False)
    out.print(_describe_power(detectable, seeds, comparisons, spread), markup=False)


def _describe_power(detectable: Sequence[float | None], seeds: int, comparisons: int, spread: float | None) -> str:
    single, corrected = detectable
    if single is None or corrected is None:
        return "One seed detects no difference between arms: there is no test over a single seed."
    unit = "" if spread else " standard deviations over the seeds of one arm"
    hint = "" if spread else " With --seed-spread it is in the unit of the metric."
    more = f", {corrected:.3g} corrected for {comparisons} comparisons" if comparisons > 1 else ""
    return f"Detectable with 80 % power by {seeds} seeds: {single:.3g}{unit} in one comparison{more}.{hint}"


def run_commands(
    context: typer.Context,
    study: "CommandStudy",
    folder: Path,
    only: Sequence[str],
    jobs: int,
    launch: tuple[str, ...],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Do the runs that are not done, and print the verdict."""
    from jpegcurr.study.command.config import list_command_tasks
    from jpegcurr.study.command.page import write_page
    from jpegcurr.study.command.results import as_dict, check_folder, read_results, write_design, write_results
    from jpegcurr.study.command.run import CommandLauncher, check_metric_files, read_outcome, record_ended
    from jpegcurr.study.folder import locked_study
    from jpegcurr.study.parallel import LocalLauncher, run_parallel

    context.with_resource(locked_study(folder))
    tasks = list_command_tasks(study, only)
    check_folder(study, folder)
    check_metric_files(study, tasks, folder, jobs)
    left = [task for task in tasks if read_outcome(folder, task) is None and not record_ended(study, task, folder)]
    again = f"Finished work is kept. To resume: {shlex.join(['jpegcurr', *sys.argv[1:]])}"

    def report() -> "CommandResults":
        results = read_results(study, folder)
        write_results(results, folder)
        write_page(results, folder / "study.html")
        return results

    try:
        with stop_on_signals(signal.SIGINT, *TERMINATION):
            write_design(study, folder)
            lines = _Lines(len(tasks), len(tasks) - len(left), quiet=quiet)
            failed = run_parallel(study, left, folder, CommandLauncher(LocalLauncher(jobs, launch=launch)), lines, report)
            results = report()
    except Interrupted as error:
        raise type(error)(f"{error} {again}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped. {again}") from None
    if as_json:
        out.print_json(json.dumps(as_dict(results)))
    else:
        print_command_results(results, folder)
    if failed:
        raise JpegcurrError(describe_failures(failed))


class _Lines:
    """A line on stderr for the start and the end of every run."""

    def __init__(self, tasks: int, done: int, *, quiet: bool) -> None:
        self._tasks, self._done, self._quiet = tasks, done, quiet

    def started(self, task: "Task") -> None:
        """Print that a run starts."""
        self._print(f"{task.name}: started")

    def reached(self, task: "Task", epochs: float) -> None:
        """Show nothing: what a command has done is in its log."""

    def ended(self, result: "TaskResult") -> None:
        """Print that a run is done or has failed."""
        self._done += result.status == "done"
        reason = f": {result.reason}" if result.reason else ""
        after = duration(result.seconds)
        self._print(f"{result.task.name}: {result.status} after {after}{reason} ({self._done} of {self._tasks} done)")

    def _print(self, text: str) -> None:
        if not self._quiet:
            err.print(text, markup=False)


def print_command_results(results: "CommandResults", folder: Path) -> None:
    """Print the metric of every arm, the verdict, and the path of the page."""
    rows = []
    for arm in results.study.arms:
        values, (mean, spread) = results.values(arm), results.mean(arm)
        cells = [f"{values[seed]:.5g}" if seed in values else "-" for seed in results.study.seeds]
        rows.append([arm, f"{mean:.5g} ±{spread:.3g}" if len(values) > 1 else f"{mean:.5g}" if values else "-", *cells])
    heads = [results.study.column, "mean", *(f"seed {seed}" for seed in results.study.seeds)]
    print_table(heads, rows, title=f"{results.study.name}: means over seeds, ± their standard deviation")
    for sentence in results.verdict:
        out.print(sentence, markup=False)
    out.print(f"{folder / 'study.html'}", markup=False)
