"""An output as Parquet shards, ``train-q50.parquet/train-q50-00000.parquet``, as ``datasets``, pandas and Spark read a folder.

The columns are Hugging Face's: ``image``, a struct of the JPEG's ``bytes`` and its ``path``, which is the image's key; and
``label``. The schema's metadata declare them as ``Image`` and ``ClassLabel`` with the classes' names. JPEGs do not compress, so
columns are plain. The bytes depend on the version of pyarrow, which is recorded in the manifest.

A Parquet file cannot be appended to, so an interrupted encode keeps whole shards: ``--resume`` encodes the images of the last
one again.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from jpegcurr.descriptors import drop_cache
from jpegcurr.encoding.beton.manifest import Plan
from jpegcurr.encoding.outputs.base import Row, name_in_errors
from jpegcurr.encoding.outputs.paths import output_stem
from jpegcurr.encoding.outputs.shards import SHARD_BYTES, ShardFolder, Sharding, remove_other_files
from jpegcurr.errors import UsageError
from jpegcurr.system import install_command

_GROUP_BYTES = 1 << 24  # of JPEGs in a row group, which is what a reader reads at a time
_UNFINISHED, _AGAIN = ".unfinished", ".again"
_BATCH = 64  # rows


def refuse_without_pyarrow() -> None:
    """Raise UsageError if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        command = install_command("pyarrow")
        raise UsageError(f"Parquet needs the package pyarrow, which datasets brings too. Run {command}.") from None


class ParquetSink:
    """A folder of whole shards, and one that is being written; see ``Sink``."""

    def __init__(self, place: Path, plan: Plan) -> None:
        self._plan = plan
        self._folder = ShardFolder(place)
        self._sharding = Sharding(plan.shard_bytes or SHARD_BYTES)
        self._shard: _ShardWriter | None = None

    def restart(self, rows: Iterable[Row]) -> None:
        """Keep whole shards, and write the samples of ``rows`` in the last one again; see ``Sink``."""
        last: list[Row] = []
        for row in rows:
            if self._sharding.place(row["bytes"]):
                last = []
            last.append(row)
        kept = {self._path(number).name for number in range(self._sharding.number + 1)}
        remove_other_files(self._folder.place, kept)
        if not last:
            return
        path = self._path(self._sharding.number)
        again = path.with_name(path.name + _AGAIN)
        path.replace(again)
        self._shard = _ShardWriter(path, self._plan)
        images = _read_images(again)
        for row in last:
            self._shard.append(row, next(images))
        images.close()
        again.unlink()

    def append(self, row: Row, data: bytes) -> None:
        """Add one row; see ``Sink``."""
        if self._sharding.place(row["bytes"]):
            self._end_shard()
        if self._shard is None:
            self._shard = _ShardWriter(self._path(self._sharding.number), self._plan)
        self._shard.append(row, data)

    def flush(self) -> None:
        """Do nothing: only whole shards outlive the process."""

    def sync(self) -> None:
        """End the last shard and wait for the disk; see ``Sink``."""
        self._end_shard()
        self._folder.wait()
        self._folder.sync_names()

    def sync_failed(self) -> bool:
        """Return whether a sync in the background has failed; see ``Sink``."""
        return self._folder.failed()

    def complete(self) -> int:
        """Wait until all shards are on the disk; see ``Sink``."""
        self.sync()
        return self._folder.size()

    def index_sha256(self) -> None:
        """Return None: the footers are pyarrow's."""

    def is_at(self, place: Path) -> bool:
        """Return whether ``place`` is still the folder that is being written."""
        return self._folder.is_at(place)

    def close(self) -> None:
        """Close the shard and the folder."""
        if self._shard is not None:
            self._shard.discard()
            self._shard = None
        self._folder.close()

    def _path(self, number: int) -> Path:
        return shard_path(self._folder.place, self._plan, number)

    def _end_shard(self) -> None:
        if self._shard is not None:
            self._shard.finish()
            shard, self._shard = self._shard, None
            self._folder.run_behind(shard.publish)


