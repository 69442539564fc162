"""The metrics of a run: ``metrics.jsonl`` and ``summary.csv`` after every epoch, and TensorBoard and W&B on request."""

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Protocol
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from jpegcurr.errors import UsageError
from jpegcurr.files import csv_writer, write_json, write_text
from jpegcurr.json_files import describe, parse_line, read_bounded, read_json, read_json_lines
from jpegcurr.system import install_command

log = logging.getLogger("jpegcurr")

Row = dict[str, float | int | str]

METRICS = "metrics.jsonl"
_WANDB = "wandb.json"


class _Row(BaseModel):
    """A row as it is read back: a number or a text in every column."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Row

    epoch: Annotated[int, Field(ge=0)]


_ROW = TypeAdapter(_Row)


class Tracker(Protocol):
    """A service that receives the metrics."""

    def log(self, row: Mapping[str, float | int | str]) -> None:
        """Record one epoch."""
        ...

    def close(self) -> None:
        """Write everything that is buffered, and close."""
        ...


class Metrics:
    """The rows of a run, one per epoch: JSON in ``metrics.jsonl``, a table in ``summary.csv`` as timm's, and the trackers."""

    def __init__(self, folder: Path, before: int = 0) -> None:
        """Read the rows of the epochs before ``before``; a resumed run writes the later ones again."""
        self._folder, self._before = folder, before
        self._trackers: list[Tracker] = []
        self.rows = [row for row in read_metrics(folder) if int(row["epoch"]) < before]

    def open_trackers(self, names: Sequence[str], run_id: str, config: Mapping[str, Any]) -> None:
        """Open the trackers named in a recipe, so that they show every epoch before this start of the run once.

        A known ``run_id`` is resumed. Raises UsageError for a missing package, or if W&B does not start.
        """
        openers: dict[str, type[_TensorBoard] | type[_Wandb]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
        for name in names:
            self._trackers.append(openers[name](self._folder, run_id, config, self.rows, self._before))

    def record(self, row: Row) -> None:
        """Append the row of an epoch to the files and the trackers; an interruption leaves the files whole."""
        self.rows.append(row)
        write_text(self._folder / METRICS, "".join(json.dumps(row) + "\n" for row in self.rows))
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with csv_writer(self._folder / "summary.csv") as writer:
            writer.writerow(columns)
            writer.writerows([row.get(column, "") for column in columns] for row in self.rows)
        for tracker in self._trackers:
            tracker.log(row)

    def close(self) -> None:
        """Close all trackers."""
        for tracker in self._trackers:
            tracker.close()


def read_metrics(folder: Path) -> list[Row]:
    """Return the rows of ``metrics.jsonl``, or an empty list if there is no such file; raise UsageError for one of others."""
    path = folder / METRICS
    if not path.is_file():
        return []
    remedy = f"Move it away, which loses the metrics of its epochs; if {folder} is a study's, delete that folder instead."
    return list(read_json_lines(path, _ROW, complaint="cannot be read as metrics", remedy=remedy))


def read_complete_metrics(folder: Path) -> tuple[list[Row], str]:
    """Return the rows of a run that may be under way or copied from there, and a note if its last line is torn, else empty.

    Only the last line may be torn: one that is no JSON and does not end in a line break. Raises UsageError as ``read_metrics``.
    """
    path = folder / METRICS
    if not path.is_file():
        return [], ""
    rows: list[Row] = []
    try:
        *lines, last = read_bounded(path).split(b"\n")
        for line in lines:
            rows.append(parse_line(line, _ROW))
    except ValueError as problem:
        raise UsageError(f"{path} cannot be read as metrics (line {len(rows) + 1}: {describe(problem)}).") from None
    try:
        rows += [parse_line(last, _ROW)] if last.strip() else []
    except ValueError:
        return rows, f"the last line of {METRICS} is torn and left out"
    return rows, ""


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError if a tracker named in a recipe is not installed."""
    for name in names:
        if find_spec(name) is None:  # importing it would import torch
            raise _missing(name)


class _TensorBoard:
    """TensorBoard's event files, which only grow: a restart says from which epoch on the earlier events are void."""

    def __init__(self, folder: Path, _run_id: str, config: Mapping[str, Any], before: Sequence[Row], first: int) -> None:
        events = folder / "tensorboard"
        known = any(events.glob("events.out.tfevents.*"))
        self._writer = _import_tracker("tensorboard").SummaryWriter(str(events), purge_step=first if known else None)
        for row in () if known else before:  # of a study's shared start, or from before this tracker was asked for
            self.log(row)
        self._writer.add_text("recipe", "```\n" + json.dumps(config, indent=2) + "\n```", first)

    def log(self, row: Mapping[str, float | int | str]) -> None:
        for key, value in row.items():
            if not isinstance(value, str):
                self._writer.add_scalar(key, value, int(row["epoch"]))

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """W&B, which keeps the first value of every step: a run that is set back continues there as a new run with all epochs.

    Its own way back, ``resume_from``, is in private preview and not on every server.
    """

    def __init__(self, folder: Path, run_id: str, config: Mapping[str, Any], before: Sequence[Row], first: int) -> None:
        self._wandb = _import_tracker("wandb")
        self._start = partial(self._wandb.init, project="jpegcurr", name=folder.name, dir=str(folder), config=dict(config))
        self._run = self._open(_read_wandb_id(folder) or run_id)
        if self._run.starting_step > first:
            earlier, new_id = self._run, uuid4().hex[:12]
            self._run.finish()
            self._run = self._open(new_id)
            write_json(folder / _WANDB, {"id": new_id})
            log.warning(
                "W&B keeps what its run %s has of epochs %d to %d, which are trained again: it continues as the run %s",
                earlier.id,
                first,
                earlier.starting_step - 1,
                new_id,
            )
        for row in before:
            if int(row["epoch"]) >= self._run.starting_step:
                self.log(row)

    def _open(self, run_id: str) -> Any:
        try:
            return self._start(id=run_id, resume="allow")
        except self._wandb.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise UsageError(
                f"tracking: W&B does not start: {reason}. Log in with `wandb login`, write its files without a server by "
                "setting WANDB_MODE=offline, or omit it: set tracking=[], and give no --track; then give the same command "
                "again."
            ) from None

    def log(self, row: Mapping[str, float | int | str]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # waits until its other process has written everything; finish alone may return earlier


class _WandbRun(BaseModel):
    """The content of ``wandb.json``."""

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$")]


def _read_wandb_id(folder: Path) -> str | None:
    """Return the id at W&B of a run that was set back and has another one there than in ``run.json``; else None."""
    try:
        return read_json(folder / _WANDB, _WandbRun, complaint="cannot be read", remedy="").id
    except UsageError:
        return None


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def _import_tracker(name: str) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError:
        raise _missing(name) from None


def _missing(name: str) -> UsageError:
    return UsageError(
        f"tracking: {name} is not installed. Run {install_command(name)}, or omit it: set tracking=[], and give no --track."
    )
