"""The page of one run or more: curves of training and validation, learning rate, speed and waiting, in one offline file."""

import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from math import ceil
from pathlib import Path

from jpegcurr.analysis.html.line_chart import Series, page_chart
from jpegcurr.analysis.html.page import source, template
from jpegcurr.analysis.runs.records import RunRecord
from jpegcurr.analysis.runs.table import tabulate
from jpegcurr.files import write_text
from jpegcurr.training.tracking import Row

MOST_POINTS = 1000  # of a line: a page of ten runs with 20,000 epochs would have a hundred megabytes
MOST_OTHERS = 24  # charts of columns that jpegcurr does not write
_VALIDATED = {"top1": "Top-1 on {}, %", "loss": "Loss on {}"}
_VALIDATION = re.compile(r"val/(.*)/(?:ema_)?(?:top1|top5|loss)")
# What ``train`` writes beside them, drawn or not.
_KNOWN = {"phase", "steps", "replaced", "skipped", "seconds", "lr_first", "lr_last", "mfu"}
_KNOWN |= {"train/loss", "images_per_second", "data_wait"}


def write_board(records: Sequence[RunRecord], path: Path) -> None:
    """Write the page of ``records`` to ``path``, whole or not at all."""
    table = tabulate(records)
    shades, marks = shared_phases(records)
    charts = [
        {"title": title, "svg": page_chart(series, x_label="epoch", title=title, marks=marks, shades=shades)}
        for title, series in draw_curves(records)
    ]
    rows = [
        {
            "name": record.name,
            "folder": record.folder,
            "values": table.values(number),
            "epochs": f"{record.epochs} of {record.planned}" if record.planned else str(record.epochs),
            "phases": ", ".join(f"{phase.data} to {phase.end}" for phase in record.phases) or "unknown",
            "metrics": [table.metrics[number].get(column) for column in table.columns],
        }
        for number, record in enumerate(records)
    ]
    page = template("jpegcurr.analysis", "board.html.jinja").render(
        style=source("page.css"),
        title=records[0].name if len(records) == 1 else f"{len(records)} runs",
        notes=[f"{record.name}: {note}." for record in records for note in record.notes],
        heads=table.heads,
        columns=table.columns,
        rows=rows,
        charts=charts,
        shaded=bool(shades),
        other_phases=len({record.phases for record in records if record.phases}) > 1,
        left_out=max(0, len(other_columns(records)) - MOST_OTHERS),
        thinned=max((ceil(record.epochs / MOST_POINTS) for record in records), default=1),
        written=datetime.now().astimezone().isoformat(" ", timespec="minutes"),
        command=shlex.join(["jpegcurr", *sys.argv[1:]]),
    )
    write_text(path, page)


def shared_phases(records: Sequence[RunRecord]) -> tuple[list[tuple[float, float]], list[tuple[float, str]]]:
    """Return every second phase as a span to tint, and the beginning of each with its data; nothing if the runs' differ."""
    kinds = {record.phases for record in records if record.phases}
    phases = next(iter(kinds)) if len(kinds) == 1 else ()
    if len(phases) < 2:
        return [], []
    return [(phase.start, phase.end) for phase in phases[1::2]], [(phase.start, phase.data) for phase in phases]


def draw_curves(records: Sequence[RunRecord]) -> Iterator[tuple[str, list[Series]]]:
    """Yield the title and the lines of every chart for which a run has numbers."""
    yield from _chart(records, "Training loss", {"": "train/loss"})
    columns = _columns(records)
    for metric, title in _VALIDATED.items():
        for name in dict.fromkeys(match[1] for column in columns if (match := _VALIDATION.fullmatch(column))):
            averaged = f"val/{name}/ema_{metric}"
            raw = "raw" if averaged in columns else ""
            yield from _chart(records, title.format(name), {raw: f"val/{name}/{metric}", "ema": averaged})
    names = [record.name if len(records) > 1 else "" for record in records]
    rates = [_rates(record, name, number) for number, (record, name) in enumerate(zip(records, names, strict=True))]
    if lines := [line for line in rates if line is not None]:
        yield "Learning rate", lines
    yield from _chart(records, "Images per second", {"": "images_per_second"})
    yield from _chart(records, "Time spent waiting for images, %", {"": "data_wait"}, factor=100)
    for column in other_columns(records)[:MOST_OTHERS]:
        yield from _chart(records, column, {"": column})


def _chart(
    records: Sequence[RunRecord], title: str, columns: Mapping[str, str], factor: float = 1
) -> Iterator[tuple[str, list[Series]]]:
    """Yield the chart of some columns, by what they are called beside the name of the run; nothing if no run has one."""
    lines = []
    for number, record in enumerate(records):
        for kind, column in columns.items():
            if column in record.columns:
                name = kind if len(records) == 1 else ", ".join(filter(None, [record.name, kind]))
                lines.append(_line(record, name, column, factor, None if len(records) == 1 else number))
    if lines:
        yield title, lines


def _line(record: RunRecord, name: str, column: str, factor: float, colour: int | None) -> Series:
    """Return a column as a line; epoch 0 ends at 1, and the steps of TensorBoard are where they are."""
    after = 1 if record.kind == "run" else 0
    rows = _thin([row for row in record.rows if not isinstance(row.get(column, ""), str)])
    values, places = [factor * float(row[column]) for row in rows], [int(row["epoch"]) + after for row in rows]
    return Series(name, values, x=places, colour=colour)


def _thin(rows: Sequence[Row]) -> Sequence[Row]:
    """Return at most about ``MOST_POINTS`` rows at equal distances, the last among them."""
    every = ceil(len(rows) / MOST_POINTS)
    return rows[(len(rows) - 1) % every :: every] if rows else rows


def _rates(record: RunRecord, name: str, colour: int) -> Series | None:
    """Return the learning rate in the first and the last step of every epoch, so that a restart is a jump."""
    points = [
        (int(row["epoch"]) + place, float(row[key]))
        for row in _thin([row for row in record.rows if {"lr_first", "lr_last", "steps"} <= row.keys()])
        for key, place in (("lr_first", 0.0), ("lr_last", 1 - 1 / max(1.0, float(row["steps"]))))
    ]
    return Series(name, [rate for _, rate in points], x=[place for place, _ in points], colour=colour) if points else None


def _columns(records: Sequence[RunRecord]) -> list[str]:
    return list(dict.fromkeys(column for record in records for column in record.columns))


def other_columns(records: Sequence[RunRecord]) -> list[str]:
    """Return the columns that ``train`` does not write, such as those of another program's event files."""
    return [name for name in _columns(records) if name not in _KNOWN and not _VALIDATION.fullmatch(name)]
