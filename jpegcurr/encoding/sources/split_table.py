"""Tables of splits, ``path,label,split``: written by ``jpegcurr split``, read as every table of labels is.

For folders of images the table is one of labels (``csv_labels.open_table``). Data sets with labels of their own, such as
archives, are divided by it: their keys are its paths.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.sources.base import SPLITS, FolderStore, Source
from jpegcurr.encoding.sources.class_labels import resolve_labels
from jpegcurr.encoding.sources.table_paths import key_below
from jpegcurr.encoding.sources.table_rows import read_splits
from jpegcurr.encoding.sources.union import UnionStore
from jpegcurr.encoding.splits import UNDRAWN, take_splits
from jpegcurr.errors import SourceError
from jpegcurr.files import csv_writer

log = logging.getLogger("jpegcurr")

HEADER = ("path", "label", "split")


def write_split_table(path: Path, source: Source, splits: NDArray[np.int8]) -> None:
    """Write a row for every image of ``source``, sorted by key; ``splits`` are positions in ``SPLITS``, int8 [n].

    The file appears whole or not at all, and replaces another. Names that a spreadsheet would run are escaped
    (``files.escape_cell``).
    """
    refuse_unwritable_names(source)
    if source.shares is not None:
        log.warning("%s keeps no shares of classes: encode %s with them by --val in place of it", path, source.where)
    with csv_writer(path) as table:
        table.writerow(HEADER)
        for item, split in zip(source.items, splits.tolist(), strict=True):
            table.writerow([item.key, source.classes[item.label], SPLITS[split]])


def refuse_unwritable_names(source: Source) -> None:
    """Raise SourceError for a class whose name a table does not keep: spaces around it, or bytes that are not UTF-8."""
    for name in source.classes:
        if name != name.strip() or not name:
            raise SourceError(f"The class {name!r} begins or ends with a space, which tables do not keep. Rename it.")
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(f"The class {name!r} is not UTF-8. Rename it.") from None


def refuse_moved_keys(source: Source) -> None:
    """Raise SourceError if keys do not begin at the folders that were given, as those of ``d/train/<class>/*`` for ``d``.

    The paths of the table would then not be those that encode looks for.
    """
    roots = [source.root, *source.more_roots]
    stores = source.store.stores.values() if isinstance(source.store, UnionStore) else [source.store]
    for root, store in zip(roots, stores, strict=True):
        if isinstance(store, FolderStore) and store.root != Path(root):
            raise SourceError(f"The images of {root} lie in {store.root}. Give that folder.")


def read_kept(table: Path, source: Source) -> tuple[NDArray[np.int8], int, int]:
    """Return the split in which ``table`` keeps each image of ``source``, int8 [n], ``UNDRAWN`` for new ones.

    Also return how many rows name no image of the source, and how many images have another class there.

    Raises:
        SourceError: the table cannot be read, has no column ``split``, lists an image twice, or names no image of the source.
    """
    return _match(table, source, lambda _key, _now, _then: None)


def divide(source: Source, table: Path) -> tuple[Source, ...]:
    """Return the splits into which ``table`` divides a data set with labels of its own; images that are not in it are left out.

    Raises:
        SourceError: as ``read_kept``; or the table gives an image another class, or names one that the data set lacks.
    """

    def refuse(key: str, now: str, then: str) -> None:
        raise SourceError(
            f"{table} says that {key} is of the class {then!r}, and {source.where} that it is of {now!r}. Draw the splits "
            f"again: jpegcurr split ... --keep {table}."
        )

    splits, strangers, _ = _match(table, source, refuse)
    if strangers:
        raise SourceError(
            f"{table} names {strangers:,} images that are not in {source.where}. Give the data set that it was drawn from, or "
            f"draw again: jpegcurr split ... --keep {table}."
        )
    parts = {part.split: part for part in take_splits(source, splits)}
    listings = {split: part.items for split, part in parts.items()}
    classes, listings = resolve_labels(
        str(table), listings, source.classes, lambda used: tuple(sorted(set(used), key=source.classes.index))
    )
    counts = [int((splits == UNDRAWN).sum()), *[0] * len(parts)]  # images of no split are counted once
    return tuple(
        replace(
            part,
            classes=classes,
            items=listings[split],
            labels=str(table),
            ignored=part.ignored + left_out,
            unlabelled=part.unlabelled + left_out,
        )
        for (split, part), left_out in zip(parts.items(), counts, strict=False)
    )


def _match(table: Path, source: Source, differs: Callable[[str, str, str], None]) -> tuple[NDArray[np.int8], int, int]:
    positions = {source.items.key_bytes(index): index for index in range(len(source.items))}
    splits = np.full(len(positions), UNDRAWN, np.int8)
    strangers = relabelled = 0

    def find(path: str) -> int | None:
        key = key_below((), path)
        return None if key is None else positions.get(os.fsencode(key))

    for line, path, label, split, _ in read_splits(table, lambda path: find(path) is not None):
        position = find(path)
        if position is None:
            strangers += 1
            continue
        if splits[position] != UNDRAWN:
            raise SourceError(f"{table}, line {line}: {path} is listed twice. Name every image once.")
        name = source.classes[int(source.items.labels[position])]
        if name != label:
            relabelled += 1
            differs(path, name, label)
        splits[position] = split
    if (splits == UNDRAWN).all():
        raise SourceError(
            f"{table} names no image of {source.where}: its {strangers:,} paths start elsewhere. Give the data set that it was "
            "drawn from, each folder as it was given then."
        )
    return splits, strangers, relabelled
