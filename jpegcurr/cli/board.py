"""The command ``board``: a page of the curves of runs."""

import json
from pathlib import Path
from typing import Annotated

import typer

from jpegcurr.cli.options import ForceOption, JsonOption, lock_outputs
from jpegcurr.cli.terminal import err, out


def board(
    context: typer.Context,
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Runs, folders that hold runs, such as a study's, or TensorBoard's.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page, an HTML file.")] = Path(
        "board.html"
    ),
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Draw the curves of runs: training, validation, learning rate, speed and waiting, with the phases of the curriculum.

    One offline file. `jpegcurr train --board` keeps such a page of a run while it trains.
    """
    from jpegcurr.analysis.runs.board import write_board
    from jpegcurr.analysis.runs.records import read_records
    from jpegcurr.analysis.runs.table import tabulate
    from jpegcurr.files import refuse_existing

    refuse_existing([output], force=force)
    lock_outputs(context, {output: "-o"})
    records, remarks = read_records(folders)
    write_board(records, output)
    for remark in remarks:
        err.print(remark, markup=False)
    if as_json:
        out.print_json(json.dumps({"page": str(output), **tabulate(records).as_dict()}))
    else:
        out.print(f"{output}", markup=False)
