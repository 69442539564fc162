"""The metrics of a run: ``metrics.jsonl`` and ``summary.csv`` after every epoch, and TensorBoard and W&B on request."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from jpegcurr.errors import UsageError
from jpegcurr.files import csv_writer, write_text
from jpegcurr.json_files import read_json_lines

Row = dict[str, float | int | str]


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

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = (), before: int = 0) -> None:
        """Read the rows of the epochs before ``before``; a resumed run writes the later ones again."""
        self._folder = folder
        self.trackers = list(trackers)
        self.rows = [row for row in read_metrics(folder) if int(row["epoch"]) < before]

    def record(self, row: Row) -> None:
        """Append the row of an epoch to the files and the trackers; an interruption leaves the files whole."""
        self.rows.append(row)
        write_text(self._folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        with csv_writer(self._folder / "summary.csv") as writer:
            writer.writerow(columns)
            writer.writerows([row.get(column, "") for column in columns] for row in self.rows)
        for tracker in self.trackers:
            tracker.log(row)

    def close(self) -> None:
        """Close all trackers."""
        for tracker in self.trackers:
            tracker.close()


def read_metrics(folder: Path) -> list[Row]:
    """Return the rows of ``metrics.jsonl``, or an empty list if there is no such file; raise UsageError for one of others."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    remedy = f"Move it away, which loses the metrics of its epochs; if {folder} is a study's, delete that folder instead."
    return list(read_json_lines(path, _ROW, complaint="cannot be read as metrics", remedy=remedy))


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError if a tracker named in a recipe is not installed."""
    for name in names:
        if find_spec(name) is None:  # importing it would import torch
            raise _missing(name)


def open_trackers(names: Sequence[str], folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Tracker]:
    """Open the trackers named in a recipe; a known ``run_id`` is resumed. Raises UsageError for a missing package."""
    openers: dict[str, type[_TensorBoard] | type[_Wandb]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
    return [openers[name](folder, run_id, config) for name in names]


class _TensorBoard:
    def __init__(self, folder: Path, _run_id: str, config: Mapping[str, Any]) -> None:
        self._writer = _import_tracker("tensorboard").SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("recipe", "```\n" + json.dumps(config, indent=2) + "\n```")

    def log(self, row: Mapping[str, float | int | str]) -> None:
        for key, value in row.items():
            if not isinstance(value, str):
                self._writer.add_scalar(key, value, int(row["epoch"]))

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
        self._wandb = _import_tracker("wandb")
        self._run = self._wandb.init(
            project="jpegcurr", name=folder.name, dir=str(folder), config=dict(config), id=run_id, resume="allow"
        )

    def log(self, row: Mapping[str, float | int | str]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # waits until its other process has written everything; finish alone may return earlier


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def _import_tracker(name: str) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError:
        raise _missing(name) from None


def _missing(name: str) -> UsageError:
    return UsageError(f"tracking: {name} is not installed: pip install 'jpegcurr[{name}]'.")
