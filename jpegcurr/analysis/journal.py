"""The journal of a long pass over images: what every batch gave, in a hidden file, so that a killed command continues there.

A journal begins with a line of JSON: the facts that decide the numbers (see ``fingerprint``). Then come frames, one for each
batch, in any order of their passes: a head of four numbers (pass, images, bytes, CRC-32), and arrays in the format of
safetensors, which are exact and run no code when they are read. A frame is one write, so a process that is killed loses the
batch that it was at. What follows the last whole frame, because a frame was torn, the disk was full or the machine crashed, is
cut off, and its batches are computed again.

A resumed pass computes the batches that an unbroken one would have computed, from the next one on, and so ends in the same
bytes; on a GPU, whose libraries choose algorithms anew in every process, as far as two unbroken passes do.
"""

import json
import logging
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from safetensors.numpy import load, save

from jpegcurr.errors import UsageError
from jpegcurr.json_files import MOST_LINE_BYTES, describe, parse_json

log = logging.getLogger("jpegcurr")

Arrays = Mapping[str, NDArray[Any]]
Facts = Mapping[str, Any]

_HEAD = struct.Struct("<IIII")  # the number of the pass, images, bytes and CRC-32 of the arrays
_LONGEST = 60  # characters of a fact that a message shows


class _Header(BaseModel):
    journal: Literal[1]
    begun: int  # nanoseconds, by the clock of the file system
    outputs: list[str] = []
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Frame:
    """The place of a batch's arrays in the file."""

    part: int
    images: int
    start: int
    size: int


