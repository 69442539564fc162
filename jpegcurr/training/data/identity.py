"""Identity of a data set: what a run records about the images it is trained on, and how it is compared later.

Compared are the number of images, keys, class names, the content of the files, resize, chroma and quality. A beton without a
manifest has only its index: numbers, sizes and positions of its samples. What this cannot see: pixels that were changed in a
beton after it was written, which ``jpegcurr inspect --verify`` finds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jpegcurr.training.data.datasets import Dataset

# Facts that must be equal, with their names in messages. A fact that an older run did not record is not compared.
_COMPARED = {
    "images": "number of images",
    "quality": "quality",
    "at_load": "encoding on the fly",
    "keys_sha256": "images, or their order",
    "labels_sha256": "labels",
    "content_sha256": "image files of the same names",
    "shares_sha256": "shares of classes for each image",
    "max_side": "max_side",
    "short_side": "short_side",
    "filter": "filter of the resize",
    "subsampling": "chroma subsampling",
    "index_sha256": "samples",
}
_SHOWN = {"images", "quality", "max_side", "short_side", "filter", "subsampling"}  # whose values a person can read


def identify(dataset: Dataset) -> dict[str, Any]:
    """Return the facts that identify the images of ``dataset``, and its path, as plain values for ``run.json``."""
    manifest = dataset.manifest
    facts = {
        "path": str(dataset.beton.path),
        "images": len(dataset.beton),
        "quality": dataset.quality,
        "at_load": dataset.on_the_fly.model_dump(mode="json", exclude={"beton"}) if dataset.on_the_fly else None,
        "keys_sha256": manifest.keys_sha256 if manifest else None,
        "labels_sha256": labels_sha256(dataset),
    }
    if manifest is None:
        return {**facts, "index_sha256": dataset.beton.index_sha256()}
    resize = {name: getattr(manifest, name) for name in ("max_side", "short_side", "filter")}
    chroma = manifest.subsampling if manifest.quality != "source" else None
    content = {"content_sha256": manifest.content_sha256, "shares_sha256": manifest.shares_sha256}
    return {**facts, **content, **resize, "subsampling": chroma}


def labels_sha256(dataset: Dataset) -> str:
    """Hash the class name of every image, each followed by a newline, in file order."""
    digest = hashlib.sha256()
    names = [f"{name}\n".encode() for name in dataset.classes.names]
    for label in dataset.beton.labels.tolist():
        digest.update(names[label])
    return digest.hexdigest()


def describe_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return in words which facts of ``identify`` differ; a content that one side does not know is not compared."""
    differences = []
    for fact, name in _COMPARED.items():
        was, value = before.get(fact), now.get(fact)
        if fact not in before or was == value or (fact == "content_sha256" and None in (was, value)):
            continue
        differences.append(f"{name} was {was}, is {value}" if fact in _SHOWN else f"other {name}")
    return differences
