"""Labels of classes that are known only by the names which images carry, and only after all images are listed."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jpegcurr.encoding.sources.base import Listing
from jpegcurr.errors import SourceError

MOST_CLASSES = 1 << 20  # larger numbers are ids, not labels

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


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
    """Return whether a class's name is a whole number in decimals."""
    return _INTEGER.fullmatch(name) is not None


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names, as numbers if all of them are whole numbers."""
    unique = set(names)
    if all(map(is_integer, unique)):
        return tuple(sorted(unique, key=lambda name: (int(name), name)))
    return tuple(sorted(unique))


def complete_numbers(names: Iterable[str]) -> tuple[str, ...]:
    """Return every number from 0 to the largest, so that numeric labels keep their values; sort names that are texts."""
    ordered = sort_class_names(names)
    return tuple(map(str, range(int(ordered[-1]) + 1))) if is_integer(ordered[-1]) else ordered


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
                f"{where}: {stray.key} of the split {split} has the class {names[stray.label]!r}, which train lacks. "
                "Remove it, or add images of the class to train."
            )
        resolved[split] = listing.with_labels(labels)
    return classes, resolved
