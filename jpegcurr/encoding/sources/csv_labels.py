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
from jpegcurr.encoding.sources.class_labels import ClassNumbers, is_integer, resolve_labels, sort_class_names
from jpegcurr.encoding.sources.image_folder import SUFFIXES, is_image_name
from jpegcurr.errors import SourceError

_IDS = ("image_name", "image_id", "imageid", "img_id", "id", "name")
# Header names, in any case, the first in the list wins: a table with both an id and a path means the path.
PATHS = ("path", "file_path", "filepath", "image_path", "file", "filename", "file_name", "image", "img", *_IDS)
LABELS = ("label", "class", "category", "target", "breed", "species", "class_name", "label_name", "class_id", "label_id")
SPLIT = "split"
_WHOLE = 0  # the number of the split when the table has none

_DELIMITERS = {".tsv": "\t", ".tab": "\t"}
_SUFFIXES = (".jpg", ".jpeg", ".JPEG", ".JPG", *sorted(SUFFIXES - {".jpg", ".jpeg"}))
_SUFFIXES += tuple(suffix.upper() for suffix in _SUFFIXES[4:])


@dataclass(frozen=True, slots=True)
class _Columns:
    """The positions of path, label and split in a row of ``count`` cells, and whether the first row is a ``header``."""

    count: int
    path: int = 0
    label: int = 1
    split: int | None = None
    header: bool = False


_Row = tuple[int, list[str]]  # the number of its last line, and its cells


def open_table(where: str | Path, labels: Path) -> tuple[Source, ...]:
    """List the images that the table ``labels`` names, as one split named after the folder ``where``.

    The table is UTF-8 text with two columns, path and label, separated by tabs (as in a ``.tsv``), commas or semicolons. Its
    first row is a header if its path is no file and either both columns have known names (``PATHS``, ``LABELS``), or it looks
    like a header (the path has no image suffix, the label is no number) and the second row's path is a file. Known names
    also identify the columns where they are in another order or more than two; a column ``split`` (train, val, test)
    makes that many splits, and ``val`` and ``test`` then use the classes of ``train``.

    Paths start from ``where``. A path without the suffix of an image is tried as it is and with every suffix. A missing
    image is listed with the size ``MISSING``. Labels are positions among the sorted class names, sorted as numbers if all
    are whole numbers.

    Raises:
        SourceError: the table cannot be read or understood, names an image twice or outside ``where``, or no image exists.
    """
    root = Path(where)
    rows = _rows(labels)
    head = list(islice(rows, 2))
    finder = _Finder(root, labels)
    columns = _columns(labels, head, finder)
    builder, numbers = ListingBuilder(), ClassNumbers()
    existing, first = 0, ""
    for line, cells in chain(head[columns.header :], rows):
        path, label, split = _parse(f"{labels}, line {line}", cells, columns)
        key, size = finder.find(path, line)
        builder.add(key, numbers.number(label) * len(SPLITS) + split, size)
        existing += size != MISSING
        first = first or f"line {line} names {path!r}"
    if not existing:
        raise SourceError(_describe_no_images(root, labels, first))
    return _sources(root, labels, builder, numbers.names, columns.split is None)


def _describe_no_images(root: Path, labels: Path, first: str) -> str:
    if not first:
        return f"{labels} names no images. Every image needs a row with its path and its label."
    return (
        f"{labels}, {first}, which is not in {root}, with or without an image's suffix; no other image of the table is. "
        "Give the folder that the paths start from."
    )


