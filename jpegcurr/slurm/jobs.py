"""Slurm jobs from where they are submitted: what sbatch is told, how far they are, how they are told to end; by submitit.

submitit gives a job the file ``<number>_submitted.pkl`` once sbatch has named its number, and a job without that file ends
within a minute. So the files in its folder are all jobs that may run, whoever submitted them and however that one ended.
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

_SUBMITTED = "_submitted.pkl"
_REQUEUED_MAYBE = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}  # seen for a while of jobs that Slurm is about to requeue
_OVER = {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT"} | _REQUEUED_MAYBE
# Seconds that a state lasts before it is believed: a result may come late, and a new job is not in the accounts at once.
SETTLE, SETTLE_REQUEUED = 20.0, 180.0
ASK = 60  # seconds between two questions to Slurm at most; two just after a job was submitted
PAUSE = 2.0  # seconds between looks at what is there


def check_machine(*, local: bool = False, otherwise: str = "with --local") -> None:
    """Raise UsageError if what submits a job is not here; ``local`` ones need no Slurm."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise UsageError("The package submitit is not installed: pip install 'jpegcurr[slurm]'.") from None
    if not local and not (shutil.which("sbatch") and shutil.which("srun")):
        raise UsageError(f"There is no sbatch on this machine: run this on a login node of the cluster, or {otherwise}.")


def check_accounts() -> None:
    """Raise UsageError if Slurm keeps none here, from which a job's state is known."""
    try:
        asked = subprocess.run(["sacct", "--noheader", "--jobs=1"], check=False, capture_output=True, text=True)  # noqa: S607
    except OSError as error:
        raise UsageError(f"sacct, which says how far jobs are, cannot be started: {error.strerror}.") from None
    if asked.returncode:
        raise UsageError(f"sacct, which says how far jobs are, fails on this machine: {' '.join(asked.stderr.split())}")


def parse_options(texts: Iterable[str]) -> dict[str, str | bool]:
    """Sbatch's options as typed, with or without the dashes: ``qos=high`` and, without a value, ``exclusive``."""
    parts = (each.lstrip("-").partition("=") for each in texts)
    return {name: value if equals else True for name, equals, value in parts}


def sbatch_parameters(
    known: Mapping[str, Any], others: Mapping[str, str | bool], *, warning: int, requeue: bool
) -> dict[str, Any]:
    """Submitit's: ``known`` in its names, without those that are None; ``others`` in sbatch's; ``warning`` in seconds.

    Submitit adds --signal from the latter. Srun of Slurm 22.05 and later does not take --cpus-per-task from sbatch.
    """
    cpus = others.get("cpus-per-task", known.get("cpus_per_task"))
    return {
        **{name: value for name, value in known.items() if value is not None},
        "signal_delay_s": warning,
        "srun_args": ["--kill-on-bad-exit", *([f"--cpus-per-task={cpus}"] if cpus else [])],
        "additional_parameters": {"requeue" if requeue else "no-requeue": True, **others},
    }


