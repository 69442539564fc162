"""The command ``train``: a run or its plan, and how to resume it."""

import json
import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.completion import complete_override, complete_recipe, complete_tracker
from jpegcurr.cli.options import CompileOption, DeviceOption, JsonOption, PlannedImagesOption, PrecisionOption, QuietOption
from jpegcurr.cli.terminal import out, print_table, show_log, step_bar
from jpegcurr.errors import BetonError, Interrupted, RecipeError, Terminated, UsageError, did_you_mean
from jpegcurr.system import TERMINATION, keep_freed_memory, stop_on_signals

log = logging.getLogger("jpegcurr")

if TYPE_CHECKING:
    from jpegcurr.recipe.values import Tracker
    from jpegcurr.runtime import World
    from jpegcurr.training.loop import StepInfo
    from jpegcurr.training.schedule import PlannedEpoch
    from jpegcurr.training.tracking import Row


def train(
    context: typer.Context,
    recipe: Annotated[
        Path,
        typer.Option(
            "--recipe",
            "-r",
            metavar="NAME|FILE",
            help="A shipped recipe (see jpegcurr recipe --list), or a YAML file.",
            autocompletion=complete_recipe,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="Change a field (see jpegcurr recipe): --set batch.size=64; repeatable.",
            autocompletion=complete_override,
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option(
            "--track",
            metavar="tensorboard|wandb",
            help="Send metrics to this tracker too, besides those of the recipe; repeatable.",
            autocompletion=complete_tracker,
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="The run's folder; runs/<name of the recipe> if not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run in --out.")] = False,
    save_every: Annotated[
        int | None,
        typer.Option("--save-every", min=1, metavar="STEPS", help="Also save within epochs, every so many steps."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print every epoch's data, learning rates, image size and steps, and exit.")
    ] = False,
    board: Annotated[
        bool, typer.Option("--board", help="Keep a page of the run's curves, board.html, in its folder: new after each epoch.")
    ] = False,
    images: PlannedImagesOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile_model: CompileOption = None,
    kernels: Annotated[
        bool,
        typer.Option(
            "--kernels", help="On a GPU, train ConvNeXt's blocks by kernels of our own, uncompiled; not measured yet."
        ),
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model while a curriculum swaps the data at epoch boundaries.

    On several GPUs: torchrun --nproc-per-node 8 -m jpegcurr train --recipe ...
    """
    given, trackers = list(overrides or ()), parse_trackers(track or ())
    if board and plan:
        raise UsageError("--board is of a run that trains; --plan trains nothing.")
    if plan:
        print_plan(*_plan(recipe, given, trackers, images), as_json=as_json)
        return
    if images is not None:
        raise UsageError("--images is for --plan; a run counts the images of its files.")
    from jpegcurr.training.run_folder import STATE, locked_run

    keep_freed_memory()
    from jpegcurr.recipe.loading import find_recipe, load_recipe

    folder = out_folder or Path("runs") / find_recipe(recipe).stem
    if os.environ.get("WORLD_SIZE", "1") == "1":  # before torch is imported
        context.with_resource(locked_run(folder))  # several processes leave it to ``train``, where all of them notice a refusal
    from jpegcurr.runtime import collective_backend, compile_arguments, joined, resolve_runtime
    from jpegcurr.training.train import train as train_recipe

    options = {"--device": device, "--precision": precision, "--save-every": str(save_every or "auto")}
    again = ["--recipe", str(recipe), *(part for text in given for part in ("--set", text)), "--out", str(folder)]
    again += [part for name in trackers for part in ("--track", name)]
    again += [part for option, value in options.items() if value != "auto" for part in (option, value)]
    again += [*compile_arguments(compile_model), *(["--kernels"] if kernels else []), *(["--board"] if board else [])]
    with (
        joined(collective_backend()) as world,
        _resume_command_in_errors(folder / STATE, world, again),
        stop_on_signals(*TERMINATION) as stop,
    ):
        show_log(quiet=quiet, mute=not world.is_main)
        with world.main_process_first():
            resolved = load_recipe(find_recipe(recipe), given).tracked_by(trackers)
        with step_bar(quiet=quiet or not world.is_main) as bar, _line_in_errors(recipe, given):

            def on_step(info: "StepInfo") -> None:
                stop.defer()
                bar.update(info)

            metrics = train_recipe(
                resolved,
                folder,
                runtime=resolve_runtime(device, precision=precision, compile=compile_model, world=world, kernels=kernels),
                resume=resume,
                save_every=save_every,
                on_step=on_step,
                on_epoch=(lambda: write_board_of(folder)) if board else (lambda: None),
                stop=stop.requested,
            )
    if world.is_main:
        print_run(folder, metrics.rows, as_json=as_json)


def parse_trackers(values: Sequence[str]) -> "list[Tracker]":
    """Parse the trackers of ``--track``, one or more at a time; raise UsageError for an unknown one."""
    known: dict[str, Tracker] = {"tensorboard": "tensorboard", "wandb": "wandb"}
    trackers = []
    for name in (name.strip() for value in values for name in value.split(",")):
        if name not in known:
            raise UsageError(f"--track {name!r}: no such tracker.{did_you_mean(name, known)} Give {' or '.join(known)}.")
        trackers.append(known[name])
    return trackers


def print_run(folder: Path, rows: "Sequence[Row]", *, as_json: bool) -> None:
    """Print the folder of a run that has ended; as JSON with the metrics of its last epoch."""
    from jpegcurr.files import json_values

    if as_json:
        last = json_values(rows[-1]) if rows else None
        out.print_json(json.dumps({"run": str(folder), "epochs": len(rows), "last": last}))
    else:
        out.print(f"{folder}", markup=False)


def write_board_of(folder: Path) -> None:
    """Write ``board.html`` of the run in ``folder``; a failure is a warning, since the run itself is saved."""
    from jpegcurr.analysis.runs.board import write_board
    from jpegcurr.analysis.runs.records import read_record

    try:
        write_board([read_record(folder, folder.resolve().name)], folder / "board.html")
    except OSError as error:
        log.warning("%s could not be written (%s); training continues", folder / "board.html", error.strerror or error)


def _plan(
    recipe: Path, overrides: Sequence[str], track: "Sequence[Tracker]", images: int | None
) -> "tuple[list[PlannedEpoch], list[str]]":
    from jpegcurr.recipe.loading import find_recipe, load_recipe
    from jpegcurr.training.schedule import plan_run

    resolved = load_recipe(find_recipe(recipe), overrides).tracked_by(track)
    with _line_in_errors(recipe, overrides):
        return plan_run(resolved, images)


def print_plan(epochs: "Sequence[PlannedEpoch]", remarks: Sequence[str], *, as_json: bool) -> None:
    """Print one row per epoch, their sums, and ``remarks``."""
    if as_json:
        out.print_json(json.dumps([epoch.as_dict() for epoch in epochs]))
        return
    rows = []
    for epoch in epochs:
        rates = [f"{epoch.lr_first:.3e}", f"{epoch.lr_last:.3e}"]
        counts = [str(epoch.size), f"{epoch.steps:,}", f"{epoch.images:,}"]
        rows.append([str(epoch.plan.epoch), str(epoch.plan.phase), epoch.plan.data, *rates, *counts])
    print_table(["epoch", "phase", "data", "lr, first step", "last step", "pixels", "steps", "images"], rows, left=3)
    steps, images = sum(epoch.steps for epoch in epochs), sum(epoch.images for epoch in epochs)
    out.print(f"{len(epochs)} epochs, {steps:,} steps, {images:,} images", markup=False)
    for remark in remarks:
        out.print(remark, markup=False)


@contextmanager
def _line_in_errors(recipe: Path, overrides: Sequence[str]) -> Iterator[None]:
    """Add the recipe's line to errors that are only noticed after it was read, such as those of the files that it names."""
    from jpegcurr.recipe.loading import add_line_number, find_recipe

    try:
        yield
    except (BetonError, RecipeError) as error:
        raise type(error)(add_line_number(str(error), find_recipe(recipe), overrides)) from None


@contextmanager
def _resume_command_in_errors(state: Path, world: "World", arguments: list[str]) -> Iterator[None]:
    """Add the command that resumes the run to the message of whatever stops it."""
    machines = world.ranks > world.local_ranks
    torchrun = ["torchrun", "--nproc-per-node", str(world.local_ranks), "-m"] if world.ranks > 1 and not machines else []
    where = "as before, on each machine, " if machines else ""

    def command(*more: str) -> str:
        return where + shlex.join([*torchrun, "jpegcurr", "train", *arguments, *more])

    try:
        yield
    except Terminated as error:
        raise Terminated(f"{error} To resume: {command('--resume')}") from None
    except KeyboardInterrupt:
        again = f"resume from the last checkpoint: {command('--resume')}" if state.exists() else f"start again: {command()}"
        raise Interrupted(f"stopped. To {again}") from None
