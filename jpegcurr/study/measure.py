"""What a finished run makes of every image of every validation set, kept one by one, so that runs can be paired later."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.analysis.evaluation.evaluate import evaluate_runs, open_sets
from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.errors import UsageError
from jpegcurr.files import staged
from jpegcurr.recipe.schema import split_on_the_fly
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import Study, StudyWeights
from jpegcurr.training.data.datasets import Datasets, open_dataset, open_datasets
from jpegcurr.training.models.load import load_run

WEIGHTS: tuple[StudyWeights, ...] = ("raw", "ema")
_TYPES = {"labels": np.int32, "predicted": np.int32, "confidence": np.float32, "top5": np.bool_, "loss": np.float32}


def check_data(study: Study, arms: Iterable[str]) -> None:
    """Open all that these arms train on and are measured on, and make what is missing, before any of them is started.

    Raises:
        BetonError, RecipeError: as ``open_datasets`` does.
        UsageError: a validation set has other classes than what an arm trains on.
    """
    opened: dict[str, Datasets] = {}
    for arm in arms:
        recipe = study.recipes[arm]
        used = recipe.model_dump_json(include={"data", "batch", "evaluate"}) + str(recipe.trained)
        if used not in opened:
            opened[used] = open_datasets(recipe)
    for name, used_set in study.evaluate.items():
        dataset = open_dataset(split_on_the_fly(used_set)[0], f"evaluate.{name}")
        for datasets in opened.values():
            if not dataset.fits(datasets.classes, named=next(iter(datasets.train.values())).manifest is not None):
                raise UsageError(f"evaluate.{name}: {dataset.beton.path} has other classes than what the arms train on.")


def outcome_path(out: Path, arm: str, seed: int, weights: str, name: str) -> Path:
    """Where the outcomes of a run's weights on a set are kept."""
    return out / "outcomes" / arm / f"seed-{seed}" / f"{weights}-{name}.npz"


def is_measured(study: Study, arm: str, seed: int, out: Path) -> bool:
    """Whether raw and averaged weights were put through every set."""
    return all(outcome_path(out, arm, seed, weights, name).is_file() for weights in WEIGHTS for name in study.evaluate)


def measure_run(
    study: Study, arm: str, seed: int, folder: Path, out: Path, runtime: Runtime, stopped: Callable[[], None]
) -> None:
    """Write the outcomes of the run in ``folder`` on the sets that it was not measured on yet.

    ``stopped`` is called after every batch; what it raises ends this, and what is written is whole.

    Raises:
        BetonError: a validation set is missing or damaged.
        UsageError: it has other classes than the run.
    """
    for weights in WEIGHTS:
        paths = {name: outcome_path(out, arm, seed, weights, name) for name in study.evaluate}
        left = {name: used for name, used in study.evaluate.items() if not paths[name].is_file()}
        if not left:
            continue
        run = load_run(folder, runtime, weights)
        results = evaluate_runs([run], open_sets([run], left), runtime, on_images=lambda _count: stopped())
        for name, each in zip(left, results, strict=True):
            facts = {"data": str(each.data), "quality": each.quality, "at_load": each.at_load, "keys": each.keys}
            save_outcomes(paths[name], each.outcomes, {**facts, "loader": each.loader, "computed": runtime.reason})


def save_outcomes(path: Path, outcomes: Outcomes, facts: dict[str, Any]) -> None:
    """Write the columns, in types that hold them, and ``facts`` about where they are from."""
    columns = {name: getattr(outcomes, name).astype(kind) for name, kind in _TYPES.items()}
    with staged(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, facts=np.array(json.dumps(facts)), **columns)


def load_outcomes(path: Path) -> tuple[Outcomes, dict[str, Any]]:
    """Read what ``save_outcomes`` wrote. Raises UsageError for a file that is not that."""
    try:
        with np.load(path, allow_pickle=False) as file:
            facts: dict[str, Any] = json.loads(str(file["facts"]))
            columns = {name: file[name] for name in _TYPES}
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Remove it: the study measures that run again.") from None
    wide = {"labels": np.int64, "predicted": np.int64, "confidence": np.float64, "loss": np.float64}
    return Outcomes(**{name: column.astype(wide.get(name, column.dtype)) for name, column in columns.items()}), facts
