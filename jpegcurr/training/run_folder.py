"""The folder of a run: its lock, whether a run may start or resume in it, and ``run.json``, which describes the run."""

from __future__ import annotations

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.files import locked, refuse_unwritable, write_json, write_text
from jpegcurr.recipe.former import keep_former
from jpegcurr.recipe.loading import dump_recipe, load_resolved, read_tree
from jpegcurr.recipe.schema import Recipe, ScheduleSection
from jpegcurr.recipe.values import Ramp, split_on_the_fly
from jpegcurr.system import library_versions, source_commit
from jpegcurr.training.curriculum import EpochPlan, plan_difference, plan_epochs
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.data.identity import describe_differences, identify
from jpegcurr.training.run_head import HEAD as _HEAD
from jpegcurr.training.run_head import LOCK, read_class_names, read_head
from jpegcurr.training.schedule import learning_rate

if TYPE_CHECKING:  # a study's folder and --plan read this module without torch
    from jpegcurr.runtime import Runtime
    from jpegcurr.training.data.datasets import Datasets
    from jpegcurr.training.data.loaders import Loaders
    from jpegcurr.training.state import TrainState

log = logging.getLogger("jpegcurr")

STATE = "state.safetensors"
_PACKAGES = ("jpegcurr", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "timm", "torch", "torchvision", "ffcv")
# A resumed run may change these sections: later epochs, evaluation, checkpoints, and the paths of the data. It may also change
# the schedule's horizon, as long as the plans of the epochs already trained stay the same.
_FREE = frozenset({"curriculum", "evaluate", "evaluate_every", "loader", "tracking", "data", "save"})
# The files that a run writes under a hidden name first: of ``files.staged``, of ``export_model``, and of safetensors itself.
_PARTIAL = re.compile(
    r"\.(recipe\.yaml|board\.html|(run|wandb|best|config)\.json|metrics\.jsonl|summary\.csv|(state|model|epoch-\d+)\.safetensors)\.partial"
)
_EXPORT, _TENSORS = re.compile(r"\.export-\w{8}"), re.compile(r"\.tmp\w{6}")
_mine: ContextVar[frozenset[Path]] = ContextVar("run folders whose locks this call holds", default=frozenset())


@contextmanager
def locked_run(out: Path) -> Iterator[None]:
    """Hold the lock of the run folder ``out`` during the block; within it, further calls for ``out`` hold it already.

    Of the processes that train together, the main one alone calls this. It is a lock for writers: readers need none.

    Raises:
        UsageError: another process trains into ``out``, or ``out`` cannot be written to.
    """
    folder = out.resolve()
    if folder in _mine.get():
        yield
        return
    refuse_unwritable([out], option="--out")
    with locked(out / LOCK, out, doing="trained", option="--out"):
        token = _mine.set(_mine.get() | {folder})
        try:
            yield
        finally:
            _mine.reset(token)


def remove_leftovers(out: Path) -> None:
    """Remove the unfinished files that a killed run has left in ``out``, if that is a run; the caller must hold its lock."""
    if not (out / _HEAD).is_file():
        return
    for folder in (out, out / "ema", out / "best", out / "checkpoints"):
        for path in folder.glob(".*"):
            if path.is_dir() and not path.is_symlink() and _EXPORT.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_file() and (_PARTIAL.fullmatch(path.name) or (_TENSORS.fullmatch(path.name) and _holds_tensors(path))):
                with suppress(OSError):
                    path.unlink()


def _holds_tensors(path: Path) -> bool:
    """Return whether a file is the beginning of a safetensors file: a length of 8 bytes, then JSON; or is empty."""
    with suppress(OSError), path.open("rb") as file:
        return file.read(10)[8:] in (b"", b'{"', b"\0\0")
    return False


def check_folder(recipe: Recipe, out: Path, *, resume: bool) -> Recipe | None:
    """Check that ``recipe`` may start or resume in ``out``; return the recipe that a resumed run had before, else None.

    A new run needs a folder without a run; a run that stopped before its first checkpoint may be started over. A resumed run
    needs the folder of the same recipe.

    Raises:
        UsageError: the folder holds a run and ``resume`` is not set, or the reverse.
        RecipeError: the recipe differs in a part that a resumed run may not change.
    """
    started = (out / STATE).is_file()
    if resume and started:
        return _check_same_recipe(recipe, out)
    if resume:
        raise UsageError(f"--resume: {out} holds no run to resume. Omit --resume to start one.")
    if started:
        raise UsageError(f"{out} exists. Resume that run with --resume, or choose another folder with --out.")
    if out.exists() and not (out / _HEAD).is_file() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
        raise UsageError(f"{out} exists and is not a run. Choose another folder with --out.")
    return None


