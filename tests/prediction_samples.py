"""Planted predictions: columns of a pass without a model, for the page of predictions."""

from pathlib import Path

import numpy as np

from jpegcurr.analysis.prediction.columns import PredictionColumns
from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.analysis.prediction.report import PredictionReport, Subject, build_report
from jpegcurr.training.models.description import ModelDescription

MODEL = ModelDescription("ab" * 32, 224, "bicubic", 0.875, (0.5,) * 3, (0.2,) * 3)


def planted(
    images: int,
    classes: int,
    *,
    outputs: int | None = None,
    labelled: float = 1.0,
    unread: int = 0,
    strength: float = 2.5,
    seed: int = 0,
    digits: int | None = None,
    names: dict[int, str] | None = None,
    files: dict[int, str] | None = None,
) -> tuple[Subject, list[FilePrediction]]:
    """Return predictions for images of ``classes`` of the ``outputs``; ``labelled`` is the share whose class is known.

    The first ``unread`` files cannot be read. With ``digits``, probabilities are rounded, so that many are equal.
    """
    random = np.random.default_rng(seed)
    outputs = outputs or classes
    paths = [(files or {}).get(n, f"data/val/class {n * classes // images}/{n:06}.jpg") for n in range(images)]
    predictions = []
    for number, path in enumerate(paths):
        label = number * classes // images
        truth = label if random.random() < labelled else None
        if number < unread:
            predictions.append(FilePrediction(Path(path), truth, None, None, "not an image"))
            continue
        logits = random.normal(size=outputs)
        logits[label] += strength
        shares = np.exp(logits) / np.exp(logits).sum()
        shares = shares if digits is None else shares.round(digits)
        predictions.append(FilePrediction(Path(path), truth, shares.astype(np.float32), None))
    named = tuple((names or {}).get(label, f"class {label}") for label in range(outputs))
    return Subject("runs/two_phase", "raw", MODEL, named, paths), predictions


def planted_report(
    images: int, classes: int, *, positive: int | None = None, threshold: float = 0.5, **options: object
) -> PredictionReport:
    """Return the report of planted predictions, see ``planted``."""
    subject, predictions = planted(images, classes, **options)  # type: ignore[arg-type]
    columns = PredictionColumns(positive)
    for prediction in predictions:
        columns.add(prediction)
    return build_report(subject, columns, positive=positive, threshold=threshold)
