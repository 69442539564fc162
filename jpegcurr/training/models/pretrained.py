"""Weights to start from: a file in timm's format, a run's, or a checkpoint of the ConvNeXt authors' program."""

from argparse import Namespace
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from jpegcurr.errors import UsageError
from jpegcurr.training.models.names import find_weights

StateDict = dict[str, torch.Tensor]
_HEADS = ("head.fc.weight", "head.weight", "fc.weight", "classifier.weight")


def load_weights(path: Path) -> StateDict:
    """Read the raw (not averaged) weights of a ``.safetensors`` file, a ``.pth`` that torch wrote, or a run's folder.

    A pickle cannot run code here (``weights_only``); of classes only argparse's Namespace is allowed, which the authors'
    checkpoints hold beside the weights.

    Raises:
        UsageError: there is no such file, or it holds no weights.
    """
    file = find_weights(path)
    try:
        with torch.serialization.safe_globals([Namespace]):
            content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # torch.load's errors on files that are no checkpoint have no common class
        reason = str(error).partition("\n")[0]
        raise UsageError(f"model.checkpoint: {file} cannot be read as weights ({reason}).") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UsageError(f"model.checkpoint: {file} holds something other than tensors by name.")
    weights: StateDict = clean_state_dict(content)
    return weights


def count_classes(weights: StateDict) -> int | None:
    """Return the number of outputs of the model that ``weights`` are of; None if no classifier has a usual name."""
    return next((len(weights[name]) for name in _HEADS if name in weights and weights[name].ndim), None)
