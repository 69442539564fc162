"""Rows of a file of labels: its columns by the words of its first row, and the path, class, split and shares of each row."""

import csv
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jpegcurr.encoding.sources.base import SPLITS
from jpegcurr.encoding.sources.class_labels import is_integer
from jpegcurr.encoding.sources.image_folder import is_image_name
from jpegcurr.encoding.sources.imagenet_labels import read_imagenet_labels
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES
from jpegcurr.encoding.sources.table_shares import (
    ShareColumns,
    Shares,
    choose_label,
    find_columns,
    parse_shares,
    refuse_repeated,
)
from jpegcurr.errors import SourceError
from jpegcurr.files import unescape_cell

log = logging.getLogger("jpegcurr")

_IDS = ("image_name", "image_id", "img_id", "id", "name")
# Names of columns, the first in the list wins: a table with both an id and a path means the path. In headers, capitals and
# what is no letter or digit do not count: ``Class ID`` and ``ClassId`` are ``class_id``.
PATHS = ("path", "file_path", "image_path", "file", "filename", "image", "img", "image_file", *_IDS)
LABELS = ("label", "class", "category", "target", "breed", "species", "class_name", "label_name", "class_id", "label_id")
SPLIT = "split"
_WHOLE = 0  # the number of the split when the table has none

_NO_DELIMITER = "\x1f"  # with which a row is its whole line, without quotes
_DELIMITERS = {".tsv": "\t", ".tab": "\t"}


@dataclass(frozen=True, slots=True)
class _Columns:
    """The positions of path, label and split in a row of ``count`` cells, and whether the first row is a ``header``.

    Only with columns of ``shares`` may there be no label.
    """

    count: int
    path: int = 0
    label: int | None = 1
    split: int | None = None
    header: bool = False
    shares: ShareColumns = ()


_Row = tuple[int, list[str]]  # the number of its last line, and its cells
# Line (0: unknown), path as in the table, class, number of the split, and shares if the table has them.
_Labelled = tuple[int, str, str, int, Shares | None]


@dataclass(frozen=True, slots=True)
class Table:
    """A file of labels: its ``rows``, whether a column names ``splits``, and whether it is one of ``imagenet``'s own.

    In a list of ``bare`` paths the classes are empty. ``classes`` are those of its columns of shares; empty if it has none.
    """

    rows: Iterator[_Labelled]
    splits: bool = False
    imagenet: bool = False
    bare: bool = False
    classes: tuple[str, ...] = ()


def read_table(labels: Path, where: str, exists: Callable[[str], bool], images: Callable[[], Sequence[str]]) -> Table:
    """Read a file of labels for the ``images`` in ``where``; ``exists`` tells whether a path of the table names one."""
    content = None if names_splits(labels) else read_imagenet_labels(labels)
    if isinstance(content, list):
        names = images()
        if len(content) != len(names):
            message = f"{labels} holds {len(content)} classes, but {where} holds {len(names)} images"
            raise SourceError(f"{message}. Give the file of these images.")
        return Table(((0, path, name, _WHOLE, None) for path, name in zip(names, content, strict=True)), imagenet=True)
    if content is not None:
        return Table(((0, path, name, _WHOLE, None) for path, name in content.items()), imagenet=True)
    if _is_bare(labels, exists):
        lines = ((line, cells[0].strip()) for line, cells in _rows(labels, _NO_DELIMITER))
        named = (row for number, row in enumerate(lines) if number or exists(row[1]) or _normalise(row[1]) not in _PATH_WORDS)
        return Table(((line, path, "", _WHOLE, None) for line, path in named), bare=True)
    rows = _rows(labels)
    first = next(rows, None)
    if first is None:
        raise SourceError(f"{labels} is empty. Every image needs a row with its path and its label.")
    columns = _columns(labels, first, exists)
    data = rows if columns.header else chain([first], rows)
    parsed = ((line, *_parse(f"{labels}, line {line}", cells, columns, exists)) for line, cells in data)
    if columns.shares:
        names = _join([name for name, _ in columns.shares])
        log.info("%s: every image has shares of %d classes (%s)", labels, len(columns.shares), names)
    return Table(parsed, splits=columns.split is not None, classes=tuple(name for name, _ in columns.shares))


def _is_bare(labels: Path, exists: Callable[[str], bool]) -> bool:
    """Return whether every line is a path: the whole first line names an image, or it is a single cell that is like one."""
    try:
        whole = next(_rows(labels, _NO_DELIMITER), None)
    except SourceError:  # a quoted cell of several, or what reading the table reports
        return False
    if whole is None:
        return False
    first = whole[1][0].strip()
    if exists(first):
        return True
    single = len(next(_rows(labels))[1]) == 1
    return single and (is_image_name(first) or _normalise(first) in _PATH_WORDS)


def names_splits(labels: Path) -> bool:
    """Return whether a table's header names the columns path, label and split, as that of ``jpegcurr split`` does."""
    try:
        first = next(_rows(labels), None)
    except SourceError:  # which reading it reports
        return False
    columns = None if first is None else _read_header(first[1])
    return columns is not None and columns.split is not None


def read_splits(labels: Path, exists: Callable[[str], bool]) -> Iterator[_Labelled]:
    """Yield (line, path, class, position of its split in ``SPLITS``) of every row of a table with a column ``split``.

    ``exists`` tells whether a path names an image. Raises SourceError if the table has no such column, or cannot be read.
    """
    rows = _rows(labels)
    columns = _read_header(next(rows, (0, []))[1])
    if columns is None or columns.split is None:
        raise SourceError(f"{labels} has no columns path, label and split. Give a table that jpegcurr split has written.")
    yield from ((line, *_parse(f"{labels}, line {line}", cells, columns, exists)) for line, cells in rows)


