"""One split of a data set: a listing of its images in columns, and a store that reads their bytes.

A listing of a million items takes about 60 MB, because an item is an object only while it is being encoded.
"""

import errno
import os
import stat
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from jpegcurr.descriptors import open_to_read, read_at
from jpegcurr.encoding.box_windows import Box, BoxOptions, BoxTable, WindowRule
from jpegcurr.errors import EncodeError, ImageError, SourceError
from jpegcurr.text import join_words

Order = Literal["shuffle", "folder"]
LabelFrom = Literal["parent", "grandparent"]
SPLITS = ("train", "val", "test")
MISSING = -1  # the size of a listed file that does not exist, and the offset of an image that is a file of its own

# Errors of one file, not of its disk or network: the image fails and the run continues.
_FILE_ERRORS = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR}
_MISSING_FILE = {errno.ENOENT, errno.ENOTDIR}


@dataclass(frozen=True, slots=True)
class Item:
    """One image.

    ``key`` names it within its split, with ``/``: its path below the split's folder, or below the folder that its archive
    would be unpacked to. ``size`` is in bytes, ``MISSING`` if unknown. ``container`` and ``offset`` tell its store which
    file it lies in and at which position. With a ``box``, the item is that part of the image, and its key ends in the box's
    number: ``images/x.jpg#3``.
    """

    key: str
    label: int
    size: int
    container: int = 0
    offset: int = MISSING
    box: Box | None = None


class Store(Protocol):
    """A reader of images' bytes. Stores are picklable, and threads and processes may read at the same time."""

    def read(self, item: Item) -> bytes:
        """Return the image file's bytes.

        Raises:
            ImageError: this image cannot be read (listed as missing, no permission, a folder).
            EncodeError: the source itself fails (a read error, or a file that has vanished since it was listed).
        """

    def locate(self, item: Item) -> str:
        """Return where an image lies, in words that help a person to find it."""

    def changed_at(self, item: Item) -> int | None:
        """Return when the image's file was last written, moved or replaced, in nanoseconds (``st_ctime``); None if unknown."""

    def modified_at(self, item: Item) -> int | None:
        """Return the time stamp that the image's file bears, in nanoseconds (``st_mtime``); None if it has none."""


@dataclass(frozen=True, slots=True)
class FolderStore:
    """Files below a folder: an item's key is its path."""

    root: Path

    def read(self, item: Item) -> bytes:
        """Read an image file; see ``Store``."""
        return read_bytes(os.path.join(self.root, item.key), 0, MISSING, listed=item.size >= 0)  # noqa: PTH118

    def locate(self, item: Item) -> str:
        """Return the file's path."""
        return str(self.root / item.key)

    def changed_at(self, item: Item) -> int | None:
        """Return when the file last changed; see ``Store``."""
        return file_changed_at(os.path.join(self.root, item.key))  # noqa: PTH118

    def modified_at(self, item: Item) -> int | None:
        """Return the file's time stamp; see ``Store``."""
        try:
            return os.stat(os.path.join(self.root, item.key)).st_mtime_ns  # noqa: PTH116, PTH118
        except OSError:
            return None


def file_changed_at(path: str) -> int | None:
    """Return a file's ``st_ctime`` in nanoseconds; None if there is no such file. Copying an older file over it changes it."""
    try:
        return os.stat(path).st_ctime_ns  # noqa: PTH116
    except OSError:
        return None


def read_bytes(path: str, offset: int, size: int, *, listed: bool = True) -> bytes:
    """Read ``size`` bytes from ``offset``, or a whole regular file with ``MISSING``; raises like ``Store.read``.

    ``listed`` says that the file existed when the source was listed, so that its absence means a vanished source.
    """
    try:
        descriptor = open_to_read(path)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file")
            return _read_fully(descriptor, offset, status.st_size if size == MISSING else size)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FILE_ERRORS or (error.errno in _MISSING_FILE and not listed):
            raise ImageError(reason) from None
        message = f"{path}: {reason}. The source failed (disk, network or archive), not just one image. Check it."
        raise EncodeError(message) from None


