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


def is_image_folder(where: str) -> bool:
    """Return whether ``where`` is a folder; ``open_folders`` or ``open_table`` then tells whether it can be encoded."""
    return Path(where).is_dir()


def open_folders(where: str | Path) -> tuple[Source, ...]:
    """List ``where/{train,val,test}/<class>/*``, or ``where/<class>/*`` as one split named after the folder.

    A split's folder may have any of its ``SPLIT_NAMES``, in capitals or not. Labels are positions among the sorted class
    names; ``val`` and ``test`` use the classes of ``train`` if there is one. A ``test`` without class folders and folders
    beside the splits are ignored with a warning.

    Raises:
        SourceError: a folder is empty or without classes, two are the same split, or one has a class that ``train`` lacks.
    """
    root = Path(where)
    splits = split_folders(root)
    if not splits:
        return (_open_split(root, root, root.resolve().name, None, named=False),)
    sources: list[Source] = []
    for name, folder in splits.items():
        sources.append(_open_split(root, folder, name, sources[0].classes if "train" in splits and sources else None))
    return tuple(sources)


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of splits that hold class folders, train first; none if there is neither train nor val."""
    folders: dict[str, Path] = {}
    others = []
    for entry in _scan(root):
        if entry.name.startswith(".") or not is_folder(entry):
            continue
        split = SPLIT_NAMES.get(entry.name.lower())
        if split is None or (split == "test" and not _has_folders(root / entry.name)):
            others.append(entry.name)
        elif split in folders:
            raise SourceError(f"{root} has the folders {folders[split].name} and {entry.name} for the split {split}. Keep one.")
        else:
            folders[split] = root / entry.name
    if not folders.keys() & {"train", "val"}:
        return {}
    if others:
        names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        log.warning("%s: ignored, because they are not splits with class folders: %s", root, names)
    return {split: folders[split] for split in SPLITS if split in folders}


def _has_folders(folder: Path) -> bool:
    return any(is_folder(entry) for entry in _scan(folder))


def is_image_name(name: str) -> bool:
    """Return whether a file's name has the suffix of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def image_files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield (path below ``folder``, bytes) of every file that is named like an image, and ("", 0) for every other file.

    Links are followed, also to folders but never in a circle; hidden files are skipped. Everything named like an image is
    listed, even a folder or a dangling link: reading it reports the error.
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
    """Return a folder's entries in the order of the keys below them, so that a million keys need not be sorted again."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name + "/" if is_folder(entry) else entry.name)
    except OSError as error:
        raise SourceError(f"{folder} cannot be listed: {error.strerror}. Change its permissions, or remove it.") from None


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder; a link that cannot be followed is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _size(entry: os.DirEntry[str]) -> int:
    """Return the bytes on disk; MISSING for a dangling link."""
    try:
        return entry.stat().st_size
    except OSError:
        return MISSING


def _open_split(root: Path, folder: Path, split: str, classes: Sequence[str] | None, *, named: bool = True) -> Source:
    entries = [entry for entry in _scan(folder) if not entry.name.startswith(".")]
    folders = [entry.name for entry in entries if is_folder(entry)]
    if not folders:
        raise SourceError(
            f"{folder} has no class folders. Put the images of each class in a folder of its own, <class>/*, "
            "or give a table of labels: --labels labels.csv."
        )
    names = tuple(classes) if classes is not None else tuple(sorted(folders))
    labels = {name: label for label, name in enumerate(names)}
    unknown = [name for name in folders if name not in labels]
    if unknown:
        raise SourceError(f"{folder / unknown[0]} is a class that the train split lacks. Remove it, or add it to train.")
    builder, ignored = ListingBuilder(), len(entries) - len(folders)
    for name in folders:
        before = len(builder)
        for path, size in image_files(folder / name):
            if path:
                builder.add(f"{name}/{path}", labels[name], size)
            else:
                ignored += 1
        if len(builder) == before and classes is None:
            raise SourceError(f"{folder / name} holds no images, so its class cannot be learned. Add images or remove it.")
    if not len(builder):
        raise SourceError(f"{folder} has class folders, but they hold no images.")
    if len(names) == 1:
        log.warning("%s has a single class, %r. If a table holds the labels, give it: --labels labels.csv.", folder, names[0])
    return Source(str(root), split, names, builder.build(), FolderStore(folder), ignored, named=named)
