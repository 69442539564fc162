"""One optimiser step: images as the model sees them, gradients of micro-batches, the update."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch

from jpegcurr.errors import NotFiniteError
from jpegcurr.training.augment.erasing import erase
from jpegcurr.training.augment.mixup import mix
from jpegcurr.training.augment.policies import TrivialAugment, augment, color_jitter, parse_section_policy
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.sampling import Batch, Loader
from jpegcurr.training.flops import mfu, peak_flops, training_flops
from jpegcurr.training.loss import LOSSES, soft_targets
from jpegcurr.training.optim import set_learning_rate
from jpegcurr.training.sample_rng import SampleRng
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.tracking import Row


def shown(trainer: TrainState, plan: EpochPlan) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """What makes of a micro-batch, by its number and uint8 [b 3 h w], the normalised float [b 3 h w] that is mixed."""
    recipe, section, normalise = trainer.recipe, plan.augment, trainer.normalise
    policy = parse_section_policy(section, recipe.image.interpolation)
    mean = [min(255, round(level)) for level in normalise.mean.flatten().tolist()]
    fill = [0, 0, 0] if isinstance(policy, TrivialAugment) else mean  # as torchvision's, and as timm's
    batches = trainer.batches(plan.epoch)

    def show(number: int, images: torch.Tensor) -> torch.Tensor:
        rng = SampleRng(recipe.seed, plan.epoch, batches[number])
        if policy is not None:
            images = augment(images, policy, rng, fill)
        elif section.color_jitter:
            images = color_jitter(images, section.color_jitter, rng)
        seen: torch.Tensor = normalise(images)
        return erase(seen, section.erase, rng, fill=section.erase_fill) if section.erase else seen

    return show


def backward(trainer: TrainState, plan: EpochPlan, number: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Add the gradients of this process's ``number``-th micro-batch of the epoch, and return its share of the step's loss."""
    recipe, of = trainer.recipe, trainer.micro_batches(plan)
    targets = soft_targets(labels, trainer.classes, recipe.optim.label_smoothing)
    seen, targets = mix(images, targets, recipe.mix, recipe.seed, plan.epoch, _first_chunk(trainer, of, number))
    if recipe.optim.bce_threshold is not None:
        targets = (targets > recipe.optim.bce_threshold).to(targets.dtype)
    with _gradients_kept(trainer, last=(number + 1) % of == 0):
        with trainer.runtime.autocast():
            loss = LOSSES[recipe.optim.loss](trainer.prepared(seen), targets) / of
        trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _first_chunk(trainer: TrainState, of: int, number: int) -> int:
    """Which of the epoch's chunks to mix a micro-batch begins with; any number of processes mixes the same images."""
    world = trainer.runtime.world
    step, within = divmod(number, of)
    before = (step * world.ranks + world.rank) * of + within
    return before * math.ceil(trainer.micro / trainer.recipe.mix.chunk)


def _gradients_kept(trainer: TrainState, *, last: bool) -> AbstractContextManager[object]:
    """Processes exchange gradients once a step, after its last micro-batch."""
    alone = last or not isinstance(trainer.prepared, torch.nn.parallel.DistributedDataParallel)
    return nullcontext() if alone else trainer.prepared.no_sync()  # type: ignore[operator]


def running_statistics(trainer: TrainState) -> list[torch.Tensor]:
    """Copies of the model's buffers where a step may be left out: by then its forward passes have changed them."""
    leaves_out = trainer.recipe.optim.on_nan == "skip" or trainer.scaler.is_enabled()
    return [each.clone() for each in trainer.model.buffers()] if leaves_out else []


def update(
    trainer: TrainState, plan: EpochPlan, position: EpochProgress, loss: torch.Tensor, statistics: list[torch.Tensor]
) -> None:
    """One optimiser step, unless it is one to leave out: one that is not finite, if the recipe says so, or overflows float16.

    ``loss`` is the mean over its images, ``statistics`` what the model's buffers were before it.
    """
    optim, parameters, scaled = trainer.recipe.optim, list(trainer.model.parameters()), trainer.scaler.is_enabled()
    if scaled:
        trainer.scaler.unscale_(trainer.optimizer)
    if optim.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(parameters, optim.clip_grad)
    looked_at = optim.on_nan == "skip" and not scaled  # the scaler looks itself, and has to know of every step
    taken = not looked_at or math.isfinite((loss + _gradient_norm(parameters)).item())
    if taken:
        set_learning_rate(trainer.optimizer, learning_rate(trainer.recipe.schedule, plan, position.step, trainer.steps(plan)))
        taken = _stepped(trainer)
    if taken:
        trainer.ema.update(trainer.model)
    else:
        for buffer, before in zip(trainer.model.buffers(), statistics, strict=True):
            buffer.copy_(before)
    if taken or optim.on_nan == "raise":
        position.loss += loss * taken  # not a number if the loss is not one, overflow or not
    position.skipped += not taken
    trainer.optimizer.zero_grad(set_to_none=True)
    position.step += 1


