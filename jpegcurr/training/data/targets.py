"""Targets other than classes: distributions over a model's outputs, by class of the data or by image, and their truth.

``Targets`` belong to a model: the section ``targets`` of its recipe, and what ``evaluate --merge`` makes of the outputs.
``classes.match_targets`` applies them to the labels of a data set, whose ``SoftTargets`` the loaders then look up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from jpegcurr.recipe.schema import TargetsSection

Row = NDArray[np.float64]
Shares = Sequence[Mapping[str, float]]  # of every image, by class of the data


@dataclass(frozen=True, slots=True)
class Targets:
    """The meaning of each class of the data to a model with ``outputs``.

    Attributes:
        outputs: the names of the outputs.
        rows: by class of the data, the share of every output. A class without a row is the output of its name.
        per_image: images have shares of their own, which weigh the rows.
        groups: for every output the number of the class that it is merged into; None if none is merged.
    """

    outputs: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    per_image: bool = False
    groups: tuple[int, ...] | None = None

    @classmethod
    def of(cls, section: TargetsSection | None, outputs: tuple[str, ...]) -> Self | None:
        """Return the targets of a recipe for a model with ``outputs``; None if the classes are its targets."""
        if section is None:
            return None
        rows = {name: tuple(row.get(output, 0.0) for output in outputs) for name, row in section.map.items()}
        return cls(outputs, rows, section.per_image)

    @property
    def soft(self) -> bool:
        """True if targets are more than a class for every image."""
        return self.per_image or any(share not in (0, 1) for row in self.rows.values() for share in row)

    def row(self, name: str) -> Row | None:
        """Return the shares of the outputs, float64 [outputs], of a class of the data; None if it means none of them."""
        if name in self.rows:
            return np.array(self.rows[name])
        return np.array([output == name for output in self.outputs], np.float64) if name in self.outputs else None

    def truth(self, row: Row) -> int:
        """Return the class that counts as right where the shares are ``row``: the largest, and the class it is merged into."""
        largest = int(row.argmax())
        return largest if self.groups is None else self.groups[largest]

    def merge(self, rows: Row) -> Row:
        """Add the shares [n outputs] of outputs that are merged: float64 [n classes]."""
        if self.groups is None:
            return rows
        merged = np.zeros((len(rows), max(self.groups) + 1))
        np.add.at(merged.T, list(self.groups), rows.T)
        return merged


@dataclass(frozen=True, slots=True, eq=False)
class SoftTargets:
    """The distribution over a model's classes of every image: ``rows`` float32 [r classes], ``row_of`` int64 [images]."""

    rows: NDArray[np.float32]
    row_of: NDArray[np.int64]

    def of(self, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the distributions of the images at ``indices``, float32 [n classes]."""
        return self.rows[self.row_of[indices]]
