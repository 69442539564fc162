"""The command ``budget``: the lowest JPEG quality whose loss of accuracy is shown to be below a margin, and what it saves."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.completion import complete_model
from jpegcurr.cli.evaluate import show_bytes
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
from jpegcurr.cli.terminal import out, print_table, progress_bar, show_log
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.analysis.evaluation.budget import Budget


def budget(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help=f"{MODEL_HELP} A search for each.", autocompletion=complete_model)
    ],
    data: ValidationOption = None,
    qualities: QualitiesOption = None,
    within: Annotated[
        float, typer.Option(metavar="POINTS", help="The loss that the quality is to stay below, points of top-1.")
    ] = 0.5,
    against: Annotated[
        str, typer.Option(metavar="Q", help="What it is compared with: source, the original, or a quality.")
    ] = "source",
    level: Annotated[
        float, typer.Option(metavar="P", help="The chance of a wrong claim, at most, over all qualities together.")
    ] = 0.05,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", "-o", metavar="FILE.csv", help="Write all metrics, one row per model, set and quality."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Draw accuracy against bytes, with the margin and the choice.")
    ] = None,
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
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find the lowest JPEG quality that is shown to lose less than --within points of accuracy, and the bytes that it saves.

    Source images are encoded again while they are loaded, as encode would write them, and tested from the highest quality down
    (95,90,85,75,60,50,40,30,20,10, or --qualities) until one is not shown.
    """
    lock_outputs(context, {csv: "--csv", plot: "--plot"})
    from jpegcurr.analysis.evaluation.budget import budget as search_budgets
    from jpegcurr.analysis.evaluation.budget import check_options
    from jpegcurr.analysis.evaluation.budget_outputs import BudgetFiles
    from jpegcurr.encoding.jpeg.codec import parse_quality
    from jpegcurr.runtime import collective_backend, joined, resolve_runtime
    from jpegcurr.training.models.load import load_classifiers

    chosen, reference = parse_qualities(qualities, on_the_fly=False), parse_quality(against)
    check_options(chosen, reference, within, level)
    settings = parse_settings(checkpoint, mean, std, size, class_names, factory)
    files = BudgetFiles(csv, plot)
    with joined(collective_backend()) as world:
        show_log(quiet=True, mute=not world.is_main)
        if world.is_main:
            files.check(force=force)
        keep_freed_memory()
        runtime = resolve_runtime(device, world=world)
        loaded = load_classifiers(list(dict.fromkeys(runs)), runtime, weights, settings)
        with progress_bar(quiet=quiet or not world.is_main) as bar:
            budgets = search_budgets(
                loaded,
                data,
                chosen,
                within=within,
                against=reference,
                level=level,
                runtime=runtime,
                labels=labels,
                loader=loader,
                max_pixels=max_pixels,
                merge=merge,
                progress=lambda done, total: bar.update("evaluating", done, total),
                byte_progress=partial(show_bytes, bar),
            )
        if world.is_main:
            files.write(budgets)
            print_budgets(budgets, files.paths, as_json=as_json)


def print_budgets(budgets: "Sequence[Budget]", written: Sequence[Path], *, as_json: bool) -> None:
    """Print the choice, its table and why the search ended there; of several models or sets one row each."""
    from jpegcurr.analysis.evaluation import budget_outputs as outputs
    from jpegcurr.analysis.evaluation.tables import describe_bytes

    if as_json:
        out.print_json(json.dumps([one.as_dict() for one in budgets]))
        return
    if len(budgets) == 1:
        (only,) = budgets
        print_table(*outputs.quality_table(only), title=outputs.budget_names(budgets)[0], left=2)
        out.print()
        out.print(outputs.state_result(only), markup=False)
        out.print(outputs.explain_stop(only), markup=False)
    else:
        print_table(*outputs.summary_table(budgets), left=2)
        out.print()
        for name, one in zip(outputs.budget_names(budgets), budgets, strict=True):
            out.print(f"{name}: {outputs.explain_stop(one)}", markup=False)
        out.print("Every row is a search by itself, at the full level.", markup=False)
    for sentence in dict.fromkeys(map(outputs.explain_order, budgets)):
        out.print(sentence, markup=False)
    lines = [test.evaluation for one in budgets for test in one.tests]
    out.print(describe_bytes([budgets[0].reference, *lines]), markup=False)
    for path in written:
        out.print(f"{path}", markup=False)
