"""How alike the raw maps of two views are, next to what maps of other images get, and what a change gets that nobody sees."""

from dataclasses import dataclass
from math import log, nan

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import rankdata

from jpegcurr.analysis.cam.results import FIGURES, CamStudy, ClassRow, Column, Map, NullOf
from jpegcurr.analysis.stats import MeanCI, compare_paired, estimate_means

TOP_SHARE = 0.2

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one view against the reference view, and what it is to be read against.

    Attributes:
        mean, low, high, images: as in ``MeanCI``, over the images where the figure is defined.
        null: what maps get that have nothing in common but, at most, a class (see ``Comparison.null_of``).
        ceiling: what the reference view gets against the same images at quality 95; undefined if it is not of the files.
        flipped, unflipped: over the images whose likeliest class differs from the reference's, and over the others.
    """

    mean: float
    low: float
    high: float
    images: int
    null: MeanCI
    ceiling: MeanCI
    flipped: MeanCI
    unflipped: MeanCI


@dataclass(frozen=True, slots=True)
class Comparison:
    """One view against the reference view, over the same images.

    Attributes:
        figures: those called ``cam_study.FIGURES`` (see ``similarities``); ``logit_change`` is of the explained class (if
            each view explains its own prediction, from the one class's logit to the other's). The mean of ``magnitude`` is
            the geometric one.
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


def similarities(first: Map, second: Map) -> Rows:
    """Compare raw maps with each other, pair by pair, on their own grid.

    Args:
        first: maps that are not negative, [b h w].
        second: as many, on the same grid.

    Returns:
        The first six of ``cam_study.FIGURES``, [b 6], nan where one is undefined (of a constant or all-zero map):

        - pearson, spearman: correlation over the cells, -1 to 1.
        - jsd: Jensen-Shannon divergence of the maps as distributions, bits, 0 (equal) to 1.
        - iou: intersection over union of the brightest fifth of the cells, dark ones left out, 0 to 1.
        - shift: distance between the centres of mass, cells.
        - magnitude: the sum of the second map over that of the first.
    """
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    figures = np.full((len(a), len(FIGURES) - 1), nan)
    varied = (a.max(axis=1) > a.min(axis=1)) & (b.max(axis=1) > b.min(axis=1))
    figures[varied, 0] = _correlations(a[varied], b[varied])
    if varied.any():
        figures[varied, 1] = _correlations(rankdata(a[varied], axis=1), rankdata(b[varied], axis=1))
    lit = (a.sum(axis=1) > 0) & (b.sum(axis=1) > 0)
    a, b = a[lit], b[lit]
    totals = [each.sum(axis=1, keepdims=True) for each in (a, b)]
    shares = [each / total for each, total in zip((a, b), totals, strict=True)]
    figures[lit, 2] = _divergences(shares[0], shares[1])
    figures[lit, 3] = _overlaps(a, b)
    figures[lit, 4] = _distances(shares[0], shares[1], first.shape[1:])
    figures[lit, 5] = (totals[1] / totals[0])[:, 0]
    return figures


def _correlations(a: Rows, b: Rows) -> Rows:
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
    return np.asarray(np.clip((a * b).sum(axis=1), -1, 1), np.float64)


