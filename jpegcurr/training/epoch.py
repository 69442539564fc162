"""One epoch of training: micro-batches in, optimiser steps out, from wherever it was left."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

import torch

from jpegcurr.errors import NotFiniteError
from jpegcurr.training.tracking import Row
from jpegcurr.training.data.sampling import Batch, Loader
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.flops import mfu, peak_flops, training_flops
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.step import backward, running_statistics, shown, update
from jpegcurr.training.state import Position, Trainer

CHECK_EVERY = 100  # optimiser steps between looks at whether the loss is still finite: each look waits for the device


@dataclass(frozen=True, slots=True)
class Progress:
    """An epoch under way, after some step. ``waited`` is the share of the time in which there were no images yet."""

    plan: EpochPlan
    step: int
    steps: int
    learning_rate: float
    images_per_second: float
    waited: float
    mean_loss: Callable[[], float]


def train_epoch(
    trainer: Trainer, loader: Loader, plan: EpochPlan, position: Position, after_step: Callable[[Progress], None]
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


def check_finite(trainer: Trainer, plan: EpochPlan, position: Position) -> None:
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


def _progress(trainer: Trainer, plan: EpochPlan, position: Position) -> Progress:
    steps, step = trainer.steps(plan), position.step
    rate = learning_rate(trainer.recipe.schedule, plan, step - 1, steps)
    speed, waited = step * plan.batch / position.seconds, position.waited / position.seconds
    return Progress(plan, step, steps, rate, speed, waited, lambda: position.mean_loss)


def _row(trainer: Trainer, plan: EpochPlan, position: Position) -> Row:
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
