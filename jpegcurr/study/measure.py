"""Measurement of finished runs: the outcome of every image of every validation set, stored so that runs can be paired."""

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from pydantic import BaseModel, ConfigDict

from jpegcurr.analysis.evaluation.evaluate import evaluate_runs
from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.errors import UsageError
from jpegcurr.files import staged
from jpegcurr.json_files import describe, parse_json
from jpegcurr.recipe.values import TrainedWeights, split_on_the_fly
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import Study
from jpegcurr.training.data.classes import Classes, have_same_labels
from jpegcurr.training.data.datasets import Dataset, Datasets, open_dataset, open_datasets
from jpegcurr.training.data.identity import describe_differences, identify
from jpegcurr.training.models.load import load_run
from jpegcurr.training.run_folder import data_of

WEIGHTS: tuple[TrainedWeights, ...] = ("raw", "ema")
_STORED_TYPES = {"labels": np.int32, "predicted": np.int32, "confidence": np.float32, "top5": np.bool_, "loss": np.float32}
_LOADED_TYPES = {"labels": np.int64, "predicted": np.int64, "confidence": np.float64, "loss": np.float64}


_MOST_BYTES = 1 << 28  # of one column: 64 million images


class _Facts(BaseModel):
    """Where outcomes come from. Facts of other versions are kept."""

    model_config = ConfigDict(extra="allow")

    keys: str | None
    loader: str
    computed: str


def check_data(study: Study, arms: Iterable[str], out: Path) -> None:
    """Open all data of these arms and of the matrix before any task starts, and encode the qualities that are missing.

    Raises:
        BetonError, RecipeError: as ``open_datasets`` does.
        UsageError: a validation set has a class that the training data of an arm lacks; or the targets of two arms give its
            images other truths; or a file is not the one that a run in ``out`` was trained on, or measured on, because
            it was encoded from other images or labels since.
    """
    opened: dict[str, Datasets] = {}
    sharing: dict[str, list[str]] = {}
    for arm in arms:
        recipe = study.recipes[arm]
        inputs = recipe.model_dump_json(include={"data", "batch", "evaluate", "targets"}) + str(recipe.training_sets)
        if inputs not in opened:
            opened[inputs] = open_datasets(recipe)
        sharing.setdefault(inputs, []).append(arm)
    for name, source in study.evaluate.items():
        dataset = open_dataset(split_on_the_fly(source)[0], f"evaluate.{name}")
        judged: dict[str, tuple[Dataset, Classes]] = {}
        for inputs, datasets in opened.items():
            try:
                matched = dataset.match(datasets.classes)
            except UsageError as error:
                raise UsageError(f"evaluate.{name}: {error}") from None
            judged |= dict.fromkeys(sharing[inputs], (matched, datasets.classes))
            for arm in sharing[inputs]:
                _check_outcomes(matched, name, out / "outcomes" / arm)
        if any(classes.targets is not None for _, classes in judged.values()):
            _check_same_truth(judged, name)
    files = {str(dataset.beton.path): dataset for datasets in opened.values() for dataset in datasets.train.values()}
    _check_runs(files, out)


def _check_same_truth(judged: Mapping[str, tuple[Dataset, Classes]], name: str) -> None:
    """Raise UsageError if two arms, by name, count other classes of the validation set ``name`` as right."""
    (control, (first, first_classes)), *others = judged.items()
    for arm, (other, classes) in others:
        pair = (replace(first_classes, targets=None), replace(classes, targets=None))  # labels are numbers of outputs already
        if not have_same_labels(first.labels, pair[0], other.labels, pair[1]):
            raise UsageError(
                f"evaluate.{name}: by their targets, the arms {control} and {arm} count other classes as right, so their "
                "accuracies cannot be compared. Give both the same targets.outputs and largest shares; evaluate --merge "
                "compares runs of other outputs."
            )


def _check_runs(files: Mapping[str, Dataset], out: Path) -> None:
    """Raise UsageError if one of ``files``, by path, is not what a run in ``out`` was trained on."""
    now = {path: identify(dataset) for path, dataset in files.items()}
    for run in sorted(out.glob("*/*/seed-*/run.json")):
        for facts in data_of(run.parent).values():
            differences = describe_differences({**facts, "at_load": None}, {**now.get(facts["path"], facts), "at_load": None})
            if differences:
                raise UsageError(
                    f"{facts['path']} is not the data that {run.parent} was trained on: {'; '.join(differences)}. Arms of "
                    "different data cannot be compared: encode it as it was, or start another study with --out."
                )


