"""Several tasks of a study at a time, in processes: each with a share of the processors and, if there are any, a GPU.

A ``Launcher`` starts the processes: ``LocalLauncher`` on this machine, ``slurm.SlurmLauncher`` as Slurm jobs.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from jpegcurr.errors import Interrupted, JpegcurrError, UsageError
from jpegcurr.runtime import compile_arguments, visible_gpus
from jpegcurr.study.config import Study
from jpegcurr.study.run import TaskResult, Watcher, log_path
from jpegcurr.study.tasks import Task, epochs_recorded
from jpegcurr.system import CPUS_VARIABLE, WINDOWS, available_cpus

_STOPPED_CODES = (Interrupted.exit_code, 143)


class LaunchRefusedError(JpegcurrError):
    """A task cannot be started now; while other tasks run, it waits and is tried again."""


class Process(Protocol):
    """A task that was started, with the interface of ``subprocess.Popen``."""

    @property
    def returncode(self) -> int | None:
        """The exit code; None before ``poll`` or ``wait`` has returned it."""
        ...

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        ...

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        ...

    def terminate(self) -> None:
        """Ask it to save its state and to end."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def explain(self) -> str:
        """Return why it failed, for a process whose log does not say so."""
        ...


AnyStudy = TypeVar("AnyStudy", contravariant=True)  # of recipes, or of commands


class Launcher(Protocol[AnyStudy]):
    """The place where processes are started."""

    @property
    def jobs(self) -> int:
        """The number of processes at a time."""
        ...

    @property
    def pause(self) -> float:
        """The seconds between two checks of the processes."""
        ...

    def start(self, study: AnyStudy, task: Task, out: Path, slot: int, /) -> Process:
        """Start one task in a free slot, 0 to ``jobs`` - 1. Raises LaunchRefusedError."""
        ...

    def progress(self, task: Task, out: Path) -> float:
        """Return how many epochs a task has done."""
        ...

    def under_way(self, tasks: Sequence[Task], out: Path) -> Sequence[tuple[Task, Process]]:
        """Return the tasks that an earlier call started and that still run."""
        ...


# The options of a process of its own session, or Windows' group: Ctrl-C reaches only this one, which stops the others in order.
_GROUP = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", None)
APART: dict[str, Any] = {"start_new_session": True} if _GROUP is None else {"creationflags": _GROUP}


class _LocalProcess(subprocess.Popen[bytes]):
    def terminate(self) -> None:
        """Send SIGTERM, or on Windows, where that kills, a Ctrl-Break; see ``system.TERMINATION``."""
        self.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))

    def explain(self) -> str:
        return f"its process ended with exit code {self.returncode}"


def end_group(process: subprocess.Popen[bytes], *, at_once: bool = False) -> None:
    """Ask a process that was started with ``APART``, and all that it has started, to end; or end them ``at_once``."""
    with suppress(ProcessLookupError):
        if not WINDOWS:
            os.killpg(process.pid, signal.SIGKILL if at_once else signal.SIGTERM)
        elif at_once:
            process.kill()
        else:
            process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))


