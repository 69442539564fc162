"""Tables of labels, such as the ``labels.csv`` of Kaggle's dog breeds: read for images in a folder and in an archive alike."""

import csv
import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from jpegcurr.encoding.sources.base import MISSING, SPLITS, LabelFrom, ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import ClassNumbers, is_integer, resolve_labels, sort_class_names
from jpegcurr.encoding.sources.image_folder import classes_beside, is_image_name
from jpegcurr.encoding.sources.imagenet_labels import is_validation_image, read_imagenet_labels, resolve_positions, stem_of
from jpegcurr.encoding.sources.spelling import describe_similar
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES
from jpegcurr.encoding.sources.table_paths import PathFinder, Roots, at_line
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
class _Table:
    """A file of labels: its ``rows``, whether a column names ``splits``, and whether it is one of ``imagenet``'s own.

    In a list of ``bare`` paths the classes are empty. ``classes`` are those of its columns of shares; empty if it has none.
    """

    rows: Iterator[_Labelled]
    splits: bool = False
    imagenet: bool = False
    bare: bool = False
    classes: tuple[str, ...] = ()


def open_table(
    where: str | Path | Sequence[str | Path], labels: Path, label_from: LabelFrom | None = None
) -> tuple[Source, ...]:
    """List the images that the table ``labels`` names, as one split named after the folder ``where``.

    The table is one of ImageNet's own (``read_imagenet_labels``), or UTF-8 text with two columns, path and label, separated by
    tabs (as in a ``.tsv``), commas, semicolons or spaces. Its first row is a header because of its words: it names both
    columns (``PATHS``, ``LABELS``), or one of them by a word that is in no other row; and no image has its path. Known names
    also identify the columns where they are in another order or more than two; a column ``split`` (train, val, test)
    makes that many splits, and ``val`` and ``test`` then use the classes of ``train``; cells of such a table may be escaped as
    ``files.escape_cell`` does. A list of bare paths, one a line, is a table too: the class of an image is then the folder
    that holds it, or with ``label_from`` the folder that holds that. Two columns or more such as ``p_cat`` have the shares of
    classes of every image, which sum to 1. Its label is the class with the largest share; a column of labels may be omitted,
    and decides between equal shares.

    Paths start from ``where``; if that is several folders, with the name of one of them. A path without the suffix of an image
    is the file of that name or, failing that, the one file with that name and the suffix of an image. A missing image is
    listed with the size ``MISSING``. Labels are positions among the sorted class names (``sort_class_names``). For ImageNet's
    validation images, numbers are positions among the classes of the folder ``train`` beside ``where``, whose classes are used
    if they include all of the table's. Images below ``where`` that the table does not name are counted as ``unlabelled``.

    Raises:
        SourceError: the table cannot be read or understood, names an image twice or outside ``where``, or no image exists;
            a path without suffix is the name of two images, or of an image only with zeros in front.
    """
    roots = Roots([Path(one) for one in ([where] if isinstance(where, str | Path) else where)])
    finder = PathFinder(roots, labels)
    table = _read(labels, str(roots), finder.exists, lambda: _flat_names(roots))
    if label_from and not table.bare:
        raise SourceError(f"{labels} is no list of bare paths, so --label-from {label_from} does nothing. Omit it.")
    builder, numbers = ListingBuilder(), ClassNumbers()
    existing, first, validation = 0, "", not table.bare
    shares: dict[str, Shares] = {}
    for line, path, label, split, of_image in table.rows:
        key, size = finder.find(path, line)
        if of_image is not None:
            shares[key] = of_image
        name = _class_by_folder(roots, key, label_from or "parent", f"{labels}{at_line(line)}") if table.bare else label
        builder.add(key, numbers.number(name) * len(SPLITS) + split, size)
        existing += size != MISSING
        first = first or f"{at_line(line)} names {path!r}"
        validation = validation and is_validation_image(path)
    finder.refuse_guesses()
    if not existing:
        raise SourceError(_describe_no_images(roots, labels, first))
    known, names = None, numbers.names
    if (table.imagenet or validation) and len(roots.folders) == 1:
        known = classes_beside(roots.folders[0])
        names = tuple(resolve_positions(names, labels, known))
        known = known if known and set(names) <= set(known) else None
    if table.classes:
        names, known = tuple(dict.fromkeys((*names, *table.classes))), sort_class_names(table.classes)
    sources = _sources(roots, labels, builder, names, known, whole=not table.splits)
    if table.classes:
        sources = tuple(replace(source, shares=shares) for source in sources)
    return tuple(replace(source, label_from=label_from or "parent") for source in sources) if table.bare else sources