def _stepped(trainer: TrainState) -> bool:
    """Step; whether it was taken: float16's scaler leaves a step out whose gradients overflow, and then scales less."""
    scaler = trainer.scaler
    before = scaler.get_scale()
    scaler.step(trainer.optimizer)
    scaler.update()
    return scaler.get_scale() >= before


def _gradient_norm(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


CHECK_EVERY = 100  # optimiser steps between looks at whether the loss is still finite: each look waits for the device


@dataclass(frozen=True, slots=True)
class StepInfo:
    """An epoch under way, after some step. ``waited`` is the share of the time in which there were no images yet."""

    plan: EpochPlan
    step: int
    steps: int
    learning_rate: float
    images_per_second: float
    waited: float
    mean_loss: Callable[[], float]


def train_epoch(
    trainer: TrainState, loader: Loader, plan: EpochPlan, position: EpochProgress, after_step: Callable[[StepInfo], None]
) -> Row:
    """Train what is left of the epoch; ``position`` moves along, and ``after_step`` is told after every optimiser step.

    Raises:
        NotFiniteError: the loss or a weight is not finite.
    """
    micro_batches, steps, world = trainer.micro_batches(plan), trainer.steps(plan), trainer.runtime.world
    seconds, waited, replaced = position.seconds, position.waited, position.replaced
    started = perf_counter()
    trainer.model.train()
    loss, statistics = torch.zeros_like(position.loss), list[torch.Tensor]()
    first = position.step * micro_batches
    show = shown(trainer, plan)
    batches = _Timed(loader.at(plan.epoch, first))
    for number, (images, labels) in enumerate(batches, start=first):
        if number % micro_batches == 0:
            statistics = running_statistics(trainer)
        loss += backward(trainer, plan, number, show(number, images), labels)
        if (number + 1) % micro_batches == 0:
            update(trainer, plan, position, world.sum(loss) / world.ranks, statistics)
            loss = torch.zeros_like(loss)
            position.seconds = seconds + perf_counter() - started
            position.waited = waited + batches.waited
            position.replaced = replaced + loader.replaced
            if position.step % CHECK_EVERY == 0:
                _finite(position.loss.item(), "loss", plan)
            ended = perf_counter()
            after_step(_progress(trainer, plan, position))
            started += perf_counter() - ended  # saving is not training
    check_finite(trainer, plan, position)
    if steps == position.skipped:
        raise NotFiniteError(f"No step of epoch {plan.epoch} had a finite loss: all were skipped. Try a smaller schedule.lr.")
    return _row(trainer, plan, position)


def check_finite(trainer: TrainState, plan: EpochPlan, position: EpochProgress) -> None:
    """Raise NotFiniteError if a loss of the epoch so far, or a weight, is not finite: such a moment is not to be saved."""
    _finite(position.loss.item(), "loss", plan)
    norms = torch.stack([parameter.detach().norm() for parameter in trainer.model.parameters()])
    _finite(norms.sum().item(), f"weights' norm after step {position.step}", plan)  # the last update is in no loss yet


class _Timed:
    """Batches, and for how long they were waited for, in seconds."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.waited = 0.0

    def __iter__(self) -> Iterator[Batch]:
        while True:
            asked = perf_counter()
            batch = next(self._batches, None)
            self.waited += perf_counter() - asked
            if batch is None:
                return
            yield batch


def _progress(trainer: TrainState, plan: EpochPlan, position: EpochProgress) -> StepInfo:
    steps, step = trainer.steps(plan), position.step
    rate = learning_rate(trainer.recipe.schedule, plan, step - 1, steps)
    speed, waited = step * plan.batch / position.seconds, position.waited / position.seconds
    return StepInfo(plan, step, steps, rate, speed, waited, lambda: position.mean_loss)


def _row(trainer: TrainState, plan: EpochPlan, position: EpochProgress) -> Row:
    steps, runtime = trainer.steps(plan), trainer.runtime
    speed = steps * plan.batch / position.seconds
    row: Row = {
        "epoch": plan.epoch,
        "phase": plan.phase,
        "data": plan.data,
        "lr_first": learning_rate(trainer.recipe.schedule, plan, 0, steps),
        "lr_last": learning_rate(trainer.recipe.schedule, plan, steps - 1, steps),
        "steps": steps,
        "replaced": runtime.world.total(position.replaced),
        "skipped": position.skipped,
        "seconds": position.seconds,
        "data_wait": position.waited / position.seconds,
        "images_per_second": speed,
        "train/loss": position.mean_loss,
    }
    if peak := peak_flops(runtime.name, runtime.dtype):
        flops = training_flops(trainer.model, plan.size or trainer.recipe.image.size)
        row["mfu"] = mfu(flops, speed / runtime.world.ranks, peak)
    return row


def _finite(value: float, what: str, plan: EpochPlan) -> None:
    if not math.isfinite(value):
        raise NotFiniteError(
            f"The {what} of epoch {plan.epoch} is {value}. "
            "A smaller schedule.lr, or optim.clip_grad, usually helps; optim.on_nan=skip leaves such steps out."
        )
