"""Everything that the page of predictions states, computed once; ``page.py`` only renders it."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.class_names import full_name
from jpegcurr.analysis.html.scatter_chart import PointGroup
from jpegcurr.analysis.journal import given_words
from jpegcurr.analysis.prediction.class_metrics import (
    ClassMetrics,
    MacroMeans,
    Matrix,
    ReliabilityBin,
    average_classes,
    count_pairs,
    histogram,
    measure_classes,
    reliability,
)
from jpegcurr.analysis.prediction.columns import Flags, PredictionColumns, Predictions, Shares, common_folder, evenly_spaced
from jpegcurr.analysis.prediction.one_class import OUTCOMES, OneClass, judge_one_class
from jpegcurr.analysis.prediction.predict import View
from jpegcurr.analysis.stats import accuracy_interval, calibration_error
from jpegcurr.system import library_versions
from jpegcurr.text import join_words
from jpegcurr.training.models.description import ModelDescription

MOST_POINTS = 2000  # of a scatter chart: about 0.4 MB of the page
MISTAKES = 20  # the most confident ones, in a table
PREDICTED = 12  # classes with a histogram of their own, of the images without a label
_PACKAGES = ("jpegcurr", "torch", "timm", "numpy", "pillow")
# Colours and markers of the groups of points, by their number in line_chart.
_SERIES = {"right": 1, "wrong": 2, "no label": 5, "TP": 1, "FP": 2, "FN": 4, "TN": 8}


@dataclass(frozen=True, slots=True)
class Subject:
    """The model and files that the page is about.

    Attributes:
        model, weights: the model as it was named, and the kind of its weights.
        description: the hash of its weights and its preprocessing.
        classes: the names of its outputs.
        files: the names of all files, in order.
        unknown: how many files have no class of the model, in a sentence; empty if all have one.
        view: whether the model saw the centre crop or the whole image.
    """

    model: str
    weights: str
    description: ModelDescription
    classes: tuple[str, ...]
    files: Sequence[str]
    unknown: str = ""
    view: View = "crop"


@dataclass(frozen=True, slots=True)
class Confidence:
    """The confidence of a group of images: how many they are, its mean (nan for none), and counts in bins from 0 to 1."""

    name: str
    images: int
    mean: float
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Scatter:
    """A scatter chart of at most ``MOST_POINTS`` images; ``groups`` have (place, share, name) each, ``totals`` all images."""

    groups: tuple[PointGroup, ...]
    totals: tuple[int, ...]

    @property
    def drawn(self) -> int:
        """The number of points."""
        return sum(len(group.points) for group in self.groups)

    @property
    def images(self) -> int:
        """The number of images that the points stand for."""
        return sum(self.totals)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Results of the images whose class is known.

    Attributes:
        images, right: their number, and that of right predictions.
        interval: Wilson's 95 % interval of the accuracy, a share.
        matrix: the confusion matrix; ``rows`` are the images of each of its classes.
        classes: metrics by class, of classes that have images.
        macro: their means.
        bins: accuracy by confidence; ``calibration_error`` is their mean distance, a share.
        mean_confidence: of all these images.
        confidence: of the right and of the wrong predictions.
        mistakes: (file, truth, predicted, confidence) of the wrong predictions with the highest confidence.
    """

    images: int
    right: int
    interval: tuple[float, float]
    matrix: Matrix
    classes: tuple[ClassMetrics, ...]
    macro: MacroMeans
    bins: tuple[ReliabilityBin, ...]
    calibration_error: float
    mean_confidence: float
    confidence: tuple[Confidence, Confidence]
    mistakes: tuple[tuple[str, int, int, float], ...]


@dataclass(frozen=True, slots=True)
class PredictionReport:
    """All that the page states. Every file is in one of three groups: labelled, read without a label, not read.

    Attributes:
        folder: the folder of all files, empty if they have none in common; other names on the page are below it.
        read: the number of images that could be read.
        labelled: results of those whose class is known; None if there are none.
        unlabelled: confidence by predicted class of the others, the most frequent classes first.
        positive: one class against all others, and the scores of its outcomes; None if it is not wanted.
        scatter, positive_scatter: confidence over the files, and the positive class's probability.
        unread: (file, reason) of the files that could not be read.
        summary: the first sentences of the page.
    """

    subject: Subject
    folder: str
    read: int
    labelled: Labelled | None
    unlabelled: tuple[Confidence, ...]
    positive: OneClass | None
    positive_confidence: tuple[Confidence, ...]
    scatter: Scatter
    positive_scatter: Scatter | None
    unread: tuple[tuple[str, str], ...]
    summary: tuple[str, ...]
    provenance: dict[str, str]

    @property
    def unlabelled_images(self) -> int:
        """The number of images that could be read and have no known class."""
        return sum(group.images for group in self.unlabelled)


