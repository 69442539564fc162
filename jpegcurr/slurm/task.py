"""What runs in a Slurm job: a training in a child, which saves when its time is up and goes on when the job is requeued.

submitit calls ``Training`` in each of the job's tasks; ``slurm_jobs`` submits and follows such jobs. Before the time limit, and
at a preemption if the cluster says so, Slurm sends SIGUSR2: the training saves the moment and the first task requeues the job.
Which processes Slurm signals depends on how it tracks them: with proctrack/cgroup the tasks alone, else all whom they started
too. So the training starts with SIGUSR2 blocked, of which it would die, and is sent a SIGTERM of its own.
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

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission, JobPaths

STATE = "state.safetensors"  # jpegcurr.training.run_folder's, without importing torch
FINISHED, STOPPED = "finished", "stopped"  # what a task returns
# Exit codes of a training that was stopped: with a checkpoint; before the first step; before it listened to SIGTERM.
STOPPED_CODES = (143, 130, -signal.SIGTERM)
POLL = 0.2  # seconds
PATIENCE = 60.0  # seconds; longer than Slurm takes from SIGTERM to SIGKILL (KillWait, 30), or a requeue
GRACE_TIME = 3600.0  # seconds that Slurm may give a job that it preempts, which is only requeued if it has not ended by itself
TOGETHER = 5.0  # seconds; Slurm's own SIGTERM comes with a SIGCONT


@dataclass
class Training:
    """One task of a job, as submitit calls it: ``command`` in ``folder``, with --resume if ``out`` holds a state.

    ``grace`` is how long the training may take to save, in seconds; ``patience`` how long a task that was stopped waits for
    Slurm to take the job away, which is longer if it was Slurm that stopped it. What the training says goes to the end of
    ``log``, else to submitit's.
    """

    command: tuple[str, ...]
    folder: str
    out: str | None  # None: the command knows by itself whether it goes on
    grace: float
    patience: float
    log: str | None = None
    pid: int = field(default=0, init=False)  # of the training; 0 before there is one
    asked_at: float = field(default=-math.inf, init=False)  # when it was to stop
    continued_at: float = field(default=-math.inf, init=False)  # when SIGCONT came
    told: bool = field(default=False, init=False)  # and was sent SIGTERM
    stop_file: Path | None = field(default=None, init=False)  # see ``stop_file``

    def __call__(self) -> str:
        """Train; return ``finished`` or ``stopped``. Raises TrainingError if the training fails."""
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        task, group = JobEnvironment(), TorchDistributedEnvironment()
        os.chdir(self.folder)
        self.stop_file = stop_file(task.paths)
        if self.is_unwanted():  # since before it began
            return STOPPED
        self.listen(first=task.global_rank == 0)
        resumes = self.out is not None and (Path(self.out) / STATE).is_file()
        command = (*self.command, *(["--resume"] if resumes else []))
        print(shlex.join(command), flush=True)
        address = "127.0.0.1" if task.cluster == "local" else group.master_addr
        self.start(command, group_variables(group.rank, group.world_size, group.local_world_size, address, group.master_port))
        try:
            code = self.wait()
        except BaseException:  # Ctrl-C, or what submitit's handler ends with
            self.stop()
            raise
        return self.conclude(code, task.global_rank, self.log or task.paths.stderr)

    @property
    def asked(self) -> bool:
        """Whether it was to stop."""
        return self.asked_at > -math.inf

    def listen(self, *, first: bool) -> None:
        """SIGTERM stops the training. SIGUSR2 too, but is submitit's in the first task, which calls ``checkpoint``."""
        for number in (signal.SIGTERM, *([] if first else [requeue_signal()])):
            signal.signal(number, self.stop)
        signal.signal(signal.SIGCONT, self.go_on)

    def go_on(self, *_signal: object) -> None:
        """Note that Slurm has sent what it sends before SIGTERM, lest a suspended job does not hear it."""
        self.continued_at = time.monotonic()

    def start(self, command: tuple[str, ...], variables: Mapping[str, str]) -> None:
        """Start the training. Whoever is to stop it waits until it has a number."""
        stopping = {signal.SIGTERM, requeue_signal()}
        end_of_log = (os.POSIX_SPAWN_OPEN, 1, self.log or "", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        files = (end_of_log, (os.POSIX_SPAWN_DUP2, 1, 2)) if self.log else ()
        environment = {**os.environ, **variables}
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)
        try:
            self.pid = os.posix_spawn(command[0], command, environment, file_actions=files, setsigmask=[requeue_signal()])
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping)
        if self.asked:  # before it was there
            self.stop()

    def stop(self, *_signal: object) -> None:
        """Tell the training, once, to save the moment and to end."""
        self.asked_at = time.monotonic()
        if self.pid and not self.told and exit_code(self.pid) is None:
            self.told = True
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, seconds: float = float("inf")) -> int:
        """The training's exit code; it is killed if it takes longer. No locks are held: signals are handled within this."""
        end = time.monotonic() + seconds
        while (code := exit_code(self.pid)) is None:
            if time.monotonic() > end:
                print(f"the training did not end in {seconds:.0f} s and is killed; its last checkpoint is whole", flush=True)
                os.kill(self.pid, signal.SIGKILL)
                end = float("inf")
            time.sleep(POLL)
        return code

    def conclude(self, code: int, rank: int, log: Path | str) -> str:
        """What ``code`` means. A task that was stopped leaves it to the first one, and to Slurm, to end or requeue the job."""
        if code == 0:
            return FINISHED
        if code == STOPPED_CODES[0] or (self.asked and (rank or code in STOPPED_CODES)):
            print("stopped, with what was saved", flush=True)
            by_slurm = abs(self.asked_at - self.continued_at) < TOGETHER
            end = time.monotonic() + (GRACE_TIME if by_slurm else self.patience)
            while time.monotonic() < end and not self.is_unwanted():
                time.sleep(POLL)
            return STOPPED
        raise TrainingError(f"{explain(code)} in task {rank}. Its last words are in {log}.")

    def is_unwanted(self) -> bool:
        """Whether it was told to end for good."""
        return self.stop_file is not None and self.stop_file.exists()

    def checkpoint(self) -> "DelayedSubmission | None":
        """What submitit is to requeue: called in the first task, within a signal handler, most likely while ``wait`` waits.

        None if it was told to end for good. Raises TrainingError, which ends the job, if the training failed: it would again.
        """
        from submitit.helpers import DelayedSubmission

        if self.pid:
            self.stop()
            code = self.wait(self.grace)
            if code not in (0, *STOPPED_CODES, -signal.SIGKILL):
                raise TrainingError(f"{explain(code)} when it was to save the moment. The job is not requeued.")
        return None if self.is_unwanted() else DelayedSubmission(replace(self))


