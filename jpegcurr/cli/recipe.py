"""The command ``recipe``: what a recipe may say, and what the shipped ones say."""

import json
import re
import sys
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from jpegcurr.cli.completion import complete_place, complete_recipe
from jpegcurr.cli.options import JsonOption
from jpegcurr.cli.terminal import out, print_table
from jpegcurr.errors import UsageError
from jpegcurr.text import sanitize

if TYPE_CHECKING:
    from jpegcurr.recipe.fields import Field

NARROW, WIDEST = 80, 100  # columns of text that is not printed on a terminal, and of all text


def recipe(
    place: Annotated[
        str | None,
        typer.Argument(metavar="FIELD", help="A section or a field: optim, schedule.lr, or lr.", autocompletion=complete_place),
    ] = None,
    show: Annotated[
        Path | None,
        typer.Option(metavar="NAME", help="Print a shipped recipe, or a YAML file.", autocompletion=complete_recipe),
    ] = None,
    resolved: Annotated[bool, typer.Option("--resolved", help="With --show: print all fields, defaults included.")] = False,
    shipped: Annotated[bool, typer.Option("--list", help="List the shipped recipes, with their purposes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List every field of a recipe with its default, its values and its meaning; or print a recipe.

    Fields are changed in a YAML file, or on the command line: jpegcurr train --recipe small_data --set schedule.lr=1e-3. NAME
    stands for the name of a data set, N for the number of a phase, counted from 0.
    """
    if sum((place is not None, show is not None, shipped)) > 1:
        raise UsageError("A field, --show and --list each print something of their own. Give one of them.")
    if resolved and show is None:
        raise UsageError("--resolved is for --show: jpegcurr recipe --show small_data --resolved.")
    if show is not None:
        print_recipe(show, resolved=resolved, as_json=as_json)
    elif shipped:
        print_shipped(as_json=as_json)
    else:
        print_fields(place, as_json=as_json)


def print_recipe(name: Path, *, resolved: bool, as_json: bool) -> None:
    """Print a recipe as it is written, or with every field."""
    from jpegcurr.recipe.loading import dump_recipe, find_recipe, load_recipe, read_tree

    path = find_recipe(name)
    if as_json:
        tree = load_recipe(path).model_dump(mode="json") if resolved else read_tree(path)
        out.print_json(json.dumps(tree, default=str))
        return
    read_tree(path)  # refuses what is no recipe
    text = dump_recipe(load_recipe(path)) if resolved else path.read_text(encoding="utf-8")
    for line in text.splitlines():
        out.print(line, markup=False)


def print_shipped(*, as_json: bool) -> None:
    """Print the name and the purpose of every shipped recipe."""
    from jpegcurr.recipe.loading import shipped_recipes

    purposes = {name: describe_purpose(path.read_text(encoding="utf-8")) for name, path in shipped_recipes().items()}
    if as_json:
        out.print_json(json.dumps(purposes))
    else:
        print_table(["recipe", "purpose"], [[name, purpose] for name, purpose in purposes.items()], left=2)


def describe_purpose(text: str) -> str:
    """Return the first sentence of the comment that a recipe begins with."""
    comment = " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), text.splitlines()))
    return re.split(r"(?<=[.?]) (?=[A-Z])", comment)[0]


def print_fields(place: str | None, *, as_json: bool) -> None:
    """Print the fields at a place, or all, by section."""
    from jpegcurr.recipe.fields import all_fields, find_fields, section_meanings

    fields = all_fields() if place is None else find_fields(place)
    if as_json:
        out.print_json(json.dumps([field.as_dict() for field in fields]))
        return
    width = min(out.width, WIDEST) if sys.stdout.isatty() else NARROW
    meanings = section_meanings()
    section = ""
    for field in fields:
        if field.section != section:
            if section:
                out.print()
            section = field.section
            if section in meanings:
                _print_section(section, meanings[section], width)
        _print_field(field, width)


def _print_section(name: str, meaning: str, width: int) -> None:
    first, *others = _wrap(f"{name}: {meaning}", width, "")
    out.print(f"[bold]{escape(name)}[/]{escape(first.removeprefix(name))}")
    _print_lines(others)


def _print_field(field: "Field", width: int) -> None:
    default = f" = {field.default_text}" if not field.required else " (required)"
    out.print()
    out.print(f"  [bold]{escape(field.place)}[/]{escape(sanitize(default))}")
    _print_lines(_wrap(field.values, width, "      "))
    _print_lines(_wrap(field.meaning, width, "      "))


def _print_lines(lines: Sequence[str]) -> None:
    for line in lines:
        out.print(line, markup=False)


def _wrap(text: str, width: int, indent: str) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
