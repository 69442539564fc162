"""Weights to start from: timm's own, a run's, any file of weights, or one that the ConvNeXt authors' program wrote."""

from argparse import Namespace
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from jpegcurr.errors import UsageError

StateDict = dict[str, torch.Tensor]
_HEADS = ("head.fc.weight", "head.weight", "fc.weight", "classifier.weight")


def find_weights(path: Path) -> Path:
    """The file that ``path`` is, or that holds the weights of the run that it is; raises UsageError if there is none."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"model.checkpoint: {file} does not exist. Give a file of weights, or the folder of a run.")
    return file


def load_weights(path: Path) -> StateDict:
    """Read weights from a ``.safetensors``, a ``.pth`` that torch wrote, or a run's folder; raw ones, not averaged ones.

    Nothing that a pickle could do is done (``weights_only``), but for argparse's Namespace, which the authors' checkpoints
    hold beside the weights.

    Raises:
        UsageError: there is no such file, or it holds no weights.
    """
    file = find_weights(path)
    try:
        with torch.serialization.safe_globals([Namespace]):
            found = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except Exception as error:  # what torch.load makes of bytes that are no checkpoint has no common class
        reason = str(error).partition("\n")[0]
        raise UsageError(f"model.checkpoint: {file} cannot be read as weights ({reason}).") from None
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise UsageError(f"model.checkpoint: {file} holds something else than weights by name.")
    weights: StateDict = clean_state_dict(found)
    return weights


def count_classes(weights: StateDict) -> int | None:
    """How many outputs the model had that ``weights`` are of; None if it had no classifier by a usual name."""
    return next((len(weights[name]) for name in _HEADS if name in weights), None)
