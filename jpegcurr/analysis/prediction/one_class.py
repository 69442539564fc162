"""One class against all others: outcomes at a threshold, precision-recall and ROC curves, and the cost of the threshold.

Definitions are scikit-learn's: an image counts as positive if its score is at least the threshold.
"""

from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.prediction.columns import Flags, Labels, Shares

OUTCOMES = ("TP", "FP", "FN", "TN")
CURVE_POINTS = 400  # of a curve, on the page and in JSON; areas are of all points


@dataclass(frozen=True, slots=True)
class Decision:
    """The counts of a rule that calls images positive: true and false positives, false and true negatives."""

    rule: str
    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float:
        """The share of the images called positive that are; nan if none is called so."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """The share of the positives that are called so, the true positive rate; nan without positives."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def fall_out(self) -> float:
        """The share of the negatives that are called positive, the false positive rate; nan without negatives."""
        return _ratio(self.fp, self.fp + self.tn)

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall; nan where there is no positive, neither true nor called so."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def accuracy(self) -> float:
        """The share of images on the right side."""
        return (self.tp + self.tn) / (self.tp + self.fp + self.fn + self.tn)


@dataclass(frozen=True, slots=True)
class Trade:
    """The cost of a threshold against the most probable class: images that change sides, by their true side.

    Positives ``lost`` and negatives ``spared`` are called positive only without the threshold; positives ``gained`` and
    negatives ``alarmed`` only with it.
    """

    lost: int
    spared: int
    gained: int
    alarmed: int


@dataclass(frozen=True, slots=True, eq=False)
class Curves:
    """Both curves at every score that occurs as a threshold, the highest first, [thresholds].

    ``tp`` and ``fp`` count the images whose score is at least the threshold; ``positives`` and ``negatives`` are all.
    """

    threshold: Shares
    tp: Labels
    fp: Labels
    positives: int
    negatives: int

    @property
    def precision(self) -> Shares:
        """The share of true positives among those called positive, [thresholds]."""
        return self.tp / (self.tp + self.fp)

    @property
    def recall(self) -> Shares:
        """The true positive rate, [thresholds]."""
        return self.tp / self.positives

    @property
    def fall_out(self) -> Shares:
        """The false positive rate, [thresholds]."""
        return self.fp / self.negatives

    @property
    def f1(self) -> Shares:
        """The harmonic mean of precision and recall, [thresholds]."""
        return 2 * self.tp / (self.tp + self.fp + self.positives)

    @property
    def average_precision(self) -> float:
        """The mean precision, weighted by the steps of recall: the area below the curve as steps, without interpolation."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.precision))

    @property
    def roc_area(self) -> float:
        """The area below the ROC curve, by trapezoids: the chance that a positive scores higher than a negative."""
        across, up = (np.concatenate([[0.0], values]) for values in (self.fall_out, self.recall))
        return float(np.sum(np.diff(across) * (up[1:] + up[:-1]) / 2))

    def best_f1(self) -> float:
        """Return the threshold with the highest F1, the highest of several."""
        return float(self.threshold[int(self.f1.argmax())])

    def thinned(self) -> "Curves":
        """Return at most ``CURVE_POINTS`` of the points: evenly spaced along the way, so that no step is jumped over."""
        if len(self.threshold) <= CURVE_POINTS:
            return self
        way = self.tp / self.positives + self.fp / self.negatives
        chosen = np.unique(np.searchsorted(way, np.linspace(way[0], way[-1], CURVE_POINTS)).clip(0, len(way) - 1))
        return Curves(self.threshold[chosen], self.tp[chosen], self.fp[chosen], self.positives, self.negatives)


@dataclass(frozen=True, slots=True, eq=False)
class OneClass:
    """One class against all others, over the labelled images.

    Attributes:
        label: the positive class.
        threshold: the score from which an image is called positive.
        decisions: the counts by rule: the most probable class, the threshold and, where curves exist, the best F1's threshold.
        trade: what the threshold costs.
        curves: at all thresholds; None without positives or without negatives.
        outcome: the number in ``OUTCOMES`` of every labelled image at the threshold, [images].
    """

    label: int
    threshold: float
    decisions: tuple[Decision, ...]
    trade: Trade
    curves: Curves | None
    outcome: NDArray[np.int64]

    @property
    def at_threshold(self) -> Decision:
        """The counts at the threshold."""
        return self.decisions[1]


def judge_one_class(truth: Labels, predicted: Labels, score: Shares, label: int, threshold: float) -> OneClass:
    """Judge the class ``label`` by its probability ``score`` against all others; all columns are [images], all labelled."""
    positive, likeliest, called = truth == label, predicted == label, score >= threshold
    curves = trace_curves(positive, score) if 0 < positive.sum() < len(positive) else None
    decisions = [decide("the most probable class", positive, likeliest), decide(f"from {threshold:g}", positive, called)]
    if curves is not None:
        best = curves.best_f1()
        decisions.append(decide(f"highest F1, from {best:.4g}", positive, score >= best))
    off, on = likeliest & ~called, called & ~likeliest
    trade = Trade(*(int(part.sum()) for part in (off & positive, off & ~positive, on & positive, on & ~positive)))
    outcome = np.select([positive & called, called, positive], [0, 1, 2], 3)
    return OneClass(label, threshold, tuple(decisions), trade, curves, outcome)


def decide(rule: str, positive: Flags, called: Flags) -> Decision:
    """Count images by whether they are ``positive`` and are ``called`` so, [images] each: every one in one of four cells."""
    cells = (positive & called, ~positive & called, positive & ~called, ~positive & ~called)
    return Decision(rule, *(int(cell.sum()) for cell in cells))


def trace_curves(positive: Flags, score: Shares) -> Curves:
    """Count true and false positives at every distinct score, [images]; there are positives and negatives."""
    order = np.argsort(-score, kind="stable")
    ordered, hits = score[order], np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(ordered) != 0, True))
    tp = hits[last].astype(np.int64)
    return Curves(ordered[last], tp, last + 1 - tp, int(hits[-1]), int(len(score) - hits[-1]))


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else nan