def _class_by_folder(roots: Roots, key: str, label_from: LabelFrom, line: str) -> str:
    name = roots.class_of(key, label_from)
    if name is None:
        advice = (
            "--label-from parent, or the folder above that"
            if "/" in key
            else "a second column with labels, or the folder above"
        )
        raise SourceError(f"{line}: {key!r} has no {label_from} folder in {roots} to be its class. Give {advice}.")
    return name


def label_images(images: Sequence[str], archive: str, labels: Path, classes: Sequence[str] | None) -> list[str]:
    """Return the class of every one of ``images``, the sorted file names in ``archive``, as given by the file ``labels``.

    The file is read as ``open_table`` reads it, but its paths match without folder and suffix. It must name every image, and
    no other. ``classes`` are those of train, if they are known; numbers that are not among them are positions.

    Raises:
        SourceError: the file cannot be read or understood, lacks an image, names one twice or one that does not exist, or
            gives one a class that is not among ``classes`` or cannot be the name of a folder.
    """
    positions = defaultdict[str, list[int]](list)
    for position, image in enumerate(images):
        positions[stem_of(image)].append(position)
    exact = {image: position for position, image in enumerate(images)}

    def find(path: str) -> list[int]:
        position = exact.get(posixpath.basename(path))
        return positions.get(stem_of(path), []) if position is None else [position]

    table = _read(labels, archive, lambda path: bool(find(path)), lambda: images)
    if table.classes:
        raise SourceError(f"{labels} has shares of classes, which are read for images in a folder. Unpack {archive}.")
    if table.splits:
        raise SourceError(f"{labels} has a column {SPLIT}, but {archive} is one split. Give a table of this archive alone.")
    if table.bare:
        raise SourceError(
            f"{labels} is a list of bare paths, which gives the images in {archive} no classes. Add a second column."
        )
    names = [""] * len(images)
    for line, path, label, *_ in table.rows:
        indices = find(path)
        if not indices:
            raise SourceError(f"{labels} names {path}, which {archive} does not hold. Give the file of this archive.")
        if len(indices) > 1:
            both = " and ".join(images[index] for index in indices[:2])
            raise SourceError(f"{labels}{at_line(line)}: {path!r} may be {both} of {archive}. Write the suffix in the table.")
        if names[indices[0]]:
            raise SourceError(f"{labels}{at_line(line)}: {path} is listed twice. Name every image once.")
        names[indices[0]] = label
    lacking = next((image for image, name in zip(images, names, strict=True) if not name), None)
    if lacking is not None:
        raise SourceError(f"{labels} lacks {lacking}, which {archive} holds. Give the file of this archive.")
    if classes or table.imagenet or all(map(is_validation_image, images)):
        names = resolve_positions(names, labels, classes)
    _check_classes(names, images, labels, classes)
    return names


def _check_classes(names: Sequence[str], images: Sequence[str], labels: Path, classes: Sequence[str] | None) -> None:
    """Raise SourceError for a class that ``train`` lacks or that cannot be the name of a folder."""
    known = set(names if classes is None else classes)
    for name, image in zip(names, images, strict=True):
        if name not in known:
            similar = describe_similar([name], known)
            raise SourceError(f"{labels} gives {image} the class {name}, which the train split lacks.{similar}")
        if "/" in name or name.startswith("."):
            raise SourceError(f"{labels} gives {image} the class {name!r}, which cannot be the name of a folder.")


