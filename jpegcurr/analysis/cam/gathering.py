"""Figures of every image that goes by: a row for each, and nothing else of it.

All rows are there from the start. Many small arrays, kept between large ones that come and go with every batch, would leave the
large ones' memory in pieces, and a process that grows by a batch with every batch.
"""

from collections.abc import Sequence
from dataclasses import fields
from math import nan
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.results import FIGURES, Column, NullOf, ViewColumns
from jpegcurr.analysis.cam.pipeline import Cropped, Look, Sight
from jpegcurr.analysis.cam.baselines import open_null
from jpegcurr.analysis.cam.similarity import similarities


class Gathering:
    """What is known of the images that were added, and of the ones that could not be read.

    Attributes:
        skipped: (file, reason) pairs of those that could not be read.
        grid: of the maps, (h, w); (0, 0) before there are any.
    """

    def __init__(self, look: Look, expected: Sequence[Path]) -> None:
        """``expected`` are the files to come, in order; their classes tell which null there can be."""
        self.skipped: list[tuple[str, str]] = []
        self.grid = (0, 0)
        self._look = look
        self._expected = expected
        self._truth = np.array([look.truth(file) for file in expected], np.int32)
        self._read = np.zeros(len(expected), np.bool_)
        self._added = 0
        names = [*look.metrics]
        self._columns = [_empty(len(expected), names) for _ in range(len(look.runs) * len(look.specs))]
        self._ceiling = np.full((len(expected), len(FIGURES)), nan, np.float32)
        self._null = open_null(self._truth)

    def add(self, batch: Sequence[Cropped]) -> None:
        """Look at a batch and keep its figures; raises as ``Look.see``."""
        self.skipped += [(str(each.file), each.reason) for each in batch if not each.views]
        rows = self._added + np.flatnonzero([bool(each.views) for each in batch])
        self._added += len(batch)
        if not len(rows):
            return
        sights, near = self._look.see([each for each in batch if each.views])
        first = sights[0]
        for number, (columns, sight) in enumerate(zip(self._columns, sights, strict=True)):
            _fill(columns, rows, sight, first if number else None)
        self._ceiling[rows] = _figures(first, near)
        self._null.add(first.maps, rows)
        self._read[rows] = True
        self.grid = first.maps.shape[1], first.maps.shape[2]

    def files(self) -> list[Path]:
        """Those that were read, in order."""
        return [self._expected[row] for row in np.flatnonzero(self._read).tolist()]

    def truth(self) -> NDArray[np.int32]:
        """Each image's class, -1 where its folder's name is none, [images]."""
        return self._truth[self._read]

    def columns(self) -> tuple[ViewColumns, ...]:
        """What each view makes of every image."""
        return tuple(_taken(columns, self._read) for columns in self._columns)

    def null(self) -> tuple[Column, NullOf]:
        """The nulls' figures [images FIGURES], and whose maps they are of."""
        figures, null_of = self._null.finish()
        return figures[self._read], null_of

    def ceiling(self) -> Column:
        """The ceilings' figures, [images FIGURES]."""
        return self._ceiling[self._read]


def _empty(images: int, metrics: Sequence[str]) -> ViewColumns:
    def column() -> Column:
        return np.full(images, nan, np.float32)

    return ViewColumns(
        predicted=np.full(images, -1, np.int32),
        target=np.full(images, -1, np.int32),
        confidence=column(),
        logit=column(),
        dark=np.ones(images, np.bool_),
        figures=np.full((images, len(FIGURES)), nan, np.float32),
        faithfulness={name: column() for name in metrics},
    )


def _fill(columns: ViewColumns, rows: NDArray[np.int64], sight: Sight, first: Sight | None) -> None:
    """Write one batch in one view; ``first`` is None for the first view itself."""
    columns.predicted[rows] = sight.predicted
    columns.target[rows] = sight.targets
    columns.confidence[rows] = sight.logits.softmax(dim=1).amax(dim=1).numpy()
    columns.logit[rows] = _explained(sight)
    columns.dark[rows] = sight.maps.max(axis=(1, 2)) <= 0
    if first is not None:
        columns.figures[rows] = _figures(first, sight)
    for name, figures in sight.faithfulness.items():
        columns.faithfulness[name][rows] = figures


def _figures(first: Sight, second: Sight | None) -> Column:
    """Float32 [b FIGURES]; nan if there is nothing to compare with."""
    rows = np.full((len(first.maps), len(FIGURES)), nan, np.float32)
    if second is not None:
        rows[:, :-1] = similarities(first.maps, second.maps)
        rows[:, -1] = _explained(second) - _explained(first)
    return rows


def _explained(sight: Sight) -> Column:
    """The logit of the class explained, [b]."""
    targets = torch.from_numpy(sight.targets.astype(np.int64))
    logits: Column = sight.logits.gather(1, targets[:, None])[:, 0].numpy()
    return logits


def _taken(columns: ViewColumns, read: NDArray[np.bool_]) -> ViewColumns:
    arrays = [field.name for field in fields(ViewColumns) if field.name != "faithfulness"]
    return ViewColumns(
        **{name: getattr(columns, name)[read] for name in arrays},
        faithfulness={name: figures[read] for name, figures in columns.faithfulness.items()},
    )