def _divergences(p: Rows, q: Rows) -> Rows:
    """Jensen-Shannon, bits. scipy's own is the root of it, and not a number where rounding makes it less than 0."""
    middle = (p + q) / 2
    return np.asarray(np.maximum(0, (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / (2 * log(2))), np.float64)


def _overlaps(a: Rows, b: Rows) -> Rows:
    count = max(1, round(TOP_SHARE * a.shape[1]))
    first, second = (_brightest(each, count) for each in (a, b))
    return np.asarray((first & second).sum(axis=1) / (first | second).sum(axis=1), np.float64)


def _brightest(cams: Rows, count: int) -> NDArray[np.bool_]:
    """Which cells [b cells] are among the ``count`` brightest of their map, of equals the earlier ones, and not dark."""
    chosen = np.zeros(cams.shape, np.bool_)
    np.put_along_axis(chosen, np.argsort(-cams, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen & (cams > 0)


def _distances(p: Rows, q: Rows, grid: tuple[int, ...]) -> Rows:
    rows, columns = np.indices(grid).reshape(2, -1)
    moved = p - q  # a matrix product would round otherwise for each size of batch
    return np.asarray(np.hypot((moved * rows).sum(axis=1), (moved * columns).sum(axis=1)), np.float64)


def compare_views(study: CamStudy) -> list[Comparison]:
    """Compare every view but the first with the first, from the figures of all images."""
    blocks: list[Column] = [study.null, study.ceiling]
    others = range(1, len(study.views))
    for view in others:
        rows, flipped = study.columns[view].figures, study.flipped(view)[:, None]
        blocks += [rows, np.where(flipped, rows, np.float32(nan)), np.where(flipped, np.float32(nan), rows)]
    means = _by_block(np.concatenate(blocks, axis=1, dtype=np.float64)) if others else []
    return [_compare(study, view, [*means[3 * view - 1 : 3 * view + 2], *means[:2]]) for view in others]


def _by_block(values: Rows) -> list[dict[str, MeanCI]]:
    """Each figure's estimate, for every block of so many columns."""
    log_of = FIGURES.index("magnitude")  # halved and doubled is no change
    with np.errstate(divide="ignore", invalid="ignore"):
        values[:, log_of :: len(FIGURES)] = np.log(values[:, log_of :: len(FIGURES)])
    found = estimate_means(values)
    for column in range(log_of, len(found), len(FIGURES)):
        each = found[column]
        mean, low, high = np.exp([each.mean, each.low, each.high]).tolist()
        found[column] = MeanCI(mean, low, high, each.images)
    return [
        dict(zip(FIGURES, found[start : start + len(FIGURES)], strict=True)) for start in range(0, len(found), len(FIGURES))
    ]


def _compare(study: CamStudy, view: int, means: list[dict[str, MeanCI]]) -> Comparison:
    """``means`` are over all images, the flipped and the unflipped ones, the nulls and the ceilings."""
    whole, flipped, unflipped, null, ceiling = means
    labelled = study.truth >= 0
    before, after = (study.right(at)[labelled] for at in (0, view))
    pair = compare_paired(before, after) if labelled.any() else None
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
            for name in FIGURES
        },
        null_of=study.null_of,
        flips=int(study.flipped(view).sum()),
        labelled=int(labelled.sum()),
        right=int(after.sum()),
        right_reference=int(before.sum()),
        lost=pair.lost if pair else 0,
        gained=pair.gained if pair else 0,
        p_value=pair.p_value if pair else 1.0,
        detectable=pair.detectable if pair else nan,
    )


def by_class(study: CamStudy) -> list[ClassRow]:
    """What each view makes of every class that has images, in the order of the classes; nan for a mean that is undefined."""
    labelled = study.truth >= 0
    truth, classes = study.truth[labelled], len(study.classes)

    def count(flags: NDArray[np.floating] | NDArray[np.bool_]) -> Rows:
        return np.bincount(truth, flags[labelled], minlength=classes).astype(np.float64)

    images = np.bincount(truth, minlength=classes)
    right, flips, pearson = [], [], []
    for view, columns in enumerate(study.columns):
        alike = columns.figures[:, FIGURES.index("pearson")].astype(np.float64)
        known = np.isfinite(alike)
        right.append(count(study.right(view)).astype(np.int64))
        flips.append(count(study.flipped(view)).astype(np.int64))
        with np.errstate(invalid="ignore"):
            pearson.append(count(np.where(known, alike, 0)) / count(known))
    return [
        ClassRow(
            name=study.classes[label],
            images=int(images[label]),
            right=tuple(int(each[label]) for each in right),
            flips=tuple(int(each[label]) for each in flips),
            pearson=tuple(float(each[label]) for each in pearson),
        )
        for label in np.flatnonzero(images).tolist()
    ]
