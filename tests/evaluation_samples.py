"""Evaluations with planted answers, for tests of what is made of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jpegcurr.analysis.evaluation.evaluate import Evaluation
from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.training.models.description import ModelDescription

DESCRIPTION = ModelDescription("0" * 64, 224, "bicubic", 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def simulated(
    right: Sequence[bool],
    labels: Sequence[int],
    *,
    run: str = "run",
    data: str = "val.beton",
    quality: Quality | None = "source",
    tested: Quality | None = None,
    at_load: str | None = None,
    classes: tuple[str, ...] = ("cat", "dog", "hen"),
    named: bool = True,
    keys: str | None = "same",
) -> Evaluation:
    """Return the evaluation of a model that has these answers ``right`` on images with these ``labels``."""
    truth, hit = np.array(labels), np.array(right)
    outcomes = Outcomes(truth, np.where(hit, truth, truth + 1), np.full(len(hit), 0.5), hit, np.ones(len(hit)))
    model_input = tested if at_load else quality
    where, how = (Path(run), "raw", Path(data)), (quality, model_input, at_load, "plain")
    return Evaluation(*where, *how, classes, named, DESCRIPTION, keys, outcomes)
