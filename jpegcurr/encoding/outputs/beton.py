"""An output as a ``.beton``: the sink and the reader around ``BetonWriter``'s file."""

import os
from collections.abc import Iterable
from pathlib import Path

from jpegcurr.descriptors import drop_cache, open_to_read, read_at
from jpegcurr.encoding.beton.format import BetonIndex
from jpegcurr.encoding.beton.manifest import Plan
from jpegcurr.encoding.beton.writer import BetonWriter
from jpegcurr.encoding.outputs.base import Row


def _place(index: BetonIndex, row: Row) -> int:
    return index.place(row["bytes"], row["width"], row["height"], row["label"])


class BetonSink:
    """One file, which gets its header last; see ``Sink``."""

    def __init__(self, place: Path, plan: Plan) -> None:
        self._place, self._plan = place, plan
        self._writer = BetonWriter(place, plan.items, plan.page_size)
        self.flush, self.sync, self.sync_failed = self._writer.flush, self._writer.sync, self._writer.sync_failed
        self.is_at, self.close = self._writer.is_at, self._writer.close

    def restart(self, rows: Iterable[Row]) -> None:
        """Lay out the records again; see ``Sink``."""
        index = BetonIndex(self._plan.items, self._plan.page_size)
        for row in rows:
            _place(index, row)
        self._writer.restart(index)
        self._writer.sync()

    def append(self, row: Row, data: bytes) -> None:
        """Add one sample; see ``Sink``."""
        self._writer.append(data, row["width"], row["height"], row["label"])

    def complete(self) -> int:
        """Write the table, the metadata and the header; see ``Sink``."""
        self._writer.finish()
        return self._place.stat().st_size

    def index_sha256(self) -> str:
        """Return the hash of the header, the metadata and the table."""
        return self._writer.index.sha256()


class BetonReader:
    """The records of a beton, with a header or without, where its rows say that they lie; see ``Reader``."""

    def __init__(self, place: Path, plan: Plan, *, from_disk: bool = False) -> None:
        self._index = BetonIndex(plan.items, plan.page_size)
        self._file = open_to_read(place)
        if from_disk:
            drop_cache(self._file)

    def read(self, row: Row) -> bytes:
        """Return the bytes at the record's place."""
        return read_at(self._file, row["bytes"], _place(self._index, row))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