def submit(training: Training, folder: Path, parameters: Mapping[str, Any], *, requeues: int) -> str:
    """Hand a job to Slurm, with submitit's files in ``folder``; it goes on after its time limit ``requeues`` times at most.

    Returns:
        Its number.

    Raises:
        JpegcurrError: Slurm refuses it, in Slurm's words.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedJobError

    executor = SlurmExecutor(folder, max_num_timeout=requeues)
    executor.update_parameters(**parameters)
    try:
        with redirect_stderr(StringIO()):  # where submitit repeats what it raises
            return str(executor.submit(training).job_id)
    except FailedJobError as error:
        raise JpegcurrError(f"sbatch refused the job: {error}") from None


class Job:
    """A job of one task that ``submit`` submitted, by this process or by another."""

    def __init__(self, folder: Path, number: str) -> None:
        from submitit.core.utils import JobPaths

        self.number = number
        self.paths = JobPaths(folder, job_id=number)
        self._seen = ("", 0.0)  # the last state, and since when
        self._cancelled = False
        if not self.has_result():
            _watcher().register_job(number)

    @property
    def stopping(self) -> bool:
        """Whether it was told to end for good."""
        return stop_file(self.paths).exists()

    def has_result(self) -> bool:
        """Whether its task has returned or failed. A file may be seen before what is in it."""
        try:
            return self.paths.result_pickle.stat().st_size > 0
        except OSError:
            return False

    def state(self) -> str:
        """``PENDING``, ``RUNNING`` and so on; ``UNKNOWN`` if Slurm does not know it. It is asked once a minute or so."""
        state: str = _watcher().get_state(self.number)  # CANCELLED by 1000
        return state.partition(" ")[0].upper()

    def is_over(self) -> bool:
        """Whether it has left its result, or Slurm has called it over for long enough."""
        if self.has_result():
            return True
        state = self.state()
        if state != self._seen[0]:
            self._seen = state, time.monotonic()
        settle = SETTLE_REQUEUED if state in _REQUEUED_MAYBE else SETTLE
        lasted = time.monotonic() - self._seen[1]
        return state in _OVER and (lasted >= settle or (self._cancelled and state == "CANCELLED"))

    def is_alive(self) -> bool:
        """Whether it runs or waits, of a job that an earlier process submitted; it takes a while to be sure that it does not.

        Raises:
            UsageError: Slurm does not know it.
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
        """Whether what it started still runs, of a job that is over by the accounts."""
        command = ["squeue", "--noheader", "--format=%i", "--states=COMPLETING", f"--jobs={self.number}"]
        return bool(subprocess.run(command, check=False, capture_output=True).stdout.strip())  # noqa: S603

    def result(self) -> str:
        """Of a job that is over: what its task returned.

        Raises:
            JpegcurrError: it failed; the message says how.
        """
        from submitit.core.utils import pickle_load

        log = self.paths.stderr
        if not self.has_result():
            raise JpegcurrError(f"its job {self.number} ended as {self.state()}; Slurm's log is {log}")
        outcome, said = pickle_load(self.paths.result_pickle)
        if outcome == "success":
            return str(said)
        last = (str(said).strip().splitlines() or [""])[-1]
        raise JpegcurrError(f"its job {self.number} failed: {last.partition(': ')[2] or last} Its log is {log}")

    def stop(self) -> None:
        """Have it save the moment and end if it runs, and not begin if it waits."""
        stop_file(self.paths).touch()
        self.cancel_pending()
        _scancel("--signal=TERM", self.number)

    def cancel_pending(self) -> None:
        """Take it from the queue if it is there."""
        self._cancelled = True
        _scancel("--state=PENDING", self.number)
        _watcher().register_job(self.number)  # which is asked after soon

    def kill(self) -> None:
        """End it, whatever it does."""
        stop_file(self.paths).touch()
        self._cancelled = True
        _scancel(self.number)

    def forget(self) -> None:
        """Ask Slurm about it no more."""
        _watcher().over.add(self.number)


def last_job(folder: Path) -> Job | None:
    """The last that was submitted with its files in ``folder``."""
    numbers = [int(file.name.removesuffix(_SUBMITTED)) for file in folder.glob(f"*{_SUBMITTED}")]
    return Job(folder, str(max(numbers))) if numbers else None


def _scancel(*arguments: str) -> None:
    """A job that has ended meanwhile is an error of scancel's, and none of ours."""
    subprocess.run(["scancel", *arguments], check=False, stdin=subprocess.DEVNULL, capture_output=True)  # noqa: S603, S607


@cache
def _watcher() -> Any:
    """Who asks Slurm, about all jobs at once: submitit's, which would take a job that is about to be requeued for over."""
    from submitit.slurm.slurm import SlurmInfoWatcher

    class Watcher(SlurmInfoWatcher):
        def __init__(self, delay_s: int) -> None:
            super().__init__(delay_s)
            self.over: set[str] = set()

        def is_done(self, job_id: str, mode: str = "standard") -> bool:  # noqa: ARG002  # submitit's
            return job_id in self.over

    return Watcher(delay_s=ASK)
