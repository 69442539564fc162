"""The command ``cam``: Grad-CAM maps compared between JPEG qualities and runs, as a page."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from jpegcurr.cli.completion import complete_model
from jpegcurr.cli.options import (
    MAX_PIXELS,
    MODEL_HELP,
    CheckpointOption,
    ClassNamesOption,
    DeviceOption,
    FactoryOption,
    ForceOption,
    ImageLabelsOption,
    JsonOption,
    MaxPixelsOption,
    MeanOption,
    QualitiesOption,
    QuietOption,
    SizeOption,
    StdOption,
    WeightsOption,
    lock_outputs,
    parse_settings,
    parse_specs,
)
from jpegcurr.cli.resumable import ResumeOption, journal_beside, may_replace, show_from
from jpegcurr.cli.terminal import err, out, progress_bar
from jpegcurr.errors import UsageError, warn_renamed
from jpegcurr.system import keep_freed_memory
from jpegcurr.text import join_words

COMPARED = ["source", "50"]  # qualities, if none are given


def cam(
    context: typer.Context,
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL... IMAGES", help=f"{MODEL_HELP} Last, a folder of images.", autocompletion=complete_model
        ),
    ],
    qualities: QualitiesOption = COMPARED,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE.html", help="The page; its data is written beside it as .json.")
    ] = Path("report.html"),
    layer: Annotated[
        str | None, typer.Option(metavar="NAME", help="Layer whose maps are shown; the last stage if not given.")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="NAME", help="gradcam, or a method of pytorch-grad-cam, such as hirescam or layercam.")
    ] = "gradcam",
    target_rule: Annotated[
        Literal["label", "reference", "own"],
        typer.Option(
            "--target",
            help="Class to explain: the image's own (see --labels), the first view's prediction, or each view's own.",
        ),
    ] = "reference",
    old_target: Annotated[Literal["label", "clean", "own"] | None, typer.Option("--class", hidden=True)] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="road,confidence",
            help="Faithfulness of every map, by pytorch-grad-cam; road takes tens of forward passes per image.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Maximum images, evenly spaced over the folder; all if not given.")
    ] = None,
    pictures: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Maximum images on the page: most, median and least changed, lost, gained, random."
        ),
    ] = 60,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of the random images and of road's noise.")
    ] = 0,
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
    """Compare Grad-CAM maps between JPEG qualities and models over all images, in one offline HTML page.

    The other qualities are compared with the first. Each image is encoded in memory, as `jpegcurr encode` would store it.
    """
    lock_outputs(context, {output: "-o"})
    from jpegcurr.analysis.cam.compare import compare_cams
    from jpegcurr.analysis.cam.faithfulness import find_metrics
    from jpegcurr.analysis.cam.methods import find_method
    from jpegcurr.analysis.report.export import report_values
    from jpegcurr.analysis.report.html import report_files, write_report
    from jpegcurr.analysis.report.text import describe_converted
    from jpegcurr.files import refuse_existing
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_classifiers

    if old_target is not None:
        target_rule = "reference" if old_target == "clean" else old_target
        warn_renamed(f"--class {old_target}", f"--target {target_rule}")
    *run_folders, images = paths
    if not run_folders:
        raise UsageError("cam needs a model and a folder of images: jpegcurr cam MODEL images/.")
    known: dict[Path, Path] = {}
    for run in run_folders:
        if known.setdefault(run.resolve(), run) is not run:
            raise UsageError(f"{run} is given twice, and a model cannot be compared with itself. Give each once.")
    specs = parse_specs(qualities or COMPARED)
    lock_outputs(context, dict.fromkeys(report_files(output)[1:], "-o"))
    written = report_files(output)
    refuse_existing(written, force=may_replace(written, resume=resume, force=force))
    find_method(method)
    measured = [name.strip() for name in metrics.split(",")] if metrics is not None else []
    find_metrics(measured)
    keep_freed_memory()
    with journal_beside(context, written, resume=resume, force=force) as journal:
        runtime = resolve_runtime(device)
        settings = parse_settings(checkpoint, mean, std, size, class_names, factory)
        runs = load_classifiers(run_folders, runtime, weights, settings)
        with progress_bar(quiet=quiet) as bar:
            bar.begin(f"comparing maps of {join_words([run.name or str(run) for run in run_folders])}")
            study = compare_cams(
                runs,
                images,
                specs,
                runtime,
                layer=layer,
                method=method,
                labels=labels,
                target_rule=target_rule,
                limit=limit,
                pictures=pictures,
                seed=seed,
                metrics=measured,
                max_pixels=max_pixels,
                progress=show_from(journal, bar, quiet=quiet),
                journal=journal,
            )
        report = write_report(study, output)
        for name, reason in study.skipped:
            err.print(f"skipped: {name}: {reason}", markup=False)
        if as_json:
            out.print_json(json.dumps({"report": str(output), **report_values(report)}))
            return
        for sentence in (*report.summary, study.unknown, describe_converted(study), str(output)):
            if sentence:
                out.print(sentence, markup=False)
