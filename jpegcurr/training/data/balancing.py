"""Classes of very different sizes: which images of a class an epoch draws, and what the class weighs in the loss."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jpegcurr.errors import RecipeError, did_you_mean
from jpegcurr.recipe.values import Balance

Indices = NDArray[np.int64]
Numbers = NDArray[np.float64]

# A class of n images is drawn, or weighted, in proportion to this power of n.
_DRAWN: Mapping[Balance, float] = {"sqrt": 0.5, "equal": 0.0}
_WEIGHED: Mapping[Literal["balanced", "sqrt"], float] = {"balanced": -1.0, "sqrt": -0.5}
_NAMED = 20  # classes that a message lists


def quotas(sizes: Indices, balance: Balance, count: int) -> Numbers:
    """Return how many of ``count`` samples an epoch draws from every class of ``sizes`` images, on average, float64 [k]."""
    shares = _power(sizes, _DRAWN[balance])
    drawn: Numbers = count * shares / shares.sum()
    return drawn


def draw(labels: Indices, balance: Balance, count: int, generator: np.random.Generator) -> Indices:
    """Draw ``count`` occurrences of samples, in the order of samples; the n-th of sample i is ``i + n * len(labels)``.

    Of every class its quota is drawn, rounded up or down at random so that it is right on average (systematic sampling). Within
    a class every image occurs equally often, up to one, which the last round draws at random.
    """
    sizes = np.bincount(labels)
    ends = np.floor(np.cumsum(quotas(sizes, balance, count)) + generator.random()).astype(np.int64)
    ends[-1] = count  # which rounding could miss
    drawn = np.diff(ends, prepend=0)
    shuffled = np.lexsort((generator.random(len(labels)), labels))  # class by class
    rank = np.empty(len(labels), np.int64)  # of every sample within its class
    rank[shuffled] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    times = (drawn[labels] - rank + sizes[labels] - 1) // sizes[labels]  # at least 0: a rank is less than its class's size
    samples = np.repeat(np.arange(len(labels)), times)
    occurrence = np.arange(count) - np.repeat(np.cumsum(times) - times, times)
    numbers: Indices = samples + occurrence * len(labels)
    return numbers


def class_weights(sizes: Indices, names: Sequence[str], wanted: Literal["balanced", "sqrt"] | Mapping[str, float]) -> Numbers:
    """Return the weight of every class in the loss, float64 [k], scaled so that the mean over all images is 1.

    ``wanted`` is a recipe's ``optim.class_weights``. A class without images, whose shares come from smoothing alone, gets 1.

    Raises:
        RecipeError: it names a class that ``names`` lacks.
    """
    if isinstance(wanted, str):
        weights = _power(sizes, _WEIGHED[wanted])
    else:
        if strangers := [name for name in wanted if name not in names]:
            hint = did_you_mean(strangers[0], list(names))
            known = f" The classes are {', '.join(names)}." if len(names) <= _NAMED and not hint else ""
            raise RecipeError(f"optim.class_weights.{strangers[0]}: the training images have no such class.{hint}{known}")
        weights = np.array([float(wanted.get(name, 1.0)) for name in names])
    weights = weights * sizes.sum() / (weights * sizes).sum()
    return np.where(sizes > 0, weights, 1.0)


def describe_balance(sizes: Indices, names: Sequence[str], balance: Balance, repeats: int = 1) -> str:
    """Return how often an epoch shows the images of the smallest and of the largest class."""
    count, given = int(sizes.sum()), np.flatnonzero(sizes)
    times = quotas(sizes, balance, -(-count // repeats))[given] / sizes[given] * repeats
    small, large = given[sizes[given].argmin()], given[sizes[given].argmax()]
    rarest, commonest = (
        f"an image of {names[number]} ({sizes[number]:,} images) comes {times[np.searchsorted(given, number)]:.3g} times"
        for number in (small, large)
    )
    return f"batch.balance={balance}: in an epoch {rarest} on average, {commonest}"


def describe_weights(weights: Numbers, names: Sequence[str], sizes: Indices) -> str:
    """Return the smallest and the largest weight of a class."""
    low, high = (
        f"{weights[at]:.3g} ({names[at]}, {sizes[at]:,} images)" for at in (int(weights.argmin()), int(weights.argmax()))
    )
    return f"class weights in the loss: {low} to {high}; their mean over the training images is 1"


def _power(sizes: Indices, exponent: float) -> Numbers:
    """Return every size to the power of ``exponent``, and 0 for classes without images."""
    return np.where(sizes > 0, np.maximum(sizes, 1).astype(np.float64) ** exponent, 0.0)
