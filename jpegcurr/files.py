"""Files that appear whole or not at all."""

import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from jpegcurr.errors import UsageError

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
