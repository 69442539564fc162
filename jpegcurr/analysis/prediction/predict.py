"""Classification of image files, batch by batch, so that any number of files takes the same memory."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.journal import Arrays, Part, pack_json, unpack_json
from jpegcurr.encoding.jpeg.codec import decode_rgb
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.encoding.sources.base import MISSING, read_bytes
from jpegcurr.encoding.sources.labelled_files import LabelledFiles
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.data.crops import images_at_once
from jpegcurr.training.data.transforms import centre_crop, whole_image
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.finite import require_finite
from jpegcurr.training.models.load import Model, load_model

BATCH = 64
TOP = 5
View = Literal["crop", "whole"]


@dataclass(frozen=True, slots=True)
class FilePrediction:
    """The prediction for one file, with all probabilities and the pixels.

    Attributes:
        file: the image file.
        truth: the label of the file, see ``LabelledFiles``; None if its class is not known, or is none of the model's.
        probabilities: float32 [classes]; None if the file could not be read.
        view: the pixels that the model saw, uint8 [size size 3], or [h w 3] of a whole image; None if the file could not be
            read, or was not read again in a resumed pass.
        error: the reason why the file could not be read, else empty.
    """

    file: Path
    truth: int | None
    probabilities: NDArray[np.float32] | None
    view: Pixels | None
    error: str = ""

    def likeliest(self, top: int = TOP) -> list[int]:
        """Return the ``top`` most probable labels; of equal ones the lower first. Empty if the file could not be read."""
        return [] if self.probabilities is None else np.argsort(-self.probabilities, kind="stable")[:top].tolist()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The (class, probability) pairs of one file, the most probable first, or the ``error`` why it could not be read."""

    file: str
    top: tuple[tuple[str, float], ...]
    error: str = ""


def read_file(path: Path) -> bytes:
    """Read the bytes of an image file.

    Raises:
        ImageError: the path cannot be opened or is not a file.
        EncodeError: the disk fails.
    """
    return read_bytes(str(path), 0, MISSING, listed=False)


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Read one file as upright RGB, uint8 [h w 3].

    Raises:
        ImageError, EncodeError: as ``read_file``; or the image is damaged, or has more than ``max_pixels``.
    """
    return decode_rgb(read_file(path), max_pixels=max_pixels)


def number_classes(run: Classifier, files: LabelledFiles) -> list[int]:
    """Return the number of every file's class among those of ``run``, by its targets if it has any; -1 if it has none."""
    return files.renamed(run.class_list.truths).numbers(run.classes, known=run.names_known)


def classify(
    run: Classifier,
    files: LabelledFiles,
    runtime: Runtime,
    *,
    max_pixels: int = MAX_PIXELS,
    view: View = "crop",
    kept: Part | None = None,
    viewed: Collection[Path] = (),
) -> Iterator[FilePrediction]:
    """Yield the prediction of ``run`` for every file, in order; one of more than ``max_pixels`` is not read.

    The model gets the centre crop of validation, or whole images, one at a time, as large as validation makes them before it
    crops (``transforms.whole_image``).

    Args:
        run: the model.
        files: the files, with their classes.
        runtime: where to compute.
        max_pixels: how many pixels an image may have.
        view: see above.
        kept: keeps the probabilities of every batch, and has those of an interrupted pass; the files of these are read again
            only if they are among ``viewed``, and the predictions of others have no ``view``.
        viewed: see ``kept``.

    Raises:
        UsageError: ``view`` is whole, and the model takes no other size than its own.
        ImageError: a file of ``viewed`` cannot be read any more.
    """
    if view == "whole":
        _refuse_fixed_size(run, runtime)
    truths = [None if number < 0 else number for number in number_classes(run, files)]
    labelled = list(zip(files.files, truths, strict=True))
    batch = 1 if view == "whole" else images_at_once(run.image.size, BATCH)
    start = 0
    for results in kept.recovered() if kept else ():
        part = labelled[start : start + batch]
        start += len(part)
        for prediction in _restore(part, results):
            again = prediction.file in viewed and not prediction.error
            yield replace(prediction, view=_show_again(run, max_pixels, view, prediction.file)) if again else prediction
    for first in range(start, len(labelled), batch):
        predictions = _classify_batch(run, labelled[first : first + batch], runtime, max_pixels, view)
        if kept:
            kept.append(len(predictions), _pack(predictions, len(run.classes)))
        yield from predictions


