"""One optimiser step: images as the model sees them, gradients of micro-batches, the update."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.schema_data import AugmentSection, Interpolation
from jpegcurr.training.augment.policies import Policy, TrivialAugment, augment, color_jitter, parse_policy
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.sample_rng import Draws
from jpegcurr.training.augment.erasing import erase
from jpegcurr.training.augment.mixup import mix, soft_targets
from jpegcurr.training.optim import set_learning_rate
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.state import Position, Trainer

_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": binary_cross_entropy_with_logits,
}


def policy_of(section: AugmentSection, interpolation: Interpolation) -> Policy | None:
    """The policy that a recipe names; raises ValueError for one that is unknown."""
    if section.policy is None:
        return None
    return parse_policy(section.policy, "bilinear" if interpolation == "area" else interpolation)


def check_policies(recipe: Recipe) -> None:
    """Raise RecipeError, with its place, for a policy that is unknown."""
    sections = {"": recipe.augment} | {
        f"curriculum.{number}.": phase.augment for number, phase in enumerate(recipe.curriculum) if phase.augment
    }
    for place, section in sections.items():
        try:
            policy_of(section, recipe.image.interpolation)
        except ValueError as error:
            raise RecipeError(f"{place}augment.policy: {error}") from None


def shown(trainer: Trainer, plan: EpochPlan) -> Callable[[int, torch.Tensor], torch.Tensor]:
    """What makes of a micro-batch, by its number and uint8 [b 3 h w], the normalised float [b 3 h w] that is mixed."""
    recipe, section, normalise = trainer.recipe, plan.augment, trainer.normalise
    policy = policy_of(section, recipe.image.interpolation)
    mean = [min(255, round(level)) for level in normalise.mean.flatten().tolist()]
    fill = [0, 0, 0] if isinstance(policy, TrivialAugment) else mean  # as torchvision's, and as timm's
    batches = trainer.batches(plan.epoch)

    def show(number: int, images: torch.Tensor) -> torch.Tensor:
        draws = Draws(recipe.seed, plan.epoch, batches[number])
        if policy is not None:
            images = augment(images, policy, draws, fill)
        elif section.color_jitter:
            images = color_jitter(images, section.color_jitter, draws)
        seen: torch.Tensor = normalise(images)
        return erase(seen, section.erase, draws, fill=section.erase_fill) if section.erase else seen

    return show


def backward(trainer: Trainer, plan: EpochPlan, number: int, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Add the gradients of this process's ``number``-th micro-batch of the epoch, and return its share of the step's loss."""
    recipe, of = trainer.recipe, trainer.micro_batches(plan)
    targets = soft_targets(labels, trainer.classes, recipe.optim.label_smoothing)
    seen, targets = mix(images, targets, recipe.mix, recipe.seed, plan.epoch, _first_chunk(trainer, of, number))
    if recipe.optim.bce_threshold is not None:
        targets = (targets > recipe.optim.bce_threshold).to(targets.dtype)
    with _gradients_kept(trainer, last=(number + 1) % of == 0):
        with trainer.runtime.autocast():
            loss = _LOSSES[recipe.optim.loss](trainer.prepared(seen), targets) / of
        trainer.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach()


def _first_chunk(trainer: Trainer, of: int, number: int) -> int:
    """Which of the epoch's chunks to mix a micro-batch begins with; any number of processes mixes the same images."""
    world = trainer.runtime.world
    step, within = divmod(number, of)
    before = (step * world.ranks + world.rank) * of + within
    return before * math.ceil(trainer.micro / trainer.recipe.mix.chunk)


def _gradients_kept(trainer: Trainer, *, last: bool) -> AbstractContextManager[object]:
    """Processes exchange gradients once a step, after its last micro-batch."""
    alone = last or not isinstance(trainer.prepared, torch.nn.parallel.DistributedDataParallel)
    return nullcontext() if alone else trainer.prepared.no_sync()  # type: ignore[operator]


def running_statistics(trainer: Trainer) -> list[torch.Tensor]:
    """Copies of the model's buffers where a step may be left out: by then its forward passes have changed them."""
    leaves_out = trainer.recipe.optim.on_nan == "skip" or trainer.scaler.is_enabled()
    return [each.clone() for each in trainer.model.buffers()] if leaves_out else []


def update(trainer: Trainer, plan: EpochPlan, position: Position, loss: torch.Tensor, statistics: list[torch.Tensor]) -> None:
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


def _stepped(trainer: Trainer) -> bool:
    """Step; whether it was taken: float16's scaler leaves a step out whose gradients overflow, and then scales less."""
    scaler = trainer.scaler
    before = scaler.get_scale()
    scaler.step(trainer.optimizer)
    scaler.update()
    return scaler.get_scale() >= before


def _gradient_norm(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
