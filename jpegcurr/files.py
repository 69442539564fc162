"""Files that appear whole or not at all, CSV that spreadsheets read as data, checks of output paths, and locks."""

import csv
import errno
import json
import logging
import os
import re
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Self

from filelock import FileLock, Timeout

from jpegcurr.errors import UsageError
from jpegcurr.system import WINDOWS
from jpegcurr.text import UNSAFE, escape_json

log = logging.getLogger("jpegcurr")

DIGITS = 10  # significant ones of a number in a table

FULL = (errno.ENOSPC, errno.EDQUOT)

# Beginnings of a cell that a spreadsheet takes for a formula; numbers are exempt.
_FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_PLAIN = re.compile(r"[\w.][\w./ -]*")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# What a CSV file and a file name may not hold: single bytes above 0x9f that are not UTF-8 are no control characters anywhere.
_UNSAFE = f"[{UNSAFE}\ud800-\udc9f\udd00-\udfff]"
_CODE = r"x[0-9a-f]{2}|u[0-9a-f]{4}|U00(?:0[0-9a-f]|10)[0-9a-f]{4}"
_TO_ESCAPE = re.compile(rf"(\\*)(?:({_UNSAFE})|((?<=\\)(?:{_CODE})))")
_TO_UNESCAPE = re.compile(rf"(\\+)({_CODE})")
_SEPARATORS = {False: "/", True: r'[/\\:*?"<>|]|[. ]+$'}  # by whether the system is Windows, with all that it forbids
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_LONGEST_NAME = 200  # bytes: a file system allows 255, and a number may be appended

