"""The learning rate as a pure function of the step, and the plan of a whole run."""

from dataclasses import dataclass
from math import cos, pi
from typing import Any

from jpegcurr.recipe.schema import Recipe, ScheduleSection
from jpegcurr.training.advice import describe_classes, schedule_advice, validation_warning
from jpegcurr.training.checks import check_mixing, check_recipe, describe_left_out, images_left_out, mixing_warning
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data.datasets import count_images, omitted_from_validation, training_set_at_hand


@dataclass(frozen=True, slots=True)
class PlannedEpoch:
    """An epoch before it is trained: ``steps`` optimiser steps on ``images``, with rates from ``lr_first`` to ``lr_last``.

    ``size`` is the side length of the model's input, in pixels; ``left_out`` is the number of images that it does not use.
    """

    plan: EpochPlan
    size: int
    steps: int
    images: int
    lr_first: float
    lr_last: float
    left_out: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON; ``data`` holds the share of each data set."""
        numbers = {name: getattr(self, name) for name in ("lr_first", "lr_last", "size", "steps", "images", "left_out")}
        return {"epoch": self.plan.epoch, "phase": self.plan.phase, "data": dict(self.plan.shares), **numbers}


def plan_run(recipe: Recipe, images: int | None = None) -> tuple[list[PlannedEpoch], list[str]]:
    """Check ``recipe`` and return its epochs, and sentences on what it does in silence.

    ``images`` is the number of training images where none is encoded yet.

    Nothing is created, and neither torch nor timm is imported.

    Raises:
        RecipeError, UsageError: the recipe cannot be trained.
        BetonError: the first training set is missing, and no other file tells how many images it would hold.
    """
    check_recipe(recipe)
    check_mixing(recipe)
    images = count_images(recipe, images)
    remarks = [describe_left_out(recipe, images), mixing_warning(recipe), _describe_frozen(recipe)]
    remarks += [*_describe_classes(recipe), *schedule_advice(recipe, images)]
    remarks += [validation_warning(recipe, omitted_from_validation(recipe))]
    return planned_epochs(recipe, images), [remark for remark in remarks if remark]


def _describe_frozen(recipe: Recipe) -> str | None:
    until = recipe.model.freeze_until
    which = f"epochs 0 to {until - 1}" if until < recipe.epochs else "all epochs"
    return f"model.freeze_until={until}: {which} train the classifier alone" if until else None


def _describe_classes(recipe: Recipe) -> list[str]:
    """Return what depends on the sizes of classes, as far as a file tells them already."""
    if recipe.batch.balance is None and recipe.optim.class_weights is None:
        return []
    if dataset := training_set_at_hand(recipe):
        return describe_classes(recipe, dataset, dataset.classes)
    return ["batch.balance and optim.class_weights depend on the sizes of classes: encode a training set to see them"]


def planned_epochs(recipe: Recipe, images: int) -> list[PlannedEpoch]:
    """Return every epoch of a run on ``images`` training images."""
    return [_planned(recipe, plan, images) for plan in plan_epochs(recipe)]


def _planned(recipe: Recipe, plan: EpochPlan, images: int) -> PlannedEpoch:
    steps, size = images // plan.batch, plan.size or recipe.image.size
    first, last = (learning_rate(recipe.schedule, plan, step, steps) for step in (0, steps - 1))
    return PlannedEpoch(plan, size, steps, steps * plan.batch, first, last, images_left_out(recipe, plan, images))


def learning_rate(schedule: ScheduleSection, plan: EpochPlan, step: int, steps: int) -> float:
    """Return the rate of step number ``step`` (from 0) of the ``steps`` of the epoch ``plan``.

    Warm-up is ``linspace(0, lr, n)``, both ends included, so the first step has rate 0 and the peak comes twice; the cosine
    stops one step short of ``min_lr``. Source: ConvNeXt's ``utils.cosine_scheduler``. A resumed run of the authors' program
    builds that schedule again from its ``--epochs``, which a ``horizon`` that changes between phases reproduces.

    With ``per: epoch`` the schedule is torch's ``LinearLR`` before a ``CosineAnnealingLR``: the peak comes once, in the first
    epoch after warm-up. Where phases differ in their batch, and so in their steps, the curve over epochs stays the same.
    """
    per_step = schedule.per == "step"
    steps, now = (steps, plan.epoch * steps + step) if per_step else (1, plan.epoch)
    warmup = schedule.warmup_epochs * steps
    if now < warmup:
        through = now / (max(warmup - 1, 1) if per_step else warmup)
        return plan.lr * (schedule.start_factor + (1 - schedule.start_factor) * through)
    if schedule.decay is not None:
        return max(plan.lr * schedule.decay.factor ** (now // (schedule.decay.every * steps)), schedule.min_lr)
    through = (now - warmup) / (plan.horizon * steps - warmup)
    return schedule.min_lr + (plan.lr - schedule.min_lr) / 2 * (1 + cos(pi * through))
