"""Classes of data sets and of models, and their matching: by name where both have names, by number where one has none.

Whether the names are known is recorded: a beton with a manifest has them, and one that FFCV wrote has only numbers; a run has
them if its training data had. Names are compared as they are. Nothing is inferred from names that look like numbers.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jpegcurr.errors import UsageError
from jpegcurr.text import join_words, sanitize

Labels = NDArray[np.int64]

NAMED = 5  # classes that a message names


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names by number, and the ``owner``, a beton or a run, as messages call it.

    ``known`` is False where the names are not known; ``names`` are then the numbers themselves.
    """

    names: tuple[str, ...]
    known: bool
    owner: str

    def __len__(self) -> int:
        return len(self.names)


def match_labels(labels: Labels, data: Classes, model: Classes) -> Labels:
    """Return ``labels``, numbers in ``data`` int64 [n], as numbers in ``model``; the same array if they are the same.

    Raises:
        UsageError: an image has a class that ``model`` lacks; or, where names are not known, a number that it lacks.
    """
    if data.known and model.known:
        if data.names == model.names[: len(data.names)]:
            return labels
        positions = {name: number for number, name in enumerate(model.names)}
        mapping = np.array([positions.get(name, -1) for name in data.names], np.int64)
        used = np.unique(labels)
        if strangers := [data.names[number] for number in used[mapping[used] < 0]]:
            raise UsageError(_describe_strangers(strangers, data, model))
        return mapping[labels]
    highest = int(labels.max(initial=0))
    if highest >= len(model):
        raise UsageError(
            f"{data.owner} has labels up to {highest}, but {model.owner} has {len(model)} classes. Class names are not known "
            "on both sides, so labels are compared as numbers. Encode the images with jpegcurr, which records class names."
        )
    return labels


def describe_match(labels: Labels, data: Classes, model: Classes) -> str:
    """Return what a user must know about a match that ``match_labels`` allows; empty if the classes are the same."""
    if not (data.known and model.known):
        unknown = [side.owner for side in (data, model) if not side.known]
        return "" if len(unknown) == 2 else f"the class names of {unknown[0]} are not known: labels are compared as numbers"
    present = len(np.unique(labels))
    if present == len(model):
        return ""
    return f"{data.owner} has images of {present:,} of the {len(model):,} classes of {model.owner}"


def have_same_labels(first: Labels, first_classes: Classes, other: Labels, other_classes: Classes) -> bool:
    """Return whether every image has the same class in both: by name if both have names, else by number."""
    if len(first) != len(other):
        return False
    try:
        return np.array_equal(first, match_labels(other, other_classes, first_classes))
    except UsageError:
        return False


def _describe_strangers(strangers: Sequence[str], data: Classes, model: Classes) -> str:
    number = "a class" if len(strangers) == 1 else "classes"
    shown = join_words([repr(sanitize(name)) for name in strangers[:NAMED]])
    more = f" and {len(strangers) - NAMED:,} more" if len(strangers) > NAMED else ""
    known = ", ".join(repr(sanitize(name)) for name in model.names[:NAMED]) + (", ..." if len(model) > NAMED else "")
    return (
        f"{data.owner} has images of {number} that {model.owner} lacks: {shown}{more}. {model.owner} has {known}"
        f"{_describe_near(strangers, model.names)}. Encode images of those classes only (--classes), or give the classes the "
        "same names."
    )


def _describe_near(strangers: Sequence[str], names: Sequence[str]) -> str:
    """Return a remark on a name that differs only in capitals, spaces, zeros or the encoding of accents; empty if none does."""
    near = {simplify(name): name for name in names}
    pair = next(((name, near[simplify(name)]) for name in strangers if simplify(name) in near), None)
    if pair is None:
        return ""
    one, other = map(sanitize, pair)
    return f"; {one!r} and {other!r} differ only in capitals, spaces, zeros or the encoding of accents"


def simplify(name: str) -> str:
    """Return a name in its compatibility normal form, in lower case, without spaces at its ends and leading zeros."""
    return unicodedata.normalize("NFKC", name).casefold().strip().lstrip("0")


def read_class_names(given: Path | tuple[str, ...]) -> tuple[str, ...]:
    """Return class names, or those of the lines of a file; raises UsageError for a file that is none, or a name given twice."""
    try:
        names = given if isinstance(given, tuple) else tuple(given.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:
        raise UsageError(f"--class-names {given} cannot be read: {error}. Give a text file with one name a line.") from None
    names = tuple(name.strip() for name in names if name.strip())
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        where = f" {given}" if isinstance(given, Path) else ""
        raise UsageError(f"--class-names{where} has {twice!r} twice. Every output needs a name of its own.")
    return names
