"""Advice on a recipe for the images that it meets: what would go wrong without a word, each time with the value to set.

``train`` logs it before epoch 0, and ``--plan`` prints it. Nothing here changes a recipe, and torch is not imported.
"""

from collections.abc import Sequence
from math import exp2, log2, sqrt

from jpegcurr.recipe.fit import CONVNEXT_RATE, TUNING_RATE, fit_rate
from jpegcurr.recipe.schema import Recipe
from jpegcurr.text import join_words
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.balancing import describe_balance, describe_weights
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.data.datasets import Dataset, open_weights

_STALE = 0.01  # share of the initial weights in the final average from which on its accuracy is another's
_LONG_WARMUP = 0.2  # of the epochs; published ones reach a sixth (isotropic ConvNeXts)
_FEW_STEPS, _SMALL_BATCH = 10, 32  # steps of an epoch, and a batch that is small enough even so
_TOO_HIGH, _TUNING_TOO_HIGH = 3.0, 5.0  # times a rate that is known to work


def schedule_advice(recipe: Recipe, images: int) -> list[str]:
    """Return sentences on what does not fit ``images`` training images: steps, warm-up, rate, average of the weights."""
    advice = (_few_steps(recipe, images), _long_warmup(recipe), rate_warning(recipe), _stale_average(recipe, images))
    return [sentence for sentence in advice if sentence]


def describe_classes(recipe: Recipe, dataset: Dataset, classes: Classes) -> list[str]:
    """Return what ``batch.balance`` and ``optim.class_weights`` come to on ``dataset``, with labels in ``classes``."""
    sizes, sentences = dataset.class_sizes(classes), []
    if recipe.batch.balance is not None:
        sentences.append(describe_balance(sizes, classes.names, recipe.batch.balance, recipe.batch.repeats))
    if (weights := open_weights(recipe, dataset, classes)) is not None:
        sentences.append(describe_weights(weights, classes.names, sizes))
    return sentences


def validation_warning(recipe: Recipe, omitted: Sequence[str] = ()) -> str | None:
    """Return a warning if nothing is evaluated, with the way out; None if something is.

    ``omitted`` are the sets of ``evaluate`` whose files are missing and cannot be encoded.
    """
    if set(recipe.evaluate) - set(omitted):
        return None
    split = "jpegcurr encode SRC --val 0.2 takes a fifth of the images of every class for it"
    if omitted:
        why = f"{join_words([f'data.{name}.val' for name in omitted])} is not there, and the images have no val split"
        remedy = split
    elif given := [name for name, data in recipe.data.items() if data.val is not None]:
        why, remedy = "evaluate is empty", f"set evaluate=[{', '.join(given)}]"
    else:
        why = "no data set has val"
        remedy = f"{split}; then give data.{recipe.training_sets[0]}.val, and evaluate: [{recipe.training_sets[0]}]"
    return f"no validation while training: {why}. No curve of accuracy shows overfitting, and no best/ is kept: {remedy}"


def rate_warning(recipe: Recipe) -> str | None:
    """Return a warning if AdamW has a rate far above those that are known to work for its batch, else None.

    The rates are those of ``recipe.fit``, scaled by the square root of the batch; from scratch only ConvNeXt's is known. While
    the classifier alone is trained, any rate may do.
    """
    plans = plan_epochs(recipe)[recipe.model.freeze_until :]
    if recipe.optim.name != "adamw" or not plans:
        return None
    size = recipe.batch.size
    rate = max(plan.lr / sqrt(plan.batch) for plan in plans) * sqrt(size)
    if recipe.model.is_trained:
        equivalent = TUNING_RATE.at(size)
        if rate < _TUNING_TOO_HIGH * equivalent:
            return None
        return (
            f"schedule.lr: {rate:.1e} for batches of {size} is high for weights that are trained already, and may undo them: "
            f"{equivalent:.1e} is usual ({TUNING_RATE.rate:.0e} for {TUNING_RATE.batch}, scaled by the root of the batch)."
        )
    equivalent = CONVNEXT_RATE.at(size)
    if not recipe.model.name.startswith("convnext") or rate < _TOO_HIGH * equivalent:
        return None
    return (
        f"schedule.lr: {rate:.1e} for batches of {size} is {rate / equivalent:.0f} times the rate that ConvNeXt "
        f"was trained with ({CONVNEXT_RATE.rate:.0e} for {CONVNEXT_RATE.batch}, scaled by the root of the batch): "
        f"{equivalent:.1e} would be the same. It may not learn."
    )


def initial_share(recipe: Recipe, images: int) -> float:
    """Return the share of the initial weights in the average of the weights after the last epoch; 0 without an average."""
    if recipe.ema is None:
        return 0.0
    steps = [images // plan.batch for plan in plan_epochs(recipe)]
    return exp2(sum(count * log2(recipe.ema.per_step(count)) for count in steps if count))


def _stale_average(recipe: Recipe, images: int) -> str | None:
    if recipe.ema is None or (share := initial_share(recipe, images)) < _STALE:
        return None
    steps = sum(images // plan.batch for plan in plan_epochs(recipe))
    speed = f"half_life {recipe.ema.half_life:g}" if recipe.ema.half_life else f"decay {recipe.ema.per_step(steps):g}"
    instead = " in place of ema.decay" if recipe.ema.decay is not None else ""
    return (
        f"ema: after {steps:,} steps the average ({speed}) still consists of {100 * share:.0f} % initial weights, so its "
        f"accuracy tells little: set ema.half_life={recipe.epochs / 10:g}{instead}, a tenth of the epochs, which leaves 0.1 %, "
        "or ema=null"
    )


def _long_warmup(recipe: Recipe) -> str | None:
    warmup, epochs = recipe.schedule.warmup_epochs, recipe.epochs
    if warmup <= _LONG_WARMUP * epochs or warmup == 1:
        return None
    return (
        f"schedule.warmup_epochs: {warmup} of {epochs} epochs are below the full rate: a tenth is usual, "
        f"schedule.warmup_epochs={max(epochs // 10, 1)}"
    )


def _few_steps(recipe: Recipe, images: int) -> str | None:
    batch = max(plan.batch for plan in plan_epochs(recipe))
    steps = images // batch
    if steps >= _FEW_STEPS or batch <= _SMALL_BATCH:
        return None
    smaller = 1 << max((images // (2 * _FEW_STEPS)).bit_length() - 1, 3)
    rate = fit_rate(recipe.optim.name, smaller, recipe.model.is_trained)
    return (
        f"batch.size: an epoch of {images:,} images has {steps} step{'s' if steps > 1 else ''} of {batch:,}: a smaller one, "
        f"such as batch.size={smaller} with schedule.lr={rate:g}, learns more from the same images"
    )
