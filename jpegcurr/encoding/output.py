"""One output while it is written: its samples, in any format, and its items. It can be continued after a stop at any moment.

Until it is finished, an output is three hidden files beside its final place: ``.train-q50.beton.partial`` (the samples: of a
beton its records without the header, of other formats a folder), ``.train-q50.items.jsonl.partial`` (a row per image) and
``.train-q50.plan`` (what decides the bytes). Its life:

    open             create the partial files and then the plan, or open those of an interrupted run
    count_recovered  count the images that are whole on the disk: rows with their records, up to a failure repaired since
    rewind           lay out those records again and remove everything behind them from the files
    add, flush       hand a chunk's records to the operating system before its rows
    finish           give the items, the manifest and the output their names, in this order, and delete the plan

So after a ``kill -9`` every whole row has its record: the rows are the journal. After a crash of the machine, or an error of
the disk, a row may be on the disk without its record: then records are read back and compared with their checksums.
"""

import json
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Self

from jpegcurr.descriptors import drop_cache, open_to_write
from jpegcurr.encoding.beton.manifest import Manifest, Plan, Totals, items_path, manifest_path, parse_row
from jpegcurr.encoding.jpeg.codec import CONVERTED_QUALITY, CONVERTED_SUBSAMPLING, Encoded
from jpegcurr.encoding.outputs.base import Row, Sink, name_in_errors
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.resume import (
    InterruptedEncode,
    create_partial_files,
    partial_files,
    read_boot_id,
    read_rows,
    refuse_foreign,
    remove,
    replaced_place,
    undo_renaming,
    write_boot_id,
)
from jpegcurr.encoding.workers import Outcome
from jpegcurr.errors import EncodeError, UsageError
from jpegcurr.files import sync_folder, write_json
from jpegcurr.json_files import describe

log = logging.getLogger("jpegcurr")


def make_item_row(
    outcome: Outcome, encoded: Encoded | None, *, time_stamp: bool = False, shares: Mapping[str, float] | None = None
) -> Row:
    """Return one image's row of ``items.jsonl``, given what it became at one quality; see ``read_items``."""
    row: Row = {"key": outcome.item.key, "label": outcome.item.label, "source_bytes": outcome.bytes_in}
    if outcome.item.box is not None:
        row["box"] = outcome.item.box.as_row
    if encoded is None:
        return row | {"status": "failed", "reason": outcome.reason}
    row |= {"status": "copied" if encoded.copied else "encoded", "bytes": len(encoded.data)}
    row |= {"width": encoded.width, "height": encoded.height, "crc32": encoded.crc32, "source_crc32": outcome.crc32}
    if encoded.window is not None:
        row["window"] = list(encoded.window)
    if time_stamp and outcome.modified is not None:
        row |= {"modified": outcome.modified}
    if encoded.converted:
        row |= {"quality": CONVERTED_QUALITY, "subsampling": CONVERTED_SUBSAMPLING}
    if shares is not None:
        row |= {"shares": dict(shares)}
    return row | {"scaled": True} if encoded.scaled else row


