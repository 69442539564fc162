"""Similarity of raw maps: the metrics, and views compared by them, with a baseline (other images) and a ceiling (quality 95).

To add a metric, write its function and give it a line in ``METRICS``: the page, the CSV files and the JSON file follow.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, nan

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr
from scipy.stats import rankdata

from jpegcurr.analysis.cam.results import BaselineOf, CamStudy, ClassRow, Column, Map
from jpegcurr.analysis.stats import MeanCI, Paired, compare_paired, estimate_means

TOP_SHARE = 0.2

Rows = NDArray[np.float64]


@dataclass(frozen=True)
class MapPairs:
    """Two batches of raw maps on the same grid, which are compared pair by pair.

    Attributes:
        first, second: maps that are not negative, [b h w].
        logits: the logits of the explained class in both, float32 [b]; None where the pairs are of two images, whose logits
            cannot be compared.
    """

    first: Map
    second: Map
    logits: tuple[Column, Column] | None = None

    @cached_property
    def cells(self) -> tuple[Rows, Rows]:
        """Both batches as float64 [b cells]."""
        first, second = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (self.first, self.second))
        return first, second

    @cached_property
    def varied(self) -> NDArray[np.bool_]:
        """True for the pairs in which neither map is constant, [b]."""
        first, second = self.cells
        return np.asarray((first.max(axis=1) > first.min(axis=1)) & (second.max(axis=1) > second.min(axis=1)))

    @cached_property
    def lit(self) -> NDArray[np.bool_]:
        """True for the pairs in which neither map is zero everywhere, [b]."""
        first, second = self.cells
        return np.asarray((first.sum(axis=1) > 0) & (second.sum(axis=1) > 0))

    @cached_property
    def totals(self) -> tuple[Rows, Rows]:
        """The sums of the maps of the lit pairs, [lit 1]."""
        first, second = (cells[self.lit].sum(axis=1, keepdims=True) for cells in self.cells)
        return first, second

    @cached_property
    def shares(self) -> tuple[Rows, Rows]:
        """The maps of the lit pairs as distributions over the cells, [lit cells]."""
        first, second = (cells[self.lit] / total for cells, total in zip(self.cells, self.totals, strict=True))
        return first, second


def pearson(pairs: MapPairs) -> Rows:
    """Return Pearson's correlation over the cells, -1 to 1, [b]; nan where a map is constant."""
    return _spread_out(pairs.varied, _correlations(*(cells[pairs.varied] for cells in pairs.cells)))


def spearman(pairs: MapPairs) -> Rows:
    """Return the correlation of the cells' ranks, -1 to 1, [b]; nan where a map is constant."""
    if not pairs.varied.any():
        return np.full(len(pairs.varied), nan)
    return _spread_out(pairs.varied, _correlations(*(rankdata(cells[pairs.varied], axis=1) for cells in pairs.cells)))


def jensen_shannon(pairs: MapPairs) -> Rows:
    """Return the Jensen-Shannon divergence of the maps as distributions, 0 (equal) to 1 bit, [b]; nan where a map is zero.

    SciPy's own function returns its square root, and nan where rounding makes it negative.
    """
    first, second = pairs.shares
    middle = (first + second) / 2
    bits = (rel_entr(first, middle) + rel_entr(second, middle)).sum(axis=1) / (2 * log(2))
    return _spread_out(pairs.lit, np.maximum(0, bits))


def overlap(pairs: MapPairs) -> Rows:
    """Return intersection over union of the brightest fifth of the cells, 0 to 1, [b]; nan where a map is zero."""
    first, second = (_brightest(cells[pairs.lit]) for cells in pairs.cells)
    return _spread_out(pairs.lit, (first & second).sum(axis=1) / (first | second).sum(axis=1))


def shift(pairs: MapPairs) -> Rows:
    """Return the distance between the centres of mass, in cells, [b]; nan where a map is zero."""
    first, second = pairs.shares
    rows, columns = np.indices(pairs.first.shape[1:]).reshape(2, -1)
    moved = first - second  # not a matrix product, whose rounding depends on the size of the batch
    return _spread_out(pairs.lit, np.hypot((moved * rows).sum(axis=1), (moved * columns).sum(axis=1)))


def magnitude(pairs: MapPairs) -> Rows:
    """Return the sum of the second map over that of the first, [b]; nan where a map is zero."""
    first, second = pairs.totals
    return _spread_out(pairs.lit, (second / first)[:, 0])


def logit_change(pairs: MapPairs) -> Rows:
    """Return the second logit less the first, [b]; nan without logits."""
    if pairs.logits is None:
        return np.full(len(pairs.first), nan)
    first, second = pairs.logits
    return np.asarray(second - first, np.float64)


