"""The tasks of a study, one after another in this process; a task that fails does not stop the others."""

import gc
import logging
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, Protocol

from jpegcurr.errors import Interrupted
from jpegcurr.files import locked
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import Study
from jpegcurr.study.fork import fork_run
from jpegcurr.study.measure import measure_run
from jpegcurr.study.tasks import Task
from jpegcurr.system import StopRequest
from jpegcurr.training.checkpoint import epochs_done
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.run_folder import STATE
from jpegcurr.training.train import train

Status = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The end of a task. If it failed, ``reason`` is a sentence and ``log`` a file with details."""

    task: Task
    status: Status
    seconds: float
    reason: str = ""
    log: Path | None = None


class Watcher(Protocol):
    """The receiver of a study's progress."""

    def started(self, task: Task) -> None:
        """Note that a task starts or resumes."""
        ...

    def reached(self, task: Task, epochs: float) -> None:
        """Note how many epochs of its recipe a task has done, those of its trunk included."""
        ...

    def ended(self, result: TaskResult) -> None:
        """Note the end of a task."""
        ...


def run_all(
    study: Study,
    tasks: Sequence[Task],
    out: Path,
    runtime: Runtime,
    watcher: Watcher,
    stop: StopRequest,
    on_seed: Callable[[], object],
) -> list[TaskResult]:
    """Do ``tasks`` in this process, in order, and return those that failed; call ``on_seed`` after the last task of a seed.

    If a trunk fails, its arms fail too. Raises Terminated or KeyboardInterrupt if a stop is requested; the next call resumes
    from what was saved.
    """
    failed: dict[str, TaskResult] = {}
    for number, task in enumerate(tasks):
        if task.after in failed:
            result = TaskResult(task, "failed", 0.0, f"its trunk, {task.after}, failed", failed[task.after].log)
        else:
            watcher.started(task)
            result = _try_task(study, task, out, runtime, watcher, stop)
        watcher.ended(result)
        if result.status == "failed":
            failed[task.name] = result
        stop.check()
        seeds_left = {later.seed for later in tasks[number + 1 :]}
        if seeds_left and task.seed not in seeds_left:
            on_seed()
    return list(failed.values())


def _try_task(study: Study, task: Task, out: Path, runtime: Runtime, watcher: Watcher, stop: StopRequest) -> TaskResult:
    log, started = log_path(out, task), perf_counter()

    def on_step(progress: StepInfo) -> None:
        stop.defer()
        watcher.reached(task, progress.plan.epoch + progress.step / progress.steps)

    with log_to(log) as logger:
        try:
            run_task(study, task, out, runtime, on_step, stop)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the other arms continue
            logger.error(traceback.format_exc())
            reason = str(error).strip() or type(error).__name__
            return TaskResult(task, "failed", perf_counter() - started, reason, log)
        finally:
            gc.collect()  # models hold reference cycles, and the next task needs their memory
    return TaskResult(task, "done", perf_counter() - started)


def run_task(
    study: Study, task: Task, out: Path, runtime: Runtime, on_step: Callable[[StepInfo], None], stop: StopRequest
) -> None:
    """Train one task, from its trunk or its last state if there is one, and measure it if it is an arm.

    Raises:
        JpegcurrError: as ``train`` and ``measure_run`` do.
        Terminated: a stop was requested, and the state is saved.
        UsageError: another process is training it.
    """
    folder, recipe = out / task.folder, task.recipe(study)
    state = folder / STATE
    # A process whose parent was killed may still be training it.
    with locked(folder.with_name(f".{folder.name}.lock"), folder, doing="trained", option="--out"):
        if not state.is_file() and task.arm:
            shutil.rmtree(out / "outcomes" / task.name, ignore_errors=True)  # of a run that was deleted
            if task.trunk:
                fork_run(out / "trunks" / task.trunk.name / f"seed-{task.seed}", recipe, folder)
        resume = state.is_file()
        if not resume or epochs_done(state) < task.last:
            train(recipe, folder, runtime=runtime, resume=resume, until=task.last, on_step=on_step, stop=stop.requested)
        if task.arm:
            measure_run(study, task.arm, task.seed, folder, out, runtime, stop.check)


def log_path(out: Path, task: Task) -> Path:
    """Return the log file of a task."""
    return out / "logs" / f"{task.name}.log"


@contextmanager
def log_to(path: Path) -> Iterator[logging.Logger]:
    """Append the package's log to a file while the block runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("jpegcurr")
    before = logger.handlers, logger.level, logger.propagate
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield logger
    finally:
        handler.close()
        logger.handlers, level, logger.propagate = before
        logger.setLevel(level)
