"""A run: from a recipe to a folder with a checkpoint."""

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import torch
from safetensors import SafetensorError
from timm.utils import ModelEmaV3, distribute_bn

from jpegcurr.errors import NotFiniteError, RecipeError, Terminated, TrainingError
from jpegcurr.files import write_json
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import ALONE, Runtime, World
from jpegcurr.training.augment.policies import check_policies
from jpegcurr.training.checkpoint import keep_state, load_state, save_state
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data.datasets import Datasets, open_datasets
from jpegcurr.training.data.loaders import Loaders, open_loaders
from jpegcurr.training.data.sampling import Loader
from jpegcurr.training.loop import StepInfo, check_finite, train_epoch
from jpegcurr.training.metrics import score
from jpegcurr.training.models.create import check_model, create_model, export_model, normaliser
from jpegcurr.training.optim import create_optimizer
from jpegcurr.training.run_folder import STATE, check_folder, check_same_data, write_head
from jpegcurr.training.run_log import announce, describe_row, describe_start, warn_of_loading
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.tracking import Metrics, Row, check_trackers, open_trackers

log = logging.getLogger("jpegcurr")

OnStep = Callable[[StepInfo], None]  # called after every optimiser step


def train(
    recipe: Recipe,
    out: Path,
    *,
    runtime: Runtime,
    resume: bool = False,
    save_every: int | None = None,
    until: int | None = None,
    on_step: OnStep = lambda _progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Metrics:
    """Train ``recipe`` into the folder ``out`` and return its metrics.

    ``out`` gets ``recipe.yaml`` (resolved), ``run.json``, ``metrics.jsonl``, ``summary.csv``, the raw weights
    (``config.json``, ``model.safetensors``), ``ema/`` with the averaged ones, ``best/`` with the best so far, and
    ``state.safetensors``, from which ``resume`` goes on, with the last few of these in ``checkpoints/``. The state is written
    after every epoch, after every ``save_every`` steps of one, and after the step in which ``stop`` becomes true. On a CPU a
    resumed run ends in the same weights, bit for bit, as one that never stopped. ``until`` ends it before that epoch, with the
    learning rates of the whole recipe, so that what is left can go on from there.

    Every process of ``runtime.world`` calls this; the first one writes, and its metrics are those that are returned.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not set, or the reverse, or the recipe or the data differ.
        BetonError, RecipeError: the data does not fit the recipe; no run was started.
        TrainingError: the loss is not finite, or a checkpoint cannot be written. The last one is whole.
        Terminated: ``stop`` was true; the checkpoint is of that moment.
    """
    world = runtime.world
    with world.main_process_first():
        before = check_folder(recipe, out, resume=resume)
        check_recipe(recipe, world, start=not resume)
        datasets = open_datasets(recipe)
        if resume:
            check_same_data(out, datasets)
    loaders = open_loaders(recipe, datasets, runtime)
    trainer = _build(recipe, runtime, datasets, loaders, start=not resume)
    position = load_state(out / STATE, trainer) if resume else EpochProgress.at_start(0, runtime)
    plans = plan_epochs(recipe)
    last = len(plans) if until is None else min(until, len(plans))
    describe_start(trainer, loaders, position, before)
    metrics = Metrics(out, before=position.epoch)
    if world.is_main:
        run_id = write_head(recipe, out, datasets, loaders, runtime)
        metrics.trackers = open_trackers(recipe.tracking, out, run_id, recipe.model_dump(mode="json"))

    def after_step(progress: StepInfo) -> None:
        on_step(progress)
        stopped = world.any(stop())
        if progress.step < progress.steps and (stopped or (save_every and progress.step % save_every == 0)):
            check_finite(trainer, progress.plan, position)
            with _saying_what_is_whole(out, progress.plan):
                save_state(out / STATE, trainer, position)
            if stopped:
                raise Terminated("stopped, with a checkpoint of this moment.")

    started, first = perf_counter(), position.epoch
    try:
        for plan in plans[first:last]:
            announce(plan, plans, datasets)
            trainer.ema.decay = recipe.ema.per_step(trainer.steps(plan))
            with _naming_the_checkpoint(out):
                row = train_epoch(trainer, loaders.train, plan, position, after_step)
            row |= _evaluate(trainer, loaders.val)
            position = EpochProgress.at_start(plan.epoch + 1, runtime)
            with _saying_what_is_whole(out, plan):
                _save(trainer, out, datasets.classes, position, metrics, row)
            left = (perf_counter() - started) / (plan.epoch + 1 - first) * (last - plan.epoch - 1)
            log.info(describe_row(row, len(plans), left))
            warn_of_loading(row, loaders)
            if world.any(stop()) and position.epoch < last:
                raise Terminated("stopped, with a checkpoint of this moment.")
    finally:
        metrics.close()
    return metrics


def check_recipe(recipe: Recipe, world: World = ALONE, *, start: bool = False) -> None:
    """Raise UsageError or RecipeError for whatever can be known to be wrong before a file of images is opened.

    ``start`` is whether the weights to start from are needed.
    """
    check_model(recipe.model, start=start)
    check_trackers(recipe.tracking)
    check_policies(recipe)
    try:
        recipe.micro(world.ranks)
    except ValueError as error:
        raise RecipeError(f"{error}. Set a smaller batch.per_device, or start another number of processes.") from None


@contextmanager
def _naming_the_checkpoint(out: Path) -> Iterator[None]:
    try:
        yield
    except NotFiniteError as error:
        state = out / STATE
        known = f"{state} is from before it." if state.is_file() else "There is no checkpoint yet."
        raise NotFiniteError(f"{error} {known}") from None


@contextmanager
def _saying_what_is_whole(out: Path, plan: EpochPlan) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = f"{out}: epoch {plan.epoch} could not be saved: {error}"
        raise TrainingError(f"{what}. What was saved before is whole; make room and go on from there.") from None


def _build(recipe: Recipe, runtime: Runtime, datasets: Datasets, loaders: Loaders, *, start: bool) -> TrainState:
    torch.manual_seed(recipe.seed)
    classes = len(datasets.classes)
    model = runtime.place(create_model(recipe.model, classes, start=start))
    if not runtime.world.is_main:
        torch.manual_seed(recipe.seed + runtime.world.rank)  # each drops other paths
    return TrainState(
        recipe,
        runtime,
        classes,
        images=len(next(iter(datasets.train.values())).beton),
        batches=loaders.batches,
        model=model,
        prepared=runtime.prepare(model),
        normalise=normaliser(model).to(runtime.device),
        ema=ModelEmaV3(model),
        optimizer=create_optimizer(model, recipe.optim),
        scaler=runtime.scaler(),
    )


def _evaluate(trainer: TrainState, loaders: dict[str, Loader]) -> Row:
    row: Row = {}
    models = (trainer.model, trainer.ema.module)
    if trainer.runtime.world.ranks > 1:
        for model in models:
            distribute_bn(
                model, trainer.runtime.world.ranks, reduce=False
            )  # the first process's, which are those that are saved
    for name, loader in loaders.items():
        for prefix, scores in zip(("", "ema_"), score(models, trainer.normalise, loader, trainer.runtime), strict=True):
            row |= {f"val/{name}/{prefix}{key}": value for key, value in scores.as_dict().items() if key != "images"}
    return row


def _save(
    trainer: TrainState, out: Path, classes: tuple[str, ...], position: EpochProgress, metrics: Metrics, row: Row
) -> None:
    """The exports first: whoever finds the state finds weights at least as new as it."""
    if trainer.runtime.world.is_main:
        metrics.record(row)
        image = trainer.recipe.image
        export_model(trainer.model, out, classes, image)
        export_model(trainer.ema.module, out / "ema", classes, image)
        if column := _is_best(trainer.recipe, out, row):
            export_model(trainer.ema.module if "/ema_" in column else trainer.model, out / "best", classes, image)
            write_json(out / "best" / "best.json", {"epoch": row["epoch"], "column": column, "value": row[column]})
    save_state(out / STATE, trainer, position)
    if trainer.runtime.world.is_main:
        keep_state(out / STATE, position.epoch - 1, trainer.recipe.save.last)


def _is_best(recipe: Recipe, out: Path, row: Row) -> str | None:
    """The column by which an epoch is better than the one in ``best/``, if it is."""
    column = recipe.save.best or next(iter(recipe.validation_columns), "")
    value = float(row.get(column, math.nan))
    if not math.isfinite(value):
        return None
    try:
        before = json.loads((out / "best" / "best.json").read_text(encoding="utf-8"))
        known = before["column"] == column and before["epoch"] < row["epoch"]  # not of a future that was given up
        better = value < before["value"] if column.endswith("loss") else value > before["value"]
    except (OSError, ValueError, KeyError, TypeError):
        return column
    return column if better or not known else None
