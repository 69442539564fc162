"""The table of runs: what differs between their recipes, and of every chosen column the last and the best value."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any

from jpegcurr.analysis.runs.records import RunRecord, flatten
from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.files import csv_writer, json_values, short_names

# Chosen if no columns are: the accuracies that jpegcurr, ConvNeXt's authors and others write; or else the losses.
ACCURACIES, LOSSES = ("*top1*", "*acc1*", "*acc", "*accuracy*"), ("*loss*",)
ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Metric:
    """The last value of a column, and the best with its epoch; the best is the lowest of a loss or error, else the highest.

    Values that are not finite are never the best; of equal ones the first is. Without any, ``best`` and ``epoch`` are None.
    """

    last: float
    best: float | None
    epoch: int | None


@dataclass(frozen=True, slots=True)
class RunTable:
    """Runs side by side.

    Attributes:
        fields: the fields in which the recipes differ.
        recipes: their values, by run; a field that a recipe lacks is absent.
        columns: the chosen columns.
        metrics: by run and column; a column that a run lacks is absent.
    """

    records: Sequence[RunRecord]
    fields: list[str]
    recipes: list[dict[str, Any]]
    columns: list[str]
    metrics: list[dict[str, Metric]]

    @property
    def heads(self) -> list[str]:
        """Short names of the fields: as many last parts as tell them apart."""
        paths = [Path(*field.split(".")) for field in self.fields]
        short = short_names(paths)
        return [".".join(Path(short[path]).parts) for path in paths]

    def values(self, number: int) -> list[str]:
        """Return the values of the fields of a run as texts."""
        recipe = self.recipes[number]
        return [format_field(recipe[field]) if field in recipe else ABSENT for field in self.fields]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; numbers of metrics are those of the run's files, to ten digits."""
        runs = [
            {
                "run": record.name,
                "folder": str(record.folder),
                "kind": record.kind,
                "epochs": record.epochs,
                "planned": record.planned,
                "notes": list(record.notes),
                "recipe": recipe,
                "metrics": {
                    column: {"last": metric.last, "best": metric.best, "best_epoch": metric.epoch}
                    for column, metric in metrics.items()
                },
            }
            for record, recipe, metrics in zip(self.records, self.recipes, self.metrics, strict=True)
        ]
        best = {column: "lowest" if is_lower_better(column) else "highest" for column in self.columns}
        values: dict[str, Any] = json_values({"differences": self.fields, "columns": best, "runs": runs})
        return values


def tabulate(records: Sequence[RunRecord], patterns: Sequence[str] = ()) -> RunTable:
    """Compare the recipes of ``records``, and pick the columns that match a pattern, as of file names: ``val/*/top1``.

    Raises:
        UsageError: a pattern matches no column of any run; the message names the columns.
    """
    recipes = [flatten(record.recipe.model_dump(mode="json")) if record.recipe else {} for record in records]
    with_recipe = [recipe for recipe in recipes if recipe]
    every = dict.fromkeys(field for recipe in with_recipe for field in recipe)
    # A field that is null in one recipe and absent in another, as of a phase that only one has, is no difference.
    fields = [field for field in every if any(recipe.get(field) != with_recipe[0].get(field) for recipe in with_recipe)]
    columns = choose_columns(list(dict.fromkeys(column for record in records for column in record.columns)), patterns)
    return RunTable(
        records,
        fields,
        [{field: recipe[field] for field in fields if field in recipe} for recipe in recipes],
        columns,
        [{column: summarise(record, column) for column in columns if column in record.columns} for record in records],
    )


def choose_columns(columns: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Return the ``columns`` that match one of ``patterns``, in their own order; without any, accuracies or else losses."""
    for pattern in patterns:
        if not any(fnmatchcase(column, pattern) for column in columns):
            known = f"There are: {', '.join(columns)}." if columns else "No run has any metrics yet."
            raise UsageError(f"--columns {pattern}: no run has such a column.{did_you_mean(pattern, columns)} {known}")
    choices = [patterns] if patterns else [ACCURACIES, LOSSES]
    matching = ([column for column in columns if any(fnmatchcase(column, one) for one in choice)] for choice in choices)
    return next(filter(None, matching), [])


def is_lower_better(column: str) -> bool:
    """Return whether the lowest value of a column is its best: that of a loss or an error."""
    name = column.rpartition("/")[2].lower()
    return "loss" in name or "err" in name


def summarise(record: RunRecord, column: str) -> Metric:
    """Return the last and the best value of a column that the run has."""
    pairs = [(int(row["epoch"]), float(value)) for row in record.rows if not isinstance(value := row.get(column, ""), str)]
    sign = -1 if is_lower_better(column) else 1
    best = max((pair for pair in pairs if isfinite(pair[1])), key=lambda pair: (sign * pair[1], -pair[0]), default=None)
    return Metric(pairs[-1][1], best[1] if best else None, best[0] if best else None)


def format_field(value: Any) -> str:
    """Return the value of a recipe's field as a short text; a rate as ``0.0003``."""
    if isinstance(value, dict | list):
        return str(value).replace("'", "")
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_table(table: RunTable, path: Path) -> None:
    """Write a row for every run as CSV: name, folder, epochs, differences, and for each column last, best and its epoch."""
    metrics = [f"{column} {part}" for column in table.columns for part in ("last", "best", "best epoch")]
    with csv_writer(path) as writer:
        writer.writerow(["run", "folder", "epochs", "planned", *table.fields, *metrics, "note"])
        for number, record in enumerate(table.records):
            cells: list[Any] = [
                record.name,
                str(record.folder),
                record.epochs,
                "" if record.planned is None else record.planned,
            ]
            for column in table.columns:
                metric = table.metrics[number].get(column)
                values = (metric.last, metric.best, metric.epoch) if metric else (None, None, None)
                cells += ["" if value is None else value for value in values]
            recipe = table.recipes[number]
            fields = [_plain(recipe[field]) if field in recipe else "" for field in table.fields]
            writer.writerow([*cells[:4], *fields, *cells[4:], "; ".join(record.notes)])


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else format_field(value)
