"""The betons of a recipe, opened and held against each other before anything is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from jpegcurr.encoding.beton import Beton
from jpegcurr.encoding.codec import EncodeSpec, Quality
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.executors import open_executor
from jpegcurr.encoding.manifest import Manifest, read_manifest
from jpegcurr.encoding.sources import open_split
from jpegcurr.errors import BetonError, SourceError
from jpegcurr.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Dataset:
    """One open beton. ``manifest`` is None for a file that FFCV wrote; ``classes`` are then the labels as text."""

    where: str
    beton: Beton
    manifest: Manifest | None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        if self.manifest is not None:
            return self.manifest.classes
        return tuple(str(label) for label in range(int(self.beton.labels.max()) + 1))

    @property
    def quality(self) -> Quality | None:
        """As the manifest says; None without one."""
        return self.manifest.quality if self.manifest else None


@dataclass(frozen=True, slots=True)
class Datasets:
    """The training sets that the curriculum uses and the validation sets that are evaluated, by name."""

    train: dict[str, Dataset]
    val: dict[str, Dataset]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, the same in every set."""
        return next(iter(self.train.values())).classes


def open_dataset(path: Path, where: str = "") -> Dataset:
    """Open one beton and its manifest; ``where`` is the recipe field that names it. Raises BetonError."""
    try:
        beton, manifest = Beton(path), read_manifest(path)
    except BetonError as error:
        raise BetonError(f"{where}: {error}" if where else str(error)) from None
    if len(beton) == 0:
        raise BetonError(f"{path} holds no images.")
    if manifest is not None and manifest.images != len(beton):
        raise BetonError(f"{path} holds {len(beton)} images, its manifest says {manifest.images}. Make them again.")
    return Dataset(where or str(path), beton, manifest)


def open_datasets(recipe: Recipe, say: Callable[[str], None]) -> Datasets:
    """Open every beton that the recipe uses, make those that are missing, and check that they belong together.

    Raises:
        BetonError: a file is missing and cannot be made, is damaged, has another quality than the recipe says, or has
            other classes, another number of images or another order than its fellows.
    """
    train = {name: recipe.data[name].train for name in dict.fromkeys(phase.data for phase in recipe.curriculum)}
    val = {name: path for name in recipe.evaluate if (path := recipe.data[name].val)}
    _make_missing(recipe, "train", train, say)
    _make_missing(recipe, "val", val, say)
    opened = Datasets(
        {name: open_dataset(path, f"data.{name}.train") for name, path in train.items()},
        {name: open_dataset(path, f"data.{name}.val") for name, path in val.items()},
    )
    for split in (opened.train, opened.val):
        for name, dataset in split.items():
            _check_quality(dataset, recipe.data[name].quality)
        _check_paired(list(split.values()))
    for dataset in opened.val.values():
        _check_classes(next(iter(opened.train.values())), dataset)
    return opened


def _make_missing(recipe: Recipe, role: str, paths: dict[str, Path], say: Callable[[str], None]) -> None:
    """Encode a missing beton the way a fellow in the same role was made, where its manifest and source are at hand."""
    fellows = [data.train if role == "train" else data.val for data in recipe.data.values()]
    manifests = [manifest for path in fellows if path and path.is_file() and (manifest := read_manifest(path))]
    for name, path in paths.items():
        quality = recipe.data[name].quality
        if path.exists() or quality is None or not manifests:
            continue
        pattern = manifests[0]
        say(f"data.{name}.{role}: {path} is missing; making it from {pattern.source}, quality {quality}")
        _encode_like(pattern, path, quality)


def _encode_like(pattern: Manifest, path: Path, quality: Quality) -> None:
    try:
        source = open_split(Path(pattern.source), pattern.split)
    except SourceError as error:
        raise BetonError(f"{path} does not exist and cannot be made: {error}") from None
    with open_executor() as (executor, workers):
        encode_dataset(
            source,
            {path: EncodeSpec(quality)},
            executor=executor,
            workers=workers,
            order=pattern.order,
            seed=pattern.seed,
            max_failures=pattern.failures,
        )


def _check_quality(dataset: Dataset, wanted: Quality | None) -> None:
    if wanted is not None and dataset.quality is not None and wanted != dataset.quality:
        raise BetonError(
            f"{dataset.where}: {dataset.beton.path} has quality {dataset.quality}, the recipe says {wanted}. "
            "Name another file, or mend the quality in the recipe."
        )


def _check_paired(datasets: Sequence[Dataset]) -> None:
    """Sample i must be one image in all: the same keys in the same order (without manifests: the same labels)."""
    for first, other in pairwise(datasets):
        _check_classes(first, other)
        if len(first.beton) != len(other.beton):
            raise BetonError(
                f"{other.beton.path} holds {len(other.beton)} images, {first.beton.path} holds {len(first.beton)}. "
                "Encode all qualities in one run: jpegcurr encode --quality source --quality 50."
            )
        keys = (first.manifest and first.manifest.keys_sha256, other.manifest and other.manifest.keys_sha256)
        same_keys = None in keys or keys[0] == keys[1]
        if not same_keys or not np.array_equal(first.beton.labels, other.beton.labels):
            raise BetonError(
                f"{other.beton.path} holds other images than {first.beton.path}, or in another order. "
                "Encode all qualities in one run: jpegcurr encode --quality source --quality 50."
            )


def _check_classes(first: Dataset, other: Dataset) -> None:
    if first.manifest and other.manifest:
        fits = first.classes == other.classes
    else:
        fits = int(other.beton.labels.max()) < len(first.classes)
    if not fits:
        raise BetonError(
            f"{other.beton.path} has {len(other.classes)} classes, {first.beton.path} has {len(first.classes)}"
            f"{_first_difference(first.classes, other.classes)}. Encode both from folders with the same classes."
        )


def _first_difference(first: Sequence[str], other: Sequence[str]) -> str:
    lonely = sorted(set(first) ^ set(other))
    return f" ({lonely[0]!r} is only in one)" if lonely else ""
