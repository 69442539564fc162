"""The folder of a run: whether a run may start or resume in it, and ``run.json``, which describes the run."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.files import write_json, write_text
from jpegcurr.recipe.loading import dump_recipe, load_recorded
from jpegcurr.recipe.schema import Recipe
from jpegcurr.system import library_versions
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.data.identity import describe_differences, identify

if TYPE_CHECKING:  # a study's folder and --plan read this module without torch
    from jpegcurr.runtime import Runtime
    from jpegcurr.training.data.datasets import Datasets
    from jpegcurr.training.data.loaders import Loaders

log = logging.getLogger("jpegcurr")

STATE = "state.safetensors"
_HEAD = "run.json"
_PACKAGES = ("jpegcurr", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "timm", "torch", "torchvision", "ffcv")
# A resumed run may change these sections: later epochs, evaluation, checkpoints, and the paths of the data. It may also change
# the schedule's horizon, as long as the plans of the epochs already trained stay the same.
_FREE = frozenset({"curriculum", "evaluate", "loader", "tracking", "data", "save"})


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
    if out.exists() and not (out / _HEAD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a run. Choose another folder with --out.")
    return None


def resumed_recipe(recipe: Recipe, out: Path) -> Recipe:
    """Return ``recipe`` as the run in ``out`` resumes with it: validation stays as it began, unless ``recipe`` names the way.

    So a run from before ``image.val_resize`` resumes with the command that started it, and its accuracies remain comparable.
    """
    if not (out / STATE).is_file():
        return recipe
    resumed = recipe.validating_by(load_recorded(out / "recipe.yaml").image.val_resize)
    if resumed.image.val_resize != recipe.image.val_resize:
        log.info("image.val_resize is %s, as when the run began; the recipe does not name it", resumed.image.val_resize)
    return resumed


def _check_same_recipe(recipe: Recipe, out: Path) -> Recipe:
    from jpegcurr.training.checkpoint import epochs_started

    before = load_recorded(out / "recipe.yaml")
    if changes := describe_changes(fixed_part(before), fixed_part(recipe)):
        lines = "".join(f"\n  {change}" for change in changes)
        raise RecipeError(
            f"--resume: the recipe differs from {out / 'recipe.yaml'}; resume with the same, or start a new run.{lines}"
        )
    done = epochs_started(out / STATE)
    if plan_epochs(before)[:done] != plan_epochs(recipe)[:done]:
        raise RecipeError(
            f"--resume: the plan of the {done} epochs already trained differs from {out / 'recipe.yaml'}. "
            "Only later epochs may change. To train for longer, add a phase, and set schedule.horizon=phase: its cosine then "
            "starts again at the end of the last one."
        )
    return before


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


def class_names_known(out: Path) -> bool:
    """Return whether the run in ``out`` was trained on data with class names, not on numbers alone."""
    return bool(_read_head(out)["class_names_known"])


def read_class_names(config: Path) -> list[str]:
    """Return the names of the outputs in a model's ``config.json``; raises UsageError if it cannot be read."""
    try:
        names: list[str] = json.loads(config.read_text(encoding="utf-8"))["label_names"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{config} cannot be read as a model's description ({error!r}). Train the run again.") from None
    return names


def check_same_data(out: Path, datasets: Datasets) -> None:
    """Raise UsageError if a data set of the run in ``out`` now holds other images or labels, or was encoded otherwise."""
    before = _read_head(out)["data"]
    for key, facts in _describe_data(datasets).items():
        if differences := describe_differences(before.get(key, {}), facts):
            raise UsageError(
                f"--resume: {key} ({facts['path']}) is not the data that {out} was trained on so far: "
                f"{'; '.join(differences)}. Encode it as it was, or train anew in another folder: --out."
            )


def write_head(recipe: Recipe, out: Path, datasets: Datasets, loaders: Loaders, runtime: Runtime) -> str:
    """Write ``recipe.yaml`` and ``run.json``; return the run's id, which a resumed run keeps."""
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
        "runtime": runtime.reason,
        "loader": loaders.kind,
        "classes": len(datasets.classes),
        "class_names": list(datasets.classes.names) if datasets.classes.known else None,
        "class_names_known": datasets.classes.known,
        "data": _describe_data(datasets),
    }
    write_json(out / _HEAD, head)
    return run_id


def _read_head(out: Path) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads((out / _HEAD).read_bytes())
        data = {key: facts | {"at_load": _current_names(facts.get("at_load"))} for key, facts in head["data"].items()}
        had_manifest = any(facts.get("keys_sha256") for facts in data.values())
        known = bool(head.get("class_names_known", had_manifest))
        names = head.get("class_names")
        return {"id": head["id"], "data": data, "runtime": head["runtime"], "class_names": names, "class_names_known": known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{out / _HEAD} cannot be read as a run's description ({error!r}). Choose another --out.") from None


def _current_names(at_load: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the facts of an on-the-fly encoding by their current names; version 0.1 wrote ``where`` instead of ``stage``."""
    if at_load is None or "where" not in at_load:
        return at_load
    stages = {"stored": "before_crop", "view": "after_resize"}
    return {name: value for name, value in at_load.items() if name != "where"} | {"stage": stages[at_load["where"]]}


def _describe_data(datasets: Datasets) -> dict[str, dict[str, Any]]:
    """Return the facts that identify the images of every data set, by names such as ``train/clean``."""
    return {
        f"{role}/{name}": identify(dataset)
        for role, split in (("train", datasets.train), ("val", datasets.val))
        for name, dataset in split.items()
    }
