"""Figures of every image that goes by: a row for each, and nothing else of it."""

from collections.abc import Sequence
from dataclasses import fields
from math import nan
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam_study import FIGURES, Column, NullOf, ViewColumns
from jpegcurr.analysis.looking import Cropped, Look, Sight
from jpegcurr.analysis.nulls import open_null
from jpegcurr.analysis.similarity import similarities


class Gathering:
    """What is known of the images that were added, and of the ones that could not be read.

    Attributes:
        files: those that were read, in order.
        skipped: (file, reason) pairs of the others.
        grid: of the maps, (h, w); (0, 0) before there are any.
    """

    def __init__(self, look: Look, expected: Sequence[Path]) -> None:
        """``expected`` are the files to come, whose classes tell which null there can be."""
        self.files: list[Path] = []
        self.skipped: list[tuple[str, str]] = []
        self.grid = (0, 0)
        self._look = look
        self._null = open_null(self._truth(expected))
        self._columns: list[list[ViewColumns]] = []
        self._ceiling: list[Column] = []

    def add(self, batch: Sequence[Cropped]) -> None:
        """Look at a batch and keep its figures; raises as ``Look.see``."""
        self.skipped += [(str(each.file), each.reason) for each in batch if not each.views]
        read = [each for each in batch if each.views]
        if not read:
            return
        sights, near = self._look.see(read)
        first, files = sights[0], [each.file for each in read]
        self._columns.append([_columns(sight, first if number else None) for number, sight in enumerate(sights)])
        self._ceiling.append(_figures(first, near))
        self._null.add(first.maps, self._truth(files))
        self.files += files
        self.grid = first.maps.shape[1], first.maps.shape[2]

    def truth(self) -> NDArray[np.int32]:
        """Each image's class, -1 where its folder's name is none, [images]."""
        return self._truth(self.files)

    def columns(self) -> tuple[ViewColumns, ...]:
        """What each view makes of every image."""
        return tuple(_joined(parts) for parts in zip(*self._columns, strict=True))

    def null(self) -> tuple[Column, NullOf]:
        """The nulls' figures [images FIGURES], and whose maps they are of."""
        return self._null.finish()

    def ceiling(self) -> Column:
        """The ceilings' figures, [images FIGURES]."""
        return np.concatenate(self._ceiling)

    def _truth(self, files: Sequence[Path]) -> NDArray[np.int32]:
        return np.array([self._look.truth(file) for file in files], np.int32)


def _columns(sight: Sight, first: Sight | None) -> ViewColumns:
    """The rows of one batch in one view; ``first`` is None for the first view itself."""
    return ViewColumns(
        predicted=sight.predicted,
        target=sight.targets,
        confidence=sight.logits.softmax(dim=1).amax(dim=1).numpy(),
        logit=_explained(sight),
        dark=sight.maps.max(axis=(1, 2)) <= 0,
        figures=_figures(first, sight) if first else _figures(sight, None),
        faithfulness=sight.faithfulness,
    )


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


def _joined(parts: Sequence[ViewColumns]) -> ViewColumns:
    arrays = [field.name for field in fields(ViewColumns) if field.name != "faithfulness"]
    return ViewColumns(
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays},
        faithfulness={name: np.concatenate([part.faithfulness[name] for part in parts]) for name in parts[0].faithfulness},
    )
