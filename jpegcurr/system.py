"""Processors and memory that this process may use, library versions, and signals."""

import ctypes
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from math import ceil
from pathlib import Path
from types import FrameType

from jpegcurr.errors import Interrupted, Terminated

WINDOWS = os.name == "nt"
# The signals by which another program asks this one to end. Windows ends a process by SIGTERM without asking it; there programs
# send a Ctrl-Break instead.
TERMINATION: tuple[int, ...] = (signal.SIGTERM, *([signal.SIGBREAK] if hasattr(signal, "SIGBREAK") else []))

Handler = Callable[[int, FrameType | None], object]

CPUS_VARIABLE = "JPEGCURR_CPUS"

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 62  # bytes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def available_cpus() -> int:
    """Return the processors that this process may use: its affinity mask, limited by its cgroup's quota, rounded up.

    Where several tasks of a study run at a time, ``JPEGCURR_CPUS`` is the share of each, which limits it too.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get(CPUS_VARIABLE, "")
    return max(1, ceil(min(count, _cpu_quota(), int(share) if share.isdecimal() else count)))


def available_memory() -> int:
    """Return the bytes available without swapping, by the system's count and within the cgroup's limit.

    macOS states only how much there is; on Windows nothing is asked, and the result is larger than any memory.
    """
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
        return min(1024 * kilobytes, _memory_left())
    if hasattr(os, "sysconf"):  # all memory, where the system does not say how much of it is available
        return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return _UNLIMITED


def keep_freed_memory() -> None:
    """Tell glibc to keep up to 256 MB of freed memory between images or batches instead of returning it to the system.

    Getting it back page by page costs 50 microseconds per image, a thirtieth of encoding and up to a fifth of loading. The
    setting is for the whole process, so programs call this and libraries do not. Without glibc it does nothing.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library without a name
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 1 << 28)
        mallopt(_M_MMAP_THRESHOLD, 1 << 26)


def return_freed_memory() -> None:
    """Return all freed memory to the system, which threads otherwise keep for themselves. Without glibc it does nothing."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _cpu_quota() -> float:
    """Return the processor time that the cgroup grants, in processors (version 2, then 1)."""
    with suppress(OSError, ValueError):
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return float(quota) / float(period)
    with suppress(OSError, ValueError):
        quota, period = ((_CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        if float(quota) > 0:
            return float(quota) / float(period)
    return float("inf")


def _memory_left() -> int:
    """Return the bytes left below the cgroup's limit; memory that only caches files counts as left."""
    for limit, used, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
    ):
        with suppress(OSError, ValueError):
            limit_bytes, used_bytes = (int((_CGROUP / name).read_text(encoding="ascii")) for name in (limit, used))
            counts = dict(line.split() for line in (_CGROUP / stat).read_text(encoding="ascii").splitlines())
            return limit_bytes - used_bytes + int(counts.get("inactive_file", 0)) + int(counts.get("active_file", 0))
    return _UNLIMITED


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions by distribution name; ``absent`` if a distribution is not installed."""
    return {name: _version(name) for name in names}


@cache
def source_commit() -> str | None:
    """Return the git commit of jpegcurr's checkout, with ``-dirty`` if files in it were changed; None without a checkout."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():  # an installed package may lie in a checkout of something else
        return None
    import subprocess  # every command imports this module

    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def install_command(package: str) -> str:
    """Return the command that installs or updates ``package`` here: pip's, or uv's in an environment without pip."""
    return f"{'uv ' if _version('pip') == 'absent' else ''}pip install -U {package}"


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # every command imports this module, few ask for versions

    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


@contextmanager
def handle_signals(handlers: Mapping[int, Handler]) -> Iterator[None]:
    """Install handlers by signal number while the block runs, then restore the previous ones; for the main thread only."""
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopRequest:
    """A user's or scheduler's request to stop: raised as KeyboardInterrupt until something can be saved, a flag from then on.

    A second Ctrl-C is raised too. A second SIGTERM is ignored: a scheduler and a parent process may both send one.
    """

    def __init__(self) -> None:
        self._signals: list[int] = []
        self._can_save = False

    def requested(self) -> bool:
        """Return whether a signal has come."""
        return bool(self._signals)

    def defer(self) -> None:
        """Leave the end to the work from now on, which polls ``requested`` and saves first."""
        self._can_save = True

    def check(self) -> None:
        """Raise Terminated if a signal has come."""
        if self.requested():
            raise Terminated("stopped.")

    def by_user(self) -> bool:
        """Return whether the first signal was Ctrl-C."""
        return self._signals[:1] == [signal.SIGINT]

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        again = self.requested()
        self._signals.append(number)
        if number == signal.SIGINT if again else not self._can_save:
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals(*numbers: int) -> Iterator[StopRequest]:
    """Turn these signals into a ``StopRequest`` while the block runs. Terminated becomes Interrupted if Ctrl-C came first."""
    request = StopRequest()
    with handle_signals(dict.fromkeys(numbers, request.receive)):
        try:
            yield request
        except Terminated as error:
            raise (Interrupted if request.by_user() else Terminated)(str(error)) from None
