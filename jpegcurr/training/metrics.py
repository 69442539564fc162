"""Accuracy and loss of a model on a loader, every sample counted once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F

from jpegcurr.runtime import Runtime
from jpegcurr.training.data.sampling import Loader


@dataclass(frozen=True, slots=True)
class Scores:
    """Of ``images`` images: ``top1`` and ``top5`` in percent, ``loss`` the mean cross-entropy in nats."""

    images: int
    top1: float
    top5: float
    loss: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers by name."""
        return asdict(self)


class Normaliser(torch.nn.Module):
    """uint8 [b 3 h w] -> float32 of the same shape, less ``mean`` over ``std`` (per channel, on the 0 to 1 scale)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return (images.float() - self.mean) / self.std


@torch.inference_mode()
def score(models: Sequence[torch.nn.Module], normalise: Normaliser, loader: Loader, runtime: Runtime) -> list[Scores]:
    """Evaluate every model (put into evaluation mode and back) on one pass of ``loader``, all processes' parts together."""
    training = [model.training for model in models]
    totals = torch.zeros(len(models), 4, dtype=torch.float64)
    try:
        for model in models:
            model.eval()
        for batch, labels, _ in loader.at(0):
            inputs = normalise(batch)
            totals += torch.stack([_totals(model, inputs, labels, runtime) for model in models]).cpu()
    finally:
        for model, mode in zip(models, training, strict=True):
            model.train(mode)
    return [
        Scores(int(images), 100 * top1 / images, 100 * top5 / images, loss / images)
        for images, top1, top5, loss in runtime.world.sum(totals).tolist()
    ]


def _totals(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    """How many there are, are right at once, are right among the first five, and the summed loss: float64 [4]."""
    with runtime.autocast():
        logits = model(inputs).float()
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    count = torch.tensor(len(labels), device=loss.device)
    return torch.stack([count, top[:, 0].sum(), top.sum(), loss]).double()