class Output:
    """One output while it is written; see the head of this file. The caller must hold its ``lock_file``."""

    def __init__(self, path: Path, plan: Plan, sink: Sink, rows: int, *, crashed: bool) -> None:
        self.path, self.plan = path, plan
        self._sink, self._rows, self._crashed = sink, rows, crashed
        self._totals, self._pending_rows, self._labels = Totals(), bytearray(), set[int]()

    @classmethod
    @contextmanager
    def open(cls, path: Path, plan: Plan) -> Iterator[Self]:
        """Open an interrupted encode or create a new one; call ``rewind`` before the first ``add``."""
        interrupted = InterruptedEncode.find(path)
        if interrupted is None:
            create_partial_files(path, plan)
        undo_renaming(path)
        plan_file, partial, items = partial_files(path)
        with closing(OUTPUT_FORMATS[plan.format].sink(partial, plan)) as sink:
            crashed = interrupted is not None and interrupted.crashed
            output = cls(path, plan, sink, open_to_write(items, append=True), crashed=crashed)
            try:
                yield output
            except BaseException as error:
                if isinstance(error, OSError) or sink.sync_failed():
                    write_boot_id(plan_file, "")  # the disk may not have all that the system accepted
                raise
            finally:
                output._close_rows()

    def count_recovered(self, is_outdated: Callable[[int, bytes], bool]) -> int:
        """Count the items that are whole on the disk, up to the first whose row, number n, ``is_outdated(n, line)``."""
        if self._crashed and os.fstat(self._rows).st_size:  # on systems without a boot id, empty new outputs count as crashed
            log.info("%s: the machine or the disk failed after the encode was interrupted; reading its records back", self.path)
            drop_cache(self._rows)
        _, partial, items = partial_files(self.path)
        count = 0
        with self._stored_check(partial) as is_stored, closing(read_rows(items)) as lines:
            for line in islice(lines, self.plan.items):
                if not is_stored(line) or is_outdated(count, line):
                    break
                count += 1
        return count

    def rewind(self, count: int) -> None:
        """Continue behind the first ``count`` items in file order. Raises UsageError for a row that cannot be read."""
        length = 0

        def stored_rows() -> Iterator[Row]:
            nonlocal length
            with closing(read_rows(partial_files(self.path)[2])) as lines:
                for line in islice(lines, count):
                    row = self.parse(line)
                    self._count(row)
                    length += len(line)
                    if row["status"] != "failed":
                        yield row

        self._sink.restart(stored_rows())
        os.ftruncate(self._rows, length)
        if self._crashed:
            os.fsync(self._rows)
            write_boot_id(partial_files(self.path)[0], read_boot_id())

    def add(self, row: Row, data: bytes | None) -> None:
        """Append one image and its row, or only the row of an image that failed."""
        if data is not None:
            self._sink.append(row, data)
        self._count(row)
        self._pending_rows += json.dumps(row).encode() + b"\n"

    def _count(self, row: Row) -> None:
        self._totals.add(row)
        self._labels.add(row["label"])

    def flush(self) -> None:
        """Hand all additions to the operating system: records first, then the rows that refer to them."""
        self._sink.flush()
        with name_in_errors(partial_files(self.path)[2]):
            while self._pending_rows:
                del self._pending_rows[: os.write(self._rows, self._pending_rows)]

    def sync(self) -> None:
        """Wait until all additions are on the disk; nothing is added afterwards."""
        self.flush()
        self._sink.sync()
        with name_in_errors(partial_files(self.path)[2]):
            os.fsync(self._rows)

    @property
    def time_stamps(self) -> bool:
        """True if samples bear the time stamps of their sources."""
        return OUTPUT_FORMATS[self.plan.format].time_stamps

    @property
    def failures(self) -> int:
        """The number of failed items so far."""
        return self._totals.failures

    def finish(self, ignored: int) -> Manifest:
        """Complete the output and give all files their names, the output last, so that it always has its manifest.

        ``ignored`` is the count of ``Manifest.ignored``.
        """
        self.sync()
        for label in sorted(self._labels - self._totals.labels):
            log.warning("%s: none of the images of the class %s could be encoded", self.path, self.plan.classes[label])
        size = self._sink.complete()
        plan_file, partial, items = partial_files(self.path)
        if not self._sink.is_at(partial) or not items.exists() or not os.path.samestat(os.fstat(self._rows), items.stat()):
            raise EncodeError(f"{partial} is not the file that this encode wrote: {self.path.parent} was replaced meanwhile.")
        manifest = self._manifest(ignored, size)
        self._sink.close()  # Windows renames no open file
        self._close_rows()
        self._retire()
        items.replace(items_path(self.path))
        write_json(manifest_path(self.path), manifest.model_dump())
        partial.replace(self.path)
        plan_file.unlink()
        sync_folder(self.path.parent)
        remove(replaced_place(self.path))
        OUTPUT_FORMATS[self.plan.format].published(self.path.parent)
        return manifest

    def _retire(self) -> None:
        """Take the name from what this output replaces; a folder, which takes long to remove, is put aside."""
        refuse_foreign(self.path)
        if self.path.is_dir():
            remove(replaced_place(self.path))
            self.path.replace(replaced_place(self.path))
        else:
            self.path.unlink(missing_ok=True)

    def _close_rows(self) -> None:
        if self._rows >= 0:
            os.close(self._rows)
            self._rows = -1

    def _manifest(self, ignored: int, size: int) -> Manifest:
        return Manifest(
            **self.plan.model_dump(),
            ignored=ignored,
            index_sha256=self._sink.index_sha256(),
            beton_bytes=size,
            **self._totals.as_dict(),
        )

    def parse(self, line: bytes) -> Row:
        """Parse a line of this output's items; raise UsageError if it is no row."""
        try:
            return parse_row(line)
        except ValueError as error:
            raise UsageError(
                f"{partial_files(self.path)[2]}, of an interrupted encode, cannot be read ({describe(error)}). Start over with "
                "--force."
            ) from None

    @contextmanager
    def _stored_check(self, partial: Path) -> Iterator[Callable[[bytes], bool]]:
        """Yield a function that returns, for one row after the other, whether its sample is on the disk.

        After a crash, the row must be whole, and the sample have its checksum.
        """
        kind = OUTPUT_FORMATS[self.plan.format]
        if not self._crashed:
            kept = kind.kept(partial, self.plan) if kind.kept else None
            yield lambda line: kept is None or kept(self.parse(line))
            return
        with closing(kind.reader(partial, self.plan, from_disk=True)) as reader:

            def is_stored(line: bytes) -> bool:
                try:
                    row = parse_row(line)
                    return bool(row["status"] == "failed" or zlib.crc32(reader.read(row)) == row["crc32"])
                except (ValueError, OSError):
                    return False

            yield is_stored
