"""Drawn splits: which images of a data set are for training, for validation and for a test, by class and by group."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.sources.base import SPLITS, Listing, Source, SplitDraw, order_by_hash
from jpegcurr.errors import SourceError, UsageError
from jpegcurr.text import join_words, sanitize

log = logging.getLogger("jpegcurr")

TRAIN, VAL, TEST = range(len(SPLITS))
UNDRAWN = -1  # the split of an image that is still to be drawn

_PURPOSE = b"jpegcurr split"  # of the hash: the order of the draw is independent of that of the shuffle and of --limit
_NAMED = 5  # classes that a message names


@dataclass(frozen=True, slots=True, eq=False)
class DrawnSplits:
    """A draw: ``splits``, the position in ``SPLITS`` of every image, int8 [n], and images by class and split.

    ``counts`` are those that the draw has, ``targets`` the exact shares of the class, int64 [classes, 3]. They differ where
    groups do not fit into the shares, or where images that were kept exceed them.
    """

    splits: NDArray[np.int8]
    counts: NDArray[np.int64]
    targets: NDArray[np.int64]


def check_draw(draw: SplitDraw) -> SplitDraw:
    """Return ``draw``; raise UsageError if its shares are none or leave nothing to train on."""
    for option, share in (("--val", draw.val), ("--test", draw.test)):
        if not 0 <= share < 1:  # NaN too
            raise UsageError(f"{option} {share:g}: give a share of the images of every class, from 0 to below 1, such as 0.2.")
    if draw.val + draw.test >= 1:
        raise UsageError(f"--val {draw.val:g} and --test {draw.test:g} leave no images to train on. Give less than 1 in total.")
    if draw.val + draw.test == 0:
        raise UsageError("Which share? Give --val 0.2, --test 0.1, or both.")
    return draw


def draw_splits(
    items: Listing,
    classes: int,
    draw: SplitDraw,
    *,
    groups: Sequence[str | None] | None = None,
    kept: NDArray[np.int8] | None = None,
) -> DrawnSplits:
    """Draw a split for every image: a pure function of the keys, their labels, the groups, the shares and what is kept.

    Every class has exactly its share in each split, rounded by largest remainder (a tie favours train). Images are drawn in the
    order of a hash of (seed, key), so that of two shares the larger one's images include the smaller one's, and added images
    move few others. ``groups`` names the group of each image; None is a group of its own. A group is drawn as a whole, in the
    order of a hash of its name, for the first of val and test in which none of its classes exceeds its share; else it is
    trained on. ``kept`` are splits from an earlier draw, int8 [n] with ``UNDRAWN`` for new images: what is kept stays,
    groups that hold a kept image follow it, and new images are drawn towards the shares of the whole.

    Raises:
        SourceError: a group holds images that are kept in two splits.
    """
    labels = items.labels
    splits = np.full(len(items), UNDRAWN, np.int8) if kept is None else kept.copy()
    images = np.bincount(labels, minlength=classes)
    targets = np.array([_apportion(int(count), draw) for count in images], np.int64).reshape(classes, len(SPLITS))
    units, order = _form_units(items, groups, draw.seed)
    if groups is not None and kept is not None:
        for members in units:
            _follow_kept(items, splits, members, groups)
    room = _room(targets, _count(splits, labels, classes), images)
    label_of, assigned = labels.tolist(), splits.tolist()
    for position in order.tolist():
        unit: Sequence[int] = units[position] if groups is not None else (position,)
        if assigned[unit[0]] != UNDRAWN:
            continue
        sizes = {label_of[unit[0]]: 1} if len(unit) == 1 else Counter(label_of[index] for index in unit)
        split = next((one for one in (VAL, TEST) if all(room[label][one] >= size for label, size in sizes.items())), TRAIN)
        for label, size in sizes.items():
            room[label][split] -= size
        for index in unit:
            assigned[index] = split
    splits = np.array(assigned, np.int8)
    return DrawnSplits(splits, _count(splits, labels, classes), targets)


def _apportion(images: int, draw: SplitDraw) -> list[int]:
    """Return the images of a class in each of ``SPLITS``: the shares as they are typed, exact, rounded by largest remainder."""
    val, test = (Fraction(repr(share)) for share in (draw.val, draw.test))
    return round_shares(images, [1 - val - test, val, test])


def round_shares(total: int, weights: Sequence[Fraction | int]) -> list[int]:
    """Divide ``total`` in proportion to ``weights`` into whole numbers that add up to it, by largest remainder."""
    quotas = [Fraction(total) * weight / sum(weights) for weight in weights]
    parts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(parts)), key=lambda part: parts[part] - quotas[part])
    for part in by_remainder[: total - sum(parts)]:
        parts[part] += 1
    return parts


def _count(splits: NDArray[np.int8], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Count the images by class and split, int64 [classes, 3]; those without a split are not counted."""
    drawn = splits >= 0
    cells = np.bincount(labels[drawn] * len(SPLITS) + splits[drawn], minlength=classes * len(SPLITS))
    return cells.reshape(classes, len(SPLITS))


def _room(targets: NDArray[np.int64], counts: NDArray[np.int64], images: NDArray[np.int64]) -> list[list[int]]:
    """Return how many more images of each class each split takes: what it lacks, scaled down where others have too many."""
    lacking = np.maximum(targets - counts, 0)
    new = images - counts.sum(1)
    room: list[list[int]] = lacking.tolist()
    for label in np.flatnonzero(lacking.sum(1) > new).tolist():
        room[label] = round_shares(int(new[label]), room[label])
    return room