class Journal:
    """The results of an interrupted pass, and of the batches that follow; without a ``path`` it keeps nothing.

        with Journal("val.journal", resume=True) as journal:
            results = jpegcurr.evaluate("runs/two_phase", "betons/val-source.beton", journal=journal)

    The block ends when everything that it writes is written: the journal is removed then, and stays if it ends by an error, if
    there is a batch in it. Nothing may write it at the same time; the commands lock the output that it lies beside.

    Attributes:
        kept: the number of images whose results it holds, counted once for each model.
        resumed: how many of them an interrupted run has left.
    """

    def __init__(
        self, path: str | Path | None = None, *, resume: bool = False, force: bool = False, outputs: Sequence[Path] = ()
    ) -> None:
        """With ``resume``, continue what is there; with ``force``, replace it, or with both replace what cannot be continued.

        ``outputs`` are noted for ``planned_outputs``.

        Raises:
            UsageError: there is one with results, and neither is set.
        """
        self.path = None if path is None else Path(path)
        self.kept = self.resumed = 0
        self._resume, self._force = resume, force
        self._outputs = [str(output.absolute()) for output in outputs]
        self._frames: dict[int, list[_Frame]] = {}
        self._file: IO[bytes] | None = None
        self._writable = False
        if self.path is not None and not (resume or force) and has_results(self.path):
            raise UsageError(
                f"{self.path} holds the results of an interrupted run. Continue it with --resume, or start over with --force."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        began = self._file is not None
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.path is not None and began and (kind is None or not self.kept):
            self.path.unlink(missing_ok=True)

    def begin(self, facts: Facts, find_change: Callable[[int], str] = lambda _since: "") -> int:
        """Open the file for the work that ``facts`` describe, in words; return the number of images that are done.

        ``find_change`` returns which input has changed since a time in nanoseconds, ``a/1.jpg has changed``; an empty string
        if none has.

        Raises:
            UsageError: the results in the file are of other facts, or of inputs that have changed, and ``force`` is not set.
        """
        if self.path is None:
            return 0
        plain: dict[str, Any] = json.loads(json.dumps(facts))
        if self._resume and has_results(self.path):
            obstacle, advice = _find_obstacle(self.path, plain, find_change)
            if not obstacle:
                self._file = self.path.open("r+b", buffering=0)
                self._recover(self._file)
                return self.kept
            if not self._force:
                raise UsageError(f"{obstacle}. {advice}, or start over with --force.")
            log.warning("%s. It is replaced, and everything is computed again.", obstacle)
        self._create(self.path, plain)
        return 0

    def _recover(self, file: IO[bytes]) -> None:
        """Note the whole frames of the file and cut off what follows them."""
        _read_header(file)
        end = file.tell()
        for frame in _scan(file):
            self._frames.setdefault(frame.part, []).append(frame)
            self.kept += frame.images
            end = frame.start + frame.size
        self.resumed = self.kept
        file.truncate(end)
        self._writable = True

    def _create(self, path: Path, facts: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = path.open("w+b", buffering=0)
            header = {"journal": 1, "begun": path.stat().st_mtime_ns, "outputs": self._outputs, "facts": facts}
            self._writable = self._write(self._file, json.dumps(header).encode() + b"\n")
        except OSError as error:
            self._give_up(error)

    def part(self, number: int) -> "Part":
        """Return the part of the journal that is for the pass ``number``, from 0."""
        return Part(self, number)

    def read(self, part: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the arrays of every batch of a pass that is done, in order."""
        for frame in self._frames.pop(part, []):
            if self._file is not None:
                self._file.seek(frame.start)
                yield load(self._file.read(frame.size))

    def append(self, part: int, images: int, arrays: Arrays) -> None:
        """Add a batch. A journal that cannot be written, as on a full disk, is only warned of: the pass itself continues."""
        if self._file is None or not self._writable:
            return
        data = save({name: np.ascontiguousarray(values) for name, values in arrays.items()})
        self._writable = self._write(self._file, _HEAD.pack(part, images, len(data), zlib.crc32(data)) + data)
        if self._writable:
            self.kept += images

    def _write(self, file: IO[bytes], data: bytes) -> bool:
        """Append ``data`` whole; if that fails, cut off what was written of it, warn, and return False."""
        start = file.seek(0, 2)
        try:
            written = file.write(data)
            if written == len(data):
                return True
            raise OSError(f"{written:,} of {len(data):,} bytes could be written")
        except OSError as error:
            with suppress(OSError):
                file.truncate(start)
            self._give_up(error)
            return False

    def _give_up(self, error: OSError) -> None:
        reason = error.strerror or error
        kept = f"--resume can continue from the {self.kept:,} images that it has" if self.kept else "this run cannot be resumed"
        log.warning("%s cannot be written (%s). The run continues, and if it is stopped, %s.", self.path, reason, kept)


@dataclass(frozen=True, slots=True)
class Part:
    """One pass's part of a journal."""

    journal: Journal
    number: int

    def recovered(self) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the arrays of the batches that are done, in order; to be exhausted before ``append``."""
        return self.journal.read(self.number)

    def append(self, images: int, arrays: Arrays) -> None:
        """Add the next batch, with the number of its images, counted once for each model."""
        self.journal.append(self.number, images, arrays)


def journal_of(output: Path) -> Path:
    """Return the place of the journal of a command that writes ``output``: beside it, hidden."""
    return output.with_name(f".{output.name}.journal")


def planned_outputs(path: Path) -> list[Path]:
    """Return the files that an interrupted run was about to write, or was writing; none if there is no such run."""
    if not has_results(path):
        return []
    try:
        with path.open("rb") as file:
            return [Path(output) for output in _read_header(file).outputs]
    except ValueError:  # ``begin`` says so
        return []


def has_results(path: Path) -> bool:
    """Return whether there is a journal with the results of a batch, or one that cannot be read."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        line = file.readline(MOST_LINE_BYTES + 1)
        if line and not line.endswith(b"\n"):
            return len(line) > MOST_LINE_BYTES  # else a process was killed while it wrote the first line
        return next(_scan(file), None) is not None


def _find_obstacle(path: Path, facts: dict[str, Any], find_change: Callable[[int], str]) -> tuple[str, str]:
    """Return why a journal cannot be continued, and the way out; empty texts if it can."""
    try:
        with path.open("rb") as file:
            header = _read_header(file)
    except ValueError as problem:
        return f"{path} is of an interrupted run and cannot be read ({describe(problem)})", "Remove it"
    if difference := describe_difference(header.facts, facts):
        return f"{path} is of an interrupted run {difference}", "Give the command as it was, on such a machine"
    if change := find_change(header.begun):
        return f"{change} since the run of {path} was begun", "Name another output"
    return "", ""


def _read_header(file: IO[bytes]) -> _Header:
    """Read the first line; raises ValueError if it is no header."""
    line = file.readline(MOST_LINE_BYTES + 1)
    if not line.endswith(b"\n"):
        raise ValueError("its first line has no end")
    return _Header.model_validate(parse_json(line))


def _scan(file: IO[bytes]) -> Iterator[_Frame]:
    """Yield the whole frames from the file's position on."""
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        part, images, size, checksum = _HEAD.unpack(head)
        start = file.tell()
        data = file.read(size)
        if len(data) < size or zlib.crc32(data) != checksum:
            return
        yield _Frame(part, images, start, size)
        file.seek(start + size)


def describe_difference(before: Facts, now: Facts) -> str:
    """Return, in words that follow a noun, the first fact that differs; empty if none does. Digests are not shown."""
    for name in dict.fromkeys([*now, *before]):
        was, value = before.get(name), now.get(name)
        if was == value:
            continue
        there, here = _show(was), _show(value)
        values = f": {there} there, {here} here" if max(len(there), len(here)) <= _LONGEST else ""
        return f"with other {name}{values}"
    return ""


def _show(fact: Any) -> str:
    if isinstance(fact, list):
        return ", ".join(map(str, fact)) or "none"
    return "not set" if fact is None else str(fact)


def given_words() -> list[str]:
    """Return the words of the command as a page states it: without ``--resume``, which changes no byte of the page."""
    return ["jpegcurr", *(word for word in sys.argv[1:] if word != "--resume")]


def pack_json(texts: Any) -> NDArray[np.uint8]:
    """Return anything that JSON can hold, such as the reasons why images cannot be read, as an array of a journal."""
    return np.frombuffer(json.dumps(texts).encode(), np.uint8)


def unpack_json(values: NDArray[Any]) -> Any:
    """Return what ``pack_json`` was given."""
    return json.loads(values.tobytes())
