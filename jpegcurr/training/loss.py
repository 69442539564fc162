"""Losses on soft targets, the one of a recipe with its class weights, and the targets themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss, one_hot

from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.data.datasets import open_weights

if TYPE_CHECKING:
    from jpegcurr.training.data.balancing import Numbers

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# (raw logits [b classes], targets [b classes]) -> the mean over the images; of all but cross-entropy, over images and classes.
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy_with_logits,
    "l1": l1_loss,
    "mse": mse_loss,
}
_HALF = (torch.bfloat16, torch.float16)
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
    loss = _in_float32(LOSSES[recipe.optim.loss])
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


def _in_float32(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return ``loss``, computed in float32: autocast leaves the softmax of cross-entropy in the precision of the logits."""

    def of_whole(logits: torch.Tensor, targets: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        return loss(logits.float() if logits.dtype in _HALF else logits, targets, **options)

    return of_whole


def image_losses(name: str, logits: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
    """Return the loss of every image in validation, float [b], against its target as in training, neither smoothed nor mixed.

    ``name`` is the recipe's loss, and ``targets`` float [b classes] are its distributions. Where labels (int64 [b]) are the
    targets, ``bce`` is judged by cross-entropy, as such networks are published.
    """
    if targets is None and name in ("cross_entropy", "bce"):
        return cross_entropy(logits, labels, reduction="none")
    if targets is None:
        targets = one_hot(labels.clamp(min=0), logits.shape[1]).to(logits.dtype)  # negative: left out by the caller
    losses = LOSSES[name](logits, targets, reduction="none")
    return losses.mean(dim=1) if losses.ndim == 2 else losses


def smoothed(targets: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Return distributions [b classes] of which ``smoothing`` is spread evenly over all classes."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1] if smoothing else targets


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
