"""Which images are shown: chosen by rule, not by hand."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.cam.results import FIGURES, Rule, ViewColumns

Places = NDArray[np.int64]


def choose_examples(
    columns: Sequence[ViewColumns], truth: NDArray[np.int32], pictures: int, seed: int
) -> list[tuple[int, tuple[Rule, ...]]]:
    """Choose at most ``pictures`` images, most changed first, each with the rules that it is shown by.

    Every rule has an equal share. One image may be chosen by several and counts once; what is left of the shares for this
    reason, or because a rule has too few (no image is lost, say), goes round the other rules, one more image at a time.

    - most changed, median, least changed: from its end or its middle, a third each of the images in the order of ``changes``.
    - lost, gained: right in the first view and wrong in another, or the other way round; the most changed of them.
    - flipped: another likeliest class than in the first view, of images whose truth is unknown; the most changed of them.
    - random: by ``seed``. Those that bear it are a random sample of all images, whatever other rules they bear.

    Of images that changed as much as each other the earlier one comes first. With one view there is nothing but random.

    Args:
        columns: of every view; the first is what the others are compared with.
        truth: each image's class, -1 where unknown, [images].
        pictures: how many at most; all images where there are no more.
        seed: of the random ones.
    """
    ranked = changes(columns)
    order = np.argsort(ranked, kind="stable")
    lists = _by_rule(columns, truth, order, seed)
    places = {int(image): place for place, image in enumerate(order)}
    chosen = _chosen(lists, min(pictures, len(truth)))
    return sorted(chosen, key=lambda each: places[each[0]])


def changes(columns: Sequence[ViewColumns]) -> NDArray[np.float64]:
    """How far each image's maps stay from changing: its lowest Pearson against the first view over the others, [images].

    Where that is undefined because one of the two maps is dark and the other is not, it counts as -1: nothing is left of a
    map, or one came of nothing. Where both are dark, or the cells of a map are all the same, it counts as 1, as it does
    with one view.
    """
    found = np.ones(len(columns[0].dark))
    for each in columns[1:]:
        alike = each.figures[:, FIGURES.index("pearson")].astype(np.float64)
        undefined = np.where(each.dark != columns[0].dark, -1.0, 1.0)
        found = np.minimum(found, np.where(np.isfinite(alike), alike, undefined))
    return found


def _by_rule(columns: Sequence[ViewColumns], truth: NDArray[np.int32], order: Places, seed: int) -> dict[Rule, Places]:
    """The images that each rule could choose, best first."""
    drawn = np.random.default_rng(seed).permutation(len(order))
    if len(columns) == 1:
        return {"random": drawn}
    most, least = -(-len(order) // 3), (len(order) + 1) // 3
    middle = order[most : len(order) - least]
    from_middle = np.argsort(np.abs(np.arange(most, len(order) - least) - (len(order) - 1) / 2), kind="stable")
    known, first = truth >= 0, columns[0].predicted
    right = [each.predicted == truth for each in columns]
    lost = known & right[0] & ~np.logical_and.reduce(right[1:])
    gained = known & ~right[0] & np.logical_or.reduce(right[1:])
    flipped = ~known & np.logical_or.reduce([each.predicted != first for each in columns[1:]])
    lists: dict[Rule, Places] = {
        "most changed": order[:most],
        "median": middle[from_middle],
        "least changed": order[len(order) - least :][::-1],
        "lost": order[lost[order]],
        "gained": order[gained[order]],
        "flipped": order[flipped[order]],
        "random": drawn,
    }
    useless = {"flipped"} if known.all() else set() if known.any() else {"lost", "gained"}
    return {rule: images for rule, images in lists.items() if rule not in useless}


def _chosen(lists: dict[Rule, Places], pictures: int) -> list[tuple[int, tuple[Rule, ...]]]:
    """First each rule's share, then one more image for each in turn; random has them all, so that there are enough."""
    share, more = divmod(pictures, len(lists))
    chosen: dict[int, list[Rule]] = {}
    left = {}
    for number, (rule, images) in enumerate(lists.items()):
        count = share + (number < more)
        for image in images[:count].tolist():
            chosen.setdefault(image, []).append(rule)
        left[rule] = iter(images[count:].tolist())
    while len(chosen) < pictures:
        for rule, images in left.items():
            if len(chosen) < pictures:
                _choose_one_more(chosen, rule, images)
    return [(image, tuple(rules)) for image, rules in chosen.items()]


def _choose_one_more(chosen: dict[int, list[Rule]], rule: Rule, images: Iterator[int]) -> None:
    """Those that are passed over are chosen by this rule too."""
    for image in images:
        anew = image not in chosen
        chosen.setdefault(image, []).append(rule)
        if anew:
            return
