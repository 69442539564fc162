"""Accuracy of runs on validation sets, as they are stored and at other JPEG qualities, on the same images."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from jpegcurr.training.data.datasets import Dataset, open_dataset
from jpegcurr.training.data.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.data.sampling import EpochSampler
from jpegcurr.training.metrics import Scores
from jpegcurr.training.models.load import Run


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """One arm: one run on one beton, as it is or encoded again; ``loader`` names the decode path.

    ``quality`` is the file's, ``tested`` what the model saw; ``keys`` tells the file's images and their order (None: unknown).
    """

    run: Path
    weights: str
    data: Path
    quality: Quality | None
    tested: Quality | None
    at_load: str | None
    loader: str
    classes: tuple[str, ...]
    keys: str | None
    outcomes: Outcomes

    @property
    def scores(self) -> Scores:
        """Top-1, top-5 and loss."""
        return self.outcomes.scores

    def class_accuracy(self) -> dict[str, float]:
        """Top-1 of each class, percent, by name; nan for a class without images."""
        shares = class_accuracy(self.outcomes.labels, self.outcomes.right, len(self.classes))
        return dict(zip(self.classes, shares.tolist(), strict=True))

    def class_images(self) -> dict[str, int]:
        """The images of each class, by name."""
        return dict(zip(self.classes, np.bincount(self.outcomes.labels, minlength=len(self.classes)).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON; a class without images has None."""
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


def validation_sets(run: Run) -> dict[str, Path | OnTheFlyJpeg]:
    """The betons on which the run was evaluated while it trained, by name; raises UsageError if there are none."""
    named = {name: val for name in run.recipe.evaluate if (val := run.recipe.data[name].val)}
    if not named:
        raise UsageError(f"{run.path} was trained without validation sets. Name a beton: --data betons/val-source.beton.")
    missing = [path for val in named.values() if not (path := split_on_the_fly(val)[0]).exists()]
    if missing:
        where = "" if missing[0].is_absolute() else f" in {Path.cwd()}"
        raise UsageError(
            f"{missing[0]}, a validation set of {run.path}, is not there{where}. Evaluate where you trained, or name another: "
            "--data val.beton."
        )
    return named


def source_sets(run: Run) -> list[Path]:
    """Those of the run's validation sets that hold the original images; raises UsageError if there are none."""
    paths = dict.fromkeys(split_on_the_fly(each)[0] for each in validation_sets(run).values())
    found = [path for path in paths if (manifest := read_manifest(path)) and manifest.quality == "source"]
    if not found:
        raise UsageError(f"{run.path} was evaluated on no source images. Name some: --data betons/val-source.beton.")
    return found


def choose_sets(
    run: Run, betons: Sequence[Path], qualities: Sequence[Quality] | None, stage: Stage = "before_crop"
) -> dict[str, Path | OnTheFlyJpeg]:
    """``betons``, or the run's own validation sets if there are none, by name: as they are, or at every one of ``qualities``.

    Raises as ``validation_sets``, ``source_sets`` and ``at_qualities`` do.
    """
    if qualities is not None:
        return at_qualities(betons or source_sets(run), qualities, stage)
    return {str(path): path for path in betons} or validation_sets(run)


def at_qualities(
    betons: Sequence[Path], qualities: Sequence[Quality], stage: Stage = "before_crop"
) -> dict[str, Path | OnTheFlyJpeg]:
    """Every beton at every quality, by name: ``source`` is the file itself, the others are made of it as it is loaded.

    Raises:
        BetonError: a manifest cannot be read.
        UsageError: a manifest says another quality than source.
    """
    arms: dict[str, Path | OnTheFlyJpeg] = {}
    for path in betons:
        manifest = read_manifest(path)
        if manifest is not None and manifest.quality != "source":
            raise UsageError(
                f"{path} has quality {manifest.quality}: --qualities would encode it a second time, which is something else. "
                "Give the beton of the source images, or leave --qualities away to evaluate the file as it is."
            )
        for quality in qualities:
            encoded = None if quality == "source" else OnTheFlyJpeg(beton=path, quality=quality, stage=stage)
            arms[f"{path}, {quality}"] = encoded or path
    return arms


