"""The swap without a recipe: a loader that takes one beton until a given epoch, and from there on another."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from jpegcurr.errors import UsageError
from jpegcurr.recipe.schema import ImageSection, LoaderSection
from jpegcurr.recipe.values import Interpolation
from jpegcurr.recipe.wrong_values import describe_wrong
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.datasets import Dataset, check_paired, open_dataset
from jpegcurr.training.data.iteration import TrainLoader
from jpegcurr.training.data.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.data.sampling import EpochSampler


class SwapLoader(TrainLoader):
    """Random crops of the images of betons of different qualities, swapped at epoch boundaries.

        loader = SwapLoader({0: "train-source.beton", 100: "train-q50.beton"}, batch=256, size=224)
        for epoch in range(150):
            loader.set_epoch(epoch)
            for images, labels, *_ in loader:
                ...

    ``images`` are uint8 [batch 3 size size], cropped and mirrored, not normalised; ``labels`` are int64 [batch]. ``classes``
    are the names of the labels. An epoch has whole batches only. See ``TrainLoader`` for the rest.

    Args:
        files: the beton that every epoch from the given one on takes; there must be one for epoch 0.
        batch: images per batch.
        size: side of the crops in pixels.
        seed: of order, crops and flips.
        scale, ratio, hflip, interpolation: of the crops, as in ``recipe.schema.ImageSection``.
        kind, workers: the loader, and its threads, as in ``recipe.schema.LoaderSection``.
        runtime: the device that batches are put on; by default a GPU if there is one.

    Raises:
        UsageError: no file for epoch 0, an impossible size or batch, or a file with images of classes that the first lacks.
        BetonError: a file is missing or damaged, or does not hold the same images with the same labels as the others.
        RecipeError: ``kind`` cannot be used, or batches do not fit into the memory.
    """

    def __init__(
        self,
        files: Mapping[int, str | Path],
        *,
        batch: int,
        size: int = 224,
        seed: int = 0,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        hflip: float = 0.5,
        interpolation: Interpolation = "bicubic",
        kind: Literal["auto", "compiled", "ffcv", "plain"] = "auto",
        workers: int | Literal["auto"] = "auto",
        runtime: Runtime | None = None,
    ) -> None:
        _check_epochs(files)
        try:
            image = ImageSection(size=size, scale=scale, ratio=ratio, hflip=hflip, interpolation=interpolation)
            reading = LoaderSection(kind=kind, workers=workers)
        except ValidationError as error:
            first = error.errors()[0]
            what = describe_wrong([first["msg"]], first["input"])
            raise UsageError(f"SwapLoader: {first['loc'][0] if first['loc'] else 'crops'}: {what}.") from None
        datasets = _open_paired(list(dict.fromkeys(Path(path) for path in files.values())), batch)
        chosen, _ = choose_kind(reading.kind)
        sampler = EpochSampler(
            {str(dataset.path): dataset.variant for dataset in datasets},
            image,
            train=True,
            batch=batch,
            step=batch,
            seed=seed,
            workers=loading_workers() if reading.workers == "auto" else reading.workers,
            plans=_plans({epoch: str(Path(path)) for epoch, path in files.items()}),
            endless=True,
        )
        super().__init__(open_loader(chosen, sampler, runtime or resolve_runtime()), sampler)
        self.classes = datasets[0].classes.names


def _check_epochs(files: Mapping[int, str | Path]) -> None:
    if wrong := [epoch for epoch in files if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0]:
        raise UsageError(f"SwapLoader: {wrong[0]!r} is no epoch. Name files by their first epochs, counted from 0.")
    if 0 not in files:
        raise UsageError("SwapLoader: there is no file for epoch 0. Name files by their first epochs: {0: FILE, 100: OTHER}.")


def _open_paired(paths: Sequence[Path], batch: int) -> list[Dataset]:
    """Open files that must hold the same images with the same labels, and have images for a batch."""
    first, *others = [open_dataset(path) for path in paths]
    if not 1 <= batch <= len(first):
        raise UsageError(
            f"SwapLoader: a batch of {batch} images cannot be taken from {first.path}, which has {len(first)} images."
        )
    datasets = [first, *(other.match(first.classes) for other in others)]
    check_paired(datasets)
    return datasets


def _plans(files: Mapping[int, str]) -> tuple[EpochPlan, ...]:
    """Return the plans of all epochs to the last swap."""
    starts = sorted(files)
    phases = [(number, epoch) for number, (start, end) in enumerate(pairwise(starts)) for epoch in range(start, end)]
    phases.append((len(starts) - 1, starts[-1]))
    return tuple(EpochPlan(epoch, phase, ((files[starts[phase]], 1.0),), 0.0, 0) for phase, epoch in phases)
