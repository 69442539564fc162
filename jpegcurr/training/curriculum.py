"""The curriculum: the plan of every epoch, as a pure function of the recipe."""

from dataclasses import dataclass

from jpegcurr.recipe.schema import AugmentSection, Phase, Recipe

_NONE = AugmentSection()


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """One epoch. ``phase`` counts from 0; the learning rate's cosine falls from ``lr`` until epoch ``horizon`` (exclusive).

    ``shares`` are pairs of a data set's name and the share of samples drawn from it; they sum to 1. ``progress`` rises from 0
    in the phase's first epoch to 1 in its last, and sets the value of ramps. ``size``, if not None, replaces ``image.size`` in
    training. ``batch`` is the number of images per optimiser step.
    """

    epoch: int
    phase: int
    shares: tuple[tuple[str, float], ...]
    progress: float
    horizon: int
    size: int | None = None
    lr: float = 0.0
    augment: AugmentSection = _NONE
    batch: int = 0

    @property
    def data(self) -> str:
        """The data sets as text for the log: ``clean``, or ``75% clean + 25% q50``."""
        if len(self.shares) == 1:
            return self.shares[0][0]
        return " + ".join(f"{100 * share:.3g}% {name}" for name, share in self.shares)


def plan_epochs(recipe: Recipe) -> tuple[EpochPlan, ...]:
    """Return one plan for every epoch, in order."""
    plans: list[EpochPlan] = []
    for number, phase in enumerate(recipe.curriculum):
        lr = phase.lr or recipe.schedule.lr
        augment = phase.augment or recipe.augment
        batch = phase.batch or recipe.batch.size
        first = len(plans)
        for epoch in range(first, phase.until_epoch):
            progress = (epoch - first) / max(phase.until_epoch - 1 - first, 1)
            shares = _shares(phase, progress)
            horizon = _horizon(recipe, phase, epoch)
            plans.append(EpochPlan(epoch, number, shares, progress, horizon, phase.size, lr, augment, batch))
    return tuple(plans)


def _horizon(recipe: Recipe, phase: Phase, epoch: int) -> int:
    """Return the epoch at which the cosine of ``epoch`` ends."""
    horizon = recipe.epochs if recipe.schedule.horizon == "whole" else recipe.schedule.horizon
    return horizon if isinstance(horizon, int) and epoch < horizon else phase.until_epoch


def plan_difference(before: EpochPlan, after: EpochPlan) -> str:
    """Return the first thing in which two plans of one epoch differ, and how."""
    at = f"in epoch {before.epoch}"
    if before.shares != after.shares:
        return f"curriculum was {before.data}, is {after.data} {at}"
    if before.horizon != after.horizon:
        return f"the cosine that schedule.horizon sets ended at epoch {before.horizon}, ends at {after.horizon} {at}"
    for name in ("lr", "batch", "size", "augment"):
        if (was := getattr(before, name)) != (now := getattr(after, name)):
            return f"curriculum's {name} was {was}, is {now} {at}"
    return f"curriculum has other phases {at}"


def _shares(phase: Phase, progress: float) -> tuple[tuple[str, float], ...]:
    weights = phase.weights(progress)
    return tuple((name, weight / sum(weights.values())) for name, weight in weights.items() if weight > 0)