def _rows(labels: Path, delimiter: str | None = None) -> Iterator[_Row]:
    """Yield the rows that are not blank; their cells are separated by the ``delimiter``, or what the first line tells."""
    try:
        with labels.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            start = file.readline(1 << 16)
            if "\0" in start:
                raise SourceError(f"{labels} is not a text table. Save it as CSV in UTF-8.")
            file.seek(0)
            delimiter = delimiter or _DELIMITERS.get(labels.suffix.lower()) or _delimiter(start)
            reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=delimiter == " ")
            yield from ((reader.line_num, cells) for cells in reader if any(cells))
    except OSError as error:
        raise SourceError(f"{labels} cannot be read: {error.strerror or error}. Give a table of paths and labels.") from None
    except csv.Error as error:
        raise SourceError(f"{labels}, line {reader.line_num}: {error}. Check that every quote is closed.") from None


def _delimiter(start: str) -> str:
    """Return a tab if there is one outside of quotes, else the more frequent of comma and semicolon, else a space."""
    bare = re.sub('"[^"]*"?', "", start).strip()
    if "\t" in bare:
        return "\t"
    return max(",;", key=bare.count) if {",", ";"} & set(bare) else " "


def _columns(labels: Path, first_row: _Row, exists: Callable[[str], bool]) -> _Columns:
    """Identify the columns by the words of the first row, as ``open_table`` describes."""
    line, first = first_row
    named = _read_header(first)
    if named is not None:
        refuse_repeated(named.shares, f"{labels}, line {line}")
    if len(first) == 1:
        raise SourceError(f"{labels}, line {line}, has one cell. Put a tab, a comma or a semicolon between path and label.")
    if len(first) == 2:
        if named is not None and _is_header(labels, first, named, exists):
            return named
        if not exists(first[0]) and not is_image_name(first[0]) and not is_integer(first[1].strip()):
            log.warning(
                "%s, line %d: %r is no image. If the line is a header, name its columns path and label", labels, line, first[0]
            )
        return _Columns(2)
    if named is None:
        raise SourceError(
            f"{labels}, line {line}: it is unclear which of {_join(first)} are paths and labels. "
            f"Name one of them {', '.join(PATHS)}, and one {', '.join(LABELS)}."
        )
    return named


def _join(cells: Sequence[str]) -> str:
    return ", ".join(map(repr, cells[:8])) + (", ..." if len(cells) > 8 else "")


def _normalise(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())


_PATH_WORDS, _LABEL_WORDS = ([_normalise(name) for name in names] for names in (PATHS, LABELS))


def _read_header(first: Sequence[str]) -> _Columns | None:
    """Return the columns if the first row is their header; None if its names do not identify them."""
    names = [_normalise(cell) for cell in first]
    split = names.index(SPLIT) if SPLIT in names and len(names) > 2 else None
    path = next((names.index(name) for name in _PATH_WORDS if name in names), None)
    label = next((names.index(name) for name in _LABEL_WORDS if name in names), None)
    shares = find_columns(first)
    if path is None and label is None and not shares:
        return None
    taken = (path, label, split, *(column for _, column in shares))
    unnamed = [column for column in range(len(names)) if column not in taken]
    if path is None and len(unnamed) == 1:
        path = unnamed[0]
    elif label is None and len(unnamed) == 1 and not shares:
        label = unnamed[0]
    if path is None or (label is None and not shares):
        return None
    return _Columns(len(names), path, label, split, header=True, shares=shares)


def _is_header(labels: Path, first: Sequence[str], named: _Columns, exists: Callable[[str], bool]) -> bool:
    """Return whether a row of two cells is a header: a word for both columns, or one that no other row has in its place."""
    assert named.label is not None  # noqa: S101  # two cells have no room for shares
    path, label = first[named.path], first[named.label]
    if exists(path) or exists(first[0]):
        return False
    known = [column for column in (named.path, named.label) if _normalise(first[column]) in {*_PATH_WORDS, *_LABEL_WORDS}]
    if len(known) == 2:
        return True
    if is_image_name(path) or is_integer(label.strip()):
        return False
    others = _rows(labels)
    next(others)
    return not any(cells[known[0]].strip() == first[known[0]].strip() for _, cells in others if len(cells) > known[0])


def _parse(
    line: str, cells: Sequence[str], columns: _Columns, exists: Callable[[str], bool]
) -> tuple[str, str, int, Shares | None]:
    """Return (path, class, number of the split, shares) of a row; only a table with splits may be one with escaped cells."""
    if len(cells) < columns.count or any(cells[columns.count :]):
        raise SourceError(f"{line}: {len(cells)} cells instead of {columns.count}. Quote names that contain the separator.")
    label = cells[columns.label].strip() if columns.label is not None else ""
    shares = parse_shares(line, cells, columns.shares) if columns.shares else None
    if shares is not None:
        label = choose_label(line, label, shares)
    if not label:
        raise SourceError(f"{line}: {cells[columns.path]!r} has no label. Add one or remove the row.")
    if not label.isascii() and any("\udc80" <= letter <= "\udcff" for letter in label):
        raise SourceError(f"{line}: the label {label!r} is not UTF-8. Save the table in UTF-8.")
    path = cells[columns.path]
    if columns.split is None:
        return path, label, _WHOLE, shares
    split = SPLIT_NAMES.get(cells[columns.split].strip().lower())
    if split is None:
        raise SourceError(f"{line}: the split is {cells[columns.split]!r}. It must be train, val or test.")
    plain = unescape_cell(path)
    path = plain if plain != path and exists(plain) else path
    return path, unescape_cell(label) if shares is None else label, SPLITS.index(split), shares
