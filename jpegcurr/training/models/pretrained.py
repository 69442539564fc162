"""Weights to start from: a file of timm's, a run's, or a checkpoint of another program, renamed by ``key_maps``."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict

from jpegcurr.errors import UsageError
from jpegcurr.training.models.key_maps import StateDict, to_timm
from jpegcurr.training.models.names import find_weights

_HEADS = ("head.fc.weight", "head.weight", "fc.weight", "classifier.weight")


def load_weights(path: Path, like: torch.nn.Module | None = None) -> StateDict:
    """Read the raw (not averaged) weights of a ``.safetensors`` file, a ``.pth`` that torch wrote, or a run's folder.

    Names of other programs become timm's. With the model ``like``, which may be on the meta device, tensors also take the shape
    that they have in it, where that differs by dimensions of length 1 alone: some models of timm's have convolutions of one
    pixel in place of the others' linear layers.

    A pickle cannot run code here (``weights_only``); of classes only argparse's Namespace is allowed, which the authors'
    checkpoints hold beside the weights.

    Raises:
        UsageError: there is no such file, or it holds no weights.
    """
    file = find_weights(path)
    weights = to_timm(_read_tensors(file))
    if like is None:
        return weights
    shapes = {name: tensor.shape for name, tensor in like.state_dict().items()}
    return {name: _reshape(tensor, shapes.get(name, tensor.shape)) for name, tensor in weights.items()}


def _read_tensors(file: Path) -> StateDict:
    content = load_safetensors(file) if file.suffix == ".safetensors" else read_checkpoint(file)
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UsageError(f"model.checkpoint: {file} holds something other than tensors by name.")
    weights: StateDict = clean_state_dict(content)
    return weights


def _reshape(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    same = [side for side in tensor.shape if side != 1] == [side for side in shape if side != 1]
    return tensor.reshape(shape) if same else tensor


def load_safetensors(file: Path) -> StateDict:
    """Read a ``.safetensors`` file; raise UsageError if it is none."""
    try:
        return load_file(file)
    except Exception as error:
        raise _unreadable(file, error) from None


def read_checkpoint(file: Path, *, tensors: bool = True) -> Any:
    """Return the content of a file that torch wrote, as ``load_weights`` reads it; without ``tensors``, these have no data.

    Raises:
        UsageError: it is no such file.
    """
    try:
        with torch.serialization.safe_globals([Namespace]):
            return torch.load(file, "cpu" if tensors else "meta", weights_only=True)
    except Exception as error:  # torch.load's errors on files that are no checkpoint have no common class
        raise _unreadable(file, error) from None


def _unreadable(file: Path, error: Exception) -> UsageError:
    reason = str(error).partition("\n")[0]
    return UsageError(f"model.checkpoint: {file} cannot be read as weights ({reason}).")


def count_classes(weights: StateDict) -> int | None:
    """Return the number of outputs of the model that ``weights`` are of; None if no classifier has a usual name."""
    return next((len(weights[name]) for name in _HEADS if name in weights and weights[name].ndim), None)
