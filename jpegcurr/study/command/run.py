"""The runs of a command, as processes that ``parallel.run_parallel`` starts and follows, and the outcome of each."""

import os
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BaseModel, Field

from jpegcurr.errors import Interrupted, UsageError
from jpegcurr.files import write_json
from jpegcurr.json_files import read_json
from jpegcurr.study.command.config import CommandStudy
from jpegcurr.study.command.metric import read_metric
from jpegcurr.study.parallel import APART, LaunchRefusedError, LocalLauncher, Process, end_group
from jpegcurr.study.run import log_path
from jpegcurr.study.tasks import Task
from jpegcurr.system import WINDOWS

_LAST_LINES, _LAST_BYTES, _LONGEST = 3, 4096, 400  # of a log in the message about a failure


class RunOutcome(BaseModel):
    """The outcome of a finished run: its command, the value of its metric, and the seconds that it took."""

    command: list[str]
    file: str
    column: str
    value: Annotated[float, Field(allow_inf_nan=False)]
    seconds: Annotated[float, Field(ge=0)]


def outcome_path(out: Path, task: Task) -> Path:
    """Return the file of a run's outcome; a run is done when it is there."""
    return out / "outcomes" / f"{task.name}.json"


def read_outcome(out: Path, task: Task) -> RunOutcome | None:
    """Return the outcome of a run, or None if it is not done; raise UsageError if it cannot be read."""
    path = outcome_path(out, task)
    if not path.is_file():
        return None
    return read_json(path, RunOutcome, complaint="cannot be read", remedy="Delete it, and the study does that run again.")


class _Ended(BaseModel):
    """The end of a command that ended well: when it started, by the clock of the disk, and the seconds that it took."""

    command: list[str]
    started_ns: int
    seconds: Annotated[float, Field(ge=0)]


def _ended_path(out: Path, task: Task) -> Path:
    folder = out / task.folder
    return folder.parent / f".{folder.name}.ended.json"


def record_ended(study: CommandStudy, task: Task, out: Path) -> bool:
    """Record a run whose command ended well in an earlier call that could not read its metric; return whether it is done.

    So a wrong name in ``metric`` costs no training. Only a file in the run's own folder that was written since the command had
    started counts: any other may be of another run.
    """
    try:
        ended = read_json(_ended_path(out, task), _Ended, complaint="cannot be read", remedy="")
        file = study.metric_file(task, out)
        own = file.resolve().is_relative_to((out / task.folder).resolve()) and file.stat().st_mtime_ns >= ended.started_ns
        if not own or ended.command != study.command(task, out):
            return False
        _write_outcome(study, task, out, ended.seconds)
    except (UsageError, OSError):
        return False
    return True