_LOCK_TIMEOUT = 0.2  # seconds: longer than another process takes to remove a lock that it releases
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@contextmanager
def staged(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success sync it and move it there, on any exception remove it.

    The temporary name is fixed (``.name.partial``), so the next run overwrites what a killed one left behind.
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
            error.filename = str(path)  # the error of a write does not name the file
        raise


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path``, or replaces it, when the block ends: whole or not at all."""
    target = path.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as aside:
        partial = Path(aside, "new")
        partial.mkdir()
        yield partial
        if target.exists():
            target.rename(Path(aside, "old"))
        partial.rename(target)


def move_into_place(partial: Path, path: Path) -> None:
    """Sync the finished file ``partial`` and rename it to ``path``, replacing a file of that name."""
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.chmod(0o666 & ~_umask())  # safetensors creates files that only their owner can read
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in ``folder`` are on the disk. Windows opens no folders: there the file system's journal must do."""
    if WINDOWS:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems refuse because they sync names themselves
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """Return the umask of the process, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    with staged(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically."""
    write_text(path, escape_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def json_values(value: Any) -> Any:
    """Return ``value`` for a table in JSON: at any depth floats are rounded (``round_number``), and None if not finite."""
    if isinstance(value, dict):
        return {key: json_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(inner) for inner in value]
    if isinstance(value, float):
        return round_number(value) if isfinite(value) else None
    return value


def round_number(value: float) -> float:
    """Return ``value`` with at most ten significant digits: ``92.8`` for 92.80000000000001, and enough to know any float32."""
    return float(f"{value:.{DIGITS}g}")


class CsvWriter:
    """A writer of CSV rows for people and programs.

    Text is data that a spreadsheet does not run and a terminal does not obey: see ``escape_cell``. Floats are rounded, see
    ``round_number``; a NumPy float32 has the fewest digits that are the same float32.
    """

    def __init__(self, file: IO[str], *, raw: bool = False) -> None:
        """With ``raw``, write all text as it is."""
        self._writer, self._raw = csv.writer(file, lineterminator="\n"), raw

    def writerow(self, cells: Iterable[Any]) -> None:
        """Write one row."""
        self._writer.writerow(map(self._cell, cells))

    def _cell(self, cell: Any) -> Any:
        if isinstance(cell, str):
            return cell if self._raw else escape_cell(cell)
        return round_number(cell) if isinstance(cell, float) else cell

    def writerows(self, rows: Iterable[Iterable[Any]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)


@contextmanager
def csv_writer(path: Path, *, raw: bool = False) -> Iterator[CsvWriter]:
    """Yield a ``CsvWriter`` to a file that appears whole or not at all; names that are not UTF-8 keep their bytes."""
    with staged(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield CsvWriter(file, raw=raw)


def escape_cell(text: str) -> str:
    """Return the text of a CSV cell so that it is data for any program; ``unescape_cell`` returns the text again.

    What a spreadsheet would take for a formula, because it begins with ``=``, ``+``, ``-`` or ``@`` and is no number, gets an
    apostrophe in front, which spreadsheets use for text. Control characters, line breaks, invisible and bidirectional format
    characters become ``\\x1b`` or ``\\u202e``.
    """
    if _PLAIN.fullmatch(text):  # most cells, at a fifth of the time
        return text
    escaped = _TO_ESCAPE.sub(_escape_match, text)
    return f"'{escaped}" if _FORMULA.match(escaped) and not _NUMBER.fullmatch(escaped) else escaped


def _escape_match(match: re.Match[str]) -> str:
    """Double the backslashes before a character to escape, or before text that is the code of one."""
    slashes, character, code = match.groups()
    if character:
        return 2 * slashes + _code(character)
    return (2 * slashes if _is_code(code) else slashes) + code


def _code(character: str) -> str:
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _is_code(code: str) -> bool:
    """Return whether ``code``, without its backslash, is one that ``_code`` returns for a character to escape."""
    character = chr(int(code[1:], 16))
    return re.fullmatch(_UNSAFE, character) is not None and _code(character) == f"\\{code}"


def unescape_cell(text: str) -> str:
    """Return the text that ``escape_cell`` was given; any other text as it is."""
    text = text[1:] if text.startswith("'") and _FORMULA.match(text) else text
    return _TO_UNESCAPE.sub(_unescape_match, text)


def _unescape_match(match: re.Match[str]) -> str:
    slashes, code = match.groups()
    if not _is_code(code):
        return match[0]
    return "\\" * (len(slashes) // 2) + (chr(int(code[1:], 16)) if len(slashes) % 2 else code)


def read_csv(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a file that ``csv_writer`` has written, with every name as it was."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        for row in csv.reader(file):
            yield [unescape_cell(cell) for cell in row]


def path_part(name: str) -> str:
    """Return a name from a data set as a safe name of a file or folder: it may hold any characters, and any number of them.

    Separators and characters that could do harm become ``_``; a name that would be hidden or empty gets a ``_`` in front. On
    Windows so does one of a device, such as ``con``, and what it forbids in names becomes ``_`` too.
    """
    safe = re.sub(f"{_SEPARATORS[WINDOWS]}|{_UNSAFE}", "_", name)
    safe = os.fsencode(safe)[:_LONGEST_NAME].decode("utf-8", "surrogateescape")
    return f"_{safe}" if safe.startswith(".") or not safe or (WINDOWS and _DEVICE.match(safe)) else safe


def refuse_existing(
    paths: list[Path], *, force: bool, or_else: str = "", option: str = "-o", replaceable: Collection[Path] = ()
) -> None:
    """Raise UsageError if any of ``paths`` exists and ``force`` is not set, or is a folder that is not in ``replaceable``.

    The message suggests another path with ``option``, --force, and ``or_else`` if it is given.
    """
    if folders := [path for path in paths if path.is_dir() and path not in replaceable]:
        raise UsageError(f"{folders[0]} is a folder. Choose another place with {option}.")
    existing = [path for path in paths if path.exists()]
    if existing and not force:
        others = f" (and {len(existing) - 1} more)" if len(existing) > 1 else ""
        choices = f"{option}, {or_else}," if or_else else f"{option},"
        raise UsageError(f"{existing[0]} exists{others}. Choose another place with {choices} or replace it with --force.")


def refuse_unwritable(folders: Iterable[Path], *, option: str = "-o") -> None:
    """Raise UsageError if any of ``folders``, which ``option`` names, is no folder or cannot be created or written to."""
    for folder in dict.fromkeys(folders):
        nearest = nearest_folder(folder)
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            reason = "no permission to write there" if nearest.is_dir() else f"{nearest} is not a folder"
            raise UsageError(f"{folder} cannot be written to: {reason}. Choose another place with {option}.")


def nearest_folder(folder: Path) -> Path:
    """Return ``folder``, or its nearest parent that exists and is accessible; this may be a file in the way."""
    candidates = (folder, *folder.absolute().parents)
    return next(path for path in candidates if os.path.exists(path))  # noqa: PTH110  # Path raises without permission


def short_names(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the shortest distinct names of ``paths``: as many last parts as tell all of them apart."""
    unique = dict.fromkeys(paths)
    for count in range(1, max((len(path.parts) for path in unique), default=0)):
        names = {path: str(Path(*path.parts[-count:])) for path in unique}
        if len(set(names.values())) == len(unique):
            return names
    return {path: str(path) for path in unique}


@dataclass(frozen=True, slots=True)
class _Holder:
    """The process that holds a lock, as it wrote itself into the lock's file."""

    pid: int
    host: str
    since: datetime

    @classmethod
    def current(cls) -> Self:
        """Return this process."""
        return cls(os.getpid(), socket.gethostname(), datetime.now().astimezone())

    @classmethod
    def read(cls, lock: Path) -> Self | None:
        """Return the process that a lock's file names; None if it names none."""
        try:
            with lock.open(encoding="utf-8") as file:
                pid, host, since = file.read(500).split()
            return cls(int(pid), host if host.isprintable() else "?", datetime.fromisoformat(since))
        except (OSError, ValueError):
            return None

    def write(self, lock: Path) -> None:
        """Write this process into the file of a lock that it holds; a full disk costs only the name."""
        with suppress(OSError):
            lock.write_text(f"{self.pid} {self.host} {self.since.isoformat(timespec='seconds')}\n", encoding="utf-8")

    def __str__(self) -> str:
        """Return ``4711 on node7, since 2026-03-01 14:05:09``."""
        return f"{self.pid} on {self.host}, since {self.since:%Y-%m-%d %H:%M:%S}"


@contextmanager
def locked(lock: Path, target: Path, *, doing: str = "encoded", option: str = "-o") -> Iterator[None]:
    """Hold the file ``lock`` during the block; the system releases it when this process ends, however it ends.

    The file names its holder, and disappears with the block, as do the folders that were created for it and are empty then. A
    network disk that carries no locks between machines cannot tell that another machine holds one: there, a file that another
    machine has left behind, which may be that of a killed process, is only warned of.

    Raises:
        UsageError: another process holds it. The message says that ``target`` is being ``doing``, by which process, and names
            the ``option`` that chooses another place.
    """
    created = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True)
    before, current = _Holder.read(lock), _Holder.current()
    file_lock = FileLock(lock, mode=0o666, timeout=_LOCK_TIMEOUT, poll_interval=_LOCK_TIMEOUT / 4, fallback_to_soft=False)
    try:
        file_lock.acquire()
    except Timeout:
        raise UsageError(_describe_holder(lock, target, doing, option)) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s: this file system has no locks; make sure that no other process writes %s", lock.parent, target.name)
    else:
        if before is not None and before.host != current.host:
            log.warning(
                "%s has a lock of process %s. It was killed, or it still runs and this disk carries no locks between machines: "
                "make sure that it has ended",
                target,
                before,
            )
        current.write(lock)
    try:
        yield
    finally:
        if file_lock.is_locked:
            # Removed while it is held, so that a process that has it open notices that the file has no name any more. Windows
            # removes no open file, and therefore never one that the next process holds.
            with suppress(PermissionError):
                lock.unlink(missing_ok=True)
            file_lock.release()
            if WINDOWS:
                with suppress(OSError):
                    lock.unlink()
        for folder in created:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def lock_holder(lock: Path) -> str | None:
    """Return the process that holds ``lock``, ``4711 on node7, since ...``, as far as its file tells; None if nothing does.

    The lock is not tried, which could disturb a process that is about to take it. A file that a killed process of this machine
    has left counts for nothing.
    """
    holder = _Holder.read(lock)
    if holder is None:
        return None
    if holder.host == _Holder.current().host and not WINDOWS:  # where this signal would end the process
        try:
            os.kill(holder.pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            pass  # it runs, and is somebody else's
    return str(holder)


def _describe_holder(lock: Path, target: Path, doing: str, option: str) -> str:
    holder = _Holder.read(lock)
    by, stop = (f" ({holder})", f"stop it (kill {holder.pid} on {holder.host}), ") if holder else ("", "")
    message = f"{target} is being {doing} by another process{by}. Wait for it, {stop}or choose another place with {option}."
    if holder is None or holder.host == _Holder.current().host:
        return message
    return f"{message} If {holder.host} has crashed, so that its disk server still keeps the lock, delete {lock}."


@contextmanager
def locked_outputs(outputs: Mapping[Path, str]) -> Iterator[None]:
    """Hold a lock beside every file or folder of ``outputs`` during the block; the values are the options that name them.

    Raises:
        UsageError: another process writes one of them, or one cannot be written.
    """
    with ExitStack() as stack:
        for path, option in {path.absolute(): (path, option) for path, option in outputs.items()}.values():
            refuse_unwritable([path.parent], option=option)
            lock = path.absolute().parent / f".{path.absolute().name}.lock"
            stack.enter_context(locked(lock, path, doing="written", option=option))
        yield