def open_arms(runs: Sequence[Run], betons: Mapping[str, Path | OnTheFlyJpeg]) -> list[Dataset]:
    """Open every beton.

    Raises:
        BetonError: a beton is missing or damaged.
        UsageError: a beton has other classes than a run.
    """
    opened = {path: open_dataset(path) for path in dict.fromkeys(split_on_the_fly(each)[0] for each in betons.values())}
    for dataset in opened.values():
        for run in runs:
            _check_classes(run, dataset)
    arms = (split_on_the_fly(each) for each in betons.values())
    return [Dataset(opened[path].field, opened[path].beton, opened[path].manifest, on_the_fly) for path, on_the_fly in arms]


def evaluate_run(
    run: Run, betons: Mapping[str, Path | OnTheFlyJpeg], runtime: Runtime, *, loader: str = "auto"
) -> Iterator[Evaluation]:
    """Yield what ``run`` makes of each beton; see ``open_arms`` and ``evaluate_runs``."""
    return evaluate_runs([run], open_arms([run], betons), runtime, loader=loader)


def evaluate_runs(
    runs: Sequence[Run],
    arms: Sequence[Dataset],
    runtime: Runtime,
    *,
    loader: str = "auto",
    on_images: Callable[[int], None] | None = None,
) -> Iterator[Evaluation]:
    """Yield what each run makes of each arm, run by run; every image counts once, and all are decoded the same way.

    Runs that see images alike (all but their normalisation, batches too) share one pass over an arm, decoded once.
    ``loader`` is ``ffcv``, ``plain`` or ``auto``: as in training where it can be, plain if any run was trained so. Raises
    RecipeError where it cannot be had. ``on_images`` is told how many more images are done.
    """
    kind, _ = choose_kind("plain" if loader == "auto" and any(run.loader == "plain" for run in runs) else loader)
    observed: dict[tuple[int, int], Outcomes] = {}
    for number, run in enumerate(runs):
        for place, arm in enumerate(arms):
            if (number, place) not in observed:
                together = [each for each, other in enumerate(runs) if _sight(other) == _sight(run)]
                view = EpochSampler.of(arm.variant, run.image, batch=run.recipe.micro(), workers=loading_workers())
                models = [(runs[each].model, runs[each].normalise) for each in together]
                outcomes = observe(models, open_loader(kind, view, runtime), runtime, on_images)
                observed |= {(each, place): one for each, one in zip(together, outcomes, strict=True)}
            yield _evaluation(run, arm, kind, observed.pop((number, place)))


def _sight(run: Run) -> tuple[object, ...]:
    """What has to be the same for two runs to look at the same batches, to the bit."""
    return run.image.size, run.image.interpolation, run.image.val_crop, run.recipe.micro()


def _evaluation(run: Run, arm: Dataset, kind: str, outcomes: Outcomes) -> Evaluation:
    at_load = arm.on_the_fly.describe() if arm.on_the_fly else None
    keys = arm.manifest.keys_sha256 if arm.manifest else None
    known = (arm.beton.path, arm.quality, tested_quality(arm), at_load, kind, run.classes, keys)
    return Evaluation(run.path, run.weights, *known, outcomes)


def tested_quality(arm: Dataset) -> Quality | None:
    """What a model sees of it; None where it is unknown, or not one number."""
    if arm.on_the_fly is None:
        return arm.quality
    return arm.on_the_fly.quality if isinstance(arm.on_the_fly.quality, int) else None


def compare_evaluations(results: Sequence[Evaluation]) -> list[Paired | None]:
    """Hold each arm against the first; None for that one, and for those of other images."""
    first, *others = results
    return [None, *(_compare(first, other) for other in others)]


def _compare(first: Evaluation, other: Evaluation) -> Paired | None:
    same_keys = None in (first.keys, other.keys) or first.keys == other.keys
    if not same_keys or not np.array_equal(first.outcomes.labels, other.outcomes.labels):
        return None
    return compare_paired(first.outcomes.right, other.outcomes.right)


def described(pair: Paired | None) -> dict[str, Any] | None:
    """Plain values by name, for JSON."""
    return None if pair is None else {**asdict(pair), "verdict": pair.verdict}


def _check_classes(run: Run, dataset: Dataset) -> None:
    numbered = run.classes == tuple(map(str, range(len(run.classes))))  # trained on a file without a manifest
    if not dataset.fits(run.classes, named=not numbered):
        raise UsageError(
            f"{dataset.beton.path} has other classes ({len(dataset.classes)}) than {run.path} was trained on "
            f"({len(run.classes)}). Encode it together with the training set, so that both have the same."
        )