def _write_outcome(study: CommandStudy, task: Task, out: Path, seconds: float) -> None:
    """Read the metric of a run and record it; raise UsageError if it cannot be read."""
    file, command = study.metric_file(task, out), study.command(task, out)
    value = read_metric(file, study.column)
    outcome = RunOutcome(command=command, file=str(file), column=study.column, value=value, seconds=round(seconds, 3))
    write_json(outcome_path(out, task), {"schema_version": 1, **outcome.model_dump()})


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The state of a file, by which a change is noticed; all zeros if there is none."""

    changed: int = 0
    size: int = 0
    inode: int = 0

    @classmethod
    def of(cls, path: Path) -> "_Stamp":
        try:
            status = path.stat()
        except OSError:
            return cls()
        return cls(status.st_mtime_ns, status.st_size, status.st_ino)


class CommandProcess:
    """A run under way; when its command has ended well, its metric is read and recorded."""

    def __init__(self, study: CommandStudy, task: Task, out: Path, command: Sequence[str], environment: dict[str, str]) -> None:
        self._study, self._task, self._out = study, task, out
        self._metric = study.metric_file(task, out)
        self._before = _Stamp.of(self._metric)
        self._log = log_path(out, task)
        self._stopped, self._reason = False, ""
        self.returncode: int | None = None
        folder = out / task.folder
        for needed in (folder, self._log.parent):
            needed.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            self._log_start = log.tell()
            with (folder.parent / f".{folder.name}.lock").open("w") as lock:
                _hold(lock.fileno(), folder)
                _ended_path(out, task).unlink(missing_ok=True)
                path = Path(lock.name)
                path.touch()
                self._started_ns = path.stat().st_mtime_ns
                self._process = _start(command, log.fileno(), lock.fileno(), environment)
        self._started = time.monotonic()

    def poll(self) -> int | None:
        """Return 0 once the run is recorded, another code once it has failed, or None while it runs."""
        if self.returncode is None and (code := self._process.poll()) is not None:
            self.returncode = self._end(code)
        return self.returncode

    def _end(self, code: int) -> int:
        if self._stopped:
            return Interrupted.exit_code
        if code != 0:
            how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
            self._reason = f"its command {how}; {self._last_lines()}"
            return 1
        command, seconds = self._study.command(self._task, self._out), time.monotonic() - self._started
        ended = _Ended(command=command, started_ns=self._started_ns, seconds=seconds)
        write_json(_ended_path(self._out, self._task), ended.model_dump())
        try:
            self._record(seconds)
        except UsageError as error:
            self._reason = str(error)
            return 1
        return 0

    def _record(self, seconds: float) -> None:
        if not self._metric.is_file():
            raise UsageError(f"its command ended well, but wrote no {self._metric}, which metric names; {self._last_lines()}")
        if _Stamp.of(self._metric) == self._before:
            raise UsageError(
                f"its command ended well, but did not write {self._metric}, which is from before. Delete that file, and give "
                "the same command again."
            )
        _write_outcome(self._study, self._task, self._out, seconds)

    def _last_lines(self) -> str:
        with self._log.open("rb") as file:
            file.seek(max(self._log_start, self._log.stat().st_size - _LAST_BYTES))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
        lines = [line for line in lines if any(map(str.isalnum, line))]  # without the marks that Python puts under an error
        return f"its last lines: {' / '.join(lines[-_LAST_LINES:])[-_LONGEST:]}" if lines else "it printed nothing"

    def wait(self) -> int:
        """Wait for its end and return the exit code."""
        self._process.wait()
        return self.poll() or 0

    def terminate(self) -> None:
        """Send SIGTERM to the command and all that it has started."""
        self._stopped = self._stopped or self._process.poll() is None
        end_group(self._process)

    def kill(self) -> None:
        """End them at once."""
        self._stopped = self._stopped or self._process.poll() is None
        end_group(self._process, at_once=True)

    def explain(self) -> str:
        """Return why it failed."""
        return self._reason


def _hold(lock: int, folder: Path) -> None:
    """Lock a run for the process that is started next, which inherits the lock and holds it to its end, whatever becomes of us.

    Raises:
        LaunchRefusedError: a process that an earlier call started still holds it.
    """
    if WINDOWS:  # whose processes inherit no locks
        return
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LaunchRefusedError(
            f"{folder} is still being trained by a command that an earlier call started. Wait for it, or stop it."
        ) from None
    except OSError:
        pass  # a file system without locks


def _start(command: Sequence[str], log: int, lock: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, with a copy of the open file ``lock``."""
    try:
        return subprocess.Popen(  # noqa: S603  # the user's own command
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            pass_fds=() if WINDOWS else (lock,),
            **APART,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UsageError(f"command: {command[0]} cannot be started: {reason}.") from None


@dataclass(frozen=True, slots=True)
class CommandLauncher:
    """Commands on this machine, as ``local`` says how many at a time, on which GPUs and after which launching command."""

    local: LocalLauncher
    pause: ClassVar[float] = 0.1

    @property
    def jobs(self) -> int:
        """The number of commands at a time."""
        return self.local.jobs

    def start(self, study: CommandStudy, task: Task, out: Path, slot: int, /) -> Process:
        """Start one run.

        Raises:
            LaunchRefusedError: a command that an earlier call started still trains it.
            UsageError: the command cannot be started.
        """
        environment = self.local.environments()[slot] if self.jobs > 1 else {}
        return CommandProcess(study, task, out, [*self.local.launch, *study.command(task, out)], environment)

    def progress(self, _task: Task, _out: Path) -> float:
        """Return 0: a command's own epochs are not known."""
        return 0

    def under_way(self, _tasks: Sequence[Task], _out: Path) -> Sequence[tuple[Task, Process]]:
        """Return none: a command of an earlier call cannot be followed; ``start`` refuses to start it again."""
        return ()


def check_metric_files(study: CommandStudy, tasks: Sequence[Task], out: Path, jobs: int) -> None:
    """Raise UsageError if runs at the same time would write their metric to one file."""
    files: dict[Path, Task] = {}
    for task in tasks:
        other = files.setdefault(study.metric_file(task, out).absolute(), task)
        if other is not task and jobs > 1:
            raise UsageError(
                f"--jobs {jobs}: {other.name} and {task.name} write the same file, {study.metric_file(task, out)}. Put {{out}} "
                "into command and metric, or omit --jobs."
            )
