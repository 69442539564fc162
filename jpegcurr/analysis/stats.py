"""Statistics of accuracies: intervals, paired tests, Holm's correction, bootstrap means and calibration.

NumPy and SciPy only. "Right answers" are flags, bool [images]: whether a model's prediction is the true class.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import nan, sqrt
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, chi2

LEVEL = 0.05
_SCORE = float(chi2.isf(LEVEL, 1))  # 1.96 squared
_STEP = 1e-9  # from the observed mean, where the score is 0, and from the ends, where it is undefined
EXACT_BELOW = 25  # flips, for McNemar's test
RESAMPLES = 2000
BINS = 15  # of the calibration error
_CELLS = 1 << 21  # of a block of images: 16 MB for each of a few arrays, however many images there are

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Paired:
    """A comparison of two models on the same ``images``; points are of top-1, in percent.

    Attributes:
        difference: the model's top-1 less the reference's, points.
        low, high: its 95 % interval over images, see ``score_interval``. McNemar's test, which decides, is exact for few flips
            and therefore more cautious: its p-value may be above 5 % where the interval just excludes 0.
        lost, gained: the number of images that only the reference has right, and that only the model has right.
        p_value: of McNemar's test, two-sided; ``test`` is its form.
        detectable: see ``detectable_difference``.
    """

    images: int
    difference: float
    low: float
    high: float
    lost: int
    gained: int
    p_value: float
    test: Literal["exact", "mid-p"]
    detectable: float

    @property
    def verdict(self) -> str:
        """The result of McNemar's test at 5 %: ``lower``, ``higher``, or ``no detectable difference``."""
        if self.p_value >= LEVEL:
            return "no detectable difference"
        return "higher" if self.difference > 0 else "lower"


@dataclass(frozen=True, slots=True)
class ClassChange:
    """A comparison of two models on the ``images`` of one class; ``right`` is the reference's number of right answers.

    ``lost``, ``gained`` and ``p_value`` are as in ``Paired``.
    """

    label: int
    images: int
    right: int
    lost: int
    gained: int
    p_value: float

    @property
    def difference(self) -> float:
        """The change of the class's top-1, points."""
        return 100 * (self.gained - self.lost) / self.images


@dataclass(frozen=True, slots=True)
class MeanCI:
    """A mean over ``images`` images and its 95 % interval, ``low`` to ``high``; nan where undefined."""

    mean: float
    low: float
    high: float
    images: int


# Two models on the same images


def compare_paired(reference: Flags, other: Flags) -> Paired:
    """Compare the right answers of two models, bool [images] in the same order.

    Raises:
        ValueError: the numbers of images differ, or are 0.
    """
    if reference.shape != other.shape or not len(reference):
        raise ValueError(f"{reference.shape} and {other.shape} are not outcomes of the same images")
    images = len(reference)
    lost, gained = int((reference & ~other).sum()), int((other & ~reference).sum())
    p_value, test = mcnemar(lost, gained)
    low, high = score_interval((lost, images - lost - gained, gained))
    difference, detectable = 100 * (gained - lost) / images, detectable_difference(lost + gained, images)
    return Paired(images, difference, low, high, lost, gained, p_value, test, detectable)


def compare_classes(labels: NDArray[np.int64], reference: Flags, other: Flags) -> list[ClassChange]:
    """Compare the right answers of two models, bool [images] in the order of ``labels``, within each class.

    Classes without images are omitted. The p-values are not corrected for the number of classes; see ``holm``.
    """
    images, right = np.bincount(labels), np.bincount(labels[reference], minlength=labels.max() + 1)
    lost, gained = (np.bincount(labels[flips], minlength=len(images)) for flips in (reference & ~other, other & ~reference))
    counts = np.stack([images, right, lost, gained], axis=1).tolist()
    return [
        ClassChange(label, count, hits, less, more, mcnemar(less, more)[0])
        for label, (count, hits, less, more) in enumerate(counts)
        if count
    ]


def explain_no_class(changes: Sequence[ClassChange], p_values: Sequence[float]) -> str:
    """Say why no class differs: the tests cannot show it, or do not; ``p_values`` are those of ``changes`` after ``holm``."""
    tests = f"{len(changes):,} comparisons of a class (McNemar's test, Holm's correction)"
    largest = max(change.images for change in changes)
    of_a_lost_class = min(1.0, len(changes) * mcnemar(largest, 0)[0])
    if of_a_lost_class >= LEVEL:
        images = "one image" if largest == 1 else f"at most {largest:,} images"
        return f"with {images} a class, even one that is lost entirely has p = {of_a_lost_class:.2g} among {tests}"
    return f"the smallest p among {tests} is {precise_p(min(p_values))}"


@cache
def mcnemar(lost: int, gained: int) -> tuple[float, Literal["exact", "mid-p"]]:
    """Return McNemar's two-sided p-value, under which images flip one way as often as the other, and the form of the test.

    The test is exact (binomial) below 25 flips. From there on it is mid-p, which is less conservative and keeps its level where
    the chi-squared form does not (Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91, 2013).
    """
    flips, fewer = lost + gained, min(lost, gained)
    if flips < EXACT_BELOW:
        return (float(binomtest(fewer, flips).pvalue) if flips else 1.0), "exact"
    return float(2 * binom.cdf(fewer - 1, flips, 0.5) + binom.pmf(fewer, flips, 0.5)), "mid-p"


