"""The command ``models``: timm's pretrained classifiers."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import JsonOption
from jpegcurr.cli.terminal import out, print_table

if TYPE_CHECKING:
    from jpegcurr.training.models.listing import Listed


NOT_IN_TIMM = "(not in timm)"


def models(
    pattern: Annotated[str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern; '*' for all.")] = "convnext",
    as_json: JsonOption = False,
) -> None:
    """List pretrained classifiers of timm's, each of which can replace the run in predict, and of ConvNeXt's authors.

    The accuracy is the one that ConvNeXt's authors published, on ImageNet-1k. Multiply-adds are those of convolutions and
    linear layers for one image of that size.
    """
    from jpegcurr.training.models.listing import list_named

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


def _count(number: int | None, unit: float) -> str:
    return f"{number / unit:,.1f}" if number is not None else "not counted"