def _read_fully(descriptor: int, offset: int, size: int) -> bytes:
    """Call ``read_at`` until all is read: it returns at most 2 GiB at once, and less near a file's end."""
    data = read_at(descriptor, size, offset)
    if len(data) == size:
        return data
    parts = [data]
    while parts[-1] and (left := size - sum(map(len, parts))):
        parts.append(read_at(descriptor, left, offset + size - left))
    return b"".join(parts)


class Listing(Sequence[Item]):
    """Items in the order of their keys' bytes, stored in columns."""

    def __init__(
        self, keys: bytes, ends: NDArray[np.int64], columns: dict[str, NDArray[np.int64]], boxes: BoxTable | None = None
    ) -> None:
        self._keys, self._ends, self._columns, self._boxes = keys, ends, columns, boxes

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # slices are not needed
        numbers = {name: int(column[index]) for name, column in self._columns.items()}
        return Item(os.fsdecode(self.key_bytes(index)), **numbers, box=None if self._boxes is None else self._boxes[index])

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))

    @property
    def labels(self) -> NDArray[np.int64]:
        """The label of every item, int64 [n]."""
        return self._columns["label"]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The size of every item in bytes, int64 [n]; ``MISSING`` where unknown."""
        return self._columns["size"]

    def key_bytes(self, index: int) -> bytes:
        """Return one key as the file system's bytes."""
        start = int(self._ends[index - 1]) if index else 0
        return self._keys[start : int(self._ends[index])]

    def take(self, indices: NDArray[np.int64]) -> "Listing":
        """Return the items at ``indices``, in that order."""
        keys, ends = bytearray(), np.empty(len(indices), np.int64)
        for position, index in enumerate(indices):
            keys += self.key_bytes(int(index))
            ends[position] = len(keys)
        columns = {name: column[indices] for name, column in self._columns.items()}
        return Listing(bytes(keys), ends, columns, None if self._boxes is None else self._boxes.take(indices))

    def with_labels(self, labels: NDArray[np.int64]) -> "Listing":
        """Return the same items with other labels, int64 [n]."""
        return Listing(self._keys, self._ends, {**self._columns, "label": labels}, self._boxes)

    def is_sorted(self) -> bool:
        """Return whether the keys ascend; raises SourceError if a key equals its predecessor."""
        previous = b""
        for index in range(len(self)):
            key = self.key_bytes(index)
            if key <= previous:
                if key == previous:
                    raise SourceError(f"{os.fsdecode(key)} is listed twice. Name every image once.")
                return False
            previous = key
        return True

    def sorted(self) -> "Listing":
        """Return the same items sorted by key; raises SourceError if two have the same key."""
        by_key = sorted(range(len(self)), key=self.key_bytes)
        listing = self.take(np.fromiter(by_key, np.int64, len(self)))
        listing.is_sorted()
        return listing

    def shuffled(self, seed: int) -> NDArray[np.int64]:
        """Return the indices sorted by BLAKE2b of (seed, key).

        They are the same on every machine and NumPy, and a new image does not change the order of the others.
        """
        return order_by_hash(map(self.key_bytes, range(len(self))), seed)


def order_by_hash(names: Iterable[bytes], seed: int, purpose: bytes = b"") -> NDArray[np.int64]:
    """Return the positions of ``names``, sorted by BLAKE2b of (seed, name); orders for other purposes are independent."""
    salt = seed.to_bytes(8, "little")
    digests = bytearray()
    for name in names:
        digests += blake2b(name, digest_size=16, key=salt, person=purpose).digest()
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
    return np.lexsort((halves[:, 1], halves[:, 0]))


