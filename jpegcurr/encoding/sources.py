"""Labelled image folders as ordered lists of items."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from jpegcurr.errors import SourceError

SPLITS = ("train", "val")
# torchvision's IMG_EXTENSIONS, and GIF.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"})

Order = Literal["shuffle", "folder"]


@dataclass(frozen=True, slots=True)
class Item:
    """One image: ``key`` is its path below the split's folder with ``/``, ``size`` its bytes on disk."""

    key: str
    label: int
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class Source:
    """One split of the data set below ``root``, the folder that was given.

    ``classes[label]`` is a class's name; ``ignored`` counts files without an image suffix.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    ignored: int

    def ordered(self, order: Order, seed: int) -> tuple[Item, ...]:
        """Return the items in file order.

        ``shuffle`` sorts by BLAKE2b of (seed, key): the same on every machine and NumPy, and adding an image moves no
        other. ``folder`` sorts by key, which groups the classes.
        """
        if order == "folder":
            return self.items
        salt = seed.to_bytes(8, "little")
        return tuple(sorted(self.items, key=lambda item: blake2b(os.fsencode(item.key), digest_size=16, key=salt).digest()))


def open_splits(root: Path) -> tuple[Source, ...]:
    """Read ``root/{train,val}/<class>/*``, or ``root/<class>/*`` as one split named after the folder.

    Labels are positions among the sorted class names; ``val`` takes the classes of ``train`` when both are there.

    Raises:
        SourceError: a folder is missing, empty or without classes, or ``val`` has a class that ``train`` lacks.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise SourceError(f"{root} {what}. Give a folder that holds train/<class>/* and val/<class>/*, or <class>/*.")
    splits = [name for name in SPLITS if (root / name).is_dir()]
    if not splits:
        return (_open_split(root, root, root.resolve().name, None),)
    sources: list[Source] = []
    for name in splits:
        classes = sources[0].classes if sources else None
        sources.append(_open_split(root, root / name, name, classes))
    return tuple(sources)


def open_split(root: Path, split: str) -> Source:
    """Read one split of ``root`` as ``open_splits`` names it; raises SourceError if there is none."""
    sources = {source.split: source for source in open_splits(root)}
    if split not in sources:
        raise SourceError(f"{root} has no split {split!r}, only {', '.join(sources)}.")
    return sources[split]


def _open_split(root: Path, folder: Path, split: str, classes: Sequence[str] | None) -> Source:
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise SourceError(f"{folder} has no class folders. Put the images of each class in a folder of its own: <class>/*.")
    names = tuple(classes) if classes is not None else tuple(found)
    labels = {name: label for label, name in enumerate(names)}
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise SourceError(f"{folder / unknown[0]} is a class that the train split does not have. Remove it or add it there.")
    items: list[Item] = []
    ignored = 0
    for name in found:
        paths, others = _images(folder / name)
        if not paths and classes is None:
            raise SourceError(f"{folder / name} holds no images, so its class cannot be learnt. Fill it or remove it.")
        keys = (path.relative_to(folder).as_posix() for path in paths)
        items += [Item(key, labels[name], path, _size(path)) for key, path in zip(keys, paths, strict=True)]
        ignored += others
    if not items:
        raise SourceError(f"{folder} has class folders but no images in them.")
    return Source(root, split, names, tuple(items), ignored)


def _images(folder: Path) -> tuple[list[Path], int]:
    """All image files below ``folder``, sorted, and how many other files there are."""
    paths: list[Path] = []
    ignored = 0
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                paths.append(Path(parent, name))
            else:
                ignored += 1
    return sorted(paths), ignored


def _size(path: Path) -> int:
    """Bytes on disk; 0 for a dangling link, which reading will report."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