def resumed_recipe(recipe: Recipe, out: Path) -> Recipe:
    """Return ``recipe`` as the run in ``out`` resumes it: what ``recipe`` does not set itself stays as the run was started.

    These are fields that an earlier version did not have, and values that follow from a run's length, batch and start. The log
    names them. So the command that started the run resumes it, any number of times.
    """
    if not (out / STATE).is_file():
        return recipe
    kept, fields = keep_former(recipe, read_tree(out / "recipe.yaml"))
    if fields:
        log.info("%s keeps what it was started with: %s", out, ", ".join(fields))
    return kept


def _check_same_recipe(recipe: Recipe, out: Path) -> Recipe:
    from jpegcurr.training.checkpoint import epochs_started

    before = load_resolved(out / "recipe.yaml")
    was, now = fixed_part(before), fixed_part(recipe)
    was["optim"]["on_nan"] = now["optim"]["on_nan"]  # what to do with a step that is not finite may be decided when one comes
    if changes := describe_changes(was, now):
        lines = "".join(f"\n  {change}" for change in changes)
        raise RecipeError(
            f"--resume: the recipe differs from {out / 'recipe.yaml'}; resume with that one (--recipe), or start a new "
            f"run.{lines}"
        )
    _check_trained_epochs(before, recipe, out, epochs_started(out / STATE))
    return before


def _check_trained_epochs(before: Recipe, recipe: Recipe, out: Path, done: int) -> None:
    """Raise RecipeError if ``recipe`` would train one of the ``done`` epochs otherwise than ``before`` did."""
    if recipe.epochs < done:
        raise RecipeError(
            f"--resume: the recipe ends at epoch {recipe.epochs}, but {done} epochs of {out} are trained already. Let its last "
            f"phase end at epoch {done} or later."
        )
    difference = _first_difference(before, recipe, done)
    if difference is None:
        return
    was, now = difference
    trained = f"--resume: epoch {was.epoch} of {out} is trained already"
    if _same_rates(recipe.schedule, was, now):
        what = plan_difference(was, replace(now, horizon=was.horizon)) if _other_data(was, now) else "its ramp would be another"
        raise RecipeError(f"{trained}, and {what}. To train for longer, {_keep_phase(before, out, was, now)}.")
    horizon = before.epochs if before.schedule.horizon == "whole" else before.schedule.horizon
    same_horizon = recipe.model_copy(update={"schedule": recipe.schedule.model_copy(update={"horizon": horizon})})
    remaining = _first_difference(before, same_horizon, done)
    also = f", {_keep_phase(before, out, *remaining)}" if remaining else ""
    raise RecipeError(
        f"{trained}, on a cosine to epoch {was.horizon}, which would now end at epoch {now.horizon}. To train for longer, set "
        f"schedule.horizon={horizon}{also}: later epochs then have a cosine of their own."
    )


def _keep_phase(before: Recipe, out: Path, was: EpochPlan, now: EpochPlan) -> str:
    """Return what to do about an epoch that is trained and whose plan differs in more than its rates."""
    if _other_data(was, now):
        return f"give the epochs that are trained as in {out / 'recipe.yaml'}, and change or add phases after them"
    return f"let curriculum.{was.phase} end at epoch {before.curriculum[was.phase].until_epoch} as before, and add a phase"


def _first_difference(before: Recipe, recipe: Recipe, done: int) -> tuple[EpochPlan, EpochPlan] | None:
    """Return the plans, before and now, of the first of ``done`` epochs that would be trained otherwise."""
    for was, now in zip(plan_epochs(before)[:done], plan_epochs(recipe)[:done], strict=True):
        other_ramp = was.progress != now.progress and _ramps_quality(recipe, now)
        if other_ramp or _other_data(was, now) or not _same_rates(recipe.schedule, was, now):
            return was, now
    return None


def _other_data(was: EpochPlan, now: EpochPlan) -> bool:
    """Return whether two plans of one epoch differ in more than where their cosine and their ramps end."""
    return was != replace(now, horizon=was.horizon, progress=was.progress)


def _same_rates(schedule: ScheduleSection, was: EpochPlan, now: EpochPlan) -> bool:
    """Return whether two plans of one epoch that differ in their horizon alone have the same learning rates."""
    return all(learning_rate(schedule, was, step, 100) == learning_rate(schedule, now, step, 100) for step in (0, 99))


def _ramps_quality(recipe: Recipe, plan: EpochPlan) -> bool:
    """Return whether a quality on the fly depends on the progress of ``plan``."""
    train = (split_on_the_fly(recipe.data[name].train)[1] for name, _ in plan.shares)
    return any(jpeg is not None and isinstance(jpeg.quality, Ramp) for jpeg in train)