@dataclass(frozen=True, slots=True)
class _FileNames:
    """The names of files as the page has them, without the first ``cut`` characters, which they share."""

    files: Sequence[str]
    cut: int

    def __getitem__(self, place: int) -> str:
        return self.files[place][self.cut :]


def build_report(
    subject: Subject, received: PredictionColumns, *, positive: int | None = None, threshold: float = 0.5
) -> PredictionReport:
    """Compute everything from the columns of a pass; ``positive`` is the class that ``received`` has kept the scores of."""
    columns = received.columns()
    folder = common_folder(subject.files)
    names = _FileNames(subject.files, len(folder))
    known = columns.take(columns.labelled)
    labelled = _judge(known, names) if len(known) else None
    one = None
    if positive is not None and labelled is not None:
        one = judge_one_class(known.truth, known.predicted, known.score, positive, threshold)
    return PredictionReport(
        subject=subject,
        folder=folder,
        read=len(columns),
        labelled=labelled,
        unlabelled=_by_predicted(columns.take(~columns.labelled), subject.classes),
        positive=one,
        positive_confidence=_by_outcome(one, known.score) if one else (),
        scatter=_scatter(subject, names, columns, columns.confidence, _rightness(columns)),
        positive_scatter=_scatter(subject, names, known, known.score, _outcomes(one)) if one else None,
        unread=tuple((names[place], reason) for place, reason in received.unread),
        summary=tuple(_summarise(subject, len(columns), received.files, labelled, one)),
        provenance=_provenance(subject, folder),
    )


def _judge(known: Predictions, names: "_FileNames") -> Labelled:
    right = known.right
    matrix = count_pairs(known.truth, known.predicted)
    classes = measure_classes(matrix)
    low, high = accuracy_interval(int(right.sum()), len(known))
    wrong = known.take(~right)
    worst = wrong.take(np.argsort(-wrong.confidence, kind="stable")[:MISTAKES])
    rows = zip(worst.place.tolist(), worst.truth.tolist(), worst.predicted.tolist(), worst.confidence.tolist(), strict=True)
    return Labelled(
        images=len(known),
        right=int(right.sum()),
        interval=(low / 100, high / 100),
        matrix=matrix,
        classes=classes,
        macro=average_classes(classes),
        bins=reliability(known.confidence, right),
        calibration_error=calibration_error(known.confidence, right) / 100,
        mean_confidence=float(known.confidence.mean()),
        confidence=(_confidence("right", known.confidence[right]), _confidence("wrong", known.confidence[~right])),
        mistakes=tuple((names[place], truth, predicted, share) for place, truth, predicted, share in rows),
    )


def _confidence(name: str, shares: Shares) -> Confidence:
    return Confidence(name, len(shares), float(shares.mean()) if len(shares) else float("nan"), histogram(shares))


def _by_predicted(unknown: Predictions, classes: Sequence[str]) -> tuple[Confidence, ...]:
    """Return a group for each of the ``PREDICTED`` most frequent predictions, and one for all others together."""
    labels, counts = np.unique(unknown.predicted, return_counts=True)
    ordered = labels[np.argsort(-counts, kind="stable")]
    head, rest = ordered[:PREDICTED], ordered[PREDICTED:]
    groups = [_confidence(full_name(classes[label]), unknown.confidence[unknown.predicted == label]) for label in head.tolist()]
    if len(rest):
        others = f"{len(rest):,} other class{'' if len(rest) == 1 else 'es'}"
        groups.append(_confidence(others, unknown.confidence[np.isin(unknown.predicted, rest)]))
    return tuple(groups)


def _by_outcome(one: OneClass, score: Shares) -> tuple[Confidence, ...]:
    return tuple(_confidence(name, score[one.outcome == number]) for number, name in enumerate(OUTCOMES))


# ---- scatter charts


def _rightness(columns: Predictions) -> dict[str, Flags]:
    """Return the masks of the groups; the rarer and more important are drawn over the others, so they come last."""
    known, right = columns.labelled, columns.right
    return {"right": known & right, "no label": ~known, "wrong": known & ~right}


def _outcomes(one: OneClass) -> dict[str, Flags]:
    return {name: one.outcome == OUTCOMES.index(name) for name in ("TN", "TP", "FP", "FN")}


