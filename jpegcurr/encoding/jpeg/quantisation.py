"""Quantisation tables: those that libjpeg and mozjpeg make for a quality, and the quality that made the tables of a file.

The base tables of libjpeg are those of ITU-T T.81, annex K.1; the scaling is that of ``jpeg_quality_scaling`` and
``jpeg_add_quant_table`` in libjpeg 6b, which Pillow, OpenCV, libjpeg-turbo and ``cjpeg`` share. mozjpeg scales another base
table, by N. Robidoux, in the same way since version 3. A table is a tuple of 64 steps in zigzag order, as a file has them.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Table = tuple[int, ...]
Maker = Literal["libjpeg", "mozjpeg", "other"]

QUALITIES = range(1, 101)
_BASELINE, _EXTENDED = 255, 32767  # the largest step of a table of 8 bits, and of one of 16 bits

# By row and column, as the standard prints them: the steps of luma and chroma at quality 50.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
_MOZJPEG = (
    (16, 16, 16, 18, 25, 37, 56, 85),
    (16, 17, 20, 27, 34, 40, 53, 75),
    (16, 20, 24, 31, 43, 62, 91, 135),
    (18, 27, 31, 40, 53, 74, 106, 156),
    (25, 34, 43, 53, 69, 94, 131, 189),
    (37, 40, 62, 74, 94, 124, 169, 238),
    (56, 53, 91, 106, 131, 169, 226, 311),
    (85, 75, 135, 156, 189, 238, 311, 418),
)
# Row and column of every place in zigzag order: along the antidiagonals, every second one upwards.
ZIGZAG = sorted(np.ndindex(8, 8), key=lambda at: (sum(at), at[0] if sum(at) % 2 else at[1]))


@dataclass(frozen=True, slots=True)
class Quantisation:
    """The quality of a file's quantisation tables.

    ``quality`` is exact where ``exact`` is set: the tables are those that ``maker`` makes for it. Else it is the quality of
    libjpeg with the nearest tables, and ``factor`` says how near: the geometric mean of the ratios of their steps, the larger
    by the smaller. ``chroma`` is the quality of the chroma tables where it is another than that of luma, as in
    ``cjpeg -quality 90,70``; else None.
    """

    quality: int
    exact: bool
    maker: Maker
    factor: float = 1.0
    chroma: int | None = None


def libjpeg_tables(quality: int, *, baseline: bool = True) -> tuple[Table, Table]:
    """Return libjpeg's tables of luma and of chroma for a quality, 1 to 100.

    ``baseline`` limits steps to 255, as Pillow, OpenCV and ``cjpeg -baseline`` do and ``cjpeg`` alone does not; it matters
    below quality 25.
    """
    return _scaled(LUMA, quality, baseline), _scaled(CHROMA, quality, baseline)


def _scaled(base: tuple[tuple[int, ...], ...], quality: int, baseline: bool) -> Table:
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    most = _BASELINE if baseline else _EXTENDED
    return tuple(min(max((base[row][column] * scale + 50) // 100, 1), most) for row, column in ZIGZAG)


@lru_cache(1 << 12)  # a data set has few different tables, and whoever made it may have put in many
def read_quality(luma: tuple[Table, ...], chroma: tuple[Table, ...] = ()) -> Quantisation:
    """Return the quality of tables: those of the components that libjpeg gives its luma table, and those of the others.

    They are exact if every table is of one maker, all of luma of one quality and all of chroma of one.
    """
    for maker, by_luma, by_chroma in _known_tables():
        lumas = set[int].intersection(*(by_luma.get(table, set()) for table in luma))
        chromas = set[int].intersection(*(by_chroma.get(table, set()) for table in chroma)) if chroma else lumas
        if lumas & chromas:
            return Quantisation(max(lumas & chromas), True, maker)
        if lumas and chromas:  # luma is never ambiguous; the chroma of qualities 1 to 3 is, at 255 everywhere
            return Quantisation(max(lumas), True, maker, chroma=max(chromas))
    return _nearest(luma, chroma)


def _nearest(luma: tuple[Table, ...], chroma: tuple[Table, ...]) -> Quantisation:
    lumas, chromas = _log_tables()
    distances = [np.abs(lumas - np.log(np.maximum(table, 1))) for table in luma]
    distances += [np.abs(chromas - np.log(np.maximum(table, 1))) for table in chroma]
    means = np.mean(distances, axis=(0, 2))
    place = len(means) - 1 - int(means[::-1].argmin())  # of equal ones the highest quality
    return Quantisation(QUALITIES[place], False, "other", factor=float(np.exp(means[place])))


@cache
def _known_tables() -> tuple[tuple[Maker, dict[Table, set[int]], dict[Table, set[int]]], ...]:
    """Return every maker, and for its tables of luma and of chroma the qualities that have them."""
    known: tuple[tuple[Maker, dict[Table, set[int]], dict[Table, set[int]]], ...]
    known = (("libjpeg", {}, {}), ("mozjpeg", {}, {}))
    for quality in QUALITIES:
        for baseline in (True, False):
            tables_of = (*libjpeg_tables(quality, baseline=baseline), *[_scaled(_MOZJPEG, quality, baseline)] * 2)
            for (_, *by_table), tables in zip(known, (tables_of[:2], tables_of[2:]), strict=True):
                for qualities, table in zip(by_table, tables, strict=True):
                    qualities.setdefault(table, set()).add(quality)
    return known


@cache
def _log_tables() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logarithms of libjpeg's tables of luma and of chroma, float64 [qualities 64] each."""
    luma, chroma = zip(*(libjpeg_tables(quality, baseline=False) for quality in QUALITIES), strict=True)
    return np.log(luma), np.log(chroma)
