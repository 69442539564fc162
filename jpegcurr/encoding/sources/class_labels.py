"""Classes: the one order of their names, their numbers where only images carry the names, and how many images have them.

Labels are text: ``007`` is not ``7``. Only whole numbers without zeros in front can be labels by their value, where a data
set gives numbers (shards and hubs).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jpegcurr.encoding.sources.base import Listing, Source
from jpegcurr.encoding.sources.spelling import describe_similar
from jpegcurr.errors import SourceError

MOST_CLASSES = 1 << 20  # larger numbers are ids, not labels

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_VALUE = re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII)


class ClassNumbers:
    """Numbers for class names, in order of their first appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of ``name``: the next free one if the name is new."""
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every number."""
        return tuple(self._numbers)


def is_integer(name: str) -> bool:
    """Return whether a class's name is a whole number in decimals, with zeros in front or without."""
    return _INTEGER.fullmatch(name) is not None


def is_value(name: str) -> bool:
    """Return whether a label is a whole number, 0 or more, as numbers are written: ``7``, but not ``007``."""
    return _VALUE.fullmatch(name) is not None


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names in the order that every kind of source uses: as whole numbers if all of them are, else as text.

    The order of whole numbers is timm's natural order; names of the same number (``07``, ``7``) are sorted as text.
    """
    unique = set(names)
    if all(map(is_integer, unique)):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def complete_numbers(names: Iterable[str]) -> tuple[str, ...]:
    """Return every number from 0 to the largest, so that labels that are values keep them; sort names if any is a text."""
    ordered = sort_class_names(names)
    return tuple(map(str, range(int(ordered[-1]) + 1))) if all(map(is_value, ordered)) else ordered


@dataclass(frozen=True, slots=True)
class ClassCounts:
    """The classes of one split: their number, the first of them, and the images of a class: least, median and most."""

    classes: int
    first: tuple[str, ...]
    least: int
    median: float
    most: int


def count_classes(source: Source, first: int = 5) -> ClassCounts:
    """Count the images of every class, those without any included; keep the names of the ``first`` classes."""
    images = np.bincount(source.items.labels, minlength=len(source.classes))
    least, median, most = images.min(), np.median(images), images.max()
    return ClassCounts(len(source.classes), source.classes[:first], int(least), float(median), int(most))


def describe_lone_images(where: str, sources: Sequence[Source]) -> str:
    """Return a sentence if nearly every image is a class of its own, as where ids or boxes are read as labels; else "".

    The rule: at least 10 images, and fewer than two images per class on average, over all splits.
    """
    images = sum(len(source.items) for source in sources)
    names = {source.classes[label] for source in sources for label in np.unique(source.items.labels)}
    if images < 10 or images >= 2 * len(names):
        return ""
    labels = next((source.labels for source in sources if source.labels), None)
    check = f"Check that {labels} holds labels, not ids or boxes" if labels else "Check that these are classes"
    return f"{where}: nearly every image is a class of its own: {images} images have {len(names)} classes. {check}"


def resolve_labels(
    where: str, listings: Mapping[str, Listing], names: tuple[str, ...], order: Callable[[Iterable[str]], tuple[str, ...]]
) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """Turn labels that are positions in ``names`` into positions among the classes; return the classes and the listings.

    ``listings`` are the splits of the data set ``where``. The classes are those of ``train``, or of all splits if there is no
    ``train``, in the order that ``order`` gives them.

    Raises:
        SourceError: another split has a class that ``train`` lacks.
    """
    known = [listings["train"]] if "train" in listings else list(listings.values())
    classes = order(names[label] for listing in known for label in np.unique(listing.labels))
    positions = {name: position for position, name in enumerate(classes)}
    mapping = np.array([positions.get(name, -1) for name in names], np.int64)
    resolved = {}
    for split, listing in listings.items():
        labels = mapping[listing.labels]
        if (labels < 0).any():
            stray = listing[int(np.argmin(labels))]
            raise SourceError(
                f"{where}: {stray.key} of the split {split} has the class {names[stray.label]!r}, which train lacks."
                f"{describe_similar([names[stray.label]], classes)} Remove it, or add images of the class to train."
            )
        resolved[split] = listing.with_labels(labels)
    return classes, resolved
