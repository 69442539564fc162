"""The images that a preview is of: a data set, or files that are named one by one, in an order that a seed decides."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jpegcurr.encoding.sources.base import FolderStore, Item, Source, Store, order_by_hash
from jpegcurr.encoding.sources.open import LAYOUTS, open_sources
from jpegcurr.encoding.sources.unlabelled import open_unlabelled
from jpegcurr.errors import SourceError, UsageError
from jpegcurr.files import short_names
from jpegcurr.text import join_words

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of a set, and the ``name`` that it is shown by: its key, or as much of its path as is needed."""

    name: str
    store: Store
    item: Item

    @property
    def place(self) -> str:
        """The place of the image, in words that help a person to find it."""
        return self.store.locate(self.item)


@dataclass(frozen=True, slots=True)
class PictureSet:
    """The images of all splits of a data set, ``where`` in words; or files in the order in which they were ``named``."""

    where: str
    sources: tuple[Source, ...]
    named: tuple[Picture, ...] = ()

    def __len__(self) -> int:
        return len(self.named) or sum(len(source.items) for source in self.sources)

    @property
    def source_bytes(self) -> int | None:
        """The bytes of all files together; None if the size of one is unknown."""
        if self.named:
            return sum(max(0, picture.item.size) for picture in self.named)
        sizes = [source.items.sizes for source in self.sources]
        return int(sum(column.sum() for column in sizes)) if all((column >= 0).all() for column in sizes) else None

    def first(self, count: int, seed: int) -> list[Picture]:
        """Return the first ``count`` images of the order by ``seed``, that of ``Listing.shuffled``; of named files all."""
        if self.named:
            return list(self.named)
        divided = len(self.sources) > 1
        positions = order_by_hash(self._names(), seed) if divided else self.sources[0].items.shuffled(seed)
        ends = np.cumsum([len(source.items) for source in self.sources])
        pictures = []
        for position in positions[:count].tolist():
            number = int(np.searchsorted(ends, position, side="right"))
            source = self.sources[number]
            item = source.items[position - int(ends[number]) + len(source.items)]
            pictures.append(Picture(f"{source.split}/{item.key}" if divided else item.key, source.store, item))
        return pictures

    def _names(self) -> Iterator[bytes]:
        for source in self.sources:
            split = os.fsencode(source.split)
            for index in range(len(source.items)):
                yield split + b"/" + source.items.key_bytes(index)


def open_pictures(paths: Sequence[str | Path], splits: Sequence[str] = ()) -> PictureSet:
    """Open image files that are named one by one, or a data set in any form that ``encode`` takes.

    Labels do not matter here. A plain folder that encode would refuse, as it has no class folders or unclear splits, is
    therefore one set of all images in it, which is said.

    Raises:
        UsageError: there are files and data sets, or a beton, or a split is given for files.
        SourceError: nothing is there, or a data set cannot be read.
    """
    given = [str(path) for path in paths]
    files = [path for path in dict.fromkeys(given) if _is_image_file(path)]
    if not files:
        where = ", ".join([join_words(given), *splits])
        return PictureSet(where, _open_data_set(given, splits))
    if others := [path for path in given if path not in files]:
        raise UsageError(f"{files[0]} is a file and {others[0]} is not. Name image files alone, or a data set alone.")
    if beton := next((path for path in files if path.endswith(".beton")), None):
        raise UsageError(f"{beton} holds JPEGs that are encoded already. Give the images that it was encoded from.")
    if splits:
        raise UsageError(f"--split {splits[0]} is for a data set, and {files[0]} is a file. Omit it.")
    names, store = short_names(map(Path, files)), FolderStore(Path())
    named = tuple(Picture(names[Path(file)], store, Item(file, 0, Path(file).stat().st_size)) for file in files)
    return PictureSet(files[0] if len(files) == 1 else f"{len(files):,} files", (), named)


def _is_image_file(path: str) -> bool:
    """Return whether ``path`` is a file that is no data set by itself, as an archive or a table of images is."""
    return os.path.isfile(path) and not any(layout.matches(path) for layout in LAYOUTS)  # noqa: PTH113  # hf:NAME is no Path


def _open_data_set(given: Sequence[str], splits: Sequence[str]) -> tuple[Source, ...]:
    try:
        return open_sources(given, splits=splits)
    except SourceError as error:
        source = open_unlabelled(given[0]) if len(given) == 1 and not splits else None
        if source is None:
            raise
        reason = str(error).split(". ", maxsplit=1)[0]
        log.warning("%s. A preview needs no classes, so its %s images are one set", reason, f"{len(source.items):,}")
        return (source,)