def _check_outcomes(dataset: Dataset, name: str, folder: Path) -> None:
    """Raise UsageError if outcomes of an arm, in ``folder``, on the validation set ``name`` are of other labels than now."""
    for path in sorted(path for weights in WEIGHTS for path in folder.glob(f"seed-*/{weights}-{name}.npz")):
        if not np.array_equal(load_outcomes(path)[0].labels, dataset.labels):
            raise UsageError(
                f"{path} was measured on other labels than {dataset.beton.path} has now. Encode it as it was; or delete the "
                f"folder {folder.parent}, and the study measures every run again."
            )


def outcome_path(out: Path, arm: str, seed: int, weights: str, name: str) -> Path:
    """Return the file for the outcomes of a run's ``weights`` on the validation set ``name``."""
    return out / "outcomes" / arm / f"seed-{seed}" / f"{weights}-{name}.npz"


def is_measured(study: Study, arm: str, seed: int, out: Path) -> bool:
    """Return whether raw weights, and averaged ones if the arm has them, were evaluated on every validation set."""
    pairs = [(weights, name) for weights in study.recipes[arm].weights for name in study.evaluate]
    return all(outcome_path(out, arm, seed, *pair).is_file() for pair in pairs)


def measure_run(
    study: Study, arm: str, seed: int, folder: Path, out: Path, runtime: Runtime, check_stop: Callable[[], None]
) -> None:
    """Evaluate the run in ``folder`` on the validation sets that are still missing, and write the outcomes.

    ``check_stop`` is called after every batch. If it raises, the files written so far are whole.

    Raises:
        BetonError: a validation set is missing or damaged.
        UsageError: a validation set has other classes than the run.
    """
    for weights in study.recipes[arm].weights:
        paths = {name: outcome_path(out, arm, seed, weights, name) for name in study.evaluate}
        missing = {name: source for name, source in study.evaluate.items() if not paths[name].is_file()}
        if not missing:
            continue
        run = load_run(folder, runtime, weights, factory=study.recipes[arm].model.factory)
        results = evaluate_runs([run], open_sets([run], missing), runtime, on_images=lambda _count: check_stop())
        for name, result in zip(missing, results, strict=True):
            facts = {"data": str(result.data), "quality": result.quality, "at_load": result.at_load, "keys": result.keys}
            save_outcomes(paths[name], result.outcomes, {**facts, "loader": result.loader, "computed": runtime.reason})


def save_outcomes(path: Path, outcomes: Outcomes, facts: dict[str, Any]) -> None:
    """Write the columns of ``outcomes`` in small types, and ``facts`` about their origin."""
    columns = {name: getattr(outcomes, name).astype(kind) for name, kind in _STORED_TYPES.items()}
    with staged(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, facts=np.array(json.dumps(facts)), **columns)


def load_outcomes(path: Path) -> tuple[Outcomes, dict[str, Any]]:
    """Read what ``save_outcomes`` wrote. Raises UsageError for a file that cannot be read."""
    try:
        with ZipFile(path) as archive:
            largest = max((entry.file_size for entry in archive.infolist()), default=0)
        if largest > _MOST_BYTES:
            raise ValueError(f"it unpacks to {largest} bytes")
        with np.load(path, allow_pickle=False) as file:
            facts = _Facts.model_validate(parse_json(str(file["facts"]).encode())).model_dump()
            columns = {name: file[name] for name in _STORED_TYPES}
        for name, column in columns.items():
            if column.dtype != _STORED_TYPES[name] or column.shape != (len(columns["labels"]),) or not len(column):
                raise ValueError(f"{name} is not a column like the others")
    except (OSError, ValueError, KeyError, TypeError, BadZipFile, zlib.error) as error:
        reason = describe(error) if isinstance(error, ValueError) else str(error)
        raise UsageError(f"{path} cannot be read ({reason}). Delete it, and the study measures that run again.") from None
    return Outcomes(**{name: column.astype(_LOADED_TYPES.get(name, column.dtype)) for name, column in columns.items()}), facts
