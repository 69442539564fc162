"""The training loop: an epoch, one optimiser step of it, and the checks that its numbers are finite."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter

import torch

from jpegcurr.errors import NotFiniteError
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.sampling import Batch, Loader
from jpegcurr.training.models.freeze import set_mode
from jpegcurr.training.optim import set_learning_rate
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.tracking import Row

CHECK_EVERY = 100  # optimiser steps between checks that the loss is finite: each check waits for the device


@dataclass(frozen=True, slots=True)
class StepInfo:
    """An epoch after one of its steps. ``waited`` is the share of the time that was spent waiting for images."""

    plan: EpochPlan
    step: int
    steps: int
    learning_rate: float
    images_per_second: float
    waited: float
    mean_loss: Callable[[], float]


def train_epoch(
    state: TrainState, loader: Loader, plan: EpochPlan, progress: EpochProgress, after_step: Callable[[StepInfo], None]
) -> Row:
    """Train the rest of an epoch from ``progress``, which is updated; call ``after_step`` after every optimiser step.

    Returns:
        The epoch's row of metrics, without those of validation.

    Raises:
        NotFiniteError: the loss or a weight is not finite.
    """
    micro_batches, world = state.micro_batches(plan), state.runtime.world
    seconds, waited, replaced = progress.seconds, progress.waited, progress.replaced
    set_mode(state.model, frozen=state.recipe.freezes(plan.epoch))
    state.utilisation.count(plan.size or state.recipe.image.size)
    started = perf_counter()
    loss, buffers = torch.zeros_like(progress.loss), list[torch.Tensor]()
    first = progress.step * micro_batches
    batches = _TimedBatches(loader.at(plan.epoch, first))
    for number, batch in enumerate(batches, start=first):
        if number % micro_batches == 0:
            buffers = _copy_buffers(state)
        loss += backward(state, plan, number, batch)
        if (number + 1) % micro_batches == 0:
            update(state, plan, progress, world.sum(loss) / world.ranks, buffers)
            loss = torch.zeros_like(loss)
            progress.seconds = seconds + perf_counter() - started
            progress.waited = waited + batches.waited
            progress.replaced = replaced + loader.replaced
            if progress.step % CHECK_EVERY == 0:
                _check_number(progress.loss.item(), "loss", plan)
            paused = perf_counter()
            after_step(_step_info(state, plan, progress))
            started += perf_counter() - paused  # the time of callbacks and checkpoints is not training time
    check_finite(state, plan, progress)
    if state.steps(plan) == progress.skipped:
        raise NotFiniteError(
            f"No step of epoch {plan.epoch} had a finite loss: all were skipped. Try a smaller schedule.lr in a new run."
        )
    return _metrics_row(state, plan, progress)


def backward(state: TrainState, plan: EpochPlan, number: int, batch: Batch) -> torch.Tensor:
    """Add the gradients of this process's micro-batch ``number`` of the epoch; return its share of the step's loss."""
    micro_batches = state.micro_batches(plan)
    inputs, targets = state.augment(batch)
    with _gradient_exchange(state, last=(number + 1) % micro_batches == 0):
        with state.runtime.autocast():
            loss = state.loss_of(state.prepared(inputs), targets) / micro_batches
        state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def update(
    state: TrainState, plan: EpochPlan, progress: EpochProgress, loss: torch.Tensor, buffers: list[torch.Tensor]
) -> None:
    """Take one optimiser step, or skip it: if it is not finite and the recipe skips such steps, or if it overflows float16.

    ``loss`` is the mean over the step's images; ``buffers`` are copies of the model's buffers from before the step.
    """
    optim, parameters = state.recipe.optim, list(state.model.parameters())
    scaled = state.scaler.is_enabled()
    if scaled:
        state.scaler.unscale_(state.optimizer)
    if optim.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(parameters, optim.clip_grad)
    checked = optim.on_nan == "skip" and not scaled  # float16's scaler checks by itself, and has to see every step
    taken = not checked or math.isfinite((loss + _gradient_norm(parameters)).item())
    if taken:
        set_learning_rate(state.optimizer, learning_rate(state.recipe.schedule, plan, progress.step, state.steps(plan)))
        taken = _optimizer_step(state)
    if taken:
        if state.ema is not None:
            state.ema.update(state.model)
    else:
        for buffer, before in zip(state.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
    if taken or optim.on_nan == "raise":
        progress.loss += loss * taken  # not a number if the loss is not finite, float16 overflow or not
    progress.skipped += not taken
    state.optimizer.zero_grad(set_to_none=True)
    progress.step += 1


def check_finite(state: TrainState, plan: EpochPlan, progress: EpochProgress) -> None:
    """Raise NotFiniteError if the epoch's loss so far, or a weight, is not finite. Called before every checkpoint."""
    _check_number(progress.loss.item(), "loss", plan)
    norms = torch.stack([parameter.detach().norm() for parameter in state.model.parameters()])
    _check_number(norms.sum().item(), f"weights' norm after step {progress.step}", plan)  # no loss has the last update in it


