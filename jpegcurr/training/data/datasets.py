"""The betons of a recipe, opened and held against each other before anything is trained."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from jpegcurr.encoding.beton.manifest import Manifest, items_path, read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import BetonError, RecipeError, SourceError
from jpegcurr.recipe.schema import OnTheFlyJpeg, Recipe, split_on_the_fly
from jpegcurr.training.data.sampling import Variant

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One open beton, and what is done to its images when they are loaded, if anything.

    ``manifest`` is None for a file that FFCV wrote; ``classes`` are then the labels as text.
    """

    where: str
    beton: Beton
    manifest: Manifest | None
    on_the_fly: OnTheFlyJpeg | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label."""
        if self.manifest is not None:
            return self.manifest.classes
        return tuple(str(label) for label in range(int(self.beton.labels.max()) + 1))

    def fits(self, classes: Sequence[str], *, named: bool) -> bool:
        """Whether its labels are those of ``classes``: by name where both have names, else by number alone."""
        if named and self.manifest is not None:
            return self.classes == tuple(classes)
        return int(self.beton.labels.max()) < len(classes)

    @property
    def quality(self) -> Quality | None:
        """Of the file, as the manifest says; None without one."""
        return self.manifest.quality if self.manifest else None

    @property
    def variant(self) -> Variant:
        """What a view takes of it."""
        return Variant(self.beton, self.on_the_fly)

    @property
    def description(self) -> str:
        """The file, and what is done to it."""
        return f"{self.beton.path}{f', {self.on_the_fly.describe()}' if self.on_the_fly else ''}"


@dataclass(frozen=True, slots=True)
class Datasets:
    """The training sets that the curriculum uses and the validation sets that are evaluated, by name."""

    train: dict[str, Dataset]
    val: dict[str, Dataset]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, the same in every set."""
        return next(iter(self.train.values())).classes


def open_dataset(path: Path, where: str = "", on_the_fly: OnTheFlyJpeg | None = None) -> Dataset:
    """Open one beton and its manifest; ``where`` is the recipe field that names it. Raises BetonError."""
    try:
        beton, manifest = Beton(path), read_manifest(path)
    except BetonError as error:
        raise BetonError(f"{where}: {error}" if where else str(error)) from None
    if len(beton) == 0:
        raise BetonError(f"{path} holds no images.")
    if manifest is not None and manifest.images != len(beton):
        raise BetonError(f"{path} holds {len(beton)} images, its manifest says {manifest.images}. Make them again.")
    if manifest is not None and manifest.index_sha256 != beton.index_sha256():
        raise BetonError(f"{path} is not the file that its manifest describes: it is damaged or another's. Make it again.")
    return Dataset(where or str(path), beton, manifest, on_the_fly)


def open_datasets(recipe: Recipe) -> Datasets:
    """Open every beton that the recipe uses, make those that are missing, and check that they belong together.

    A missing file is made the way its fellows were, from the folder that their manifests name. Where that folder has no
    ``val`` split, the validation sets are left out with a warning.

    Raises:
        BetonError: a file is missing and cannot be made, is damaged, has another quality than the recipe says, or has
            other classes, another number of images or another order than its fellows. Nothing was made if one is
            missing for good.
        RecipeError: a training set is smaller than one batch; nothing was made.
    """
    used = {f"data.{name}.train": split_on_the_fly(recipe.data[name].train) for name in recipe.training_sets}
    used |= {f"data.{name}.val": split_on_the_fly(seen) for name in recipe.evaluate if (seen := recipe.data[name].val)}
    places: dict[Path, list[str]] = {}  # a file of several data sets is opened, or made, once
    for where, (path, _) in used.items():
        places.setdefault(path, []).append(where)
    opened = _open_all(recipe, places)
    sets = {
        where: replace(opened[path], where=where, on_the_fly=on_the_fly)
        for where, (path, on_the_fly) in used.items()
        if path in opened
    }
    for where, dataset in sets.items():
        _check_quality(dataset, recipe.data[_name(where)].quality)
    train, val = ({_name(where): each for where, each in sets.items() if where.endswith(role)} for role in (".train", ".val"))
    _check_paired(list(train.values()))
    _check_paired(list(val.values()))
    for dataset in val.values():
        _check_classes(next(iter(train.values())), dataset)
    return Datasets(train, val)


def _open_all(recipe: Recipe, places: Mapping[Path, Sequence[str]]) -> dict[Path, Dataset]:
    """Open files, each named by some fields of the recipe; make what is missing, or leave it out if the source cannot give it.

    Nothing is made before all that stands against the run is known.
    """
    missing = [path for path in places if not path.exists()]
    patterns = {path: pattern for path in missing if (pattern := _pattern(recipe, path, places[path]))}
    opened = {path: open_dataset(path, wheres[0]) for path, wheres in places.items() if path not in patterns}
    for path in [path for path, pattern in patterns.items() if pattern.guessed and not _has_split(pattern.manifest)]:
        log.warning("%s: %s does not exist and its source has no val split: going on without it", ", ".join(places[path]), path)
        del patterns[path]
    images = {path: len(each.beton) for path, each in opened.items()}
    for path, count in (images | {path: each.manifest.images for path, each in patterns.items()}).items():
        _check_size(recipe, places[path], count)
    for path, pattern in patterns.items():
        like = pattern.manifest
        log.info("%s: %s is missing; making it from %s, quality %s", places[path][0], path, like.source, like.quality)
        _encode_like(pattern, path)
        opened[path] = open_dataset(path, places[path][0])
    return opened


