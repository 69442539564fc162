"""What a ``.beton`` cannot say of itself: ``<stem>.json`` beside it, and every image's fate in ``<stem>.items.jsonl``."""

import json
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jpegcurr.encoding.codec import Quality
from jpegcurr.encoding.sources import Order
from jpegcurr.errors import BetonError


class Manifest(BaseModel):
    """The header of one output.

    Attributes:
        source: the folder that was encoded, as it was typed; ``split`` is the part of it that this file holds.
        subsampling: chroma layout in J:a:b notation, or ``as in the source``.
        classes: names by label.
        images: samples in the beton. ``failures`` more were read and could not be stored.
        ignored: files in the source that do not have an image's suffix.
        copied: samples whose original bytes were kept.
        bytes_in, bytes_out: of the stored images, before and after.
        keys_sha256: of the keys in file order, each followed by a newline; equal for betons that are paired.
        beton_bytes: the size of the whole ``.beton`` file.
        versions: of the libraries that decide the bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    split: str
    source: str
    quality: Quality
    subsampling: str
    order: Order
    seed: int
    classes: tuple[str, ...]
    images: int
    failures: int
    ignored: int
    copied: int
    bytes_in: int
    bytes_out: int
    keys_sha256: str
    beton_bytes: int
    versions: dict[str, str]


def manifest_path(beton: Path) -> Path:
    """``betons/train-q50.beton`` -> ``betons/train-q50.json``."""
    return beton.with_suffix(".json")


def items_path(beton: Path) -> Path:
    """``betons/train-q50.beton`` -> ``betons/train-q50.items.jsonl``."""
    return beton.with_suffix(".items.jsonl")


def read_manifest(beton: Path) -> Manifest | None:
    """Read the manifest beside ``beton``; None if there is none, as beside a file that FFCV wrote.

    Raises:
        BetonError: the manifest is not one of ours, or speaks of a file of another size.
    """
    path = manifest_path(beton)
    if not path.is_file():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise BetonError(f"{path} is not a jpegcurr manifest: {field}: {first['msg']}. Make the beton again.") from None
    if beton.is_file() and beton.stat().st_size != manifest.beton_bytes:
        raise BetonError(
            f"{beton} has {beton.stat().st_size} bytes, but its manifest says {manifest.beton_bytes}. "
            "One of the two is from another run: make them again with --force."
        )
    return manifest


def read_items(beton: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``items.jsonl``: key, label, status (``copied``, ``encoded`` or ``failed``), bytes or reason."""
    with items_path(beton).open(encoding="utf-8", errors="surrogateescape") as rows:
        for row in rows:
            yield json.loads(row)


def library_versions(
    names: Iterable[str] = ("jpegcurr", "numpy", "opencv-python-headless", "pillow", "simplejpeg"),
) -> dict[str, str]:
    """Installed versions by distribution name; ``absent`` where there is none."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"
