"""Per-image outcomes of models on a validation set, in the order of the file."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.evaluation.image_set import ImageLoader
from jpegcurr.analysis.evaluation.jpeg_bytes import NOTHING, JpegBytes
from jpegcurr.analysis.journal import Part, pack_json, unpack_json
from jpegcurr.analysis.stats import Flags, calibration_error
from jpegcurr.runtime import Runtime, World
from jpegcurr.training.data.sampling import Loader
from jpegcurr.training.loss import image_losses
from jpegcurr.training.metrics import Normaliser, Scores, evaluate_batches

COLUMNS = 5  # numbers of an image: label, prediction, confidence, whether it is among the top five, loss


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Outcomes of one model on every image: columns of one length, [images].

    Attributes:
        labels, predicted: the true class and the most probable one.
        confidence: the probability of the predicted class, 0 to 1.
        top5: whether the true class is among the five most probable ones.
        loss: cross-entropy, nats; or what the run was trained by (see ``loss.image_losses``).
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
        """True where the predicted class is the true one, [images]."""
        return np.equal(self.labels, self.predicted, dtype=np.bool_)

    @property
    def scores(self) -> Scores:
        """Top-1, top-5 and mean loss over all images."""
        images, top1, top5 = len(self), int(self.right.sum()), int(self.top5.sum())
        return Scores(images, 100 * top1 / images, 100 * top5 / images, float(self.loss.mean()))

    @property
    def calibration_error(self) -> float:
        """The expected calibration error, see ``stats.calibration_error``."""
        return calibration_error(self.confidence, self.right)


@torch.inference_mode()
def observe(
    models: Sequence[tuple[torch.nn.Module, Normaliser]],
    loader: Loader,
    runtime: Runtime,
    on_images: Callable[[int], None] | None = None,
    *,
    kept: Part,
    loss: str = "cross_entropy",
    groups: Sequence[Sequence[int]] | None = None,
) -> list[Outcomes]:
    """Return the outcomes of each model on one pass of ``loader``, over the images of all processes together, in their order.

    Every process must call it, and each gets all outcomes. Images with a negative label are left out: they cannot be read.
    ``on_images`` is called after every batch with its number of images, times the models; not for those that are ``kept`` of an
    interrupted pass. ``loss`` is that of ``image_losses``. The probabilities of outputs in one of ``groups`` are added; labels
    are then numbers of groups.
    """
    unread: list[tuple[str, str]] = loader.unread if isinstance(loader, ImageLoader) else []
    parts: list[torch.Tensor] = []
    files = loader if isinstance(loader, ImageLoader) else None
    for batch in kept.recovered():
        parts.append(torch.from_numpy(batch["columns"]))
        unread += [(name, reason) for name, reason in unpack_json(batch["unread"])]
        if files is not None:
            files.read = JpegBytes(*unpack_json(batch["read"]))
    noted = len(unread)
    batches = loader.at(0, len(parts)) if len(parts) < len(loader) else iter(())
    for outputs, labels, targets in evaluate_batches(models, batches, runtime):
        logits = outputs if groups is None else [add_probabilities(of_model, groups) for of_model in outputs]
        losses = [image_losses(loss, of_model, labels, targets) for of_model in logits]
        columns = [_columns(*of_model, labels) for of_model in zip(logits, losses, strict=True)]
        parts.append(torch.stack(columns).cpu())
        images = len(labels) * len(models)
        read = NOTHING if files is None else files.read  # of all images so far
        reasons = pack_json(unread[noted:])
        kept.append(images, {"columns": parts[-1].numpy(), "unread": reasons, "read": pack_json(astuple(read))})
        noted = len(unread)
        if on_images:
            on_images(images)
    mine = torch.cat(parts, dim=2) if parts else torch.zeros(len(models), COLUMNS, 0, dtype=torch.float64)
    return [_outcomes(columns[:, columns[0] >= 0]) for columns in _gather(mine, runtime.world)]


def _gather(mine: torch.Tensor, world: World) -> torch.Tensor:
    """Return the columns of all processes [models columns images]; process r of n has the images r, r + n, r + 2n, ..."""
    if world.ranks == 1:
        return mine
    counts = [int(count) for count in world.gather(torch.tensor([mine.shape[2]]))]
    padded = torch.zeros(*mine.shape[:2], max(counts), dtype=mine.dtype)
    padded[:, :, : mine.shape[2]] = mine
    together = torch.empty(*mine.shape[:2], sum(counts), dtype=mine.dtype)
    for rank, (part, count) in enumerate(zip(world.gather(padded), counts, strict=True)):
        together[:, :, rank :: world.ranks] = part[:, :, :count]
    return together


def add_probabilities(logits: torch.Tensor, groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return the logarithms of the summed probabilities of the outputs in each of ``groups``: float32 [b groups]."""
    shares = logits.log_softmax(dim=1)
    return torch.stack([shares[:, list(group)].logsumexp(dim=1) for group in groups], dim=1)


def _columns(logits: torch.Tensor, losses: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return label, prediction, confidence, whether the label is in the top five, and loss of each image: float64 [5 b]."""
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    confidence = logits.softmax(dim=1).amax(dim=1)
    columns = (labels, top[:, 0], confidence, (top == labels[:, None]).any(dim=1), losses)
    return torch.stack([column.double() for column in columns])


def _outcomes(columns: torch.Tensor) -> Outcomes:
    labels, predicted, confidence, top5, loss = columns.numpy()
    return Outcomes(labels.astype(np.int64), predicted.astype(np.int64), confidence, top5.astype(np.bool_), loss)
