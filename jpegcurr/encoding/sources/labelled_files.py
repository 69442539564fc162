"""Image files with the class that each belongs to, by the rules of ``encode``, for the commands that judge a model on files."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jpegcurr.encoding.sources.image_folder import SUFFIXES, image_files, split_folders
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import SourceError, UsageError
from jpegcurr.text import join_words, sanitize

NAMED = 3  # folders that a message names


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """Image files, and the name of each one's class, None where there is no label.

    ``by_folder`` says that a class is the name of a folder, which may or may not be a class of a model.
    """

    files: tuple[Path, ...]
    classes: tuple[str | None, ...]
    by_folder: bool = True

    def __len__(self) -> int:
        return len(self.files)

    @classmethod
    def of(cls, files: Iterable[Path]) -> "LabelledFiles":
        """Return files that were given one by one: the class of each is the folder that holds it."""
        given = tuple(files)
        return cls(given, tuple(class_of(file, file.parent, ()) for file in given))

    def take(self, indices: Sequence[int]) -> "LabelledFiles":
        """Return the files at ``indices``."""
        files, classes = tuple(self.files[index] for index in indices), tuple(self.classes[index] for index in indices)
        return LabelledFiles(files, classes, self.by_folder)

    def renamed(self, truths: Mapping[str, str]) -> "LabelledFiles":
        """Return the files with the classes of a model that theirs count as, where it has other classes than the data."""
        if not truths:
            return self
        classes = tuple(None if name is None else truths.get(name, name) for name in self.classes)
        return replace(self, classes=classes)

    def numbers(self, classes: Sequence[str], *, known: bool) -> list[int]:
        """Return the number of every file's class among ``classes``; -1 if it has none, or their names are not ``known``."""
        numbers = {name: number for number, name in enumerate(classes)} if known else {}
        return [-1 if name is None else numbers.get(name, -1) for name in self.classes]

    def describe_unknown(self, classes: Sequence[str], model: str, *, known: bool) -> str:
        """Return how many files have no class that ``model`` has, and why, in a sentence; empty if all have one."""
        unknown = [name for name, number in zip(self.classes, self.numbers(classes, known=known), strict=True) if number < 0]
        if not unknown:
            return ""
        if not known:
            return f"The class names of {model} are not known, so no image has a known class, and no accuracy is given."
        verb = "image has" if len(unknown) == 1 else "images have"
        counted = Counter(name for name in unknown if name is not None)
        names = [f"{sanitize(name)!r} ({count:,})" for name, count in counted.most_common(NAMED)]
        more = [f"{len(counted) - NAMED:,} more"] if len(counted) > NAMED else []
        kind = "folder" if self.by_folder else "label"
        parts = [f"the {kind} is no class of {model}: {join_words([*names, *more])}"] if counted else []
        missing = sum(name is None for name in unknown)
        parts += [f"{missing:,} without a label"] if missing else []
        left_out = "It is left out" if len(unknown) == 1 else "They are left out"
        return f"{len(unknown):,} of {len(self):,} {verb} no class: {'; '.join(parts)}. {left_out} of every accuracy."


def find_labelled(paths: Sequence[Path], labels: Path | None = None) -> LabelledFiles:
    """Return the files and those in the folders, in the order given, without repetitions, with their classes.

    The class of a file in a folder is what ``encode`` would take it for: the first folder below the one that was given, or
    below its split (``train/<class>/...``), or, for a file directly in it, that folder itself. A file that was given alone is
    of the class of the folder that holds it. With ``labels``, a table as for ``encode``, classes are read from it instead.

    Raises:
        UsageError: a path does not exist, or a folder holds no images.
        SourceError: the table cannot be read, or is not about these images.
    """
    labelled: dict[Path, str | None] = {}
    for path in paths:
        files, root = find_images(path), path if path.is_dir() else path.parent
        if labels is not None:
            of_table = _read_table(root, labels)
            for file in files:
                labelled.setdefault(file, of_table.get(os.path.realpath(file)))
        else:
            splits = _split_folders(root) if path.is_dir() else ()
            for file in files:
                labelled.setdefault(file, class_of(file, root, splits))
    return LabelledFiles(tuple(labelled), tuple(labelled.values()), by_folder=labels is None)


def find_images(path: Path) -> list[Path]:
    """Return ``path`` if it is a file, else all image files below the folder, sorted; raises UsageError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"{path} does not exist. Give an image, or a folder of images.")
    images = sorted(path / name for name, _ in image_files(path) if name)
    if not images:
        raise UsageError(f"{path} holds no images. Their names end in {', '.join(sorted(SUFFIXES))}.")
    return images


def class_of(file: Path, root: Path, splits: Collection[Path]) -> str | None:
    """Return the class of an image file in the folder ``root``, whose folders ``splits`` are splits."""
    base = next((split for split in splits if split in file.parents), root)
    folders = file.relative_to(base).parts[:-1]
    return (folders[0] if folders else base.resolve().name) or None


def _split_folders(root: Path) -> Collection[Path]:
    """Return the folders that ``encode`` would read as splits; none where it would refuse to guess."""
    try:
        return split_folders(root).values()
    except SourceError:
        return ()


def _read_table(root: Path, labels: Path) -> dict[str, str]:
    """Return the class of every image that a table names, by the image's real path."""
    table = {}
    for source in open_sources(root, labels=labels):
        for item in source.items:
            table[os.path.realpath(source.store.locate(item))] = source.classes[item.label]
    return table
