"""The command line: a command reads its options, calls its room and prints what came of it.

Rooms are imported inside the commands, so that ``--help`` is quick and ``encode`` never imports torch.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import jpegcurr
from jpegcurr import console
from jpegcurr.errors import JpegcurrError, UsageError

if TYPE_CHECKING:
    from jpegcurr.encoding.codec import EncodeSpec
    from jpegcurr.encoding.manifest import Manifest

INTERRUPTED = 130

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
    try:
        code = app(args=arguments, prog_name="jpegcurr", standalone_mode=False)
    except (JpegcurrError, typer.TyperException) as error:
        console.fail(error.format_message() if isinstance(error, typer.TyperException) else str(error))
        code = error.exit_code
    except OSError as error:
        console.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        code = 1
    if code == INTERRUPTED:
        console.fail("interrupted. Files under way were removed, those that are whole were kept.")
    sys.exit(code if isinstance(code, int) else 0)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        console.out.print(f"jpegcurr {jpegcurr.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command()
def encode(
    src: Annotated[Path, typer.Argument(help="A folder with train/<class>/* and val/<class>/*, or <class>/*.")] = Path(
        "data/imagenet"
    ),
    quality: Annotated[
        list[str] | None, typer.Option("--quality", help="1 to 100, or source for the original bytes; repeatable.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder for the betons.")] = Path("betons"),
    order: Annotated[
        Literal["auto", "shuffle", "folder"], typer.Option(help="auto: train is shuffled, every other split is not.")
    ] = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the shuffle.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="All processors if not given.")] = None,
    dask: Annotated[str | None, typer.Option(help="Encode on a Dask cluster: its scheduler's address.")] = None,
    max_failures: Annotated[int, typer.Option(min=0, help="Images that may be left out because they cannot be read.")] = 0,
    force: ForceOption = False,
    quiet: QuietOption = False,
) -> None:
    """Re-encode an image folder at one or more JPEG qualities into FFCV .beton files."""
    from jpegcurr.encoding.encode import encode_dataset, output_files
    from jpegcurr.encoding.executors import open_executor
    from jpegcurr.encoding.sources import open_splits
    from jpegcurr.files import refuse_existing

    specs = _specs(quality)
    sources = open_splits(src)
    outputs = {source.split: {output / f"{source.split}-{spec.name}.beton": spec for spec in specs} for source in sources}
    refuse_existing([file for split in outputs.values() for beton in split for file in output_files(beton)], force=force)
    done: dict[Path, Manifest] = {}
    for source in sources:
        with (
            console.encode_progress(source.split, len(source.items), quiet=quiet) as on_outcome,
            open_executor(threads, dask) as (executor, workers),
        ):
            done |= encode_dataset(
                source,
                outputs[source.split],
                executor=executor,
                workers=workers,
                order=None if order == "auto" else order,
                seed=seed,
                max_failures=max_failures,
                force=force,
                on_outcome=on_outcome,
            )
    console.print_encoded(done)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .beton.")],
    verify: Annotated[bool, typer.Option("--verify", help="Decode every sample; exit code 1 if one is not right.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what is in a .beton: samples, classes, quality, chroma, sizes, failures, versions."""
    from jpegcurr.encoding.inspect import inspect_beton, verify_beton

    console.print_inspection(inspect_beton(file), as_json=as_json)
    if not verify:
        return
    with console.progress_bar("img") as bar:
        wrong = verify_beton(file, lambda done, total: bar.update("verify", done, total))
    if wrong:
        named = "\n".join(f"  {complaint}" for complaint in wrong[:5])
        raise JpegcurrError(f"{file} has samples that are not right ({len(wrong)}). Encode it again with --force:\n{named}")
    console.err.print(f"{file}: every sample decodes.", markup=False)


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
    from jpegcurr.recipe import find_recipe, load_recipe
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.run_folder import STATE
    from jpegcurr.training.train import train as train_recipe

    console.show_log(quiet=quiet)
    path = find_recipe(recipe)
    settled = load_recipe(path, overrides or ())
    folder = out or Path("runs") / path.stem
    try:
        with console.progress_bar("step", quiet=quiet, live_only=True) as bar:
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
        console.fail(f"stopped. To go on after the last whole epoch: {shlex.join(again)}")
        sys.exit(INTERRUPTED)
    console.out.print(f"{folder}", markup=False)


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

    runtime = resolve_runtime(device)
    loaded = load_run(run, runtime, weights)
    betons = {str(path): path for path in data} if data else validation_sets(loaded)
    with console.progress_bar("set") as bar:
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
    from jpegcurr.files import refuse_existing, write_text
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.model import load_run

    refuse_existing([csv], force=force)
    files = find_images(images)
    runtime = resolve_runtime(device)
    loaded = load_run(run, runtime, weights)
    predictions = []
    with console.progress_bar("img") as bar:
        for prediction in predict_images(loaded, files, runtime):
            predictions.append(prediction)
            bar.update("predict", len(predictions), len(files))
    write_text(csv, to_csv(predictions))
    console.print_predictions(predictions, csv)
    unread = sum(1 for prediction in predictions if prediction.error)
    if unread:
        console.err.print(f"{unread} of {len(predictions)} files could not be read; the table says why.", markup=False)
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
    from jpegcurr.files import refuse_existing
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.model import load_run

    *run_folders, images = paths
    if not run_folders:
        raise UsageError("cam needs a run and a folder of images: jpegcurr cam RUN images/.")
    if output.suffix != ".html":
        raise UsageError(f"-o {output}: the report is a page; give it a name that ends in .html.")
    specs = _specs(qualities.split(","))
    refuse_existing([output, output.with_suffix(".json")], force=force)
    runtime = resolve_runtime(device)
    runs = [load_run(folder, runtime, weights) for folder in run_folders]
    with console.progress_bar("img") as bar:
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
        console.err.print(f"left out: {name}: {reason}", markup=False)
    for sentence in verdict(study, comparisons):
        console.out.print(sentence, markup=False)
    console.out.print(f"{output}", markup=False)


def _specs(qualities: Sequence[str] | None) -> "list[EncodeSpec]":
    """Read qualities as they are typed, each once, in order."""
    from jpegcurr.encoding.codec import EncodeSpec, parse_quality

    if not qualities:
        raise UsageError("Which quality? Give --quality 50, or --quality source for the original bytes, or both.")
    return [EncodeSpec(quality) for quality in dict.fromkeys(parse_quality(text.strip()) for text in qualities)]
