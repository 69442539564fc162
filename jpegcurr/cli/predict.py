"""The command ``predict``: the likeliest classes of image files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jpegcurr.cli.options import (
    MAX_PIXELS,
    CheckpointOption,
    ClassNamesOption,
    DeviceOption,
    FactoryOption,
    ForceOption,
    ImageLabelsOption,
    JsonOption,
    MaxPixelsOption,
    MeanOption,
    ModelArgument,
    QuietOption,
    SizeOption,
    StdOption,
    WeightsOption,
    lock_outputs,
    parse_settings,
)
from jpegcurr.cli.resumable import ResumeOption, journal_beside, may_replace, show_from
from jpegcurr.cli.terminal import err, out, print_table, progress_bar
from jpegcurr.errors import JpegcurrError
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.analysis.prediction.confusion import Confusion
    from jpegcurr.analysis.prediction.outputs import Summary

MOST_UNREAD = 20  # files that are printed one by one


def predict(
    context: typer.Context,
    run: ModelArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES", help="Image files, and folders of images.")],
    csv: Annotated[Path, typer.Option("--csv", "-o", metavar="FILE.csv", help="File for the table.")] = Path("predictions.csv"),
    submission: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write every class's probability, in Kaggle's format.")
    ] = None,
    identity: Annotated[
        Literal["stem", "name", "path"], typer.Option("--id", help="How --submission names a file: 7, 7.jpg or x/7.jpg.")
    ] = "stem",
    raw_submission: Annotated[
        bool, typer.Option("--raw-submission", help="Write names in --submission as they are, without an apostrophe before =.")
    ] = False,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html|FILE.png", help="Write a contact sheet: images with their likeliest classes."),
    ] = None,
    sheet_limit: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum images on the sheet, evenly spaced.")] = 200,
    by_class: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Link the images as FOLDER/<truth>/<predicted>/name.jpg.")
    ] = None,
    copy: Annotated[bool, typer.Option("--copy", help="With --by-class, copy the images instead of linking.")] = False,
    confusion: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the confusion matrix.")] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="Write a page, with FILE.json: matrix, precision, recall and F1 by class, confidence, calibration.",
        ),
    ] = None,
    positive: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="With --report, judge CLASS against all others: outcomes, precision-recall, ROC."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(metavar="T", help="Probability from which an image counts as --positive; 0.5 if not given.")
    ] = None,
    view: Annotated[
        Literal["crop", "whole"],
        typer.Option(help="What the model sees: the centre crop, or the whole image at the same scale, one image at a time."),
    ] = "crop",
    labels: ImageLabelsOption = None,
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    class_names: ClassNamesOption = None,
    factory: FactoryOption = None,
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    resume: ResumeOption = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Classify image files: the five likeliest classes of each, as a table, a CSV file and further outputs.

    The true class of an image is what `jpegcurr encode` would take it for: the first folder below IMAGES (or below its split),
    or the folder that holds it. With --labels it is read from a table. What has no class of the run is left out of accuracies.
    """
    named = dict[Path | None, str]()
    named |= {csv: "--csv", submission: "--submission", sheet: "--sheet", by_class: "--by-class", confusion: "--confusion"}
    if report is not None and report.name:
        named |= {report: "--report", report.with_suffix(".json"): "--report"}
    lock_outputs(context, named)
    from jpegcurr.analysis.prediction.outputs import PRINTED, Outputs, classify_files
    from jpegcurr.encoding.sources.labelled_files import find_labelled
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_classifier

    keep_freed_memory()
    files = find_labelled(images, labels)
    shown = (report, positive, threshold)
    outputs = Outputs(csv, submission, identity, raw_submission, sheet, sheet_limit, by_class, copy, confusion, *shown)
    outputs.check(files.files, force=may_replace(outputs.written(), resume=resume, force=force))
    with journal_beside(context, outputs.written(), resume=resume, force=force) as journal:
        runtime = resolve_runtime(device)
        settings = parse_settings(checkpoint, mean, std, size, class_names, factory)
        loaded = load_classifier(run, runtime, weights, settings=settings)
        with progress_bar(quiet=quiet) as bar:
            bar.begin(f"classifying by {run.name or run}")
            summary = classify_files(
                loaded,
                files,
                runtime,
                outputs,
                show_from(journal, bar, quiet=quiet),
                keep=None if as_json else PRINTED,
                max_pixels=max_pixels,
                view=view,
                journal=journal,
            )
        if as_json:
            out.print_json(json.dumps({**summary.as_dict(), "written": [str(path) for path in outputs.written()]}))
        else:
            print_predictions(summary, outputs.written())
    print_unread(summary)
    if len(summary.unread) == len(files):
        raise JpegcurrError(f"None of the {len(files)} files is a readable image.")


def print_predictions(summary: "Summary", written: Sequence[Path]) -> None:
    """Print the first files' likeliest classes, the most confused classes, and the files written."""
    from jpegcurr.analysis.class_names import full_name

    rows = []
    for prediction in summary.first:
        tops = [f"{full_name(name)} {100 * share:.1f} %" for name, share in prediction.top]
        rows.append([prediction.file, ", ".join(tops) if tops else f"not read: {prediction.error}"])
    print_table(["file", "likeliest classes"], rows, left=2)
    if summary.files > len(rows):
        out.print(f"... and {summary.files - len(rows)} more", markup=False)
    if summary.confusion is not None and summary.confusion.images:
        _print_confusion(summary.confusion)
    for sentence in summary.report[1:]:  # the first is the accuracy, which the confusion states
        out.print(sentence, markup=False)
    if summary.unknown:
        out.print(summary.unknown, markup=False)
    for path in written:
        out.print(f"{path}", markup=False)


def print_unread(summary: "Summary") -> None:
    """Print which files could not be read, on stderr."""
    if summary.unread:
        err.print(f"{len(summary.unread)} of {summary.files} files could not be read; the table has the reasons.", markup=False)
    for name, reason in summary.unread[:MOST_UNREAD]:
        err.print(f"not read: {name}: {reason}", markup=False)


def _print_confusion(confusion: "Confusion") -> None:
    from jpegcurr.analysis.class_names import full_name

    share = 100 * confusion.right / confusion.images
    out.print(f"{confusion.right:,} of {confusion.images:,} labelled images are right: {share:.2f} %", markup=False)
    rows = [
        [full_name(pair.truth), full_name(pair.predicted), f"{pair.count} of {pair.images}"]
        for pair in confusion.most_confused()
    ]
    if rows:
        print_table(["class", "most often mistaken for", "images"], rows, left=2)
