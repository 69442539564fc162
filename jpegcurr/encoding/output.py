"""One output while it is written: a beton and its items, which can be continued after a stop at any moment.

Until it is finished, an output is three hidden files beside its final place: ``.train-q50.beton.partial`` (records, no
header), ``.train-q50.items.jsonl.partial`` (a row per image) and ``.train-q50.plan`` (what decides the bytes). Its life:

    open             create the partial files and then the plan, or open those of an interrupted run
    count_recovered  count the images that are whole on the disk: rows with their records, up to a failure repaired since
    rewind           lay out those records again and remove everything behind them from the files
    add, flush       hand a chunk's records to the operating system before its rows
    finish           give the items, the manifest and the beton their names, in this order, and delete the plan

So after a ``kill -9`` every whole row has its record: the rows are the journal. After a crash of the machine, or an error of
the disk, a row may be on the disk without its record: then records are read back and compared with their checksums.
"""

import json
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from jpegcurr.descriptors import drop_cache, open_to_write
from jpegcurr.encoding.beton.format import BetonIndex
from jpegcurr.encoding.beton.manifest import Manifest, Plan, Totals, items_path, manifest_path, parse_row
from jpegcurr.encoding.beton.writer import BetonWriter
from jpegcurr.encoding.jpeg.codec import CONVERTED_QUALITY, CONVERTED_SUBSAMPLING, Encoded
from jpegcurr.encoding.resume import (
    InterruptedEncode,
    create_partial_files,
    is_repaired,
    partial_files,
    read_boot_id,
    read_rows,
    undo_renaming,
    write_boot_id,
)
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.workers import Outcome
from jpegcurr.errors import EncodeError, UsageError
from jpegcurr.files import sync_folder, write_json
from jpegcurr.json_files import describe

log = logging.getLogger("jpegcurr")

_FAILED = b'"status": "failed"'  # with its quotes, these bytes are in no other row


def make_item_row(outcome: Outcome, encoded: Encoded | None) -> dict[str, Any]:
    """Return one image's row of ``items.jsonl``, given what it became at one quality; see ``read_items``."""
    row: dict[str, Any] = {"key": outcome.item.key, "label": outcome.item.label, "source_bytes": outcome.bytes_in}
    if encoded is None:
        return row | {"status": "failed", "reason": outcome.reason}
    row |= {"status": "copied" if encoded.copied else "encoded", "bytes": len(encoded.data)}
    row |= {"width": encoded.width, "height": encoded.height, "crc32": encoded.crc32, "source_crc32": outcome.crc32}
    if encoded.converted:
        row |= {"quality": CONVERTED_QUALITY, "subsampling": CONVERTED_SUBSAMPLING}
    return row | {"scaled": True} if encoded.scaled else row


