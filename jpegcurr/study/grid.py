"""The grid of a study: every combination of the values of some fields is an arm, named by what is its own."""

import re
from collections.abc import Mapping
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field

from jpegcurr.files import short_names

# What a value may consist of to stand in the name of an arm, which is the name of a folder.
_SHORT = re.compile(r"[A-Za-z0-9_.+-]{1,40}")


def format_value(value: Any) -> str:
    """Return a value as one line of YAML: ``0.05``, ``true``, ``[1, 2]``."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1 << 20)
    return text.removesuffix("...\n").strip()


def name_values(values: Any) -> Any:
    """Return the values of a field by their names in an arm: a map's keys, or what is in a list, as it is written.

    Raises:
        ValueError: a value of a list cannot be a part of a name, or stands there twice.
    """
    if isinstance(values, Mapping):
        unfit = [str(name) for name in values if not _SHORT.fullmatch(str(name))]
        if unfit:
            raise ValueError(f"{unfit[0]!r} is not a name of letters, digits and _ . + -, of at most 40 characters")
        return {str(name): value for name, value in values.items()}
    if not isinstance(values, list | tuple):
        raise ValueError("give a list of values, or a map of names and values")
    named: dict[str, Any] = {}
    for value in values:
        name = value if isinstance(value, str) else format_value(value)
        if not _SHORT.fullmatch(name):
            raise ValueError(f"{name} cannot stand in the name of an arm. Give a map: a name for every value")
        if name in named:
            raise ValueError(f"{name} is listed twice. Equal values give equal arms: list each value once")
        named[name] = value
    return named


# The values of every field, by their names; the number of combinations is checked before any is made.
Grid = Annotated[
    dict[str, Annotated[dict[str, Any], BeforeValidator(name_values), Field(min_length=1, max_length=256)]],
    Field(max_length=16),
]


def count_arms(grid: Mapping[str, Mapping[str, Any]]) -> int:
    """Return the number of combinations; 0 for no grid."""
    return prod(len(values) for values in grid.values()) if grid else 0


def expand(grid: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return every combination by name, ``lr=1e-4,weight_decay=0.05``, as values by field; the last field changes fastest.

    A field is called by as many last parts of its path as tell it from the others. The parts of a name are sorted, so that it
    does not depend on the order of the fields in the file.
    """
    paths = {field: Path(*field.split(".")) for field in grid}
    short = {path: ".".join(Path(name).parts) for path, name in short_names(paths.values()).items()}
    arms = {}
    for combination in product(*(values.items() for values in grid.values())) if grid else ():
        fields = dict(zip(grid, combination, strict=True))
        parts = sorted(f"{short[paths[field]]}={name}" for field, (name, _) in fields.items())
        arms[",".join(parts)] = {field: value for field, (_, value) in fields.items()}
    return arms