def _form_units(items: Listing, groups: Sequence[str | None] | None, seed: int) -> tuple[list[list[int]], NDArray[np.int64]]:
    """Return the positions of the images of every unit that is drawn as a whole, and the order of the units.

    Without groups the units are the images, and the list is empty: millions of lists of one would cost more than the draw.
    """
    if groups is None:
        return [], order_by_hash(map(items.key_bytes, range(len(items))), seed, _PURPOSE)
    members: dict[bytes, list[int]] = {}
    for index, group in enumerate(groups):
        # No key has the prefix of a group's name, which is not empty behind it.
        name = items.key_bytes(index) if group is None else b"\0" + group.encode("utf-8", "surrogateescape")
        members.setdefault(name, []).append(index)
    return list(members.values()), order_by_hash(members, seed, _PURPOSE)


def _follow_kept(items: Listing, splits: NDArray[np.int8], unit: Sequence[int], groups: Sequence[str | None]) -> None:
    """Put the images of a unit into the split in which some of them are kept."""
    kept = {int(splits[index]): index for index in unit if splits[index] != UNDRAWN}
    if len(kept) > 1:
        (one, first), (other, second) = list(kept.items())[:2]
        raise SourceError(
            f"The group {groups[unit[0]]!r} is kept in two splits: {items[first].key} in {SPLITS[one]} and {items[second].key} "
            f"in {SPLITS[other]}. Give the --group of the earlier draw, or correct that table."
        )
    if kept:
        splits[list(unit)] = next(iter(kept))


def find_groups(items: Listing, pattern: str) -> list[str | None]:
    """Return the group of every image: what group 1 of a regular expression matches in its key, else the whole match.

    None is an image that does not match, or with no characters.

    Raises:
        UsageError: the expression cannot be read, or matches no key.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"--group {pattern} is not a regular expression: {error}.") from None
    groups = [_group_of(expression.search(item.key)) for item in items]
    if not any(groups):
        raise UsageError(f"--group {pattern} matches no image, such as {items[0].key}. It is searched for in paths like this.")
    return groups


def _group_of(match: re.Match[str] | None) -> str | None:
    if match is None:
        return None
    return (match[1] if match.re.groups and match[1] is not None else match[0]) or None


def split_source(source: Source, draw: SplitDraw) -> tuple[Source, ...]:
    """Return the splits that ``draw`` makes of a source, as ``jpegcurr encode --val`` does; of boxes, by image.

    Raises:
        UsageError, SourceError: as ``check_draw`` and ``refuse_poor_draw``.
    """
    groups = None if source.boxes is None else find_groups(source.items, r"(.*)#")  # all boxes of an image, whose key it is
    drawn = draw_splits(source.items, len(source.classes), check_draw(draw), groups=groups)
    refuse_poor_draw(drawn, source.classes, draw, grouped=groups is not None)
    for sentence in describe_draw(drawn, draw):
        log.info("%s: %s", source.where, sentence)
    return tuple(replace(part, draw=draw) for part in take_splits(source, drawn.splits))


def take_splits(source: Source, splits: NDArray[np.int8]) -> tuple[Source, ...]:
    """Return the images of each split as a source, train first; images of the split ``UNDRAWN`` are in none."""
    parts: list[Source] = []
    for number, name in enumerate(SPLITS):
        indices = np.flatnonzero(splits == number)
        if len(indices):
            part = replace(source, split=name, items=source.items.take(indices), named=True)
            parts.append(replace(part, ignored=0, unlabelled=0) if parts else part)  # files that are of no split are told once
    return tuple(parts)


def refuse_poor_draw(drawn: DrawnSplits, classes: Sequence[str], draw: SplitDraw, *, grouped: bool = False) -> None:
    """Raise SourceError if a class has no images to train on, or a split that was asked for is empty."""
    lost = np.flatnonzero((drawn.counts[:, TRAIN] == 0) & (drawn.counts.sum(1) > 0)).tolist()
    if lost:
        names = [f"{sanitize(classes[label])!r} ({_describe_counts(drawn.counts[label])})" for label in lost[:_NAMED]]
        names += [f"{len(lost) - _NAMED} more"] if len(lost) > _NAMED else []
        classes_have = "1 class has" if len(lost) == 1 else f"{len(lost)} classes have"
        raise SourceError(
            f"{classes_have} no images to train on: {join_words(names)}. Add images, omit the class, or give smaller shares."
        )
    for option, share, split in (("--val", draw.val, VAL), ("--test", draw.test, TEST)):
        if share and not drawn.counts[:, split].sum():
            reason = "no group is small enough" if grouped and drawn.targets[:, split].sum() else "no class has enough images"
            raise SourceError(f"{option} {share:g} leaves {SPLITS[split]} empty: {reason}. Give a larger share or more images.")


def _describe_counts(counts: NDArray[np.int64]) -> str:
    parts = [f"{count} in {SPLITS[split]}" for split, count in enumerate(counts.tolist()) if count]
    return join_words(parts)


def describe_draw(drawn: DrawnSplits, draw: SplitDraw) -> list[str]:
    """Return what differs from exact shares, in sentences: classes that a split lacks, and counts off their targets."""
    sentences = []
    present = drawn.counts.sum(1) > 0
    for share, split in ((draw.val, VAL), (draw.test, TEST)):
        lacking = int((present & (drawn.counts[:, split] == 0)).sum())
        if share and lacking:
            sentences.append(f"{SPLITS[split]} has no images of {lacking:,} of {int(present.sum()):,} classes.")
        off = drawn.counts[:, split] - drawn.targets[:, split]
        parts = [
            f"{int(amount.sum()):,} images {word} in {int((amount > 0).sum()):,} classes"
            for amount, word in ((np.maximum(-off, 0), "fewer"), (np.maximum(off, 0), "more"))
            if amount.any()
        ]
        if parts:
            sentences.append(f"{SPLITS[split]} has {join_words(parts)} than its exact share.")
    return sentences
