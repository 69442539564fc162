"""The command ``models``: timm's pretrained classifiers, and the roadmap from ResNet to ConvNeXt."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import JsonOption
from jpegcurr.cli.terminal import out, print_table

if TYPE_CHECKING:
    from jpegcurr.training.models.listing import Listed, ListedStep


NOT_IN_TIMM = "(not in timm)"
ROADMAP = "roadmap"


def models(
    pattern: Annotated[
        str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern; '*' for all; or roadmap.")
    ] = "convnext",
    as_json: JsonOption = False,
) -> None:
    """List pretrained classifiers of timm's, each of which can replace the run in predict, and of ConvNeXt's authors.

    The accuracy is the one that ConvNeXt's authors published, on ImageNet-1k. Multiply-adds are those of convolutions and
    linear layers for one image of that size. A name that begins with roadmap is one of the networks from ResNet to ConvNeXt
    (roadmap, roadmap50, roadmap50_5c): recipes train them, and there are no weights.
    """
    from jpegcurr.training.models.listing import list_named, list_roadmap

    if pattern.lower().startswith(ROADMAP):
        print_roadmap(list_roadmap(pattern), as_json=as_json)
        return
    print_models(list_named(pattern), as_json=as_json)


def print_models(listed: "Sequence[Listed]", *, as_json: bool) -> None:
    """Print one row per set of weights."""
    if as_json:
        out.print_json(json.dumps([model.as_dict() for model in listed]))
        return
    rows = []
    for model in listed:
        top1 = f"{model.top1:.1f} %" if model.top1 is not None else ""
        legacy = model.legacy or ("" if model.in_timm else NOT_IN_TIMM)
        rows.append(
            [
                model.name,
                legacy,
                str(model.size),
                top1,
                _count(model.parameters, 1e6),
                _count(model.multiply_adds, 1e9),
                f"{model.classes:,}",
            ]
        )
    print_table(["name", "legacy name", "pixels", "top-1", "params (M)", "mult-adds (G)", "classes"], rows, left=2)


def print_roadmap(listed: "Sequence[ListedStep]", *, as_json: bool) -> None:
    """Print one row per network."""
    if as_json:
        out.print_json(json.dumps([step.as_dict() for step in listed]))
        return
    rows = []
    for step in listed:
        top1 = f"{step.top1:.2f}" if step.top1 is not None else "-"
        deviation = f" ({step.deviation:.2f})" if step.deviation is not None else ""
        parameters, products = f"{step.parameters / 1e6:.2f}", f"{step.multiply_adds / 1e9:.3f}"
        rows.append([step.name, step.step, str(step.size), f"{top1}{deviation}", parameters, products])
    header = ["name", "step", "pixels", "top-1 (std), %", "params (M)", "mult-adds (G)"]
    print_table(header, rows, left=2)
    out.print("Top-1 as published (arXiv 2201.03545, tables 10 and 11); -: not in the paper.", markup=False)


def _count(number: int | None, unit: float) -> str:
    return f"{number / unit:,.1f}" if number is not None else "not counted"
