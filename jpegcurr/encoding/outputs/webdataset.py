"""An output as WebDataset shards, ``train-q50.wds/train-q50-000000.tar``, as webdataset and timm's ``wds/`` read them.

A sample is three files with one key (``sample_names.py``): ``.jpg``, ``.cls`` with the label as a number, and ``.json`` with
the label, the class's name, the image's own key and its size in pixels. Their headers have the time 0 and nothing of this
machine, so that the same images give the same shards. ``_info.json`` lists the shards and their numbers of samples, which timm
needs for training; another one beside the outputs does so for all of them (``write_index``).
"""

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jpegcurr.descriptors import drop_cache, open_to_read, open_to_write, read_at
from jpegcurr.encoding.beton.manifest import Plan
from jpegcurr.encoding.outputs.base import Row, name_in_errors, write_fully
from jpegcurr.encoding.outputs.paths import output_stem
from jpegcurr.encoding.outputs.sample_names import SampleNames
from jpegcurr.encoding.outputs.shards import SHARD_BYTES, ShardFolder, Sharding, remove_other_files
from jpegcurr.encoding.sources.tar_index import BLOCK
from jpegcurr.errors import UsageError
from jpegcurr.files import write_json
from jpegcurr.system import WINDOWS

INFO = "_info.json"  # the name that timm knows
_END = bytes(2 * BLOCK)
_LONGEST = 100  # bytes of a name that fits into a header
_OURS = "jpegcurr"  # the key that marks an index as one that may be rewritten


class WebDatasetSink:
    """A folder of shards, the last of which is appended to; see ``Sink``."""

    def __init__(self, place: Path, plan: Plan) -> None:
        self._layout = _Layout(place, plan)
        self._folder = ShardFolder(place)
        self._plan = plan
        self._file: int | None = None
        self._pending: list[bytes] = []

    def restart(self, rows: Iterable[Row]) -> None:
        """Cut the shards behind the samples of ``rows``; see ``Sink``."""
        layout = self._layout
        kept = set[str]()
        for row in rows:
            before, end = layout.path, layout.end
            if layout.place(row) and kept:
                _seal(before, end)
            kept.add(layout.path.name)
        remove_other_files(self._folder.place, kept)
        if kept:
            self._open(layout.path, layout.end)

    def append(self, row: Row, data: bytes) -> None:
        """Add the three files of one sample; see ``Sink``."""
        before = self._layout.path
        if self._layout.place(row):
            self._end_shard(before)
            self._open(self._layout.path, 0)
        for name, content in self._layout.files(row, data):
            padding = bytes(-len(content) % BLOCK)
            self._pending += (_header(name, len(content)), content, padding)

    def flush(self) -> None:
        """Hand the samples to the operating system; see ``Sink``."""
        if self._pending and self._file is not None:
            with name_in_errors(self._layout.path):
                write_fully(self._file, b"".join(self._pending))
            self._pending = []

    def sync(self) -> None:
        """End the last shard and wait for the disk; see ``Sink``."""
        self._end_shard(self._layout.path)
        self._folder.wait()
        self._folder.sync_names()

    def sync_failed(self) -> bool:
        """Return whether a sync in the background has failed; see ``Sink``."""
        return self._folder.failed()

    def complete(self) -> int:
        """Write ``_info.json``; see ``Sink``."""
        self.sync()
        write_json(self._folder.place / INFO, self._info())
        return self._folder.size()

    def index_sha256(self) -> None:
        """Return None: the headers of a tar lie between its samples."""

    def is_at(self, place: Path) -> bool:
        """Return whether ``place`` is still the folder that is being written."""
        return self._folder.is_at(place)

    def close(self) -> None:
        """Close the shard and the folder."""
        self._folder.close()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, path: Path, end: int) -> None:
        self._file = open_to_write(path)
        with name_in_errors(path):
            os.ftruncate(self._file, end)
            os.lseek(self._file, end, os.SEEK_SET)

    def _end_shard(self, path: Path) -> None:
        """Write the end mark of the open shard, if there is one, and sync it in the background."""
        if self._file is None:
            return
        self.flush()
        file, self._file = self._file, None
        with name_in_errors(path):
            write_fully(file, _END)

        def finish() -> None:
            try:
                with name_in_errors(path):
                    os.fsync(file)
            finally:
                os.close(file)

        self._folder.run_behind(finish)

    def _info(self) -> dict[str, object]:
        """Return what timm reads: ``num_samples``, ``filenames`` and ``shard_lengths`` of a split."""
        lengths = self._layout.sharding.lengths
        name = output_stem(self._plan.split, self._plan.spec)
        split = {
            "name": name,
            "num_samples": sum(lengths),
            "filenames": [self._layout.shard(number).name for number in range(len(lengths))],
            "shard_lengths": lengths,
        }
        return {"splits": {name: split}, "class_names": list(self._plan.classes), _OURS: "written by jpegcurr encode"}


