"""Precision, recall and F1 by class with their means, the confusion matrix, and how far confidence can be trusted.

Definitions are scikit-learn's, and the tests compare every number with its; it is no dependency, because each is a few sums.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.prediction.columns import Flags, Labels, Shares
from jpegcurr.analysis.stats import BINS, accuracy_interval

HISTOGRAM_BINS = 25  # of confidence, 0 to 1


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """The pairs of classes that occur among labelled images, sorted: true class, predicted class, images, [pairs] each."""

    truth: Labels
    predicted: Labels
    images: Labels

    def rows(self) -> Labels:
        """Return the images by true class, [classes with images], in the order of ``classes``."""
        return np.bincount(self.truth, self.images)[self.classes].astype(np.int64)

    @property
    def classes(self) -> Labels:
        """The true classes that have images, sorted."""
        return np.unique(self.truth)

    @property
    def columns(self) -> Labels:
        """The classes that have images or are predicted: those with images first, then the others, sorted."""
        return np.concatenate([self.classes, np.setdiff1d(self.predicted, self.classes)])


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """The metrics of a class that has images.

    ``precision`` is nan where the class is never predicted, and ``f1``, 2 TP / (2 TP + FP + FN), is then 0.
    """

    label: int
    images: int
    predicted: int
    right: int

    @property
    def precision(self) -> float:
        """The share of the images predicted as the class that are of it."""
        return self.right / self.predicted if self.predicted else nan

    @property
    def recall(self) -> float:
        """The share of the class's images that are predicted as it."""
        return self.right / self.images

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        return 2 * self.right / (self.images + self.predicted)


@dataclass(frozen=True, slots=True)
class MacroMeans:
    """Means over the classes that have images; ``unpredicted`` of them are never predicted, and count with precision 0."""

    classes: int
    precision: float
    recall: float
    f1: float
    unpredicted: int


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """The images whose confidence is above ``low`` and at most ``high``; ``interval`` is Wilson's, of the accuracy, shares."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float
    interval: tuple[float, float]


def count_pairs(truth: Labels, predicted: Labels) -> Matrix:
    """Return the confusion matrix of two columns [images], without its zeros; every image is in exactly one cell."""
    width = int(max(truth.max(initial=0), predicted.max(initial=0))) + 1
    pairs, images = np.unique(truth * width + predicted, return_counts=True)
    return Matrix(pairs // width, pairs % width, images.astype(np.int64))


def measure_classes(matrix: Matrix) -> tuple[ClassMetrics, ...]:
    """Return the metrics of every class that has images, sorted by label."""
    same = matrix.truth == matrix.predicted
    size = int(matrix.columns.max(initial=-1)) + 1
    images, predicted = (np.bincount(labels, matrix.images, size) for labels in (matrix.truth, matrix.predicted))
    right = np.bincount(matrix.truth[same], matrix.images[same], size)
    return tuple(
        ClassMetrics(label, int(images[label]), int(predicted[label]), int(right[label])) for label in matrix.classes.tolist()
    )


def average_classes(classes: tuple[ClassMetrics, ...]) -> MacroMeans:
    """Return the unweighted means over ``classes``, of which there is at least one.

    The mean F1 is that of the classes' F1, not the F1 of mean precision and mean recall.
    """
    count = len(classes)
    precision = sum(metrics.precision for metrics in classes if metrics.predicted) / count
    recall, f1 = sum(metrics.recall for metrics in classes) / count, sum(metrics.f1 for metrics in classes) / count
    return MacroMeans(count, precision, recall, f1, sum(not metrics.predicted for metrics in classes))


def reliability(confidence: Shares, right: Flags) -> tuple[ReliabilityBin, ...]:
    """Return the bins that hold images, of ``stats.BINS`` of equal width: those of the calibration error."""
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    images, hits = np.bincount(bins, minlength=BINS), np.bincount(bins, right, BINS)
    total = np.bincount(bins, confidence, BINS)
    rows = []
    for number in np.flatnonzero(images).tolist():
        count, good = int(images[number]), int(hits[number])
        low, high = (end / 100 for end in accuracy_interval(good, count))
        place = (number / BINS, (number + 1) / BINS)
        rows.append(ReliabilityBin(*place, count, float(total[number]) / count, good / count, (low, high)))
    return tuple(rows)


def histogram(shares: Shares) -> NDArray[np.int64]:
    """Count ``shares`` of 0 to 1 in ``HISTOGRAM_BINS`` bins of equal width; the last holds 1."""
    places = np.minimum((shares * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    return np.bincount(places, minlength=HISTOGRAM_BINS).astype(np.int64)
