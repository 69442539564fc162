"""The log of a run: one line per epoch, and at the start what a reader should know beforehand."""

import logging

import torch

from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.advice import describe_classes, schedule_advice, validation_warning
from jpegcurr.training.checks import describe_left_out, describe_targets, mixing_warning
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data.datasets import Datasets
from jpegcurr.training.data.loaders import Loaders
from jpegcurr.training.models.freeze import describe_frozen
from jpegcurr.training.models.half_precision import kernel_blocks
from jpegcurr.training.models.normalisation import normalisation_warning
from jpegcurr.training.schedule import planned_epochs
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.tracking import Row

log = logging.getLogger("jpegcurr")

_LISTED_EPOCHS = 8  # of a changed plan
_WAITING, _MIN_SECONDS = 0.2, 30  # share of the time, and seconds: every epoch waits for its first batch


def log_start(state: TrainState, datasets: Datasets, loaders: Loaders, progress: EpochProgress, before: Recipe | None) -> None:
    """Log the device, the loader, warnings about the recipe, and where a run whose recipe was ``before`` resumes."""
    log.info(state.runtime.reason)
    if blocks := kernel_blocks(state.model, state.runtime):
        log.info("kernels of our own compute the convolution and LayerNorm of %s ConvNeXt blocks", blocks)
    for reason in loaders.reasons:
        log.info(reason)
    recipe = state.recipe
    by = "set by the recipe" if recipe.image.mean else _normalised_by(state)
    log.info("inputs are normalised by %s (%s)", state.normalise.describe(), by)
    if before is None and (warning := normalisation_warning(recipe.model, state.normalise, state.model)):
        log.warning(warning)
    plan = plan_epochs(recipe)[min(progress.epoch, recipe.epochs - 1)]
    if state.runtime.world.ranks > 1 or state.micro_batches(plan) > 1:
        log.info(_describe_step(state, plan))
    for remark in (describe_targets(recipe), describe_left_out(recipe, state.images)):
        if remark:
            log.info(remark)
    for remark in describe_classes(recipe, next(iter(datasets.train.values())), datasets.classes):
        log.info(remark)
    if recipe.model.freeze_until:
        log.info(describe_frozen(state.model, recipe.model.freeze_until, recipe.epochs))
    if warning := mixing_warning(recipe, state.runtime.world.ranks):
        log.warning(warning)
    if warning := _small_batch_warning(state):
        log.warning(warning)
    if before is None:
        for warning in schedule_advice(recipe, state.images):
            log.warning(warning)
        if warning := validation_warning(recipe, [name for name in recipe.evaluate if name not in datasets.val]):
            log.warning(warning)
        return
    within = f", after step {progress.step} of {state.steps(plan)}" if progress.step else ""
    log.info("resuming at epoch %d of %d%s", progress.epoch, recipe.epochs, within)
    if plan_epochs(before) != plan_epochs(recipe):
        log.info(describe_change(before, recipe, state.images, progress.epoch))


def _normalised_by(state: TrainState) -> str:
    name = state.recipe.model.name
    if hasattr(state.model, "pretrained_cfg"):
        return f"those of {name}"
    return f"ImageNet's, since {name} states none; image.mean and image.std set others"


def log_phase(plan: EpochPlan, plans: tuple[EpochPlan, ...], datasets: Datasets) -> None:
    """Log the data of a phase if ``plan`` is its first epoch."""
    if plan.epoch and plans[plan.epoch - 1].phase == plan.phase:
        return
    phase = [other for other in plans if other.phase == plan.phase]
    before = plans[plan.epoch - 1].data if plan.epoch else None
    change = {None: "start with", plan.data: "continue with"}.get(before, "swap to")
    data = plan.data if plan.shares == phase[-1].shares else f"{plan.data}, ramping to {phase[-1].data}"
    names = dict.fromkeys(name for epoch in phase for name, _ in epoch.shares)
    files = "; ".join(datasets.train[name].description for name in names)
    size = f" at {plan.size} pixels" if plan.size else ""
    log.info("phase %d: %s %s (%s)%s, epochs %d to %d", plan.phase, change, data, files, size, plan.epoch, phase[-1].epoch)


