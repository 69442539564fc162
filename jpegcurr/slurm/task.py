"""A Slurm job's task: training in a child process, which saves when its time is up and resumes when the job is requeued.

submitit calls ``Training`` in each of the job's tasks; ``jobs`` submits and follows such jobs. Before the time limit, and at a
preemption if the cluster is configured so, Slurm sends SIGUSR2: the training saves a checkpoint and the first task requeues the
job. Which processes Slurm signals depends on how it tracks them: with proctrack/cgroup only the tasks, otherwise also their
children. So the training starts with SIGUSR2 blocked, which would kill it, and each task sends it a SIGTERM.
"""

import math
import os
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jpegcurr.errors import TrainingError
from jpegcurr.text import sanitize

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission, JobPaths

STATE = "state.safetensors"  # as in jpegcurr.training.run_folder, which this floor may not import
FINISHED, STOPPED = "finished", "stopped"  # the results of a task
# Exit codes of a stopped training: with a checkpoint; before the first step; before it handled SIGTERM.
STOPPED_CODES = (143, 130, -signal.SIGTERM)
POLL = 0.2  # seconds
PATIENCE = 60.0  # seconds; longer than Slurm takes from SIGTERM to SIGKILL (KillWait, 30), or for a requeue
GRACE_TIME = 3600.0  # seconds that Slurm may give a preempted job; it requeues only one that has not ended by itself
TOGETHER = 5.0  # seconds; Slurm sends its own SIGTERM together with a SIGCONT


@dataclass
class Training:
    """One task of a job, as submitit calls it: ``command`` in ``folder``, with --resume if ``out`` holds a state.

    The training has ``grace`` seconds to save. A task that was stopped waits ``patience`` seconds for Slurm to end the job, and
    longer if Slurm itself stopped it. The training's output is appended to ``log``, or goes to submitit's log without one.
    """

    command: tuple[str, ...]
    folder: str
    out: str | None  # None: the command itself knows whether to resume
    grace: float
    patience: float
    log: str | None = None
    pid: int = field(default=0, init=False)  # of the training; 0 before it is started
    stop_requested_at: float = field(default=-math.inf, init=False)  # monotonic seconds
    continued_at: float = field(default=-math.inf, init=False)  # when SIGCONT came, monotonic seconds
    terminated: bool = field(default=False, init=False)  # whether the training was sent SIGTERM
    stop_file: Path | None = field(default=None, init=False)  # see ``stop_file``

    def __call__(self) -> str:
        """Train; return ``finished`` or ``stopped``. Raises TrainingError if the training fails."""
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        task, group = JobEnvironment(), TorchDistributedEnvironment()
        os.chdir(self.folder)
        self.stop_file = stop_file(task.paths)
        if self.is_cancelled():  # before it began
            return STOPPED
        self.install_handlers(first=task.global_rank == 0)
        resumes = self.out is not None and (Path(self.out) / STATE).is_file()
        command = (*self.command, *(["--resume"] if resumes else []))
        print(sanitize(shlex.join(command)), flush=True)
        address = "127.0.0.1" if task.cluster == "local" else group.master_addr
        self.start(command, group_variables(group.rank, group.world_size, group.local_world_size, address, group.master_port))
        try:
            code = self.wait()
        except BaseException:  # Ctrl-C, or the exit that submitit's handler raises
            self.stop()
            raise
        return self.conclude(code, task.global_rank, self.log or task.paths.stderr)

    @property
    def stop_requested(self) -> bool:
        """Whether a signal has asked the training to stop."""
        return self.stop_requested_at > -math.inf

    def install_handlers(self, *, first: bool) -> None:
        """Stop the training at SIGTERM and SIGUSR2; in the first task submitit handles SIGUSR2 and calls ``checkpoint``.

        The handlers stay until the process ends: a late signal must not interrupt submitit while it writes the result.
        """
        for number in (signal.SIGTERM, *([] if first else [requeue_signal()])):
            signal.signal(number, self.stop)
        signal.signal(signal.SIGCONT, self.note_continuation)

    def note_continuation(self, *_signal: object) -> None:
        """Note a SIGCONT, which Slurm sends before its SIGTERM so that a suspended job receives that too."""
        self.continued_at = time.monotonic()

    def start(self, command: tuple[str, ...], variables: Mapping[str, str]) -> None:
        """Start the training; signals that would stop it wait until its process id is known."""
        stopping = {signal.SIGTERM, requeue_signal()}
        end_of_log = (os.POSIX_SPAWN_OPEN, 1, self.log or "", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        files = (end_of_log, (os.POSIX_SPAWN_DUP2, 1, 2)) if self.log else ()
        environment = {**os.environ, **variables}
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        try:
            self.pid = os.posix_spawn(command[0], command, environment, file_actions=files, setsigmask=[requeue_signal()])
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
        if self.stop_requested:  # before the process existed
            self.stop()

    def stop(self, *_signal: object) -> None:
        """Send the training one SIGTERM, at which it saves a checkpoint and ends."""
        self.stop_requested_at = time.monotonic()
        if self.pid and not self.terminated and exit_code(self.pid) is None:
            self.terminated = True
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float = float("inf")) -> int:
        """Wait for the training and return its exit code; kill it after ``seconds``. Holds no lock: handlers run meanwhile."""
        end = time.monotonic() + seconds
        while (code := exit_code(self.pid)) is None:
            if time.monotonic() > end:
                print(f"the training did not end in {seconds:.0f} s and is killed; its last checkpoint is whole", flush=True)
                os.kill(self.pid, signal.SIGKILL)
                end = float("inf")
            time.sleep(POLL)
        return code

    def conclude(self, code: int, rank: int, log: Path | str) -> str:
        """Return the task's result, or raise TrainingError for a failure.

        A stopped task waits: the first task and Slurm decide whether the job ends or is requeued.
        """
        if code == 0:
            return FINISHED
        if code == STOPPED_CODES[0] or (self.stop_requested and (rank or code in STOPPED_CODES)):
            print("stopped, with a checkpoint if any step was trained", flush=True)
            by_slurm = abs(self.stop_requested_at - self.continued_at) < TOGETHER
            end = time.monotonic() + (GRACE_TIME if by_slurm else self.patience)
            while time.monotonic() < end and not self.is_cancelled():
                time.sleep(POLL)
            return STOPPED
        raise TrainingError(f"{explain(code)} in task {rank}. Its log is {log}.")

    def is_cancelled(self) -> bool:
        """Return whether the job is to end for good."""
        return self.stop_file is not None and self.stop_file.exists()

    def checkpoint(self) -> "DelayedSubmission | None":
        """Return the task that submitit requeues; None if the job is to end for good.

        submitit calls this in the first task, within a signal handler, most likely while ``wait`` waits.

        Raises:
            TrainingError: the training failed, and would fail again; the job ends.
        """
        from submitit.helpers import DelayedSubmission

        if self.pid:
            self.stop()
            code = self.wait(self.grace)
            if code not in (0, *STOPPED_CODES, -signal.SIGKILL):
                raise TrainingError(f"{explain(code)} instead of saving a checkpoint. The job is not requeued.")
        return None if self.is_cancelled() else DelayedSubmission(replace(self))


