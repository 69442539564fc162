"""A run: from a recipe to a folder with checkpoints, weights and metrics."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import torch
from pydantic import BaseModel
from safetensors import SafetensorError
from timm.utils import ModelEmaV3, distribute_bn

from jpegcurr.errors import BetonError, NotFiniteError, Terminated, TrainingError, UsageError
from jpegcurr.files import write_json
from jpegcurr.json_files import read_json
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.augment.augment import Augment
from jpegcurr.training.checkpoint import keep_state, load_state, save_state
from jpegcurr.training.checks import check_mixing, check_recipe
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.data.datasets import Datasets, open_datasets, open_weights
from jpegcurr.training.data.iteration import ValLoader
from jpegcurr.training.data.loaders import open_loaders
from jpegcurr.training.flops import Utilisation, peak_flops
from jpegcurr.training.loop import StepInfo, check_finite, train_epoch
from jpegcurr.training.loss import recipe_loss
from jpegcurr.training.metrics import Scores, score
from jpegcurr.training.models.create import create_model, export_model
from jpegcurr.training.models.finite import check_outputs
from jpegcurr.training.models.freeze import freeze
from jpegcurr.training.models.half_precision import kernel_blocks, prepare_for_training
from jpegcurr.training.models.normalisation import normaliser
from jpegcurr.training.optim import create_optimizer
from jpegcurr.training.per_device import fit_per_device
from jpegcurr.training.run_folder import (
    STATE,
    check_folder,
    check_same_data,
    classes_of,
    locked_run,
    remove_leftovers,
    resumed_recipe,
    write_head,
)
from jpegcurr.training.run_log import describe_row, log_phase, log_start, warn_of_loading
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.tracking import Metrics, Row

log = logging.getLogger("jpegcurr")

OnStep = Callable[[StepInfo], None]  # called after every optimiser step
OnEpoch = Callable[[], None]  # called by the main process after every epoch, when its files are written


def train(
    recipe: Recipe,
    out: str | Path,
    *,
    runtime: Runtime | None = None,
    resume: bool = False,
    save_every: int | None = None,
    until: int | None = None,
    on_step: OnStep = lambda _info: None,
    on_epoch: OnEpoch = lambda: None,
    stop: Callable[[], bool] = lambda: False,
) -> Metrics:
    """Train ``recipe`` into the folder ``out``, and return its metrics.

    ``out`` gets ``recipe.yaml`` (resolved), ``run.json``, ``metrics.jsonl``, ``summary.csv``, the raw weights
    (``config.json``, ``model.safetensors``), ``ema/`` with the averaged ones, ``best/`` with the best so far, and the
    checkpoint ``state.safetensors``, which ``resume`` continues from; the last few are kept in ``checkpoints/``. A checkpoint
    is written after every epoch, after every ``save_every`` steps within one, and after the step in which ``stop`` becomes
    true. On a CPU a resumed run ends with the same weights, bit for bit, as one that never stopped. ``until`` ends the run
    before that epoch, at the learning rates of the whole recipe, so that the rest can be resumed.

    Without a ``runtime``, a GPU is used if there is one, and the model compiled for it. Every process of ``runtime.world``
    calls this function; the first one writes, and only its returned metrics are complete.

    Raises:
        UsageError: ``out`` holds a run and ``resume`` is not set, or the reverse, or the recipe or the data differ, or another
            process trains into ``out``.
        BetonError, RecipeError: the data does not fit the recipe; no run was started.
        TrainingError: the loss is not finite, a beton was changed under the run, or a checkpoint cannot be written; the
            previous one is intact.
        Terminated: ``stop`` was true; the checkpoint is of that step.
    """
    out = Path(out)
    runtime = resolve_runtime(compile=None) if runtime is None else runtime
    with locked_run(out) if runtime.world.is_main else nullcontext():
        return _train_locked(recipe, out, runtime, resume, save_every, until, on_step, on_epoch, stop)


def _train_locked(
    recipe: Recipe,
    out: Path,
    runtime: Runtime,
    resume: bool,
    save_every: int | None,
    until: int | None,
    on_step: OnStep,
    on_epoch: OnEpoch,
    stop: Callable[[], bool],
) -> Metrics:
    world = runtime.world
    with world.main_process_first():
        recipe = resumed_recipe(recipe, out) if resume else recipe
        before = check_folder(recipe, out, resume=resume)
        if world.is_main:
            remove_leftovers(out)
        check_recipe(recipe, world.ranks, start=not resume)
        if not resume:  # a run of an earlier version, which did not check this, may continue as it began
            check_mixing(recipe, world.ranks)
        datasets = open_datasets(recipe, classes_of(out) if resume else None)
        if resume:
            check_same_data(out, datasets)
    fitted, remark = fit_per_device(recipe, runtime, len(datasets.classes))
    if remark:
        log.info(remark)
    loaders = open_loaders(fitted, datasets, runtime)
    state = create_state(fitted, runtime, datasets, start=not resume)
    progress = load_state(out / STATE, state) if resume else EpochProgress.at_start(0, runtime)
    plans = plan_epochs(recipe)
    last = len(plans) if until is None else min(until, len(plans))
    log_start(state, datasets, loaders, progress, before)
    metrics = Metrics(out, before=progress.epoch)

    def after_step(info: StepInfo) -> None:
        on_step(info)
        stopped = world.any(stop())
        if info.step < info.steps and (stopped or (save_every and info.step % save_every == 0)):
            check_finite(state, info.plan, progress)
            with _explain_unsaved(out, info.plan):
                save_state(out / STATE, state, progress)
            if stopped:
                raise Terminated("stopped; everything so far is saved.")

    started, first = perf_counter(), progress.epoch
    try:
        if world.is_main:
            run_id = write_head(recipe, out, datasets, loaders, runtime, state)
            metrics.open_trackers(recipe.tracking, run_id, recipe.model_dump(mode="json"))
        for plan in plans[first:last]:
            log_phase(plan, plans, datasets)
            state = _freeze(state, plan)
            if state.ema is not None and recipe.ema is not None:
                state.ema.decay = recipe.ema.per_step(state.steps(plan))
            with _name_the_checkpoint(out, recipe), _explain_uncompiled(runtime):
                row = train_epoch(state, loaders.train, plan, progress, after_step)
                row |= _validate(state, loaders.val) if recipe.evaluates(plan.epoch) else {}
            progress = EpochProgress.at_start(plan.epoch + 1, runtime)
            with _explain_unsaved(out, plan):
                _save_epoch(state, out, datasets.classes.names, progress, metrics, row)
            if world.is_main:
                on_epoch()
            seconds_left = (perf_counter() - started) / (plan.epoch + 1 - first) * (last - plan.epoch - 1)
            log.info(describe_row(row, len(plans), seconds_left))
            warn_of_loading(row, loaders)
            if world.any(stop()) and progress.epoch < last:
                raise Terminated("stopped; everything so far is saved.")
    finally:
        metrics.close()
    return metrics


def create_state(recipe: Recipe, runtime: Runtime, datasets: Datasets, *, start: bool) -> TrainState:
    """Create what a run trains, before its first step, on the runtime's device; with ``start`` from the recipe's checkpoint.

    Raises:
        RecipeError: the model, or what it starts from, does not fit the recipe.
    """
    torch.manual_seed(recipe.seed)
    classes = len(datasets.classes)
    model = runtime.place(create_model(recipe.model, classes, start=start))
    kernel_blocks(model, runtime)  # complains of a model that has none
    normalise = normaliser(model, recipe.image).to(runtime.device)
    if recipe.model.factory is not None:
        check_outputs(model.eval(), normalise, recipe.image.size, classes, recipe.model.factory)
        model.train()
    if not runtime.world.is_main:
        torch.manual_seed(recipe.seed + runtime.world.rank)  # stochastic depth drops other paths in every process
    first = next(iter(datasets.train.values()))
    return TrainState(
        recipe,
        runtime,
        classes,
        images=len(first.beton),
        model=model,
        prepared=prepare_for_training(model, runtime),
        augment=Augment(recipe, classes, normalise),
        loss_of=recipe_loss(recipe, open_weights(recipe, first, datasets.classes)),
        ema=ModelEmaV3(model) if recipe.ema is not None else None,
        optimizer=create_optimizer(model, recipe.optim),
        scaler=runtime.scaler(),
        utilisation=Utilisation(model, peak_flops(runtime.name, runtime.dtype)),
    )


def _freeze(state: TrainState, plan: EpochPlan) -> TrainState:
    """Freeze or thaw the model as ``plan`` has it; processes that train together then agree anew on the gradients."""
    if not state.recipe.model.freeze_until or not freeze(state.model, frozen=state.recipe.freezes(plan.epoch)):
        return state
    return replace(state, prepared=prepare_for_training(state.model, state.runtime))


def _validate(state: TrainState, loaders: dict[str, ValLoader]) -> Row:
    """Return the metrics of the raw and the averaged weights on every validation set, by column name."""
    row: Row = {}
    models, ranks = state.models, state.runtime.world.ranks

    def scores_of(loader: ValLoader) -> list[Scores]:
        return score([*models.values()], state.normalise, loader, state.runtime, state.recipe.optim.loss)

    if ranks > 1:
        for model in models.values():
            distribute_bn(model, ranks, reduce=False)  # the first process's statistics, which are the ones that are saved
    for name, loader in loaders.items():
        for weights, scores in zip(models, scores_of(loader), strict=True):
            prefix = "ema_" if weights == "ema" else ""
            row |= {f"val/{name}/{prefix}{key}": value for key, value in scores.as_dict().items() if key != "images"}
    return row


def _save_epoch(
    state: TrainState, out: Path, classes: tuple[str, ...], progress: EpochProgress, metrics: Metrics, row: Row
) -> None:
    """Write an epoch's metrics, weights and checkpoint; the checkpoint last, so that the weights are never older than it."""
    if state.runtime.world.is_main:
        metrics.record(row)
        image, models = state.recipe.image, state.models
        factory = state.recipe.model.factory
        for weights, model in models.items():
            export_model(model, out if weights == "raw" else out / weights, classes, image, factory)
        if column := _best_column(state.recipe, out, row):
            export_model(models["ema" if "/ema_" in column else "raw"], out / "best", classes, image, factory)
            write_json(out / "best" / "best.json", {"epoch": row["epoch"], "column": column, "value": row[column]})
    save_state(out / STATE, state, progress)
    if state.runtime.world.is_main:
        keep_state(out / STATE, progress.epoch - 1, state.recipe.save.last)


