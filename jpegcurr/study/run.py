"""A study's runs: one after another in this process, or several at a time in others; what fails does not stop the rest."""

import gc
import logging
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, Protocol

from jpegcurr.errors import Interrupted, Terminated
from jpegcurr.files import locked
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import Study
from jpegcurr.study.fork import fork_run
from jpegcurr.study.measure import measure_run
from jpegcurr.study.tasks import Task
from jpegcurr.system import stop_on_signals
from jpegcurr.training.checkpoint import epochs_done
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.run_folder import STATE
from jpegcurr.training.train import train

End = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class Ended:
    """A task that is over: ``reason`` and the ``log`` say why it failed."""

    task: Task
    end: End
    seconds: float
    reason: str = ""
    log: Path | None = None


class Watcher(Protocol):
    """Who is told how far a study is."""

    def started(self, task: Task) -> None:
        """A task begins, or goes on."""
        ...

    def reached(self, task: Task, epochs: float) -> None:
        """So many epochs of it are behind it, of the whole recipe."""
        ...

    def ended(self, ended: Ended) -> None:
        """It is over."""
        ...


@dataclass(frozen=True, slots=True)
class Stop:
    """Whether someone wants an end, and who to tell that there is something to save."""

    asked: Callable[[], bool]
    begun: Callable[[], None]

    def check(self) -> None:
        """Raise Terminated if someone does."""
        if self.asked():
            raise Terminated("stopped.")


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Answer Ctrl-C and SIGTERM by asking for an end, so that a step under way is saved; before any, at once.

    A second Ctrl-C is answered at once too, a second SIGTERM not at all: schedulers and parents may both send one.
    """
    with stop_on_signals(signal.SIGINT, signal.SIGTERM) as request:
        yield Stop(request.requested, request.defer)


def run_all(
    study: Study,
    tasks: Sequence[Task],
    out: Path,
    runtime: Runtime,
    watcher: Watcher,
    stop: Stop,
    on_seed: Callable[[], object],
) -> list[Ended]:
    """Do ``tasks`` in this process, in order, and return those that failed; ``on_seed`` is called between two seeds.

    A task whose trunk failed fails with it. Raises Terminated or KeyboardInterrupt if someone wants an end; what was saved goes
    on with the next call.
    """
    failed: dict[str, Ended] = {}
    for number, task in enumerate(tasks):
        if task.after in failed:
            ended = Ended(task, "failed", 0.0, f"its trunk, {task.after}, failed", failed[task.after].log)
        else:
            watcher.started(task)
            ended = _try(study, task, out, runtime, watcher, stop)
        watcher.ended(ended)
        if ended.end == "failed":
            failed[task.name] = ended
        stop.check()
        left = {each.seed for each in tasks[number + 1 :]}
        if left and task.seed not in left:
            on_seed()
    return list(failed.values())


def _try(study: Study, task: Task, out: Path, runtime: Runtime, watcher: Watcher, stop: Stop) -> Ended:
    log, started = log_path(out, task), perf_counter()

    def on_step(progress: StepInfo) -> None:
        stop.begun()
        watcher.reached(task, progress.plan.epoch + progress.step / progress.steps)

    with logged_to(log) as logger:
        try:
            run_task(study, task, out, runtime, on_step, stop)
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the other arms go on
            logger.error(traceback.format_exc())
            reason = str(error).strip() or type(error).__name__
            return Ended(task, "failed", perf_counter() - started, reason, log)
        finally:
            gc.collect()  # models hold cycles, and the next one wants their memory
    return Ended(task, "done", perf_counter() - started)


def run_task(study: Study, task: Task, out: Path, runtime: Runtime, on_step: Callable[[StepInfo], None], stop: Stop) -> None:
    """Train what is left of one task, from its trunk if it has one, and measure it.

    Raises:
        JpegcurrError: as ``train`` and ``measure_run`` do.
        Terminated: someone wants an end, at a moment that was saved.
        UsageError: another process is at it.
    """
    folder, recipe = out / task.folder, task.recipe(study)
    state = folder / STATE
    # a process whose parent was killed may still be at it
    with locked(folder.with_name(f".{folder.name}.lock"), folder, doing="trained", option="--out"):
        if not state.is_file() and task.arm:
            shutil.rmtree(out / "outcomes" / task.name, ignore_errors=True)  # of a run that was taken away
            if task.trunk:
                fork_run(out / "trunks" / task.trunk.name / f"seed-{task.seed}", recipe, folder)
        resume = state.is_file()
        if not resume or epochs_done(state) < task.last:
            train(recipe, folder, runtime=runtime, resume=resume, until=task.last, on_step=on_step, stop=stop.asked)
        if task.arm:
            measure_run(study, task.arm, task.seed, folder, out, runtime, stop.check)


def log_path(out: Path, task: Task) -> Path:
    """Where what a task says goes."""
    return out / "logs" / f"{task.name}.log"


@contextmanager
def logged_to(path: Path) -> Iterator[logging.Logger]:
    """Send the package's log to the end of a file while the block runs."""
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