def count_images(recipe: Recipe) -> int:
    """How many images an epoch is drawn from; nothing is made or changed.

    Raises:
        BetonError: the first training set is missing, and no fellow says how many it would hold.
        RecipeError: it is smaller than one batch.
    """
    where = f"data.{recipe.training_sets[0]}.train"
    path, _ = split_on_the_fly(recipe.data[recipe.training_sets[0]].train)
    pattern = None if path.exists() else _pattern(recipe, path, [where])
    images = pattern.manifest.images if pattern else len(open_dataset(path, where).beton)
    _check_size(recipe, [where], images)
    return images


def _check_size(recipe: Recipe, wheres: Sequence[str], images: int) -> None:
    sizes = {"batch.size": recipe.batch.size}
    sizes |= {f"curriculum.{number}.batch": phase.batch for number, phase in enumerate(recipe.curriculum) if phase.batch}
    for where in wheres:
        for field, size in sizes.items():
            if where.endswith(".train") and images < size:
                raise RecipeError(
                    f"{field} {size} is larger than {where}, {images} images: not one step an epoch. "
                    f"Set a smaller one (and a smaller schedule.lr with it): --set {field}=64."
                )


def _name(where: str) -> str:
    """``data.q50.train`` -> ``q50``; a data set's name may hold dots."""
    return where.removeprefix("data.").rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """How to make a missing file: a manifest to follow, and the keys of images that its fellow had to leave out.

    ``guessed``: there is no fellow, and the source of the training set may have the split or not.
    """

    manifest: Manifest
    left_out: frozenset[str]
    guessed: bool = False


def _pattern(recipe: Recipe, path: Path, wheres: Sequence[str]) -> _Pattern | None:
    """How to make the missing file of the fields ``wheres``; None where there is nothing to go by."""
    qualities = sorted({quality for where in wheres if (quality := recipe.data[_name(where)].quality)}, key=str)
    if len(qualities) > 1:
        told = " and ".join(map(str, qualities))
        raise RecipeError(f"{' and '.join(wheres)} are one file, {path}, which cannot have quality {told}.")
    return _fellow(recipe, wheres[0].rpartition(".")[2], qualities[0]) if qualities else None


def _fellow(recipe: Recipe, role: str, quality: Quality) -> _Pattern | None:
    """Follow a file in the same role; for validation, else, a training file."""
    for data in recipe.data.values():
        used = data.train if role == "train" else data.val
        path = split_on_the_fly(used)[0] if used else None
        if path and path.is_file() and (manifest := read_manifest(path)):
            try:
                failed = frozenset(row["key"] for row in read_items(path) if row["status"] == "failed")
            except (OSError, ValueError, KeyError) as error:
                raise BetonError(f"{items_path(path)} cannot be read ({error}). Make {path} again.") from None
            return _Pattern(manifest.model_copy(update={"quality": quality}), failed)
    if role == "val" and (pattern := _fellow(recipe, "train", quality)):
        changes = {"split": "val", "order": "folder"}
        return _Pattern(pattern.manifest.model_copy(update=changes), frozenset(), guessed=True)
    return None


def _has_split(manifest: Manifest) -> bool:
    """Whether the source could have the split: only one that is there can lack its val."""
    try:
        return any(source.split == manifest.split for source in open_sources(manifest.source, labels=_labels(manifest)))
    except SourceError:
        return True


def _labels(manifest: Manifest) -> Path | None:
    return Path(manifest.labels) if manifest.labels else None


def _encode_like(pattern: _Pattern, path: Path) -> None:
    manifest = pattern.manifest
    try:
        (source,) = open_sources(
            manifest.source,
            labels=_labels(manifest),
            splits=[manifest.split],
            classes=manifest.classes,
            limit=manifest.limit,
            seed=manifest.seed,
        )
    except SourceError as error:
        raise BetonError(f"{path} does not exist and cannot be made: {error}") from None
    with open_executor() as (executor, workers):
        encode_dataset(
            [source.without(pattern.left_out)],
            {source.split: {path: manifest.spec}},
            executor=executor,
            workers=workers,
            order=manifest.order,
            seed=manifest.seed,
            resume=True,  # where an earlier run was stopped while it made this file
        )


def _check_quality(dataset: Dataset, wanted: Quality | None) -> None:
    if dataset.manifest is None:
        log.warning("%s: %s has no manifest: its quality and its images' names go unchecked", dataset.where, dataset.beton.path)
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
    if not other.fits(first.classes, named=first.manifest is not None):
        raise BetonError(
            f"{other.where}: {other.beton.path} has {len(other.classes)} classes, {first.beton.path} has {len(first.classes)}"
            f"{_first_difference(first.classes, other.classes)}. Encode both from folders with the same classes."
        )


def _first_difference(first: Sequence[str], other: Sequence[str]) -> str:
    lonely = sorted(set(first) ^ set(other))
    return f" ({lonely[0]!r} is only in one)" if lonely else ""
