"""The commands that train, and that look at what was trained; ``cli`` registers them. Rooms are imported inside them."""

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jpegcurr import console, terminal
from jpegcurr.errors import Interrupted, JpegcurrError, Terminated, UsageError
from jpegcurr.machine import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.training.epoch import Progress
    from jpegcurr.world import World

Weights = Literal["raw", "ema", "best"]
RunFolder = Annotated[Path, typer.Argument(help="The folder that `jpegcurr train --out` made.")]
WeightsOption = Annotated[Weights, typer.Option(help="The trained weights, their moving average, or the best epoch's.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]


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
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="auto: bfloat16 on a GPU that has it.")
    ] = "auto",
    compile_model: Annotated[bool, typer.Option("--compile", help="torch.compile the model.")] = False,
    quiet: QuietOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Train a model while a curriculum swaps the data at epoch boundaries.

    On several GPUs: torchrun --nproc-per-node 8 -m jpegcurr train --recipe ...
    """
    from jpegcurr.recipe_file import find_recipe, load_recipe
    from jpegcurr.runtime import collective_backend, resolve_runtime
    from jpegcurr.training.datasets import count_images
    from jpegcurr.training.run_folder import STATE
    from jpegcurr.training.schedule import planned_epochs
    from jpegcurr.training.train import check_recipe
    from jpegcurr.training.train import train as train_recipe
    from jpegcurr.world import joined

    if as_json and not plan:
        raise UsageError("--json is for --plan; a run writes metrics.jsonl.")
    if plan:
        settled = load_recipe(find_recipe(recipe), overrides or ())
        check_recipe(settled)
        console.print_plan(planned_epochs(settled, count_images(settled)), as_json=as_json)
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
        terminal.show_log(quiet=quiet, mute=not world.is_first)
        with world.first_alone():
            settled = load_recipe(find_recipe(recipe), overrides or ())
        with terminal.step_bar(quiet=quiet or not world.is_first) as bar:

            def on_step(progress: "Progress") -> None:
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
    if world.is_first:
        terminal.out.print(f"{folder}", markup=False)


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


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `jpegcurr train --out` made.")],
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="A validation beton; repeatable. The first run's if not given.")
    ] = None,
    qualities: Annotated[
        str | None,
        typer.Option(help="source,90,50: made of the source beton as it is loaded. If not given, the data as it is stored."),
    ] = None,
    on_the_fly: Annotated[
        bool, typer.Option("--on-the-fly", help="Encode what the model sees, after the resize: another, stronger treatment.")
    ] = False,
    csv: Annotated[Path | None, typer.Option("--csv", "-o", help="Write the figures to a file, one row an arm.")] = None,
    weights: WeightsOption = "raw",
    loader: Annotated[Literal["auto", "ffcv", "plain"], typer.Option(help="The decode path; auto: as in training.")] = "auto",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure runs on validation sets and at JPEG qualities, and compare each with the first on the same images."""
    from jpegcurr.analysis.evaluate import at_qualities, compare_evaluations, evaluate_runs, open_arms, source_sets
    from jpegcurr.analysis.evaluate import validation_sets as own_sets
    from jpegcurr.analysis.evaluation_tables import to_csv
    from jpegcurr.encoding.options import parse_specs
    from jpegcurr.files import refuse_existing, refuse_unwritable, write_text
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.model import load_run

    if on_the_fly and qualities is None:
        raise UsageError("--on-the-fly says where --qualities are made. Give them too: --qualities source,50.")
    wanted = [spec.quality for spec in parse_specs(qualities.split(","))] if qualities is not None else None
    if csv is not None:
        refuse_unwritable([csv.parent])
        refuse_existing([csv], force=force)
    keep_freed_memory()
    runtime = resolve_runtime(device)
    loaded = [load_run(run, runtime, weights) for run in dict.fromkeys(runs)]
    if wanted is None:
        betons = {str(path): path for path in data} if data else own_sets(loaded[0])
    else:
        betons = at_qualities(data or source_sets(loaded[0]), wanted, "view" if on_the_fly else "stored")
    arms = open_arms(loaded, betons)
    total, done = len(loaded) * sum(len(arm.beton) for arm in arms), 0
    with terminal.progress_bar("img") as bar:

        def on_images(more: int) -> None:
            nonlocal done
            done += more
            bar.update("evaluate", done, total)

        results = list(evaluate_runs(loaded, arms, runtime, loader=loader, on_images=on_images))
    pairs = compare_evaluations(results)
    if csv is not None:
        write_text(csv, to_csv(results, pairs))
    console.print_evaluations(results, pairs, as_json=as_json)


