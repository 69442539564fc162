"""The command that looks at a network's channels; ``cli`` registers it. Rooms are imported inside it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli import terminal
from jpegcurr.cli.runs import (
    DataOption,
    DeviceOption,
    ForceOption,
    JsonOption,
    LoaderOption,
    OnTheFlyOption,
    QualitiesOption,
    RunFolder,
    WeightsOption,
    parse_qualities,
)
from jpegcurr.errors import UsageError
from jpegcurr.system import keep_freed_memory

if TYPE_CHECKING:
    from jpegcurr.analysis.channels.pruning import PruneStudy
    from jpegcurr.analysis.channels.study import ChannelStudy


def channels(
    run: RunFolder,
    data: DataOption = None,
    qualities: QualitiesOption = None,
    on_the_fly: OnTheFlyOption = False,
    layer: Annotated[
        list[str] | None, typer.Option("--layer", metavar="NAME", help="A layer; repeatable. All stages if not given.")
    ] = None,
    prune_study: Annotated[
        str | None,
        typer.Option(
            metavar="K,K,...", help="Measure top-1 without the k most moved channels of the last stage, or of each --layer."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the prune study's split of the images and its random channels; 0.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many of the most moved channels are listed.")] = 10,
    csv: Annotated[Path | None, typer.Option("--csv", "-o", help="Write every channel's figures to a file.")] = None,
    weights: WeightsOption = "raw",
    loader: LoaderOption = "auto",
    device: DeviceOption = "auto",
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Follow every channel of a network's stages from one JPEG quality to others, over the same images, in one pass.

    The first quality is what the others are held against. --prune-study also says what it costs to set the channels that
    move most to zero, next to those that move least and to random ones.
    """
    from jpegcurr.analysis.channels.activations import pick_layers
    from jpegcurr.analysis.channels.pruning import check_prunable, split_images, study_pruning
    from jpegcurr.analysis.channels.study import check_same_images, study_channels
    from jpegcurr.analysis.channels.tables import as_values, to_csv
    from jpegcurr.analysis.evaluation.evaluate import choose_sets, open_sets
    from jpegcurr.files import refuse_existing, refuse_unwritable, write_text
    from jpegcurr.runtime import resolve_runtime
    from jpegcurr.training.models.load import load_run

    wanted = parse_qualities(qualities, on_the_fly=on_the_fly)
    if seed is not None and prune_study is None:
        raise UsageError("--seed is the prune study's. Give --prune-study 4,8,16 too, or leave --seed away.")
    sizes = _parse_sizes(prune_study) if prune_study is not None else []
    if csv is not None:
        refuse_unwritable([csv.parent])
        refuse_existing([csv], force=force)
    keep_freed_memory()
    runtime = resolve_runtime(device)
    loaded = load_run(run, runtime, weights)
    arms = open_sets([loaded], choose_sets(loaded, data or (), wanted, "after_resize" if on_the_fly else "before_crop"))
    check_same_images(arms)
    layers = pick_layers(loaded.model, layer or ())
    pruned_layers = layers if layer else layers[-1:]
    if sizes:
        check_prunable(loaded, arms, runtime, pruned_layers, sizes)
    chosen = split_images(arms[0].beton.labels, seed or 0) if sizes else None
    total, done = len(arms) * len(arms[0].beton), 0
    title = "channels"
    with terminal.progress_bar("img") as bar:

        def on_images(more: int) -> None:
            nonlocal done
            done += more
            bar.update(title, done, total)

        study = study_channels(loaded, arms, runtime, layers=layers, loader=loader, chosen=chosen, on_images=on_images)
        title, done, pruned = "prune", 0, []
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
                on_images=on_images,
            )
    if csv is not None:
        write_text(csv, to_csv(study))
    if as_json:
        terminal.out.print_json(json.dumps(as_values(study, pruned, top)))
    else:
        _print(study, pruned, top, "encoded after the resize" if on_the_fly else "")


def _parse_sizes(text: str) -> list[int]:
    """``"4,8"`` -> [4, 8]; anything but whole numbers from 1 on raises UsageError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--prune-study {text!r}: give how many channels to set to zero, such as 4,8,16.")
    return list(dict.fromkeys(map(int, parts)))


def _print(study: "ChannelStudy", pruned: "Sequence[PruneStudy]", top: int, how: str) -> None:
    """A table of the layers, one of the most moved channels, one for each layer that is pruned, and what they mean."""
    from jpegcurr.analysis.channels import tables

    facts = [str(study.run), f"{study.weights} weights", f"{study.loader} loader", f"{study.images:,} images", how]
    terminal.print_table(*tables.stage_table(study), title=", ".join(filter(None, facts)), left=2)
    if moved := tables.moved_table(study, top):
        terminal.print_table(*moved, title="most moved", left=3)
    for sentence in tables.meanings(study):
        terminal.out.print(sentence, markup=False)
    for each in pruned:
        terminal.print_table(*tables.prune_table(each), title=tables.prune_title(each), left=2)
        for sentence in tables.prune_meanings(each):
            terminal.out.print(sentence, markup=False)
