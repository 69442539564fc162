"""The data sets of a recipe: their betons are opened, checked against each other, and encoded if missing."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from jpegcurr.encoding.beton.manifest import Manifest, items_path, read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.encode import RESUME_ADVICE, encode_dataset
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import BetonError, EncodeError, RecipeError, SourceError, UsageError
from jpegcurr.recipe.schema import OnTheFlyJpeg, Recipe, split_on_the_fly
from jpegcurr.training.data.sampling import Variant

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One open beton, and how its images are encoded again when they are loaded; None if they are not.

    ``field`` is the recipe's field that names the file. ``manifest`` is None for a file that FFCV wrote; ``classes`` are then
    the labels as text.
    """

    field: str
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
        """Return whether the labels mean ``classes``: by name if both sides have names, else by number alone."""
        if named and self.manifest is not None:
            return self.classes == tuple(classes)
        return int(self.beton.labels.max()) < len(classes)

    @property
    def quality(self) -> Quality | None:
        """The quality of the file, as its manifest states it; None without a manifest."""
        return self.manifest.quality if self.manifest else None

    @property
    def variant(self) -> Variant:
        """The data set as an ``EpochSampler`` takes it."""
        return Variant(self.beton, self.on_the_fly)

    @property
    def description(self) -> str:
        """The path, and the JPEG quality on the fly if there is one."""
        return f"{self.beton.path}{f', {self.on_the_fly.describe()}' if self.on_the_fly else ''}"


@dataclass(frozen=True, slots=True)
class Datasets:
    """The training sets of the curriculum and the validation sets of ``evaluate``, by name."""

    train: dict[str, Dataset]
    val: dict[str, Dataset]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by label, the same in every set."""
        return next(iter(self.train.values())).classes


def open_dataset(path: Path, field: str = "", on_the_fly: OnTheFlyJpeg | None = None) -> Dataset:
    """Open one beton and its manifest; ``field`` is the recipe's field that names it. Raises BetonError."""
    try:
        beton, manifest = Beton(path), read_manifest(path)
    except BetonError as error:
        raise BetonError(f"{field}: {error}" if field else str(error)) from None
    if len(beton) == 0:
        raise BetonError(f"{path} holds no images.")
    if manifest is not None and manifest.images != len(beton):
        raise BetonError(f"{path} holds {len(beton)} images, but its manifest says {manifest.images}. Encode it again.")
    if manifest is not None and manifest.index_sha256 != beton.index_sha256():
        raise BetonError(
            f"{path} is not the file that its manifest describes: it is damaged, or the manifest belongs to another file. "
            "Encode it again."
        )
    return Dataset(field or str(path), beton, manifest, on_the_fly)


def open_datasets(recipe: Recipe) -> Datasets:
    """Open every beton that the recipe uses, encode the missing ones, and check that they belong together.

    A missing file is encoded like the other files of its role, from the source that their manifests name. If that source has no
    ``val`` split, the validation sets are omitted with a warning.

    Raises:
        BetonError: a file is missing and cannot be encoded, is damaged, has another quality than the recipe says, or has other
            classes, another number of images or another order than the others. If a file is missing for good, none is encoded.
        RecipeError: a training set is smaller than one batch; no file is encoded.
    """
    used = {f"data.{name}.train": split_on_the_fly(recipe.data[name].train) for name in recipe.training_sets}
    used |= {f"data.{name}.val": split_on_the_fly(data) for name in recipe.evaluate if (data := recipe.data[name].val)}
    fields: dict[Path, list[str]] = {}  # a file of more than one data set is opened, or encoded, once
    for field, (path, _) in used.items():
        fields.setdefault(path, []).append(field)
    opened = _open_all(recipe, fields)
    datasets = {
        field: replace(opened[path], field=field, on_the_fly=on_the_fly)
        for field, (path, on_the_fly) in used.items()
        if path in opened
    }
    for field, dataset in datasets.items():
        _check_quality(dataset, recipe.data[_data_name(field)].quality)
    train = {_data_name(field): dataset for field, dataset in datasets.items() if field.endswith(".train")}
    val = {_data_name(field): dataset for field, dataset in datasets.items() if field.endswith(".val")}
    _check_paired(list(train.values()))
    _check_paired(list(val.values()))
    for dataset in val.values():
        _check_classes(next(iter(train.values())), dataset)
    return Datasets(train, val)


def count_images(recipe: Recipe) -> int:
    """Return the number of images in the first training set without encoding or changing anything.

    Raises:
        BetonError: the file is missing, and no other file says how many images it would have.
        RecipeError: it is smaller than one batch.
    """
    field = f"data.{recipe.training_sets[0]}.train"
    path, _ = split_on_the_fly(recipe.data[recipe.training_sets[0]].train)
    template = None if path.exists() else _find_template(recipe, path, [field])
    images = template.manifest.images if template else len(open_dataset(path, field).beton)
    _check_size(recipe, [field], images)
    return images


def _open_all(recipe: Recipe, fields: Mapping[Path, Sequence[str]]) -> dict[Path, Dataset]:
    """Open files, given with the recipe's fields that name them; encode missing ones, or omit those that the source lacks.

    All checks run before any file is encoded.
    """
    missing = [path for path in fields if not path.exists()]
    templates = {path: template for path in missing if (template := _find_template(recipe, path, fields[path]))}
    opened = {path: open_dataset(path, names[0]) for path, names in fields.items() if path not in templates}
    for path in [path for path, template in templates.items() if template.assumed and not _has_split(template.manifest)]:
        log.warning(
            "%s: %s does not exist and its source has no val split: continuing without it", ", ".join(fields[path]), path
        )
        del templates[path]
    images = {path: len(dataset.beton) for path, dataset in opened.items()}
    images |= {path: template.manifest.images for path, template in templates.items()}
    for path, count in images.items():
        _check_size(recipe, fields[path], count)
    for path, template in templates.items():
        source, quality = template.manifest.source, template.manifest.quality
        log.info("%s: %s is missing; encoding it from %s, quality %s", fields[path][0], path, source, quality)
        _encode_like(template, path)
        opened[path] = open_dataset(path, fields[path][0])
    return opened


