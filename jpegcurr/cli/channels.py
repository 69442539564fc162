"""The command ``channels``: how the activations of channels change with JPEG quality, and what pruning them costs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import (
    CheckpointOption,
    ClassNamesOption,
    DataOption,
    DeviceOption,
    FactoryOption,
    ForceOption,
    JsonOption,
    LoaderOption,
    MeanOption,
    ModelArgument,
    OnTheFlyOption,
    QualitiesOption,
    QuietOption,
    SizeOption,
    StdOption,
    WeightsOption,
    lock_outputs,
    parse_qualities,
    parse_settings,
)
from jpegcurr.cli.terminal import out, print_table, progress_bar
from jpegcurr.errors import UsageError
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.analysis.channels.pruning import PruneStudy
    from jpegcurr.analysis.channels.study import ChannelStudy


def channels(
    context: typer.Context,
    run: ModelArgument,
    data: DataOption = None,
    qualities: QualitiesOption = None,
    on_the_fly: OnTheFlyOption = False,
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", metavar="NAME", help="Layer to measure; repeatable. All stages if not given."),
    ] = None,
    prune_study: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,...", help="Measure top-1 without the k most moved channels of the last stage, or of each --layer."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Seed of the prune study's split and random channels; 0 if not given."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, metavar="N", help="How many of the most moved channels are listed.")] = 10,
    csv: Annotated[
        Path | None, typer.Option("--csv", "-o", metavar="FILE.csv", help="Write the metrics of every channel.")
    ] = None,
    weights: WeightsOption = "raw",
    checkpoint: CheckpointOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    size: SizeOption = None,
    class_names: ClassNamesOption = None,
    factory: FactoryOption = None,
    loader: LoaderOption = "auto",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare every channel of a network's stages between JPEG qualities, over the same images, in one pass.

    The other qualities are compared with the first: the source .beton is encoded again while it is loaded, or, without
    --qualities, files are compared as they are. --prune-study also measures the accuracy that is lost when the channels
    that move most are set to zero, beside those that move least and random ones.
    """
    lock_outputs(context, {csv: "--csv"})
    from jpegcurr.analysis.channels.activations import pick_layers
    from jpegcurr.analysis.channels.pruning import check_prunable, split_images, study_pruning
    from jpegcurr.analysis.channels.study import check_same_images, study_channels
    from jpegcurr.analysis.channels.tables import as_values, to_csv
    from jpegcurr.analysis.evaluation.sets import choose_sets, open_betons
    from jpegcurr.files import refuse_existing, write_text
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_classifier

    levels = parse_qualities(qualities, on_the_fly=on_the_fly)
    if seed is not None and prune_study is None:
        raise UsageError("--seed is for the prune study. Give --prune-study 4,8,16 too, or omit --seed.")
    sizes = parse_sizes(prune_study) if prune_study is not None else []
    if csv is not None:
        refuse_existing([csv], force=force, option="--csv")
    keep_freed_memory()
    runtime = resolve_runtime(device)
    loaded = load_classifier(run, runtime, weights, settings=parse_settings(checkpoint, mean, std, size, class_names, factory))
    arms = open_betons(loaded, choose_sets(loaded, data or (), levels, "after_resize" if on_the_fly else "before_crop"))
    check_same_images(arms)
    layers = pick_layers(loaded.model, layer or ())
    pruned_layers = layers if layer else layers[-1:]
    if sizes:
        check_prunable(loaded, arms, runtime, pruned_layers, sizes)
    chosen = split_images(arms[0].beton.labels, seed or 0) if sizes else None
    total = len(arms) * len(arms[0].beton)
    with progress_bar(quiet=quiet) as bar:
        on_images = bar.counter("comparing channels", total)
        study = study_channels(loaded, arms, runtime, layers=layers, loader=loader, chosen=chosen, on_images=on_images)
        pruned = []
        if chosen is not None:
            pruned = study_pruning(
                loaded,
                arms,
                runtime,
                study,
                sizes,
                chosen,
                layers=pruned_layers,
                seed=seed or 0,
                loader=loader,
                on_images=bar.counter("measuring without channels", total),
            )
    if csv is not None:
        write_text(csv, to_csv(study))
    if as_json:
        out.print_json(json.dumps(as_values(study, pruned, top)))
    else:
        print_channels(study, pruned, top, "encoded after the resize" if on_the_fly else "")


def parse_sizes(text: str) -> list[int]:
    """Parse ``"4,8"`` as [4, 8]; raise UsageError for anything but whole numbers from 1."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--prune-study {text!r}: give how many channels to set to zero, such as 4,8,16.")
    return list(dict.fromkeys(map(int, parts)))


def print_channels(study: "ChannelStudy", pruned: "Sequence[PruneStudy]", top: int, remark: str) -> None:
    """Print a table of layers, one of the most moved channels, one per pruned layer, and what they mean."""
    from jpegcurr.analysis.channels import tables

    facts = [str(study.run), f"{study.weights} weights", f"{study.loader} loader", f"{study.images:,} images", remark]
    print_table(*tables.stage_table(study), title=", ".join(filter(None, facts)), left=2)
    if moved := tables.moved_table(study, top):
        print_table(*moved, title="most moved", left=3)
    for sentence in tables.meanings(study):
        out.print(sentence, markup=False)
    for trial in pruned:
        print_table(*tables.prune_table(trial), title=tables.prune_title(trial), left=2)
        for sentence in tables.prune_meanings(trial):
            out.print(sentence, markup=False)
