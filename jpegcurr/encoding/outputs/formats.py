"""The table of the formats: who writes and reads each, and what their plans have to know."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from jpegcurr.encoding.beton.manifest import Plan
from jpegcurr.encoding.outputs.base import Reader, Row, Sink
from jpegcurr.encoding.outputs.beton import BetonReader, BetonSink
from jpegcurr.encoding.outputs.folder import FolderReader, FolderSink
from jpegcurr.encoding.outputs.parquet import ParquetReader, ParquetSink, refuse_without_pyarrow, whole_shards
from jpegcurr.encoding.outputs.paths import Format
from jpegcurr.encoding.outputs.webdataset import WebDatasetReader, WebDatasetSink, refuse_other_index, write_index


class OpenReader(Protocol):
    """A constructor of readers; with ``from_disk`` they bypass the system's copies of failed writes."""

    def __call__(self, place: Path, plan: Plan, *, from_disk: bool = False) -> Reader:
        """Open the output at ``place``, finished or not."""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """One format.

    ``is_folder`` says that an output is a folder and not a file, ``sharded`` that it is divided by ``Plan.shard_bytes``;
    ``libraries`` decide its bytes beside those of the codec; ``overhead`` is the bytes that a sample takes beside its JPEG;
    ``time_stamps`` says that samples are files, which bear those of their sources.
    ``kept(place, plan)`` returns a function that tells, for one row after the other, whether a stopped process has left the
    row's sample; without it, all are left. ``check`` raises UsageError if outputs cannot be written into its argument, a
    folder; ``published`` is called with it when an output has got its name.
    """

    sink: Callable[[Path, Plan], Sink]
    reader: OpenReader
    overhead: int
    is_folder: bool = True
    sharded: bool = False
    time_stamps: bool = False
    libraries: tuple[str, ...] = ()
    kept: Callable[[Path, Plan], Callable[[Row], bool]] | None = None
    check: Callable[[Path], None] = lambda _folder: None
    published: Callable[[Path], None] = lambda _folder: None


OUTPUT_FORMATS: dict[Format, OutputFormat] = {
    "beton": OutputFormat(BetonSink, BetonReader, 48, is_folder=False),
    "folder": OutputFormat(FolderSink, FolderReader, 2048, time_stamps=True),  # half of a block of the file system
    "webdataset": OutputFormat(
        WebDatasetSink, WebDatasetReader, 2816, sharded=True, check=refuse_other_index, published=write_index
    ),
    "parquet": OutputFormat(
        ParquetSink,
        ParquetReader,
        64,
        sharded=True,
        libraries=("pyarrow",),
        kept=whole_shards,
        check=lambda _folder: refuse_without_pyarrow(),
    ),
}