def _check_size(recipe: Recipe, fields: Sequence[str], images: int) -> None:
    sizes = {"batch.size": recipe.batch.size}
    sizes |= {f"curriculum.{number}.batch": phase.batch for number, phase in enumerate(recipe.curriculum) if phase.batch}
    for field in fields:
        for size_field, size in sizes.items():
            if field.endswith(".train") and images < size:
                smaller = 1 << min(6, max(images, 1).bit_length() - 1)
                raise RecipeError(
                    f"{size_field} {size} is larger than {field}, {images} images: an epoch would have no step. Set a smaller "
                    f"one (and a smaller schedule.lr with it): --set {size_field}={smaller} --set batch.per_device={smaller}."
                )


def _data_name(field: str) -> str:
    """Return the data set of a field: ``data.q50.train`` -> ``q50``; the name may contain dots."""
    return field.removeprefix("data.").rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class _Template:
    """The manifest that a missing file is encoded after, and the keys of the images that failed in the file it comes from.

    ``assumed`` is set where that file has another role: the source may or may not have the split.
    """

    manifest: Manifest
    failed: frozenset[str]
    assumed: bool = False


def _find_template(recipe: Recipe, path: Path, fields: Sequence[str]) -> _Template | None:
    """Return how to encode the missing file that ``fields`` name; None if no file or no quality tells."""
    qualities = sorted({quality for field in fields if (quality := recipe.data[_data_name(field)].quality)}, key=str)
    if len(qualities) > 1:
        both = " and ".join(map(str, qualities))
        raise RecipeError(f"{' and '.join(fields)} are one file, {path}, which cannot have quality {both}.")
    return _template_of_role(recipe, fields[0].rpartition(".")[2], qualities[0]) if qualities else None


def _template_of_role(recipe: Recipe, role: str, quality: Quality) -> _Template | None:
    """Return how to encode a missing file: as an existing one of its role, or, for val, as a training file; else None."""
    for data in recipe.data.values():
        used = data.train if role == "train" else data.val
        path = split_on_the_fly(used)[0] if used else None
        if path and path.is_file() and (manifest := read_manifest(path)):
            try:
                failed = frozenset(row["key"] for row in read_items(path) if row["status"] == "failed")
            except (OSError, ValueError, KeyError) as error:
                raise BetonError(f"{items_path(path)} cannot be read ({error}). Encode {path} again.") from None
            return _Template(manifest.model_copy(update={"quality": quality}), failed)
    if role == "val" and (template := _template_of_role(recipe, "train", quality)):
        changes = {"split": "val", "order": "folder"}
        return _Template(template.manifest.model_copy(update=changes), frozenset(), assumed=True)
    return None


def _has_split(manifest: Manifest) -> bool:
    """Return whether the source may have the split: one that cannot be opened counts, because encoding then says why."""
    try:
        return any(source.split == manifest.split for source in open_sources(manifest.source, labels=_labels(manifest)))
    except SourceError:
        return True


def _labels(manifest: Manifest) -> Path | None:
    return Path(manifest.labels) if manifest.labels else None


def _encode_like(template: _Template, path: Path) -> None:
    manifest = template.manifest
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
        raise BetonError(f"{path} does not exist and cannot be encoded: {error}") from None
    try:
        with open_executor() as (executor, workers):
            encode_dataset(
                [source.without(template.failed)],
                {source.split: {path: manifest.spec}},
                executor=executor,
                workers=workers,
                order=manifest.order,
                seed=manifest.seed,
                resume=True,  # an earlier run may have been stopped while it encoded this file
            )
    except (EncodeError, UsageError) as error:  # whose advice is for the options of ``encode``
        reason = str(error).replace(RESUME_ADVICE, "The encoded images are kept: the same command continues with them.")
        raise type(error)(
            f"{path} is missing, and this run cannot encode it: {reason} The options named are those of `jpegcurr encode`, "
            f"which can encode {path.name} beforehand."
        ) from None


def _check_quality(dataset: Dataset, wanted: Quality | None) -> None:
    if dataset.manifest is None:
        log.warning("%s: %s has no manifest: its quality and image names are not checked", dataset.field, dataset.beton.path)
    if wanted is not None and dataset.quality is not None and wanted != dataset.quality:
        raise BetonError(
            f"{dataset.field}: {dataset.beton.path} has quality {dataset.quality}, the recipe says {wanted}. "
            "Name another file, or correct the quality in the recipe."
        )


def _check_paired(datasets: Sequence[Dataset]) -> None:
    """Check that sample i is one image in all: the same keys in the same order, or without manifests the same labels."""
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
            f"{other.field}: {other.beton.path} has {len(other.classes)} classes, {first.beton.path} has {len(first.classes)}"
            f"{_first_difference(first.classes, other.classes)}. Encode both from folders with the same classes."
        )


def _first_difference(first: Sequence[str], other: Sequence[str]) -> str:
    unshared = sorted(set(first) ^ set(other))
    return f" ({unshared[0]!r} is only in one)" if unshared else ""
