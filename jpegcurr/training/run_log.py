"""What a run says of itself while it goes: one line an epoch, and whatever a reader would want to know beforehand."""

import logging
from math import sqrt

import torch

from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data.datasets import Datasets
from jpegcurr.training.data.loaders import Loaders
from jpegcurr.training.schedule import planned_epochs
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.tracking import Row

log = logging.getLogger("jpegcurr")

# ConvNeXt's: the largest rate that is known to train one from scratch, and the batch that it belongs to.
_RATE, _BATCH = 4e-3, 4096
_FAR = 3.0  # times as large, after scaling by the root of the batch
_SHOWN = 8  # epochs of a new learning-rate curve
_WAITING, _WORTH_TELLING = 0.2, 30  # share of the time, and seconds: every epoch waits for its first batch


def describe_start(trainer: TrainState, loaders: Loaders, position: EpochProgress, before: Recipe | None) -> None:
    """Where and how, and what a resumed run, whose recipe was ``before``, goes on with."""
    log.info(trainer.runtime.reason)
    for reason in loaders.reasons:
        log.info(reason)
    recipe = trainer.recipe
    plan = plan_epochs(recipe)[min(position.epoch, recipe.epochs - 1)]
    if trainer.runtime.world.ranks > 1 or trainer.micro_batches(plan) > 1:
        log.info(_batch(trainer, plan))
    if warning := _shrunk(trainer):
        log.warning(warning)
    if warning := rate_warning(recipe):
        log.warning(warning)
    if before is None:
        return
    within = f", after step {position.step} of {trainer.steps(plan)}" if position.step else ""
    log.info("resuming at epoch %d of %d%s", position.epoch, recipe.epochs, within)
    if plan_epochs(before) != plan_epochs(recipe):
        log.info(describe_change(before, recipe, trainer.images, position.epoch))


def _batch(trainer: TrainState, plan: EpochPlan) -> str:
    ranks, times = trainer.runtime.world.ranks, trainer.micro_batches(plan)
    devices = f"{ranks} devices x " if ranks > 1 else ""
    return f"a step of {plan.batch} images: {devices}{times} micro-batches x {trainer.micro}"


def _shrunk(trainer: TrainState) -> str | None:
    """A sentence if so many devices get smaller micro-batches than one would, where that changes what is learnt."""
    recipe, ranks = trainer.recipe, trainer.runtime.world.ranks
    whole, part = recipe.micro(), recipe.micro(ranks)
    mixed = (recipe.mix.mixup or recipe.mix.cutmix) and min(whole, recipe.mix.chunk) > part
    normed = any(isinstance(each, torch.nn.modules.batchnorm._BatchNorm) for each in trainer.model.modules())
    if part == whole or not (mixed or normed):
        return None
    what = " and ".join([*(["mixed"] if mixed else []), *(["normed"] if normed else [])])
    return (
        f"on {ranks} devices a micro-batch is {part} images, not {whole}: they are {what} in smaller groups than on fewer "
        f"devices, which is another run. batch.per_device={part} makes it the same on any number."
    )


def rate_warning(recipe: Recipe) -> str | None:
    """A sentence if ConvNeXt is to be trained from scratch by AdamW at a rate far above the one that is known to work.

    Adam's rates go by the root of the batch (Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms",
    2022).
    """
    begun = recipe.model.pretrained or recipe.model.checkpoint is not None
    if begun or recipe.optim.name != "adamw" or not recipe.model.name.startswith("convnext"):
        return None
    rate = max(plan.lr / sqrt(plan.batch) for plan in plan_epochs(recipe)) * sqrt(recipe.batch.size)
    fitting = _RATE * sqrt(recipe.batch.size / _BATCH)
    if rate < _FAR * fitting:
        return None
    return (
        f"schedule.lr: {rate:.1e} for batches of {recipe.batch.size} is {rate / fitting:.0f} times what ConvNeXt was trained "
        f"with ({_RATE:.0e} for {_BATCH}, by the root of the batch): {fitting:.1e} would be the same. It may not learn."
    )


def describe_change(before: Recipe, recipe: Recipe, images: int, epoch: int) -> str:
    """The learning rates of the epochs that are left, where they are no longer those of ``before``: a few lines."""
    left = planned_epochs(recipe, images)[epoch:]
    shown = {len(left) * number // _SHOWN for number in range(_SHOWN)} | {len(left) - 1}
    lines = [
        f"\n  epoch {each.plan.epoch:>3}  {each.plan.data}  lr {each.lr_first:.3e} to {each.lr_last:.3e}"
        for number, each in enumerate(left)
        if number in shown
    ]
    length = "" if recipe.epochs == before.epochs else f": {recipe.epochs} epochs instead of {before.epochs}"
    return f"the plan has changed{length}. From here on:{''.join(lines)}"


def announce(plan: EpochPlan, plans: tuple[EpochPlan, ...], datasets: Datasets) -> None:
    """Say where a phase begins, and what it is trained on."""
    if plan.epoch and plans[plan.epoch - 1].phase == plan.phase:
        return
    phase = [each for each in plans if each.phase == plan.phase]
    before = plans[plan.epoch - 1].data if plan.epoch else None
    change = {None: "start with", plan.data: "go on with"}.get(before, "swap to")
    data = plan.data if plan.shares == phase[-1].shares else f"{plan.data}, by degrees {phase[-1].data}"
    names = dict.fromkeys(name for each in phase for name, _ in each.shares)
    files = "; ".join(datasets.train[name].description for name in names)
    size = f" at {plan.size} pixels" if plan.size else ""
    log.info("phase %d: %s %s (%s)%s, epochs %d to %d", plan.phase, change, data, files, size, plan.epoch, phase[-1].epoch)


def describe_row(row: Row, epochs: int, seconds_left: float = 0.0) -> str:
    """One line for people: epoch, data, rates, loss, speed, time left, and top-1 per validation set (EMA in brackets)."""
    rates = f"lr {float(row['lr_first']):.1e} to {float(row['lr_last']):.1e}"
    speed = f"{float(row['images_per_second']):.0f} img/s, {float(row['data_wait']):.0%} waiting"
    speed += f", mfu {float(row['mfu']):.0%}" if "mfu" in row else ""
    head = f"epoch {row['epoch']:>3}/{epochs}  {row['data']}  {rates}  loss {float(row['train/loss']):.3f}  {speed}"
    names = [key.removeprefix("val/").removesuffix("/top1") for key in row if key.startswith("val/") and key.endswith("/top1")]
    if row["replaced"]:
        head += f"  {row['replaced']} samples replaced"
    if row["skipped"]:
        head += f"  {row['skipped']} steps skipped"
    tops = [f"{name} {float(row[f'val/{name}/top1']):.1f} (ema {float(row[f'val/{name}/ema_top1']):.1f})" for name in names]
    left = [f"{_clock(seconds_left)} left"] if seconds_left >= 1 else []
    return "  | ".join([head, *tops, *left])


def _clock(seconds: float) -> str:
    """``3725`` -> ``1:02:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def warn_of_loading(row: Row, loaders: Loaders) -> None:
    """Say so where it is not the model that a run is waiting for."""
    waited = float(row["data_wait"])
    if waited > _WAITING and float(row["seconds"]) > _WORTH_TELLING:
        log.warning(
            "epoch %s: %.0f %% of the time there were no images yet: the loader is the limit, not the model. More processors "
            "(loader.workers), smaller files (encode --short-side) or FFCV (this is the %s loader) help.",
            row["epoch"],
            100 * waited,
            loaders.kind,
        )
