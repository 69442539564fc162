"""The data sets of a recipe: their betons are opened and checked against each other."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from jpegcurr.encoding.beton.manifest import (
    Manifest,
    describe_other_samples,
    read_manifest,
    read_shares,
    refuse_unnamed_labels,
)
from jpegcurr.encoding.beton.reader import Beton, encode_command
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.errors import BetonError, RecipeError, UsageError, did_you_mean
from jpegcurr.recipe.fit import fit_rate
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import OnTheFlyJpeg, split_on_the_fly
from jpegcurr.training.data.balancing import Numbers, class_weights
from jpegcurr.training.data.classes import Classes, Labels, describe_match, match_targets
from jpegcurr.training.data.missing import data_name, encode_like, find_template, has_split
from jpegcurr.training.data.sampling import Variant
from jpegcurr.training.data.targets import SoftTargets, Targets

log = logging.getLogger("jpegcurr")

MOST_EMPTY = 1 << 16  # classes of a training set with fewer images than classes; ImageNet's largest part has 21,841


@dataclass(frozen=True, slots=True)
class Dataset:
    """One open beton, and how its images are encoded again when they are loaded; None if they are not.

    ``field`` is the recipe's field that names the file. ``manifest`` is None for a file that FFCV wrote. ``matched`` are the
    labels as numbers of a model's classes, int64 [n]; None where they are those of the file. ``soft`` are the distributions
    that the model's targets give the images; None where the labels are its targets.
    """

    field: str
    beton: Beton
    manifest: Manifest | None
    on_the_fly: OnTheFlyJpeg | None = None
    matched: Labels | None = None
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.beton)

    @property
    def path(self) -> Path:
        """The file."""
        return self.beton.path

    @property
    def keys(self) -> str | None:
        """A fingerprint of the images' names and their order; None without a manifest."""
        return self.manifest.keys_sha256 if self.manifest else None

    @property
    def classes(self) -> Classes:
        """The classes of the labels in the file; without a manifest, their numbers."""
        if self.manifest is not None:
            return Classes(self.manifest.classes, known=True, owner=str(self.beton.path))
        numbers = tuple(str(label) for label in range(int(self.beton.labels.max()) + 1))
        return Classes(numbers, known=False, owner=str(self.beton.path))

    @property
    def labels(self) -> Labels:
        """The label of every image, int64 [n]: that of the file, or the matched one."""
        return self.beton.labels if self.matched is None else self.matched

    def class_sizes(self, classes: Classes) -> Labels:
        """Return the number of images of each of ``classes``, int64 [classes]."""
        return np.bincount(self.labels, minlength=len(classes))

    def match(self, model: Classes) -> "Dataset":
        """Return the data set with labels that are numbers of the classes of ``model``; raises UsageError if one is lacking."""
        shares = read_shares(self.path, self.manifest) if model.targets is not None and model.targets.per_image else None
        labels, soft = match_targets(self.beton.labels, shares, self.classes, model)
        return replace(self, matched=None if labels is self.beton.labels else labels, soft=soft)

    @property
    def has_shares(self) -> bool:
        """True if its images have shares of classes."""
        return self.manifest is not None and self.manifest.shares_sha256 is not None

    @property
    def quality(self) -> Quality | None:
        """The quality of the file, as its manifest states it; None without a manifest."""
        return self.manifest.quality if self.manifest else None

    @property
    def variant(self) -> Variant:
        """The data set as an ``EpochSampler`` takes it."""
        return Variant(self.beton, self.on_the_fly, self.matched, self.soft)

    @property
    def description(self) -> str:
        """The path, and the JPEG quality on the fly if there is one."""
        return f"{self.beton.path}{f', {self.on_the_fly.describe()}' if self.on_the_fly else ''}"


@dataclass(frozen=True, slots=True)
class Datasets:
    """The training sets of the curriculum and the validation sets of ``evaluate``, by name, with labels in ``classes``."""

    train: dict[str, Dataset]
    val: dict[str, Dataset]
    classes: Classes


def open_dataset(path: str | Path, field: str = "", on_the_fly: OnTheFlyJpeg | None = None) -> Dataset:
    """Open one beton and its manifest; ``field`` is the recipe's field that names it. Raises BetonError."""
    path = Path(path)
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
    if manifest is not None:
        refuse_unnamed_labels(path, int(beton.labels.max()), manifest)
    return Dataset(field or str(path), beton, manifest, on_the_fly)