def _spread_out(known: NDArray[np.bool_], values: Rows) -> Rows:
    """Return ``values`` at the pairs where ``known`` is True, nan elsewhere, [b]."""
    rows = np.full(len(known), nan)
    rows[known] = values
    return rows


def _correlations(first: Rows, second: Rows) -> Rows:
    first, second = (cells - cells.mean(axis=1, keepdims=True) for cells in (first, second))
    first, second = (cells / np.linalg.norm(cells, axis=1, keepdims=True) for cells in (first, second))
    return np.asarray(np.clip((first * second).sum(axis=1), -1, 1), np.float64)


def _brightest(cells: Rows) -> NDArray[np.bool_]:
    """Mark the brightest fifth of each map's cells, without zeros and of equal cells the earlier ones, [b cells]."""
    count = max(1, round(TOP_SHARE * cells.shape[1]))
    chosen = np.zeros(cells.shape, np.bool_)
    np.put_along_axis(chosen, np.argsort(-cells, axis=1, kind="stable")[:, :count], True, axis=1)
    return chosen & (cells > 0)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of two maps, and how it is averaged and shown.

    Attributes:
        function: returns the metric of every pair, float64 [b], nan where it is undefined.
        label: the heading of its column.
        meaning: what it measures and its value for equal maps, for the note below the table.
        digits: decimals shown.
        signed: True to show positive values with a plus sign.
        geometric: True for the geometric mean over images, in which halved and doubled cancel out.
        anchored: True to show it in the rows of the ceiling and the baseline too.
    """

    function: Callable[[MapPairs], Rows]
    label: str
    meaning: str
    digits: int = 2
    signed: bool = False
    geometric: bool = False
    anchored: bool = True


# The names are those of the CSV columns and JSON keys.
METRICS: dict[str, Metric] = {
    "pearson": Metric(pearson, "Pearson", "correlation of the cells (equal maps: 1)"),
    "spearman": Metric(spearman, "Spearman", "correlation of the ranks of the cells (1)"),
    "jsd": Metric(jensen_shannon, "JSD, bits", "Jensen-Shannon divergence (0)", digits=3),
    "iou": Metric(overlap, "IoU, top 20 %", "overlap of the brightest fifth of the cells (1)"),
    "shift": Metric(shift, "shift, cells", "distance between the centres of mass (0)"),
    "magnitude": Metric(magnitude, "magnitude", "ratio of the sums (1)", geometric=True, anchored=False),
    "logit_change": Metric(logit_change, "logit change", "of the class explained (0)", signed=True, anchored=False),
}


def similarities(first: Map, second: Map, logits: tuple[Column, Column] | None = None) -> dict[str, Rows]:
    """Compare two batches of raw maps [b h w] pair by pair; return every metric of ``METRICS``, float64 [b], by its name.

    ``logits`` are those of the explained class in both, [b]; omit them where the pairs are of two different images.
    """
    pairs = MapPairs(first, second, logits)
    return {name: metric.function(pairs) for name, metric in METRICS.items()}


def unknown_columns(images: int) -> dict[str, Column]:
    """Return a column [images] of nan for every metric, to be filled."""
    return {name: np.full(images, nan, np.float32) for name in METRICS}


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """One metric of one view compared with the reference view, with the means to compare it with.

    Attributes:
        mean, low, high, images: as in ``MeanCI``, over the images where the metric is defined.
        baseline: the metric of maps that share at most a class (see ``Comparison.baseline_of``).
        ceiling: the metric of the reference view and the same images at quality 95; undefined unless it is of the files.
        flipped, unflipped: over the images whose likeliest class differs from the reference's, and over the others.
    """

    mean: float
    low: float
    high: float
    images: int
    baseline: MeanCI
    ceiling: MeanCI
    flipped: MeanCI
    unflipped: MeanCI


@dataclass(frozen=True, slots=True)
class Comparison:
    """One view compared with the reference view, over the same images.

    Attributes:
        metrics: the metrics of ``METRICS`` by name. Where each view explains its own prediction, ``logit_change`` is from the
            one class's logit to the other's.
        baseline_of: the pairs of images whose reference maps are compared for the baseline. ``same class``: each image and the
            next one of its class, where at least half of the images have one. ``half the list``: each image and the one half
            the list away, which in a folder sorted by class is of another class. Empty: none.
        flips: the number of images whose likeliest class differs from the reference's.
        labelled: the number of images whose class is known; ``right`` and ``right_reference`` are classified correctly.
        paired: McNemar's test of the right answers; None without labelled images.
    """

    metrics: dict[str, MetricSummary]
    baseline_of: BaselineOf
    flips: int
    labelled: int
    right: int
    right_reference: int
    paired: Paired | None

    @property
    def lost(self) -> int:
        """The number of images that are right only in the reference view."""
        return self.paired.lost if self.paired else 0

    @property
    def gained(self) -> int:
        """The number of images that are right only in this view."""
        return self.paired.gained if self.paired else 0

    @property
    def p_value(self) -> float:
        """The p-value of McNemar's test of ``lost`` against ``gained``; 1 without labelled images."""
        return self.paired.p_value if self.paired else 1.0

    @property
    def detectable(self) -> float:
        """The difference in points that this test finds with 80 % power at this share of changes; nan without labels."""
        return self.paired.detectable if self.paired else nan


