"""Freezing: all of a model but its classifier is kept as it came, and costs neither gradients nor memory for them."""

from typing import Any

import torch

from jpegcurr.errors import RecipeError
from jpegcurr.training.models.fit import classifier_names


def freeze(model: torch.nn.Module, *, frozen: bool) -> bool:
    """Let gradients be computed for the classifier alone, or for all parameters again; return whether that is a change.

    An optimiser leaves out parameters without gradients: neither weight decay nor momentum moves them, and its state of them
    begins when they are trained.

    Raises:
        RecipeError: the model does not say which part is its classifier.
    """
    _classifier_modules(model)  # or an error that says so
    trained = classifier_names(model) if frozen else {name for name, _ in model.named_parameters()}
    changed = False
    for name, parameter in model.named_parameters():
        changed |= parameter.requires_grad != (name in trained)
        parameter.requires_grad_(name in trained)
    return changed


def set_mode(model: torch.nn.Module, *, frozen: bool) -> None:
    """Put a model into training mode; if ``frozen``, its classifier alone, so that batch norm keeps its statistics."""
    model.train(not frozen)
    if frozen:
        for module in _classifier_modules(model):
            module.train()


def describe_frozen(model: torch.nn.Module, until: int, epochs: int) -> str:
    """Return which part of ``model`` is trained before epoch ``until``, with its number of parameters."""
    _classifier_modules(model)
    classifier = classifier_names(model)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    own = sum(size for name, size in sizes.items() if name in classifier)
    which = f"epochs 0 to {until - 1}" if until < epochs else "all epochs"
    return (
        f"model.freeze_until={until}: {which} train the classifier alone, {own:,} of {sum(sizes.values()):,} parameters; the "
        "rest is frozen, in evaluation mode"
    )


def _classifier_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    timm_model: Any = model
    if not hasattr(model, "get_classifier"):
        raise RecipeError(
            "model.freeze_until: the network does not say which part is its classifier (it has no get_classifier, as timm's "
            "models do). Add one that returns the module, or omit freeze_until."
        )
    heads = timm_model.get_classifier()
    modules = [head for head in (heads if isinstance(heads, list | tuple) else [heads]) if any(True for _ in head.parameters())]
    if not modules:
        raise RecipeError("model.freeze_until: the network's classifier has no parameters: omit freeze_until.")
    return modules
