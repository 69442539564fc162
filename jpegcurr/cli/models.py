"""The command ``models``: timm's pretrained classifiers."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import JsonOption
from jpegcurr.cli.terminal import out, print_table

if TYPE_CHECKING:
    from jpegcurr.training.models.load import Listed


def models(
    pattern: Annotated[str, typer.Argument(metavar="FILTER", help="Part of a name, or a pattern; '*' for all.")] = "convnext",
    as_json: JsonOption = False,
) -> None:
    """List timm's pretrained classifiers, each of which can replace the run in predict, with their legacy names."""
    from jpegcurr.training.models.load import list_named

    print_models(list_named(pattern), as_json=as_json)


def print_models(listed: "Sequence[Listed]", *, as_json: bool) -> None:
    """Print one row per set of weights."""
    if as_json:
        out.print_json(json.dumps([model.as_dict() for model in listed]))
        return
    rows = []
    for model in listed:
        millions = f"{model.parameters / 1e6:,.1f} M" if model.parameters else "not counted"
        rows.append([model.name, model.legacy or "", millions, str(model.size), f"{model.classes:,}"])
    print_table(["name", "legacy name", "parameters", "pixels", "classes"], rows, left=2)
