"""The manifest of an output, ``<stem>.json``, and a row for every image of its source, in ``<stem>.items.jsonl``.

The stem is a beton's name without suffix, and the whole name of an output in another format (``outputs/paths.py``).
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, InstanceOf, TypeAdapter

from jpegcurr.encoding.box_windows import BoxOptions
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Filter, Quality, Resize, Subsampling
from jpegcurr.encoding.outputs.paths import Format, stem_of
from jpegcurr.encoding.sources.base import MISSING, LabelFrom, Order, SplitDraw
from jpegcurr.errors import BetonError, UsageError
from jpegcurr.json_files import parse_line, read_json, read_json_lines


class Plan(BaseModel):
    """Everything that decides the bytes of an output, known before the first is written.

    Attributes:
        split: the split of the data set that this file holds.
        source: the data set, as typed on the command line.
        labels: the file that the labels were read from, as typed on the command line.
        limit: maximum number of images, chosen by ``seed``.
        quality: the JPEG quality, 1 to 100, or ``source``.
        subsampling: chroma layout of re-encoded images: 420, 422, 444 or keep. It has no effect at the quality ``source``.
        max_side, short_side: pixels; at most one is set, where larger images were resized with ``filter``.
        order: of the samples: ``shuffle`` or ``folder``.
        seed: of the shuffle and of the limit; 0 where there is neither.
        classes: names by label.
        items: number of images that the source lists for this split.
        page_size: of the beton, bytes. It bounds a sample of the other formats too: one pass may write all of them.
        versions: of the libraries that decide the bytes.
        flat_classes: whether every folder was read as a class, whatever its name (``--flat-classes``).
        boxes: the options by which boxes were read, where a sample is an annotated box and not an image.
        more_sources: the data sets that are united with ``source``, as typed on the command line.
        label_from: which folder of an image is its class, where ``labels`` is a list of bare paths.
        val_share, test_share, split_seed: of the draw of the splits, if they were drawn for this encode (``--val``).
        format: of the output.
        shard_bytes: of JPEGs in a shard, at most; None in a format without shards.
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
    flat_classes: bool = False
    boxes: BoxOptions | None = None
    more_sources: tuple[str, ...] = ()
    label_from: LabelFrom | None = None
    val_share: float | None = None
    test_share: float | None = None
    split_seed: int | None = None
    format: Format = "beton"
    shard_bytes: int | None = None

    @property
    def draw(self) -> SplitDraw | None:
        """The draw of the splits; None if the data set had them."""
        if self.val_share is None or self.test_share is None or self.split_seed is None:
            return None
        return SplitDraw(self.val_share, self.test_share, self.split_seed)

    @property
    def spec(self) -> EncodeSpec:
        """The encoding that was requested for every image."""
        resize = None
        if self.filter is not None and (pixels := self.max_side or self.short_side):
            resize = Resize("max" if self.max_side else "short", pixels, self.filter)
        return EncodeSpec(self.quality, self.subsampling, resize)


class Manifest(Plan):
    """The manifest of one finished output.

    Attributes:
        images: samples in the output.
        failures: images of the source that could not be encoded.
        ignored: files of the source without the suffix of an image, and images that nothing gives a class.
        copied: samples whose original bytes were kept. At the quality ``source`` all others have quality 95, 4:4:4.
        scaled: samples that were decoded at 1/2, 1/4 or 1/8 of their size, because they are then resized to a third of
            that or less.
        bytes_in, bytes_out: bytes of the stored images, before and after; before, a box counts with its whole image.
        keys_sha256: of the keys in file order, each followed by a newline; equal for betons of the same images.
        content_sha256: of the CRC-32 of every stored image's file, as it was before it was encoded, and of its window where it
            is a box, in file order; equal for betons that were encoded from the same files. None in betons of version 0.1,
            which did not record it.
        index_sha256: of the header, metadata and allocation table of a beton; None for other formats. The items have a checksum
            for every sample.
        beton_bytes: the size of the whole ``.beton`` file, or of all files of another format.
    """

    images: int
    failures: int
    ignored: int
    copied: int
    scaled: int
    bytes_in: int
    bytes_out: int
    keys_sha256: str
    content_sha256: str | None = None
    index_sha256: str | None = None
    beton_bytes: int


_Crc32 = Annotated[int, Field(ge=0, lt=1 << 32)]
_Side = Annotated[int, Field(ge=0, lt=1 << 16)]
_Size = Annotated[int, Field(ge=MISSING, lt=1 << 62)]


_Edges = Annotated[list[float], Field(min_length=4, max_length=4)]
_Window = Annotated[list[_Side], Field(min_length=4, max_length=4)]


class _FailedRow(BaseModel):
    """The fields of a row that are relied on."""

    key: InstanceOf[str]  # a name that is not UTF-8 has surrogates, which pydantic's own str refuses
    label: Annotated[int, Field(ge=0, lt=1 << 31)]
    source_bytes: _Size
    status: Literal["failed"]
    box: _Edges | None = None


