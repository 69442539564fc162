"""Losses on soft targets, the one of a recipe, and the targets themselves."""

from collections.abc import Callable

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, l1_loss, mse_loss, one_hot

from jpegcurr.recipe.schema import Recipe

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# (raw logits [b classes], targets [b classes]) -> the mean over the images; of all but cross-entropy, over images and classes.
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy_with_logits,
    "l1": l1_loss,
    "mse": mse_loss,
}


def recipe_loss(recipe: Recipe) -> Loss:
    """Return the loss of ``recipe``: (logits, the targets of ``Augment``), both float [b classes] -> a scalar, their mean."""
    return LOSSES[recipe.optim.loss]


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
