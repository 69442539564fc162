"""What a run leaves behind while it goes: ``metrics.jsonl`` and ``summary.csv`` always, TensorBoard and W&B if asked."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from jpegcurr.errors import UsageError
from jpegcurr.files import write_text

Row = dict[str, float | int | str]


class Tracker(Protocol):
    """An outside place that follows the metrics."""

    def log(self, row: Mapping[str, float | int | str]) -> None:
        """Record one epoch."""
        ...

    def close(self) -> None:
        """Flush and let go."""
        ...


class Metrics:
    """One JSON object an epoch in ``metrics.jsonl``, the same as a table in timm's ``summary.csv``, and the trackers."""

    def __init__(self, folder: Path, trackers: Sequence[Tracker] = (), before: int = 0) -> None:
        """Keep the rows of epochs earlier than ``before``; a resumed run writes the later ones again."""
        self._folder = folder
        self.trackers = list(trackers)
        self.rows = [row for row in read_metrics(folder) if int(row["epoch"]) < before]

    def record(self, row: Row) -> None:
        """Append one epoch's row, everywhere; the files stay whole if this is interrupted."""
        self.rows.append(row)
        write_text(self._folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows))
        table = io.StringIO()
        columns = list(dict.fromkeys(key for row in self.rows for key in row))
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._folder / "summary.csv", table.getvalue())
        for tracker in self.trackers:
            tracker.log(row)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.close()


def read_metrics(folder: Path) -> list[Row]:
    """Read the rows of ``metrics.jsonl``; none if there is no such file."""
    path = folder / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError if a tracker named in a recipe is not installed."""
    for name in names:
        if find_spec(name) is None:  # importing it would import torch
            raise _missing(name)


def open_trackers(names: Sequence[str], folder: Path, run_id: str, config: Mapping[str, Any]) -> list[Tracker]:
    """Open the trackers named in a recipe; a resumed ``run_id`` is gone on with. Raises UsageError for a missing package."""
    openers: dict[str, type[_TensorBoard] | type[_Wandb]] = {"tensorboard": _TensorBoard, "wandb": _Wandb}
    return [openers[name](folder, run_id, config) for name in names]


class _TensorBoard:
    def __init__(self, folder: Path, _run_id: str, config: Mapping[str, Any]) -> None:
        self._writer = _extra("tensorboard").SummaryWriter(str(folder / "tensorboard"))
        self._writer.add_text("recipe", "```\n" + json.dumps(config, indent=2) + "\n```")

    def log(self, row: Mapping[str, float | int | str]) -> None:
        for key, value in row.items():
            if not isinstance(value, str):
                self._writer.add_scalar(key, value, int(row["epoch"]))

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, run_id: str, config: Mapping[str, Any]) -> None:
        self._wandb = _extra("wandb")
        self._run = self._wandb.init(
            project="jpegcurr", name=folder.name, dir=str(folder), config=dict(config), id=run_id, resume="allow"
        )

    def log(self, row: Mapping[str, float | int | str]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self) -> None:
        self._run.finish()
        self._wandb.teardown()  # waits for its other process to have written all; finish alone may come back before


_MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def _extra(name: str) -> Any:
    try:
        return import_module(_MODULES[name])
    except ImportError:
        raise _missing(name) from None


def _missing(name: str) -> UsageError:
    return UsageError(f"tracking: {name} is not installed: pip install 'jpegcurr[{name}]'.")
