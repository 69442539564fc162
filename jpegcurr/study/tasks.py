"""The tasks of a study, their order, and which of them are done."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.recipe.schema import Recipe
from jpegcurr.study.config import Study
from jpegcurr.study.fork import Trunk
from jpegcurr.study.measure import is_measured
from jpegcurr.training.checkpoint import epochs_done
from jpegcurr.training.run_folder import STATE
from jpegcurr.training.tracking import read_metrics


@dataclass(frozen=True, slots=True)
class Task:
    """Training of epochs ``first`` to ``last`` (exclusive) with one seed: of an arm, which is then measured, or of a trunk.

    A trunk's task has no ``arm``. ``after`` names the task that has to be done first.
    """

    arm: str | None
    trunk: Trunk | None
    seed: int
    first: int
    last: int
    after: str | None = None

    @property
    def name(self) -> str:
        """The arm or trunk and the seed: ``clean_q50/seed-0``."""
        return f"{self.arm or (self.trunk and self.trunk.name)}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """The folder of its run, relative to the study's folder."""
        return Path("runs" if self.arm else "trunks", self.name)

    @property
    def trained_as(self) -> str:
        """The arm whose recipe it trains; for a trunk, the first of its arms."""
        return self.arm or (self.trunk.arms[0] if self.trunk else "")

    def recipe(self, study: Study) -> Recipe:
        """Return the recipe that it trains, up to epoch ``last``."""
        return study.recipe(self.trained_as, self.seed)


def list_tasks(study: Study, only: Iterable[str] = ()) -> list[Task]:
    """Return all tasks in order: seed by seed, so that a stopped study has whole seeds; within a seed as in the file.

    ``only`` restricts them to some arms and the trunks that these need. A trunk comes before the first arm that needs it.
    """
    selected = [arm for arm in study.arms if arm in set(only) or not only]
    tasks: dict[str, Task] = {}
    for seed in study.seeds:
        for arm in selected:
            trunk, last = study.trunk(arm), study.recipes[arm].epochs
            if trunk is None:
                task = Task(arm, None, seed, 0, last)
            else:
                before = Task(None, trunk, seed, 0, trunk.epoch)
                tasks.setdefault(before.name, before)
                task = Task(arm, trunk, seed, trunk.epoch, last, before.name)
            tasks[task.name] = task
    return list(tasks.values())


def list_unfinished(study: Study, tasks: Sequence[Task], out: Path) -> list[Task]:
    """Return the tasks that are not done; a trunk counts only if an arm still has to start from it."""
    arms = [task for task in tasks if task.arm and not is_done(study, task, out)]
    needed = {task.after for task in arms if not (out / task.folder / STATE).is_file()}
    return [task for task in tasks if task in arms or (task.name in needed and not is_done(study, task, out))]


def is_done(study: Study, task: Task, out: Path) -> bool:
    """Return whether it was trained to its last epoch and, if it is an arm, measured on every validation set."""
    folder = out / task.folder
    if task.arm:
        return is_measured(study, task.arm, task.seed, out) and epochs_recorded(folder) >= task.last
    return (folder / STATE).is_file() and epochs_done(folder / STATE) >= task.last


def epochs_recorded(folder: Path) -> int:
    """Return the number of epochs in the metrics of a run."""
    return len(read_metrics(folder))
