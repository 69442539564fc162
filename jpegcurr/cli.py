"""The command line: a command reads its options, calls its room and prints what came of it.

Rooms are imported inside the commands, so that ``--help`` is quick and ``encode`` never imports torch.
"""

import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

import jpegcurr
from jpegcurr import console, terminal
from jpegcurr.errors import Interrupted, JpegcurrError, UsageError
from jpegcurr.machine import keep_freed_memory

app = typer.Typer(
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="JPEG-quality curricula: encode a data set at several qualities, train through a swap, see what it did.",
)

Weights = Literal["raw", "ema"]
RunFolder = Annotated[Path, typer.Argument(help="The folder that `jpegcurr train --out` made.")]
WeightsOption = Annotated[Weights, typer.Option(help="The trained weights, or their moving average.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    if arguments is not None:
        sys.exit(_run(arguments))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's word before it kills is answered like Ctrl-C
    # Everything is closed and flushed by here. Python's own way out would free torch's objects one by one for seconds, and
    # join the threads of every native library that was loaded; one that does not end keeps the process for ever.
    os._exit(_run(None))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, prog_name="jpegcurr", standalone_mode=False)
        sys.stdout.flush()
    except (JpegcurrError, typer.TyperException) as error:
        terminal.fail(error.format_message() if isinstance(error, typer.TyperException) else str(error))
        return error.exit_code
    except BrokenPipeError:  # who reads our output has seen enough
        return 1
    except OSError as error:
        terminal.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 1
    if code == Interrupted.exit_code:
        terminal.fail("interrupted. Files under way were removed, those that are whole were kept.")
    return code if isinstance(code, int) else 0


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        terminal.out.print(f"jpegcurr {jpegcurr.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def encode(
    src: Annotated[str, typer.Argument(help="What to encode, see above.")] = "data/imagenet",
    quality: Annotated[
        list[str] | None, typer.Option("--quality", help="1 to 100, or source for the original bytes; repeatable.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the betons.")] = Path("betons"),
    labels: Annotated[Path | None, typer.Option(help="A CSV or TSV of path,label; or ImageNet's val labels.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only this one; or the name of an unnamed one.")] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--classes", help="Only these: A,B,C or a file with one a line; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each split at most, chosen by --seed.")] = None,
    order: Annotated[
        Literal["auto", "shuffle", "folder"], typer.Option(help="auto: train is shuffled, every other split is not.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the shuffle and of --limit.")] = 0,
    subsampling: Annotated[
        Literal["420", "422", "444", "keep"] | None,
        typer.Option(help="Chroma of what is encoded; keep: as in the source; 420 if not given."),
    ] = None,
    max_side: Annotated[int | None, typer.Option(min=1, max=65500, help="Make larger images this long, pixels.")] = None,
    short_side: Annotated[int | None, typer.Option(min=1, max=65500, help="Make larger images this short, pixels.")] = None,
    resize_filter: Annotated[
        Literal["box", "bilinear", "hamming", "bicubic", "lanczos"] | None,
        typer.Option("--filter", help="Of the resize, Pillow's; bicubic if not given."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="All processors if not given.")] = None,
    dask: Annotated[str | None, typer.Option(help="Encode on a Dask cluster: its scheduler's address.")] = None,
    max_failures: Annotated[
        str, typer.Option(metavar="N|N%", help="Images of each split that may be left out because they cannot be read.")
    ] = "0",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, how large and how soon.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an encode stopped; keep what is finished.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace what is there; with --resume, only what was made otherwise.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Re-encode labelled images at one or more JPEG qualities into FFCV .beton files.

    SRC is a folder with train/<class>/* and val/<class>/*, or <class>/*; a folder of images with --labels labels.csv;
    a folder with ImageNet's own ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; WebDataset shards (a folder of them, or
    'shards/train-{000..146}.tar'); or a Hugging Face data set, hf:NAME[:CONFIGURATION].
    """
    from jpegcurr.encoding.encode import encode_dataset
    from jpegcurr.encoding.estimate import estimate_splits
    from jpegcurr.encoding.executors import open_executor
    from jpegcurr.encoding.options import parse_classes, parse_max_failures, parse_resize, parse_specs
    from jpegcurr.encoding.plan import plan_outputs, refusal
    from jpegcurr.encoding.sources import open_sources

    if dry_run and resume:
        raise UsageError(
            "--dry-run tells what a whole encode would make, not what --resume would find. Leave one of them away."
        )
    terminal.show_log(quiet=quiet)
    specs = parse_specs(quality or (), subsampling, parse_resize(max_side, short_side, resize_filter))
    allowed = parse_max_failures(max_failures)
    only = parse_classes(classes or ())
    keep_freed_memory()
    with (
        _interruptible("stopped." if dry_run else "stopped. What is encoded is kept: the same command with --resume goes on."),
        open_executor(threads, dask) as (executor, workers),
    ):
        sources = open_sources(src, labels=labels, splits=split or (), classes=only, limit=limit, seed=seed)
        outputs = plan_outputs(sources, specs, output)
        if dry_run:
            estimates = estimate_splits(sources, outputs, executor, seed=seed)
            console.print_estimates(estimates, output, refusal(outputs, replacing=force), as_json=as_json)
            return
        with console.encode_progress(quiet=quiet) as watcher:
            done = encode_dataset(
                sources,
                outputs,
                executor=executor,
                workers=workers,
                order=None if order == "auto" else order,
                seed=seed,
                max_failures=allowed,
                resume=resume,
                force=force,
                watcher=watcher,
            )
    console.print_encoded(done, as_json=as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .beton.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check every byte and decode every sample; exit code 1 if one is wrong.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a .beton: samples, classes, quality, chroma, sizes, failures, versions."""
    from jpegcurr.encoding.inspect import inspect_beton
    from jpegcurr.encoding.verify import verify_beton

    found = inspect_beton(file)
    wrong = None
    if verify:
        with terminal.progress_bar("img") as bar:
            wrong = list(verify_beton(file, lambda done, total: bar.update("verify", done, total)))
    console.print_inspection(found, wrong, as_json=as_json)
    if wrong:
        named = "\n".join(f"  {complaint}" for complaint in wrong[:5])
        places = "1 place" if len(wrong) == 1 else f"{len(wrong)} places"
        raise JpegcurrError(f"{file} is not right in {places}. Encode it again with --force:\n{named}")


@app.command()
def train(
    recipe: Annotated[Path, typer.Option("--recipe", "-r", help="A YAML file, or the name of a shipped recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field: --set batch.size=64; repeatable."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The run's folder; runs/<recipe's name> if not given.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    device: DeviceOption = "auto",
    quiet: QuietOption = False,
) -> None:
    """Train a model while a curriculum swaps the data at epoch boundaries."""
    from jpegcurr.recipe_file import find_recipe, load_recipe
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.run_folder import STATE
    from jpegcurr.training.train import train as train_recipe

    terminal.show_log(quiet=quiet)
    keep_freed_memory()
    path = find_recipe(recipe)
    settled = load_recipe(path, overrides or ())
    folder = out or Path("runs") / path.stem
    try:
        with terminal.progress_bar("step", quiet=quiet, live_only=True) as bar:
            train_recipe(
                settled,
                folder,
                runtime=resolve_runtime(device),
                resume=resume,
                on_step=lambda plan, done, steps: bar.update(f"epoch {plan.epoch} ({plan.data})", done, steps),
            )
    except KeyboardInterrupt:
        again = ["jpegcurr", "train", "--recipe", str(recipe), *(part for each in overrides or () for part in ("--set", each))]
        again += ["--out", str(folder), *(["--device", device] if device != "auto" else [])]
        again += ["--resume"] if (folder / STATE).exists() else []
        raise Interrupted(f"stopped. To go on after the last whole epoch: {shlex.join(again)}") from None
    terminal.out.print(f"{folder}", markup=False)


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[
        list[Path] | None, typer.Option("--data", help="A validation beton; repeatable. The recipe's if not given.")
    ] = None,
    weights: WeightsOption = "raw",
    loader: Annotated[Literal["auto", "ffcv", "plain"], typer.Option(help="The decode path; auto: as in training.")] = "auto",
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure top-1, top-5 and loss of a run on stored validation sets."""
    from jpegcurr.analysis.evaluate import evaluate_run, validation_sets
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.model import load_run

    keep_freed_memory()
    runtime = resolve_runtime(device)
    loaded = load_run(run, runtime, weights)
    betons = {str(path): path for path in data} if data else validation_sets(loaded)
    with terminal.progress_bar("set") as bar:
        results = []
        for evaluation in evaluate_run(loaded, betons, runtime, loader=loader):
            results.append(evaluation)
            bar.update("evaluate", len(results), len(betons))
    console.print_evaluations(results, as_json=as_json)


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    csv: Annotated[Path, typer.Option("--csv", "-o", help="Where to write the table.")] = Path("predictions.csv"),
    weights: WeightsOption = "raw",
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Classify image files: the five likeliest classes of each, as a table and a CSV file."""
    from jpegcurr.analysis.predict import find_images, predict_images, to_csv
    from jpegcurr.files import refuse_existing, refuse_unwritable, write_text
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.model import load_run

    refuse_unwritable([csv.parent])
    refuse_existing([csv], force=force)
    files = find_images(images)
    runtime = resolve_runtime(device)
    loaded = load_run(run, runtime, weights)
    predictions = []
    with terminal.progress_bar("img") as bar:
        for prediction in predict_images(loaded, files, runtime):
            predictions.append(prediction)
            bar.update("predict", len(predictions), len(files))
    write_text(csv, to_csv(predictions))
    console.print_predictions(predictions, csv)
    unread = sum(1 for prediction in predictions if prediction.error)
    if unread:
        terminal.err.print(f"{unread} of {len(predictions)} files could not be read; the table says why.", markup=False)
    if unread == len(predictions):
        raise JpegcurrError(f"None of the {len(files)} files is an image that can be read.")


@app.command()
def cam(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN... IMAGES", help="One run or more, then a folder of images.")],
    qualities: Annotated[str, typer.Option(help="The first is what the others are compared with.")] = "source,50",
    output: Annotated[Path, typer.Option("--output", "-o", help="The page; its figures go beside it as .json.")] = Path(
        "report.html"
    ),
    layer: Annotated[str | None, typer.Option(help="The layer explained; the last stage if not given.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Images at most, evenly spaced over the folder.")] = 50,
    weights: WeightsOption = "raw",
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Compare Grad-CAM maps between JPEG qualities and runs, in one offline HTML page."""
    from jpegcurr.analysis.cam import compare_cams
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
    runtime = resolve_runtime(device)
    runs = [load_run(folder, runtime, weights) for folder in run_folders]
    with terminal.progress_bar("img") as bar:
        study = compare_cams(
            runs,
            images,
            specs,
            runtime,
            layer=layer,
            limit=limit,
            on_images=lambda done, of: bar.update("cam", done, of),
        )
    comparisons = write_report(study, output)
    for name, reason in study.skipped:
        terminal.err.print(f"left out: {name}: {reason}", markup=False)
    for sentence in verdict(study, comparisons):
        terminal.out.print(sentence, markup=False)
    terminal.out.print(f"{output}", markup=False)


@contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Answer Ctrl-C with ``message`` and exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(message) from None
