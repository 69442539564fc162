"""An output as a folder of classes, ``train_50/<class>/<name>``, with the names and the time stamps of the source's files."""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from jpegcurr.descriptors import drop_cache
from jpegcurr.encoding.beton.manifest import Plan
from jpegcurr.encoding.outputs.base import Row, name_in_errors, sync_file_system, write_fully
from jpegcurr.encoding.outputs.sample_names import SampleNames
from jpegcurr.encoding.sources.base import MISSING, read_bytes
from jpegcurr.errors import EncodeError, ImageError

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)


class FolderSink:
    """A tree of files, which are written at once; see ``Sink``."""

    def __init__(self, place: Path, plan: Plan) -> None:
        self._place, self._names = str(place), SampleNames(plan.classes)
        self._status = place.stat()
        self._folders, self._bytes = set[str](), 0

    def restart(self, rows: Iterable[Row]) -> None:
        """Remove every file but those of ``rows``; see ``Sink``."""
        kept = set[str]()
        for row in rows:
            kept.add(os.path.join(self._place, self._names.path(row["key"], row["label"])))  # noqa: PTH118
            self._bytes += row["bytes"]
        for folder, _, names in os.walk(self._place):
            for path in (os.path.join(folder, name) for name in names):  # noqa: PTH118
                if path not in kept:
                    os.unlink(path)  # noqa: PTH108

    def append(self, row: Row, data: bytes) -> None:
        """Write one file; see ``Sink``."""
        folder, slash, name = f"{self._place}/{self._names.path(row['key'], row['label'])}".rpartition("/")
        if folder not in self._folders:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
            self._folders.add(folder)
        path = folder + slash + name
        with name_in_errors(path):
            file = os.open(path, _CREATE, 0o666)
            try:
                write_fully(file, data)
            finally:
                os.close(file)
            if (modified := row.get("modified")) is not None:
                os.utime(path, ns=(modified, modified))
        self._bytes += len(data)

    def flush(self) -> None:
        """Do nothing: files are written at once."""

    def sync(self) -> None:
        """Wait until the tree is on the disk; see ``Sink``."""
        sync_file_system(Path(self._place))

    def sync_failed(self) -> bool:
        """Return False: nothing is synced in the background."""
        return False

    def complete(self) -> int:
        """Wait until the tree is on the disk; see ``Sink``."""
        self.sync()
        return self._bytes

    def index_sha256(self) -> None:
        """Return None: there is nothing but the samples."""

    def is_at(self, place: Path) -> bool:
        """Return whether ``place`` is still the folder that is being written."""
        return place.exists() and os.path.samestat(self._status, place.stat())

    def close(self) -> None:
        """Do nothing: no file stays open."""


class FolderReader:
    """The files of a folder output; see ``Reader``."""

    def __init__(self, place: Path, plan: Plan, *, from_disk: bool = False) -> None:
        self._place, self._names, self._from_disk = place, SampleNames(plan.classes), from_disk

    def read(self, row: Row) -> bytes:
        """Return the bytes of the row's file; none if it is missing."""
        path = self._place / self._names.path(row["key"], row["label"])
        if self._from_disk:
            with suppress(OSError), path.open("rb") as file:
                drop_cache(file.fileno())
        try:
            return read_bytes(str(path), 0, MISSING, listed=False)
        except ImageError:
            return b""
        except EncodeError as error:
            raise OSError(None, str(error), str(path)) from None

    def close(self) -> None:
        """Do nothing: no file stays open."""
