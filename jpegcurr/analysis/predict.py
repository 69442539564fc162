"""Classify image files."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from jpegcurr.encoding.codec import decode_rgb
from jpegcurr.encoding.folders import SUFFIXES, image_files
from jpegcurr.encoding.items import MISSING, read_bytes
from jpegcurr.encoding.pictures import Pixels
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.model import Run
from jpegcurr.training.views import centre_view

BATCH = 64
TOP = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """One file: (class, probability) pairs, likeliest first, or the ``error`` that kept it from being read."""

    file: str
    top: tuple[tuple[str, float], ...]
    error: str = ""


def find_images(path: Path) -> list[Path]:
    """Return an image file, or all of them below a folder, sorted; raises UsageError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"{path} does not exist. Give an image, or a folder of images.")
    images = sorted(path / name for name, _ in image_files(path) if name)
    if not images:
        raise UsageError(f"{path} holds no images (of the kinds {', '.join(sorted(SUFFIXES))}).")
    return images


def read_file(path: Path) -> bytes:
    """The bytes of an image file; raises ImageError for what cannot be opened or is no file, EncodeError if the disk fails."""
    return read_bytes(str(path), 0, MISSING, listed=False)


def read_image(path: Path) -> Pixels:
    """Read one file as upright RGB, uint8 [h w 3]; raises as ``read_file``, and ImageError for what does not decode."""
    return decode_rgb(read_file(path))


def predict_images(run: Run, files: Sequence[Path], runtime: Runtime, top: int = TOP) -> Iterator[Prediction]:
    """Yield a prediction for every file, in order."""
    for start in range(0, len(files), BATCH):
        yield from _predict_batch(run, files[start : start + BATCH], runtime, min(top, len(run.classes)))


@torch.inference_mode()
def _predict_batch(run: Run, files: Sequence[Path], runtime: Runtime, top: int) -> list[Prediction]:
    views: dict[Path, torch.Tensor] = {}
    errors: dict[Path, str] = {}
    for file in files:
        try:
            views[file] = centre_view(read_image(file), run.image)
        except ImageError as error:
            errors[file] = str(error)
    predictions = {file: Prediction(str(file), (), reason) for file, reason in errors.items()}
    if views:
        batch = torch.stack(list(views.values())).to(runtime.device, memory_format=torch.channels_last)
        logits = run.model(run.normalise(batch))
        likeliest = logits.softmax(dim=1).topk(top, dim=1)
        for file, labels, shares in zip(views, likeliest.indices.tolist(), likeliest.values.tolist(), strict=True):
            pairs = tuple((run.classes[label], share) for label, share in zip(labels, shares, strict=True))
            predictions[file] = Prediction(str(file), pairs)
    return [predictions[file] for file in files]


def to_csv(predictions: Sequence[Prediction], top: int = TOP) -> str:
    """``file,class_1,probability_1,...,error``, one line a file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    pairs = [f"{what}_{rank}" for rank in range(1, top + 1) for what in ("class", "probability")]
    writer.writerow(["file", *pairs, "error"])
    for prediction in predictions:
        cells = [cell for name, share in prediction.top for cell in (name, f"{share:.6f}")]
        writer.writerow([prediction.file, *cells, *[""] * (2 * top - len(cells)), prediction.error])
    return text.getvalue()