def _scatter(subject: Subject, names: "_FileNames", columns: Predictions, share: Shares, masks: dict[str, Flags]) -> Scatter:
    members = {name: np.flatnonzero(mask) for name, mask in masks.items() if mask.any()}
    quotas = share_out(MOST_POINTS, [len(places) for places in members.values()])
    groups = []
    for (name, places), quota in zip(members.items(), quotas, strict=True):
        chosen = columns.take(places[evenly_spaced(len(places), quota)])
        height = share[places[evenly_spaced(len(places), quota)]]
        points = [
            (place, y, f"{names[place]}: {_describe(subject.classes, truth, predicted, confidence)}")
            for place, y, truth, predicted, confidence in zip(
                chosen.place.tolist(),
                height.tolist(),
                chosen.truth.tolist(),
                chosen.predicted.tolist(),
                chosen.confidence.tolist(),
                strict=True,
            )
        ]
        groups.append(PointGroup(name, points, _SERIES[name]))
    return Scatter(tuple(groups), tuple(len(places) for places in members.values()))


def _describe(classes: Sequence[str], truth: int, predicted: int, confidence: float) -> str:
    """Return what was predicted and what is true, for the name of a point."""
    taken = f"{full_name(classes[predicted])} {100 * confidence:.1f} %"
    if truth < 0:
        return f"{taken}, no label"
    return f"{taken}, right" if truth == predicted else f"{taken}, is {full_name(classes[truth])}"


def share_out(most: int, sizes: Sequence[int]) -> list[int]:
    """Divide ``most`` points equally among groups of ``sizes``; what a small group leaves goes to the larger ones."""
    quotas, left = [0] * len(sizes), most
    for done, number in enumerate(sorted(range(len(sizes)), key=lambda number: sizes[number])):
        quotas[number] = min(sizes[number], left // (len(sizes) - done))
        left -= quotas[number]
    return quotas


# ---- words


def _summarise(subject: Subject, read: int, files: int, labelled: Labelled | None, one: OneClass | None) -> list[str]:
    if labelled is None:
        return [f"{read:,} of {files:,} files were classified. None of these has a known class, so nothing is judged."]
    low, high = labelled.interval
    accuracy, macro = labelled.right / labelled.images, labelled.macro
    sentences = [
        f"{labelled.right:,} of {labelled.images:,} labelled images are right: {_percent(accuracy)} "
        f"({_percent(low)} to {_percent(high)}, 95 % interval).",
        f"Means over {macro.classes:,} class{'' if macro.classes == 1 else 'es'}: precision {_percent(macro.precision)}, "
        f"recall {_percent(macro.recall)}, F1 {_percent(macro.f1)}.",
        _describe_confidence(labelled, accuracy),
    ]
    return [*sentences, *(_describe_positive(subject, one) if one else [])]


def _describe_confidence(labelled: Labelled, accuracy: float) -> str:
    parts = [f"{_percent(group.mean)} where the model is {group.name}" for group in labelled.confidence if group.images]
    gap, error = 100 * (labelled.mean_confidence - accuracy), 100 * labelled.calibration_error
    return (
        f"Mean confidence is {' and '.join(parts)}; over all images it is {abs(gap):.1f} points "
        f"{'above' if gap > 0 else 'below'} the accuracy. The calibration error is {error:.1f} points."
    )


def _describe_positive(subject: Subject, one: OneClass) -> list[str]:
    name, decision, trade = full_name(subject.classes[one.label]), one.at_threshold, one.trade
    counts = (
        f"{decision.tp:,} true and {decision.fp:,} false positives, {decision.fn:,} false and {decision.tn:,} true negatives"
    )
    sentences = [f"{name} from a probability of {one.threshold:g}: {counts}."]
    if decision.tp + decision.fn == 0:
        return [*sentences, f"No labelled image is of {name}, so that recall and both curves are undefined."]
    if decision.fp + decision.tn == 0:
        return [*sentences, f"Every labelled image is of {name}, so that the false positive rate and the curves are undefined."]
    changes = [
        f"loses {_count(trade.lost, 'true positive')}" if trade.lost else "",
        f"spares {_count(trade.spared, 'false positive')}" if trade.spared else "",
        f"gains {_count(trade.gained, 'true positive')}" if trade.gained else "",
        f"adds {_count(trade.alarmed, 'false positive')}" if trade.alarmed else "",
    ]
    listed = join_words(list(filter(None, changes)) or ["changes no image's side"])
    return [*sentences, f"Against taking the most probable class, this threshold {listed}."]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _provenance(subject: Subject, folder: str) -> dict[str, str]:
    return {
        "Model": f"{subject.model}, {subject.weights} weights",
        "Inputs": str(subject.description),
        "View": {"crop": "the centre crop", "whole": "whole images, resized as before the crop, one at a time"}[subject.view],
        **({"Files": f"{len(subject.files):,}, below {folder}"} if folder else {"Files": f"{len(subject.files):,}"}),
        "Command": shlex.join(given_words()),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }
