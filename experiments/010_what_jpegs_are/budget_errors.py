"""A simulation of how often ``jpegcurr budget`` is wrong: searches through five qualities whose true losses are known.

The run of this experiment: ``python experiments/010_what_jpegs_are/budget_errors.py 10000``, 3 minutes on one core.
"""

import sys
from functools import cache
from itertools import product

import numpy as np
from scipy.stats import norm

from jpegcurr.analysis.noninferiority import noninferiority_p, score

LEVEL = 0.05
SETTINGS = ((100, 0.05), (100, 0.02), (500, 0.02), (500, 0.01), (541, 0.005), (5000, 0.01), (5000, 0.005))  # images, margin
GAINED = (0.0, 0.002, 0.01, 0.05)  # share of the images that only the lower quality has right
LOSSES = {
    "all at the margin": (1, 1, 1, 1, 1),
    "0, then the margin": (0, 1, 1, 1, 1),
    "rising": (0, 0.5, 1, 1.5, 2),
}  # in margins


@cache
def most_lost(gained: int, images: int, margin: float) -> int:
    """Return the most lost images with which the loss is shown to be below the margin; -1 if none are."""
    low, high = -1, min(images - gained, int(gained + images * margin) + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if noninferiority_p(middle, gained, images, margin) <= LEVEL else (low, middle - 1)
    return low


def draw(
    searches: int, images: int, share: float, losses: np.ndarray, *, together: bool, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the numbers of images lost and gained, [searches qualities]; ``together``: what is lost stays lost further down."""
    random, odds = np.random.default_rng(seed), np.minimum((share + losses) / (1 - share), 1)
    gained = random.binomial(images, share, (searches, 1 if together else len(losses))) * np.ones(len(losses), int)
    if not together:
        return random.binomial(images - gained, odds), gained
    lost, before, reached = np.zeros(gained.shape, int), np.zeros(searches, int), 0.0
    for column, chance in enumerate(odds.tolist()):
        before = before + random.binomial(images - gained[:, 0] - before, (chance - reached) / (1 - reached))
        lost[:, column], reached = before, chance
    return lost, gained


def main(searches: int) -> None:
    """Print the percentage of wrong searches: as ``budget`` does it, by the normal distribution, and without an order."""
    for (images, margin), share, name, together in product(SETTINGS, GAINED, LOSSES, (True, False)):
        losses = margin * np.array(LOSSES[name])
        lost, gained = draw(searches, images, share, losses, together=together)
        limits = np.array([most_lost(count, images, margin) for count in gained.ravel().tolist()]).reshape(gained.shape)
        shown, by_normal = lost <= limits, score(lost, gained, images, margin) >= norm.isf(LEVEL)
        wrong = losses >= margin - 1e-12
        shares = [
            100 * (np.logical_and.accumulate(shown, axis=1) & wrong).any(axis=1).mean(),
            100 * (np.logical_and.accumulate(by_normal, axis=1) & wrong).any(axis=1).mean(),
            100 * (shown & wrong).any(axis=1).mean(),
        ]
        which = "the same images" if together else "independent"
        print(f"{images}\t{100 * margin:g}\t{100 * share:g}\t{name}\t{which}\t" + "\t".join(f"{value:.2f}" for value in shares))
    for (images, margin), share, together in product(SETTINGS, GAINED, (True, False)):
        lost, gained = draw(searches, images, share, np.zeros(5), together=together)
        limits = np.array([most_lost(count, images, margin) for count in gained.ravel().tolist()]).reshape(gained.shape)
        first, every = 100 * (lost <= limits)[:, 0].mean(), 100 * (lost <= limits).all(axis=1).mean()
        which = "the same images" if together else "independent"
        print(f"{images}\t{100 * margin:g}\t{100 * share:g}\tno loss\t{which}\t{first:.1f}\t{every:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
