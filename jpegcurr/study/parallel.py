"""Several tasks of a study at a time, each in a process of its own: on GPUs one each, on a CPU with a share of its threads.

Where they are started is ``Places``: ``Workers`` on this machine, ``cluster.Cluster`` as Slurm jobs.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

from jpegcurr.errors import Interrupted, JpegcurrError, UsageError
from jpegcurr.runtime import visible_gpus
from jpegcurr.study.config import Study
from jpegcurr.study.run import Ended, Watcher, log_path
from jpegcurr.study.tasks import Task, epochs_recorded
from jpegcurr.system import available_cpus

_STOPPED = (Interrupted.exit_code, 143)


class NotNowError(JpegcurrError):
    """A task that cannot be started as things are; with others under way it waits."""


class Process(Protocol):
    """A task under way, as subprocess knows processes."""

    @property
    def returncode(self) -> int | None:
        """How it ended; None before ``poll`` or ``wait`` has seen it."""
        ...

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        ...

    def wait(self) -> int:
        """How it ended, when it has."""
        ...

    def terminate(self) -> None:
        """Have it save and end."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def explain(self) -> str:
        """How it ended, in words, for one that did not say so itself."""
        ...


class Launcher(Protocol):
    """Where tasks are started: ``jobs`` at a time, looked after every ``pause`` seconds."""

    @property
    def jobs(self) -> int:
        """How many at a time."""
        ...

    @property
    def pause(self) -> float:
        """Seconds between looks at who has ended."""
        ...

    def start(self, study: Study, task: Task, out: Path, place: int) -> Process:
        """Start one task in the place of that number. Raises NotNowError."""
        ...

    def under_way(self, tasks: Sequence[Task], out: Path) -> Sequence[tuple[Task, Process]]:
        """The tasks that an earlier call has started and that have not ended."""
        ...


class _Local(subprocess.Popen[bytes]):
    def explain(self) -> str:
        return f"its process ended with {self.returncode}"


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """How many at a time, and what each is told of the device.

    ``launch`` stands before each one's command and starts it, elsewhere if it likes: ``srun --gpus 1`` makes each a job of
    Slurm's. It has to pass the exit code on and to see the same paths; and SIGTERM, if what is under way is to be saved after
    Ctrl-C: srun kills instead, and then the last epoch's checkpoint is gone on from.
    """

    jobs: int
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    launch: tuple[str, ...] = ()
    pause: ClassVar[float] = 0.2

    def environments(self) -> list[dict[str, str]]:
        """What each place's processes find in their environment.

        Raises:
            UsageError: the device is one GPU, which is not for several processes.
        """
        if self.launch:
            return [{}] * self.jobs  # it gives out devices itself
        kind, _, number = self.device.partition(":")
        if number:
            raise UsageError(f"--device {self.device} is one GPU, and --jobs puts runs on several: give --device {kind}.")
        if gpus := visible_gpus() if kind != "cpu" else []:
            return [{"CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]} for place in range(self.jobs)]
        threads = str(max(1, available_cpus() // self.jobs))
        return [{"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}] * self.jobs

    def command(self, study: Study, task: Task, out: Path) -> list[str]:
        """What does one task."""
        command = [*self.launch, sys.executable, "-m", "jpegcurr.study.worker", str(study.path), str(out), task.name]
        command += ["--device", self.device, "--precision", self.precision]
        return [*command, "--compile"] if self.compile else command

    def start(self, study: Study, task: Task, out: Path, place: int) -> Process:
        """A process of this machine. Raises UsageError if ``launch`` cannot be started."""
        log = log_path(out, task)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:  # a session of its own: Ctrl-C reaches this process, which stops it in order
            try:
                return _Local(
                    self.command(study, task, out),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **self.environments()[place]},
                    start_new_session=True,
                )
            except OSError as error:
                raise UsageError(f"--launch: {self.launch[0]} cannot be started: {error.strerror}.") from None

    def under_way(self, tasks: Sequence[Task], out: Path) -> Sequence[tuple[Task, Process]]:  # noqa: ARG002
        """None: nobody could tell such processes from others; they hold their runs' locks."""
        return []


@dataclass(slots=True)
class _Running:
    task: Task
    process: Process
    place: int
    said: int = 0  # bytes of its log from earlier tries
    started: float = field(default_factory=time.monotonic)


def run_parallel(
    study: Study, tasks: Sequence[Task], out: Path, places: Launcher, watcher: Watcher, on_seed: Callable[[], object]
) -> list[Ended]:
    """Do ``tasks``, each as soon as what it goes on from is done, and return those that failed; see ``run.run_all``.

    Raises KeyboardInterrupt after Ctrl-C or SIGTERM, when every process has saved and ended; a second one kills them.
    """
    running = [_Running(task, process, place) for place, (task, process) in enumerate(places.under_way(tasks, out))]
    waiting = [task for task in tasks if task not in [each.task for each in running]]
    failed: dict[str, Ended] = {}
    seeds_left = [task.seed for task in tasks]
    try:
        for each in running:
            watcher.started(each.task)
        while waiting or running:
            for task in [each for each in waiting if each.after in failed]:
                waiting.remove(task)
                reason = f"its trunk, {task.after}, failed"
                failed[task.name] = Ended(task, "failed", 0.0, reason, failed[str(task.after)].log)
                _tell(watcher, failed[task.name], seeds_left, on_seed)
            _start(study, waiting, running, out, places, watcher)
            time.sleep(places.pause)
            for each in running:
                watcher.reached(each.task, epochs_recorded(out / each.task.folder))
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                ended = _conclude(each, out)
                if ended.end == "failed":
                    failed[ended.task.name] = ended
                _tell(watcher, ended, seeds_left, on_seed)
    finally:
        _stop([each.process for each in running])
    return list(failed.values())


def _start(study: Study, waiting: list[Task], running: list[_Running], out: Path, places: Launcher, watcher: Watcher) -> None:
    """Fill the free places with the first tasks that wait for nothing."""
    while len(running) < places.jobs:
        under_way = {each.name for each in waiting} | {each.task.name for each in running}
        task = next((each for each in waiting if each.after not in under_way), None)
        if task is None:
            return
        place = min(set(range(places.jobs)) - {each.place for each in running})
        log = log_path(out, task)
        said = log.stat().st_size if log.is_file() else 0
        try:
            process = places.start(study, task, out, place)
        except NotNowError:
            if not running:
                raise
            return
        running.append(_Running(task, process, place, said))
        waiting.remove(task)
        watcher.started(task)


def _conclude(run: _Running, out: Path) -> Ended:
    seconds, code = time.monotonic() - run.started, run.process.returncode
    if code == 0:
        return Ended(run.task, "done", seconds)
    log = log_path(out, run.task)
    if code in _STOPPED:
        return Ended(run.task, "failed", seconds, "it was stopped by someone else, and goes on with the next call", log)
    said = log.read_bytes()[run.said :].decode(errors="replace") if log.is_file() else ""
    last = (said.splitlines() or [""])[-1]
    reason = last.removeprefix("failed: ") if last.startswith("failed: ") else run.process.explain()
    return Ended(run.task, "failed", seconds, reason, log)


def _tell(watcher: Watcher, ended: Ended, seeds_left: list[int], on_seed: Callable[[], object]) -> None:
    watcher.ended(ended)
    seeds_left.remove(ended.task.seed)
    if seeds_left and ended.task.seed not in seeds_left:
        on_seed()


def _stop(processes: Sequence[Process]) -> None:
    """Have them save and end; kill them if this is interrupted too."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise
