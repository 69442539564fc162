"""What was taken for what, where the truth is known, and how likely the truth was held to be."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.files import csv_writer

BINS = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """``count`` images of the class ``truth`` were taken for ``predicted``; ``of`` images have that truth."""

    truth: str
    predicted: str
    count: int
    of: int


class Confusion:
    """Counts over the labelled images that were read; only pairs that occur take memory."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = classes
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._histograms: dict[int, list[int]] = {}

    def add(self, seen: FilePrediction) -> None:
        """Count an image, if it was read and its truth is known."""
        if seen.truth is None or seen.probabilities is None:
            return
        self._pairs[seen.truth, seen.likeliest(1)[0]] += 1
        share = float(seen.probabilities[seen.truth])
        self._histograms.setdefault(seen.truth, [0] * BINS)[min(BINS - 1, int(share * BINS))] += 1

    @property
    def images(self) -> int:
        """How many were counted."""
        return self._pairs.total()

    @property
    def right(self) -> int:
        """How many of them had their own class as the likeliest."""
        return sum(count for (truth, predicted), count in self._pairs.items() if truth == predicted)

    def histogram(self) -> list[int]:
        """Images by the probability of their true class, in tenths: [0, 0.1), ... [0.9, 1]."""
        return [sum(column) for column in zip(*self._histograms.values(), strict=True)] or [0] * BINS

    def by_class(self) -> list[tuple[str, int, int, list[int]]]:
        """(class, right, images, histogram) of every class that has images, in the run's order."""
        return [
            (self.classes[label], self._pairs[label, label], sum(bins), bins)
            for label, bins in sorted(self._histograms.items())
        ]

    def most_confused(self, count: int = 10) -> list[Pair]:
        """The commonest mistakes; of equals, in the run's order."""
        wrong = [(pair, times) for pair, times in self._pairs.items() if pair[0] != pair[1]]
        return [
            Pair(self.classes[truth], self.classes[predicted], times, sum(self._histograms[truth]))
            for (truth, predicted), times in sorted(wrong, key=lambda each: (-each[1], each[0]))[:count]
        ]

    def write(self, path: Path) -> None:
        """Write the matrix as CSV: a row for each true class, a column for each predicted one."""
        with csv_writer(path) as writer:
            writer.writerow(["truth", *self.classes])
            for truth, name in enumerate(self.classes):
                writer.writerow([name, *(self._pairs[truth, predicted] for predicted in range(len(self.classes)))])
