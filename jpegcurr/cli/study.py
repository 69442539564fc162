"""The command that compares curricula over seeds; ``cli`` registers it. Rooms are imported inside it."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli import console_study, terminal
from jpegcurr.cli.runs import CompileOption, DeviceOption, PrecisionOption, QuietOption
from jpegcurr.errors import Interrupted, JpegcurrError, UsageError
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.study.results import Results


def study(
    file: Annotated[Path, typer.Argument(metavar="STUDY", help="A YAML file, or the name of a shipped study.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The study's folder; studies/<the file's name> if not given.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", "--dry-run", help="Say what it costs and what it could find, and leave.")
    ] = False,
    only: Annotated[list[str] | None, typer.Option("--only", metavar="ARM", help="Run only this arm; repeatable.")] = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Runs at a time, each on a GPU of its own, or with its share of a CPU.")
    ] = 1,
    launch: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="What starts each run's process, on another machine if it likes.")
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION=VALUE", help="Each run as a Slurm job: sbatch's partition=P, time=24:00:00; repeatable."),
    ] = None,
    images_per_second: Annotated[
        float | None, typer.Option(min=0.01, help="Of --plan: what one device trains; measured here if not given.")
    ] = None,
    seed_spread: Annotated[
        float | None, typer.Option(min=0.001, help="Of --plan: standard deviation of top-1 over seeds, points.")
    ] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile_model: CompileOption = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Train arms that differ in one thing with several seeds, and say whether the difference is real.

    What is finished is kept and what is half done goes on: call it again after any stop, or with more seeds in the file. It
    writes study.json, runs.csv and study.html.
    """
    from jpegcurr.files import locked
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.slurm.jobs import check_accounts, check_machine, parse_options
    from jpegcurr.study.config import check_arms, load_study
    from jpegcurr.study.cost import estimate_study, measure_control_speed
    from jpegcurr.study.folder import check_folder, write_design
    from jpegcurr.study.measure import check_data
    from jpegcurr.study.page import write_page
    from jpegcurr.study.parallel import LocalLauncher, run_parallel
    from jpegcurr.study.power import SEED_SPREAD, SPREAD_SOURCE
    from jpegcurr.study.results import read_results, write_results
    from jpegcurr.study.run import run_all, stoppable
    from jpegcurr.study.slurm import SlurmLauncher
    from jpegcurr.study.tasks import list_tasks, list_unfinished

    if as_json and not plan:
        raise UsageError("--json is for --plan; a study writes study.json.")
    for option, value in (("--images-per-second", images_per_second), ("--seed-spread", seed_spread)):
        if value is not None and not plan:
            raise UsageError(f"{option} is for --plan; what a study finds is measured.")
    if slurm and launch:
        raise UsageError("--slurm submits each run, and --launch starts it: give one of them.")
    terminal.show_log(quiet=quiet)
    settled = load_study(file)
    check_arms(settled, only or ())
    tasks = list_tasks(settled, only or ())
    if plan:
        runtime = resolve_runtime(device, precision=precision, compile=compile_model)
        speed, source = (images_per_second, "as given") if images_per_second else measure_control_speed(settled, runtime)
        spread, spread_source = (seed_spread, "as given") if seed_spread else (SEED_SPREAD, SPREAD_SOURCE)
        estimate = estimate_study(settled, tasks, speed=speed, speed_from=source, spread=spread, spread_from=spread_source)
        console_study.print_estimate(settled, estimate, as_json=as_json)
        return
    folder = out or Path("studies") / settled.name
    check_folder(settled, folder)
    workers = LocalLauncher(jobs, device, precision, compile_model, tuple(shlex.split(launch or "")))
    places = SlurmLauncher(workers, parse_options(slurm)) if slurm else workers
    apart = jobs > 1 or bool(launch or slurm)
    if slurm:
        check_machine(otherwise="without --slurm")
        check_accounts()
    elif apart:
        workers.environments()
    else:
        runtime = resolve_runtime(device, precision=precision, compile=compile_model)
    again = f"To go on: {shlex.join(['jpegcurr', *sys.argv[1:]])}"
    keep_freed_memory()

    def report() -> "Results":
        results = read_results(settled, folder)
        write_results(results, folder)
        write_page(results, folder / "study.html")
        return results

    try:
        with (
            stoppable() as stop,
            locked(folder / ".study.lock", folder, doing="run", option="--out"),
            console_study.board(settled, tasks, folder, quiet=quiet) as board,
        ):
            left = list_unfinished(settled, tasks, folder)
            check_data(settled, dict.fromkeys(task.trained_as for task in left))
            write_design(settled, folder)
            if apart:
                failed = run_parallel(settled, left, folder, places, board, report)
            else:
                failed = run_all(settled, left, folder, runtime, board, stop, report)
            results = report()
    except Interrupted as error:
        raise type(error)(f"{error} What is done is kept. {again}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"stopped. What is done is kept. {again}") from None
    console_study.print_results(results, folder)
    if failed:
        raise JpegcurrError(console_study.describe_failures(failed))
