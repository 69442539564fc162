"""The names of images in a folder and in WebDataset shards, which follow from their keys; names that would clash are refused.

A folder is one of classes, as torchvision's ImageFolder reads it: ``<class>/<name>``, where the name is the rest of the key
below the class's own folder, or the whole key where the source has no such folders. All images are JPEGs, so a name with
another suffix gets ``.jpg`` behind it: ``a.png`` becomes ``a.png.jpg``, beside an ``a.jpg``. Characters that file systems or
terminals do not take become ``_`` (``path_part``). WebDataset ends a key at its first dot, so there ``a.b.jpg`` is ``a_b``.
"""

import logging
import posixpath
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b

import numpy as np

from jpegcurr.encoding.outputs.paths import Format
from jpegcurr.encoding.sources.base import Listing
from jpegcurr.errors import SourceError
from jpegcurr.files import path_part

log = logging.getLogger("jpegcurr")

_JPEG_SUFFIXES = (".jpg", ".jpeg")


class SampleNames:
    """The names of one split's images, given the names of its classes by label."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._prefixes = [f"{name}/" for name in classes]
        self.folders = [path_part(name) for name in classes]

    def path(self, key: str, label: int) -> str:
        """Return an image's path in a folder of classes."""
        *parents, name = key.removeprefix(self._prefixes[label]).split("/")
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() not in _JPEG_SUFFIXES:
            stem, suffix = name, ".jpg"
        return "/".join((self.folders[label], *map(path_part, parents), path_part(stem) + suffix))

    def shard_key(self, key: str, label: int) -> str:
        """Return a sample's ``__key__`` in WebDataset shards."""
        folder, name = posixpath.split(posixpath.splitext(self.path(key, label))[0])
        return f"{folder}/{name.replace('.', '_')}"


def refuse_same_names(where: str, classes: Sequence[str], items: Listing, kinds: Collection[Format]) -> None:
    """Raise SourceError if two images or classes of a split would have one name in an output of one of these formats.

    ``where`` names the data set and its split. Classes that ImageFolder would number in another way are warned of.
    """
    names = SampleNames(classes)
    if "folder" in kinds or "webdataset" in kinds:
        _refuse_same_folders(classes, names.folders)
    if "folder" in kinds:
        _refuse_same(where, items, names.path, "in a folder")
        _warn_of_other_numbers(where, items, names)
    if "webdataset" in kinds:
        _refuse_same(where, items, names.shard_key, "in WebDataset shards")


def _refuse_same_folders(classes: Sequence[str], folders: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for name, folder in zip(classes, folders, strict=True):
        other = first.setdefault(folder, name)
        if other != name:
            raise SourceError(
                f"The classes {other!r} and {name!r} would both be the folder {folder}. Rename one of them, or write --to "
                "beton or parquet, which keep their names."
            )


def _refuse_same(where: str, items: Listing, name_of: Callable[[str, int], str], place: str) -> None:
    """Compare 8-byte digests, which take less memory than a million names; then name the images of the first that is double."""
    digests = np.fromiter((_digest(name_of(item.key, item.label)) for item in items), np.uint64, len(items))
    values, counts = np.unique(digests, return_counts=True)
    double = set(values[counts > 1].tolist())
    if not double:
        return
    first: dict[str, str] = {}
    for item in items:
        name = name_of(item.key, item.label)
        if _digest(name) in double and first.setdefault(name, item.key) != item.key:
            raise SourceError(
                f"{where}: {first[name]} and {item.key} would both be {name} {place}. Rename one of them, or write --to "
                "beton or parquet, where every image keeps its own key."
            )


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _warn_of_other_numbers(where: str, items: Listing, names: SampleNames) -> None:
    """Warn if the sorted folders that hold images are not the classes in their order, since ImageFolder numbers these."""
    present = np.unique(items.labels).tolist()
    if sorted(names.folders[label] for label in present) != names.folders:
        log.warning(
            "%s: torchvision's ImageFolder numbers the folders that hold images in the order of their names, and so gives "
            "other labels than this data set; the manifest lists its %d classes by label",
            where,
            len(names.folders),
        )
