"""Classes of data sets and of models, and their matching: by name where both have names, by number where one has none.

Whether the names are known is recorded: a beton with a manifest has them, and one that FFCV wrote has only numbers; a run has
them if its training data had. Names are compared as they are. Nothing is inferred from names that look like numbers.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.sources.spelling import describe_similar
from jpegcurr.errors import UsageError
from jpegcurr.text import join_words, sanitize
from jpegcurr.training.data.targets import Row, Shares, SoftTargets, Targets

Labels = NDArray[np.int64]

NAMED = 5  # classes that a message names


@dataclass(frozen=True, slots=True)
class Classes:
    """Class names by number, and the ``owner``, a beton or a run, as messages call it.

    ``known`` is False where the names are not known; ``names`` are then the numbers themselves. ``targets`` are those of a
    model whose classes are not the data's, or that is trained on distributions.
    """

    names: tuple[str, ...]
    known: bool
    owner: str
    targets: Targets | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def truths(self) -> dict[str, str]:
        """The name of the class that counts as right, for every class of the data that has another name or none here."""
        targets = self.targets
        if targets is None:
            return {}
        names = dict.fromkeys((*targets.rows, *targets.outputs))
        return {name: self.names[targets.truth(row)] for name in names if (row := targets.row(name)) is not None}


def match_labels(labels: Labels, data: Classes, model: Classes) -> Labels:
    """Return ``labels``, numbers in ``data`` int64 [n], as numbers in ``model``; the same array if they are the same.

    A class of the data is the class of ``model`` that its targets say, or else the one of its name.

    Raises:
        UsageError: an image has a class that ``model`` lacks; or, where names are not known, a number that it lacks, or any if
            it has targets, which are by name.
    """
    if model.targets is not None:
        _require_names(data, model)
    if data.known and model.known:
        if data.names == model.names[: len(data.names)] and model.targets is None:
            return labels
        positions = {name: number for number, name in enumerate(model.names)}
        if model.targets is not None:
            positions = {name: positions[truth] for name, truth in model.truths.items()}
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


def match_targets(labels: Labels, shares: Shares | None, data: Classes, model: Classes) -> tuple[Labels, SoftTargets | None]:
    """Return ``labels`` as ``match_labels`` does, and the distributions of the images if the targets of ``model`` have any.

    ``shares`` are those of the images, None if they have none: the row of an image is then that of its class.

    Raises:
        UsageError: as ``match_labels`` does; an image has a share of a class that ``model`` lacks; or its largest shares are
            equal, and its label does not decide between them.
    """
    matched, targets = match_labels(labels, data, model), model.targets
    if targets is None or not targets.soft:
        return matched, None
    if shares is None or not targets.per_image:
        none = np.zeros(len(targets.outputs))  # of a class without images
        rows = np.stack([none if (row := targets.row(name)) is None else row for name in data.names])
        return matched, SoftTargets(targets.merge(rows).astype(np.float32), labels)
    numbers: dict[tuple[int, tuple[tuple[str, float], ...]], int] = {}
    keys = ((int(label), tuple(sorted(of_image.items()))) for label, of_image in zip(labels, shares, strict=True))
    row_of = np.fromiter((numbers.setdefault(key, len(numbers)) for key in keys), np.int64, len(labels))
    weighed, truths = [], []
    for label, of_image in numbers:
        row = _weigh(of_image, data, model, targets)
        weighed.append(row)
        truths.append(_decide(row, data.names[label], data, targets))
    return np.array(truths, np.int64)[row_of], SoftTargets(targets.merge(np.stack(weighed)).astype(np.float32), row_of)


def _weigh(shares: Sequence[tuple[str, float]], data: Classes, model: Classes, targets: Targets) -> Row:
    """Return the sum of the rows of the classes, weighed by the shares of one image: float64 [outputs]."""
    row = np.zeros(len(targets.outputs))
    for name, share in shares:
        of_class = targets.row(name)
        if of_class is None:
            raise UsageError(_describe_strangers([name], data, model))
        row += share * of_class
    return row


def _decide(row: Row, label: str, data: Classes, targets: Targets) -> int:
    """Return the truth of an image of the class ``label``, which decides where the largest shares of its ``row`` are equal."""
    tied = np.flatnonzero(row.max() - row <= 1e-9)
    if len(tied) == 1:
        return targets.truth(row)
    own = targets.row(label)
    if own is None or own.argmax() not in tied:
        first, other = (targets.outputs[number] for number in tied[:2])
        raise UsageError(
            f"{data.owner}: an image of the class {label!r} has equal shares of {first!r} and {other!r}, so it has no truth. "
            "Correct its shares in the table of labels, and encode it again."
        )
    return targets.truth(own)


def _require_names(data: Classes, model: Classes) -> None:
    unknown = [side.owner for side in (data, model) if not side.known]
    if unknown:
        raise UsageError(
            f"The class names of {unknown[0]} are not known, and targets and --merge are by name. Encode the images with "
            "jpegcurr, which records class names."
        )


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
    names = model.names if model.targets is None else tuple(model.truths)
    known = ", ".join(repr(sanitize(name)) for name in names[:NAMED]) + (", ..." if len(names) > NAMED else "")
    return (
        f"{data.owner} has images of {number} that {model.owner} lacks: {shown}{more}. {model.owner} has {known}"
        f".{describe_similar(strangers, names)} Encode images of those classes only (--classes), or give the classes the "
        "same names."
    )


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
