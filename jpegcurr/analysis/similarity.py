"""How alike two raw maps of one image are, with the value that unrelated maps get."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from math import isfinite, log, nan, sqrt
from statistics import fmean, geometric_mean

import numpy as np
from scipy.special import rel_entr
from scipy.stats import binomtest, spearmanr

from jpegcurr.analysis.cam import CamImage, CamStudy, Map

TOP_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Similarity:
    """Of two maps on one grid; not a number where it is undefined (a constant or all-zero map).

    Attributes:
        pearson, spearman: correlation over the cells, -1 to 1.
        jsd: Jensen-Shannon divergence of the maps as distributions, bits, 0 (equal) to 1.
        iou: intersection over union of the brightest fifth of the cells, dark ones left out, 0 to 1.
        shift: distance between the centres of mass, cells.
        magnitude: the sum of the second map over that of the first.
    """

    pearson: float
    spearman: float
    jsd: float
    iou: float
    shift: float
    magnitude: float


FIGURES = tuple(field.name for field in fields(Similarity))


@dataclass(frozen=True, slots=True)
class Comparison:
    """One view against the reference view, over the same images.

    Attributes:
        mean, null: each figure's mean (of ``magnitude`` the geometric one) over the images where it is defined, and over
            pairs of unrelated images: each image's reference map against that of the image half the list away, which
            in a folder sorted by class is of another class. nan where there is none.
        flips: images whose likeliest class differs from the reference's.
        logit_change: mean change of the explained class's logit.
        labelled: images whose true class is known; ``right`` and ``right_reference`` of them are classified rightly.
        lost, gained: right only in the reference, right only in this view.
        p_value: of McNemar's exact test on lost against gained; 1 where there are none.
        detectable: the difference in points that this many images show with 80 % power at this share of changes.
    """

    mean: dict[str, float]
    null: dict[str, float]
    flips: int
    logit_change: float
    labelled: int
    right: int
    right_reference: int
    lost: int
    gained: int
    p_value: float
    detectable: float


def similarity(first: Map, second: Map) -> Similarity:
    """Compare two raw maps [h w] on their own grid."""
    a, b = first.astype(np.float64).ravel(), second.astype(np.float64).ravel()
    varied = a.std() > 0 and b.std() > 0
    lit = a.sum() > 0 and b.sum() > 0
    return Similarity(
        pearson=float(np.corrcoef(a, b)[0, 1]) if varied else nan,
        spearman=float(spearmanr(a, b).statistic) if varied else nan,
        jsd=_divergence(a / a.sum(), b / b.sum()) if lit else nan,
        iou=_top_iou(a, b) if lit else nan,
        shift=float(np.linalg.norm(_centre(first) - _centre(second))) if lit else nan,
        magnitude=float(b.sum() / a.sum()) if lit else nan,
    )


def compare_views(study: CamStudy) -> list[Comparison]:
    """Compare every view but the first with the first."""
    null = _mean([similarity(image.seen[0].cam, other.seen[0].cam) for image, other in _unrelated(study.images)])
    return [_compare(study.images, view, null) for view in range(1, len(study.views))]


def _compare(images: Sequence[CamImage], view: int, null: dict[str, float]) -> Comparison:
    pairs = [(image.seen[0], image.seen[view]) for image in images]
    labelled = [image for image in images if image.truth is not None]
    before = [image.seen[0].top[0][0] == image.truth for image in labelled]
    after = [image.seen[view].top[0][0] == image.truth for image in labelled]
    lost = sum(x and not y for x, y in zip(before, after, strict=True))
    gained = sum(y and not x for x, y in zip(before, after, strict=True))
    return Comparison(
        mean=_mean([similarity(first.cam, second.cam) for first, second in pairs]),
        null=null,
        flips=sum(first.top[0][0] != second.top[0][0] for first, second in pairs),
        logit_change=fmean(second.logit - first.logit for first, second in pairs),
        labelled=len(labelled),
        right=sum(after),
        right_reference=sum(before),
        lost=lost,
        gained=gained,
        p_value=float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0,
        detectable=detectable_difference(lost + gained, len(labelled)) if labelled else nan,
    )


def detectable_difference(discordant: int, images: int) -> float:
    """Points of accuracy that McNemar's test finds with 80 % power (two-sided 5 %): 280 * sqrt(share discordant / n).

    The normal approximation, with at least 8 discordant images: the exact test is never significant with fewer than 6,
    all to one side, and where 8 are expected, 6 or more come in 80 % of cases.
    """
    return 280 * sqrt(max(discordant, 8)) / images


def _unrelated(images: Sequence[CamImage]) -> list[tuple[CamImage, CamImage]]:
    half = len(images) // 2
    return list(zip(images, [*images[half:], *images[:half]], strict=True)) if half else []


def _mean(figures: Sequence[Similarity]) -> dict[str, float]:
    means = {}
    for name in FIGURES:
        values = [value for each in figures if isfinite(value := getattr(each, name))]
        average = geometric_mean if name == "magnitude" else fmean  # halved and doubled is no change
        means[name] = average(values) if values else nan
    return means


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Jensen-Shannon, bits. scipy's own is the root of it, and not a number where rounding makes it less than 0."""
    middle = (p + q) / 2
    return max(0.0, float(rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / (2 * log(2)))


def _top_iou(a: np.ndarray, b: np.ndarray) -> float:
    count = max(1, round(TOP_SHARE * len(a)))
    first, second = ({cell for cell in np.argsort(-cam, kind="stable")[:count] if cam[cell] > 0} for cam in (a, b))
    return len(first & second) / len(first | second)


def _centre(cam: Map) -> np.ndarray:
    rows, columns = np.indices(cam.shape)
    weights = cam.astype(np.float64) / cam.sum()
    return np.array([(rows * weights).sum(), (columns * weights).sum()])
