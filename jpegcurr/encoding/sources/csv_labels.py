"""A folder of images and a table of their labels, such as the ``labels.csv`` of Kaggle's dog breeds."""

import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from stat import S_ISDIR

import numpy as np

from jpegcurr.encoding.sources.base import MISSING, SPLIT_NAMES, SPLITS, FolderStore, ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import ClassNumbers, in_order, is_integer, settle
from jpegcurr.encoding.sources.image_folder import SUFFIXES, is_image_name
from jpegcurr.errors import SourceError

_IDS = ("image_name", "image_id", "imageid", "img_id", "id", "name")
# Header names, in any case, the first of a list that is there: a table with both an id and a path means the path.
PATHS = ("path", "file_path", "filepath", "image_path", "file", "filename", "file_name", "image", "img", *_IDS)
LABELS = ("label", "class", "category", "target", "breed", "species", "class_name", "label_name", "class_id", "label_id")
SPLIT = "split"
_WHOLE = 0  # the number of the split when the table has none

_DELIMITERS = {".tsv": "\t", ".tab": "\t"}
_ENDINGS = (".jpg", ".jpeg", ".JPEG", ".JPG", *sorted(SUFFIXES - {".jpg", ".jpeg"}))
_ENDINGS += tuple(ending.upper() for ending in _ENDINGS[4:])


@dataclass(frozen=True, slots=True)
class _Columns:
    """Where the path, the label and the split stand in a row of ``count`` cells, and whether the first row says so."""

    count: int
    path: int = 0
    label: int = 1
    split: int | None = None
    header: bool = False


_Row = tuple[int, list[str]]  # the line on which it ends, and its cells


def open_table(root: Path, labels: Path) -> tuple[Source, ...]:
    """Read the images that the table ``labels`` names, as one split named after the folder ``root``.

    The table is text in UTF-8 of two columns, the path and the label, apart by tabs (as they are in a ``.tsv``), commas or
    semicolons. Its first row is a header if its path is no file and it either has known names for both columns (``PATHS``,
    ``LABELS``), or might be one (the path does not end like an image's, the label is no number) and the second row's path
    is a file. Known names also tell the columns apart where they stand otherwise or are more than two; a column ``split``
    (train, val, test) makes as many splits, and ``val`` and ``test`` then take the classes of ``train``.

    Paths start from ``root``. One without an image's ending is tried as it is and with each of them. An image that is not
    there is an item all the same, with the size ``MISSING``. Labels are positions among the sorted class names, sorted as
    numbers if all are whole numbers.

    Raises:
        SourceError: the table cannot be read or understood, names an image twice or outside ``root``, or none that is there.
    """
    rows = _rows(labels)
    head = list(islice(rows, 2))
    finder = _Finder(root, labels)
    columns = _columns(labels, head, finder)
    builder, numbers = ListingBuilder(), ClassNumbers()
    found, first = 0, ""
    for line, cells in chain(head[columns.header :], rows):
        path, label, split = _parse(f"{labels}, line {line}", cells, columns)
        key, size = finder.find(path, line)
        builder.add(key, numbers.number(label) * len(SPLITS) + split, size)
        found += size != MISSING
        first = first or f"line {line} names {path!r}"
    if not found:
        raise SourceError(_nothing_there(root, labels, first))
    return _sources(root, labels, builder, numbers.names, columns.split is None)


def _nothing_there(root: Path, labels: Path, first: str) -> str:
    if not first:
        return f"{labels} names no images. Give a row to each: its path, and its label."
    return (
        f"{labels}, {first}, and it is not in {root}, with an image's ending or without; nor is any other. "
        "Give the folder from which the paths start."
    )