@cache
def score_interval(counts: tuple[int, ...]) -> tuple[float, float]:
    """Return the 95 % interval of the mean change over images, points, from the number of images with each change.

    For one pair of models ``counts`` are the images lost, unchanged and gained, and the interval is Tango's score interval for
    a paired difference of proportions (Stat. Med. 17:891, 1998): every difference that the score test does not reject. For the
    mean of S pairs ``counts`` has 2 S + 1 numbers, from the images that all S lose to those that all S gain, and the interval
    is by the same test: of all distributions over these changes with a given mean, the likeliest one (Owen's empirical
    likelihood, Biometrika 75:237, 1988, which here may also use changes that no image shows) has the variance that the observed
    mean is compared with.

    Its width is never zero: without any change in n images it is 3.84 / (n + 3.84) to either side. Computed for all outcomes of
    64 to 50,000 images, it covers the true difference in 93 to 100 % of cases from a quarter of a flip expected to 32. The
    percentile bootstrap, where three flips in four go one way, covers it in 31 % at half a flip, 52 % at one, 77 % at two, and
    from eight on as often as this, where it is up to a sixth narrower. This interval is therefore used for any number of flips.
    It covers the mean of 3 or 5 pairs in 92 to 100 %, and is wider than need be where few images change and none in all pairs.

    Raises:
        ValueError: there are no images.
    """
    images, pairs = sum(counts), len(counts) // 2
    if images < 1:
        raise ValueError("the changes of no images have no interval")
    changes = [(step - pairs) / pairs for step in range(len(counts))]
    mean = sum(count * change for count, change in zip(counts, changes, strict=True)) / images

    def excess(tested: float) -> float:
        return images * (mean - tested) ** 2 - _SCORE * _likeliest_variance(tested, changes, counts)

    inner, outer = mean - _STEP, mean + _STEP
    low = brentq(excess, _STEP - 1, inner) if inner > _STEP - 1 else -1.0
    high = brentq(excess, outer, 1 - _STEP) if outer < 1 - _STEP else 1.0
    return 100 * float(low), 100 * float(high)


def _likeliest_variance(mean: float, changes: Sequence[float], counts: Sequence[int]) -> float:
    """Return the variance of the likeliest distribution over ``changes``, from -1 to 1, that has ``mean``, given ``counts``.

    Its shares are ``count / images / (1 + tilt * (change - mean))``, with the tilt that gives them the mean. No share is above
    1, which bounds the tilt. At a bound that an end without any count sets, the shares sum to less than 1: that end has the
    rest.
    """
    if len(counts) == 3:
        return float(paired_variance(counts[0], counts[2], sum(counts), mean))
    images, apart = sum(counts), [change - mean for change in changes]
    observed = [(count / images, distance) for count, distance in zip(counts, apart, strict=True) if count]

    def imbalance(tilt: float) -> float:
        return sum(share * distance / (1 + tilt * distance) for share, distance in observed)

    least, most = (1 - counts[-1] / images) / -apart[-1], (1 - counts[0] / images) / -apart[0]
    if imbalance(least) <= 0:
        tilt = least
    elif imbalance(most) >= 0:
        tilt = most
    else:
        tilt = brentq(imbalance, least, most, xtol=1e-12 * (most - least))
    shares = [(share / (1 + tilt * distance), distance) for share, distance in observed]
    rest = 1 - sum(share for share, _ in shares)
    end = apart[-1] if tilt < 0 else apart[0]
    return sum(share * distance**2 for share, distance in shares) + rest * end**2


def paired_variance(lost: ArrayLike, gained: ArrayLike, images: ArrayLike, difference: float) -> NDArray[np.float64]:
    """Return the variance of an image's change, -1, 0 or 1, under the likeliest shares of ``lost`` and ``gained`` images whose
    ``difference``, gained less lost, is that given (Tango, Stat. Med. 17:891, 1998), in the shape of the counts.
    """
    loss = abs(difference)
    more, fewer, of = (
        np.asarray(counts, np.float64) for counts in ((lost, gained) if difference < 0 else (gained, lost)) + (images,)
    )
    linear, constant = (2 * of - more + fewer) * loss - more - fewer, -fewer * loss * (1 - loss)
    share = (np.sqrt(linear**2 - 8 * of * constant) - linear) / (4 * of)  # of the rarer change; the other has ``loss`` more
    return np.asarray(2 * share + loss - loss**2)


