"""The learning rate as a pure function of the step."""

from math import cos, pi

from jpegcurr.recipe import ScheduleSection


def learning_rate(schedule: ScheduleSection, step: int, steps_per_epoch: int, horizon: int) -> float:
    """Return the rate of ``step`` (counted from 0 over the whole run) when the cosine ends at epoch ``horizon``.

    Warm-up is ``linspace(0, lr, n)``, both ends included, so step 0 has rate 0 and the peak comes twice; the cosine stops
    one step short of ``min_lr``. Source: ConvNeXt's ``utils.cosine_scheduler``, which a resumed run builds anew from its
    ``--epochs``; that is what a ``horizon`` that changes between phases reproduces.
    """
    warmup = schedule.warmup_epochs * steps_per_epoch
    if step < warmup:
        return schedule.lr * step / max(warmup - 1, 1)
    through = (step - warmup) / (horizon * steps_per_epoch - warmup)
    return schedule.min_lr + (schedule.lr - schedule.min_lr) / 2 * (1 + cos(pi * through))
