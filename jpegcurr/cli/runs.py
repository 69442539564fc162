"""The commands that look at what was trained; ``cli`` registers them. Rooms are imported inside them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jpegcurr.cli import console, terminal
from jpegcurr.errors import JpegcurrError, UsageError, warn_renamed
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.encoding.jpeg.codec import Quality

Weights = Literal["raw", "ema", "best"]
RunFolder = Annotated[Path, typer.Argument(help="The folder that `jpegcurr train --out` made.")]
WeightsOption = Annotated[Weights, typer.Option(help="The trained weights, their moving average, or the best epoch's.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="auto: bfloat16 on a GPU that has it.")
]
CompileOption = Annotated[bool, typer.Option("--compile", help="torch.compile the model.")]
ForceOption = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
DataOption = Annotated[
    list[Path] | None, typer.Option("--data", help="A validation beton; repeatable. The (first) run's if not given.")
]
QualitiesOption = Annotated[
    str | None,
    typer.Option(help="source,90,50: made of the source beton as it is loaded. If not given, the data as it is stored."),
]
OnTheFlyOption = Annotated[
    bool, typer.Option("--on-the-fly", help="Encode what the model sees, after the resize: another, stronger treatment.")
]
LoaderOption = Annotated[Literal["auto", "ffcv", "plain"], typer.Option(help="The decode path; auto: as in training.")]


def parse_qualities(qualities: str | None, *, on_the_fly: bool) -> "list[Quality] | None":
    """What ``--qualities`` says, None if it is not given; raises UsageError for a quality that is none."""
    from jpegcurr.cli.options import parse_specs

    if qualities is not None:
        return [spec.quality for spec in parse_specs(qualities.split(","))]
    if on_the_fly:
        raise UsageError("--on-the-fly says where --qualities are made. Give them too: --qualities source,50.")
    return None


def evaluate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `jpegcurr train --out` made.")],
    data: DataOption = None,
    qualities: QualitiesOption = None,
    on_the_fly: OnTheFlyOption = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", "-o", metavar="FILE.csv", help="Write the figures to a file, one row an arm.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the accuracy of each class, one row a class.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Draw the accuracy over the qualities.")] = None,
    weights: WeightsOption = "raw",
    loader: LoaderOption = "auto",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure runs on validation sets and at JPEG qualities, and compare each with the first on the same images."""
    from jpegcurr.analysis.evaluation.evaluate import choose_sets, compare_evaluations, evaluate_runs, open_arms
    from jpegcurr.analysis.evaluation.outputs import EvaluationFiles
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_run

    wanted = parse_qualities(qualities, on_the_fly=on_the_fly)
    files = EvaluationFiles(csv, classes, plot)
    files.check(force=force)
    keep_freed_memory()
    runtime = resolve_runtime(device)
    loaded = [load_run(run, runtime, weights) for run in dict.fromkeys(runs)]
    arms = open_arms(loaded, choose_sets(loaded[0], data or (), wanted, "after_resize" if on_the_fly else "before_crop"))
    total, done = len(loaded) * sum(len(arm.beton) for arm in arms), 0
    with terminal.progress_bar("img") as bar:

        def on_images(more: int) -> None:
            nonlocal done
            done += more
            bar.update("evaluate", done, total)

        results = list(evaluate_runs(loaded, arms, runtime, loader=loader, on_images=on_images))
    pairs = compare_evaluations(results)
    files.write(results, pairs)
    console.print_evaluations(results, pairs, files.paths, as_json=as_json)


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
    from jpegcurr.analysis.prediction.outputs import Outputs, classify_files
    from jpegcurr.analysis.prediction.predict import find_all
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_classifier

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
    from jpegcurr.training.models.load import list_named

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
        Literal["label", "reference", "own"],
        typer.Option("--target", help="Explain the folder's class, the first view's prediction, or each view's own."),
    ] = "reference",
    explains_before: Annotated[Literal["label", "clean", "own"] | None, typer.Option("--class", hidden=True)] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="road,confidence",
            help="pytorch-grad-cam's, of every map: road costs tens of forward passes an image, confidence a few.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Images at most, evenly spaced over the folder; all if not given.")
    ] = None,
    pictures: Annotated[
        int, typer.Option(min=1, help="Images shown at most: most, median and least changed, lost, gained, random.")
    ] = 60,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the random ones among them, and of road's noise.")] = 0,
    weights: WeightsOption = "raw",
    device: DeviceOption = "auto",
    force: ForceOption = False,
) -> None:
    """Compare Grad-CAM maps between JPEG qualities and runs over all images, in one offline HTML page."""
    from jpegcurr.analysis.cam.compare import compare_cams
    from jpegcurr.analysis.cam.faithfulness import find_metrics
    from jpegcurr.analysis.cam.methods import find_method
    from jpegcurr.analysis.report.html import report_files, write_report
    from jpegcurr.cli.options import parse_specs
    from jpegcurr.files import refuse_existing, refuse_unwritable
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_run

    if explains_before is not None:
        explains = "reference" if explains_before == "clean" else explains_before
        warn_renamed(f"--class {explains_before}", f"--target {explains}")
    *run_folders, images = paths
    if not run_folders:
        raise UsageError("cam needs a run and a folder of images: jpegcurr cam RUN images/.")
    known: dict[Path, Path] = {}
    for run in run_folders:
        if known.setdefault(run.resolve(), run) is not run:
            raise UsageError(f"{run} is given twice: a run and itself have nothing to compare. Give each run once.")
    if output.suffix != ".html":
        raise UsageError(f"-o {output}: the report is a page; give it a name that ends in .html.")
    specs = parse_specs(qualities.split(","))
    refuse_unwritable([output.parent])
    refuse_existing(report_files(output), force=force)
    find_method(method)
    measured = [name.strip() for name in metrics.split(",")] if metrics is not None else []
    find_metrics(measured)
    keep_freed_memory()
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
            target_rule=explains,
            limit=limit,
            pictures=pictures,
            seed=seed,
            metrics=measured,
            on_images=lambda done, of: bar.update("cam", done, of),
        )
    report = write_report(study, output)
    for name, reason in study.skipped:
        terminal.err.print(f"left out: {name}: {reason}", markup=False)
    for sentence in report.summary:
        terminal.out.print(sentence, markup=False)
    terminal.out.print(f"{output}", markup=False)
