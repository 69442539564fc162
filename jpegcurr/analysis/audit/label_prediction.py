"""Prediction of labels from headers: whether they tell more than chance would, and which field of theirs does.

A model that sees only what the headers say must not know the class of an image: where it does, a network may learn the
encoder in place of the subject. The model is ridge regression of the classes' indicators on binned fields, which is solved for
many shuffles of the labels at once: only the right side of its equations depends on them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.stats import holm
from jpegcurr.errors import UsageError
from jpegcurr.system import install_command

FOLDS = 5
PERMUTATIONS = 1999
MOST_IMAGES = 10_000
MOST_CELLS = 5_000_000  # images times classes of a sample
BINS = 16  # of a field
STRENGTH = 1.0  # of the ridge: one image's worth of every bin
_BLOCK = 1 << 23  # numbers of a block of shuffles

Column = NDArray[Any]


class _Counts(TypedDict):
    duplicates: int
    rare: int
    rare_classes: int
    unsampled: int


@dataclass(frozen=True, slots=True)
class FieldScore:
    """A header field: ``alone`` is the accuracy from it alone, with its p-values; ``without`` that of all others."""

    name: str
    alone: float
    p_value: float
    p_holm: float
    without: float


@dataclass(frozen=True, slots=True)
class LabelPrediction:
    """The accuracy with which headers predict a label, by cross-validation.

    Attributes:
        target: what is predicted, ``class`` or ``split``.
        images, classes: those that took part.
        duplicates: images left out because another has the same bytes.
        rare: images left out because their class has fewer than ``FOLDS``; ``rare_classes`` is the number of such classes.
        unsampled: images left out because the sample is limited.
        accuracy: of the model; ``majority`` is the share of the largest class.
        p_value: the share of shuffles of the labels that are predicted as well, counting the labels themselves as one.
        constant: fields that are the same in every image.
        repeated: fields that say the same as one before them, by its name: bits a pixel where all images are of one size.
        fields: the others, the one that predicts best alone first.
        missing: why nothing was computed; "" if it was.
    """

    target: str
    images: int = 0
    classes: int = 0
    duplicates: int = 0
    rare: int = 0
    rare_classes: int = 0
    unsampled: int = 0
    accuracy: float = float("nan")
    majority: float = float("nan")
    p_value: float = float("nan")
    permutations: int = 0
    constant: tuple[str, ...] = ()
    repeated: Mapping[str, str] = field(default_factory=dict)
    fields: tuple[FieldScore, ...] = ()
    missing: str = ""


def predict_labels(
    target: str,
    labels: NDArray[np.integer],
    take: Callable[[NDArray[np.int64]], Mapping[str, Sequence[Column]]],
    fingerprints: NDArray[np.uint64],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> LabelPrediction:
    """Predict ``labels``, int [n], from the header fields that ``take(indices)`` returns, by name, each one column or more.

    Images of equal ``fingerprints``, uint64 [n], count once. Every class has its share in each of five folds; one with fewer
    images is left out. At most ``MOST_IMAGES`` take part, and fewer where there are many classes, drawn by ``seed``. Shuffles
    permute the labels within folds, so that every shuffle keeps the classes of each fold, under which the test is exact.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    chosen, counts = choose_images(labels, fingerprints, seed)
    kept, truth = np.unique(labels[chosen], return_inverse=True)
    prediction = LabelPrediction(target, len(chosen), len(kept), **counts)
    if len(kept) < 2:
        missing = f"at least two {_plural(target)} with {FOLDS} different images each are needed, and there are {len(kept)}"
        return replace(prediction, missing=missing)
    matrices = {name: one_hot(columns) for name, columns in take(chosen).items()}
    constant = tuple(name for name, matrix in matrices.items() if not matrix.shape[1])
    matrices = {name: matrix for name, matrix in matrices.items() if matrix.shape[1]}
    repeated = _repeated(matrices)
    matrices = {name: matrix for name, matrix in matrices.items() if name not in repeated}
    majority = float(np.bincount(truth).max() / len(truth))
    prediction = replace(
        prediction, accuracy=majority, majority=majority, permutations=permutations, constant=constant, repeated=repeated
    )
    if not matrices:
        return replace(prediction, p_value=1.0)
    test = _Test(truth, seed)
    steps, done = (2 * len(matrices) + 1) * permutations, 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(min(done, steps), steps)

    accuracy, p_value = test.run(np.hstack(list(matrices.values())), permutations, advance)
    scores = []
    for name, matrix in matrices.items():
        others = [other for place, other in matrices.items() if place != name]
        alone, p_alone = test.run(matrix, permutations, advance)
        without = test.run(np.hstack(others), 0, advance)[0] if others else majority
        advance(permutations)
        scores.append((name, alone, p_alone, without))
    corrected = holm(np.array([p_alone for _, _, p_alone, _ in scores]))
    scores_by_field = [
        FieldScore(name, alone, p_alone, float(p_holm), without)
        for (name, alone, p_alone, without), p_holm in zip(scores, corrected, strict=True)
    ]
    scores_by_field.sort(key=lambda score: -score.alone)
    return replace(prediction, accuracy=accuracy, p_value=p_value, fields=tuple(scores_by_field))


