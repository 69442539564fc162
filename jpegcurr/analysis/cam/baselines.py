"""Baselines of similarity: the reference maps of two different images compared, as the images stream by."""

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.cam.results import BaselineOf, Column, Labels, Map
from jpegcurr.analysis.cam.similarity import similarities, unknown_columns

_PAIRS = 1024  # compared at a time

Places = NDArray[np.int64]


class SameClass:
    """The baseline that compares each image's map with the next one's of its class, and the last one's with the first's.

    It keeps the first and the last map of every class, however many images there are. ``truth`` are the classes of all images
    that may come, -1 where unknown, [images].
    """

    def __init__(self, truth: Labels) -> None:
        self._truth = truth
        self._columns = unknown_columns(len(truth))
        self._ends: Map | None = None  # [2 classes h w]: the first and the last
        self._last = np.full(int(truth.max(initial=-1)) + 1, -1)  # the last image of each class, -1 before there is one
        self._first = self._last.copy()

    def add(self, maps: Map, places: Places) -> None:
        """Add the next images' maps [b h w]; ``places`` are their numbers in ``truth``, [b]."""
        if self._ends is None:
            self._ends = np.zeros((2, len(self._last), *maps.shape[1:]), np.float32)
        pairs: list[tuple[int, Map, Map]] = []
        for place, cam in zip(places.tolist(), maps, strict=True):
            label = self._truth[place]
            if label < 0:
                continue
            if self._first[label] < 0:
                self._first[label], self._ends[0, label] = place, cam
            else:
                pairs.append((self._last[label], self._ends[1, label].copy(), cam))
            self._last[label], self._ends[1, label] = place, cam
        self._compare(pairs)

    def finish(self) -> tuple[dict[str, Column], BaselineOf]:
        """Return the metrics [images], nan where an image is alone in its class or did not come, and the kind of pairs."""
        labels = np.flatnonzero(self._last != self._first)
        if self._ends is None or not len(labels):
            return self._columns, ""
        self._compare([(self._last[label], self._ends[1, label], self._ends[0, label]) for label in labels])
        return self._columns, "same class"

    def _compare(self, pairs: list[tuple[int, Map, Map]]) -> None:
        if pairs:
            places, firsts, seconds = zip(*pairs, strict=True)
            for name, values in similarities(np.stack(firsts), np.stack(seconds)).items():
                self._columns[name][list(places)] = values


class HalfTheList:
    """The baseline that compares each image's map with the one half the list away; it keeps all maps until the end."""

    def __init__(self, truth: Labels) -> None:
        self._columns = unknown_columns(len(truth))
        self._arrived = np.zeros(len(truth), np.bool_)
        self._maps: Map | None = None

    def add(self, maps: Map, places: Places) -> None:
        """Add the next images' maps [b h w]; ``places`` are their numbers in the list, [b]."""
        if self._maps is None:
            self._maps = np.zeros((len(self._arrived), *maps.shape[1:]), np.float32)
        self._maps[places] = maps
        self._arrived[places] = True

    def finish(self) -> tuple[dict[str, Column], BaselineOf]:
        """Return the metrics [images], nan for an image that did not come or came alone, and the kind of pairs."""
        places = np.flatnonzero(self._arrived)
        half = len(places) // 2
        if self._maps is None or not half:
            return self._columns, ""
        for start in range(0, len(places), _PAIRS):
            block = np.arange(start, min(start + _PAIRS, len(places)))
            others = places[(block + half) % len(places)]
            for name, values in similarities(self._maps[places[block]], self._maps[others]).items():
                self._columns[name][places[block]] = values
        return self._columns, "half the list"


def open_baseline(truth: Labels) -> SameClass | HalfTheList:
    """Return the baseline for images of these classes [images], -1 where unknown.

    It is within classes if at least half of the images have another one of their class.
    """
    _, places, counts = np.unique(truth, return_inverse=True, return_counts=True)
    paired = int(((counts[places] > 1) & (truth >= 0)).sum())
    return SameClass(truth) if 2 * paired >= max(2, len(truth)) else HalfTheList(truth)
