"""What maps get that have nothing in common but, at most, a class: reference maps of two images, as they stream by."""

from math import nan

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.cam.results import FIGURES, Column, Map, NullOf
from jpegcurr.analysis.cam.similarity import similarities

_PAIRS = 1024  # compared at a time

Labels = NDArray[np.int32]
Places = NDArray[np.int64]


class SameClass:
    """Each image's map against that of the next image of its class; the last one's against the first one's.

    Of every class the first and the last map are kept, however many images there are. ``truth`` are the classes of all images
    that may come, -1 where there is none, [images].
    """

    def __init__(self, truth: Labels) -> None:
        self._truth = truth
        self._figures = _unknown(len(truth))
        self._ends: Map | None = None  # [2 classes h w]: the first and the last
        self._last = np.full(int(truth.max(initial=-1)) + 1, -1)  # the last image of each class, -1 before there is one
        self._first = self._last.copy()

    def add(self, maps: Map, places: Places) -> None:
        """Take the next images' maps [b h w] and places among ``truth``, [b]."""
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

    def finish(self) -> tuple[Column, NullOf]:
        """The figures [images FIGURES], nan where an image is alone in its class or did not come, and whose they are."""
        labels = np.flatnonzero(self._last != self._first)
        if self._ends is None or not len(labels):
            return self._figures, ""
        self._compare([(self._last[label], self._ends[1, label], self._ends[0, label]) for label in labels])
        return self._figures, "same class"

    def _compare(self, pairs: list[tuple[int, Map, Map]]) -> None:
        if pairs:
            places, firsts, seconds = zip(*pairs, strict=True)
            self._figures[list(places), :-1] = similarities(np.stack(firsts), np.stack(seconds))


class HalfTheList:
    """Each image's map against that of the image half the list away, for which all of them are kept until the end."""

    def __init__(self, truth: Labels) -> None:
        self._figures = _unknown(len(truth))
        self._came = np.zeros(len(truth), np.bool_)
        self._maps: Map | None = None

    def add(self, maps: Map, places: Places) -> None:
        """Take the next images' maps [b h w] and places, [b]."""
        if self._maps is None:
            self._maps = np.zeros((len(self._came), *maps.shape[1:]), np.float32)
        self._maps[places] = maps
        self._came[places] = True

    def finish(self) -> tuple[Column, NullOf]:
        """The figures [images FIGURES], nan for what did not come or came alone, and whose they are."""
        places = np.flatnonzero(self._came)
        half = len(places) // 2
        if self._maps is None or not half:
            return self._figures, ""
        for start in range(0, len(places), _PAIRS):
            here = np.arange(start, min(start + _PAIRS, len(places)))
            others = places[(here + half) % len(places)]
            self._figures[places[here], :-1] = similarities(self._maps[places[here]], self._maps[others])
        return self._figures, "half the list"


def open_null(truth: Labels) -> SameClass | HalfTheList:
    """The null for images of these classes [images], -1 where there is none: by class where at least half have a fellow."""
    _, places, counts = np.unique(truth, return_inverse=True, return_counts=True)
    fellows = int(((counts[places] > 1) & (truth >= 0)).sum())
    return SameClass(truth) if 2 * fellows >= max(2, len(truth)) else HalfTheList(truth)


def _unknown(images: int) -> Column:
    """The last figure stays so: how far apart two images' logits are says nothing."""
    return np.full((images, len(FIGURES)), nan, np.float32)
