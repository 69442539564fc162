"""The sets that an evaluation is on: a run's own or others, as they are stored and at other qualities, each opened once."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from jpegcurr.analysis.evaluation.facts import describe_changes
from jpegcurr.analysis.evaluation.image_set import open_images
from jpegcurr.analysis.evaluation.merge import Merge
from jpegcurr.analysis.evaluation.qualities import EvaluationSet
from jpegcurr.encoding.beton.manifest import read_manifest, refuse_second_encode
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.errors import UsageError
from jpegcurr.recipe.values import OnTheFlyJpeg, Stage, split_on_the_fly
from jpegcurr.training.data.classes import Classes, describe_match
from jpegcurr.training.data.datasets import Dataset, open_dataset
from jpegcurr.training.models.classifier import Classifier, Run

log = logging.getLogger("jpegcurr")

BETON = ".beton"


def judged_classes(run: Classifier, merge: Merge | None) -> Classes:
    """Return the classes that a run is judged by."""
    return run.class_list if merge is None else merge.apply(run.class_list)


def find_validation_sets(run: Classifier) -> dict[str, Path | OnTheFlyJpeg]:
    """Return the validation sets that the run was evaluated on while it trained, by name.

    Raises:
        UsageError: there are none, or a beton is missing.
    """
    if not isinstance(run, Run):
        raise UsageError(
            f"{run.path} is no run, so it has no validation sets of its own. Name a beton: --data betons/val-source.beton."
        )
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


def find_source_sets(run: Classifier) -> list[Path]:
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
    run: Classifier, betons: Sequence[Path], qualities: Sequence[Quality] | None, stage: Stage = "before_crop"
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
        if manifest is not None:
            refuse_second_encode(path, manifest, "--qualities")
        for quality in qualities:
            encoded = None if quality == "source" else OnTheFlyJpeg(beton=path, quality=quality, stage=stage)
            sets[f"{path}, {quality}"] = encoded or path
    return sets


def open_sets(
    runs: Sequence[Classifier],
    sets: Mapping[str, Path | OnTheFlyJpeg],
    labels: Path | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    merge: Merge | None = None,
) -> list[EvaluationSet]:
    """Open every set, each file once: a ``.beton``, or images as ``encode`` takes them, with a table of ``labels`` if need be.

    Images of more than ``max_pixels`` are not read; those of a ``.beton`` were allowed when they were encoded.
    It is logged where the classes of a set and of a run are not the same, and if a file that the run was trained or evaluated
    on while it trained has other images or labels now. ``merge`` is what ``evaluate_runs`` gets.

    Raises:
        BetonError: a beton is missing or damaged.
        SourceError: images cannot be read as a labelled data set.
        UsageError: a set has images of a class that a run lacks.
    """
    paths = dict.fromkeys(split_on_the_fly(val)[0] for val in sets.values())
    if labels is not None and all(path.suffix == BETON for path in paths):
        raise UsageError(f"--labels {labels} is for images; a {BETON} has its labels in it. Omit it.")
    opened = {path: open_dataset(path) if path.suffix == BETON else open_images(path, labels, max_pixels) for path in paths}
    for dataset in opened.values():
        for run in runs:
            classes = judged_classes(run, merge)
            if remark := describe_match(dataset.match(classes).labels, dataset.classes, classes):
                log.warning("%s", remark)
            if differences := describe_changes(run, dataset):
                log.warning("%s has changed since %s was trained: %s", dataset.path, run.path, "; ".join(differences))
    parts = (split_on_the_fly(val) for val in sets.values())
    return [replace(opened[path], on_the_fly=on_the_fly) for path, on_the_fly in parts]


def open_betons(run: Classifier, sets: Mapping[str, Path | OnTheFlyJpeg]) -> list[Dataset]:
    """Open every set as ``open_sets`` does; raises UsageError for one that is no beton."""
    datasets = open_sets([run], sets)
    betons = [dataset for dataset in datasets if isinstance(dataset, Dataset)]
    if len(betons) < len(datasets):
        path = next(dataset.path for dataset in datasets if not isinstance(dataset, Dataset))
        raise UsageError(f"{path} is no {BETON}, which is needed here. Encode it: jpegcurr encode {path} --quality source.")
    return betons


def at_load(dataset: EvaluationSet) -> str | None:
    """Return a description of the encoding on the fly; None if there is none."""
    return dataset.on_the_fly.describe() if dataset.on_the_fly else None


def tested_quality(dataset: EvaluationSet) -> Quality | None:
    """Return the quality that a model sees; None if it is unknown or not one number."""
    if dataset.on_the_fly is None:
        return dataset.quality
    return dataset.on_the_fly.quality if isinstance(dataset.on_the_fly.quality, int) else None
