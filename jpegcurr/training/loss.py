"""Losses on soft targets, the one of a recipe with its class weights, and the targets themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.data.datasets import open_weights

if TYPE_CHECKING:
    from jpegcurr.training.data.balancing import Numbers

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# (logits [b classes], targets [b classes]) -> the mean over the images; of BCE, over images and classes.
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy_with_logits,
}
# The argument by which a loss takes a factor on the share that a target has of each class.
_WEIGHT_OF: dict[str, str] = {"cross_entropy": "weight", "bce": "pos_weight"}


def recipe_loss(recipe: Recipe, weights: Numbers | None = None) -> Loss:
    """Return the loss of ``recipe``: (logits, the targets of ``Augment``), both float [b classes] -> a scalar, their mean.

    ``weights`` are those of ``optim.class_weights``, float64 [classes]; by default they are computed from the recipe's first
    training set. An image's weight does not change what the others count: the sum is divided by the number of images.

    Raises:
        RecipeError: the recipe has weights for classes that its training set lacks.
        BetonError: ``weights`` are needed, and the training set cannot be opened.
    """
    loss = LOSSES[recipe.optim.loss]
    weights = open_weights(recipe) if weights is None else weights
    if weights is None:
        return loss
    name, factors = _WEIGHT_OF[recipe.optim.loss], torch.from_numpy(weights).float()

    def weighted(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal factors
        factors = factors.to(logits.device)  # which copies them once
        value: torch.Tensor = loss(logits, targets, **{name: factors})
        return value

    return weighted


def soft_targets(labels: torch.Tensor, classes: int, smoothing: float) -> torch.Tensor:
    """Return a distribution over ``classes`` for every label (int64 [b]), float32 [b classes].

    ``smoothing`` of each distribution is spread evenly over all classes, the label's own included.
    """
    off = smoothing / classes
    targets = torch.full((len(labels), classes), off, device=labels.device)
    return targets.scatter_(1, labels[:, None], 1 - smoothing + off)


def binary_targets(targets: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return 1 for every share of ``targets`` [b classes] above ``threshold``, and 0 for the others, for a loss per class."""
    return (targets > threshold).to(targets.dtype)
