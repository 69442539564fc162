"""The number that a trainer leaves behind: the last row of a CSV file, or of JSON lines."""

import csv
import json
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.json_files import describe, parse_json, read_bounded

_MOST_NAMED = 40  # columns in an error


def read_metric(path: Path, column: str) -> float:
    """Return the number in ``column`` of the last row of ``path``.

    A file that begins with a brace is of JSON: one object, or one on each line; a column of an inner object is named with dots,
    ``val.top1``. Any other is a table with a head, separated by commas, semicolons or tabs.

    Raises:
        UsageError: the file is missing, empty or neither, it has no such column, or no finite number stands there.
    """
    try:
        text = read_bounded(path).decode("utf-8-sig")
        row = _last_json(text) if text.lstrip().startswith("{") else _last_csv(text)
    except ValueError as error:
        raise UsageError(f"{path}: {describe(error)}.") from None
    if column not in row:
        names = list(map(str, row))
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        there = f"{', '.join(names[:_MOST_NAMED])}{more}"
        raise UsageError(f"{path}: its last row has no column {column!r}.{did_you_mean(column, names)} There are: {there}.")
    value = row[column]
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else float("nan")
    except ValueError:
        number = float("nan")
    if not isfinite(number):
        raise UsageError(f"{path}: {column} of its last row is {str(value)!r}, which is not a finite number.")
    return number


def _last_csv(text: str) -> Mapping[str, Any]:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("it is empty")
    delimiter = max(",;\t", key=lines[0].count)
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
    if len(rows) < 2:
        raise ValueError(f"it has a head and no row: {', '.join(rows[0])[:200]}")
    head, last = [name.strip() for name in rows[0]], rows[-1]
    if len(last) != len(head):
        raise ValueError(f"its last row has {len(last)} cells, and its head {len(head)}")
    if twice := next((name for name in head if head.count(name) > 1), None):
        raise ValueError(f"it has the column {twice!r} twice")
    return dict(zip(head, last, strict=True))


def _last_json(text: str) -> Mapping[str, Any]:
    try:
        value = parse_json(text.encode())
    except json.JSONDecodeError:
        last = [line for line in text.splitlines() if line.strip()][-1]
        value = parse_json(last.encode())
    if not isinstance(value, dict):
        raise ValueError("its last line is not a JSON object")
    return _flatten(value)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