def _check_number(value: float, name: str, plan: EpochPlan) -> None:
    if not math.isfinite(value):
        raise NotFiniteError(
            f"The {name} of epoch {plan.epoch} is {value}. "
            "A smaller schedule.lr, or optim.clip_grad, usually helps, in a new run; optim.on_nan=skip skips such steps."
        )


def _gradient_exchange(state: TrainState, *, last: bool) -> AbstractContextManager[object]:
    """Return the context in which processes exchange gradients only after a step's last micro-batch."""
    exchanges = last or not isinstance(state.prepared, torch.nn.parallel.DistributedDataParallel)
    return nullcontext() if exchanges else state.prepared.no_sync()  # type: ignore[operator]


def _copy_buffers(state: TrainState) -> list[torch.Tensor]:
    """Copy the model's buffers if the step may be skipped, since its forward passes change them; else return no copies."""
    may_skip = state.recipe.optim.on_nan == "skip" or state.scaler.is_enabled()
    return [buffer.clone() for buffer in state.model.buffers()] if may_skip else []


def _optimizer_step(state: TrainState) -> bool:
    """Step, and return whether it was taken: float16's scaler skips a step whose gradients overflow, and lowers its scale."""
    scaler = state.scaler
    before = scaler.get_scale()
    scaler.step(state.optimizer)
    scaler.update()
    return scaler.get_scale() >= before


def _gradient_norm(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])


class _TimedBatches:
    """Batches, and the seconds that the caller ``waited`` for them."""

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


def _step_info(state: TrainState, plan: EpochPlan, progress: EpochProgress) -> StepInfo:
    steps, step = state.steps(plan), progress.step
    rate = learning_rate(state.recipe.schedule, plan, step - 1, steps)
    speed, waited = step * plan.batch / progress.seconds, progress.waited / progress.seconds
    return StepInfo(plan, step, steps, rate, speed, waited, lambda: progress.mean_loss)


def _metrics_row(state: TrainState, plan: EpochPlan, progress: EpochProgress) -> Row:
    steps, runtime = state.steps(plan), state.runtime
    speed = steps * plan.batch / progress.seconds
    row: Row = {
        "epoch": plan.epoch,
        "phase": plan.phase,
        "data": plan.data,
        "lr_first": learning_rate(state.recipe.schedule, plan, 0, steps),
        "lr_last": learning_rate(state.recipe.schedule, plan, steps - 1, steps),
        "steps": steps,
        "replaced": runtime.world.total(progress.replaced),
        "skipped": progress.skipped,
        "seconds": progress.seconds,
        "data_wait": progress.waited / progress.seconds,
        "images_per_second": speed,
        "train/loss": progress.mean_loss,
    }
    share = state.utilisation.at(speed / runtime.world.ranks, plan.size or state.recipe.image.size)
    if share is not None:
        row["mfu"] = share
    return row
