"""Description of a model in the outputs of the commands: the hash of its weights, and its preprocessing."""

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jpegcurr.recipe.values import ValResize
from jpegcurr.training.models.classifier import Classifier, Run


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """The identity of a model and of its inputs: the SHA-256 of its weights, and its preprocessing.

    ``sha256`` is of the run's file of weights; for other models, of their tensors in the order of ``state_dict``. ``size`` is
    in pixels, ``mean`` and ``std`` are by channel, on the scale 0 to 1.
    """

    sha256: str
    size: int
    interpolation: str
    val_crop: float | str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    val_resize: ValResize = "shorter_side"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        return asdict(self)

    def _describe_view(self) -> str:
        squashed = "squash" in (self.val_crop, self.val_resize)
        if isinstance(self.val_crop, str) or (squashed and self.val_crop == 1):
            return "whole image, squashed"
        how = {"squash": " of the squashed image", "box": " cut out before the resize", "shorter_side": ""}
        return f"crop {self.val_crop:.4g}{how[self.val_resize]}"

    def __str__(self) -> str:
        crop = self._describe_view()
        mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (self.mean, self.std))
        return f"{self.size} pixels, {self.interpolation}, {crop}, mean {mean}, std {std}, weights {self.sha256[:12]}"


def describe_model(model: Classifier) -> ModelDescription:
    """Return the hash of a model's weights, and its preprocessing."""
    mean, std = (tuple(round(value, 6) for value in (buffer.flatten() / 255).tolist()) for buffer in model.normalise.buffers())
    image = model.image
    view = (image.size, image.interpolation, image.val_crop)
    return ModelDescription(hash_weights(model), *view, mean, std, image.val_resize)


def hash_weights(model: Classifier) -> str:
    """Return the SHA-256 of a run's file of weights, or of another model's tensors, in hexadecimal."""
    file = (model.path if model.weights == "raw" else model.path / model.weights) / "model.safetensors"
    if isinstance(model, Run) and file.is_file():
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name, tensor in model.model.state_dict().items():
        digest.update(f"{name}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
