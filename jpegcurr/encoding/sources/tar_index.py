"""Where the files of an uncompressed tar lie, and how each is read in place."""

import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from jpegcurr.encoding.sources.base import Item, read_bytes
from jpegcurr.errors import EncodeError, SourceError

BLOCK = 512
_PADDING = 1 << 20  # zeros at an archive's end, as GNU tar makes them at its largest usual blocking factor, 2048
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its ``name`` without a leading ``./``, and its ``size`` bytes from ``offset`` of the whole file."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarStore:
    """Images inside uncompressed tars: each is a run of bytes of the file ``paths[item.container]``.

    ``flat``: the archive has no folders, and a key's is the image's class.
    """

    paths: tuple[str, ...]
    flat: bool = False

    def read(self, item: Item) -> bytes:
        """See ``Store``."""
        data = read_bytes(self.paths[item.container], item.offset, item.size)
        if len(data) != item.size:
            raise EncodeError(f"{self.where(item)} is cut off: the archive has become shorter since it was listed.")
        return data

    def where(self, item: Item) -> str:
        """The archive and the image's name in it, which a key of several archives has behind that of its own."""
        path = self.paths[item.container]
        name = posixpath.basename(item.key) if self.flat else item.key.removeprefix(f"{PurePath(path).stem}/")
        return f"{path}: {name}"


def members(file: BinaryIO, name: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """Yield the files of the tar that lies in ``file`` from ``start`` to ``end`` (its end), in their order.

    The headers alone are read, and none is kept. ``name`` is the archive's in errors. Folders are passed over, and so is
    whatever is hidden (``.DS_Store``, ``._1.jpg``, ``.git/*``). ``file`` may be moved between two members.

    Raises:
        SourceError: no tar, a compressed one, or one that is cut short, damaged or several joined; a member that is a
            link, a device or has holes, so that it has no bytes to read in place; an absolute name or one with ``..``.
    """
    there = file.seek(0, os.SEEK_END)
    end = there if end is None else min(end, there)
    tar = _open(file, name, start, end)
    while (info := _next(tar, name, end)) is not None:
        path = _safe(info.name, name)
        if info.isdir() or any(part.startswith(".") for part in path.split("/")):
            continue
        if not info.isreg() or info.issparse():
            raise SourceError(
                f"{name}: {path} is a link, a sparse file or a device, which cannot be read in place. "
                "Pack the files themselves: tar --dereference --hard-dereference."
            )
        yield Member(path, info.offset_data, info.size)
    _see_the_end(file, name, tar.offset, end)


def _open(file: BinaryIO, name: str, start: int, end: int) -> tarfile.TarFile:
    """The archive, with its first header read."""
    file.seek(start)
    head = file.read(min(BLOCK, max(0, end - start)))
    if len(head) < BLOCK:
        raise SourceError(f"{name} is {'cut short' if head else 'empty'}. Copy or fetch it again.")
    file.seek(start)
    try:
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError):
        raise _foreign(head, name) from None
    if tar.offset == start and head.strip(b"\0"):  # where start > 0, tarfile takes a foreign header for the end
        raise _foreign(head, name)
    return tar


def _foreign(head: bytes, name: str) -> SourceError:
    kind = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None:
        return SourceError(f"{name} is compressed ({kind}), and images are read in place. Decompress it to a plain .tar.")
    return SourceError(f"{name} is not a tar archive, or its beginning is damaged. Copy or fetch it again.")


def _next(tar: tarfile.TarFile, name: str, end: int) -> tarfile.TarInfo | None:
    """The next member, all of whose bytes are there; None at the end mark or where a header should be and is not."""
    if tar.offset + BLOCK > end:
        return None
    try:
        info = tar.next()
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise SourceError(f"{name} is cut short or damaged at byte {tar.offset}: {error}. Copy or fetch it again.") from None
    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member it has seen
    if info is not None and not info.issparse() and (info.size < 0 or info.offset_data + info.size > end):
        raise SourceError(f"{name} is cut short: it ends within {info.name}. Copy or fetch it again.")
    return info


def _safe(path: str, name: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise SourceError(f"{name}: {path!r} lies outside the archive's own folder. Pack it with names that do not.")
    return posixpath.normpath(path)


def _see_the_end(file: BinaryIO, name: str, offset: int, end: int) -> None:
    """A block of zeros and after it nothing else: tarfile stops in silence at whatever is no header."""
    file.seek(offset)
    mark = file.read(max(0, min(BLOCK, end - offset)))
    if len(mark) < BLOCK:
        raise SourceError(f"{name} is cut short at byte {offset}: its end mark is not there. Copy or fetch it again.")
    if mark.strip(b"\0"):
        raise SourceError(f"{name} is damaged at byte {offset}: no header is there. Copy or fetch it again.")
    if end - offset > _PADDING:
        raise SourceError(f"{name} is empty from byte {offset} on, as an unfinished download is. Fetch it again.")
    while rest := file.read(min(1 << 20, end - file.tell())):
        if rest.strip(b"\0"):
            raise SourceError(f"{name} goes on after its end mark, as if archives had been joined. Give them one by one.")
