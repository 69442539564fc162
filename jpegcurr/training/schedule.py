"""The learning rate as a pure function of the step."""

from dataclasses import dataclass
from math import cos, pi
from typing import Any

from jpegcurr.recipe.schema import Recipe, ScheduleSection
from jpegcurr.training.curriculum import EpochPlan, plan_epochs


@dataclass(frozen=True, slots=True)
class PlannedEpoch:
    """An epoch before it is trained: ``steps`` optimiser steps at rates from ``lr_first`` to ``lr_last``, on ``images``."""

    plan: EpochPlan
    size: int
    steps: int
    images: int
    lr_first: float
    lr_last: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON; ``data`` are shares by data set."""
        figures = {name: getattr(self, name) for name in ("lr_first", "lr_last", "size", "steps", "images")}
        return {"epoch": self.plan.epoch, "phase": self.plan.phase, "data": dict(self.plan.shares), **figures}


def planned_epochs(recipe: Recipe, images: int) -> list[PlannedEpoch]:
    """All that is settled beforehand about a run on ``images`` training images."""
    return [_planned(recipe, plan, images // plan.batch) for plan in plan_epochs(recipe)]


def _planned(recipe: Recipe, plan: EpochPlan, steps: int) -> PlannedEpoch:
    first, last = (learning_rate(recipe.schedule, plan, step, steps) for step in (0, steps - 1))
    return PlannedEpoch(plan, plan.size or recipe.image.size, steps, steps * plan.batch, first, last)


def learning_rate(schedule: ScheduleSection, plan: EpochPlan, step: int, steps: int) -> float:
    """Return the rate of the ``step``-th (from 0) of the ``steps`` of the epoch ``plan``.

    Warm-up is ``linspace(0, lr, n)``, both ends included, so the first step has rate 0 and the peak comes twice; the cosine
    stops one step short of ``min_lr``. Source: ConvNeXt's ``utils.cosine_scheduler``, which a resumed run builds anew from
    its ``--epochs``; that is what a ``horizon`` that changes between phases reproduces. With ``per: epoch`` it is torch's
    ``LinearLR`` before a ``CosineAnnealingLR``: the peak comes once, in the first epoch after warm-up. Where phases differ in
    their batch, and so in their steps, the curve stays the same over epochs.
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
