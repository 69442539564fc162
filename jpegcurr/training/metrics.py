"""The evaluation pass that yields logits, and top-1, top-5 and loss from it, every sample counted once."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from jpegcurr.runtime import Runtime
from jpegcurr.training.data.sampling import Batch, Loader
from jpegcurr.training.loss import image_losses


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores over ``images`` images: ``top1`` and ``top5`` in percent, ``loss`` the mean of ``loss.image_losses``."""

    images: int
    top1: float
    top5: float
    loss: float

    def as_dict(self) -> dict[str, float]:
        """Return plain numbers by name."""
        return asdict(self)


class Normaliser(torch.nn.Module):
    """uint8 [b 3 h w] -> float32 of the same shape, less ``mean`` over ``std`` (per channel, on the 0 to 1 scale).

    ``levels`` and ``deviations`` are these numbers as they were given.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.levels, self.deviations = tuple(map(float, mean)), tuple(map(float, std))
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the normalised images."""
        return (images - self.mean) / self.std

    def equals(self, other: "Normaliser") -> bool:
        """Return whether the other has the same numbers, apart from rounding to three decimals."""
        own, their = ((*one.levels, *one.deviations) for one in (self, other))
        return len(own) == len(their) and all(abs(first - second) <= 1e-3 for first, second in zip(own, their, strict=True))

    def describe(self) -> str:
        """Return ``mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225``."""
        mean, deviation = (" ".join(f"{value:.4g}" for value in values) for values in (self.levels, self.deviations))
        return f"mean {mean}, deviation {deviation}"


@torch.inference_mode()
def evaluate_batches(
    models: Sequence[tuple[torch.nn.Module, Normaliser]], batches: Iterable[Batch], runtime: Runtime
) -> Iterator[tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None]]:
    """Yield the float32 logits [b classes] of every model and the labels [b] of every batch, on the runtime's device.

    The last is the distributions [b classes] of the batch, None where its labels are the targets.

    The models compute in the runtime's precision. They are in evaluation mode until the iterator ends or is closed, and then
    every part of them in the mode that it was in. Neighbours with the same normaliser share its output.
    """
    modes = [(part, part.training) for model, _ in models for part in model.modules()]  # of a part, not of all its parts
    training = [model.training for model, _ in models]
    try:
        for model, _ in models:
            model.eval()
        for batch in batches:
            logits, shared = [], None
            for model, normalise in models:
                if normalise is not shared:
                    inputs, shared = normalise(batch.images), normalise
                with runtime.autocast():
                    logits.append(model(inputs).float())
            yield logits, batch.labels, batch.targets
    finally:
        for (model, _), mode in zip(models, training, strict=True):
            model.train(mode)  # a network may do more there than to set the mode
        for part, mode in modes:
            part.training = mode


@torch.inference_mode()
def score(
    models: Sequence[torch.nn.Module], normalise: Normaliser, loader: Loader, runtime: Runtime, loss: str = "cross_entropy"
) -> list[Scores]:
    """Return the scores of every model on one pass of ``loader``, over the samples of all processes together.

    ``loss`` is that of the recipe; see ``image_losses``.
    """
    totals = torch.zeros(len(models), 4, dtype=torch.float64, device=runtime.device)
    for logits, labels, targets in evaluate_batches([(model, normalise) for model in models], loader.at(0), runtime):
        losses = [image_losses(loss, of_model, labels, targets) for of_model in logits]
        totals += torch.stack([_sums(*of_model, labels) for of_model in zip(logits, losses, strict=True)])
    totals = totals.cpu()  # the one time that an evaluation waits for its device
    return [
        Scores(int(images), 100 * top1 / images, 100 * top5 / images, loss / images)
        for images, top1, top5, loss in runtime.world.sum(totals).tolist()
    ]


def _sums(logits: torch.Tensor, losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the number of images, of correct top-1 and of correct top-5 answers, and the summed loss: float64 [4]."""
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
    count = labels.new_full((), len(labels))
    return torch.stack([count, top[:, 0].sum(), top.sum(), losses.sum()]).double()
