"""Betons that a recipe names and that do not exist: how they are to be encoded, after the manifests of those that do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jpegcurr.encoding.beton.manifest import Manifest, read_items, read_manifest
from jpegcurr.encoding.encode import RESUME_ADVICE, encode_dataset
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor
from jpegcurr.errors import BetonError, EncodeError, RecipeError, SourceError, UsageError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import split_on_the_fly


def data_name(field: str) -> str:
    """Return the data set of a field: ``data.q50.train`` -> ``q50``; the name may contain dots."""
    return field.removeprefix("data.").rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Template:
    """The manifest that a missing file is encoded after, and the keys of the images that failed in the file it comes from.

    ``assumed`` is set where that file has another role: the source may or may not have the split.
    """

    manifest: Manifest
    failed: frozenset[str]
    assumed: bool = False


def find_template(recipe: Recipe, path: Path, fields: Sequence[str]) -> Template | None:
    """Return how to encode the missing file that ``fields`` name; None if no file or no quality tells."""
    qualities = sorted({quality for field in fields if (quality := recipe.data[data_name(field)].quality)}, key=str)
    if len(qualities) > 1:
        both = " and ".join(map(str, qualities))
        raise RecipeError(f"{' and '.join(fields)} are one file, {path}, which cannot have quality {both}.")
    return _template_of_role(recipe, fields[0].rpartition(".")[2], qualities[0]) if qualities else None


def _template_of_role(recipe: Recipe, role: str, quality: Quality) -> Template | None:
    """Return how to encode a missing file: as an existing one of its role, or, for val, as a training file; else None."""
    for data in recipe.data.values():
        used = data.train if role == "train" else data.val
        path = split_on_the_fly(used)[0] if used else None
        if path and path.is_file() and (manifest := read_manifest(path)):
            failed = frozenset(row["key"] for row in read_items(path) if row["status"] == "failed")
            return Template(manifest.model_copy(update={"quality": quality}), failed)
    if role == "val" and (template := _template_of_role(recipe, "train", quality)):
        changes = {"split": "val", "order": "folder"}
        return Template(template.manifest.model_copy(update=changes), frozenset(), assumed=True)
    return None


def has_split(manifest: Manifest) -> bool:
    """Return whether the source may have the split: one that cannot be opened counts, because encoding then says why."""
    try:
        return any(source.split == manifest.split for source in _open_sources(manifest))
    except SourceError:
        return True


def _open_sources(manifest: Manifest, **options: Any) -> tuple[Source, ...]:
    """Open the source of a beton as it was opened for it."""
    labels = Path(manifest.labels) if manifest.labels else None
    return open_sources(
        [manifest.source, *manifest.more_sources],
        labels=labels,
        label_from=manifest.label_from,
        flat_classes=manifest.flat_classes,
        draw=manifest.draw,
        boxes=manifest.boxes,
        **options,
    )


def encode_like(template: Template, path: Path) -> None:
    """Encode the missing file ``path``.

    Raises:
        BetonError: the source that the manifest names cannot be opened.
        EncodeError, UsageError: it cannot be encoded.
    """
    manifest = template.manifest
    try:
        (source,) = _open_sources(
            manifest,
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