def _show(run: Classifier, max_pixels: int, view: View, file: Path) -> torch.Tensor:
    """Return what the model sees of a file, uint8 [3 h w]; raises as ``read_image``."""
    return (whole_image if view == "whole" else centre_crop)(read_image(file, max_pixels), run.image)


def _pack(predictions: Sequence[FilePrediction], classes: int) -> Arrays:
    """Return the probabilities of a batch, float32 [read classes], and the errors of all its files, for a journal."""
    rows = [prediction.probabilities for prediction in predictions if prediction.probabilities is not None]
    probabilities = np.stack(rows) if rows else np.zeros((0, classes), np.float32)
    return {"probabilities": probabilities, "errors": pack_json([prediction.error for prediction in predictions])}


def _restore(labelled: Sequence[tuple[Path, int | None]], results: Arrays) -> Iterator[FilePrediction]:
    """Yield the predictions of a batch that ``_pack`` has packed, without pixels."""
    rows = iter(results["probabilities"])
    for (file, truth), error in zip(labelled, unpack_json(results["errors"]), strict=True):
        yield FilePrediction(file, truth, None if error else next(rows), None, error)


def _show_again(run: Classifier, max_pixels: int, view: View, file: Path) -> Pixels:
    try:
        return _show(run, max_pixels, view, file).permute(1, 2, 0).numpy()
    except ImageError as error:
        raise ImageError(f"{file} was classified, but cannot be read again to be shown: {error}.") from None


@torch.inference_mode()
def _refuse_fixed_size(run: Classifier, runtime: Runtime) -> None:
    """Raise UsageError if the model does not take inputs that are longer than its own."""
    size = run.image.size
    try:
        run.model(run.normalise(torch.zeros(1, 3, size, 2 * size, dtype=torch.uint8, device=runtime.device)))
    except (RuntimeError, AssertionError, ValueError):  # whatever a network's layers raise for a shape
        raise UsageError(f"--view whole: {run.path} takes inputs of {size} by {size} pixels only. Omit it.") from None


@torch.inference_mode()
def class_probabilities(run: Classifier, batch: torch.Tensor, images: Sequence[Path | str]) -> NDArray[np.float32]:
    """Return the probability of every class for crops, uint8 [b 3 h w] on the model's device, as float32 [b classes].

    Raises:
        JpegcurrError: an output is not a finite number; it names the first such one of ``images``.
    """
    logits = run.model(run.normalise(batch)).float()
    require_finite(logits, run.path, images)
    probabilities: NDArray[np.float32] = logits.softmax(dim=1).cpu().numpy()
    return probabilities


def _classify_batch(
    run: Classifier, labelled: Sequence[tuple[Path, int | None]], runtime: Runtime, max_pixels: int, view: View
) -> list[FilePrediction]:
    """Return the predictions for files, given with their labels."""
    views: dict[Path, torch.Tensor] = {}
    predictions: dict[Path, FilePrediction] = {}
    truths = dict(labelled)
    for file, truth in truths.items():
        try:
            views[file] = _show(run, max_pixels, view, file)
        except ImageError as error:
            predictions[file] = FilePrediction(file, truth, None, None, str(error))
    if views:
        batch = torch.stack(list(views.values())).to(runtime.device, memory_format=torch.channels_last)
        for file, row in zip(views, class_probabilities(run, batch, list(views)), strict=True):
            predictions[file] = FilePrediction(file, truths[file], row, views[file].permute(1, 2, 0).numpy())
    return [predictions[file] for file, _ in labelled]


def summarise(prediction: FilePrediction, classes: Sequence[str], top: int = TOP) -> Prediction:
    """Return the ``top`` most probable classes by name, without the pixels."""
    if prediction.probabilities is None:
        return Prediction(str(prediction.file), (), prediction.error)
    pairs = tuple((classes[label], float(prediction.probabilities[label])) for label in prediction.likeliest(top))
    return Prediction(str(prediction.file), pairs)


def predict_images(
    model: Model,
    files: Sequence[str | Path],
    runtime: Runtime | None = None,
    top: int = TOP,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Iterator[Prediction]:
    """Yield the ``top`` most probable classes of every file, in order; ``model`` is whatever ``load_model`` takes.

    ``progress`` is called with the number of files done and in all.
    """
    runtime = runtime or resolve_runtime()
    run = load_model(model, runtime)
    listed = LabelledFiles.of([Path(file) for file in files])

    def summaries() -> Iterator[Prediction]:
        for done, prediction in enumerate(classify(run, listed, runtime), start=1):
            progress(done, len(listed))
            yield summarise(prediction, run.classes, top)

    return summaries()
