"""One output under way: a beton and its items, which a run that was stopped at any moment can go on with.

While it is written an output is three hidden files beside its place: ``.train-q50.beton.partial`` (records, no header),
``.train-q50.items.jsonl.partial`` (a row an image) and ``.train-q50.plan`` (what decides the bytes). The life of an output:

    opened      the partial files are made and then the plan, or a stopped run's are found
    recovered   counts the images that are on the disk whole: every row whose record is there, up to a failure that was mended
    rewind      lays those out again and takes whatever follows out of the files
    add, flush  a chunk's records reach the operating system before its rows do
    finish      the items, the manifest and the beton get their names in this order, and the plan goes

So after a ``kill -9`` every whole row has its record: the rows are the journal. After a crash of the whole machine, or an
error of the disk, some may be on it and not others: then records are read back and held against their checksums.
"""

import json
import logging
import os
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.format import BetonIndex
from jpegcurr.encoding.beton.manifest import Manifest, Plan, Totals, items_path, manifest_path
from jpegcurr.encoding.beton.writer import BetonWriter, drop_cache
from jpegcurr.encoding.jpeg.codec import CONVERTED_QUALITY, CONVERTED_SUBSAMPLING, Encoded
from jpegcurr.encoding.resume import InterruptedEncode, begin, boot_id, partial_files, stamp, take_back
from jpegcurr.encoding.sources.base import MISSING, Item, Source
from jpegcurr.errors import EncodeError, UsageError
from jpegcurr.files import sync_folder, write_json

log = logging.getLogger("jpegcurr")

_FAILED = b'"status": "failed"'  # in such a row and, with its quotes, in no other


def item_row(item: Item, bytes_in: int, encoded: Encoded | None, reason: str = "") -> dict[str, Any]:
    """One image's fate, as ``read_items`` gives it back."""
    row: dict[str, Any] = {"key": item.key, "label": item.label, "source_bytes": bytes_in}
    if encoded is None:
        return row | {"status": "failed", "reason": reason}
    row |= {"status": "copied" if encoded.copied else "encoded", "bytes": len(encoded.data)}
    row |= {"width": encoded.width, "height": encoded.height, "crc32": encoded.crc32}
    if encoded.converted:
        row |= {"quality": CONVERTED_QUALITY, "subsampling": CONVERTED_SUBSAMPLING}
    return row | {"scaled": True} if encoded.scaled else row


