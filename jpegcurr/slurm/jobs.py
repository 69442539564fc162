"""Slurm jobs on the login node: their submission, state and end, through submitit.

submitit writes the file ``<number>_submitted.pkl`` once sbatch has returned a job's number, and a job without that file ends
within a minute. So the files in a folder are all jobs that may still run, even if the process that submitted them was killed.
"""

import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.slurm.task import Training, stop_file
from jpegcurr.system import install_command

_SUBMITTED = "_submitted.pkl"
_REQUEUED_MAYBE = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}  # also the state, for a while, of a job that is requeued next
_OVER = {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"} | _REQUEUED_MAYBE
# Seconds that a final state must last: a result may arrive late, and a new job is not in the accounts at once.
SETTLE, SETTLE_REQUEUED = 20.0, 180.0
ASK = 60  # seconds between two queries to Slurm at most; two seconds just after a submission
PAUSE = 2.0  # seconds between two checks of a job's files


def check_machine(*, local: bool = False, otherwise: str = "with --local") -> None:
    """Raise UsageError if this machine cannot submit jobs; ``local`` ones need submitit but no Slurm."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError(f"The package submitit is not installed. Run {install_command('submitit')}.") from None
    if not local and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UsageError(f"There is no sbatch on this machine. Run this on a login node of the cluster, or {otherwise}.")


def check_accounts() -> None:
    """Raise UsageError if Slurm keeps no accounts here: the state of jobs is read from them."""
    try:
        query = subprocess.run(["sacct", "--noheader", "--jobs=1"], check=False, capture_output=True, text=True)  # noqa: S607
    except OSError as error:
        raise UsageError(f"sacct, which reports the state of jobs, cannot be started: {error.strerror}.") from None
    if query.returncode:
        raise UsageError(f"sacct, which reports the state of jobs, fails on this machine: {' '.join(query.stderr.split())}")


def parse_options(texts: Iterable[str]) -> dict[str, str | bool]:
    """Parse options of sbatch, with or without their dashes: ``qos=high`` or, without a value, ``exclusive``."""
    parts = (text.lstrip("-").partition("=") for text in texts)
    return {name: value if equals else True for name, equals, value in parts}


def sbatch_parameters(
    known: Mapping[str, Any], others: Mapping[str, str | bool], *, warning: int, requeue: bool
) -> dict[str, Any]:
    """Return submitit's parameters.

    ``known`` has submitit's names, and None for the cluster's default; ``others`` has sbatch's names. ``warning`` is how many
    seconds before its end a job is signalled: submitit makes --signal of it. Since Slurm 22.05 srun does not inherit
    --cpus-per-task from sbatch, so it is passed on here.
    """
    cpus = others.get("cpus-per-task", known.get("cpus_per_task"))
    return {
        **{name: value for name, value in known.items() if value is not None},
        "signal_delay_s": warning,
        "srun_args": ["--kill-on-bad-exit", *([f"--cpus-per-task={cpus}"] if cpus else [])],
        "additional_parameters": {"requeue" if requeue else "no-requeue": True, **others},
    }


def submit(training: Training, folder: Path, parameters: Mapping[str, Any], *, requeues: int) -> str:
    """Submit a job to Slurm, with submitit's files in ``folder``; it is requeued at its time limit ``requeues`` times at most.

    Returns:
        The job's number.

    Raises:
        JpegcurrError: Slurm refuses the job; the message is Slurm's.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    executor = SlurmExecutor(folder, max_num_timeout=requeues)
    executor.update_parameters(**parameters)
    try:
        with redirect_stderr(StringIO()):  # where submitit prints the error that it raises too
            return str(executor.submit(training).job_id)
    except FailedJobError as error:
        raise JpegcurrError(f"sbatch refused the job: {error}") from None


class Job:
    """A job of one task that ``submit`` submitted, by this process or by another."""

    def __init__(self, folder: Path, number: str) -> None:
        from submitit.core.utils import JobPaths

        self.number = number
        self.paths = JobPaths(folder, job_id=number)
        self._last_state = ("", 0.0)  # and since when, monotonic seconds
        self._cancelled = False
        if not self.has_result():
            _watcher().register_job(number)

    @property
    def stopping(self) -> bool:
        """Whether the job is to end for good."""
        return stop_file(self.paths).exists()

    def has_result(self) -> bool:
        """Return whether the task has returned or failed. A file may become visible before its content."""
        try:
            return self.paths.result_pickle.stat().st_size > 0
        except OSError:
            return False

    def state(self) -> str:
        """Return ``PENDING``, ``RUNNING`` and so on, or ``UNKNOWN``. Slurm is queried about once a minute."""
        state: str = _watcher().get_state(self.number)  # CANCELLED by 1000
        return state.partition(" ")[0].upper()

    def is_over(self) -> bool:
        """Return whether the job has written its result, or Slurm has reported its end for long enough."""
        if self.has_result():
            return True
        state = self.state()
        if state != self._last_state[0]:
            self._last_state = state, time.monotonic()
        settle = SETTLE_REQUEUED if state in _REQUEUED_MAYBE else SETTLE
        lasted = time.monotonic() - self._last_state[1]
        return state in _OVER and (lasted >= settle or (self._cancelled and state == "CANCELLED"))

    def is_alive(self) -> bool:
        """Return whether a job of an earlier process runs or waits; waits until a final state is certain.

        Raises:
            UsageError: Slurm does not know the job.
        """
        began = time.monotonic()
        while not self.has_result():
            state, lasted = self.state(), time.monotonic() - began
            if state == "UNKNOWN" and lasted >= SETTLE:
                record = self.paths.submitted_pickle
                raise UsageError(
                    f"Slurm (sacct) does not know job {self.number}. If it neither runs nor waits, delete {record}."
                )
            if state in _OVER and not self._is_completing() and (lasted >= SETTLE_REQUEUED or state not in _REQUEUED_MAYBE):
                break
            if state not in _OVER | {"UNKNOWN"}:
                return True
            time.sleep(PAUSE)
        self.forget()
        return False

    def _is_completing(self) -> bool:
        """Return whether processes of the job still run although it is over by the accounts."""
        command = ["squeue", "--noheader", "--format=%i", "--states=COMPLETING", f"--jobs={self.number}"]
        return bool(subprocess.run(command, check=False, capture_output=True).stdout.strip())  # noqa: S603

    def result(self) -> str:
        """Return the result of the task of a job that is over.

        Raises:
            JpegcurrError: the job failed; the message says how.
        """
        from submitit.core.utils import pickle_load

        log = self.paths.stderr
        if not self.has_result():
            raise JpegcurrError(f"its job {self.number} ended as {self.state()}; Slurm's log is {log}")
        outcome, value = pickle_load(self.paths.result_pickle)
        if outcome == "success":
            return str(value)
        last = (str(value).strip().splitlines() or [""])[-1]
        raise JpegcurrError(f"its job {self.number} failed: {last.partition(': ')[2] or last} Its log is {log}")

    def stop(self) -> None:
        """Have a running job save a checkpoint and end, and a waiting job not begin."""
        stop_file(self.paths).touch()
        self.cancel_pending()
        _scancel("--signal=TERM", self.number)

    def cancel_pending(self) -> None:
        """Remove the job from the queue if it waits there."""
        self._cancelled = True
        _scancel("--state=PENDING", self.number)
        _watcher().register_job(self.number)  # so that Slurm is queried soon

    def kill(self) -> None:
        """End the job at once."""
        stop_file(self.paths).touch()
        self._cancelled = True
        _scancel(self.number)

    def forget(self) -> None:
        """Stop querying Slurm about the job."""
        _watcher().over.add(self.number)


def last_job(folder: Path) -> Job | None:
    """Return the last job that was submitted with its files in ``folder``."""
    numbers = [int(file.name.removesuffix(_SUBMITTED)) for file in folder.glob(f"*{_SUBMITTED}")]
    return Job(folder, str(max(numbers))) if numbers else None


def _scancel(*arguments: str) -> None:
    """Run scancel; a job that has ended meanwhile is an error for scancel but not for us."""
    subprocess.run(["scancel", *arguments], check=False, stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603, S607


@cache
def _watcher() -> Any:
    """Return the process-wide watcher, which queries Slurm about all jobs at once.

    submitit's own would count a job that is about to be requeued as over.
    """
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Watcher(SlurmInfoWatcher):
        def __init__(self, delay_s: int) -> None:
            super().__init__(delay_s)
            self.over: set[str] = set()

        def is_done(self, job_id: str, mode: str = "standard") -> bool:  # noqa: ARG002  # submitit's
            return job_id in self.over

    return Watcher(delay_s=ASK)
