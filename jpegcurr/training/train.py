"""The training loop."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError
from timm.utils import ModelEmaV3

from jpegcurr.errors import TrainingError
from jpegcurr.recipe import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.tracking import Metrics, Row, check_trackers, open_trackers
from jpegcurr.training.checkpoint import Trainee, load_state, save_state
from jpegcurr.training.contract import Loader
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.datasets import Datasets, open_datasets
from jpegcurr.training.loaders import open_loaders
from jpegcurr.training.model import check_name, create_model, export_model, normaliser
from jpegcurr.training.optim import create_optimizer, set_learning_rate
from jpegcurr.training.run_folder import STATE, check_folder, check_same_data, write_head
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.score import Normaliser, score

log = logging.getLogger("jpegcurr")
CHECK_EVERY = 100  # optimiser steps between looks at whether the loss is still finite: each look waits for the device

# Called after every optimiser step with the plan of the epoch, the steps done in it and the steps it has.
OnStep = Callable[[EpochPlan, int, int], None]


@dataclass(frozen=True, slots=True)
class _Trainer:
    recipe: Recipe
    runtime: Runtime
    model: torch.nn.Module
    normalise: Normaliser
    ema: ModelEmaV3
    optimizer: torch.optim.Optimizer
    on_step: OnStep

    @property
    def trainee(self) -> Trainee:
        return Trainee(self.model, self.ema.module, self.optimizer, self.runtime)


def train(
    recipe: Recipe,
    out: Path,
    *,
    runtime: Runtime,
    resume: bool = False,
    on_step: OnStep = lambda _plan, _done, _steps: None,
) -> Metrics:
    """Train ``recipe`` into the folder ``out`` and return its metrics.

    ``out`` gets ``recipe.yaml`` (resolved), ``run.json``, ``metrics.jsonl``, ``summary.csv``, the raw weights
    (``config.json``, ``model.safetensors``), ``ema/`` with the averaged ones, and ``state.safetensors``, from which
    ``resume`` goes on at the first epoch that is not whole. On a CPU a resumed run ends in the same weights, bit for bit, as
    one that never stopped.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not set, or the reverse, or the recipe or the data differ.
        BetonError, RecipeError: the data does not fit the recipe; no run was started.
        TrainingError: the loss is not finite, or an epoch cannot be saved. The last checkpoint is whole.
    """
    check_folder(recipe, out, resume=resume)
    check_name(recipe.model)
    check_trackers(recipe.tracking)
    datasets = open_datasets(recipe)
    if resume:
        check_same_data(out, datasets)
    loaders = open_loaders(recipe, datasets, runtime)
    log.info(runtime.reason)
    for reason in loaders.reasons:
        log.info(reason)
    trainer = _build(recipe, runtime, len(datasets.classes), on_step)
    start = load_state(out / STATE, trainer.trainee) if resume else 0
    plans = plan_epochs(recipe)
    run_id = write_head(recipe, out, datasets, loaders, runtime)
    trackers = open_trackers(recipe.tracking, out, run_id, recipe.model_dump(mode="json"))
    metrics = Metrics(out, trackers, before=start)
    if start:
        log.info("resuming at epoch %d of %d", start, len(plans))
    try:
        for plan in plans[start:]:
            _announce(plan, plans, datasets)
            row = _train_epoch(trainer, loaders.train, plan)
            row |= _evaluate(trainer, loaders.val)
            try:
                metrics.record(row)
                _save(trainer, out, datasets.classes, plan.epoch + 1)
            except (OSError, SafetensorError) as error:
                what = f"{out}: epoch {plan.epoch} could not be saved: {error}"
                raise TrainingError(f"{what}. What was saved before is whole; make room and go on from there.") from None
            log.info(describe_row(row, len(plans)))
    finally:
        metrics.close()
    return metrics


def _build(recipe: Recipe, runtime: Runtime, classes: int, on_step: OnStep) -> _Trainer:
    torch.manual_seed(recipe.seed)
    model = runtime.place(create_model(recipe.model, classes))
    normalise = normaliser(model).to(runtime.device)
    ema = ModelEmaV3(model, decay=recipe.ema.decay)
    return _Trainer(recipe, runtime, model, normalise, ema, create_optimizer(model, recipe.optim), on_step)


def _train_epoch(trainer: _Trainer, loader: Loader, plan: EpochPlan) -> Row:
    """One pass over ``loader``: an optimiser step for every ``batch.size`` images."""
    recipe, runtime = trainer.recipe, trainer.runtime
    micro_batches = recipe.batch.size // recipe.batch.micro
    steps = len(loader) // micro_batches
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=recipe.optim.label_smoothing)
    total = torch.zeros((), device=runtime.device)
    loss_value = 0.0
    started = perf_counter()
    trainer.model.train()
    for number, (images, labels) in enumerate(loader.at(plan.epoch)):
        with runtime.autocast():
            loss = criterion(trainer.model(trainer.normalise(images)), labels) / micro_batches
        loss.backward()
        total += loss.detach()
        if (number + 1) % micro_batches == 0:
            done = (number + 1) // micro_batches
            _step(trainer, learning_rate(recipe.schedule, plan, done - 1, steps))
            trainer.on_step(plan, done, steps)
            if done % CHECK_EVERY == 0 or done == steps:
                loss_value = _finite(total.item() / done, "loss", plan)
    seconds = perf_counter() - started
    norms = torch.stack([parameter.detach().norm() for parameter in trainer.model.parameters()])
    _finite(norms.sum().item(), "weights' norm at the end", plan)  # the last step's update is in no loss yet
    rates = [learning_rate(recipe.schedule, plan, step, steps) for step in (0, steps - 1)]
    return {
        "epoch": plan.epoch,
        "phase": plan.phase,
        "data": plan.data,
        "lr_first": rates[0],
        "lr_last": rates[1],
        "steps": steps,
        "replaced": loader.replaced,
        "seconds": seconds,
        "images_per_second": steps * recipe.batch.size / seconds,
        "train/loss": loss_value,
    }


def _finite(value: float, what: str, plan: EpochPlan) -> float:
    if not math.isfinite(value):
        raise TrainingError(
            f"The {what} of epoch {plan.epoch} is {value}. The last checkpoint is from before it. "
            "A smaller schedule.lr, or optim.clip_grad, usually helps."
        )
    return value


def _step(trainer: _Trainer, rate: float) -> None:
    set_learning_rate(trainer.optimizer, rate)
    if trainer.recipe.optim.clip_grad is not None:
        torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), trainer.recipe.optim.clip_grad)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.ema.update(trainer.model)


def _evaluate(trainer: _Trainer, loaders: dict[str, Loader]) -> Row:
    row: Row = {}
    models = (trainer.model, trainer.ema.module)
    for name, loader in loaders.items():
        for prefix, scores in zip(("", "ema_"), score(models, trainer.normalise, loader, trainer.runtime), strict=True):
            row |= {f"val/{name}/{prefix}{key}": value for key, value in scores.as_dict().items() if key != "images"}
    return row


def _save(trainer: _Trainer, out: Path, classes: tuple[str, ...], epoch: int) -> None:
    """The exports first: whoever finds the state finds weights at least as new as it."""
    image = trainer.recipe.image
    export_model(trainer.model, out, classes, image)
    export_model(trainer.ema.module, out / "ema", classes, image)
    save_state(out / STATE, trainer.trainee, epoch)


def _announce(plan: EpochPlan, plans: tuple[EpochPlan, ...], datasets: Datasets) -> None:
    """Say where a phase begins, and what it is trained on."""
    if plan.epoch and plans[plan.epoch - 1].phase == plan.phase:
        return
    phase = [each for each in plans if each.phase == plan.phase]
    before = plans[plan.epoch - 1].data if plan.epoch else None
    change = {None: "start with", plan.data: "go on with"}.get(before, "swap to")
    data = plan.data if plan.shares == phase[-1].shares else f"{plan.data}, by degrees {phase[-1].data}"
    names = dict.fromkeys(name for each in phase for name, _ in each.shares)
    files = "; ".join(datasets.train[name].described for name in names)
    size = f" at {plan.size} pixels" if plan.size else ""
    log.info("phase %d: %s %s (%s)%s, epochs %d to %d", plan.phase, change, data, files, size, plan.epoch, phase[-1].epoch)


def describe_row(row: Row, epochs: int) -> str:
    """One line for people: epoch, data, rates, loss, speed, and top-1 per validation set (EMA in brackets)."""
    rates = f"lr {float(row['lr_first']):.1e} to {float(row['lr_last']):.1e}"
    speed = f"{float(row['images_per_second']):.0f} img/s"
    head = f"epoch {row['epoch']:>3}/{epochs}  {row['data']}  {rates}  loss {float(row['train/loss']):.3f}  {speed}"
    names = [key.removeprefix("val/").removesuffix("/top1") for key in row if key.startswith("val/") and key.endswith("/top1")]
    if row["replaced"]:
        head += f"  {row['replaced']} samples replaced"
    tops = (f"{name} {float(row[f'val/{name}/top1']):.1f} (ema {float(row[f'val/{name}/ema_top1']):.1f})" for name in names)
    return "  | ".join([head, *tops])
