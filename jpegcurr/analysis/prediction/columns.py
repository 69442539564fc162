"""Predictions of a pass as columns of numbers: some 25 bytes an image, whatever the number of classes and pixels."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.prediction.predict import FilePrediction

Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]
Shares = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """The images that could be read, in the order of the files: columns of one length, [images].

    Attributes:
        place: the number of the image's file among all files.
        truth: the label; -1 if the image has none that the model knows.
        predicted: the most probable class; of equally probable ones the first.
        confidence: the probability of the predicted class, 0 to 1.
        score: the probability of the positive class, 0 to 1; empty if no class is chosen as positive.
    """

    place: Labels
    truth: Labels
    predicted: Labels
    confidence: Shares
    score: Shares

    def __len__(self) -> int:
        return len(self.place)

    @property
    def labelled(self) -> Flags:
        """True where the true class is known, [images]."""
        return np.greater_equal(self.truth, 0, dtype=np.bool_)

    @property
    def right(self) -> Flags:
        """True where the predicted class is the true one, [images]."""
        return np.equal(self.truth, self.predicted, dtype=np.bool_)

    def take(self, chosen: Flags | Labels) -> "Predictions":
        """Return the images that a mask or numbers choose."""
        score = self.score[chosen] if len(self.score) else self.score
        return Predictions(self.place[chosen], self.truth[chosen], self.predicted[chosen], self.confidence[chosen], score)


class PredictionColumns:
    """A receiver of predictions that keeps their numbers, and the reasons why files could not be read."""

    def __init__(self, positive: int | None = None) -> None:
        self.files = 0
        self.unread: list[tuple[int, str]] = []
        self._positive = positive
        self._labels = {name: array("i") for name in ("place", "truth", "predicted")}
        self._shares = {name: array("f") for name in ("confidence", "score")}

    def add(self, prediction: FilePrediction) -> None:
        """Keep the numbers of an image, or why it could not be read."""
        place, shares = self.files, prediction.probabilities
        self.files += 1
        if shares is None:
            self.unread.append((place, prediction.error))
            return
        predicted = int(shares.argmax())
        labels = (place, -1 if prediction.truth is None else prediction.truth, predicted)
        for column, value in zip(self._labels.values(), labels, strict=True):
            column.append(value)
        self._shares["confidence"].append(float(shares[predicted]))
        if self._positive is not None:
            self._shares["score"].append(float(shares[self._positive]))

    def columns(self) -> Predictions:
        """Return the images so far."""
        place, truth, predicted = (np.array(column, np.int64) for column in self._labels.values())
        confidence, score = (np.array(column, np.float64) for column in self._shares.values())
        return Predictions(place, truth, predicted, confidence, score)


def evenly_spaced(count: int, most: int) -> Labels:
    """Return at most ``most`` of the numbers below ``count``, evenly spaced, the first and the last included."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64)) if count else np.zeros(0, np.int64)


def common_folder(names: Sequence[str]) -> str:
    """Return the folder that all paths begin with, with its separator; empty if there is none."""
    first, last = min(names, default=""), max(names, default="")
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: max(first[:same].rfind(mark) for mark in "/\\") + 1]