def _sources(root: Path, labels: Path, builder: ListingBuilder, names: tuple[str, ...], whole: bool) -> tuple[Source, ...]:
    """Every split of the items, whose labels are still those of ``open_table``; one if the table is a ``whole``."""
    try:
        items = builder.build()
    except SourceError as error:
        raise SourceError(f"{labels}: {error}") from None
    listings = {}
    for number, name in enumerate((root.resolve().name,) if whole else SPLITS):
        indices = np.flatnonzero(items.labels % len(SPLITS) == number)
        if len(indices):
            listings[name] = items.take(indices).with_labels(items.labels[indices] // len(SPLITS))
    classes, listings = settle(str(labels), listings, names, in_order)
    store = FolderStore(root)
    return tuple(
        Source(str(root), name, classes, listing, store, labels=str(labels), named=not whole)
        for name, listing in listings.items()
    )


def _rows(labels: Path) -> Iterator[_Row]:
    """The rows that are not blank."""
    try:
        with labels.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            start = file.readline(1 << 16)
            if "\0" in start:
                raise SourceError(f"{labels} is no table of text. Save it as CSV in UTF-8.")
            file.seek(0)
            delimiter = _DELIMITERS.get(labels.suffix.lower()) or _delimiter(start)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except OSError as error:
        raise SourceError(f"{labels} cannot be read: {error.strerror or error}. Give a table of paths and labels.") from None
    except csv.Error as error:
        raise SourceError(f"{labels}, line {reader.line_num}: {error}. See that every quote is closed.") from None


def _delimiter(start: str) -> str:
    """A tab if there is one outside of quotes, else whichever of comma and semicolon there are more of."""
    bare = re.sub('"[^"]*"?', "", start)
    return "\t" if "\t" in bare else max(",;", key=bare.count)


def _columns(labels: Path, head: Sequence[_Row], finder: "_Finder") -> _Columns:
    """See ``open_table``."""
    if not head:
        raise SourceError(f"{labels} is empty. Give a row to each image: its path, and its label.")
    line, first = head[0]
    named = _named(first)
    if len(first) == 2:
        return named if named and _is_header(head, named, finder) else _Columns(2)
    if len(first) == 1:
        raise SourceError(f"{labels}, line {line}, is one cell. Put a tab, a comma or a semicolon between path and label.")
    if named is None:
        raise SourceError(
            f"{labels}, line {line}: which of {_shown(first)} are paths and labels? "
            f"Name one of them {', '.join(PATHS)}, and one {', '.join(LABELS)}."
        )
    return named


def _shown(cells: Sequence[str]) -> str:
    return ", ".join(map(repr, cells[:8])) + (", ..." if len(cells) > 8 else "")


def _names(cells: Sequence[str]) -> list[str]:
    return [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in cells]


def _named(first: Sequence[str]) -> _Columns | None:
    """The columns as the first row would name them; None if it does not, and they are not the usual two."""
    names = _names(first)
    split = names.index(SPLIT) if SPLIT in names and len(names) > 2 else None
    path = next((names.index(name) for name in PATHS if name in names), None)
    label = next((names.index(name) for name in LABELS if name in names), None)
    if path is None and label is None:
        return _Columns(2, header=True) if len(names) == 2 else None
    left = [column for column in range(len(names)) if column not in (path, label, split)]
    if path is None and len(left) == 1:
        path = left[0]
    if label is None and len(left) == 1:
        label = left[0]
    return None if path is None or label is None else _Columns(len(names), path, label, split, header=True)


def _is_header(head: Sequence[_Row], named: _Columns, finder: "_Finder") -> bool:
    line, first = head[0]
    path, label = first[named.path], first[named.label]
    if finder.is_there(path, line):
        return False
    if all(set(known).intersection(_names(first)) for known in (PATHS, LABELS)):
        return True
    if is_image_name(path) or is_integer(label.strip()) or len(head) < 2:
        return False
    line, second = head[1]
    return len(second) > named.path and finder.is_there(second[named.path], line)


def _parse(line: str, cells: Sequence[str], columns: _Columns) -> tuple[str, str, int]:
    """(path, class, number of the split) of a row."""
    if len(cells) < columns.count or any(cells[columns.count :]):
        raise SourceError(
            f"{line}: {len(cells)} cells where {columns.count} should be. Quote names that hold the character between cells."
        )
    label = cells[columns.label].strip()
    if not label:
        raise SourceError(f"{line}: {cells[columns.path]!r} has no label. Give it one or remove the row.")
    if not label.isascii() and any("\udc80" <= letter <= "\udcff" for letter in label):
        raise SourceError(f"{line}: the label {label!r} is not UTF-8. Save the table in UTF-8.")
    if columns.split is None:
        return cells[columns.path], label, _WHOLE
    split = SPLIT_NAMES.get(cells[columns.split].strip().lower())
    if split is None:
        raise SourceError(f"{line}: the split is {cells[columns.split]!r}. It can be train, val or test.")
    return cells[columns.path], label, SPLITS.index(split)


class _Finder:
    """Finds the files that a table's paths mean, by one look each where all have the same ending."""

    def __init__(self, root: Path, labels: Path) -> None:
        self._root, self._labels = root, labels
        self._bases = tuple(f"{path}{os.sep}" for path in dict.fromkeys((str(root.absolute()), os.path.realpath(root))))
        self._endings = ["", *_ENDINGS]

    def find(self, path: str, line: int) -> tuple[str, int]:
        """The item's key and bytes; ``path`` as it is and ``MISSING`` if it is not there.

        Raises:
            SourceError: ``path`` is empty or leads out of the root.
        """
        key = self._below(path)
        if key is None:
            raise SourceError(
                f"{self._labels}, line {line}: {path!r} is no path below {self._root}. Give paths that start from that folder."
            )
        if is_image_name(key):
            return key, self._size(key)
        for position, ending in enumerate(self._endings):
            if (size := self._size(key + ending)) != MISSING:
                self._endings.insert(0, self._endings.pop(position))
                return key + ending, size
        return key, MISSING

    def is_there(self, path: str, line: int) -> bool:
        """Whether ``path`` means a file."""
        return self._below(path) is not None and self.find(path, line)[1] != MISSING

    def _below(self, path: str) -> str | None:
        """The path from the root, with ``/``; None if there is none."""
        path = next((path.removeprefix(base) for base in self._bases if path.startswith(base)), path)
        key = os.path.normpath(path)
        outside = os.path.isabs(key) or key in (".", "..") or key.startswith("../")  # noqa: PTH117  # not worth a Path a row
        return None if outside or "\0" in key else key

    def _size(self, key: str) -> int:
        try:
            status = os.stat(os.path.join(self._root, key))  # noqa: PTH116, PTH118
        except OSError:
            return MISSING
        return MISSING if S_ISDIR(status.st_mode) else status.st_size
