"""The learning rate as a pure function of the step."""

from math import cos, pi

from jpegcurr.recipe import ScheduleSection
from jpegcurr.training.curriculum import EpochPlan


def learning_rate(schedule: ScheduleSection, plan: EpochPlan, step: int, steps: int) -> float:
    """Return the rate of the ``step``-th (from 0) of the ``steps`` of the epoch ``plan``.

    Warm-up is ``linspace(0, lr, n)``, both ends included, so the first step has rate 0 and the peak comes twice; the cosine
    stops one step short of ``min_lr``. Source: ConvNeXt's ``utils.cosine_scheduler``, which a resumed run builds anew from
    its ``--epochs``; that is what a ``horizon`` that changes between phases reproduces. With ``per: epoch`` it is torch's
    ``LinearLR`` before a ``CosineAnnealingLR``: the peak comes once, in the first epoch after warm-up.
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