@dataclass(frozen=True, slots=True)
class LocalLauncher:
    """Processes on this machine, ``jobs`` at a time, with the options for the device that each worker gets.

    ``launch`` is a command that starts each process, on another machine if it likes: ``srun --gpus 1`` makes each a job of
    Slurm. It has to return the exit code and to see the same paths. To save work under way after Ctrl-C it has to pass on
    SIGTERM: srun kills instead, and the next call resumes from the checkpoint of the last epoch.
    """

    jobs: int
    device: str = "auto"
    precision: str = "auto"
    compile: bool | None = None
    launch: tuple[str, ...] = ()
    pause: ClassVar[float] = 0.2

    def environments(self) -> list[dict[str, str]]:
        """Return the environment variables of the processes in each slot.

        Raises:
            UsageError: the device is a single GPU, which several processes cannot share.
        """
        if self.launch:
            return [{}] * self.jobs  # the launching command assigns devices
        kind, _, number = self.device.partition(":")
        if number:
            raise UsageError(f"--device {self.device} is one GPU, but --jobs spreads runs over several: give --device {kind}.")
        share = str(max(1, available_cpus() // self.jobs))
        shares = {"OMP_NUM_THREADS": share, "MKL_NUM_THREADS": share, CPUS_VARIABLE: share}
        gpus = visible_gpus() if kind != "cpu" else []
        return [shares | ({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}) for slot in range(self.jobs)]

    def command(self, study: Study, task: Task, out: Path) -> list[str]:
        """Return the command that does one task."""
        command = [*self.launch, sys.executable, "-m", "jpegcurr.study.worker", str(study.path), str(out), task.name]
        command += ["--device", self.device, "--precision", self.precision]
        return [*command, *compile_arguments(self.compile)]

    def progress(self, task: Task, out: Path) -> float:
        """Return how many epochs a task has done."""
        return epochs_recorded(out / task.folder)

    def start(self, study: Study, task: Task, out: Path, slot: int) -> Process:
        """Start a process on this machine. Raises UsageError if ``launch`` cannot be started."""
        log = log_path(out, task)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            try:
                return _LocalProcess(
                    self.command(study, task, out),
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env={**os.environ, **self.environments()[slot]},
                    **APART,
                )
            except OSError as error:
                raise UsageError(f"--launch: {self.launch[0]} cannot be started: {error.strerror}.") from None

    def under_way(self, tasks: Sequence[Task], out: Path) -> Sequence[tuple[Task, Process]]:  # noqa: ARG002
        """Return nothing: processes of an earlier call cannot be recognised, but they hold the locks of their runs."""
        return []


@dataclass(slots=True)
class _Running:
    task: Task
    process: Process
    slot: int
    log_start: int = 0  # bytes of its log from earlier tries
    started: float = field(default_factory=time.monotonic)


def run_parallel(
    study: AnyStudy,
    tasks: Sequence[Task],
    out: Path,
    launcher: Launcher[AnyStudy],
    watcher: Watcher,
    on_seed: Callable[[], object],
) -> list[TaskResult]:
    """Do ``tasks``, each as soon as its trunk is done, and return those that failed; see ``run.run_all``.

    Raises KeyboardInterrupt after Ctrl-C or SIGTERM, once every process has saved its state and ended; a second one kills them.
    """
    running = [_Running(task, process, slot) for slot, (task, process) in enumerate(launcher.under_way(tasks, out))]
    waiting = [task for task in tasks if task not in [run.task for run in running]]
    failed: dict[str, TaskResult] = {}
    seeds_left = [task.seed for task in tasks]
    try:
        for run in running:
            watcher.started(run.task)
        while waiting or running:
            for task in [task for task in waiting if task.after in failed]:
                waiting.remove(task)
                reason = f"its trunk, {task.after}, failed"
                failed[task.name] = TaskResult(task, "failed", 0.0, reason, failed[str(task.after)].log)
                _report(watcher, failed[task.name], seeds_left, on_seed)
            _fill_slots(study, waiting, running, out, launcher, watcher)
            time.sleep(launcher.pause)
            for run in running:
                watcher.reached(run.task, launcher.progress(run.task, out))
            for run in [run for run in running if run.process.poll() is not None]:
                running.remove(run)
                result = _result(run, out)
                if result.status == "failed":
                    failed[result.task.name] = result
                _report(watcher, result, seeds_left, on_seed)
    finally:
        _stop([run.process for run in running])
    return list(failed.values())


def _fill_slots(
    study: AnyStudy, waiting: list[Task], running: list[_Running], out: Path, launcher: Launcher[AnyStudy], watcher: Watcher
) -> None:
    """Start the first tasks that need no unfinished task, as long as there are free slots."""
    while len(running) < launcher.jobs:
        unfinished = {task.name for task in waiting} | {run.task.name for run in running}
        task = next((task for task in waiting if task.after not in unfinished), None)
        if task is None:
            return
        slot = min(set(range(launcher.jobs)) - {run.slot for run in running})
        log = log_path(out, task)
        log_start = log.stat().st_size if log.is_file() else 0
        try:
            process = launcher.start(study, task, out, slot)
        except LaunchRefusedError:
            if not running:
                raise
            return
        running.append(_Running(task, process, slot, log_start))
        waiting.remove(task)
        watcher.started(task)


def _result(run: _Running, out: Path) -> TaskResult:
    seconds, code = time.monotonic() - run.started, run.process.returncode
    if code == 0:
        return TaskResult(run.task, "done", seconds)
    log = log_path(out, run.task)
    if code in _STOPPED_CODES:
        return TaskResult(run.task, "failed", seconds, "another program stopped it; the next call resumes it", log)
    text = log.read_bytes()[run.log_start :].decode(errors="replace") if log.is_file() else ""
    last = (text.splitlines() or [""])[-1]
    reason = last.removeprefix("failed: ") if last.startswith("failed: ") else run.process.explain()
    return TaskResult(run.task, "failed", seconds, reason, log)


def _report(watcher: Watcher, result: TaskResult, seeds_left: list[int], on_seed: Callable[[], object]) -> None:
    watcher.ended(result)
    seeds_left.remove(result.task.seed)
    if seeds_left and result.task.seed not in seeds_left:
        on_seed()


def _stop(processes: Sequence[Process]) -> None:
    """Ask all processes to save and end, and wait for them; kill them if that is interrupted too."""
    try:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()
        raise
