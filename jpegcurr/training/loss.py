"""Losses on soft targets, the one of a recipe, and the targets themselves."""

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from jpegcurr.recipe.schema import Recipe

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# (logits [b classes], targets [b classes]) -> the mean over the images; of BCE, over images and classes.
LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy_with_logits,
}


def recipe_loss(recipe: Recipe) -> Loss:
    """Return the loss of ``recipe``: (logits, the targets of ``Augment``), both float [b classes] -> a scalar, their mean."""
    return LOSSES[recipe.optim.loss]


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
