"""How alike two raw maps of one image are, next to what maps of other images get, and what a change gets that nobody sees."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from math import log, nan
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import spearmanr

from jpegcurr.analysis.bootstrap import Estimate, estimate_means
from jpegcurr.analysis.cam import CamImage, CamStudy, Map, Seen
from jpegcurr.analysis.statistics import compare_paired

TOP_SHARE = 0.2

NullOf = Literal["same class", "half the list", ""]


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


LOGIT = "logit_change"
NAMES = (*(field.name for field in fields(Similarity)), LOGIT)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one view against the reference view, and what it is to be read against.

    Attributes:
        mean, low, high, images: as in ``Estimate``, over the images where the figure is defined.
        null: what maps get that have nothing in common but, at most, a class (see ``Comparison.null_of``).
        ceiling: what the reference view gets against the same images at quality 95; undefined if it is not of the files.
        flipped, unflipped: over the images whose likeliest class differs from the reference's, and over the others.
    """

    mean: float
    low: float
    high: float
    images: int
    null: Estimate
    ceiling: Estimate
    flipped: Estimate
    unflipped: Estimate


@dataclass(frozen=True, slots=True)
class Comparison:
    """One view against the reference view, over the same images.

    Attributes:
        figures: those of ``Similarity``, and ``logit_change``, of the explained class (if each view explains its own
            prediction, from the one class's logit to the other's). The mean of ``magnitude`` is the geometric one.
        null_of: which images' reference maps stand against each other in the nulls: ``same class`` (each image's and the
            next one's of its class, where at least half the images have one), ``half the list`` (the image half the list
            away, which in a folder sorted by class is of another class), or nothing.
        flips: images whose likeliest class differs from the reference's.
        labelled: images whose true class is known; ``right`` and ``right_reference`` of them are classified rightly.
        lost, gained: right only in the reference, right only in this view.
        p_value: of McNemar's test on lost against gained (``statistics.mcnemar``); 1 where there are none.
        detectable: the difference in points that this many images show with 80 % power at this share of changes.
    """

    figures: dict[str, Figure]
    null_of: NullOf
    flips: int
    labelled: int
    right: int
    right_reference: int
    lost: int
    gained: int
    p_value: float
    detectable: float

    @property
    def mean(self) -> dict[str, float]:
        """Each figure's mean."""
        return {name: figure.mean for name, figure in self.figures.items()}

    @property
    def null(self) -> dict[str, float]:
        """The mean of each figure's null."""
        return {name: figure.null.mean for name, figure in self.figures.items()}

    @property
    def ceiling(self) -> dict[str, float]:
        """The mean of each figure's ceiling."""
        return {name: figure.ceiling.mean for name, figure in self.figures.items()}

    @property
    def logit_change(self) -> float:
        """The mean change of the explained class's logit."""
        return self.figures[LOGIT].mean


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
    images = study.images
    fellows, null_of = _fellows(images)
    null = np.array([_null_row(image, fellow) for image, fellow in zip(images, fellows, strict=True)])
    ceiling = np.array([_row(image.seen[0], image.near) for image in images])
    blocks = [null, ceiling]
    for view in range(1, len(study.views)):
        rows = np.array([_row(image.seen[0], image.seen[view]) for image in images])
        flipped = np.array([[is_flipped(image, view)] for image in images])
        blocks += [rows, np.where(flipped, rows, nan), np.where(flipped, nan, rows)]
    means = _by_block(np.concatenate(blocks, axis=1))
    return [
        _compare(images, view, [*means[3 * view - 1 : 3 * view + 2], *means[:2]], null_of)
        for view in range(1, len(study.views))
    ]


def is_flipped(image: CamImage, view: int) -> bool:
    """Whether the likeliest class in a view is not that in the first."""
    return image.seen[view].top[0][0] != image.seen[0].top[0][0]


def _by_block(values: NDArray[np.float64]) -> list[dict[str, Estimate]]:
    """Each figure's estimate, for every block of so many columns."""
    log_of = NAMES.index("magnitude")  # halved and doubled is no change
    values[:, log_of :: len(NAMES)] = np.log(values[:, log_of :: len(NAMES)])
    found = estimate_means(values)
    for column in range(log_of, len(found), len(NAMES)):
        each = found[column]
        mean, low, high = np.exp([each.mean, each.low, each.high]).tolist()
        found[column] = Estimate(mean, low, high, each.images)
    return [dict(zip(NAMES, found[start : start + len(NAMES)], strict=True)) for start in range(0, len(found), len(NAMES))]


def _row(first: Seen, second: Seen | None) -> list[float]:
    """The figures called ``NAMES``."""
    if second is None:
        return [nan] * len(NAMES)
    return [*astuple(similarity(first.cam, second.cam)), second.logit - first.logit]


def _null_row(image: CamImage, fellow: CamImage | None) -> list[float]:
    """As ``_row``; how far apart two images' logits are says nothing."""
    return [*_row(image.seen[0], fellow.seen[0] if fellow else None)[:-1], nan]


def _compare(images: Sequence[CamImage], view: int, means: Sequence[dict[str, Estimate]], null_of: NullOf) -> Comparison:
    """``means`` are over all images, the flipped and the unflipped ones, the nulls and the ceilings."""
    whole, flipped, unflipped, null, ceiling = means
    labelled = [image for image in images if image.truth is not None]
    before, after = (np.array([image.seen[at].top[0][0] == image.truth for image in labelled], np.bool_) for at in (0, view))
    pair = compare_paired(before, after) if labelled else None
    return Comparison(
        figures={
            name: Figure(
                mean=whole[name].mean,
                low=whole[name].low,
                high=whole[name].high,
                images=whole[name].images,
                null=null[name],
                ceiling=ceiling[name],
                flipped=flipped[name],
                unflipped=unflipped[name],
            )
            for name in NAMES
        },
        null_of=null_of,
        flips=sum(is_flipped(image, view) for image in images),
        labelled=len(labelled),
        right=int(after.sum()),
        right_reference=int(before.sum()),
        lost=pair.lost if pair else 0,
        gained=pair.gained if pair else 0,
        p_value=pair.p_value if pair else 1.0,
        detectable=pair.detectable if pair else nan,
    )


def _fellows(images: Sequence[CamImage]) -> tuple[list[CamImage | None], NullOf]:
    """For every image the one whose map its own is held against in the nulls, and which that is."""
    classes: dict[str, list[int]] = {}
    for index, image in enumerate(images):
        if image.truth is not None:
            classes.setdefault(image.truth, []).append(index)
    same: list[CamImage | None] = [None] * len(images)
    for indices in classes.values():
        if len(indices) > 1:
            for index, following in zip(indices, [*indices[1:], indices[0]], strict=True):
                same[index] = images[following]
    if 2 * sum(fellow is not None for fellow in same) >= max(2, len(images)):
        return same, "same class"
    half = len(images) // 2
    return ([*images[half:], *images[:half]], "half the list") if half else (same, "")


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
