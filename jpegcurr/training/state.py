"""The state of a run: its model and optimiser, and the progress of the current epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import TrainedWeights
from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.augment import Augment
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.flops import Utilisation
from jpegcurr.training.loss import Loss
from jpegcurr.training.metrics import Normaliser

if TYPE_CHECKING:  # so that reading a checkpoint's header needs no timm
    from timm.utils import ModelEmaV3


@dataclass(frozen=True, slots=True)
class TrainState:
    """Everything that a training step reads or changes; ``images`` is the number of images in the training set.

    ``augment`` makes a batch the model's inputs and the targets of the loss, ``loss_of``. ``model`` holds the weights;
    ``prepared`` is the same model as training calls it, compiled or wrapped for several processes.
    ``ema`` is the average of the weights, None if the recipe keeps none.
    """

    recipe: Recipe
    runtime: Runtime
    classes: int
    images: int
    model: torch.nn.Module
    prepared: torch.nn.Module
    augment: Augment
    loss_of: Loss
    ema: ModelEmaV3 | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    utilisation: Utilisation

    @property
    def normalise(self) -> Normaliser:
        """The normalisation of inputs."""
        return self.augment.normalise

    @property
    def models(self) -> dict[TrainedWeights, torch.nn.Module]:
        """The models with the raw and, if there are any, the averaged weights, in the order of ``Recipe.weights``."""
        return {"raw": self.model} if self.ema is None else {"raw": self.model, "ema": self.ema.module}

    @property
    def micro(self) -> int:
        """Images per forward pass."""
        return self.recipe.micro(self.runtime.world.ranks)

    def steps(self, plan: EpochPlan) -> int:
        """Return the number of optimiser steps of an epoch."""
        return self.images // plan.batch

    def micro_batches(self, plan: EpochPlan) -> int:
        """Return the number of forward passes of this process per optimiser step."""
        return plan.batch // (self.micro * self.runtime.world.ranks)


@dataclass(slots=True)
class EpochProgress:
    """The progress of an epoch: ``step`` steps done, their summed ``loss``, and the ``seconds`` that they took.

    ``waited`` are the seconds spent waiting for images, ``skipped`` the steps that were not taken, and ``replaced`` the samples
    that this process replaced; in the first process they include those of all processes from before a resume.
    """

    epoch: int
    step: int
    loss: torch.Tensor
    seconds: float = 0.0
    waited: float = 0.0
    replaced: int = 0
    skipped: int = 0

    @classmethod
    def at_start(cls, epoch: int, runtime: Runtime) -> EpochProgress:
        """Return the progress of an epoch that has not started."""
        return cls(epoch, 0, torch.zeros((), device=runtime.device))

    @property
    def mean_loss(self) -> float:
        """The mean loss of the steps taken so far; reading it waits for the device."""
        return self.loss.item() / max(self.step - self.skipped, 1)
