"""The command ``runs``: a table of runs, with what differs between their recipes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jpegcurr.cli.options import ForceOption, JsonOption
from jpegcurr.cli.terminal import err, out, print_table

if TYPE_CHECKING:
    from jpegcurr.analysis.runs.records import RunRecord
    from jpegcurr.analysis.runs.table import RunTable


def runs(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Runs, folders that hold runs, such as a study's, or TensorBoard's.")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Columns of metrics.jsonl, as 'val/*/top1' or train/loss; repeatable. Accuracies if not given.",
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the table as CSV.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare runs: what differs between their recipes, and the last and the best value of each column.

    The best is the highest value, of a loss or an error the lowest, and stands with its epoch. Runs under way are included.
    """
    from jpegcurr.analysis.runs.records import read_records
    from jpegcurr.analysis.runs.table import tabulate, write_table
    from jpegcurr.files import refuse_existing, refuse_unwritable

    if csv is not None:
        refuse_existing([csv], force=force, option="--csv")
        refuse_unwritable([csv.parent], option="--csv")
    records, remarks = read_records(folders)
    table = tabulate(records, columns or ())
    if csv is not None:
        write_table(table, csv)
    if as_json:
        out.print_json(json.dumps(table.as_dict()))
    else:
        print_runs(table)
    for remark in remarks:
        err.print(remark, markup=False)


def print_runs(table: "RunTable") -> None:
    """Print a row for every run, then the notes on those that are unusual.

    Where that is wider than the terminal, the differences come first, a row for each, and then a row for each run and column.
    """
    heads = ["run", *table.heads, "epochs", *(text for column in table.columns for text in (column, "best, epoch"))]
    rows = [
        [
            record.name,
            *table.values(number),
            _epochs(record),
            *(cell for name in table.columns for cell in _cells(table, number, name)),
        ]
        for number, record in enumerate(table.records)
    ]
    if sum(2 + max(map(len, column)) for column in zip(heads, *rows, strict=True)) <= out.width:
        print_table(heads, rows, left=1 + len(table.fields))
    else:
        values = [table.values(number) for number in range(len(rows))]
        names = [record.name for record in table.records]
        fields = [[field, *(run[place] for run in values)] for place, field in enumerate(table.fields)]
        if fields:
            print_table(["recipe", *names], fields, left=1 + len(names))
            out.print()
        by_column = [
            [record.name, _epochs(record), column, *_cells(table, number, column)]
            for number, record in enumerate(table.records)
            for column in table.columns
            if column in table.metrics[number]
        ]
        print_table(["run", "epochs", "column", "last", "best, epoch"], by_column, left=3)
    for record in table.records:
        for note in record.notes:
            out.print(f"{record.name}: {note}", markup=False)


def _epochs(record: "RunRecord") -> str:
    return str(record.epochs) if record.planned in (None, record.epochs) else f"{record.epochs}/{record.planned}"


def _cells(table: "RunTable", number: int, column: str) -> tuple[str, str]:
    metric = table.metrics[number].get(column)
    if metric is None:
        return "-", "-"
    return f"{metric.last:.5g}", "-" if metric.best is None else f"{metric.best:.5g}, {metric.epoch}"
