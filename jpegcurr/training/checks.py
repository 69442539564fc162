"""Checks of a recipe that need no images, and neither torch nor timm, so that ``train --plan`` answers at once."""

from itertools import groupby

import numpy as np

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.augment.policies import check_policies
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.models.names import check_model
from jpegcurr.training.tracking import check_trackers

_NAMED = 8  # rows of targets that a message names
_UNMIXED = 0.01  # share of images without a partner from which on it is worth a sentence


def check_recipe(recipe: Recipe, ranks: int = 1, *, start: bool = False) -> None:
    """Raise UsageError or RecipeError for every mistake that is known before a file of images is opened.

    ``ranks`` is the number of processes that will train; ``start`` is whether the weights to start from are needed.
    """
    check_model(recipe.model, start=start)
    check_trackers(recipe.tracking)
    check_policies(recipe)
    try:
        recipe.micro(ranks)
    except ValueError as error:
        raise RecipeError(f"{error}. Set a smaller batch.per_device, or start another number of processes.") from None


def check_mixing(recipe: Recipe, ranks: int = 1) -> None:
    """Raise RecipeError if the recipe asks for mixup or CutMix, and no image has another one to be mixed with."""
    if unmixed_share(recipe, ranks) == 1:
        raise RecipeError(f"mix: {_describe_unmixed(recipe, ranks, 1)}")


def mixing_warning(recipe: Recipe, ranks: int = 1) -> str | None:
    """Return a warning if more than a few images are not mixed although the recipe asks for it, else None."""
    if (recipe.mix.mixup or recipe.mix.cutmix) and not recipe.mix.prob:
        return "mix.prob: 0 mixes no images: set a higher one, or omit mix"
    share = unmixed_share(recipe, ranks)
    return f"mix: {_describe_unmixed(recipe, ranks, share)}" if share >= _UNMIXED else None


def _describe_unmixed(recipe: Recipe, ranks: int, share: float) -> str:
    micro = recipe.micro(ranks)
    devices = f" on {ranks} devices" if ranks > 1 else ""
    how_many = "no image has another to be mixed with" if share == 1 else f"{100 * share:.2g} % of the images are not mixed"
    if recipe.batch.repeats > 1:
        remedy = "Try another batch.size, batch.per_device or batch.repeats (--plan says whether it helps), or omit mix."
    else:
        remedy = "Set an even batch.per_device and mix.chunk, with at least two images for each device, or omit mix."
    return (
        f"{how_many}: micro-batches have {micro}{devices}, and the i-th from the start is mixed with the i-th from the end. "
        f"{remedy}"
    )


def unmixed_share(recipe: Recipe, ranks: int = 1) -> float:
    """Return the largest share, over phases, of images that mixup and CutMix mix with themselves; 0 without either.

    That are the middle ones of chunks with an odd number of images and, with repeated augmentation, those that meet their own
    repetition.
    """
    if not recipe.mix.mixup and not recipe.mix.cutmix:
        return 0.0
    return max(_unmixed_in_step(recipe, batch, ranks) for batch in {plan.batch for plan in plan_epochs(recipe)})


def _unmixed_in_step(recipe: Recipe, batch: int, ranks: int) -> float:
    occurrences = np.arange(batch)
    first_ones = np.argsort(occurrences % recipe.batch.repeats, kind="stable")  # as EpochSampler.order arranges a step
    samples = occurrences[first_ones] // recipe.batch.repeats
    unmixed = 0
    for micro_batch in samples.reshape(-1, recipe.micro(ranks)):
        for start in range(0, len(micro_batch), recipe.mix.chunk):
            chunk = micro_batch[start : start + recipe.mix.chunk]
            unmixed += int((chunk == chunk[::-1]).sum())
    return unmixed / batch


def describe_targets(recipe: Recipe) -> str | None:
    """Return what the classes of the data stand for; None if the recipe says nothing of it."""
    section = recipe.targets
    if section is None:
        return None
    rows = [
        f"{name} is {', '.join(f'{output} {share:.4g}' if share < 1 else output for output, share in row.items() if share)}"
        for name, row in section.map.items()
    ]
    more = [f"and {len(rows) - _NAMED:,} more"] if len(rows) > _NAMED else []
    shares = ["every image has shares of its own" + (", which weigh these rows" if rows else "")] if section.per_image else []
    return f"targets: {'; '.join([*rows[:_NAMED], *more, *shares])}"


def images_left_out(recipe: Recipe, plan: EpochPlan, images: int) -> int:
    """Return how many of ``images`` an epoch does not use, because its steps are whole or because it repeats the others."""
    used = images // plan.batch * plan.batch
    return images - -(-used // recipe.batch.repeats)


def describe_left_out(recipe: Recipe, images: int) -> str | None:
    """Return how many of ``images`` every epoch leaves out, and why; None if there are none."""
    plans = plan_epochs(recipe)
    parts = []
    for (batch, left), group in groupby(plans, lambda plan: (plan.batch, images_left_out(recipe, plan, images))):
        epochs = [plan.epoch for plan in group]
        which = "every epoch" if len(epochs) == len(plans) else f"epochs {epochs[0]} to {epochs[-1]}"
        if left:
            parts.append(
                f"{which}: {images - left:,} of {images:,} images are trained on, in steps of {batch:,}; {left:,} "
                f"({100 * left / images:.2g} %) are left out"
            )
    if not parts:
        return None
    repeats = recipe.batch.repeats
    reason = f"batch.repeats={repeats} takes fewer images" if repeats > 1 else "all steps have the same size"
    return f"{'; '.join(parts)}, others in every epoch ({reason})"
