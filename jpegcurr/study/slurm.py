"""The tasks of a study as Slurm jobs, each with a GPU of its own; ``parallel`` follows them like local processes.

The files of a job are in ``slurm/<arm>/seed-<n>`` of the study's folder. The next call finds jobs that still run by them.
"""

import logging
import math
import re
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.slurm.jobs import PAUSE, Job, last_job, sbatch_parameters, submit
from jpegcurr.slurm.task import FINISHED, PATIENCE, STOPPED_CODES, Training, grace_of
from jpegcurr.study.config import Study
from jpegcurr.study.parallel import LaunchRefusedError, LocalLauncher
from jpegcurr.study.run import log_path
from jpegcurr.study.tasks import Task
from jpegcurr.system import TERMINATION, handle_signals

log = logging.getLogger("jpegcurr")

FOLDER = "slurm"
DEFAULTS: dict[str, str | bool] = {"time": "24:00:00", "cpus-per-task": "10"}
WARNING = 300  # seconds before the time limit in which a job saves and requeues; for short limits, a quarter of the limit
MAX_REQUEUES = 100  # at the time limit; every job makes some progress, so that none of them requeues for nothing
RETRY_SECONDS = 60.0  # between Slurm's refusal of a job and the next try
_FILE_OPTIONS = {"error", "open-mode", "output"}
_RESERVED = {"array", "job-name", "nodes", "no-requeue", "ntasks", "ntasks-per-node", "requeue", "signal"} | _FILE_OPTIONS
_TIME_FORMATS = (
    r"(?P<m>\d+)(:(?P<s>\d+))?",
    r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
    r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?",
)


class TaskJob:
    """A job with the interface of ``parallel.Process``."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.returncode: int | None = None
        self._reason = ""

    def poll(self) -> int | None:
        """Return its exit code, or None before its end."""
        if self.returncode is None and self.job.is_over():
            self.job.forget()
            try:
                self.returncode = 0 if self.job.result() == FINISHED else STOPPED_CODES[0]
            except JpegcurrError as error:
                self.returncode, self._reason = 1, str(error)
        return self.returncode

    def terminate(self) -> None:
        """Ask it to save its state and to end."""
        log.info("asking job %s to save its state and to end", self.job.number)
        self.job.stop()

    def wait(self) -> int:
        """Wait for its end. Slurm may have requeued it at that moment: then it is cancelled while it is pending."""
        polls = 0
        while (code := self.poll()) is None:
            time.sleep(PAUSE)
            polls += 1
            if polls % 8 == 0:
                self.job.cancel_pending()
        return code

    def kill(self) -> None:
        """End it at once."""
        self.job.kill()

    def explain(self) -> str:
        """Return why it failed, for a job whose log does not say so."""
        return self._reason


@dataclass
class SlurmLauncher:
    """Slurm jobs with the command and the number at a time of ``local``, and sbatch's ``options`` in place of ``DEFAULTS``."""

    local: LocalLauncher
    options: dict[str, str | bool]
    pause = PAUSE
    _refused: tuple[str, float] | None = field(default=None, init=False)  # Slurm's message, and the time of the next try

    def __post_init__(self) -> None:
        """Raise UsageError for options that a study's jobs cannot have."""
        if reserved := next((name for name in self.options if name in _RESERVED), None):
            raise UsageError(
                f"--slurm {reserved}: omit it, a study sets it: each run is a job of one task that is requeued when stopped."
            )
        if ":" in self.local.device:
            raise UsageError(f"--device {self.local.device} is one GPU, but Slurm gives each job its own: give --device cuda.")
        self.parameters("")

    @property
    def jobs(self) -> int:
        """The number of jobs at a time."""
        return self.local.jobs

    def parameters(self, name: str) -> dict[str, Any]:
        """Return submitit's parameters for a job called ``name``, with one GPU if neither options nor device say otherwise."""
        options = {**DEFAULTS, **self.options}
        if self.local.device != "cpu" and not any(option.startswith("gpu") or option == "gres" for option in options):
            options["gpus-per-node"] = "1"
        limit = parse_minutes(str(options.pop("time")))
        known = {"job_name": name, "ntasks_per_node": 1, "time": limit}
        return sbatch_parameters(known, options, warning=min(WARNING, 15 * limit), requeue=True)

    def progress(self, task: Task, out: Path) -> float:
        """Return how many epochs a task has done."""
        return self.local.progress(task, out)

    def start(self, study: Study, task: Task, out: Path, _slot: int) -> TaskJob:
        """Submit one task.

        Raises:
            LaunchRefusedError: Slurm refuses the job; the next try is after ``RETRY_SECONDS``.
        """
        if self._refused and time.monotonic() < self._refused[1]:
            raise LaunchRefusedError(self._refused[0])
        parameters = self.parameters(f"{study.name}/{task.name}".replace("/", "."))
        grace = grace_of(parameters["signal_delay_s"])
        file = log_path(out, task)
        file.parent.mkdir(parents=True, exist_ok=True)
        command = tuple(self.local.command(study, task, out))
        training = Training(command, str(Path.cwd()), None, grace, PATIENCE, str(file))
        folder = out / FOLDER / task.name
        try:
            with _undisturbed():
                number = submit(training, folder, parameters, requeues=MAX_REQUEUES)
        except JpegcurrError as error:
            self._refused = str(error), time.monotonic() + RETRY_SECONDS
            raise LaunchRefusedError(str(error)) from None
        log.info("%s: job %s", task.name, number)
        return TaskJob(Job(folder, number))

    def under_way(self, tasks: Sequence[Task], out: Path) -> list[tuple[Task, TaskJob]]:
        """Return the tasks whose jobs of an earlier call still run or are pending; wait for jobs that were asked to end.

        Raises:
            UsageError: Slurm does not know a job that has left no result.
        """
        jobs = [(task, job) for task in tasks if (job := last_job(out / FOLDER / task.name))]
        for task, job in jobs:
            if job.stopping and job.is_alive():
                log.info("%s: waiting for job %s, which was asked to end", task.name, job.number)
                job.stop()
                while job.is_alive():
                    time.sleep(PAUSE)
                    job.cancel_pending()
        alive = [(task, TaskJob(job)) for task, job in jobs if not job.stopping and job.is_alive()]
        for task, process in alive:
            log.info("%s: job %s still runs and is followed", task.name, process.job.number)
        return alive


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Defer Ctrl-C and SIGTERM until the number of a job is known: without it, the job could not be stopped."""
    came: list[int] = []
    try:
        with handle_signals(dict.fromkeys((signal.SIGINT, *TERMINATION), lambda number, _frame: came.append(number))):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


def parse_minutes(text: str) -> int:
    """Return the minutes, rounded up, of a time limit in sbatch's formats: ``90``, ``1:30:00`` or, days-hours, ``1-12``.

    Raises:
        UsageError: it has no such format, or is less than two minutes.
    """
    match = next((match for pattern in _TIME_FORMATS if (match := re.fullmatch(pattern, text))), None)
    if match is None:
        raise UsageError(f"--slurm time={text} is not a time limit. Give minutes, hours:minutes:seconds or days-hours.")
    parts = {name: int(value or 0) for name, value in match.groupdict().items()}
    total = math.ceil(1440 * parts.get("d", 0) + 60 * parts.get("h", 0) + parts.get("m", 0) + parts.get("s", 0) / 60)
    if total < 2:
        raise UsageError(f"--slurm time={text} is too short for a run to make progress. Give at least two minutes.")
    return total
