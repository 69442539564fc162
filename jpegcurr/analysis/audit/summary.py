"""Summaries of the files of a data set: by split, by class, and of files that are the same."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from jpegcurr.analysis.audit.columns import HUFFMAN_NAMES, LAYOUT_NAMES, MAKERS, PROCESS_NAMES, FileColumns
from jpegcurr.encoding.jpeg.anatomy import MARKERS
from jpegcurr.encoding.jpeg.double_compression import Trace
from jpegcurr.encoding.jpeg.former_size import FormerSize

FALSE_ALARMS = 0.01  # at most, of photographs without an earlier compression: experiments/010
MOST_ENCODERS = 12  # that a summary lists
_RESIZED = 0.9  # share of images with one side in common from which a set counts as resized
_LEAST_TO_JUDGE = 20  # images, for that share
_MOST_BITS = 24  # a pixel
_SIDES = np.concatenate([np.arange(0, 2000, 50), np.arange(2000, 10_001, 500)])  # pixels, edges of bins

Spread = tuple[float, float, float]
Histogram = tuple[Sequence[float], Sequence[int]]


@dataclass(slots=True)
class TraceCounts:
    """The search for earlier compressions in a sample of a split.

    ``sampled`` JPEGs were searched, ``judged`` had coefficients enough, and ``detected`` show an earlier compression, of the
    qualities in ``earlier``: the range of those that fit alike, with its number of images.
    """

    sampled: int = 0
    judged: int = 0
    detected: int = 0
    earlier: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, trace: Trace | None) -> None:
        """Count one more image."""
        self.sampled += 1
        if trace is not None:
            self.judged += 1
            if trace.detected:
                self.detected += 1
                self.earlier[trace.lowest, trace.highest] += 1

    @property
    def p_value(self) -> float:
        """The chance of as many detections or more, were all of them false alarms."""
        return float(binom.sf(self.detected - 1, self.judged, FALSE_ALARMS))


@dataclass(frozen=True, slots=True)
class SplitSummary:
    """The files of one split.

    Counts are of files, by value, the most frequent first. A spread is (least, median, most). ``qualities`` are those of JPEGs,
    exact or nearest; ``makers`` are those of their tables; ``split_quality`` counts those with another quality for chroma, and
    ``largest_factor`` is that of the tables furthest from libjpeg's. ``resized`` is the side that nearly all images have in
    common, in words; "" if there is none. ``traces`` are of earlier compressions on the files' own grid, ``moved`` on others;
    ``former`` is what the images together show of one before they were resized, None where that was not looked for. A histogram
    is (middles, counts) of its bins.
    """

    name: str
    images: int
    unread: int
    unended: int
    misnamed: int
    formats: Mapping[str, int]
    processes: Mapping[str, int]
    layouts: Mapping[str, int]
    huffman: Mapping[str, int]
    qualities: Mapping[int, int]
    makers: Mapping[str, int]
    split_quality: int
    largest_factor: float
    restarts: int
    markers: Mapping[str, int]
    orientations: Mapping[int, int]
    encoders: Mapping[str, int]
    encoders_stated: int
    width: Spread
    height: Spread
    file_bytes: Spread
    total_bytes: int
    bits_per_pixel: Spread
    resized: str
    quality_histogram: Histogram
    bits_histogram: Histogram
    side_histogram: Histogram
    traces: TraceCounts
    moved: TraceCounts
    former: FormerSize | None

    @property
    def jpegs(self) -> int:
        """The number of JPEGs whose header could be read."""
        return sum(self.processes.values())


@dataclass(frozen=True, slots=True)
class ClassSummary:
    """The files of one class, over all splits; shares are of its JPEGs, medians of all files that could be read.

    ``common_quality`` is the most frequent one, ``common_layout`` the most frequent chroma layout; nan and "" without a JPEG.
    """

    name: str
    images: int
    unread: int
    jpegs: int
    quality: float
    common_quality: int
    common_quality_share: float
    common_layout: str
    common_layout_share: float
    width: float
    height: float
    file_bytes: float
    bits_per_pixel: float


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Files with the bytes of another one: how many more than there are different ones, and those in two splits or classes."""

    copies: int
    across_splits: int
    across_classes: int


def summarise_split(
    name: str, columns: FileColumns, traces: TraceCounts, moved: TraceCounts, former: FormerSize | None
) -> SplitSummary:
    """Summarise the files of one split."""
    read = ~columns["unread"].astype(np.bool_)
    jpeg = columns["process"] > 0
    exact = jpeg & (columns["maker"] != MAKERS.index("other"))
    marks = columns["markers"].astype(np.int64)
    encoders = _counts(columns["encoder"], columns.encoders)
    stated = {text: count for text, count in encoders.items() if text}
    factors = columns["factor"][jpeg & ~exact]
    return SplitSummary(
        name,
        images=len(columns),
        unread=int((~read).sum()),
        unended=int((~columns["ended"].astype(np.bool_)).sum()),
        misnamed=int(columns["misnamed"].sum()),
        formats=_counts(columns["format"][read], columns.formats),
        processes=_counts(columns["process"][jpeg], PROCESS_NAMES),
        layouts=_counts(columns["layout"][jpeg], LAYOUT_NAMES),
        huffman=_counts(columns["huffman"][jpeg], HUFFMAN_NAMES),
        qualities={int(quality): count for quality, count in _counts(columns["quality"][jpeg]).items() if quality},
        makers=_counts(columns["maker"][jpeg & (columns["maker"] > 0)], MAKERS),
        split_quality=int((exact & (columns["chroma_quality"] != columns["quality"])).sum()),
        largest_factor=float(factors.max()) if factors.size else 1.0,
        restarts=int((columns["restart"] > 0).sum()),
        markers={mark: count for bit, mark in enumerate(MARKERS) if (count := int((marks >> bit & 1).sum()))},
        orientations={int(value): count for value, count in _counts(columns["orientation"][jpeg]).items() if value != "1"},
        encoders=dict(list(stated.items())[:MOST_ENCODERS]),
        encoders_stated=sum(stated.values()),
        width=_spread(columns["width"][read]),
        height=_spread(columns["height"][read]),
        file_bytes=_spread(columns["bytes"][read]),
        total_bytes=int(columns["bytes"].sum(dtype=np.int64)),
        bits_per_pixel=_spread(columns.bits_per_pixel[read]),
        resized=_resized_words(columns),
        quality_histogram=_histogram(columns["quality"][jpeg], np.arange(0.5, 101)),
        bits_histogram=_histogram(columns.bits_per_pixel[read], np.arange(0, _MOST_BITS + 0.5, 0.5)),
        side_histogram=_histogram(np.maximum(columns["width"], columns["height"])[read], _SIDES),
        traces=traces,
        moved=moved,
        former=former,
    )