def grace_of(warning: float) -> float:
    """Return the seconds that a training has to save when a job's end is announced ``warning`` seconds ahead.

    The rest is for the requeue.
    """
    return max(warning / 2, warning - 30)


def stop_file(paths: "JobPaths") -> Path:
    """Return the path of the file whose presence makes a job end for good: it neither starts nor is requeued."""
    return Path(paths.folder) / f"{paths.job_id}_stop"


def exit_code(pid: int) -> int | None:
    """Return the exit code of a child, negative for a signal; None while it runs. The child is not reaped: ask at any time."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def explain(code: int) -> str:
    """Return a clause such as ``The training ended with exit code 1``."""
    if code == -signal.SIGKILL:
        return "The training was killed (SIGKILL), perhaps for lack of memory,"
    return f"The training ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def requeue_signal() -> int:
    """Return the signal that submitit has Slurm send: SIGUSR2, or the one named in SUBMITIT_PREEMPT_SIGNAL."""
    return int(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"))


def group_variables(rank: int, ranks: int, local_ranks: int, address: str, port: int | str) -> dict[str, str]:
    """Return the environment variables that connect the tasks in torch.distributed; none for a single task.

    Slurm numbers tasks node by node.
    """
    if ranks == 1:
        return {}
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank % local_ranks, "LOCAL_WORLD_SIZE": local_ranks}
    return {**{name: str(number) for name, number in numbers.items()}, "MASTER_ADDR": address, "MASTER_PORT": str(port)}
