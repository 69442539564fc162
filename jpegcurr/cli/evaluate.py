"""The command ``evaluate``: accuracy of runs on validation sets and at JPEG qualities, and how they differ."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    LoaderOption,
    MaxPixelsOption,
    MeanOption,
    MergeOption,
    OnTheFlyOption,
    QualitiesOption,
    QuietOption,
    SizeOption,
    StdOption,
    ValidationOption,
    WeightsOption,
    lock_outputs,
    parse_qualities,
    parse_settings,
)
from jpegcurr.cli.resumable import ResumeOption, journal_beside, may_replace, show_from
from jpegcurr.cli.terminal import out, print_table, progress_bar, show_log
from jpegcurr.errors import UsageError
from jpegcurr.progress import Progress
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.analysis.evaluation.evaluate import Evaluation
    from jpegcurr.analysis.stats import Paired
    from jpegcurr.recipe.values import Stage


def evaluate(
    context: typer.Context,
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="MODEL...", help=f"{MODEL_HELP} The others are compared with the first.", autocompletion=complete_model
        ),
    ],
    data: ValidationOption = None,
    qualities: QualitiesOption = None,
    on_the_fly: OnTheFlyOption = False,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", "-o", metavar="FILE.csv", help="Write all metrics, one row per run and validation set."),
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Write the accuracy of each class, one row per class.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw accuracy against quality, or bytes: --axis.")
    ] = None,
    axis: Annotated[
        Literal["quality", "bytes"], typer.Option(help="What --plot draws accuracy against; bytes are kB an image.")
    ] = "quality",
    labels: ImageLabelsOption = None,
    merge: MergeOption = None,
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    class_names: ClassNamesOption = None,
    factory: FactoryOption = None,
    loader: LoaderOption = "auto",
    device: DeviceOption = "auto",
    max_pixels: MaxPixelsOption = MAX_PIXELS,
    resume: ResumeOption = False,
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure models on validation sets and at JPEG qualities, and compare each with the first on the same images.

    With --qualities the source images are encoded again while they are loaded; without, files are evaluated as they are.
    """
    lock_outputs(context, {csv: "--csv", classes: "--classes", plot: "--plot"})
    from jpegcurr.analysis.evaluation.evaluate import compare_evaluations
    from jpegcurr.analysis.evaluation.evaluate import evaluate as evaluate_models
    from jpegcurr.analysis.evaluation.outputs import EvaluationFiles
    from jpegcurr.runtime import collective_backend, joined, resolve_runtime
    from jpegcurr.training.models.load import load_classifiers

    chosen = parse_qualities(qualities, on_the_fly=on_the_fly)
    settings = parse_settings(checkpoint, mean, std, size, class_names, factory)
    if axis == "bytes" and on_the_fly:
        raise UsageError(
            "--axis bytes: with --on-the-fly the JPEGs are of what the model gets, and no file stores them. Omit one."
        )
    files = EvaluationFiles(csv, classes, plot, axis)
    with joined(collective_backend()) as world:
        show_log(quiet=True, mute=not world.is_main)
        if world.is_main:
            files.check(force=may_replace(files.paths, resume=resume, force=force))
        keep_freed_memory()
        stage: Stage = "after_resize" if on_the_fly else "before_crop"
        with journal_beside(context, files.paths, resume=resume, force=force, world=world) as journal:
            runtime = resolve_runtime(device, world=world)
            loaded = load_classifiers(list(dict.fromkeys(runs)), runtime, weights, settings)
            with progress_bar(quiet=quiet or not world.is_main) as bar:
                bar.begin("evaluating")
                results = evaluate_models(
                    loaded,
                    data,
                    chosen,
                    runtime=runtime,
                    labels=labels,
                    stage=stage,
                    loader=loader,
                    max_pixels=max_pixels,
                    merge=merge,
                    progress=show_from(journal, bar, quiet=quiet or not world.is_main),
                    announce=lambda name: bar.rename(f"evaluating {name}"),
                    byte_progress=partial(show_bytes, bar),
                    journal=journal,
                )
            if world.is_main:
                pairs = compare_evaluations(results)
                files.write(results, pairs)
                print_evaluations(results, pairs, files.paths, as_json=as_json)


def show_bytes(bar: Progress, done: int, total: int) -> None:
    """Show how far the pass is that comes before an evaluation and measures the bytes of a beton's images."""
    bar.update("counting bytes", done, total)
    if done == total:
        bar.begin("evaluating")


def print_evaluations(
    results: "Sequence[Evaluation]", pairs: "Sequence[Paired | None]", written: Sequence[Path], *, as_json: bool
) -> None:
    """Print accuracies, top-1 by run and quality, differences from the first, the classes that changed, and files written."""
    from jpegcurr.analysis.evaluation import tables
    from jpegcurr.analysis.evaluation.evaluate import paired_values
    from jpegcurr.analysis.evaluation.naming import evaluation_name

    if as_json:
        rows = [result.as_dict() | {"against_first": paired_values(pair)} for result, pair in zip(results, pairs, strict=True)]
        out.print_json(json.dumps(rows))
        return
    for merged in dict.fromkeys(filter(None, map(tables.describe_merge, results))):
        out.print(f"The probabilities of outputs are added: {merged}", markup=False)
    columns, cells = tables.score_table(results)
    print_table(columns, cells, title=tables.score_title(results), left=columns.index("images"))
    if counted := tables.describe_bytes(results):
        out.print(counted, markup=False)
    if matrix := tables.accuracy_matrix(results):
        out.print()
        print_table(*matrix)
    if paired := tables.paired_table(results, pairs):
        out.print()
        reference = evaluation_name(results[0], results)
        print_table(*paired, title=f"compared with {reference}, on the same {results[0].scores.images:,} images")
        out.print(tables.paired_verdicts(results, pairs), markup=False)
        out.print("Detectable: the difference in top-1, in points, that is detected with 80 % power.", markup=False)
    if changed := tables.changed_classes(results, pairs):
        out.print()
        table, sentence = changed
        if table is not None:
            print_table(*table, title="classes told apart, the least likely by chance first", left=2)
        out.print(sentence, markup=False)
    for result in results:  # as the authors of ConvNeXt, and many before them, print it
        name = f"{evaluation_name(result, results)}: " if len(results) > 1 else ""
        top1, top5, loss = result.scores.top1, result.scores.top5, result.scores.loss
        out.print(f"{name}* Acc@1 {top1:.3f} Acc@5 {top5:.3f} loss {loss:.3f}", markup=False)
    for path in written:
        out.print(f"{path}", markup=False)
