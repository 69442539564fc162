"""Runs as they lie on the disk: found below a folder, with their metrics, their recipe, and what is unusual about them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jpegcurr.analysis.runs.event_files import EVENTS, find_torn, read_events
from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.files import lock_holder, short_names
from jpegcurr.recipe.loading import load_resolved
from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.run_head import HEAD, LOCK
from jpegcurr.training.tracking import METRICS, Row, read_complete_metrics

_STUDY, _TRUNKS = "study.json", "trunks"


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of a run, from epoch ``start`` to ``end`` (exclusive), and the data that it trains on."""

    start: int
    end: int
    data: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run of jpegcurr's, or a folder of TensorBoard's, whose steps count as epochs.

    Attributes:
        name: the shortest name that tells it from the others.
        rows: its metrics, a row for every epoch.
        recipe: None for TensorBoard, or if it cannot be read.
        notes: what a reader has to know: that the run is not finished, or that something could not be read.
    """

    folder: Path
    name: str
    kind: Literal["run", "tensorboard"]
    rows: Sequence[Row]
    recipe: Recipe | None
    notes: tuple[str, ...]

    @property
    def epochs(self) -> int:
        """The number of epochs that it has metrics of."""
        return len(self.rows)

    @property
    def planned(self) -> int | None:
        """The number of epochs of its recipe; None if that is unknown."""
        return self.recipe.epochs if self.recipe else None

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases of its recipe, those to come too."""
        return tuple(_phases(self.recipe)) if self.recipe else ()

    @property
    def columns(self) -> list[str]:
        """The columns of its metrics that hold numbers, in the order of their first use; without the epoch."""
        numbers = (key for row in self.rows for key, value in row.items() if not isinstance(value, str))
        return [key for key in dict.fromkeys(numbers) if key != "epoch"]


def _phases(recipe: Recipe) -> Iterator[Phase]:
    plans, start = plan_epochs(recipe), 0
    for phase in recipe.curriculum:
        first, last = plans[start], plans[phase.until_epoch - 1]
        data = first.data if first.shares == last.shares else f"{first.data}, gradually {last.data}"
        yield Phase(start, phase.until_epoch, data)
        start = phase.until_epoch


def read_records(folders: Iterable[Path]) -> tuple[list[RunRecord], list[str]]:
    """Read every run in ``folders`` and below them; return them and sentences on what was left out.

    The shared first epochs of a study, its trunks, are left out: the runs that start from them have these epochs too.

    Raises:
        UsageError: a folder is missing or holds no run, or tensorboard is needed and not installed.
    """
    runs: dict[Path, Path] = {}
    trunks = 0
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}. Give a run or a folder of runs."
            )
        below, skipped = _find(folder)
        trunks += skipped
        if not below:
            raise UsageError(
                f"{folder} holds no run: no folder in it has {HEAD} or {METRICS}, as train writes them, or {EVENTS}, as "
                "TensorBoard does."
            )
        runs |= {path.resolve(): path for path in below if path.resolve() not in runs}
    names = short_names(runs.values())
    remarks = [f"{trunks} trunk{'s' if trunks > 1 else ''} of studies left out: the runs that start there have these epochs."]
    return [read_record(path, names[path]) for path in runs.values()], remarks if trunks else []


def _find(top: Path) -> tuple[list[Path], int]:
    """Return the runs in ``top`` and below it, in order, and the number of trunks that are not among them."""
    runs, trunks = [], 0
    for place, folders, files in os.walk(top):
        folder = Path(place)
        if HEAD in files or METRICS in files or any(folder.glob(EVENTS)):
            runs.append(folder)
            folders.clear()  # its own event files, checkpoints and weights
        if _STUDY in files and _TRUNKS in folders:
            folders.remove(_TRUNKS)
            trunks += sum(1 for _ in (folder / _TRUNKS).glob(f"*/*/{HEAD}"))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return runs, trunks


def read_record(folder: Path, name: str) -> RunRecord:
    """Read one run; whatever of it cannot be read is a note, and not an error."""
    if not (folder / HEAD).is_file() and not (folder / METRICS).is_file():
        torn = [f"the last record of {path.name} is torn and left out" for path in find_torn(folder)]
        return RunRecord(folder, name, "tensorboard", read_events(folder), None, tuple(torn))
    notes: list[str] = []
    rows: list[Row] = []
    recipe = None
    try:
        rows, torn_line = read_complete_metrics(folder)
        notes += [torn_line] if torn_line else []
    except UsageError as error:
        notes.append(_first_line(error))
    try:
        recipe = load_resolved(folder / "recipe.yaml")
    except RecipeError as error:
        notes.append(f"no recipe, so that its differences are unknown: {_first_line(error)}")
    if state := _state(folder, len(rows), recipe):
        notes.insert(0, state)
    return RunRecord(folder, name, "run", rows, recipe, tuple(notes))


def _state(folder: Path, epochs: int, recipe: Recipe | None) -> str:
    """Return how far a run is that has not ended; empty for one that has, or of which that is unknown."""
    holder = lock_holder(folder / LOCK)
    done = f"{epochs} of {recipe.epochs} epochs" if recipe else f"{epochs} epochs"
    if holder and not (recipe and epochs >= recipe.epochs):
        return f"under way, {done} (process {holder})"
    return f"not finished, {done}" if recipe and epochs < recipe.epochs else ""


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0:2]).strip()


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of a recipe by dotted field, as ``--set`` names them: ``curriculum.1.data``."""
    if isinstance(tree, dict) and tree:
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, list) and tree and any(isinstance(value, dict) for value in tree):
        items = enumerate(tree)
    else:
        return {prefix.removesuffix("."): tree}
    return {field: leaf for key, value in items for field, leaf in flatten(value, f"{prefix}{key}.").items()}
