"""A run: from a recipe to a folder with a checkpoint."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from timm.utils import ModelEmaV3

from jpegcurr.errors import Terminated, TrainingError
from jpegcurr.recipe import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.tracking import Metrics, Row, check_trackers, open_trackers
from jpegcurr.training.checkpoint import load_state, save_state
from jpegcurr.training.contract import Loader
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.datasets import Datasets, open_datasets
from jpegcurr.training.epoch import Position, Trainer, policy_of, train_epoch
from jpegcurr.training.loaders import Loaders, open_loaders
from jpegcurr.training.model import check_model, create_model, export_model, normaliser
from jpegcurr.training.optim import create_optimizer
from jpegcurr.training.run_folder import STATE, check_folder, check_same_data, write_head
from jpegcurr.training.score import score

log = logging.getLogger("jpegcurr")

# Called after every optimiser step with the plan of the epoch, the steps done in it and the steps it has.
OnStep = Callable[[EpochPlan, int, int], None]


def train(
    recipe: Recipe,
    out: Path,
    *,
    runtime: Runtime,
    resume: bool = False,
    save_every: int | None = None,
    on_step: OnStep = lambda _plan, _done, _steps: None,
    stop: Callable[[], bool] = lambda: False,
) -> Metrics:
    """Train ``recipe`` into the folder ``out`` and return its metrics.

    ``out`` gets ``recipe.yaml`` (resolved), ``run.json``, ``metrics.jsonl``, ``summary.csv``, the raw weights
    (``config.json``, ``model.safetensors``), ``ema/`` with the averaged ones, and ``state.safetensors``, from which
    ``resume`` goes on. That is written after every epoch, after every ``save_every`` steps of one, and after the step in which
    ``stop`` becomes true. On a CPU a resumed run ends in the same weights, bit for bit, as one that never stopped.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not set, or the reverse, or the recipe or the data differ.
        BetonError, RecipeError: the data does not fit the recipe; no run was started.
        TrainingError: the loss is not finite, or a checkpoint cannot be written. The last one is whole.
        Terminated: ``stop`` was true; the checkpoint is of that moment.
    """
    check_folder(recipe, out, resume=resume)
    check_model(recipe.model, start=not resume)
    check_trackers(recipe.tracking)
    for plan in plan_epochs(recipe):
        policy_of(plan.augment, recipe.image.interpolation)
    datasets = open_datasets(recipe)
    if resume:
        check_same_data(out, datasets)
    loaders = open_loaders(recipe, datasets, runtime)
    log.info(runtime.reason)
    for reason in loaders.reasons:
        log.info(reason)
    trainer = _build(recipe, runtime, len(datasets.classes), loaders, start=not resume)
    position = load_state(out / STATE, trainer) if resume else Position.at_start(0, runtime)
    plans = plan_epochs(recipe)
    run_id = write_head(recipe, out, datasets, loaders, runtime)
    trackers = open_trackers(recipe.tracking, out, run_id, recipe.model_dump(mode="json"))
    metrics = Metrics(out, trackers, before=position.epoch)
    if resume:
        within = f", after step {position.step} of {trainer.steps}" if position.step else ""
        log.info("resuming at epoch %d of %d%s", position.epoch, len(plans), within)

    def after_step(plan: EpochPlan, at: Position) -> None:
        on_step(plan, at.step, trainer.steps)
        stopped = stop()
        if at.step < trainer.steps and (stopped or (save_every and at.step % save_every == 0)):
            with _saying_what_is_whole(out, plan):
                save_state(out / STATE, trainer, at)
            if stopped:
                raise Terminated("stopped, with a checkpoint of this moment.")

    try:
        for plan in plans[position.epoch :]:
            _announce(plan, plans, datasets)
            row = train_epoch(trainer, loaders.train, plan, position, partial(after_step, plan))
            row |= _evaluate(trainer, loaders.val)
            position = Position.at_start(plan.epoch + 1, runtime)
            with _saying_what_is_whole(out, plan):
                metrics.record(row)
                _save(trainer, out, datasets.classes, position)
            log.info(describe_row(row, len(plans)))
            if stop() and position.epoch < len(plans):
                raise Terminated("stopped, with a checkpoint of this moment.")
    finally:
        metrics.close()
    return metrics


@contextmanager
def _saying_what_is_whole(out: Path, plan: EpochPlan) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = f"{out}: epoch {plan.epoch} could not be saved: {error}"
        raise TrainingError(f"{what}. What was saved before is whole; make room and go on from there.") from None


def _build(recipe: Recipe, runtime: Runtime, classes: int, loaders: Loaders, *, start: bool) -> Trainer:
    torch.manual_seed(recipe.seed)
    model = runtime.place(create_model(recipe.model, classes, start=start))
    normalise = normaliser(model).to(runtime.device)
    steps = len(loaders.train) // (recipe.batch.size // recipe.batch.micro)
    ema = ModelEmaV3(model, decay=recipe.ema.per_step(steps))
    optimizer = create_optimizer(model, recipe.optim)
    return Trainer(recipe, runtime, classes, steps, loaders.batches, model, normalise, ema, optimizer)


def _evaluate(trainer: Trainer, loaders: dict[str, Loader]) -> Row:
    row: Row = {}
    models = (trainer.model, trainer.ema.module)
    for name, loader in loaders.items():
        for prefix, scores in zip(("", "ema_"), score(models, trainer.normalise, loader, trainer.runtime), strict=True):
            row |= {f"val/{name}/{prefix}{key}": value for key, value in scores.as_dict().items() if key != "images"}
    return row


def _save(trainer: Trainer, out: Path, classes: tuple[str, ...], position: Position) -> None:
    """The exports first: whoever finds the state finds weights at least as new as it."""
    image = trainer.recipe.image
    export_model(trainer.model, out, classes, image)
    export_model(trainer.ema.module, out / "ema", classes, image)
    save_state(out / STATE, trainer, position)


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
    if row["skipped"]:
        head += f"  {row['skipped']} steps skipped"
    tops = (f"{name} {float(row[f'val/{name}/top1']):.1f} (ema {float(row[f'val/{name}/ema_top1']):.1f})" for name in names)
    return "  | ".join([head, *tops])