def describe_row(row: Row, epochs: int, seconds_left: float = 0.0) -> str:
    """Return one line on an epoch: data, rates, loss, speed, top-1 per validation set (EMA in brackets if any), time left."""
    rates = f"lr {float(row['lr_first']):.1e} to {float(row['lr_last']):.1e}"
    speed = f"{float(row['images_per_second']):.0f} img/s, {float(row['data_wait']):.0%} waiting"
    speed += f", mfu {float(row['mfu']):.0%}" if "mfu" in row else ""
    head = f"epoch {row['epoch']:>3}/{epochs}  {row['data']}  {rates}  loss {float(row['train/loss']):.3f}  {speed}"
    names = [key.removeprefix("val/").removesuffix("/top1") for key in row if key.startswith("val/") and key.endswith("/top1")]
    if row["replaced"]:
        head += f"  {row['replaced']} samples replaced"
    if row["skipped"]:
        head += f"  {row['skipped']} steps skipped"
    left = [f"{_clock(seconds_left)} left"] if seconds_left >= 1 else []
    return "  | ".join([head, *(_describe_top1(row, name) for name in names), *left])


def _describe_top1(row: Row, name: str) -> str:
    raw, averaged = f"{name} {float(row[f'val/{name}/top1']):.1f}", row.get(f"val/{name}/ema_top1")
    return raw if averaged is None else f"{raw} (ema {float(averaged):.1f})"


def warn_of_loading(row: Row, loaders: Loaders) -> None:
    """Log a warning if an epoch waited long for its images."""
    waited = float(row["data_wait"])
    if waited > _WAITING and float(row["seconds"]) > _MIN_SECONDS:
        log.warning(
            "epoch %s: %.0f %% of the time was spent waiting for images: the loader is the limit, not the model. More "
            "processors (loader.workers) or smaller files (encode --short-side) help; so does the compiled loader (this is the "
            "%s one).",
            row["epoch"],
            100 * waited,
            loaders.kind,
        )


def describe_change(before: Recipe, recipe: Recipe, images: int, epoch: int) -> str:
    """Return some lines with the learning rates from ``epoch`` on, where they differ from those of ``before``."""
    remaining = planned_epochs(recipe, images)[epoch:]
    listed = {len(remaining) * number // _LISTED_EPOCHS for number in range(_LISTED_EPOCHS)} | {len(remaining) - 1}
    lines = [
        f"\n  epoch {planned.plan.epoch:>3}  {planned.plan.data}  lr {planned.lr_first:.3e} to {planned.lr_last:.3e}"
        for number, planned in enumerate(remaining)
        if number in listed
    ]
    length = "" if recipe.epochs == before.epochs else f": {recipe.epochs} epochs instead of {before.epochs}"
    return f"the plan has changed{length}. From here on:{''.join(lines)}"


def _describe_step(state: TrainState, plan: EpochPlan) -> str:
    ranks, times = state.runtime.world.ranks, state.micro_batches(plan)
    devices = f"{ranks} devices x " if ranks > 1 else ""
    return f"a step of {plan.batch} images: {devices}{times} micro-batches x {state.micro}"


def _small_batch_warning(state: TrainState) -> str | None:
    """Return a warning if this many devices have smaller micro-batches than one would, and that changes the result."""
    recipe, ranks = state.recipe, state.runtime.world.ranks
    single, divided = recipe.micro(), recipe.micro(ranks)
    mixed = (recipe.mix.mixup or recipe.mix.cutmix) and min(single, recipe.mix.chunk) > divided
    normed = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in state.model.modules())
    if divided == single or not (mixed or normed):
        return None
    effects = " and ".join([*(["mixed"] if mixed else []), *(["normed"] if normed else [])])
    return (
        f"on {ranks} devices a micro-batch is {divided} images, not {single}: they are {effects} in smaller groups than on "
        f"fewer devices, so the result differs. batch.per_device={divided} makes it the same on any number of devices."
    )


def _clock(seconds: float) -> str:
    """Return ``1:02:05`` for 3725 seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
