"""Selection of the images that are shown: by rule, not by hand."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.cam.results import Labels, Rule, ViewColumns

Places = NDArray[np.int64]


def choose_examples(
    columns: Sequence[ViewColumns], truth: Labels, pictures: int, seed: int
) -> list[tuple[int, tuple[Rule, ...]]]:
    """Choose at most ``pictures`` images, most changed first, each with the rules that chose it.

    Every rule has an equal share. An image that several rules choose counts once. What remains of the shares for this reason,
    or because a rule has too few images (none is lost, say), goes to the other rules in turn, one image at a time.

    - most changed, median, least changed: from that end or the middle of the images in the order of ``changes``; each rule can
      choose among a third of them.
    - lost, gained: right in the first view and wrong in another, or the other way round; the most changed of them.
    - flipped: another likeliest class than in the first view, for images whose class is unknown; the most changed of them.
    - random: by ``seed``. The images with this rule are a random sample of all images, whatever other rules they have.

    Of images that changed equally the earlier one comes first. With one view there is only random.

    Args:
        columns: the results of every view; the others are compared with the first.
        truth: each image's class, -1 where unknown, [images].
        pictures: the maximum; all images if there are no more.
        seed: the seed of the random ones.
    """
    similarity = changes(columns)
    order = np.argsort(similarity, kind="stable")
    candidates = _candidates(columns, truth, order, seed)
    places = {int(image): place for place, image in enumerate(order)}
    chosen = _share_out(candidates, min(pictures, len(truth)))
    return sorted(chosen, key=lambda choice: places[choice[0]])


def changes(columns: Sequence[ViewColumns]) -> NDArray[np.float64]:
    """Return each image's lowest Pearson correlation of any view's map with the first view's, [images]: low is much changed.

    Where that is undefined because just one of the two maps is zero everywhere, it counts as -1: the map vanished or appeared.
    Where both are zero, or a map is constant, it counts as 1, as it does with one view.
    """
    lowest = np.ones(len(columns[0].dark))
    for view in columns[1:]:
        correlation = view.similarity["pearson"].astype(np.float64)
        undefined = np.where(view.dark != columns[0].dark, -1.0, 1.0)
        lowest = np.minimum(lowest, np.where(np.isfinite(correlation), correlation, undefined))
    return lowest


def _candidates(columns: Sequence[ViewColumns], truth: Labels, order: Places, seed: int) -> dict[Rule, Places]:
    """Return the images that each rule can choose, best first."""
    random = np.random.default_rng(seed).permutation(len(order))
    if len(columns) == 1:
        return {"random": random}
    most, least = -(-len(order) // 3), (len(order) + 1) // 3
    middle = order[most : len(order) - least]
    from_middle = np.argsort(np.abs(np.arange(most, len(order) - least) - (len(order) - 1) / 2), kind="stable")
    known, first = truth >= 0, columns[0].predicted
    right = [view.predicted == truth for view in columns]
    lost = known & right[0] & ~np.logical_and.reduce(right[1:])
    gained = known & ~right[0] & np.logical_or.reduce(right[1:])
    flipped = ~known & np.logical_or.reduce([view.predicted != first for view in columns[1:]])
    candidates: dict[Rule, Places] = {
        "most changed": order[:most],
        "median": middle[from_middle],
        "least changed": order[len(order) - least :][::-1],
        "lost": order[lost[order]],
        "gained": order[gained[order]],
        "flipped": order[flipped[order]],
        "random": random,
    }
    useless = {"flipped"} if known.all() else set() if known.any() else {"lost", "gained"}
    return {rule: images for rule, images in candidates.items() if rule not in useless}


def _share_out(candidates: dict[Rule, Places], pictures: int) -> list[tuple[int, tuple[Rule, ...]]]:
    """Give every rule its share, then one more image in turn; ``random`` lists all images, so there are enough."""
    share, more = divmod(pictures, len(candidates))
    chosen: dict[int, list[Rule]] = {}
    remaining = {}
    for number, (rule, images) in enumerate(candidates.items()):
        count = share + (number < more)
        for image in images[:count].tolist():
            chosen.setdefault(image, []).append(rule)
        remaining[rule] = iter(images[count:].tolist())
    while len(chosen) < pictures:
        for rule, images in remaining.items():
            if len(chosen) < pictures:
                _choose_one_more(chosen, rule, images)
    return [(image, tuple(rules)) for image, rules in chosen.items()]


def _choose_one_more(chosen: dict[int, list[Rule]], rule: Rule, images: Iterator[int]) -> None:
    """Choose the rule's next new image; images before it that are chosen already get this rule too."""
    for image in images:
        is_new = image not in chosen
        chosen.setdefault(image, []).append(rule)
        if is_new:
            return
