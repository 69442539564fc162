"""Accuracy of a run on stored validation sets, one row a quality."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpegcurr.encoding.codec import Quality
from jpegcurr.errors import UsageError
from jpegcurr.recipe_data import Reencoded, split_treatment
from jpegcurr.runtime import Runtime
from jpegcurr.training.contract import View
from jpegcurr.training.datasets import Dataset, open_dataset
from jpegcurr.training.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.model import Run
from jpegcurr.training.score import Scores, score


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run on one beton; ``loader`` names the decode path."""

    run: Path
    weights: str
    data: Path
    quality: Quality | None
    at_load: str | None
    loader: str
    scores: Scores

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return {
            "run": str(self.run),
            "weights": self.weights,
            "data": str(self.data),
            "quality": self.quality,
            "at_load": self.at_load,
            "loader": self.loader,
            **self.scores.as_dict(),
        }


def validation_sets(run: Run) -> dict[str, Path | Reencoded]:
    """The betons on which the run was evaluated while it trained, by name; raises UsageError if there are none."""
    named = {name: val for name in run.recipe.evaluate if (val := run.recipe.data[name].val)}
    if not named:
        raise UsageError(f"{run.path} was trained without validation sets. Name a beton: --data betons/val-source.beton.")
    missing = [path for val in named.values() if not (path := split_treatment(val)[0]).exists()]
    if missing:
        where = "" if missing[0].is_absolute() else f" in {Path.cwd()}"
        raise UsageError(
            f"{missing[0]}, a validation set of {run.path}, is not there{where}. Evaluate where you trained, or name another: "
            "--data val.beton."
        )
    return named


def evaluate_run(
    run: Run, betons: Mapping[str, Path | Reencoded], runtime: Runtime, *, loader: str = "auto"
) -> Iterator[Evaluation]:
    """Yield the scores of ``run`` on each beton, decoded as in training where it can be, or as ``loader`` says.

    Raises:
        BetonError: a beton is missing or damaged.
        UsageError: a beton has other classes than the run.
    """
    opened = {}
    for name, beton in betons.items():
        path, treatment = split_treatment(beton)
        opened[name] = open_dataset(path, treatment=treatment)
    for dataset in opened.values():
        _check_classes(run, dataset)
    batch = run.recipe.micro()
    if loader == "auto" and run.loader == "plain":
        loader = "plain"
    kind, _ = choose_kind(loader)
    for dataset in opened.values():
        view = View.of(dataset.member, run.image, batch=batch, workers=loading_workers())
        (scores,) = score([run.model], run.normalise, open_loader(kind, view, runtime), runtime)
        at_load = dataset.treatment.describe() if dataset.treatment else None
        yield Evaluation(run.path, run.weights, dataset.beton.path, dataset.quality, at_load, kind, scores)


def _check_classes(run: Run, dataset: Dataset) -> None:
    numbered = run.classes == tuple(map(str, range(len(run.classes))))  # trained on a file without a manifest
    if not dataset.fits(run.classes, named=not numbered):
        raise UsageError(
            f"{dataset.beton.path} has other classes ({len(dataset.classes)}) than {run.path} was trained on "
            f"({len(run.classes)}). Encode it together with the training set, so that both have the same."
        )