def open_datasets(recipe: Recipe, classes: Classes | None = None) -> Datasets:
    """Open every beton that the recipe uses, encode the missing ones, and check that they belong together.

    ``classes`` are those of the model; by default those of the first training set, or the outputs of the recipe's targets.
    Every set is matched with them by name. A validation set may have images of fewer classes, which is logged.

    A missing file is encoded like the other files of its role, from the source that their manifests name. If that source has no
    ``val`` split, the validation sets are omitted with a warning.

    Raises:
        BetonError: a file is missing and cannot be encoded, is damaged, has another quality than the recipe says, has images of
            a class that the model lacks, or a training set holds other images than the others, in another order or with other
            labels. If a file is missing for good, none is encoded.
        RecipeError: a training set is smaller than one batch, and no file is encoded; or the recipe's targets do not fit the
            classes.
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
        _check_quality(dataset, recipe.data[data_name(field)].quality)
    first = datasets[f"data.{recipe.training_sets[0]}.train"]
    _check_shares(recipe, datasets.values())
    classes = _with_targets(recipe, first, classes or _outputs(recipe, _count_classes(first)))
    matched = {field: _match(dataset, classes) for field, dataset in datasets.items()}
    train = {data_name(field): dataset for field, dataset in matched.items() if field.endswith(".train")}
    val = {data_name(field): dataset for field, dataset in matched.items() if field.endswith(".val")}
    for role in (train, val):
        check_paired(list(role.values()))
    remarks = {describe_match(dataset.labels, dataset.classes, classes): dataset for dataset in val.values()}
    for remark, dataset in remarks.items():
        if remark:
            log.warning("%s: %s", dataset.field, remark)
    return Datasets(train, val, classes)


def _count_classes(dataset: Dataset) -> Classes:
    """Return the classes of a model that is trained on ``dataset``.

    Without names there are as many as its highest label says, with images or not. Raises BetonError if they are so many more
    than images that the labels must be something else, such as ids.
    """
    images, classes = len(dataset.beton), int(dataset.beton.labels.max()) + 1
    if dataset.manifest is None and classes > images:
        remark = f"{dataset.field}: {dataset.beton.path} has {images} images and labels up to {classes - 1}"
        if classes > MOST_EMPTY:
            raise BetonError(f"{remark}, which number no classes. Number them from 0, as jpegcurr encode does.")
        log.warning("%s: the model gets %d classes, and most of them no image", remark, classes)
    return dataset.classes


def count_classes(recipe: Recipe) -> int:
    """Return the number of classes that a model of ``recipe`` gets: those of its first training set, or its outputs.

    Raises BetonError.
    """
    field = f"data.{recipe.training_sets[0]}.train"
    dataset = open_dataset(split_on_the_fly(recipe.data[recipe.training_sets[0]].train)[0], field)
    return len(_outputs(recipe, _count_classes(dataset)))


def check_targets(recipe: Recipe) -> None:
    """Raise as ``open_datasets`` does if the recipe's targets do not fit its first training set, if that exists."""
    name = recipe.training_sets[0]
    path, _ = split_on_the_fly(recipe.data[name].train)
    if recipe.targets is not None and path.exists():
        dataset = open_dataset(path, f"data.{name}.train")
        _check_shares(recipe, [dataset])
        _with_targets(recipe, dataset, _outputs(recipe, dataset.classes))


def match_outputs(recipe: Recipe, dataset: Dataset) -> tuple[Dataset, Classes]:
    """Return a training set with labels that are numbers of the outputs of a model that is trained on it, and these."""
    classes = _with_targets(recipe, dataset, _outputs(recipe, dataset.classes))
    return dataset.match(classes), classes


def _outputs(recipe: Recipe, data: Classes) -> Classes:
    """Return the classes of a model that is trained on ``data``: its own, or the outputs of the recipe's targets."""
    if recipe.targets is None:
        return data
    return replace(data, names=recipe.targets.outputs or data.names, owner="the recipe's targets")


