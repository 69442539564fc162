"""One epoch of training: micro-batches in, optimiser steps out, from wherever it was left."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from timm.utils import ModelEmaV3
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from jpegcurr.errors import RecipeError, TrainingError
from jpegcurr.recipe import Recipe
from jpegcurr.recipe_data import AugmentSection, Interpolation
from jpegcurr.runtime import Runtime
from jpegcurr.tracking import Row
from jpegcurr.training.augment import Policy, augment, color_jitter, parse_policy
from jpegcurr.training.contract import Indices, Loader
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.draws import Draws
from jpegcurr.training.erasing import erase
from jpegcurr.training.mixing import mix, soft_targets
from jpegcurr.training.optim import set_learning_rate
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.score import Normaliser

CHECK_EVERY = 100  # optimiser steps between looks at whether the loss is still finite: each look waits for the device

_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy_with_logits,
}


@dataclass(frozen=True, slots=True)
class Trainer:
    """What an epoch works on; ``steps`` are the optimiser steps that it has, ``batches`` the samples of its micro-batches."""

    recipe: Recipe
    runtime: Runtime
    classes: int
    steps: int
    batches: Callable[[int], list[Indices]]
    model: torch.nn.Module
    normalise: Normaliser
    ema: ModelEmaV3
    optimizer: torch.optim.Optimizer


@dataclass(slots=True)
class Position:
    """How far an epoch is: after ``step`` steps, whose losses sum to ``loss``, in ``seconds``."""

    epoch: int
    step: int
    loss: torch.Tensor
    seconds: float = 0.0
    replaced: int = 0
    skipped: int = 0

    @classmethod
    def at_start(cls, epoch: int, runtime: Runtime) -> "Position":
        """Nothing of ``epoch`` is done."""
        return cls(epoch, 0, torch.zeros((), device=runtime.device))


def train_epoch(
    trainer: Trainer, loader: Loader, plan: EpochPlan, position: Position, after_step: Callable[[Position], None]
) -> Row:
    """Train what is left of the epoch; ``position`` moves along, and ``after_step`` sees it after every optimiser step.

    Raises:
        TrainingError: the loss or a weight is not finite.
    """
    recipe = trainer.recipe
    micro_batches = recipe.batch.size // recipe.batch.micro
    before, replaced = position.seconds, position.replaced
    started = perf_counter()
    trainer.model.train()
    summed = torch.zeros_like(position.loss)
    first = position.step * micro_batches
    show = _shown(trainer, plan)
    for number, (images, labels) in enumerate(loader.at(plan.epoch, first), start=first):
        summed += _backward(trainer, plan, number, show(number, images), labels) / micro_batches
        if (number + 1) % micro_batches == 0:
            _step(trainer, plan, position, summed)
            summed = torch.zeros_like(summed)
            position.seconds = before + perf_counter() - started
            position.replaced = replaced + loader.replaced
            if position.step % CHECK_EVERY == 0 or position.step == trainer.steps:
                _finite(position.loss.item(), "loss", plan)
            after_step(position)
    norms = torch.stack([parameter.detach().norm() for parameter in trainer.model.parameters()])
    _finite(norms.sum().item(), "weights' norm at the end", plan)  # the last step's update is in no loss yet
    taken = trainer.steps - position.skipped
    if not taken:
        raise TrainingError(f"No step of epoch {plan.epoch} had a finite loss: all were skipped. Try a smaller schedule.lr.")
    return {
        "epoch": plan.epoch,
        "phase": plan.phase,
        "data": plan.data,
        "lr_first": learning_rate(recipe.schedule, plan, 0, trainer.steps),
        "lr_last": learning_rate(recipe.schedule, plan, trainer.steps - 1, trainer.steps),
        "steps": trainer.steps,
        "replaced": position.replaced,
        "skipped": position.skipped,
        "seconds": position.seconds,
        "images_per_second": trainer.steps * recipe.batch.size / position.seconds,
        "train/loss": position.loss.item() / taken,
    }


def _shown(trainer: Trainer, plan: EpochPlan) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """What makes of a micro-batch, by its number and uint8 [b 3 h w], the normalised float [b 3 h w] that is mixed."""
    recipe, section, normalise = trainer.recipe, plan.augment, trainer.normalise
    policy = policy_of(section, recipe.image.interpolation)
    fill = [min(255, round(level)) for level in normalise.mean.flatten().tolist()]
    batches = trainer.batches(plan.epoch)

    def show(number: int, images: torch.Tensor) -> torch.Tensor:
        draws = Draws(recipe.seed, plan.epoch, batches[number])
        if policy is not None:
            images = augment(images, policy, draws, fill)
        elif section.color_jitter:
            images = color_jitter(images, section.color_jitter, draws)
        seen: torch.Tensor = normalise(images)
        return erase(seen, section.erase, draws) if section.erase else seen

    return show


def policy_of(section: AugmentSection, interpolation: Interpolation) -> Policy | None:
    """The policy that a recipe names; raises RecipeError for one that is unknown."""
    if section.policy is None:
        return None
    try:
        return parse_policy(section.policy, "bilinear" if interpolation == "area" else interpolation)
    except ValueError as error:
        raise RecipeError(f"augment.policy: {error}") from None


def _backward(trainer: Trainer, plan: EpochPlan, number: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Add the gradients of the ``number``-th micro-batch of the epoch, and return its loss."""
    recipe = trainer.recipe
    chunks = math.ceil(recipe.batch.micro / recipe.mix.chunk)
    targets = soft_targets(labels, trainer.classes, recipe.optim.label_smoothing)
    seen, targets = mix(images, targets, recipe.mix, recipe.seed, plan.epoch, number * chunks)
    with trainer.runtime.autocast():
        loss = _LOSSES[recipe.optim.loss](trainer.model(seen), targets)
    (loss / (recipe.batch.size // recipe.batch.micro)).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _step(trainer: Trainer, plan: EpochPlan, position: Position, loss: torch.Tensor) -> None:
    """One optimiser step, unless the recipe has steps skipped that are not finite."""
    optim, parameters = trainer.recipe.optim, list(trainer.model.parameters())
    if optim.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(parameters, optim.clip_grad)
    if optim.on_nan == "skip" and not math.isfinite((loss + _gradient_norm(parameters)).item()):
        position.skipped += 1
    else:
        set_learning_rate(trainer.optimizer, learning_rate(trainer.recipe.schedule, plan, position.step, trainer.steps))
        trainer.optimizer.step()
        trainer.ema.update(trainer.model)
        position.loss += loss
    trainer.optimizer.zero_grad(set_to_none=True)
    position.step += 1


def _gradient_norm(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def _finite(value: float, what: str, plan: EpochPlan) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"The {what} of epoch {plan.epoch} is {value}. The last checkpoint is from before it. "
            "A smaller schedule.lr, or optim.clip_grad, usually helps; optim.on_nan=skip leaves such steps out."
        )