def _histogram(values: NDArray[Any], edges: NDArray[np.floating]) -> Histogram:
    """Return the middles of bins and how many values are in each; those beyond the last edge count in the last bin.

    Empty bins at both ends are left out, but for one next to the others, so that a line falls to 0.
    """
    clipped = np.clip(values.astype(np.float64), None, np.nextafter(edges[-1], 0))
    counts = np.histogram(clipped, edges)[0]
    filled = np.flatnonzero(counts)
    if not len(filled):
        return (), ()
    kept = slice(max(int(filled[0]) - 1, 0), int(filled[-1]) + 2)
    return ((edges[:-1] + edges[1:]) / 2)[kept].tolist(), counts[kept].tolist()


def _counts(codes: NDArray[Any], names: Sequence[str] | None = None) -> dict[str, int]:
    """Return how often each value is there, by name, the most frequent first."""
    values, counts = np.unique(codes, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {(names[values[place]] if names else str(values[place])): int(counts[place]) for place in order}


def _spread(values: NDArray[Any]) -> Spread:
    if not values.size:
        return (float("nan"),) * 3
    return float(values.min()), float(np.median(values)), float(values.max())


def common_side(columns: FileColumns) -> tuple[str, int, float] | None:
    """Return which side nearly all images have in common: the shorter or the longer, its pixels, and the share that has it."""
    read = ~columns["unread"].astype(np.bool_)
    sides = np.stack([columns["width"][read], columns["height"][read]])
    if sides.shape[1] < _LEAST_TO_JUDGE:
        return None
    for name, side in (("shorter", sides.min(axis=0)), ("longer", sides.max(axis=0))):
        values, counts = np.unique(side, return_counts=True)
        if counts.max() >= _RESIZED * len(side):
            return name, int(values[counts.argmax()]), float(counts.max() / len(side))
    return None


def _resized_words(columns: FileColumns) -> str:
    common = common_side(columns)
    return f"the {common[0]} side of {100 * common[2]:.3g} % is {common[1]} pixels" if common else ""


def summarise_classes(
    names: Sequence[str], labels: NDArray[np.int64], splits: Sequence[FileColumns]
) -> tuple[ClassSummary, ...]:
    """Summarise the files of every class that has some; ``labels``, int64 [n], are of the files of all splits in order."""
    columns = {
        name: np.concatenate([split[name] for split in splits])
        for name in ("unread", "process", "quality", "layout", "width", "height", "bytes")
    }
    bits = np.concatenate([split.bits_per_pixel for split in splits])
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    summaries = []
    for label, members in zip(present, np.split(order, starts[1:]), strict=True):
        read = members[~columns["unread"][members]]
        jpegs = members[columns["process"][members] > 0]
        quality, quality_share = _most_common(columns["quality"][jpegs])
        layout, layout_share = _most_common(columns["layout"][jpegs])
        medians = [_spread(column[read])[1] for column in (columns["width"], columns["height"], columns["bytes"], bits)]
        summaries.append(
            ClassSummary(
                names[label],
                len(members),
                len(members) - len(read),
                len(jpegs),
                _spread(columns["quality"][jpegs])[1],
                quality,
                quality_share,
                LAYOUT_NAMES[layout],
                layout_share,
                *medians,
            )
        )
    return tuple(summaries)


def _most_common(codes: NDArray[Any]) -> tuple[int, float]:
    """Return the most frequent code and its share; 0 and nan without any."""
    if not codes.size:
        return 0, float("nan")
    counts = np.bincount(codes.astype(np.int64))
    return int(counts.argmax()), float(counts.max() / len(codes))


def count_duplicates(fingerprints: NDArray[np.uint64], splits: NDArray[np.int64], labels: NDArray[np.int64]) -> Duplicates:
    """Count files of equal fingerprints, uint64 [n], which are also in another split, or have another label, int64 [n] each."""
    _, group = np.unique(fingerprints, return_inverse=True)
    groups = int(group.max(initial=-1)) + 1
    sizes = np.bincount(group, minlength=groups)

    def across(values: NDArray[np.int64]) -> int:
        least, most = np.full(groups, np.iinfo(np.int64).max), np.full(groups, -1)
        np.minimum.at(least, group, values)
        np.maximum.at(most, group, values)
        return int(sizes[least != most].sum())

    return Duplicates(len(group) - groups, across(splits), across(labels))
