"""A process as on Windows, as far as Linux can pretend: ``python as_windows.py COMMANDS`` runs jpegcurr's commands in it.

Hidden are the modules and calls that Windows lacks. A file that is open, or mapped, cannot be renamed, replaced or removed;
a folder cannot be opened; an entry of a folder has no inode; a file is opened in text mode unless it says otherwise. The
argument is JSON: a list of commands, which are lists of words.
"""

import ctypes
import importlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty")
# statvfs and uname are the standard library's own here, for calls that have other ways on Windows.
CALLS = (
    "O_CLOEXEC",
    "O_DIRECTORY",
    "O_NOFOLLOW",
    "O_NONBLOCK",
    "WNOHANG",
    "chown",
    "copy_file_range",
    "fchmod",
    "fchown",
    "fdatasync",
    "fork",
    "forkpty",
    "getegid",
    "geteuid",
    "getgid",
    "getloadavg",
    "getpgid",
    "getuid",
    "killpg",
    "lchown",
    "mkfifo",
    "nice",
    "openpty",
    "posix_fadvise",
    "posix_fallocate",
    "posix_spawn",
    "posix_spawnp",
    "pread",
    "preadv",
    "pwrite",
    "pwritev",
    "readv",
    "register_at_fork",
    "sched_getaffinity",
    "sendfile",
    "setsid",
    "sync",
    "sysconf",
    "wait3",
    "wait4",
    "waitid",
    "writev",
)
SIGNALS = (
    "SIGALRM",
    "SIGCHLD",
    "SIGCONT",
    "SIGHUP",
    "SIGKILL",
    "SIGPIPE",
    "SIGQUIT",
    "SIGSTOP",
    "SIGUSR1",
    "SIGUSR2",
    "SIG_BLOCK",
    "SIG_SETMASK",
    "SIG_UNBLOCK",
    "pthread_kill",
    "pthread_sigmask",
    "setitimer",
    "sigwait",
)
O_BINARY = 1 << 29  # a bit that Linux does not use


class Entry:
    """An entry of a folder without an inode."""

    def __init__(self, entry: "os.DirEntry[str]") -> None:
        self._entry = entry

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        values = list(self._entry.stat(follow_symlinks=follow_symlinks))
        values[1:3] = [0, 0]
        return os.stat_result(values)


@contextmanager
def hidden() -> Iterator[None]:
    """Let what is imported in the block get modules that lack what Windows lacks; other packages keep theirs."""
    for name in ("rename", "replace", "unlink", "remove"):  # pathlib and shutil call these for us
        setattr(os, name, refused_if_open(getattr(os, name)))
    views = {module.__name__: without(module, names) for module, names in ((os, CALLS), (signal, SIGNALS), (ctypes, ()))}
    views["os"].O_BINARY = O_BINARY
    views["os"].open = open_as_windows
    views["os"].scandir = lambda path=".": Entries(os.scandir(path))
    views["ctypes"].CDLL = named_library
    os.symlink = refuse_link
    multiprocessing.set_start_method("spawn", force=True)
    kept = sys.modules.copy()
    sys.modules.update(views | dict.fromkeys(MODULES))
    yield
    sys.modules.update({name: kept[name] for name in (*views, *MODULES) if name in kept})


def without(module: ModuleType, names: Sequence[str]) -> ModuleType:
    """Return a copy of a module without some of its names."""
    copy = ModuleType(module.__name__)
    copy.__dict__.update({name: value for name, value in vars(module).items() if name not in names})
    return copy


def named_library(name: str | None, *rest: Any, **more: Any) -> ctypes.CDLL:
    if name is None:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return ctypes.CDLL(name, *rest, **more)


def refuse_link(*paths: Any, **_more: Any) -> None:
    raise OSError(22, "A required privilege is not held by the client", str(paths[1]))


class Entries:
    """The iterator of ``os.scandir``."""

    def __init__(self, entries: Any) -> None:
        self._entries = entries

    def __enter__(self) -> "Entries":
        return self

    def __exit__(self, *_: object) -> None:
        self._entries.close()

    close = __exit__

    def __iter__(self) -> "Entries":
        return self

    def __next__(self) -> Entry:
        return Entry(next(self._entries))


def open_as_windows(path: str | Path, flags: int, mode: int = 0o777) -> int:
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", str(path))
    assert flags & O_BINARY, f"{path} is opened in text mode"
    return os.open(path, flags & ~O_BINARY, mode)


def refused_if_open(real: Callable[..., None]) -> Callable[..., None]:
    def call(*paths: Any, **more: Any) -> None:
        for path in paths:
            if isinstance(path, int) or more.get("dir_fd") is not None:
                continue
            name = os.path.join(os.path.realpath(os.path.dirname(os.fspath(path) or ".")), os.path.basename(os.fspath(path)))
            if not os.path.isdir(name) and name in files_in_use():
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))
        real(*paths, **more)

    return call


def files_in_use() -> set[str]:
    """Return the files that this process has open or mapped."""
    names = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            names.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            continue
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return names | {line.split(maxsplit=5)[5] for line in maps if len(line.split(maxsplit=5)) == 6}


def import_all() -> None:
    package = importlib.import_module("jpegcurr")
    compiled = ("decode_kernel", "ffcv_kernel", "ffcv_loader")  # there is neither pread nor FFCV; the plain loader takes over
    without = ("jpegcurr.__main__", *(f"jpegcurr.training.data.{name}" for name in compiled))
    for module in walk_packages(package.__path__, "jpegcurr."):
        if module.name not in without:
            importlib.import_module(module.name)


def run(commands: list[list[str]]) -> None:
    """Import every module, and run the commands; end with an error if one fails."""
    import_all()  # and with it all other packages
    for module in [name for name in sys.modules if name.split(".")[0] == "jpegcurr"]:
        del sys.modules[module]
    warnings.filterwarnings("ignore", "Overwriting (convnext_isotropic|roadmap)")
    with hidden():
        importlib.import_module("jpegcurr.system").WINDOWS = True
        import_all()
    from jpegcurr.cli import main

    for command in commands:
        try:
            main(command)
        except SystemExit as left:
            if left.code:
                raise SystemExit(f"{command}: exit code {left.code}") from None


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
