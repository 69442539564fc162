"""Checks that a model's weights and outputs are finite numbers: accuracies of anything else would mislead."""

from collections.abc import Sequence
from pathlib import Path

import torch

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.training.metrics import Normaliser

_STATISTICS = ("running_mean", "running_var")  # of batch norms; other buffers may hold infinities on purpose, such as masks


def check_weights(model: torch.nn.Module, source: Path | str) -> None:
    """Raise UsageError, which names ``source``, if a parameter or a running statistic of ``model`` is not finite."""
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name.endswith(_STATISTICS))
    for name, tensor in (*model.named_parameters(), *buffers):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise UsageError(
                f"{source} holds weights that are infinite or not a number ({name}): it diverged, or was damaged. "
                f"{_advise(source)}"
            )


def check_outputs(model: torch.nn.Module, normalise: Normaliser, size: int, classes: int, source: Path | str) -> None:
    """Run a grey image of ``size`` pixels through ``model``, in evaluation mode.

    Raises:
        UsageError: the model of ``source`` cannot take it, or does not answer with ``classes`` finite numbers.
    """
    outputs = count_outputs(model, normalise, size, source)
    if outputs != classes:
        raise UsageError(
            f"{source}: its model answers with {outputs} numbers for one image, where there are {classes} classes."
        )


@torch.inference_mode()
def count_outputs(model: torch.nn.Module, normalise: Normaliser, size: int, source: Path | str) -> int:
    """Return the number of outputs of ``model``, in evaluation mode, for a grey image of ``size`` pixels.

    Raises:
        UsageError: the model of ``source`` cannot take it, or does not answer with finite numbers, one for each class.
    """
    device = normalise.mean.device
    image = torch.full((1, 3, size, size), 128, dtype=torch.uint8, device=device)
    try:
        logits = model(normalise(image))
    except Exception as error:  # whatever a layer raises for a shape that it cannot take
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{source}: its model cannot take images of {size} x {size} pixels ({reason}).") from None
    shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 1 or not logits.shape[1]:
        raise UsageError(f"{source}: its model answers with {shape} for one image, not with one number for each class, [1, n].")
    require_finite(logits, source, ["a grey image"])
    return int(logits.shape[1])


def require_finite(outputs: torch.Tensor, source: Path | str, images: Sequence[Path | str]) -> None:
    """Raise JpegcurrError if the ``outputs`` [b ...] of the model of ``source`` for b ``images`` are not all finite."""
    finite = torch.isfinite(outputs).flatten(1).all(dim=1).tolist()
    if not all(finite):
        raise JpegcurrError(
            f"{source}: its outputs for {images[finite.index(False)]} are infinite or not a number, and say nothing about an "
            f"image. {_advise(source)}"
        )


def _advise(source: Path | str) -> str:
    """Return the way out; ``source`` is a model, such as a run's folder, or a file or folder of a run's weights."""
    folder = Path(source)
    folder = folder.parent if folder.is_file() else folder
    run = folder.parent if folder.name in ("ema", "best") else folder
    sets = {"raw": run, "ema": run / "ema", "best": run / "best"}
    names = [name for name, of_set in sets.items() if (of_set / "model.safetensors").is_file()]
    if len(names) < 2:
        return "Give other weights, or train it again."
    return f"Give others of this run's weights ({', '.join(names)}: --weights NAME), or train it again."