def _with_targets(recipe: Recipe, dataset: Dataset, model: Classes) -> Classes:
    """Return the classes of the ``model`` with the recipe's targets; raise RecipeError if these do not fit ``dataset``."""
    section, data = recipe.targets, dataset.classes
    if section is None:
        return model
    if not data.known:
        raise RecipeError(f"targets: {dataset.path} has no names of classes, and targets are by name. Encode it with jpegcurr.")
    if section.map:
        if strangers := [name for name in section.map if name not in data.names]:
            hint = did_you_mean(strangers[0], data.names)
            raise RecipeError(f"targets.map.{strangers[0]}: {dataset.path} has no class {strangers[0]!r}.{hint} Omit the row.")
        if lacking := [name for name in data.names if name not in section.map]:
            raise RecipeError(
                f"targets.map: the class {lacking[0]!r} of {dataset.path} has no row. Give one to every class, such as "
                f"{lacking[0]}: {model.names[0]}."
            )
        if unknown := [output for row in section.map.values() for output in row if output not in model.names]:
            hint = did_you_mean(unknown[0], model.names)
            raise RecipeError(f"targets.map: {unknown[0]!r} is no class of {dataset.path}.{hint} List it in targets.outputs.")
        try:
            section.check_reached(model.names)
        except ValueError as error:
            raise RecipeError(f"{error}, from targets.outputs.") from None
    return replace(model, targets=Targets.of(section, model.names))


def _check_shares(recipe: Recipe, datasets: Iterable[Dataset]) -> None:
    """Raise BetonError if a training set lacks the shares of its images that the recipe wants; log shares that are not used."""
    wanted = recipe.targets is not None and recipe.targets.per_image
    for dataset in datasets:
        if wanted and not dataset.has_shares and dataset.field.endswith(".train"):
            raise BetonError(
                f"{dataset.field}: {dataset.path} has no shares for each image, which targets.per_image needs. Encode it with "
                "a table of labels that has a column p_CLASS for every class."
            )
        if wanted and not dataset.has_shares:
            log.warning("%s: %s has no shares for each image: its classes are the targets", dataset.field, dataset.path)
        if dataset.has_shares and not wanted and dataset.field.endswith(".train"):
            log.warning(
                "%s: %s has shares for each image, which are not used: targets.per_image=true", dataset.field, dataset.path
            )


def count_images(recipe: Recipe, planned: int | None = None) -> int:
    """Return the number of images in the first training set without encoding or changing anything.

    ``planned`` is that number where it is known before a file exists; no file is then opened.

    Raises:
        BetonError: the file is missing, and no other file says how many images it would have.
        RecipeError: it is smaller than one batch.
    """
    field = f"data.{recipe.training_sets[0]}.train"
    path, _ = split_on_the_fly(recipe.data[recipe.training_sets[0]].train)
    if planned is None:
        template = None if path.exists() else find_template(recipe, path, [field])
        if template is None and not path.exists():
            command = encode_command(path)
            raise BetonError(f"{field}: {path} does not exist. Write it with {command}, or plan without it: --images N.")
        planned = template.manifest.images if template else len(open_dataset(path, field).beton)
    _check_size(recipe, [field], planned)
    return planned


def training_set_at_hand(recipe: Recipe) -> Dataset | None:
    """Return the first training set, or another of the same images if its file is missing; None if there is none yet."""
    paths = {name: split_on_the_fly(recipe.data[name].train)[0] for name in recipe.training_sets}
    return next((open_dataset(path, f"data.{name}.train") for name, path in paths.items() if path.exists()), None)


def open_weights(recipe: Recipe, dataset: Dataset | None = None, classes: Classes | None = None) -> Numbers | None:
    """Return the weight of every class in the loss, float64 [classes], as ``optim.class_weights`` has it; None without it.

    ``dataset`` is a training set whose labels are numbers of ``classes``; by default the recipe's first, matched with the
    outputs of a model that is trained on it.

    Raises:
        RecipeError: it names a class that the training set lacks.
        BetonError: the file cannot be opened.
    """
    wanted, name = recipe.optim.class_weights, recipe.training_sets[0]
    if wanted is None:
        return None
    if dataset is None or classes is None:
        first = dataset or open_dataset(split_on_the_fly(recipe.data[name].train)[0], f"data.{name}.train")
        dataset, classes = match_outputs(recipe, first)
    return class_weights(dataset.class_sizes(classes), classes.names, wanted)


def omitted_from_validation(recipe: Recipe) -> list[str]:
    """Return the sets of ``evaluate`` that a run omits: their files are missing, and their source has no val split."""
    omitted = []
    for name in recipe.evaluate:
        path = split_on_the_fly(data)[0] if (data := recipe.data[name].val) else None
        template = find_template(recipe, path, [f"data.{name}.val"]) if path and not path.exists() else None
        if template and template.assumed and not has_split(template.manifest):
            omitted.append(name)
    return omitted