def _sources(root: Path, labels: Path, builder: ListingBuilder, names: tuple[str, ...], whole: bool) -> tuple[Source, ...]:
    """Return the splits of the items; a label still encodes class and split. A ``whole`` table is one split."""
    try:
        items = builder.build()
    except SourceError as error:
        raise SourceError(f"{labels}: {error}") from None
    listings = {}
    for number, name in enumerate((root.resolve().name,) if whole else SPLITS):
        indices = np.flatnonzero(items.labels % len(SPLITS) == number)
        if len(indices):
            listings[name] = items.take(indices).with_labels(items.labels[indices] // len(SPLITS))
    classes, listings = resolve_labels(str(labels), listings, names, sort_class_names)
    store = FolderStore(root)
    return tuple(
        Source(str(root), name, classes, listing, store, labels=str(labels), named=not whole)
        for name, listing in listings.items()
    )


def _rows(labels: Path) -> Iterator[_Row]:
    """Yield the rows that are not blank."""
    try:
        with labels.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            start = file.readline(1 << 16)
            if "\0" in start:
                raise SourceError(f"{labels} is not a text table. Save it as CSV in UTF-8.")
            file.seek(0)
            delimiter = _DELIMITERS.get(labels.suffix.lower()) or _delimiter(start)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            yield from ((reader.line_num, cells) for cells in reader if cells)
    except OSError as error:
        raise SourceError(f"{labels} cannot be read: {error.strerror or error}. Give a table of paths and labels.") from None
    except csv.Error as error:
        raise SourceError(f"{labels}, line {reader.line_num}: {error}. Check that every quote is closed.") from None


def _delimiter(start: str) -> str:
    """Return a tab if there is one outside of quotes, else the more frequent of comma and semicolon."""
    bare = re.sub('"[^"]*"?', "", start)
    return "\t" if "\t" in bare else max(",;", key=bare.count)


def _columns(labels: Path, head: Sequence[_Row], finder: "_Finder") -> _Columns:
    """Identify the columns by the first two rows, as ``open_table`` describes."""
    if not head:
        raise SourceError(f"{labels} is empty. Every image needs a row with its path and its label.")
    line, first = head[0]
    named = _read_header(first)
    if len(first) == 2:
        return named if named and _is_header(head, named, finder) else _Columns(2)
    if len(first) == 1:
        raise SourceError(f"{labels}, line {line}, has one cell. Put a tab, a comma or a semicolon between path and label.")
    if named is None:
        raise SourceError(
            f"{labels}, line {line}: it is unclear which of {_join(first)} are paths and labels. "
            f"Name one of them {', '.join(PATHS)}, and one {', '.join(LABELS)}."
        )
    return named


def _join(cells: Sequence[str]) -> str:
    return ", ".join(map(repr, cells[:8])) + (", ..." if len(cells) > 8 else "")


def _normalise(cells: Sequence[str]) -> list[str]:
    return [re.sub(r"[\s-]+", "_", cell.strip().lower()) for cell in cells]


def _read_header(first: Sequence[str]) -> _Columns | None:
    """Return the columns if the first row is their header; None if its names do not identify them."""
    names = _normalise(first)
    split = names.index(SPLIT) if SPLIT in names and len(names) > 2 else None
    path = next((names.index(name) for name in PATHS if name in names), None)
    label = next((names.index(name) for name in LABELS if name in names), None)
    if path is None and label is None:
        return _Columns(2, header=True) if len(names) == 2 else None
    unnamed = [column for column in range(len(names)) if column not in (path, label, split)]
    if path is None and len(unnamed) == 1:
        path = unnamed[0]
    if label is None and len(unnamed) == 1:
        label = unnamed[0]
    return None if path is None or label is None else _Columns(len(names), path, label, split, header=True)


def _is_header(head: Sequence[_Row], named: _Columns, finder: "_Finder") -> bool:
    line, first = head[0]
    path, label = first[named.path], first[named.label]
    if finder.exists(path, line):
        return False
    if all(set(known).intersection(_normalise(first)) for known in (PATHS, LABELS)):
        return True
    if is_image_name(path) or is_integer(label.strip()) or len(head) < 2:
        return False
    line, second = head[1]
    return len(second) > named.path and finder.exists(second[named.path], line)


def _parse(line: str, cells: Sequence[str], columns: _Columns) -> tuple[str, str, int]:
    """Return (path, class, number of the split) of a row."""
    if len(cells) < columns.count or any(cells[columns.count :]):
        raise SourceError(f"{line}: {len(cells)} cells instead of {columns.count}. Quote names that contain the separator.")
    label = cells[columns.label].strip()
    if not label:
        raise SourceError(f"{line}: {cells[columns.path]!r} has no label. Add one or remove the row.")
    if not label.isascii() and any("\udc80" <= letter <= "\udcff" for letter in label):
        raise SourceError(f"{line}: the label {label!r} is not UTF-8. Save the table in UTF-8.")
    if columns.split is None:
        return cells[columns.path], label, _WHOLE
    split = SPLIT_NAMES.get(cells[columns.split].strip().lower())
    if split is None:
        raise SourceError(f"{line}: the split is {cells[columns.split]!r}. It must be train, val or test.")
    return cells[columns.path], label, SPLITS.index(split)


class _Finder:
    """A finder of the files that a table's paths name; if all have the same suffix, it checks one file name per path."""

    def __init__(self, root: Path, labels: Path) -> None:
        self._root, self._labels = root, labels
        self._bases = tuple(f"{path}{os.sep}" for path in dict.fromkeys((str(root.absolute()), os.path.realpath(root))))
        self._suffixes = ["", *_SUFFIXES]

    def find(self, path: str, line: int) -> tuple[str, int]:
        """Return the item's key and its bytes; ``path`` unchanged and ``MISSING`` if there is no such file.

        Raises:
            SourceError: ``path`` is empty or outside of the root.
        """
        key = self._below(path)
        if key is None:
            raise SourceError(
                f"{self._labels}, line {line}: {path!r} is not a path below {self._root}. Give paths that start there."
            )
        if is_image_name(key):
            return key, self._size(key)
        for position, suffix in enumerate(self._suffixes):
            if (size := self._size(key + suffix)) != MISSING:
                self._suffixes.insert(0, self._suffixes.pop(position))
                return key + suffix, size
        return key, MISSING

    def exists(self, path: str, line: int) -> bool:
        """Return whether ``path`` names a file."""
        return self._below(path) is not None and self.find(path, line)[1] != MISSING

    def _below(self, path: str) -> str | None:
        """Return the path from the root, with ``/``; None if it is outside of the root."""
        path = next((path.removeprefix(base) for base in self._bases if path.startswith(base)), path)
        key = os.path.normpath(path)
        outside = os.path.isabs(key) or key in (".", "..") or key.startswith("../")  # noqa: PTH117  # a Path per row would be slow
        return None if outside or "\0" in key else key

    def _size(self, key: str) -> int:
        try:
            status = os.stat(os.path.join(self._root, key))  # noqa: PTH116, PTH118
        except OSError:
            return MISSING
        return MISSING if S_ISDIR(status.st_mode) else status.st_size
