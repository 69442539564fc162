"""What models make of every image of a validation set, one by one, in the order of the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from jpegcurr.analysis.stats import Flags, calibration_error
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.sampling import Loader
from jpegcurr.training.metrics import Normaliser, Scores


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Columns of one length, [images].

    Attributes:
        labels, predicted: the true class and the likeliest.
        confidence: the probability of the likeliest, 0 to 1.
        top5: whether the true class is among the five likeliest.
        loss: cross-entropy, nats.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]
    top5: Flags
    loss: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> Flags:
        """Whether the likeliest class is the true one, [images]."""
        return np.equal(self.labels, self.predicted, dtype=np.bool_)

    @property
    def scores(self) -> Scores:
        """Their totals."""
        return Scores(len(self), 100 * float(self.right.mean()), 100 * float(self.top5.mean()), float(self.loss.mean()))

    @property
    def calibration_error(self) -> float:
        """See ``statistics.calibration_error``."""
        return calibration_error(self.confidence, self.right)


@torch.inference_mode()
def observe(
    models: Sequence[tuple[torch.nn.Module, Normaliser]],
    loader: Loader,
    runtime: Runtime,
    on_images: Callable[[int], None] | None = None,
) -> list[Outcomes]:
    """Put every image of one pass of ``loader`` through each model, which is put into evaluation mode and back.

    ``on_images`` is told the number of images of each batch, times the models, when they are done.
    """
    training = [model.training for model, _ in models]
    parts: list[list[torch.Tensor]] = [[] for _ in models]
    try:
        for model, _ in models:
            model.eval()
        for batch, labels, _ in loader.at(0):
            for (model, normalise), seen in zip(models, parts, strict=True):
                seen.append(_observe_batch(model, normalise(batch), labels, runtime))
            if on_images:
                on_images(len(labels) * len(models))
    finally:
        for (model, _), mode in zip(models, training, strict=True):
            model.train(mode)
    return [_outcomes(seen) for seen in parts]


def _outcomes(parts: list[torch.Tensor]) -> Outcomes:
    truth, predicted, confidence, top5, loss = torch.cat(parts, dim=1).numpy()
    return Outcomes(truth.astype(np.int64), predicted.astype(np.int64), confidence, top5.astype(np.bool_), loss)


def _observe_batch(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor, runtime: Runtime) -> torch.Tensor:
    """Label, prediction, confidence, whether in the top five, and loss of each image: float64 [5 b] on the host."""
    with runtime.autocast():
        logits = model(inputs).float()
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    confidence = logits.softmax(dim=1).amax(dim=1)
    loss = F.cross_entropy(logits, labels, reduction="none")
    columns = (labels, top[:, 0], confidence, (top == labels[:, None]).any(dim=1), loss)
    return torch.stack([column.double() for column in columns]).cpu()
