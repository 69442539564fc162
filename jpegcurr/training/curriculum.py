"""Which data each epoch sees: a pure function of the recipe."""

from dataclasses import dataclass

from jpegcurr.recipe.schema import AugmentSection, Phase, Recipe

_NONE = AugmentSection()


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """One epoch. ``phase`` counts from 0; the learning rate's cosine ends at epoch ``horizon`` (exclusive), from peak ``lr``.

    ``shares`` are the data sets by name with what share of the samples comes from each (they sum to 1); ``progress`` is 0 in
    the phase's first epoch and 1 in its last, and is what ramps go by; ``size`` replaces ``image.size`` for training. A step is
    of ``batch`` images.
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
        """For people and logs: ``clean``, or ``75% clean + 25% q50``."""
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
        horizon = phase.until_epoch if recipe.schedule.horizon == "phase" else recipe.epochs
        first = len(plans)
        for epoch in range(first, phase.until_epoch):
            progress = (epoch - first) / max(phase.until_epoch - 1 - first, 1)
            shares = _shares(phase, progress)
            plans.append(EpochPlan(epoch, number, shares, progress, horizon, phase.size, lr, augment, batch))
    return tuple(plans)


def _shares(phase: Phase, progress: float) -> tuple[tuple[str, float], ...]:
    weights = phase.weights(progress)
    return tuple((name, weight / sum(weights.values())) for name, weight in weights.items() if weight > 0)