def _flat_names(roots: Roots) -> list[str]:
    """Return the images in the folders in the order of their names, in which lists of classes are."""
    return sorted(filter(None, roots.images()), key=posixpath.basename)


def _describe_no_images(roots: Roots, labels: Path, first: str) -> str:
    if not first:
        return f"{labels} names no images. Every image needs a row with its path and its label."
    paths = "" if "\\" not in first or os.sep == "\\" else " Its backslashes separate no folders here: write / in their place."
    return (
        f"{labels}{first}, which is not in {roots}, with or without an image's suffix; no other image of the table is.{paths} "
        "Give the folder that the paths start from."
    )


def _sources(
    roots: Roots, labels: Path, builder: ListingBuilder, names: tuple[str, ...], known: tuple[str, ...] | None, *, whole: bool
) -> tuple[Source, ...]:
    """Return the splits of the items; a label still encodes class and split. A ``whole`` table is one split."""
    try:
        items = builder.build()
    except SourceError as error:
        raise SourceError(f"{labels}: {error}") from None
    unlabelled, others = _count_others(roots, labels, {items.key_bytes(index) for index in range(len(items))})
    listings = {}
    for number, name in enumerate((roots.name,) if whole else SPLITS):
        indices = np.flatnonzero(items.labels % len(SPLITS) == number)
        if len(indices):
            listings[name] = items.take(indices).with_labels(items.labels[indices] // len(SPLITS))
    classes, listings = resolve_labels(str(labels), listings, names, lambda used: known or sort_class_names(used))
    root, *more = map(str, roots.folders)
    sources: list[Source] = []
    for name, listing in listings.items():
        counts = (unlabelled + others, unlabelled) if not sources else (0, 0)  # they are of no split: said once
        sources.append(
            Source(
                root,
                name,
                classes,
                listing,
                roots.store,
                counts[0],
                str(labels),
                named=not whole,
                unlabelled=counts[1],
                more_roots=tuple(more),
            )
        )
    return tuple(sources)


def _count_others(roots: Roots, labels: Path, keys: set[bytes]) -> tuple[int, int]:
    """Return how many images in the folders are not among ``keys``, and how many files are no images, without the table."""
    unlabelled = others = 0
    for path in roots.images():
        if not path:
            others += 1
        elif os.fsencode(path) not in keys:
            unlabelled += 1
    counted = labels.is_file() and not labels.name.startswith(".") and not is_image_name(labels.name)
    return unlabelled, others - (counted and any(labels.resolve().is_relative_to(root.resolve()) for root in roots.folders))


def _read(labels: Path, where: str, exists: Callable[[str], bool], images: Callable[[], Sequence[str]]) -> _Table:
    """Read a file of labels for the ``images`` in ``where``; ``exists`` tells whether a path of the table names one."""
    content = None if names_splits(labels) else read_imagenet_labels(labels)
    if isinstance(content, list):
        names = images()
        if len(content) != len(names):
            message = f"{labels} holds {len(content)} classes, but {where} holds {len(names)} images"
            raise SourceError(f"{message}. Give the file of these images.")
        return _Table(((0, path, name, _WHOLE, None) for path, name in zip(names, content, strict=True)), imagenet=True)
    if content is not None:
        return _Table(((0, path, name, _WHOLE, None) for path, name in content.items()), imagenet=True)
    if _is_bare(labels, exists):
        lines = ((line, cells[0].strip()) for line, cells in _rows(labels, _NO_DELIMITER))
        named = (row for number, row in enumerate(lines) if number or exists(row[1]) or _normalise(row[1]) not in _PATH_WORDS)
        return _Table(((line, path, "", _WHOLE, None) for line, path in named), bare=True)
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
    return _Table(parsed, splits=columns.split is not None, classes=tuple(name for name, _ in columns.shares))


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
