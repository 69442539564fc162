"""The command that trains; ``cli`` registers it. Rooms are imported inside it."""

import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli import console, terminal
from jpegcurr.cli.runs import CompileOption, DeviceOption, PrecisionOption, QuietOption
from jpegcurr.errors import BetonError, Interrupted, RecipeError, Terminated, UsageError
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.runtime import World
    from jpegcurr.training.loop import StepInfo


def train(
    recipe: Annotated[Path, typer.Option("--recipe", "-r", help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field: --set batch.size=64; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/<recipe's name> if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    save_every: Annotated[
        int | None, typer.Option("--save-every", min=1, metavar="STEPS", help="Save within epochs too, every so many steps.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print every epoch's data, learning rates, size and steps, and leave.")
    ] = False,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "auto",
    compile_model: CompileOption = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Train a model while a curriculum swaps the data at epoch boundaries.

    On several GPUs: torchrun --nproc-per-node 8 -m jpegcurr train --recipe ...
    """
    from jpegcurr.recipe.loading import find_recipe, load_recipe
    from jpegcurr.runtime import collective_backend, joined, resolve_runtime
    from jpegcurr.training.run_folder import STATE
    from jpegcurr.training.schedule import plan_run
    from jpegcurr.training.train import train as train_recipe

    if as_json and not plan:
        raise UsageError("--json is for --plan; a run writes metrics.jsonl.")
    if plan:
        settled = load_recipe(find_recipe(recipe), overrides or ())
        with _in_its_line(recipe, overrides or ()):
            planned = plan_run(settled)
        console.print_plan(planned, as_json=as_json)
        return
    keep_freed_memory()
    folder = out or Path("runs") / recipe.stem
    options = {"--device": device, "--precision": precision, "--save-every": str(save_every or "auto")}
    again = ["--recipe", str(recipe), *(part for each in overrides or () for part in ("--set", each)), "--out", str(folder)]
    again += [part for option, value in options.items() if value != "auto" for part in (option, value)]
    again += ["--compile"] if compile_model else []
    with (
        joined(collective_backend()) as world,
        _told_how_to_go_on(folder / STATE, world, again),
        _terminated() as (stop, begun),
    ):
        terminal.show_log(quiet=quiet, mute=not world.is_main)
        with world.main_process_first():
            settled = load_recipe(find_recipe(recipe), overrides or ())
        with terminal.step_bar(quiet=quiet or not world.is_main) as bar, _in_its_line(recipe, overrides or ()):

            def on_step(progress: "StepInfo") -> None:
                begun()
                bar.update(progress)

            train_recipe(
                settled,
                folder,
                runtime=resolve_runtime(device, precision=precision, compile=compile_model, world=world),
                resume=resume,
                save_every=save_every,
                on_step=on_step,
                stop=stop,
            )
    if world.is_main:
        terminal.out.print(f"{folder}", markup=False)


@contextmanager
def _in_its_line(recipe: Path, overrides: Sequence[str]) -> Iterator[None]:
    """What is found wrong after a recipe was read, in its files say, is told with the recipe's line too."""
    from jpegcurr.recipe.loading import find_recipe, in_its_line

    try:
        yield
    except (BetonError, RecipeError) as error:
        raise type(error)(in_its_line(str(error), find_recipe(recipe), overrides)) from None


@contextmanager
def _told_how_to_go_on(state: Path, world: "World", arguments: list[str]) -> Iterator[None]:
    """Whoever stops a run is told the command that goes on with it."""
    start = ["torchrun", "--nproc-per-node", str(world.local_ranks), "-m"] if world.ranks > 1 else []
    several = "as before, on each machine, " if world.ranks > world.local_ranks else ""

    def command(*more: str) -> str:
        return several + shlex.join([*([] if several else start), "jpegcurr", "train", *arguments, *more])

    try:
        yield
    except Terminated as error:
        raise Terminated(f"{error} To go on: {command('--resume')}") from None
    except KeyboardInterrupt:
        again = command(*(["--resume"] if state.exists() else []))
        raise Interrupted(f"stopped. To go on after the last checkpoint: {again}") from None


@contextmanager
def _terminated() -> Iterator[tuple[Callable[[], bool], Callable[[], None]]]:
    """Yield what says whether SIGTERM has come, as schedulers send it some time before they kill; and what to tell of a step.

    Before the first step, when there is nothing to save, it is answered like Ctrl-C.
    """
    came, under_way = Event(), Event()

    def answer(_number: int, _frame: object) -> None:
        came.set()
        if not under_way.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, answer)
    try:
        yield came.is_set, under_way.set
    finally:
        signal.signal(signal.SIGTERM, before)