def _open_all(recipe: Recipe, fields: Mapping[Path, Sequence[str]]) -> dict[Path, Dataset]:
    """Open files, given with the recipe's fields that name them; encode missing ones, or omit those that the source lacks.

    All checks run before any file is encoded.
    """
    missing = [path for path in fields if not path.exists()]
    templates = {path: template for path in missing if (template := find_template(recipe, path, fields[path]))}
    opened = {path: open_dataset(path, names[0]) for path, names in fields.items() if path not in templates}
    for path in [path for path, template in templates.items() if template.assumed and not has_split(template.manifest)]:
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
        encode_like(template, path)
        opened[path] = open_dataset(path, fields[path][0])
    return opened


def _check_size(recipe: Recipe, fields: Sequence[str], images: int) -> None:
    sizes = {"batch.size": recipe.batch.size}
    sizes |= {f"curriculum.{number}.batch": phase.batch for number, phase in enumerate(recipe.curriculum) if phase.batch}
    for field in fields:
        for size_field, size in sizes.items():
            if field.endswith(".train") and images < size:
                smaller = 1 << min(6, max(images, 1).bit_length() - 1)
                rate = fit_rate(recipe.optim.name, smaller, recipe.model.is_trained)
                raise RecipeError(
                    f"{size_field} {size} is larger than {field}, {images} images: an epoch would have no step. Set a smaller "
                    f"one, and a rate for it: {size_field}={smaller}, batch.per_device={smaller}, schedule.lr={rate:g}."
                )


def _check_quality(dataset: Dataset, wanted: Quality | None) -> None:
    if dataset.manifest is None:
        log.warning("%s: %s has no manifest: its quality and image names are not checked", dataset.field, dataset.beton.path)
    if wanted is not None and dataset.quality is not None and wanted != dataset.quality:
        raise BetonError(
            f"{dataset.field}: {dataset.beton.path} has quality {dataset.quality}, the recipe says {wanted}. "
            "Name another file, or correct the quality in the recipe."
        )


def _match(dataset: Dataset, classes: Classes) -> Dataset:
    try:
        return dataset.match(classes)
    except UsageError as error:
        raise BetonError(f"{dataset.field}: {error}") from None


def check_paired(datasets: Sequence[Dataset]) -> None:
    """Check that sample i is one image with one label in all, and log in what else than the quality the images differ.

    Where a manifest is missing, only number, labels and sizes of the images are known.

    Raises:
        BetonError: a file holds other images, in another order, of other files under the same names, or with other labels.
    """
    for first, other in pairwise(datasets):
        if difference := describe_unpaired(first, other):
            raise BetonError(
                f"{other.beton.path} does not hold the samples of {first.beton.path}: {difference}. "
                "Encode all qualities in one run: jpegcurr encode --quality source --quality 50."
            )
        for remark in describe_besides_quality(first, other):
            log.warning("%s differs from %s not only in quality: %s", other.beton.path, first.beton.path, remark)


def describe_unpaired(first: Dataset, other: Dataset) -> str:
    """Return why sample i is not the same image with the same label in both; empty if it is."""
    if len(first.beton) != len(other.beton):
        return f"{len(other.beton)} images instead of {len(first.beton)}"
    if first.manifest and other.manifest and (difference := describe_other_samples(first.manifest, other.manifest)):
        return difference
    differing = np.flatnonzero(first.labels != other.labels)
    if len(differing):
        return f"{len(differing)} images have other labels, the first of them sample {differing[0]}"
    return ""


def describe_besides_quality(first: Dataset, other: Dataset) -> list[str]:
    """Return what else differs between two files of the same images: resize, chroma subsampling, size in pixels."""
    if not (first.manifest and other.manifest):
        sizes = [(dataset.beton.widths, dataset.beton.heights) for dataset in (first, other)]
        unequal = int((np.not_equal(*(pair[0] for pair in sizes)) | np.not_equal(*(pair[1] for pair in sizes))).sum())
        return [f"{unequal:,} images have another size in pixels"] if unequal else []
    before, now = first.manifest, other.manifest
    remarks = [
        f"{name} is {getattr(now, name)}, not {getattr(before, name)}, so images have other sizes in pixels"
        for name in ("max_side", "short_side")
        if getattr(before, name) != getattr(now, name)
    ]
    if not remarks and before.filter != now.filter:
        remarks.append(f"they were resized with {now.filter}, not {before.filter}")
    if "source" not in (before.quality, now.quality) and before.subsampling != now.subsampling:
        remarks.append(f"chroma subsampling is {now.subsampling}, not {before.subsampling}")
    return remarks