def grace_of(warning: float) -> float:
    """How many seconds of the ``warning`` before a job's end a training may take to save: some are left to requeue."""
    return max(warning / 2, warning - 30)


def stop_file(paths: "JobPaths") -> Path:
    """A file that, once it is there, says that a job is to end for good and is not to be requeued, whoever starts it."""
    return Path(paths.folder) / f"{paths.job_id}_stop"


def exit_code(pid: int) -> int | None:
    """Of a child, as in subprocess: negative for a signal; None while it runs. It can be asked for again and again."""
    ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    if ended is None:
        return None
    return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status


def explain(code: int) -> str:
    """``The training ended with exit code 1``."""
    if code == -signal.SIGKILL:
        return "The training was killed, as it is when there is too little memory (SIGKILL),"
    return f"The training ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"


def requeue_signal() -> int:
    """What submitit has Slurm send: SIGUSR2, if SUBMITIT_PREEMPT_SIGNAL does not name another."""
    return int(getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"))


def group_variables(rank: int, ranks: int, local_ranks: int, address: str, port: int | str) -> dict[str, str]:
    """By which torch.distributed finds the others; none for one task alone. Slurm numbers tasks node by node."""
    if ranks == 1:
        return {}
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank % local_ranks, "LOCAL_WORLD_SIZE": local_ranks}
    return {**{name: str(number) for name, number in numbers.items()}, "MASTER_ADDR": address, "MASTER_PORT": str(port)}
