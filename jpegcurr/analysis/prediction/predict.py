"""Classify image files, as many as there are: what is known of one is handed on before the next batch is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.codec import decode_rgb
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.encoding.sources.base import MISSING, read_bytes
from jpegcurr.encoding.sources.image_folder import SUFFIXES, image_files
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.transforms import centre_crop
from jpegcurr.training.models.load import Classifier

BATCH = 64
TOP = 5


@dataclass(frozen=True, slots=True)
class FilePrediction:
    """One file while it is at hand.

    ``probabilities`` float32 [classes] and ``view``, what the model saw, uint8 [size size 3]; both None if there is an
    ``error``, which kept the file from being read. ``truth`` is the label of the file's folder, None if that is no class.
    """

    file: Path
    truth: int | None
    probabilities: NDArray[np.float32] | None
    view: Pixels | None
    error: str = ""

    def likeliest(self, top: int = TOP) -> list[int]:
        """Labels, likeliest first; of equals, the lower first. Empty for what was not read."""
        return [] if self.probabilities is None else np.argsort(-self.probabilities, kind="stable")[:top].tolist()


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


def find_all(paths: Sequence[Path]) -> list[Path]:
    """Files and those of folders, in the order given, each once; raises as ``find_images``."""
    return list(dict.fromkeys(file for path in paths for file in find_images(path)))


def read_file(path: Path) -> bytes:
    """The bytes of an image file; raises ImageError for what cannot be opened or is no file, EncodeError if the disk fails."""
    return read_bytes(str(path), 0, MISSING, listed=False)


def read_image(path: Path) -> Pixels:
    """Read one file as upright RGB, uint8 [h w 3]; raises as ``read_file``, and ImageError for what does not decode."""
    return decode_rgb(read_file(path))


def classify(run: Classifier, files: Sequence[Path], runtime: Runtime) -> Iterator[FilePrediction]:
    """Yield what ``run`` makes of every file, in order."""
    labels = {name: label for label, name in enumerate(run.classes)}
    for start in range(0, len(files), BATCH):
        yield from _classify_batch(run, files[start : start + BATCH], labels, runtime)


@torch.inference_mode()
def _classify_batch(run: Classifier, files: Sequence[Path], labels: dict[str, int], runtime: Runtime) -> list[FilePrediction]:
    views: dict[Path, torch.Tensor] = {}
    seen: dict[Path, FilePrediction] = {}
    for file in files:
        try:
            views[file] = centre_crop(read_image(file), run.image)
        except ImageError as error:
            seen[file] = FilePrediction(file, labels.get(_folder(file)), None, None, str(error))
    if views:
        batch = torch.stack(list(views.values())).to(runtime.device, memory_format=torch.channels_last)
        shares = run.model(run.normalise(batch)).float().softmax(dim=1).cpu().numpy()
        for file, each in zip(views, shares, strict=True):
            view = views[file].permute(1, 2, 0).numpy()
            seen[file] = FilePrediction(file, labels.get(_folder(file)), each, view)
    return [seen[file] for file in files]


def _folder(file: Path) -> str:
    return file.absolute().parent.name


def count_labelled(files: Sequence[Path], classes: Sequence[str]) -> int:
    """How many files lie in a folder that is called like a class."""
    known = set(classes)
    return sum(_folder(file) in known for file in files)


def summarise(seen: FilePrediction, classes: Sequence[str], top: int = TOP) -> Prediction:
    """What is kept of a file: its ``top`` likeliest classes."""
    if seen.probabilities is None:
        return Prediction(str(seen.file), (), seen.error)
    pairs = tuple((classes[label], float(seen.probabilities[label])) for label in seen.likeliest(top))
    return Prediction(str(seen.file), pairs)


def predict_images(run: Classifier, files: Sequence[Path], runtime: Runtime, top: int = TOP) -> Iterator[Prediction]:
    """Yield a prediction for every file, in order."""
    return (summarise(seen, run.classes, top) for seen in classify(run, files, runtime))
