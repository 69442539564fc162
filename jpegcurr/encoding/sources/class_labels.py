"""Classes that are known by name only, and only when everything has been seen."""

import re
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from jpegcurr.encoding.sources.base import Listing
from jpegcurr.errors import SourceError

MOST_CLASSES = 1 << 20  # numbers beyond are ids, not labels

_INTEGER = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class ClassNumbers:
    """Numbers for class names, in the order in which the names come."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of ``name``: the next one if it is new."""
        return self._numbers.setdefault(name, len(self._numbers))

    @property
    def names(self) -> tuple[str, ...]:
        """The name of every number."""
        return tuple(self._numbers)


def is_integer(name: str) -> bool:
    """Whether a class's name is a whole number in decimals."""
    return _INTEGER.fullmatch(name) is not None


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names, as numbers if all of them are whole ones."""
    found = set(names)
    if all(map(is_integer, found)):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def counted(names: Iterable[str]) -> tuple[str, ...]:
    """The numbers from 0 to the largest, so that labels which are numbers stay what they are; texts in their order."""
    found = in_order(names)
    return tuple(map(str, range(int(found[-1]) + 1))) if is_integer(found[-1]) else found


def settle(
    where: str, listings: Mapping[str, Listing], names: tuple[str, ...], order: Callable[[Iterable[str]], tuple[str, ...]]
) -> tuple[tuple[str, ...], dict[str, Listing]]:
    """Turn labels that are positions in ``names`` into positions in ``order`` of the classes of ``train``, or of all.

    ``listings`` are the splits of the data set ``where``.

    Raises:
        SourceError: another split has a class that ``train`` lacks.
    """
    known = [listings["train"]] if "train" in listings else list(listings.values())
    classes = order(names[label] for listing in known for label in np.unique(listing.labels))
    positions = {name: position for position, name in enumerate(classes)}
    mapping = np.array([positions.get(name, -1) for name in names], np.int64)
    settled = {}
    for split, listing in listings.items():
        labels = mapping[listing.labels]
        if (labels < 0).any():
            stray = listing[int(np.argmin(labels))]
            raise SourceError(
                f"{where}: {stray.key} of the split {split} is of the class {names[stray.label]!r}, which train does not have. "
                "Remove it or add the class there."
            )
        settled[split] = listing.with_labels(labels)
    return classes, settled