class _Best(BaseModel):
    """The content of ``best.json``: the epoch, and the value of the column that it goes by."""

    epoch: int
    column: str
    value: float


def _best_column(recipe: Recipe, out: Path, row: Row) -> str | None:
    """Return the column that ``best/`` goes by if this epoch is better than the one there, else None."""
    column = recipe.save.best or next(iter(recipe.validation_columns), "")
    value = float(row.get(column, math.nan))
    if not math.isfinite(value):
        return None
    try:
        before = read_json(out / "best" / "best.json", _Best, complaint="cannot be read", remedy="")
    except UsageError:
        return column
    comparable = before.column == column and before.epoch < int(row["epoch"])  # not of epochs before which the run was set back
    better = value < before.value if column.endswith("loss") else value > before.value
    return column if better or not comparable else None


@contextmanager
def _name_the_checkpoint(out: Path, recipe: Recipe) -> Iterator[None]:
    """Add how the run can continue, if it can, when a number is not finite or a beton was changed under the run."""
    try:
        yield
    except NotFiniteError as error:
        if not (out / STATE).is_file():
            raise NotFiniteError(f"{error} There is no checkpoint yet: start again in the same folder.") from None
        how = ": --resume --set optim.on_nan=skip continues from there" if recipe.optim.on_nan == "raise" else ""
        raise NotFiniteError(f"{error} {out / STATE} is from before it{how}.") from None
    except BetonError as error:
        there = f"{out / STATE} is from before it and can be resumed with --resume once the file is whole."
        raise TrainingError(f"{error} {there if (out / STATE).is_file() else 'There is no checkpoint yet.'}") from None


@contextmanager
def _explain_uncompiled(runtime: Runtime) -> Iterator[None]:
    """Turn an error of torch.compile, or of kernels of our own, into a TrainingError that says how to do without it."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor", "triton")):
            raise
        reason = next(filter(None, str(error).splitlines()), type(error).__name__)
        if runtime.kernels:
            raise TrainingError(f"A kernel could not be compiled or started: {reason} Omit --kernels.") from error
        raise TrainingError(f"torch.compile failed: {reason} Train without it: --no-compile.") from error


@contextmanager
def _explain_unsaved(out: Path, plan: EpochPlan) -> Iterator[None]:
    """Turn a failure to write into a TrainingError that says what is still intact."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        again = "with --resume from the last checkpoint" if (out / STATE).is_file() else "from the start"
        raise TrainingError(
            f"{out}: epoch {plan.epoch} could not be saved: {error}. Earlier files are intact. Free some space if the disk is "
            f"full, and train again {again}."
        ) from None