def fixed_part(recipe: Recipe) -> dict[str, Any]:
    """Return the part of a recipe that a resumed run may not change, as plain values."""
    return recipe.model_dump(mode="json", include=set(Recipe.model_fields) - _FREE, exclude={"schedule": {"horizon"}})


def describe_changes(was: Any, now: Any, where: str = "") -> list[str]:
    """Return a line such as ``batch.size was 16, is 32`` for every value that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = dict.fromkeys((*was, *now))
        return [line for key in keys for line in describe_changes(was.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    return [] if was == now else [f"{where} was {was}, is {now}"]


def classes_of(out: Path) -> Classes | None:
    """Return the classes that the run in ``out`` has; None if it has not recorded any, as before its first epoch.

    Runs of version 0.1 have their names in ``config.json`` alone; they are known if the training data had a manifest.
    """
    head = _read_head(out)
    names, config = head["class_names"], out / "config.json"
    if names is None and not config.is_file():
        return None
    return Classes(tuple(names or read_class_names(config)), head["class_names_known"], owner=str(out))


def data_of(out: Path) -> dict[str, dict[str, Any]]:
    """Return the facts that the run in ``out`` recorded about its data sets; see ``identity.identify``."""
    data: dict[str, dict[str, Any]] = _read_head(out)["data"]
    return data


def check_same_data(out: Path, datasets: Datasets) -> None:
    """Raise UsageError if a data set of the run in ``out`` now holds other images or labels, or was encoded otherwise."""
    before = _read_head(out)["data"]
    for key, facts in _describe_data(datasets).items():
        if differences := describe_differences(before.get(key, {}), facts):
            raise UsageError(
                f"--resume: {key} ({facts['path']}) is not the data that {out} was trained on so far: "
                f"{'; '.join(differences)}. Encode it as it was, or train anew in another folder: --out."
            )


def write_head(recipe: Recipe, out: Path, datasets: Datasets, loaders: Loaders, runtime: Runtime, state: TrainState) -> str:
    """Write ``recipe.yaml`` and ``run.json``; return the run's id, which a resumed run keeps."""
    from jpegcurr.training.models.half_precision import kernel_blocks  # imports torch

    out.mkdir(parents=True, exist_ok=True)
    before = _read_head(out) if (out / _HEAD).is_file() else {}
    run_id = before.get("id") or uuid4().hex[:12]
    if before.get("runtime", runtime.reason) != runtime.reason:
        log.info("computed so far: %s", before["runtime"])
    write_text(out / "recipe.yaml", dump_recipe(recipe))
    head = {
        "schema_version": 1,
        "id": run_id,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": sys.version.split()[0],
        "versions": library_versions(_PACKAGES),
        "commit": source_commit(),
        "runtime": runtime.reason,
        "kernel_blocks": kernel_blocks(state.model, runtime),
        "per_device": state.micro,
        "loader": loaders.kind,
        "factory_sha256": _factory_sha256(recipe),
        "normalisation": {"mean": state.normalise.levels, "std": state.normalise.deviations},
        "classes": len(datasets.classes),
        "class_names": list(datasets.classes.names) if datasets.classes.known else None,
        "class_names_known": datasets.classes.known,
        "data": _describe_data(datasets),
    }
    write_json(out / _HEAD, head)
    return run_id


def _factory_sha256(recipe: Recipe) -> str | None:
    """Return the checksum of the user's own code of the network, if the recipe names any."""
    if recipe.model.factory is None:
        return None
    from jpegcurr.training.models.factory import source_sha256  # which imports torch, and plans need none

    return source_sha256(recipe.model.factory)


def _read_head(out: Path) -> dict[str, Any]:
    head = read_head(out, "Choose another --out.")
    data = {key: facts.model_dump(exclude_unset=True) for key, facts in head.data.items()}
    data = {key: facts | {"at_load": _current_names(facts.get("at_load"))} for key, facts in data.items()}
    return {
        "id": head.id,
        "data": data,
        "runtime": head.runtime,
        "class_names": head.class_names,
        "class_names_known": head.names_known,
    }


def _current_names(at_load: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the facts of an on-the-fly encoding by their current names; version 0.1 wrote ``where`` instead of ``stage``."""
    if at_load is None or "where" not in at_load:
        return at_load
    stages = {"stored": "before_crop", "view": "after_resize"}
    return {name: value for name, value in at_load.items() if name != "where"} | {"stage": stages.get(str(at_load["where"]))}


def _describe_data(datasets: Datasets) -> dict[str, dict[str, Any]]:
    """Return the facts that identify the images of every data set, by names such as ``train/clean``."""
    return {
        f"{role}/{name}": identify(dataset)
        for role, split in (("train", datasets.train), ("val", datasets.val))
        for name, dataset in split.items()
    }