class Output:
    """One beton while it is written; see the head of this file. The caller must hold its ``lock_file``."""

    def __init__(self, path: Path, plan: Plan, writer: BetonWriter, rows: int, *, crashed: bool) -> None:
        self.path, self.plan = path, plan
        self._writer, self._rows, self._crashed = writer, rows, crashed
        self._totals, self._pending_rows = Totals(), bytearray()

    @classmethod
    @contextmanager
    def open(cls, path: Path, plan: Plan) -> Iterator[Self]:
        """Open an interrupted encode or create a new one; call ``rewind`` before the first ``add``."""
        interrupted = InterruptedEncode.find(path)
        if interrupted is None:
            create_partial_files(path, plan)
        undo_renaming(path)
        plan_file, partial, items = partial_files(path)
        with BetonWriter(partial, plan.items, plan.page_size) as writer:
            crashed = interrupted is not None and interrupted.crashed
            output = cls(path, plan, writer, open_to_write(items, append=True), crashed=crashed)
            try:
                yield output
            except BaseException as error:
                if isinstance(error, OSError) or writer.sync_failed():
                    write_boot_id(plan_file, "")  # the disk may not have all that the system accepted
                raise
            finally:
                output._close_rows()

    def count_recovered(self, source: Source, order: NDArray[np.int64]) -> int:
        """Count the items that are whole on the disk, up to the first failed image that was repaired since."""
        if self._crashed and os.fstat(self._rows).st_size:  # on systems without a boot id, empty new outputs count as crashed
            log.info("%s: the machine or the disk failed after the encode was interrupted; reading its records back", self.path)
            self._writer.drop_cache()
            drop_cache(self._rows)
        index = BetonIndex(self.plan.items, self.plan.page_size)
        count = 0
        with closing(read_rows(partial_files(self.path)[2])) as lines:
            for position, line in zip(order, lines, strict=False):
                if self._crashed and not self._is_stored(line, index):
                    break
                if _FAILED in line and is_repaired(self._parse(line), source.items[int(position)]):
                    break
                count += 1
        return count

    def rewind(self, count: int) -> None:
        """Continue behind the first ``count`` items in file order. Raises UsageError for a row that cannot be read."""
        index = BetonIndex(self.plan.items, self.plan.page_size)
        length = 0
        with closing(read_rows(partial_files(self.path)[2])) as lines:
            for line in islice(lines, count):
                row = self._parse(line)
                if row["status"] != "failed":
                    index.place(row["bytes"], row["width"], row["height"], row["label"])
                self._totals.add(row)
                length += len(line)
        os.ftruncate(self._rows, length)
        self._writer.restart(index)
        if self._crashed:
            self._writer.sync()
            os.fsync(self._rows)
            write_boot_id(partial_files(self.path)[0], read_boot_id())

    def add(self, row: dict[str, Any], encoded: Encoded | None) -> None:
        """Append one image and its row, or only the row of an image that failed."""
        if encoded is not None:
            self._writer.append(encoded.data, encoded.width, encoded.height, row["label"])
        self._totals.add(row)
        self._pending_rows += json.dumps(row).encode() + b"\n"

    def flush(self) -> None:
        """Hand all additions to the operating system: records first, then the rows that refer to them."""
        self._writer.flush()
        with _name_in_errors(partial_files(self.path)[2]):
            while self._pending_rows:
                del self._pending_rows[: os.write(self._rows, self._pending_rows)]

    def sync(self) -> None:
        """Wait until all additions are on the disk."""
        self.flush()
        self._writer.sync()
        with _name_in_errors(partial_files(self.path)[2]):
            os.fsync(self._rows)

    @property
    def failures(self) -> int:
        """The number of failed items so far."""
        return self._totals.failures

    def finish(self, source: Source) -> Manifest:
        """Complete the beton and give all files their names, the beton last, so that it always has its manifest."""
        self.sync()
        for label in sorted({*np.unique(source.items.labels).tolist()} - self._totals.labels):
            log.warning("%s: none of the images of the class %s could be encoded", self.path, source.classes[label])
        self._writer.finish()
        plan_file, partial, items = partial_files(self.path)
        if not self._writer.is_at(partial) or not items.exists() or not os.path.samestat(os.fstat(self._rows), items.stat()):
            raise EncodeError(f"{partial} is not the file that this encode wrote: {self.path.parent} was replaced meanwhile.")
        manifest = self._manifest(source.ignored, partial.stat().st_size)
        self._writer.close()  # Windows renames no open file
        self._close_rows()
        self.path.unlink(missing_ok=True)
        items.replace(items_path(self.path))
        write_json(manifest_path(self.path), manifest.model_dump())
        partial.replace(self.path)
        plan_file.unlink()
        sync_folder(self.path.parent)
        return manifest

    def _close_rows(self) -> None:
        if self._rows >= 0:
            os.close(self._rows)
            self._rows = -1

    def _manifest(self, ignored: int, beton_bytes: int) -> Manifest:
        return Manifest(
            **self.plan.model_dump(),
            ignored=ignored,
            index_sha256=self._writer.index.sha256(),
            beton_bytes=beton_bytes,
            **self._totals.as_dict(),
        )

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            return parse_row(line)
        except ValueError as error:
            raise UsageError(
                f"{partial_files(self.path)[2]}, of an interrupted encode, cannot be read ({describe(error)}). Start over with "
                "--force."
            ) from None

    def _is_stored(self, line: bytes, index: BetonIndex) -> bool:
        """Return whether a row is whole and its record has the row's checksum."""
        try:
            row = parse_row(line)
            if row["status"] == "failed":
                return True
            pointer = index.place(row["bytes"], row["width"], row["height"], row["label"])
            return bool(zlib.crc32(self._writer.read_stored(pointer, row["bytes"])) == row["crc32"])
        except ValueError:
            return False


@contextmanager
def _name_in_errors(path: Path) -> Iterator[None]:
    """Name the file in an OSError of a call that knows only its descriptor."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
