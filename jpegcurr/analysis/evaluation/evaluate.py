"""Accuracy of runs on validation sets, as they are stored and at other JPEG qualities, on the same images."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jpegcurr.analysis.evaluation.per_image import Outcomes, observe
from jpegcurr.analysis.stats import Paired, class_accuracy, compare_paired
from jpegcurr.encoding.beton.manifest import read_manifest
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.errors import UsageError
from jpegcurr.files import json_values
from jpegcurr.recipe.schema import OnTheFlyJpeg, Stage, split_on_the_fly
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.classes import Classes, describe_match, have_same_labels
from jpegcurr.training.data.datasets import Dataset, open_dataset
from jpegcurr.training.data.identity import describe_differences, identify
from jpegcurr.training.data.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.data.sampling import EpochSampler
from jpegcurr.training.metrics import Scores
from jpegcurr.training.models.load import Run
from jpegcurr.training.run_folder import data_of

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The outcomes of one run on one beton, as it is stored or encoded again when it is loaded.

    Attributes:
        run, weights: the run's folder and which of its weights.
        data, quality: the beton and its quality, None if the manifest is missing.
        tested: the quality that the model saw, None if it is unknown or not one number.
        at_load: a description of the encoding on the fly, None if there is none.
        loader: the decode path, ``ffcv`` or ``plain``.
        classes, names_known: the run's class names; the numbers of its outputs if the names are not known.
        keys: a fingerprint of the beton's images and their order, None if it is unknown.
        outcomes: one row for each image.
    """

    run: Path
    weights: str
    data: Path
    quality: Quality | None
    tested: Quality | None
    at_load: str | None
    loader: str
    classes: tuple[str, ...]
    names_known: bool
    keys: str | None
    outcomes: Outcomes

    @property
    def class_list(self) -> Classes:
        """The classes of the labels in ``outcomes``."""
        return Classes(self.classes, self.names_known, owner=str(self.run))

    @property
    def scores(self) -> Scores:
        """Top-1, top-5 and loss."""
        return self.outcomes.scores

    def class_accuracy(self) -> dict[str, float]:
        """Return the top-1 of each class, percent, by name; nan for a class without images."""
        shares = class_accuracy(self.outcomes.labels, self.outcomes.right, len(self.classes))
        return dict(zip(self.classes, shares.tolist(), strict=True))

    def class_images(self) -> dict[str, int]:
        """Return the number of images of each class, by name."""
        return dict(zip(self.classes, np.bincount(self.outcomes.labels, minlength=len(self.classes)).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON; the accuracy of a class without images is None."""
        return {
            "run": str(self.run),
            "weights": self.weights,
            "data": str(self.data),
            "quality": self.quality,
            "tested": self.tested,
            "at_load": self.at_load,
            "loader": self.loader,
            **self.scores.as_dict(),
            "ece": self.outcomes.calibration_error,
            "class_images": self.class_images(),
            "class_accuracy": json_values(self.class_accuracy()),
        }


def find_validation_sets(run: Run) -> dict[str, Path | OnTheFlyJpeg]:
    """Return the validation sets that the run was evaluated on while it trained, by name.

    Raises:
        UsageError: there are none, or a beton is missing.
    """
    sets = {name: val for name in run.recipe.evaluate if (val := run.recipe.data[name].val)}
    if not sets:
        raise UsageError(f"{run.path} was trained without validation sets. Name a beton: --data betons/val-source.beton.")
    missing = [path for val in sets.values() if not (path := split_on_the_fly(val)[0]).exists()]
    if missing:
        where = "" if missing[0].is_absolute() else f" in {Path.cwd()}"
        raise UsageError(
            f"{missing[0]}, a validation set of {run.path}, does not exist{where}. Run the command in the folder where the run "
            "was trained, or name another beton: --data val.beton."
        )
    return sets


def find_source_sets(run: Run) -> list[Path]:
    """Return the run's validation sets that hold the original images; raises UsageError if there are none."""
    paths = dict.fromkeys(split_on_the_fly(val)[0] for val in find_validation_sets(run).values())
    sources = [path for path in paths if (manifest := read_manifest(path)) and manifest.quality == "source"]
    if not sources:
        raise UsageError(
            f"No validation set of {run.path} holds the source images, which --qualities needs. Name such a beton: "
            "--data betons/val-source.beton."
        )
    return sources


def choose_sets(
    run: Run, betons: Sequence[Path], qualities: Sequence[Quality] | None, stage: Stage = "before_crop"
) -> dict[str, Path | OnTheFlyJpeg]:
    """Return ``betons``, or the run's own validation sets if empty, by name: as stored, or at every one of ``qualities``.

    Raises as ``find_validation_sets``, ``find_source_sets`` and ``expand_qualities`` do.
    """
    if qualities is not None:
        return expand_qualities(betons or find_source_sets(run), qualities, stage)
    return {str(path): path for path in betons} or find_validation_sets(run)


def expand_qualities(
    betons: Sequence[Path], qualities: Sequence[Quality], stage: Stage = "before_crop"
) -> dict[str, Path | OnTheFlyJpeg]:
    """Return every beton at every quality, by name: ``source`` is the file itself, the others are encoded on the fly.

    Raises:
        BetonError: a manifest cannot be read.
        UsageError: a manifest names another quality than source.
    """
    sets: dict[str, Path | OnTheFlyJpeg] = {}
    for path in betons:
        manifest = read_manifest(path)
        if manifest is not None and manifest.quality != "source":
            raise UsageError(
                f"{path} has quality {manifest.quality}: --qualities would encode it a second time, which gives other images. "
                "Give the beton of the source images, or omit --qualities to evaluate the file as it is."
            )
        for quality in qualities:
            encoded = None if quality == "source" else OnTheFlyJpeg(beton=path, quality=quality, stage=stage)
            sets[f"{path}, {quality}"] = encoded or path
    return sets


def open_sets(runs: Sequence[Run], sets: Mapping[str, Path | OnTheFlyJpeg]) -> list[Dataset]:
    """Open every set, each beton once; log where the classes of a beton and of a run are not the same.

    It is logged, too, if a file that the run was trained or evaluated on while it trained has other images or labels now.

    Raises:
        BetonError: a beton is missing or damaged.
        UsageError: a beton has images of a class that a run lacks.
    """
    opened = {path: open_dataset(path) for path in dict.fromkeys(split_on_the_fly(val)[0] for val in sets.values())}
    for dataset in opened.values():
        for run in runs:
            dataset.match(run.class_list)
            if remark := describe_match(dataset.beton.labels, dataset.classes, run.class_list):
                log.warning("%s", remark)
            if differences := _describe_changes(run, dataset):
                log.warning("%s has changed since %s was trained: %s", dataset.beton.path, run.path, "; ".join(differences))
    parts = (split_on_the_fly(val) for val in sets.values())
    return [replace(opened[path], on_the_fly=on_the_fly) for path, on_the_fly in parts]


def _describe_changes(run: Run, dataset: Dataset) -> list[str]:
    """Return in what a file that the run recorded is another now; nothing for a file that it did not use."""
    recorded = [facts for facts in data_of(run.path).values() if facts["path"] == str(dataset.beton.path)]
    if not recorded:
        return []
    return describe_differences({**recorded[0], "at_load": None}, {**identify(dataset), "at_load": None})


def evaluate_run(
    run: Run, betons: Mapping[str, Path | OnTheFlyJpeg], runtime: Runtime, *, loader: str = "auto"
) -> Iterator[Evaluation]:
    """Yield the evaluation of ``run`` on each beton; see ``open_sets`` and ``evaluate_runs``."""
    return evaluate_runs([run], open_sets([run], betons), runtime, loader=loader)


def evaluate_runs(
    runs: Sequence[Run],
    datasets: Sequence[Dataset],
    runtime: Runtime,
    *,
    loader: str = "auto",
    on_images: Callable[[int], None] | None = None,
) -> Iterator[Evaluation]:
    """Yield the evaluation of each run on each data set, run by run; every image counts once.

    Runs whose images differ in nothing but their normalisation share one pass over a data set, which is then decoded once.

    Args:
        runs: models in evaluation mode.
        datasets: as ``open_sets`` opens them.
        runtime: where to compute, and in which precision.
        loader: the decode path for all runs: ``ffcv``, ``plain``, or ``auto``, which is plain if any run was trained with it.
        on_images: called with the number of further images that are done, counted once for each run.

    Raises:
        RecipeError: the loader asked for is not available.
    """
    kind, _ = choose_kind("plain" if loader == "auto" and any(run.loader == "plain" for run in runs) else loader)
    pending: dict[tuple[int, int], Outcomes] = {}  # by run and data set
    for row, run in enumerate(runs):
        for column, dataset in enumerate(datasets):
            if (row, column) not in pending:
                together = [other for other, candidate in enumerate(runs) if _input_key(candidate) == _input_key(run)]
                variant = dataset.match(run.class_list).variant
                sampler = EpochSampler.of(variant, run.image, batch=run.recipe.micro(), workers=loading_workers())
                models = [(runs[other].model, runs[other].normalise) for other in together]
                outcomes = observe(models, open_loader(kind, sampler, runtime), runtime, on_images)
                pending |= {(other, column): of_run for other, of_run in zip(together, outcomes, strict=True)}
            yield _evaluation(run, dataset, kind, pending.pop((row, column)))


def _input_key(run: Run) -> tuple[object, ...]:
    """Return what has to be equal for two runs to get the same batches, to the bit, with the same labels."""
    image = run.image
    view = image.size, image.interpolation, image.val_crop, image.val_resize
    return *view, run.recipe.micro(), run.classes, run.names_known


def _evaluation(run: Run, dataset: Dataset, kind: str, outcomes: Outcomes) -> Evaluation:
    return Evaluation(
        run=run.path,
        weights=run.weights,
        data=dataset.beton.path,
        quality=dataset.quality,
        tested=tested_quality(dataset),
        at_load=dataset.on_the_fly.describe() if dataset.on_the_fly else None,
        loader=kind,
        classes=run.classes,
        names_known=run.names_known,
        keys=dataset.manifest.keys_sha256 if dataset.manifest else None,
        outcomes=outcomes,
    )


def tested_quality(dataset: Dataset) -> Quality | None:
    """Return the quality that a model sees; None if it is unknown or not one number."""
    if dataset.on_the_fly is None:
        return dataset.quality
    return dataset.on_the_fly.quality if isinstance(dataset.on_the_fly.quality, int) else None


def compare_evaluations(results: Sequence[Evaluation]) -> list[Paired | None]:
    """Compare each evaluation with the first; None for the first itself and for those on other images."""
    first, *others = results
    return [None, *(_compare(first, other) for other in others)]


def _compare(first: Evaluation, other: Evaluation) -> Paired | None:
    same_keys = None in (first.keys, other.keys) or first.keys == other.keys
    if not same_keys or not have_same_labels(first.outcomes.labels, first.class_list, other.outcomes.labels, other.class_list):
        return None
    return compare_paired(first.outcomes.right, other.outcomes.right)


def paired_values(pair: Paired | None) -> dict[str, Any] | None:
    """Return plain values by name, for JSON; None for None."""
    return None if pair is None else {**asdict(pair), "verdict": pair.verdict}