def compare_views(study: CamStudy) -> list[Comparison]:
    """Compare every view but the first with the first, over all images."""
    others = range(1, len(study.views))
    if not others:
        return []
    blocks: list[Mapping[str, Column]] = [study.baseline, study.ceiling]
    for view in others:
        whole, flipped = study.columns[view].similarity, study.flipped(view)
        blocks += [
            whole,
            {name: np.where(flipped, column, np.float32(nan)) for name, column in whole.items()},
            {name: np.where(flipped, np.float32(nan), column) for name, column in whole.items()},
        ]
    baseline, ceiling, *means = _estimate(blocks)
    parts = zip(means[::3], means[1::3], means[2::3], strict=True)
    return [_compare(study, view, *part, baseline, ceiling) for view, part in zip(others, parts, strict=True)]


def _estimate(blocks: Sequence[Mapping[str, Column]]) -> list[dict[str, MeanCI]]:
    """Return the mean of every metric with its interval, for every block; one bootstrap serves all of them."""
    places = [(block, name) for block in range(len(blocks)) for name in METRICS]
    values = np.stack([blocks[block][name] for block, name in places], axis=1, dtype=np.float64)
    geometric = [column for column, (_, name) in enumerate(places) if METRICS[name].geometric]
    with np.errstate(divide="ignore", invalid="ignore"):
        values[:, geometric] = np.log(values[:, geometric])
    means: list[dict[str, MeanCI]] = [{} for _ in blocks]
    for (block, name), estimate in zip(places, estimate_means(values), strict=True):
        if METRICS[name].geometric:
            mean, low, high = np.exp([estimate.mean, estimate.low, estimate.high]).tolist()
            means[block][name] = MeanCI(mean, low, high, estimate.images)
        else:
            means[block][name] = estimate
    return means


def _compare(
    study: CamStudy,
    view: int,
    whole: dict[str, MeanCI],
    flipped: dict[str, MeanCI],
    unflipped: dict[str, MeanCI],
    baseline: dict[str, MeanCI],
    ceiling: dict[str, MeanCI],
) -> Comparison:
    labelled = study.labelled
    before, after = (study.right(at)[labelled] for at in (0, view))
    return Comparison(
        metrics={
            name: MetricSummary(
                mean=whole[name].mean,
                low=whole[name].low,
                high=whole[name].high,
                images=whole[name].images,
                baseline=baseline[name],
                ceiling=ceiling[name],
                flipped=flipped[name],
                unflipped=unflipped[name],
            )
            for name in METRICS
        },
        baseline_of=study.baseline_of,
        flips=int(study.flipped(view).sum()),
        labelled=int(labelled.sum()),
        right=int(after.sum()),
        right_reference=int(before.sum()),
        paired=compare_paired(before, after) if labelled.any() else None,
    )


def by_class(study: CamStudy) -> list[ClassRow]:
    """Return a row for every class that has images, in the order of the classes; a mean that is undefined is nan."""
    labelled = study.labelled
    truth, classes = study.truth[labelled], len(study.classes)

    def count(flags: NDArray[np.floating] | NDArray[np.bool_]) -> Rows:
        return np.bincount(truth, flags[labelled], minlength=classes).astype(np.float64)

    images = np.bincount(truth, minlength=classes)
    right, flips, correlations = [], [], []
    for view, columns in enumerate(study.columns):
        alike = columns.similarity["pearson"].astype(np.float64)
        known = np.isfinite(alike)
        right.append(count(study.right(view)).astype(np.int64))
        flips.append(count(study.flipped(view)).astype(np.int64))
        with np.errstate(invalid="ignore"):
            correlations.append(count(np.where(known, alike, 0)) / count(known))
    return [
        ClassRow(
            name=study.classes[label],
            images=int(images[label]),
            right=tuple(int(counts[label]) for counts in right),
            flips=tuple(int(counts[label]) for counts in flips),
            pearson=tuple(float(means[label]) for means in correlations),
        )
        for label in np.flatnonzero(images).tolist()
    ]
