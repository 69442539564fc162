"""Files that appear whole or not at all."""

import csv
import errno
import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jpegcurr.errors import UsageError

log = logging.getLogger("jpegcurr")

FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and move it there, on any exception remove it.

    The temporary name is fixed (``.name.partial``), so what a killed run left behind is overwritten by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        move_into_place(partial, path)
    except BaseException as error:
        with suppress(FileNotFoundError):
            partial.unlink()
        if isinstance(error, OSError) and error.errno in FULL and error.filename is None:
            error.filename = str(path)  # a write does not say what it wrote to
        raise


def move_into_place(partial: Path, path: Path) -> None:
    """Sync the finished file ``partial`` and give it its name, replacing what had it."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.chmod(0o666 & ~_umask())  # safetensors makes files for their owner alone
    partial.replace(path)
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    with staged(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def json_values(value: Any) -> Any:
    """The same without what JSON has no word for: a float that is not finite becomes None, however deep it lies."""
    if isinstance(value, dict):
        return {key: json_values(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def refuse_existing(paths: list[Path], *, force: bool, or_else: str = "", option: str = "-o") -> None:
    """Raise UsageError if any of ``paths``, which ``option`` names, exists and ``force`` is not set."""
    existing = [path for path in paths if path.exists()]
    if existing and not force:
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        ways = f"{or_else}, " if or_else else ""
        raise UsageError(f"{existing[0]} exists{others}. Choose another place with {option}, {ways}or replace it with --force.")


def refuse_unwritable(folders: Iterable[Path], *, option: str = "-o") -> None:
    """Raise UsageError if one of ``folders``, which ``option`` names, is no folder, or cannot be made, or written to."""
    for folder in dict.fromkeys(folders):
        there = nearest_folder(folder)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            what = "no permission to write there" if there.is_dir() else f"{there} is not a folder"
            raise UsageError(f"{folder} cannot be written to: {what}. Choose another place with {option}.")


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """What to call each of some paths: as many of its last parts as tell all of them apart."""
    known = dict.fromkeys(paths)
    for count in range(1, max((len(path.parts) for path in known), default=0)):
        named = {path: str(Path(*path.parts[-count:])) for path in known}
        if len(set(named.values())) == len(known):
            return named
    return {path: str(path) for path in known}


def nearest_folder(folder: Path) -> Path:
    """``folder``, or the nearest above it that is there and may be seen; a file if there is one in its place."""
    every = (folder, *folder.absolute().parents)
    return next(each for each in every if os.path.exists(each))  # noqa: PTH110  # a Path would raise where nobody may look


def _umask() -> int:
    """The process's; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems keep names by themselves and refuse
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def csv_writer(path: Path) -> Iterator[Any]:
    """Yield a CSV writer to a file that appears whole or not at all; names that are not UTF-8 keep their bytes."""
    with staged(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield csv.writer(file, lineterminator="\n")


_LOCK_TIMEOUT = 0.2  # seconds: longer than another process takes to remove a lock that it releases


_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def locked(lock: Path, what: Path, *, doing: str = "encoded", option: str = "-o") -> Iterator[None]:
    """Hold the file ``lock`` against other processes; the system releases it when this process ends, however it ends.

    Raises:
        UsageError: another process holds it. The message names ``what`` it works on, what is being done (``doing``) and the
            ``option`` that chooses another place.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock, mode=0o666, timeout=_LOCK_TIMEOUT, poll_interval=_LOCK_TIMEOUT / 4)
    try:
        held.acquire()
    except Timeout:
        message = f"{what} is being {doing} by another process. Wait for it, or choose another place with {option}."
        raise UsageError(message) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: the file system has no locks, so see that nothing else writes %s", lock.parent, what.name)
    try:
        yield
    finally:
        if held.is_locked:
            lock.unlink(missing_ok=True)  # while it is held: a process that has it open sees that it has no name any more
            held.release()