def detectable_difference(discordant: int, images: int) -> float:
    """Return the points of accuracy that McNemar's test detects with 80 % power: 280 * sqrt(share of discordant / images).

    This is the normal approximation for a two-sided test at 5 %, with at least 8 discordant images: the exact test is never
    significant with fewer than 6, all to one side, and where 8 are expected, 6 or more occur in 80 % of cases.
    """
    return 280 * sqrt(max(discordant, 8)) / images


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return the p-values of a family of tests (the last axis), adjusted so that one false positive is 5 % likely at most.

    Holm's step-down form of Bonferroni's correction (Scand. J. Stat. 6:65, 1979), which holds however the tests depend on each
    other. A nan is no test and stays nan.
    """
    raw = np.asarray(p_values, np.float64)
    order = np.argsort(raw, axis=-1, kind="stable")  # nan comes last
    ranked = np.take_along_axis(raw, order, axis=-1)
    count = np.isfinite(raw).sum(axis=-1, keepdims=True)
    remaining = np.maximum(count - np.arange(raw.shape[-1]), 1)
    adjusted = np.empty_like(raw)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(ranked * remaining, axis=-1), 1.0), axis=-1)
    return adjusted


def short_p(value: float) -> str:
    """Format a p-value: ``0.034``, or ``< 0.001``."""
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def precise_p(value: float) -> str:
    """Format a p-value with two digits, ``8.2e-12``, or ``< 1e-300``: the smallest ones are 0 as a float."""
    return f"{value:.2g}" if value >= 1e-300 else "< 1e-300"


def state_p(text: str) -> str:
    """Return ``p = 0.034``, or ``p < 0.001``, for a p-value that is formatted already."""
    return f"p {text}" if text.startswith("<") else f"p = {text}"


# One model


def accuracy_interval(right: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of the share of ``right`` answers, percent: Wilson's score (J. Am. Stat. Assoc. 22:209, 1927).

    Raises:
        ValueError: there are no images, or fewer than right answers.
    """
    if images < 1:
        raise ValueError("the accuracy of no images has no interval")  # SciPy refuses it up to version 1.17
    interval = binomtest(right, images).proportion_ci(1 - LEVEL, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def class_accuracy(labels: NDArray[np.int64], right: Flags, classes: int) -> NDArray[np.float64]:
    """Return the share of each class's images that are ``right``, percent, [classes]; nan for a class without images."""
    count = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels, right, minlength=classes)
    shares = np.full(classes, np.nan)
    np.divide(100 * hits, count, out=shares, where=count > 0)
    return shares


def calibration_error(confidence: NDArray[np.floating], right: Flags) -> float:
    """Return the expected calibration error, points, from ``confidence`` in the prediction (0 to 1) and ``right``, [images].

    The mean distance between accuracy and confidence over 15 bins of equal width, open below and closed above, each weighted by
    its number of images: equation 3 of Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    bins = np.clip(np.ceil(confidence.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, right - confidence.astype(np.float64), minlength=BINS)
    return 100 * float(np.abs(gaps).sum()) / len(right)


# Means of any values


def mean_known(values: NDArray[np.floating]) -> float:
    """Return the mean of the finite values; nan if there are none."""
    known = values[np.isfinite(values)].astype(np.float64)
    return float(known.mean()) if len(known) else nan


def estimate_means(values: NDArray[np.floating], *, resamples: int = RESAMPLES, seed: int = 0) -> list[MeanCI]:
    """Return the mean of every column of ``values`` [images columns] with its percentile bootstrap interval (Efron 1979).

    Images are drawn with replacement, the same ones for all columns; nan is omitted. One image has no interval. The same values
    give the same interval. Beside ``values`` this needs the memory of one block of images.
    """
    images, columns = values.shape
    sums, counts = np.zeros((resamples, columns)), np.zeros((resamples, columns))
    total, known = np.zeros(columns), np.zeros(columns, np.int64)
    for start, times in _draw_blocks(images, resamples, seed):
        block = values[start : start + times.shape[1]].astype(np.float64)
        finite = np.isfinite(block)
        block[~finite] = 0
        sums += times @ block  # a mean needs no more than how often each image is drawn
        counts += times @ finite.astype(np.float64)
        total += block.sum(axis=0)
        known += finite.sum(axis=0)
    with np.errstate(invalid="ignore"):  # a resample without any finite value
        means = sums / counts
    estimates = []
    for column, count in enumerate(known.tolist()):
        mean = float(total[column] / count) if count else nan
        low, high = np.nanpercentile(means[:, column], [2.5, 97.5]).tolist() if count > 1 else (nan, nan)
        estimates.append(MeanCI(mean, low, high, count))
    return estimates


def _draw_blocks(images: int, resamples: int, seed: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield each block of images: its first image, and how often every resample has every image, [resamples images].

    How many of a resample's draws fall into each block is multinomial, and within a block they fall anywhere: drawing the
    numbers and then the places is the same bootstrap as drawing images from the whole list.
    """
    random = np.random.default_rng(seed)
    size = max(1, _CELLS // resamples)
    starts = np.arange(0, images, size)
    sizes = np.minimum(size, images - starts)
    draws = random.multinomial(images, sizes / images, size=resamples)
    for number, (start, count) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        rows = np.repeat(count * np.arange(resamples), draws[:, number])
        cells = rows + random.integers(count, size=len(rows))
        times = np.bincount(cells, minlength=resamples * count).reshape(resamples, count)
        yield start, times.astype(np.float64)
