"""A study's tasks as Slurm jobs, one each on a GPU of its own, which ``parallel`` follows as it follows processes here.

Each job's files are in ``slurm/<arm>/seed-<n>`` of the study's folder, by which the next call finds jobs that still run.
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
from jpegcurr.study.parallel import LocalLauncher, NotNowError
from jpegcurr.study.run import log_path
from jpegcurr.study.tasks import Task
from jpegcurr.system import handle_signals

log = logging.getLogger("jpegcurr")

FOLDER = "slurm"
DEFAULTS: dict[str, str | bool] = {"time": "24:00:00", "cpus-per-task": "10"}
WARNING = 300  # seconds before the time limit, to save and requeue; of short limits a quarter
REQUEUES = 100  # at the time limit; each goes some way, and none of them waits for anyone
AGAIN = 60.0  # seconds from Slurm's refusal of a job to the next try
_FILES = {"error", "open-mode", "output"}
_OURS = {"array", "job-name", "nodes", "no-requeue", "ntasks", "ntasks-per-node", "requeue", "signal"} | _FILES
_TIMES = (
    r"(?P<m>\d+)(:(?P<s>\d+))?",
    r"(?P<h>\d+):(?P<m>\d+):(?P<s>\d+)",
    r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>\d+)(:(?P<s>\d+))?)?",
)


class TaskJob:
    """A job, as ``parallel`` knows processes."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.returncode: int | None = None
        self._why = ""

    def poll(self) -> int | None:
        """Its end as an exit code; None before."""
        if self.returncode is None and self.job.is_over():
            self.job.forget()
            try:
                self.returncode = 0 if self.job.result() == FINISHED else STOPPED_CODES[0]
            except JpegcurrError as error:
                self.returncode, self._why = 1, str(error)
        return self.returncode

    def terminate(self) -> None:
        """Have it save and end."""
        log.info("job %s is to save the moment and to end", self.job.number)
        self.job.stop()

    def wait(self) -> int:
        """Until it has ended. Slurm may have requeued it just when it was to end."""
        looks = 0
        while (code := self.poll()) is None:
            time.sleep(PAUSE)
            looks += 1
            if looks % 8 == 0:
                self.job.cancel_pending()
        return code

    def kill(self) -> None:
        """End it now."""
        self.job.kill()

    def explain(self) -> str:
        """Why it failed, where its log does not say."""
        return self._why


@dataclass
class SlurmLauncher:
    """Where jobs are submitted, as many at a time as ``workers`` has places, with sbatch's ``options`` over ``DEFAULTS``."""

    workers: LocalLauncher
    options: dict[str, str | bool]
    pause = PAUSE
    _refused: tuple[str, float] | None = field(default=None, init=False)  # Slurm's words, and when it may be asked again

    def __post_init__(self) -> None:
        """Raise UsageError for options that are not for a study's jobs."""
        if ours := next((name for name in self.options if name in _OURS), None):
            raise UsageError(f"--slurm {ours}: a study sets this itself: each run is a job of one task, requeued when stopped.")
        if ":" in self.workers.device:
            raise UsageError(f"--device {self.workers.device} is one GPU, and Slurm gives each job one: give --device cuda.")
        self.parameters("")

    @property
    def jobs(self) -> int:
        """How many at a time."""
        return self.workers.jobs

    def parameters(self, name: str) -> dict[str, Any]:
        """Submitit's, of a job called ``name``. One GPU, if the options have none and the device is none other."""
        options = {**DEFAULTS, **self.options}
        if self.workers.device != "cpu" and not any(each.startswith("gpu") or each == "gres" for each in options):
            options["gpus-per-node"] = "1"
        limit = minutes(str(options.pop("time")))
        known = {"job_name": name, "ntasks_per_node": 1, "time": limit}
        return sbatch_parameters(known, options, warning=min(WARNING, 15 * limit), requeue=True)

    def start(self, study: Study, task: Task, out: Path, _place: int) -> TaskJob:
        """Submit one task.

        Raises:
            NotNowError: Slurm refuses it; it is not asked again before ``AGAIN`` seconds.
        """
        if self._refused and time.monotonic() < self._refused[1]:
            raise NotNowError(self._refused[0])
        parameters = self.parameters(f"{study.name}/{task.name}".replace("/", "."))
        grace = grace_of(parameters["signal_delay_s"])
        file = log_path(out, task)
        file.parent.mkdir(parents=True, exist_ok=True)
        command = tuple(self.workers.command(study, task, out))
        training = Training(command, str(Path.cwd()), None, grace, PATIENCE, str(file))
        folder = out / FOLDER / task.name
        try:
            with _undisturbed():
                number = submit(training, folder, parameters, requeues=REQUEUES)
        except JpegcurrError as error:
            self._refused = str(error), time.monotonic() + AGAIN
            raise NotNowError(str(error)) from None
        log.info("%s: job %s", task.name, number)
        return TaskJob(Job(folder, number))

    def under_way(self, tasks: Sequence[Task], out: Path) -> list[tuple[Task, TaskJob]]:
        """The tasks whose jobs still run or wait from an earlier call; those that were told to end are waited for.

        Raises:
            UsageError: Slurm does not know a job that has left no result.
        """
        jobs = [(task, job) for task in tasks if (job := last_job(out / FOLDER / task.name))]
        for task, job in jobs:
            if job.stopping and job.is_alive():
                log.info("%s: waiting for job %s, which was told to end", task.name, job.number)
                job.stop()
                while job.is_alive():
                    time.sleep(PAUSE)
                    job.cancel_pending()
        alive = [(task, TaskJob(job)) for task, job in jobs if not job.stopping and job.is_alive()]
        for task, each in alive:
            log.info("%s: job %s goes on", task.name, each.job.number)
        return alive


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for a job's number: without it nobody could tell that job to end."""
    came: list[int] = []
    try:
        with handle_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda number, _frame: came.append(number))):
            yield
    finally:
        for number in came:
            signal.raise_signal(number)


def minutes(text: str) -> int:
    """A time limit as sbatch takes it: ``90``, ``1:30:00``, ``1-12`` (days-hours), in minutes, rounded up.

    Raises:
        UsageError: it is none, or less than two minutes.
    """
    found = next((match for each in _TIMES if (match := re.fullmatch(each, text))), None)
    if found is None:
        raise UsageError(f"--slurm time={text} is no limit. Give minutes, hours:minutes:seconds or days-hours.")
    parts = {name: int(value or 0) for name, value in found.groupdict().items()}
    total = math.ceil(1440 * parts.get("d", 0) + 60 * parts.get("h", 0) + parts.get("m", 0) + parts.get("s", 0) / 60)
    if total < 2:
        raise UsageError(f"--slurm time={text}: no run would get anywhere. Two minutes is the least.")
    return total