class _StoredRow(_FailedRow):
    status: Literal["copied", "encoded"]  # type: ignore[assignment]
    bytes: _Size
    width: _Side
    height: _Side
    crc32: _Crc32
    source_crc32: _Crc32 = 0
    scaled: bool = False
    window: _Window | None = None
    modified: Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)] | None = None


_ROW: TypeAdapter[Any] = TypeAdapter(Annotated[_StoredRow | _FailedRow, Discriminator("status")])


def manifest_path(output: Path) -> Path:
    """Return the path of the manifest: ``train-q50.beton`` -> ``train-q50.json``, ``train_50`` -> ``train_50.json``."""
    return output.with_name(f"{stem_of(output)}.json")


def items_path(output: Path) -> Path:
    """Return the path of the items: ``train-q50.beton`` -> ``train-q50.items.jsonl``."""
    return output.with_name(f"{stem_of(output)}.items.jsonl")


def read_manifest(beton: Path) -> Manifest | None:
    """Read the manifest beside ``beton``; None if there is none, as for files that FFCV wrote.

    Raises:
        BetonError: the manifest is not jpegcurr's, or ``beton`` does not have the size that it states.
    """
    path = manifest_path(beton)
    if not path.is_file():
        return None
    manifest = read_json(
        path, Manifest, complaint="is not a jpegcurr manifest", remedy="Encode again with --force.", error=BetonError
    )
    if beton.is_file() and beton.stat().st_size != manifest.beton_bytes:
        raise BetonError(
            f"{beton} has {beton.stat().st_size} bytes, but its manifest says {manifest.beton_bytes}: "
            "one of the two is from another run. Encode again with --force."
        )
    return manifest


def refuse_second_encode(beton: Path, manifest: Manifest, option: str) -> None:
    """Raise UsageError if the images of ``beton``, which ``option`` would encode again, have a quality already."""
    if manifest.quality != "source":
        raise UsageError(
            f"{beton} has quality {manifest.quality}: {option} would encode it a second time, which gives other images. "
            f"Give the beton of the source images, or omit {option.partition('=')[0]} to take the file as it is."
        )


def refuse_unnamed_labels(beton: Path, highest: int, manifest: Manifest) -> None:
    """Raise BetonError if ``highest``, the largest label in ``beton``, has no name in its manifest."""
    if highest >= len(manifest.classes):
        raise BetonError(
            f"{beton} has the label {highest}, but its manifest names {len(manifest.classes)} classes. Encode it again with "
            "--force."
        )


def read_items(beton: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``items.jsonl``, one per image that the source lists, in file order.

    Every row has key, label, source_bytes (-1 if unknown) and status. A stored image (``copied`` or ``encoded``) also has
    width, height, bytes and crc32 as stored, and the source_crc32 of its file; a ``failed`` one has the reason. An image whose
    original bytes could not be kept at the quality ``source`` has the quality and subsampling that it got instead; one that was
    decoded at a smaller scale has ``scaled``. In a folder's items, ``modified`` is the time stamp of the image's file, in
    nanoseconds, if it has one. Where samples are boxes, ``box`` has the edges as the annotation states them, null if they are
    not numbers, and ``window`` the pixels that were encoded; both are left, top, right and bottom.

    Raises:
        BetonError: the file is missing, or a line of it is no such row.
    """
    path = items_path(beton)
    return read_json_lines(
        path, _ROW, complaint="cannot be read", remedy=f"Encode {beton} again with --force.", error=BetonError
    )


def parse_row(line: bytes) -> dict[str, Any]:
    """Parse one line of ``items.jsonl``; raise ValueError if it is no such row."""
    return parse_line(line, _ROW)


class Totals:
    """The sums over all items that a manifest states."""

    def __init__(self) -> None:
        self.images = self.failures = self.copied = self.scaled = self.bytes_in = self.bytes_out = 0
        self._keys, self._content = hashlib.sha256(), hashlib.sha256()
        self._content_known = True
        self._labels: set[int] = set()

    def add(self, row: dict[str, Any]) -> None:
        """Add one row of the items."""
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
        if "source_crc32" in row:
            self._content.update(row["source_crc32"].to_bytes(4, "little"))
            self._content.update(b"".join(edge.to_bytes(4, "little") for edge in row.get("window", ())))
        else:
            self._content_known = False

    @property
    def labels(self) -> set[int]:
        """The labels of the stored images."""
        return self._labels

    def as_dict(self) -> dict[str, Any]:
        """Return the manifest's fields."""
        counts = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        content = self._content.hexdigest() if self._content_known else None
        return counts | {"keys_sha256": self._keys.hexdigest(), "content_sha256": content}


def describe_other_samples(first: Manifest, other: Manifest) -> str:
    """Return in what way ``other`` does not hold the samples of ``first``, in words; empty if it does.

    Keys, their order and, where both manifests state it, the content of the image files are compared; labels are not.
    """
    if first.images != other.images:
        return f"{other.images} images instead of {first.images}"
    if first.keys_sha256 != other.keys_sha256:
        return "other images, or the same in another order"
    if None not in (first.content_sha256, other.content_sha256) and first.content_sha256 != other.content_sha256:
        return "images of the same names, but of other files or boxes: some were replaced between the two encodes"
    return ""