class Output:
    """One beton under way; see the head of this file. Its ``lock_file`` must be held."""

    def __init__(self, path: Path, plan: Plan, writer: BetonWriter, rows: int, *, crashed: bool) -> None:
        self.path, self.plan = path, plan
        self._writer, self._rows, self._crashed = writer, rows, crashed
        self._totals, self._held = Totals(), bytearray()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, plan: Plan) -> Iterator[Self]:
        """Go on where a stopped encode was, or begin; call ``rewind`` before anything is added."""
        begun = InterruptedEncode.find(path)
        if begun is None:
            begin(path, plan)
        take_back(path)
        plan_file, partial, items = partial_files(path)
        rows = os.open(items, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            with BetonWriter(partial, plan.items, plan.page_size) as writer:
                try:
                    yield cls(path, plan, writer, rows, crashed=begun is not None and begun.crashed)
                except BaseException as error:
                    if isinstance(error, OSError) or writer.sync_failed():
                        stamp(plan_file, "")  # what the system took may not be on the disk
                    raise
        finally:
            os.close(rows)

    def recovered(self, source: Source, order: NDArray[np.int64]) -> int:
        """How many items are on the disk, whole; an image that failed and was mended since is not, nor what follows it."""
        if self._crashed and os.fstat(self._rows).st_size:  # a system without an id of its start calls every plan another's
            log.info("%s: the machine or the disk has failed since it was stopped; reading back what is there", self.path)
            self._writer.drop_cache()
            drop_cache(self._rows)
        index = BetonIndex(self.plan.items, self.plan.page_size)
        count = 0
        with closing(self._lines()) as lines:
            for position, line in zip(order, lines, strict=False):
                if self._crashed and not self._is_stored(line, index):
                    break
                if _FAILED in line and _is_mended(json.loads(line), source.items[int(position)]):
                    break
                count += 1
        return count

    def rewind(self, count: int, source: Source, order: NDArray[np.int64]) -> None:
        """Go on behind the first ``count`` items of ``source`` in file order.

        Raises:
            UsageError: one of them is not the image that it was when it was encoded.
        """
        index = BetonIndex(self.plan.items, self.plan.page_size)
        length = 0
        with closing(self._lines()) as lines:
            for position, line in zip(order[:count], lines, strict=False):
                row = json.loads(line)
                _check_same(row, source.items[int(position)], source)
                if row["status"] != "failed":
                    index.place(row["bytes"], row["width"], row["height"], row["label"])
                self._totals.add(row)
                length += len(line)
        os.ftruncate(self._rows, length)
        self._writer.restart(index)
        if self._crashed:
            self._writer.sync()
            os.fsync(self._rows)
            stamp(partial_files(self.path)[0], boot_id())

    def add(self, row: dict[str, Any], encoded: Encoded | None) -> None:
        """Append one image and its row, or the row that says why it is missing."""
        if encoded is not None:
            self._writer.append(encoded.data, encoded.width, encoded.height, row["label"])
        self._totals.add(row)
        self._held += json.dumps(row).encode() + b"\n"

    def flush(self) -> None:
        """Hand what was added to the operating system: records first, then the rows that speak of them."""
        self._writer.flush()
        with _naming(partial_files(self.path)[2]):
            while self._held:
                del self._held[: os.write(self._rows, self._held)]

    def sync(self) -> None:
        """Wait until all that was added is on the disk."""
        self.flush()
        self._writer.sync()
        with _naming(partial_files(self.path)[2]):
            os.fsync(self._rows)

    @property
    def failures(self) -> int:
        """Items that were left out so far."""
        return self._totals.failures

    def finish(self, source: Source) -> Manifest:
        """Complete the beton's bytes and give all files their names, the beton last, so that it always has its manifest."""
        self.sync()
        for label in sorted({*np.unique(source.items.labels).tolist()} - self._totals.labels):
            log.warning("%s: none of the images of the class %s could be encoded", self.path, source.classes[label])
        self._writer.finish()
        plan_file, partial, items = partial_files(self.path)
        if not self._writer.is_at(partial) or not items.exists() or not os.path.samestat(os.fstat(self._rows), items.stat()):
            raise EncodeError(
                f"{partial} is not the file that was written: somebody has replaced {self.path.parent} meanwhile."
            )
        manifest = self._manifest(source.ignored, partial.stat().st_size)
        self.path.unlink(missing_ok=True)
        items.replace(items_path(self.path))
        write_json(manifest_path(self.path), manifest.model_dump())
        partial.replace(self.path)
        plan_file.unlink()
        sync_folder(self.path.parent)
        return manifest

    def _manifest(self, ignored: int, beton_bytes: int) -> Manifest:
        return Manifest(
            **self.plan.model_dump(),
            ignored=ignored,
            index_sha256=self._writer.index.sha256(),
            beton_bytes=beton_bytes,
            **self._totals.as_dict(),
        )

    def _lines(self) -> Generator[bytes, None, None]:
        """The whole rows on the disk."""
        with partial_files(self.path)[2].open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))

    def _is_stored(self, line: bytes, index: BetonIndex) -> bool:
        """Whether a row is whole, and its record in the file as its checksum says."""
        try:
            row = json.loads(line)
            if row["status"] == "failed":
                return True
            pointer = index.place(row["bytes"], row["width"], row["height"], row["label"])
            return bool(zlib.crc32(self._writer.stored(pointer, row["bytes"])) == row["crc32"])
        except (ValueError, KeyError, TypeError, OverflowError):
            return False


def _is_mended(row: dict[str, Any], item: Item) -> bool:
    """Whether the image of a ``failed`` row is now another file, as far as its size tells."""
    return bool(row["key"] == item.key and row["source_bytes"] != item.size)


def _check_same(row: dict[str, Any], item: Item, source: Source) -> None:
    """The image that was encoded must be the one that is there now, as far as its name, label and size tell."""
    changed = (row["key"], row["label"]) != (item.key, item.label)
    if changed or (item.size != MISSING and row["source_bytes"] != item.size):
        raise UsageError(
            f"{source.store.where(item)} is not what it was when its encode was stopped: the source has changed since. "
            "Start over with --force."
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name into an OSError of a call that has only its number."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
