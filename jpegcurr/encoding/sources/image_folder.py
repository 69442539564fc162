"""Labelled image folders, the layout of torchvision's ImageFolder."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from jpegcurr.encoding.sources.base import MISSING, SPLIT_NAMES, SPLITS, FolderStore, ListingBuilder, Source
from jpegcurr.errors import SourceError

log = logging.getLogger("jpegcurr")

# torchvision's IMG_EXTENSIONS, and GIF.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif"})


def open_folders(root: Path) -> tuple[Source, ...]:
    """Read ``root/{train,val,test}/<class>/*``, or ``root/<class>/*`` as one split named after the folder.

    A split may have any of its ``SPLIT_NAMES``, in capitals or not. Labels are positions among the sorted class names;
    ``val`` and ``test`` take the classes of ``train`` when it is there. A ``test`` without class folders is left out, as are
    folders beside the splits, and that is said.

    Raises:
        SourceError: a folder is empty or without classes, two are the same split, or one has a class that ``train`` lacks.
    """
    splits = _split_folders(root)
    if not splits:
        return (_open_split(root, root, root.resolve().name, None, named=False),)
    sources: list[Source] = []
    for name, folder in splits.items():
        sources.append(_open_split(root, folder, name, sources[0].classes if "train" in splits and sources else None))
    return tuple(sources)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of splits that hold class folders, train first; none if there is neither train nor val."""
    found: dict[str, Path] = {}
    others = []
    for entry in _scan(root):
        if entry.name.startswith(".") or not is_folder(entry):
            continue
        split = SPLIT_NAMES.get(entry.name.lower())
        if split is None or (split == "test" and not _has_folders(root / entry.name)):
            others.append(entry.name)
        elif split in found:
            raise SourceError(f"{root} has the folders {found[split].name} and {entry.name} for the split {split}. Keep one.")
        else:
            found[split] = root / entry.name
    if not found.keys() & {"train", "val"}:
        return {}
    if others:
        named = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning("%s: left out, since they are no splits with class folders: %s", root, named)
    return {split: found[split] for split in SPLITS if split in found}


def _has_folders(folder: Path) -> bool:
    return any(is_folder(entry) for entry in _scan(folder))


def is_image_name(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def image_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield (path below ``folder``, bytes) of every file that is named like an image, and of the others with an empty path.

    Links are followed, into folders too but never round in a circle; hidden files are passed over. Whatever is named like
    an image is one to the listing, be it a folder or a dangling link: reading it tells.
    """
    yield from _walk(folder, "", frozenset({_identity(folder.stat())}))


def _walk(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int]]:
    for entry in _scan(folder / prefix):
        name = prefix + entry.name
        if entry.name.startswith("."):
            continue
        if is_image_name(entry.name):
            yield name, _size(entry)
        elif is_folder(entry):
            here = _identity(entry.stat())
            if here not in above:
                yield from _walk(folder, name + "/", above | {here})
        else:
            yield "", 0


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries in the order in which the keys below them sort, so that a million keys need not be sorted again."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name + "/" if is_folder(entry) else entry.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror}. Mend its permissions, or take it away.") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """No for a link to itself, and for one that may not be followed."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size(entry: os.DirEntry[str]) -> int:
    """Bytes on disk; MISSING for a dangling link."""
    try:
        return entry.stat().st_size
    except OSError:
        return MISSING


def _open_split(root: Path, folder: Path, split: str, classes: Sequence[str] | None, *, named: bool = True) -> Source:
    entries = [entry for entry in _scan(folder) if not entry.name.startswith(".")]
    found = [entry.name for entry in entries if is_folder(entry)]
    if not found:
        raise SourceError(
            f"{folder} has no class folders. Put the images of each class in a folder of its own, <class>/*, "
            "or name a table of labels: --labels labels.csv."
        )
    names = tuple(classes) if classes is not None else tuple(sorted(found))
    labels = {name: label for label, name in enumerate(names)}
    unknown = [name for name in found if name not in labels]
    if unknown:
        raise SourceError(f"{folder / unknown[0]} is a class that the train split does not have. Remove it or add it there.")
    builder, ignored = ListingBuilder(), len(entries) - len(found)
    for name in found:
        before = len(builder)
        for path, size in image_files(folder / name):
            if path:
                builder.add(f"{name}/{path}", labels[name], size)
            else:
                ignored += 1
        if len(builder) == before and classes is None:
            raise SourceError(f"{folder / name} holds no images, so its class cannot be learnt. Fill it or remove it.")
    if not len(builder):
        raise SourceError(f"{folder} has class folders but no images in them.")
    if len(names) == 1:
        log.warning("%s has a single class, %r. If a table tells the classes, name it: --labels labels.csv.", folder, names[0])
    return Source(str(root), split, names, builder.build(), FolderStore(folder), ignored, named=named)