class _ShardWriter:
    """One shard, which gets its name when it is whole and on the disk."""

    def __init__(self, path: Path, plan: Plan) -> None:
        from pyarrow.parquet import ParquetWriter

        self._path, self._partial = path, path.with_name(path.name + _UNFINISHED)
        self._schema = _schema(plan)
        self._file: BinaryIO = self._partial.open("wb")
        with name_in_errors(self._partial):
            self._writer = ParquetWriter(
                self._file, self._schema, compression="none", use_dictionary=False, write_statistics=["label"]
            )
        self._rows: list[tuple[bytes, str, int]] = []
        self._bytes = 0

    def append(self, row: Row, data: bytes) -> None:
        """Add one row; whole row groups go to the file."""
        self._rows.append((data, _path_text(row["key"]), row["label"]))
        self._bytes += len(data)
        if self._bytes >= _GROUP_BYTES:
            self._write_group()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        if self._rows:
            self._write_group()
        with name_in_errors(self._partial):
            self._writer.close()
            self._file.flush()

    def publish(self) -> None:
        """Wait for the disk and give the shard its name."""
        with name_in_errors(self._partial), self._file:
            os.fsync(self._file.fileno())
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Close the unfinished file, which will not be read."""
        with suppress(OSError):
            self._writer.close()  # or pyarrow would write a footer whenever the object is collected
        with suppress(OSError):
            self._file.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        data, paths, labels = zip(*self._rows, strict=True)
        image = self._schema.field("image").type
        images = pa.StructArray.from_arrays([pa.array(data, pa.binary()), pa.array(paths, pa.string())], fields=list(image))
        with name_in_errors(self._partial):
            self._writer.write_table(pa.Table.from_arrays([images, pa.array(labels, pa.int64())], schema=self._schema))
        self._rows, self._bytes = [], 0


class ParquetReader:
    """The JPEGs in the shards of an output; see ``Reader``."""

    def __init__(self, place: Path, plan: Plan, *, from_disk: bool = False) -> None:
        self._place, self._plan, self._from_disk = place, plan, from_disk
        self._sharding = Sharding(plan.shard_bytes or SHARD_BYTES)
        self._images: Iterator[bytes] = iter(())

    def read(self, row: Row) -> bytes:
        """Return the next image's bytes; none if its shard is missing or shorter."""
        if self._sharding.place(row["bytes"]):
            shard = shard_path(self._place, self._plan, self._sharding.number)
            self._images = _read_images(shard, from_disk=self._from_disk)
        return next(self._images, b"")

    def close(self) -> None:
        """Release the open shard."""
        self._images = iter(())


def shard_path(place: Path, plan: Plan, number: int) -> Path:
    """Return the path of a shard."""
    return place / f"{output_stem(plan.split, plan.spec)}-{number:05}.parquet"


def whole_shards(place: Path, plan: Plan) -> Callable[[Row], bool]:
    """Return a function that returns, for the rows of stored images in order, whether their shard is whole."""
    sharding, whole = Sharding(plan.shard_bytes or SHARD_BYTES), False

    def kept(row: Row) -> bool:
        nonlocal whole
        if row["status"] != "failed" and sharding.place(row["bytes"]):
            whole = shard_path(place, plan, sharding.number).is_file()
        return whole

    return kept


def _read_images(path: Path, *, from_disk: bool = False) -> Any:
    """Yield the images' bytes of one shard in order; nothing behind a place where it is damaged, or if it is missing."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    if not path.is_file():
        return
    with path.open("rb") as file:
        if from_disk:
            drop_cache(file.fileno())
        try:
            for batch in ParquetFile(file).iter_batches(_BATCH, columns=["image.bytes"]):
                yield from (image.as_py() for image in batch.column(0).field("bytes"))
        except (ArrowException, KeyError) as error:
            raise OSError(None, f"cannot be read ({str(error).splitlines()[0]})", str(path)) from None


def _schema(plan: Plan) -> Any:
    """Return the columns, with the metadata from which ``datasets`` restores their features."""
    import pyarrow as pa

    label = {"names": list(plan.classes), "_type": "ClassLabel"}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    origin = plan.model_dump(include={"split", "source", "quality", "subsampling", "max_side", "short_side", "filter"})
    metadata = {"huggingface": json.dumps(features), "jpegcurr": json.dumps(origin)}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema([("image", image), ("label", pa.int64())], metadata=metadata)


def _path_text(key: str) -> str:
    """Return a key as UTF-8 text: the bytes of a name that is none are escaped (``\\xe9``)."""
    return os.fsencode(key).decode("utf-8", "backslashreplace")
