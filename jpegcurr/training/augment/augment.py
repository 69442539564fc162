"""The augmentation of a recipe: from the uint8 images and labels of a batch to what the model and the loss get.

It is all of a training step between the loader and the model: policy or colour jitter, normalisation, erasing, soft targets,
Mixup or CutMix. ``jpegcurr train`` uses the same object as a loop of one's own. What a sample gets depends on (seed, epoch,
sample), and how a chunk is mixed on (seed, epoch, chunk). All of them come with the batch, so nothing is to be set in between.
"""

from __future__ import annotations

from functools import cache
from math import ceil
from typing import Self

import torch

from jpegcurr.errors import UsageError
from jpegcurr.recipe.schema import AugmentSection, Recipe
from jpegcurr.training.augment.erasing import erase
from jpegcurr.training.augment.mixup import mix
from jpegcurr.training.augment.policies import (
    Policy,
    TrivialAugment,
    augment,
    check_policies,
    color_jitter,
    parse_section_policy,
)
from jpegcurr.training.checks import check_mixing
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data.datasets import count_classes
from jpegcurr.training.data.sampling import Batch
from jpegcurr.training.loss import binary_targets, smoothed, soft_targets
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.normalisation import normaliser, recipe_normaliser
from jpegcurr.training.sample_rng import SampleRng


class Augment:
    """Augmentation, normalisation, soft targets and mixing, as ``recipe`` has them in the epoch of a batch.

        augment = Augment.from_recipe(recipe)
        for batch in loaders.train:
            inputs, targets = augment(batch)

    ``normalise`` (uint8 [b 3 h w] -> float32) is what validation needs of it.
    """

    def __init__(self, recipe: Recipe, classes: int, normalise: Normaliser) -> None:
        self.recipe, self.classes, self.normalise = recipe, classes, normalise
        self._plans: tuple[EpochPlan, ...] = plan_epochs(recipe)
        self._policy_of = cache(parse_section_policy)
        self._mean = [min(255, round(level)) for level in normalise.mean.flatten().tolist()]

    @classmethod
    def from_recipe(cls, recipe: Recipe, classes: int | None = None, model: torch.nn.Module | None = None) -> Self:
        """Return the augmentation of ``recipe``, for a model of ``classes``; by default those of its first training set.

        Inputs are normalised as the recipe says or, if it does not, as timm's configuration of its model says, which is needed
        as ``model`` only if it is none of timm's.

        Raises:
            RecipeError: a policy is unknown, no image has another to be mixed with, or timm does not know the model.
            BetonError: ``classes`` is None, and the first training set cannot be opened.
        """
        check_policies(recipe)
        check_mixing(recipe)
        if classes is not None and classes < 1:
            raise UsageError(f"classes={classes}: a model has at least one class.")
        normalise = recipe_normaliser(recipe) if model is None else normaliser(model, recipe.image)
        return cls(recipe, count_classes(recipe) if classes is None else classes, normalise)

    def __call__(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the model's inputs, float32 [b 3 h w], and the loss's targets, float32 [b classes], on the batch's device.

        Raises:
            UsageError: the batch is of an epoch after the recipe's last.
        """
        smoothing = self.recipe.optim.label_smoothing
        if batch.targets is None:
            targets = soft_targets(batch.labels, self.classes, smoothing)
        else:
            targets = smoothed(batch.targets, smoothing)
        first_chunk = batch.position * ceil(len(batch.labels) / self.recipe.mix.chunk)
        inputs, targets = mix(self._inputs(batch), targets, self.recipe.mix, self.recipe.seed, batch.epoch, first_chunk)
        if self.recipe.optim.bce_threshold is not None:
            targets = binary_targets(targets, self.recipe.optim.bce_threshold)
        return inputs, targets

    def _inputs(self, batch: Batch) -> torch.Tensor:
        """Return the augmented and normalised images, not mixed yet."""
        section, normalise = self._section(batch.epoch), self.normalise.to(batch.images.device)
        images, rng = batch.images, SampleRng(self.recipe.seed, batch.epoch, batch.numbers)
        policy: Policy | None = self._policy_of(section, self.recipe.image.interpolation)
        if policy is not None:
            fill = [0, 0, 0] if isinstance(policy, TrivialAugment) else self._mean  # as torchvision fills, and as timm does
            images = augment(images, policy, rng, fill)
        elif section.color_jitter:
            images = color_jitter(images, section.color_jitter, rng)
        inputs: torch.Tensor = normalise(images)
        return erase(inputs, section.erase, rng, fill=section.erase_fill, in_place=True) if section.erase else inputs

    def _section(self, epoch: int) -> AugmentSection:
        if epoch >= len(self._plans):
            raise UsageError(
                f"The batch is of epoch {epoch}, and the recipe has {len(self._plans)} epochs, counted from 0. Set a later "
                "until_epoch in its curriculum."
            )
        return self._plans[epoch].augment