class WebDatasetReader:
    """The JPEGs in the shards of an output, where its rows say that they lie; see ``Reader``."""

    def __init__(self, place: Path, plan: Plan, *, from_disk: bool = False) -> None:
        self._layout, self._from_disk = _Layout(place, plan), from_disk
        self._file: int | None = None

    def read(self, row: Row) -> bytes:
        """Return the bytes at the sample's place; none if its shard is missing."""
        begins = self._layout.place(row)
        if begins:
            self._open(self._layout.path)
        return b"" if self._file is None else read_at(self._file, row["bytes"], self._layout.start + self._layout.data_at)

    def close(self) -> None:
        """Close the open shard."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, path: Path) -> None:
        self.close()
        if path.is_file():
            self._file = open_to_read(path)
            if self._from_disk:
                drop_cache(self._file)


class _Layout:
    """The places of samples in shards, which follow from the rows alone.

    The sample placed last lies in the shard ``path`` from byte ``start`` to ``end``, its JPEG from ``start + data_at``.
    """

    def __init__(self, place: Path, plan: Plan) -> None:
        self._place, self._classes = place, plan.classes
        self._stem = output_stem(plan.split, plan.spec)
        self._names = SampleNames(plan.classes)
        self.sharding = Sharding(plan.shard_bytes or SHARD_BYTES)
        self.path, self.start, self.end, self.data_at = place, 0, 0, 0

    def shard(self, number: int) -> Path:
        """Return the path of a shard."""
        return self._place / f"{self._stem}-{number:06}.tar"

    def place(self, row: Row) -> bool:
        """Place the next sample; return whether it begins a shard."""
        begins = self.sharding.place(row["bytes"])
        self.start = 0 if begins else self.end
        if begins:
            self.path = self.shard(self.sharding.number)
        sizes = [(_header_size(name), len(content)) for name, content in self.files(row, b"")]
        self.data_at = sizes[0][0]
        padded = (header + content + -content % BLOCK for header, content in sizes)
        self.end = self.start + sum(padded) + row["bytes"] + -row["bytes"] % BLOCK
        return begins

    def files(self, row: Row, data: bytes) -> list[tuple[str, bytes]]:
        """Return the files of a sample, in their order: names and contents."""
        key, label = row["key"], row["label"]
        name = self._names.shard_key(key, label)
        facts = {"label": label, "class_name": self._classes[label], "key": key}
        facts |= {"width": row["width"], "height": row["height"]}
        return [(f"{name}.jpg", data), (f"{name}.cls", b"%d" % label), (f"{name}.json", json.dumps(facts).encode())]


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _header_size(name: str) -> int:
    """Return the length of a header: GNU's format has a block of its own and the whole name before it, if that is long."""
    length = len(os.fsencode(name))
    return BLOCK if length <= _LONGEST else 2 * BLOCK + length + 1 + -(length + 1) % BLOCK


def _seal(shard: Path, end: int) -> None:
    """End a whole shard at byte ``end``: an interrupted encode may not have come to its end mark."""
    with shard.open("r+b") as file:
        if file.seek(0, os.SEEK_END) != end + len(_END):
            file.truncate(end)
            file.seek(end)
            file.write(_END)
        file.flush()
        os.fsync(file.fileno())


def refuse_other_index(folder: Path) -> None:
    """Raise UsageError if the folder has an ``_info.json`` that is not jpegcurr's, since ``write_index`` would replace it."""
    index = folder / INFO
    if index.exists() and not _read_info(index):
        raise UsageError(f"{index} is not of jpegcurr, which lists its shards there. Choose another place with -o.")


def write_index(folder: Path) -> None:
    """Write ``_info.json`` for all WebDataset outputs in a folder, so that timm finds their splits below one ``--data-dir``."""
    with _turn(folder):
        splits: dict[str, object] = {}
        for path in sorted(folder.glob(f"*.wds/{INFO}")):
            for name, split in _read_info(path).items():
                splits[name] = split | {"filenames": [f"{path.parent.name}/{file}" for file in split["filenames"]]}
        write_json(folder / INFO, {"splits": splits, _OURS: "written by jpegcurr encode"})


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Wait for other encodes that write the index of the folder in this moment, where its file system has locks."""
    if WINDOWS:  # which opens no folders
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_info(path: Path) -> dict[str, dict[str, list[str]]]:
    """Return the splits of an index that jpegcurr wrote; none of any other file."""
    try:
        content = json.loads(path.read_bytes())
        return dict(content["splits"]) if _OURS in content else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
