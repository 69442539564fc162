"""The confusion matrix of labelled images, and histograms of the probability of the true class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.files import csv_writer

BINS = 10


@dataclass(frozen=True, slots=True)
class ConfusedPair:
    """A mistake: ``count`` of the ``images`` whose class is ``truth`` are predicted as ``predicted``."""

    truth: str
    predicted: str
    count: int
    images: int


class Confusion:
    """Counts of the labelled images that could be read; only pairs of classes that occur take memory."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._histograms: dict[int, list[int]] = {}

    def add(self, prediction: FilePrediction) -> None:
        """Count an image, if it was read and its true class is known."""
        if prediction.truth is None or prediction.probabilities is None:
            return
        self._pairs[prediction.truth, prediction.likeliest(1)[0]] += 1
        share = float(prediction.probabilities[prediction.truth])
        self._histograms.setdefault(prediction.truth, [0] * BINS)[min(BINS - 1, int(share * BINS))] += 1

    @property
    def images(self) -> int:
        """The number of images counted."""
        return self._pairs.total()

    @property
    def right(self) -> int:
        """The number of images whose most probable class is the true one."""
        return sum(count for (truth, predicted), count in self._pairs.items() if truth == predicted)

    def histogram(self) -> list[int]:
        """Return the number of images by the probability of their true class, in tenths: [0, 0.1), ... [0.9, 1]."""
        return [sum(column) for column in zip(*self._histograms.values(), strict=True)] or [0] * BINS

    def by_class(self) -> list[tuple[str, int, int, list[int]]]:
        """Return (class, right, images, histogram) of every class that has images, in the run's order."""
        return [
            (self.classes[label], self._pairs[label, label], sum(bins), bins)
            for label, bins in sorted(self._histograms.items())
        ]

    def most_confused(self, count: int = 10) -> list[ConfusedPair]:
        """Return the most frequent mistakes; equally frequent ones in the run's order."""
        wrong = [(pair, times) for pair, times in self._pairs.items() if pair[0] != pair[1]]
        return [
            ConfusedPair(self.classes[truth], self.classes[predicted], times, sum(self._histograms[truth]))
            for (truth, predicted), times in sorted(wrong, key=lambda item: (-item[1], item[0]))[:count]
        ]

    def write(self, path: Path) -> None:
        """Write the matrix as CSV: a row for each true class, a column for each predicted one."""
        with csv_writer(path) as writer:
            writer.writerow(["truth", *self.classes])
            for truth, name in enumerate(self.classes):
                writer.writerow([name, *(self._pairs[truth, predicted] for predicted in range(len(self.classes)))])