class ListingBuilder:
    """Builder of a listing: it collects items and sorts them by key. With a ``rule``, every item has a box."""

    def __init__(self, rule: WindowRule | None = None) -> None:
        self._rule = rule
        self._clear()

    def _clear(self) -> None:
        self._keys, self._ends = bytearray(), array("q")
        self._columns = {name: array("q") for name in ("label", "size", "container", "offset")}
        self._appends = [column.append for column in self._columns.values()]
        self._boxes = array("d")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, key: str, label: int, size: int, container: int = 0, offset: int = MISSING) -> None:
        """Append one item; see ``Item``."""
        self._keys += os.fsencode(key)
        self._ends.append(len(self._keys))
        for append, value in zip(self._appends, (label, size, container, offset), strict=True):
            append(value)

    def add_box(self, key: str, label: int, size: int, edges: Sequence[float], stated: Sequence[int]) -> None:
        """Append one item that is a box; see ``Item`` and ``Box``."""
        self.add(key, label, size)
        self._boxes.extend((*edges, *stated))

    def build(self) -> Listing:
        """Return the sorted listing and empty the builder; raises SourceError if two items have the same key."""
        columns = {name: np.array(column, np.int64) for name, column in self._columns.items()}
        boxes = BoxTable(np.array(self._boxes, np.float64), self._rule) if self._rule else None
        listing = Listing(bytes(self._keys), np.array(self._ends, np.int64), columns, boxes)
        self._clear()  # the sort needs the memory
        if not listing.is_sorted():
            listing = listing.sorted()
        return listing


@dataclass(frozen=True, slots=True)
class SplitDraw:
    """The shares of the images of every class that are drawn for ``val`` and ``test``, and the seed of the draw."""

    val: float
    test: float
    seed: int


@dataclass(frozen=True, slots=True)
class Source:
    """One split of a data set.

    ``root`` is the data set as given on the command line, and ``more_roots`` are those that are united with it;
    ``classes[label]`` is a class's name; ``ignored`` counts files
    that were passed over: those without the suffix of an image, and ``unlabelled`` images, which nothing gives a class;
    ``labels`` names the file that labels were read from, if there is one; ``limit`` is the maximum number of images, if one
    was set. ``named`` says that the data set itself names the split; otherwise it is named after its folder. With
    ``flat_classes`` every folder was read as a class, whatever its name. ``boxes`` are the options by which boxes were read,
    where items are boxes. ``label_from`` tells which folder of an image is its
    class, where ``labels`` is a list of bare paths. ``draw`` is how the split was drawn from a data set without splits.
    """

    root: str
    split: str
    classes: tuple[str, ...]
    items: Listing
    store: Store
    ignored: int = 0
    labels: str | None = None
    limit: int | None = None
    named: bool = True
    unlabelled: int = 0
    flat_classes: bool = False
    boxes: BoxOptions | None = None
    more_roots: tuple[str, ...] = ()
    label_from: LabelFrom | None = None
    draw: SplitDraw | None = None

    @property
    def where(self) -> str:
        """The data set, in words."""
        return join_words([self.root, *self.more_roots])

    def ordered(self, order: Order, seed: int) -> NDArray[np.int64]:
        """Return positions in ``items`` in file order: shuffled by seed, or sorted by key, which groups the classes."""
        return np.arange(len(self.items)) if order == "folder" else self.items.shuffled(seed)

    def with_classes(self, names: Sequence[str]) -> "Source":
        """Return the source with the classes ``names`` alone; labels are then positions among these, in their old order.

        Raises:
            SourceError: a name is not among the classes, or no image has one of them.
        """
        wanted, known = set(names), set(self.classes)
        if wanted == known:
            return self
        unknown = [name for name in names if name not in known]
        if unknown:
            shown = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else ".")
            raise SourceError(f"{self.where} has no class {unknown[0]!r}. It has {shown}")
        kept = [label for label, name in enumerate(self.classes) if name in wanted]
        mapping = np.full(len(self.classes), -1)
        mapping[kept] = np.arange(len(kept))
        labels = mapping[self.items.labels]
        indices = np.flatnonzero(labels >= 0)
        if not len(indices):
            raise SourceError(f"{self.where} has no images of {', '.join(names)} in the split {self.split}.")
        items = self.items.take(indices).with_labels(labels[indices])
        return replace(self, classes=tuple(self.classes[label] for label in kept), items=items)

    def limited(self, count: int, seed: int) -> "Source":
        """Return the source with the first ``count`` images of the shuffle by ``seed``; larger limits only add images."""
        kept = np.sort(self.items.shuffled(seed)[:count])
        return replace(self, items=self.items.take(kept), limit=count)

    def without(self, keys: frozenset[str]) -> "Source":
        """Return the source without the images of these keys."""
        if not keys:
            return self
        kept = [index for index, item in enumerate(self.items) if item.key not in keys]
        return replace(self, items=self.items.take(np.array(kept, np.int64)))
