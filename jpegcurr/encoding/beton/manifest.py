"""What a ``.beton`` cannot say of itself: ``<stem>.json`` beside it, and every image's fate in ``<stem>.items.jsonl``."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jpegcurr.encoding.jpeg.codec import EncodeSpec, Filter, Quality, Resize, Subsampling
from jpegcurr.encoding.sources.base import Order
from jpegcurr.errors import BetonError


class Plan(BaseModel):
    """What decides every byte of an output, known before its first.

    Attributes:
        source: what was encoded, as it was typed; ``split`` is the part of it that this file holds.
        labels: the file that labels were read from, as it was typed.
        limit: images at most, chosen by ``seed``.
        seed: of the shuffle and of the limit; 0 where there is neither.
        subsampling: chroma layout of what is encoded anew: 420, 422, 444 or keep. It says nothing of the quality ``source``.
        max_side, short_side: pixels; one of the two where images were made smaller, by ``filter``.
        classes: names by label.
        items: images that the source lists for this split.
        page_size: of the beton, bytes.
        versions: of the libraries that decide the bytes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[2] = 2
    split: str
    source: str
    labels: str | None
    limit: int | None
    quality: Quality
    subsampling: Subsampling
    max_side: int | None
    short_side: int | None
    filter: Filter | None
    order: Order
    seed: int
    classes: tuple[str, ...]
    items: int
    page_size: int
    versions: dict[str, str]

    @property
    def spec(self) -> EncodeSpec:
        """What every image was asked to become."""
        resize = None
        if self.filter is not None and (pixels := self.max_side or self.short_side):
            resize = Resize("max" if self.max_side else "short", pixels, self.filter)
        return EncodeSpec(self.quality, self.subsampling, resize)


class Manifest(Plan):
    """The header of one finished output.

    Attributes:
        images: samples in the beton. ``failures`` more were read and could not be stored.
        ignored: files in the source that do not have an image's suffix.
        copied: samples whose original bytes were kept. At the quality ``source`` the others are of quality 95, 4:4:4.
        scaled: samples that were decoded at a half, a quarter or an eighth, because they are resized to a third of that
            or less.
        bytes_in, bytes_out: of the stored images, before and after.
        keys_sha256: of the keys in file order, each followed by a newline; equal for betons that are paired.
        index_sha256: of the header, metadata and allocation table. Samples have their own checksums in the items.
        beton_bytes: the size of the whole ``.beton`` file.
    """

    images: int
    failures: int
    ignored: int
    copied: int
    scaled: int
    bytes_in: int
    bytes_out: int
    keys_sha256: str
    index_sha256: str
    beton_bytes: int


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
    """Yield the rows of ``items.jsonl``, one an image that the source lists, in file order.

    Every row has key, label, source_bytes (-1 if nobody could tell) and status. A stored image (``copied`` or ``encoded``)
    has width, height, bytes and crc32 of what is stored, a ``failed`` one its reason. One whose original bytes could not
    be kept at the quality ``source`` has the quality and subsampling that it was given instead.
    """
    with items_path(beton).open(encoding="utf-8") as rows:
        for row in rows:
            yield json.loads(row)


class Totals:
    """What a manifest says of all items together."""

    def __init__(self) -> None:
        self.images = self.failures = self.copied = self.scaled = self.bytes_in = self.bytes_out = 0
        self._keys = hashlib.sha256()
        self._labels: set[int] = set()

    def add(self, row: dict[str, Any]) -> None:
        """Count one row of the items."""
        if row["status"] == "failed":
            self.failures += 1
            return
        self.images += 1
        self.copied += row["status"] == "copied"
        self.scaled += row.get("scaled", False)
        self.bytes_in += row["source_bytes"]
        self.bytes_out += row["bytes"]
        self._labels.add(row["label"])
        self._keys.update(os.fsencode(row["key"]) + b"\n")

    @property
    def labels(self) -> set[int]:
        """Of the stored images."""
        return self._labels

    def as_dict(self) -> dict[str, Any]:
        """The manifest's fields."""
        counts = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return counts | {"keys_sha256": self._keys.hexdigest()}
