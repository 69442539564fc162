"""Tables of labels, such as the ``labels.csv`` of Kaggle's dog breeds: read for images in a folder and in an archive alike."""

import logging
import os
import posixpath
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jpegcurr.encoding.sources.base import MISSING, SPLITS, LabelFrom, ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import ClassNumbers, resolve_labels, sort_class_names
from jpegcurr.encoding.sources.image_folder import classes_beside, is_image_name
from jpegcurr.encoding.sources.imagenet_labels import is_validation_image, resolve_positions, stem_of
from jpegcurr.encoding.sources.spelling import describe_similar
from jpegcurr.encoding.sources.table_paths import PathFinder, Roots, at_line
from jpegcurr.encoding.sources.table_rows import SPLIT, read_table
from jpegcurr.encoding.sources.table_shares import Shares
from jpegcurr.errors import SourceError

log = logging.getLogger("jpegcurr")


def open_table(
    where: str | Path | Sequence[str | Path], labels: Path, label_from: LabelFrom | None = None
) -> tuple[Source, ...]:
    """List the images that the table ``labels`` names, as one split named after the folder ``where``.

    The table is one of ImageNet's own (``read_imagenet_labels``), or UTF-8 text with two columns, path and label, separated by
    tabs (as in a ``.tsv``), commas, semicolons or spaces. Its first row is a header because of its words: it names both
    columns (``PATHS`` and ``LABELS`` of ``table_rows``), or one of them by a word that is in no other row; and no image has
    its path. Known names also identify the columns where they are in another order or more than two; a column ``split``
    (train, val, test) makes that many splits, and ``val`` and ``test`` then use the classes of ``train``; cells of such a
    table may be escaped as ``files.escape_cell`` does. A list of bare paths, one a line, is a table too: the class of an image
    is then the folder that holds it, or with ``label_from`` the folder that holds that. Two columns or more such as ``p_cat``
    have the shares of classes of every image, which sum to 1. Its label is the class with the largest share; a column of
    labels may be omitted, and decides between equal shares.

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
    table = read_table(labels, str(roots), finder.exists, lambda: _flat_names(roots))
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

    table = read_table(labels, archive, lambda path: bool(find(path)), lambda: images)
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
