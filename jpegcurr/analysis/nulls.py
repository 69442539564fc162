"""What maps get that have nothing in common but, at most, a class: reference maps of two images, as they stream by."""

from math import nan

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.cam_study import FIGURES, Column, Map, NullOf
from jpegcurr.analysis.similarity import similarities

_PAIRS = 1024  # compared at a time

Labels = NDArray[np.int32]


class SameClass:
    """Each image's map against that of the next image of its class; the last one's against the first one's.

    Of every class the first and the last map are kept, however many images there are.
    """

    def __init__(self) -> None:
        self._first: dict[int, Map] = {}
        self._last: dict[int, tuple[int, Map]] = {}  # the image's place, and its map
        self._images = 0
        self._found: list[tuple[list[int], Column]] = []

    def add(self, maps: Map, truth: Labels) -> None:
        """Take the next images' maps [b h w] and classes [b], -1 where there is none."""
        pairs: list[tuple[int, Map, Map]] = []
        for place, (cam, label) in enumerate(zip(maps, truth.tolist(), strict=True), start=self._images):
            if label < 0:
                continue
            if label in self._last:
                pairs.append((*self._last[label], cam))
            own = cam.copy()  # or the whole batch would be kept
            self._first.setdefault(label, own)
            self._last[label] = place, own
        self._images += len(maps)
        self._compare(pairs)

    def finish(self) -> tuple[Column, NullOf]:
        """The figures [images FIGURES], nan where an image is alone in its class, and whose they are."""
        ends = [(place, cam, self._first[label]) for label, (place, cam) in self._last.items()]
        self._compare([(place, cam, first) for place, cam, first in ends if cam is not first])
        figures = _unknown(self._images)
        for places, rows in self._found:
            figures[places] = rows
        return figures, "same class" if self._found else ""

    def _compare(self, pairs: list[tuple[int, Map, Map]]) -> None:
        if pairs:
            places, firsts, seconds = zip(*pairs, strict=True)
            self._found.append((list(places), _figures(np.stack(firsts), np.stack(seconds))))


class HalfTheList:
    """Each image's map against that of the image half the list away, for which all of them are kept until the end."""

    def __init__(self) -> None:
        self._maps: list[Map] = []

    def add(self, maps: Map, truth: Labels) -> None:  # noqa: ARG002 (as SameClass takes it)
        """Take the next images' maps [b h w]."""
        self._maps.append(maps)

    def finish(self) -> tuple[Column, NullOf]:
        """The figures [images FIGURES], nan for a single image, and whose they are."""
        maps = np.concatenate(self._maps)
        figures, half = _unknown(len(maps)), len(maps) // 2
        if not half:
            return figures, ""
        for start in range(0, len(maps), _PAIRS):
            here = np.arange(start, min(start + _PAIRS, len(maps)))
            figures[here] = _figures(maps[here], maps[(here + half) % len(maps)])
        return figures, "half the list"


def open_null(truth: Labels) -> SameClass | HalfTheList:
    """The null for images of these classes [images], -1 where there is none: by class where at least half have a fellow."""
    _, places, counts = np.unique(truth, return_inverse=True, return_counts=True)
    fellows = int(((counts[places] > 1) & (truth >= 0)).sum())
    return SameClass() if 2 * fellows >= max(2, len(truth)) else HalfTheList()


def _unknown(images: int) -> Column:
    return np.full((images, len(FIGURES)), nan, np.float32)


def _figures(first: Map, second: Map) -> Column:
    """How far apart two images' logits are says nothing."""
    rows = _unknown(len(first))
    rows[:, :-1] = similarities(first, second)
    return rows