def predict(
    run: Annotated[Path, typer.Argument(help="A run's folder, or a model that `jpegcurr models` lists.")],
    images: Annotated[list[Path], typer.Argument(help="Images, and folders of images.")],
    csv: Annotated[Path, typer.Option("--csv", "-o", help="Where to write the table.")] = Path("predictions.csv"),
    submission: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Every class's probability, as Kaggle asks for them.")
    ] = None,
    identity: Annotated[
        Literal["stem", "name", "path"], typer.Option("--id", help="What --submission calls a file: 7, 7.jpg or x/7.jpg.")
    ] = "stem",
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE.html|FILE.png", help="A contact sheet: pictures, classes and bars.")
    ] = None,
    sheet_limit: Annotated[int, typer.Option(min=1, help="Images on the sheet at most, evenly spaced.")] = 200,
    by_class: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Links to the images as <truth>/<predicted>/name.jpg.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copies in --by-class in place of links.")] = False,
    confusion: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="The confusion matrix.")] = None,
    weights: WeightsOption = "raw",
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Weights for a model of timm's, which are downloaded if not given.")
    ] = None,
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Classify image files: the five likeliest classes of each, as a table, a CSV file and whatever else is asked for.

    The truth of an image is the folder that it lies in, if that is called like one of the run's classes.
    """
    from jpegcurr.analysis.classification import Outputs, classify_files
    from jpegcurr.analysis.named_models import load_classifier
    from jpegcurr.analysis.predict import find_all
    from jpegcurr.runtime import resolve_runtime

    keep_freed_memory()
    files = find_all(images)
    outputs = Outputs(csv, submission, identity, sheet, sheet_limit, by_class, copy, confusion)
    outputs.check(files, force=force)
    runtime = resolve_runtime(device)
    loaded = load_classifier(run, runtime, weights, checkpoint=checkpoint)
    with terminal.progress_bar("img") as bar:
        summary = classify_files(loaded, files, runtime, outputs, lambda done: bar.update("predict", done, len(files)))
    console.print_predictions(summary, outputs.written())
    if len(summary.unread) == len(files):
        raise JpegcurrError(f"None of the {len(files)} files is an image that can be read.")


def models(
    pattern: Annotated[str, typer.Argument(metavar="[FILTER]", help="Part of a name, or a pattern; '*' for all.")] = "convnext",
    as_json: JsonOption = False,
) -> None:
    """List timm's pretrained classifiers, each of which can stand in place of a run in predict, and their legacy names."""
    from jpegcurr.analysis.named_models import list_named

    console.print_models(list_named(pattern), as_json=as_json)


def cam(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN... IMAGES", help="One run or more, then a folder of images.")],
    qualities: Annotated[str, typer.Option(help="The first is what the others are compared with.")] = "source,50",
    output: Annotated[Path, typer.Option("--output", "-o", help="The page; its figures go beside it as .json.")] = Path(
        "report.html"
    ),
    layer: Annotated[str | None, typer.Option(help="The layer explained; the last stage if not given.")] = None,
    method: Annotated[
        str, typer.Option(help="gradcam, or one of pytorch-grad-cam's, such as hirescam or layercam.")
    ] = "gradcam",
    explains: Annotated[
        Literal["label", "clean", "own"],
        typer.Option("--class", help="Explain the folder's class, the prediction in the first view, or each view's own."),
    ] = "clean",
    limit: Annotated[int, typer.Option(min=1, help="Images at most, evenly spaced over the folder.")] = 50,
    weights: WeightsOption = "raw",
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Compare Grad-CAM maps between JPEG qualities and runs, in one offline HTML page."""
    from jpegcurr.analysis.cam import compare_cams
    from jpegcurr.analysis.methods import find_method
    from jpegcurr.analysis.report import verdict, write_report
    from jpegcurr.encoding.options import parse_specs
    from jpegcurr.files import refuse_existing, refuse_unwritable
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.model import load_run

    *run_folders, images = paths
    if not run_folders:
        raise UsageError("cam needs a run and a folder of images: jpegcurr cam RUN images/.")
    if output.suffix != ".html":
        raise UsageError(f"-o {output}: the report is a page; give it a name that ends in .html.")
    specs = parse_specs(qualities.split(","))
    refuse_unwritable([output.parent])
    refuse_existing([output, output.with_suffix(".json")], force=force)
    find_method(method)
    runtime = resolve_runtime(device)
    runs = [load_run(folder, runtime, weights) for folder in run_folders]
    with terminal.progress_bar("img") as bar:
        study = compare_cams(
            runs,
            images,
            specs,
            runtime,
            layer=layer,
            method=method,
            explains=explains,
            limit=limit,
            on_images=lambda done, of: bar.update("cam", done, of),
        )
    comparisons = write_report(study, output)
    for name, reason in study.skipped:
        terminal.err.print(f"left out: {name}: {reason}", markup=False)
    for sentence in verdict(study, comparisons):
        terminal.out.print(sentence, markup=False)
    terminal.out.print(f"{output}", markup=False)
