"""Index of an uncompressed tar: the position of every file in it, and a store that reads images in place."""

import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import BinaryIO

from jpegcurr.encoding.sources.base import Item, file_changed_at, read_bytes
from jpegcurr.errors import EncodeError, SourceError

BLOCK = 512
_PADDING = 1 << 20  # zeros that GNU tar writes to an archive's end at its largest usual blocking factor, 2048
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive: its ``name`` without a leading ``./``, and the ``offset`` and ``size`` of its bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TarStore:
    """Images inside uncompressed tars: every image is a run of bytes of the file ``paths[item.container]``.

    ``flat`` says that the archive has no folders; the folder in a key is then the image's class.
    """

    paths: tuple[str, ...]
    flat: bool = False

    def read(self, item: Item) -> bytes:
        """Return the bytes of an image; see ``Store``."""
        data = read_bytes(self.paths[item.container], item.offset, item.size)
        if len(data) != item.size:
            raise EncodeError(f"{self.locate(item)} is cut off: the archive has become shorter since it was listed.")
        return data

    def locate(self, item: Item) -> str:
        """Return the archive and the image's name in it, without the name of the archive that a key may start with."""
        path = self.paths[item.container]
        name = posixpath.basename(item.key) if self.flat else item.key.removeprefix(f"{PurePath(path).stem}/")
        return f"{path}: {name}"

    def changed_at(self, item: Item) -> int | None:
        """Return when the archive last changed; see ``Store``."""
        return file_changed_at(self.paths[item.container])

    def modified_at(self, item: Item) -> int | None:
        """Return the time stamp in the image's header, the block before its bytes; see ``Store``."""
        header = read_bytes(self.paths[item.container], item.offset - BLOCK, BLOCK)
        try:
            return int(tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape").mtime) * 10**9
        except (tarfile.HeaderError, ValueError):
            return None


def read_members(file: BinaryIO, name: str, start: int = 0, end: int | None = None) -> Iterator[Member]:
    """Yield the files of the tar between the bytes ``start`` and ``end`` (by default the end) of ``file``, in their order.

    Only headers are read, and none is kept in memory. Errors call the archive ``name``. Folders and hidden files
    (``.DS_Store``, ``._1.jpg``, ``.git/*``) are skipped. The caller may move ``file`` between two members.

    Raises:
        SourceError: the file is no tar, compressed, cut short, damaged, or several tars joined; a member is a link, a
            device or sparse, so that its bytes cannot be read in place; a name is absolute or contains ``..``.
    """
    length = file.seek(0, os.SEEK_END)
    end = length if end is None else min(end, length)
    tar = _open(file, name, start, end)
    while (info := _read_next(tar, name, end)) is not None:
        path = _normalise(info.name, name)
        if info.isdir() or any(part.startswith(".") for part in path.split("/")):
            continue
        if not info.isreg() or info.issparse():
            raise SourceError(
                f"{name}: {path} is a link, a sparse file or a device, which cannot be read in place. "
                "Pack the files themselves: tar --dereference --hard-dereference."
            )
        yield Member(path, info.offset_data, info.size)
    _check_end(file, name, tar.offset, end)


def _open(file: BinaryIO, name: str, start: int, end: int) -> tarfile.TarFile:
    """Open the archive and read its first header."""
    file.seek(start)
    head = file.read(min(BLOCK, max(0, end - start)))
    if len(head) < BLOCK:
        raise SourceError(f"{name} is {'cut short' if head else 'empty'}. Copy or download it again.")
    file.seek(start)
    try:
        tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError):
        raise _not_a_tar(head, name) from None
    if tar.offset == start and head.strip(b"\0"):  # where start > 0, tarfile takes an invalid header for the end
        raise _not_a_tar(head, name)
    return tar


def _not_a_tar(head: bytes, name: str) -> SourceError:
    kind = next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)
    if kind is not None:
        return SourceError(f"{name} is compressed ({kind}), but images are read in place. Decompress it to a plain .tar.")
    return SourceError(f"{name} is not a tar archive, or its beginning is damaged. Copy or download it again.")


def _read_next(tar: tarfile.TarFile, name: str, end: int) -> tarfile.TarInfo | None:
    """Return the next member, whose bytes are complete; None at the end mark and where there is no header."""
    if tar.offset + BLOCK > end:
        return None
    try:
        info = tar.next()
    except (tarfile.TarError, ValueError, OverflowError, OSError) as error:
        raise SourceError(f"{name} is cut short or damaged at byte {tar.offset}: {error}. Copy or download it again.") from None
    tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member that it has read
    if info is not None and not info.issparse() and (info.size < 0 or info.offset_data + info.size > end):
        raise SourceError(f"{name} is cut short: it ends within {info.name}. Copy or download it again.")
    return info


def _normalise(path: str, name: str) -> str:
    """Return a member's name without ``./``; raises SourceError if it leads out of the archive."""
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise SourceError(
            f"{name}: {path!r} lies outside the archive's own folder. Pack it with relative names without .. in them."
        )
    return posixpath.normpath(path)


def _check_end(file: BinaryIO, name: str, offset: int, end: int) -> None:
    """Raise SourceError unless a block of zeros ends the archive: tarfile ends silently at any invalid header."""
    file.seek(offset)
    mark = file.read(max(0, min(BLOCK, end - offset)))
    if len(mark) < BLOCK:
        raise SourceError(f"{name} is cut short at byte {offset}: its end mark is missing. Copy or download it again.")
    if mark.strip(b"\0"):
        raise SourceError(f"{name} is damaged at byte {offset}: there is no header. Copy or download it again.")
    if end - offset > _PADDING:
        raise SourceError(f"{name} is empty from byte {offset} on, like an unfinished download. Download it again.")
    while rest := file.read(min(1 << 20, end - file.tell())):
        if rest.strip(b"\0"):
            raise SourceError(
                f"{name} has data after its end mark, as joined archives have. Split it into the single archives."
            )