def _repeated(matrices: Mapping[str, NDArray[np.float32]]) -> dict[str, str]:
    """Return the fields whose bins are those of an earlier one, and that one's name."""
    names = list(matrices)
    return {
        name: earlier
        for place, name in enumerate(names)
        for earlier in names[:place]
        if np.array_equal(matrices[name], matrices[earlier])
    }


def _plural(target: str) -> str:
    return {"class": "classes"}.get(target, f"{target}s")


def choose_images(
    labels: NDArray[np.integer], fingerprints: NDArray[np.uint64], seed: int
) -> tuple[NDArray[np.int64], _Counts]:
    """Return the positions of the images that take part, in ascending order, and how many do not, by reason."""
    _, first = np.unique(fingerprints, return_index=True)
    images = np.sort(first)
    per_class = np.bincount(labels[images])
    common = per_class[labels[images]] >= FOLDS
    rare, rare_classes = int((~common).sum()), int(((per_class > 0) & (per_class < FOLDS)).sum())
    images = images[common]
    classes = int((per_class >= FOLDS).sum())
    most = max(min(MOST_IMAGES, MOST_CELLS // max(classes, 1)), 2 * FOLDS * classes)
    chosen = images if len(images) <= most else _stratified_sample(images, labels[images], most, seed)
    unsampled = len(images) - len(chosen)
    return chosen, {
        "duplicates": len(labels) - len(first),
        "rare": rare,
        "rare_classes": rare_classes,
        "unsampled": unsampled,
    }


def _stratified_sample(images: NDArray[np.int64], labels: NDArray[np.integer], most: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``most`` of ``images``: of every class its share, and at least ``FOLDS``."""
    random = np.random.default_rng([seed, 1])
    parts = []
    for label in np.unique(labels):
        members = images[labels == label]
        count = max(FOLDS, most * len(members) // len(images))
        parts.append(random.choice(members, min(count, len(members)), replace=False))
    return np.sort(np.concatenate(parts))


def one_hot(columns: Sequence[Column]) -> NDArray[np.float32]:
    """Return the indicators of the bins of ``columns``, float32 [n bins]; no bins for a column with one value only.

    A column with at most 16 values has a bin for each. Of numbers with more, which are floats, the bins hold about equally many
    images; of categories, which are unsigned integers, the rarest share one.
    """
    parts: list[NDArray[np.float32]] = []
    for column in columns:
        values, places, counts = np.unique(column, return_inverse=True, return_counts=True)
        if len(values) > BINS:
            if column.dtype.kind == "u":
                frequent = np.argsort(-counts, kind="stable")[: BINS - 1]
                mapping = np.full(len(values), BINS - 1)
                mapping[frequent] = np.arange(BINS - 1)
                places = mapping[places]
            else:
                edges = np.unique(np.quantile(column.astype(np.float64), np.linspace(0, 1, BINS + 1)[1:-1]))
                places = np.searchsorted(edges, column.astype(np.float64), side="right")
        _, places = np.unique(places, return_inverse=True)
        if places.max(initial=0) > 0:
            parts.append(np.eye(places.max() + 1, dtype=np.float32)[places])
    return np.hstack(parts) if parts else np.empty((len(columns[0]), 0), np.float32)


class _Test:
    """A cross-validation and permutation test with fixed folds."""

    def __init__(self, truth: NDArray[np.int64], seed: int) -> None:
        try:
            from sklearn.model_selection import StratifiedKFold
        except ImportError:
            raise UsageError(
                f"The prediction of labels needs the package scikit-learn. Run {install_command('scikit-learn')}."
            ) from None
        self._truth, self._seed, self._classes = truth, seed, int(truth.max()) + 1
        splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
        self._folds = [fold for _, fold in splitter.split(np.zeros(len(truth)), truth)]

    def run(self, features: NDArray[np.float32], permutations: int, advance: Callable[[int], None]) -> tuple[float, float]:
        """Return the accuracy on ``features``, [n bins], and its p-value."""
        folds = [_Fold.of(features[fold], self._truth[fold], self._classes) for fold in self._folds]
        right = []
        for labels in self._blocks(permutations):
            tables = [fold.tabulate(labels[:, members]) for fold, members in zip(folds, self._folds, strict=True)]
            right.append(_count_right(folds, tables))
            advance(len(labels))
        counts = np.concatenate(right)
        p_value = float((counts >= counts[0]).mean())  # the labels themselves are the first row
        return float(counts[0] / len(self._truth)), p_value

    def _blocks(self, permutations: int) -> Iterator[NDArray[np.int64]]:
        """Yield the labels, then shuffles of them within folds, int64 [rows n], in blocks of rows; the same at every call."""
        random = np.random.default_rng([self._seed, 2])
        rows = max(1, _BLOCK // (len(self._truth) * self._classes))
        for start in range(0, permutations + 1, rows):
            labels = np.tile(self._truth, (min(rows, permutations + 1 - start), 1))
            for fold in self._folds:
                labels[:, fold] = random.permuted(labels[:, fold], axis=1)
            if start == 0:
                labels[0] = self._truth
            yield labels


@dataclass(frozen=True, slots=True)
class _Fold:
    """The images of one fold, those with the same bins as one of ``kinds``, float32 [kinds bins].

    ``of_image`` is the kind of every image. Shuffles within the fold change neither the sums of the bins and of their products,
    ``bins`` and ``products``, nor the images of each class, ``classes``.
    """

    kinds: NDArray[np.float32]
    of_image: NDArray[np.int64]
    bins: NDArray[np.float64]
    products: NDArray[np.float64]
    classes: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.float32], truth: NDArray[np.int64], classes: int) -> "_Fold":
        """Return the fold of these images."""
        kinds, of_image, images = np.unique(features, axis=0, return_inverse=True, return_counts=True)
        weighted = kinds.astype(np.float64) * images[:, None]
        counts = np.bincount(truth, minlength=classes).astype(np.float64)
        return cls(kinds, of_image.reshape(-1), weighted.sum(axis=0), weighted.T @ kinds, counts)

    def tabulate(self, labels: NDArray[np.int64]) -> NDArray[np.float32]:
        """Count images by kind, row of ``labels`` and class, float32 [kinds rows classes]."""
        rows, classes = len(labels), len(self.classes)
        cells = (self.of_image * rows + np.arange(rows)[:, None]) * classes + labels
        counts = np.bincount(cells.ravel(), minlength=len(self.kinds) * rows * classes)
        return counts.astype(np.float32).reshape(len(self.kinds), rows, classes)


def _count_right(folds: Sequence[_Fold], tables: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    """Return how many images are predicted right for every row of the tables, each fold by a model of the others, int64 [rows].

    The model is ridge regression to the indicators of the classes, with a free intercept, by its normal equations: sums over
    the other folds are those over all of them less this one's.
    """
    rows, classes = tables[0].shape[1:]
    sums = [fold.kinds.T @ table.reshape(len(fold.kinds), -1) for fold, table in zip(folds, tables, strict=True)]
    all_sums = np.sum(sums, axis=0)
    all_bins, all_products, all_classes = (
        np.sum([getattr(fold, name) for fold in folds], axis=0) for name in ("bins", "products", "classes")
    )
    right = np.zeros(rows, np.int64)
    for fold, own, table in zip(folds, sums, tables, strict=True):
        shares = all_classes - fold.classes
        images = shares.sum()
        mean, shares = (all_bins - fold.bins) / images, shares / images
        centred = all_products - fold.products - images * np.outer(mean, mean)
        target = (all_sums - own) - images * np.outer(mean, np.tile(shares, rows))
        weights = np.linalg.solve(centred + STRENGTH * np.eye(len(mean)), target).astype(np.float32)
        scores = ((fold.kinds - mean).astype(np.float32) @ weights).reshape(len(fold.kinds), rows, classes)
        guesses = (scores + shares.astype(np.float32)).argmax(axis=2)
        right += np.take_along_axis(table, guesses[:, :, None], axis=2).sum(axis=(0, 2)).astype(np.int64)
    return right
