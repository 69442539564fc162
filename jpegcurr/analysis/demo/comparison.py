"""Comparison of one picture with its JPEG at a quality: pixels, bytes, probabilities and Grad-CAM maps of one model or more.

The JPEG is ``encode``'s, crops and probabilities are ``predict``'s, maps and their similarity are ``cam``'s. ``source`` is the
file itself, as for ``predict``, whatever its format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.compare import last_stage
from jpegcurr.analysis.cam.grad_cam import maps_and_logits
from jpegcurr.analysis.cam.results import Map
from jpegcurr.analysis.cam.similarity import similarities
from jpegcurr.analysis.prediction.predict import TOP, class_probabilities, read_file
from jpegcurr.encoding.jpeg.codec import decode_rgb, reencode
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.data.transforms import centre_crop
from jpegcurr.training.models.classifier import Classifier

AMPLIFIED = 8  # times that the error is shown

_one_at_a_time = Lock()  # Grad-CAM puts a hook on the model, which threads share


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedModel:
    """A loaded model and the layer whose maps are shown."""

    run: Classifier
    layer: str


@dataclass(frozen=True, slots=True, eq=False)
class ModelComparison:
    """One model on the source and on its JPEG; the first row of every array is the source's.

    Attributes:
        model: the model.
        views: the crops that it gets, uint8 [2 size size 3].
        probabilities: float32 [2 classes].
        target: the number of the class that both maps explain: the likeliest at source.
        maps: raw Grad-CAM maps, float32 [2 h w].
        similarity: every metric of ``similarity.METRICS`` for the two maps; nan where it is undefined.
    """

    model: ExplainedModel
    views: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    target: int
    maps: Map
    similarity: dict[str, float]

    def likeliest(self, top: int = TOP) -> list[int]:
        """Return the ``top`` most probable labels at source and those of the JPEG, without repetitions, by the source's."""
        first, second = (np.argsort(-row, kind="stable")[:top].tolist() for row in self.probabilities)
        return sorted({*first, *second}, key=lambda label: (-self.probabilities[0, label], label))


@dataclass(frozen=True, slots=True, eq=False)
class PictureComparison:
    """One picture and its JPEG.

    Attributes:
        file: the picture's file.
        quality: the quality of the JPEG, 1 to 100.
        width, height: of the upright picture, in pixels.
        source, jpeg: the bytes of the file and of its JPEG.
        kept: True if ``encode`` would keep the file's bytes at quality ``source``, False if it would convert them first.
        error: ``128 + 8 * (jpeg - source)``, cut at 0 and 255, uint8 [height width 3].
        rms: the root mean square of ``jpeg - source``, in levels.
        models: the models' comparisons.
    """

    file: Path
    quality: int
    width: int
    height: int
    source: bytes
    jpeg: bytes
    kept: bool
    error: Pixels
    rms: float
    models: tuple[ModelComparison, ...]


def explain_models(runs: Sequence[Classifier], layer: str | None, runtime: Runtime) -> list[ExplainedModel]:
    """Choose the layer to explain in every model, its last stage if ``layer`` is None, and try it on a grey picture.

    Raises:
        UsageError: a model has no such layer or no known stages, or the layer gives no map.
    """
    models = [ExplainedModel(run, layer or last_stage(run)) for run in runs]
    for model in models:
        grey = np.full((2, 2, 3), 128, np.uint8)
        _compare_views(model, [grey, grey], runtime, "a grey image")
    return models


def compare_picture(
    models: Sequence[ExplainedModel], file: Path, quality: int, runtime: Runtime, *, max_pixels: int = MAX_PIXELS
) -> PictureComparison:
    """Compare a picture with its JPEG at ``quality``, encoded at full size as ``encode`` does it. Threads take turns.

    Raises:
        UsageError: ``quality`` is no number from 1 to 100.
        ImageError: the file cannot be read or encoded, or has more than ``max_pixels``.
        JpegcurrError: the outputs of a model are not finite numbers.
    """
    with _one_at_a_time:
        data = read_file(file)
        source, jpeg = reencode(data, ["source", quality], max_pixels)
        before, after = (decode_rgb(encoded, max_pixels=max_pixels) for encoded in (data, jpeg.data))
        return PictureComparison(
            file=file,
            quality=quality,
            width=jpeg.width,
            height=jpeg.height,
            source=data,
            jpeg=jpeg.data,
            kept=source.copied,
            error=_amplify(before, after),
            rms=float(cv2.norm(before, after, cv2.NORM_L2)) / sqrt(before.size),
            models=tuple(_compare_views(model, [before, after], runtime, file) for model in models),
        )


def _amplify(source: Pixels, jpeg: Pixels) -> Pixels:
    """Return the error around grey, as the pages of ``cam`` show it; OpenCV needs no memory for values beyond a byte."""
    return np.asarray(cv2.addWeighted(jpeg, AMPLIFIED, source, -AMPLIFIED, 128), np.uint8)


def _compare_views(model: ExplainedModel, pixels: Sequence[Pixels], runtime: Runtime, name: Path | str) -> ModelComparison:
    run = model.run
    views = torch.stack([centre_crop(picture, run.image) for picture in pixels])
    batch = views.to(runtime.device, memory_format=torch.channels_last)
    with whole_float32():  # rounding would be a difference too
        probabilities = class_probabilities(run, batch, [name] * len(pixels))
        target = int(probabilities[0].argmax())
        targets = torch.full((len(pixels),), target, device=runtime.device)
        raw, logits = maps_and_logits(run.model, model.layer, run.normalise(batch), targets)
    maps, scores = raw.cpu().numpy(), logits[:, target].cpu().numpy()
    similarity = similarities(maps[:1], maps[1:], (scores[:1], scores[1:]))
    return ModelComparison(
        model=model,
        views=views.permute(0, 2, 3, 1).numpy(),
        probabilities=probabilities,
        target=target,
        maps=maps,
        similarity={metric: float(values[0]) for metric, values in similarity.items()},
    )
