"""The folder of a run: whether a run may start or go on in it, and what it says of itself."""

import json
import logging
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.files import write_json, write_text
from jpegcurr.recipe.loading import dump_recipe, load_recipe
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.system import library_versions
from jpegcurr.training.checkpoint import epochs_begun
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import Datasets
from jpegcurr.training.data.loaders import Loaders

log = logging.getLogger("jpegcurr")

STATE = "state.safetensors"
_HEAD = "run.json"
_PACKAGES = ("jpegcurr", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "timm", "torch", "torchvision", "ffcv")
# What a resumed run may change: the epochs to come, what is evaluated and kept, and how the data is reached; and the schedule's
# horizon, where the plans of what is done stay as they were.
_FREE = frozenset({"curriculum", "evaluate", "loader", "tracking", "data", "save"})


def check_folder(recipe: Recipe, out: Path, *, resume: bool) -> Recipe | None:
    """A new run needs a folder without one, a resumed run the folder of the same recipe, which is returned as it was.

    A run that was stopped before its first checkpoint may be started over. Raises UsageError or RecipeError.
    """
    begun = (out / STATE).is_file()
    if resume and begun:
        return _check_same_recipe(recipe, out)
    if resume:
        raise UsageError(f"--resume: {out} holds no run to go on with. Leave --resume out to start one.")
    if begun:
        raise UsageError(f"{out} exists. Go on with that run with --resume, or choose another folder with --out.")
    if out.exists() and not (out / _HEAD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists and is not a run. Choose another folder with --out.")
    return None


def _check_same_recipe(recipe: Recipe, out: Path) -> Recipe:
    before = load_recipe(out / "recipe.yaml")
    if changes := describe_changes(fixed_part(before), fixed_part(recipe)):
        lines = "".join(f"\n  {change}" for change in changes)
        raise RecipeError(
            f"--resume: the recipe differs from {out / 'recipe.yaml'}; resume with the same, or start anew.{lines}"
        )
    done = epochs_begun(out / STATE)
    if plan_epochs(before)[:done] != plan_epochs(recipe)[:done]:
        raise RecipeError(
            f"--resume: the plan of the {done} epochs already trained differs from {out / 'recipe.yaml'}. "
            "Only epochs to come may change. To train for longer, add a phase, and set schedule.horizon=phase: its cosine then "
            "begins anew at the end of the last one."
        )
    return before


def fixed_part(recipe: Recipe) -> dict[str, Any]:
    """What a resumed run may not change, whatever its epochs to come, as plain values."""
    return recipe.model_dump(mode="json", include=set(Recipe.model_fields) - _FREE, exclude={"schedule": {"horizon"}})


def describe_changes(was: Any, now: Any, where: str = "") -> list[str]:
    """``batch.size was 16, is 32`` for every leaf that differs."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = dict.fromkeys((*was, *now))
        return [line for key in keys for line in describe_changes(was.get(key), now.get(key), f"{where}.{key}".lstrip("."))]
    return [] if was == now else [f"{where} was {was}, is {now}"]


def check_same_data(out: Path, datasets: Datasets) -> None:
    """Raise UsageError if a data set of the run in ``out`` now holds other images or another quality."""
    before = _read_head(out)["data"]
    for key, facts in _describe(datasets).items():
        known = before.get(key, facts)
        if any(known.get(what) != facts[what] for what in ("images", "quality", "at_load", "keys_sha256")):
            raise UsageError(f"--resume: {key} ({facts['path']}) is not the data that {out} was trained on so far.")


def write_head(recipe: Recipe, out: Path, datasets: Datasets, loaders: Loaders, runtime: Runtime) -> str:
    """Write what was asked for and what it was made of; return the run's id, which a resumed run keeps."""
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
        "data": _describe(datasets),
    }
    write_json(out / _HEAD, head)
    return run_id


def _read_head(out: Path) -> dict[str, Any]:
    try:
        head: dict[str, Any] = json.loads((out / _HEAD).read_bytes())
        return {"id": head["id"], "data": head["data"], "runtime": head["runtime"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{out / _HEAD} is not as a run leaves it ({error!r}). Choose another --out.") from None


def _describe(datasets: Datasets) -> dict[str, dict[str, Any]]:
    """``train/clean`` and so on: which file, and what identifies its images."""
    return {
        f"{role}/{name}": {
            "path": str(dataset.beton.path),
            "images": len(dataset.beton),
            "quality": dataset.quality,
            "at_load": dataset.on_the_fly.model_dump(mode="json", exclude={"beton"}) if dataset.on_the_fly else None,
            "keys_sha256": dataset.manifest.keys_sha256 if dataset.manifest else None,
        }
        for role, split in (("train", datasets.train), ("val", datasets.val))
        for name, dataset in split.items()
    }
