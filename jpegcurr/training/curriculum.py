"""Which data each epoch sees: a pure function of the recipe."""

from dataclasses import dataclass

from jpegcurr.recipe import Recipe


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """One epoch. ``phase`` counts from 0; the learning rate's cosine ends at epoch ``horizon`` (exclusive)."""

    epoch: int
    phase: int
    data: str
    horizon: int


def plan_epochs(recipe: Recipe) -> tuple[EpochPlan, ...]:
    """Return one plan for every epoch, in order."""
    plans: list[EpochPlan] = []
    for number, phase in enumerate(recipe.curriculum):
        horizon = phase.until_epoch if recipe.schedule.horizon == "phase" else recipe.epochs
        plans += [EpochPlan(epoch, number, phase.data, horizon) for epoch in range(len(plans), phase.until_epoch)]
    return tuple(plans)
