"""What a run works on, and how far it is."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from timm.utils import ModelEmaV3

from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.sampling import Indices
from jpegcurr.training.metrics import Normaliser


@dataclass(frozen=True, slots=True)
class TrainState:
    """All that an epoch changes or needs; ``images`` are in the training set, ``batches`` the samples of its micro-batches.

    ``model`` holds the weights; ``prepared`` is the same as it is called in training, compiled or in parallel.
    """

    recipe: Recipe
    runtime: Runtime
    classes: int
    images: int
    batches: Callable[[int], list[Indices]]
    model: torch.nn.Module
    prepared: torch.nn.Module
    normalise: Normaliser
    ema: ModelEmaV3
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @property
    def micro(self) -> int:
        """Images a forward pass."""
        return self.recipe.micro(self.runtime.world.ranks)

    def steps(self, plan: EpochPlan) -> int:
        """Optimiser steps of an epoch."""
        return self.images // plan.batch

    def micro_batches(self, plan: EpochPlan) -> int:
        """Forward passes of this process for one step."""
        return plan.batch // (self.micro * self.runtime.world.ranks)


@dataclass(slots=True)
class EpochProgress:
    """How far an epoch is: after ``step`` steps, whose losses sum to ``loss``, in ``seconds``, ``waited`` of them for images.

    ``replaced`` samples are this process's and, in the first, those of all from before a resume.
    """

    epoch: int
    step: int
    loss: torch.Tensor
    seconds: float = 0.0
    waited: float = 0.0
    replaced: int = 0
    skipped: int = 0

    @classmethod
    def at_start(cls, epoch: int, runtime: Runtime) -> "EpochProgress":
        """Nothing of ``epoch`` is done."""
        return cls(epoch, 0, torch.zeros((), device=runtime.device))

    @property
    def mean_loss(self) -> float:
        """Of the steps so far that were taken; reading it waits for the device."""
        return self.loss.item() / max(self.step - self.skipped, 1)
