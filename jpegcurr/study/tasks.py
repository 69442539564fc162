"""What there is to do for a study, in which order, and what of it is done."""

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
    """Train epochs ``first`` to ``last`` (exclusive) of an arm with a seed, and measure it; or, without an arm, of a trunk.

    ``after`` is the task that has to be done before.
    """

    arm: str | None
    trunk: Trunk | None
    seed: int
    first: int
    last: int
    after: str | None = None

    @property
    def name(self) -> str:
        """``clean_q50/seed-0``."""
        return f"{self.arm or (self.trunk and self.trunk.name)}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """Of its run, in the study's folder."""
        return Path("runs" if self.arm else "trunks", self.name)

    @property
    def trained_as(self) -> str:
        """The arm whose recipe it trains; a trunk's is its first arm's."""
        return self.arm or (self.trunk.arms[0] if self.trunk else "")

    def recipe(self, study: Study) -> Recipe:
        """What it trains, of which no more than ``last`` epochs."""
        return study.recipe(self.trained_as, self.seed)


def list_tasks(study: Study, only: Iterable[str] = ()) -> list[Task]:
    """Every task in order: seed by seed, so that a study that is stopped has whole seeds; the arms as in the file.

    ``only`` some arms; their trunks are kept, and come before the first that needs them.
    """
    wanted = [arm for arm in study.arms if arm in set(only) or not only]
    tasks: dict[str, Task] = {}
    for seed in study.seeds:
        for arm in wanted:
            trunk, last = study.trunk(arm), study.recipes[arm].epochs
            if trunk is None:
                task = Task(arm, None, seed, 0, last)
            else:
                before = Task(None, trunk, seed, 0, trunk.epoch)
                tasks.setdefault(before.name, before)
                task = Task(arm, trunk, seed, trunk.epoch, last, before.name)
            tasks[task.name] = task
    return list(tasks.values())


def left_to_do(study: Study, tasks: Sequence[Task], out: Path) -> list[Task]:
    """Those that are not done; a trunk is only needed by arms that have not gone on from it."""
    left = [task for task in tasks if task.arm and not is_done(study, task, out)]
    waiting = {task.after for task in left if not (out / task.folder / STATE).is_file()}
    return [task for task in tasks if task in left or (task.name in waiting and not is_done(study, task, out))]


def is_done(study: Study, task: Task, out: Path) -> bool:
    """Whether it was trained to its last epoch and, if it is an arm, measured on every set of the study."""
    folder = out / task.folder
    if task.arm:
        return is_measured(study, task.arm, task.seed, out) and epochs_recorded(folder) >= task.last
    return (folder / STATE).is_file() and epochs_done(folder / STATE) >= task.last


def epochs_recorded(folder: Path) -> int:
    """How many epochs a run has behind it, as its metrics say."""
    return len(read_metrics(folder))
