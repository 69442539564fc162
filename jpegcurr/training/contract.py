"""What a loader is, whichever one it is.

A loader yields ``(uint8 [b 3 h w], int64 [b])`` on the runtime's device, has ``len()`` in batches, and ``at(epoch)``. Which
samples come, and in which order, is a function of (seed, epoch) that all loaders share; a training epoch is cut to whole
optimiser steps, a validation epoch is every sample once in file order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.encoding.beton import Beton
from jpegcurr.recipe import ImageSection

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class View:
    """How one beton is seen: in batches of ``batch``, shuffled and cropped at random if ``train``.

    A training epoch is cut to a multiple of ``step`` images, so that every optimiser step is whole.
    """

    beton: Beton
    image: ImageSection
    train: bool
    batch: int
    step: int = 1
    seed: int = 0
    workers: int = 0

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The samples of ``epoch``, in order."""
        count = len(self.beton)
        if not self.train:
            return np.arange(count)
        shuffled = np.random.default_rng((self.seed, epoch)).permutation(count)
        return shuffled[: count - count % self.step]

    def __len__(self) -> int:
        images = len(self.beton) - len(self.beton) % self.step if self.train else len(self.beton)
        return ceil(images / self.batch)


class Loader(Protocol):
    """What the training loop asks of a loader."""

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def at(self, epoch: int) -> Iterator[Batch]:
        """Iterate ``epoch``; leaving early stops whatever works behind it. A batch is the caller's to keep."""
        ...
