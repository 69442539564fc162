"""Files that the paths in a table name: below one folder, or below several whose names the paths then start with."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISDIR
from types import ModuleType

from jpegcurr.encoding.sources.base import MISSING, FolderStore, LabelFrom, Store
from jpegcurr.encoding.sources.image_folder import image_files, is_folder, is_image_name
from jpegcurr.encoding.sources.imagenet_labels import is_validation_image
from jpegcurr.encoding.sources.union import UnionStore, name_roots
from jpegcurr.errors import SourceError
from jpegcurr.text import join_words

_NAMED = 3  # rows that an error names


class Roots:
    """The folders that paths start from: a key is a path below the only one, or begins with the name of one of several.

    Raises:
        SourceError: two of them have one name, or one lies in another.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._by_name = {"": self.folders[0]} if len(folders) == 1 else dict(zip(name_roots(folders), folders, strict=True))
        self._bases = {
            name: tuple(dict.fromkeys((str(folder.absolute()), os.path.realpath(folder))))
            for name, folder in self._by_name.items()
        }

    def __str__(self) -> str:
        """Return the folders in words."""
        return join_words([str(folder) for folder in self.folders])

    @property
    def name(self) -> str:
        """The name of a split of all images."""
        return "+".join(self._by_name) if len(self.folders) > 1 else self.folders[0].resolve().name

    @property
    def store(self) -> Store:
        """A store that reads the images by their keys."""
        if len(self.folders) == 1:
            return FolderStore(self.folders[0])
        return UnionStore({name: FolderStore(folder) for name, folder in self._by_name.items()})

    def images(self) -> Iterator[str]:
        """Yield the key of every image in the folders, and "" for every other file."""
        for name, folder in self._by_name.items():
            yield from (posixpath.join(name, path) if path else "" for path, _ in image_files(folder))

    def place(self, key: str) -> str:
        """Return the path of the file that a key names; empty if it begins with the name of no folder."""
        if len(self.folders) == 1:
            return os.path.join(self.folders[0], key)  # noqa: PTH118  # a Path per row would be slow
        name, _, path = key.partition("/")
        return os.path.join(self._by_name[name], path) if name in self._by_name else ""  # noqa: PTH118

    def key(self, path: str) -> str | None:
        """Return the key of the file that ``path`` names, from the folders or absolute; None if it is outside of them."""
        if len(self.folders) == 1:
            return key_below(self._bases[""], path)
        if not os.path.isabs(path):  # noqa: PTH117
            key = key_below((), path)
            return key if key is not None and key.partition("/")[0] in self._by_name else None
        below = ((name, key_below(bases, path)) for name, bases in self._bases.items())
        return next((posixpath.join(name, key) for name, key in below if key is not None), None)

    def without_folders(self, key: str) -> str:
        """Return the key of an image of the same name directly in its root."""
        name, _, _ = key.partition("/") if len(self.folders) > 1 else ("", "", "")
        return posixpath.join(name, posixpath.basename(key))

    def class_of(self, key: str, label_from: LabelFrom) -> str | None:
        """Return the name of the folder that holds an image, or of the folder that holds that; None if a key has none."""
        folders = key.split("/")[:-1]
        depth = 1 if label_from == "parent" else 2
        return folders[-depth] if len(folders) >= depth else None


class PathFinder:
    """A finder of the files that a table's paths name."""

    def __init__(self, roots: Roots, labels: Path) -> None:
        self._roots, self._labels = roots, labels
        self._suffixes: dict[str, dict[str, list[str]]] = {}  # of every name without suffix, by folder
        self._numbers: dict[str, dict[str, str]] = {}  # names that are numbers, by the number without zeros in front
        self._guesses: list[str] = []

    def find(self, path: str, line: int) -> tuple[str, int]:
        """Return the item's key and its bytes; ``path`` unchanged and ``MISSING`` if there is no such file.

        Raises:
            SourceError: ``path`` is empty or outside of the root.
        """
        key = self._roots.key(path)
        if key is None:
            raise SourceError(
                f"{self._labels}{at_line(line)}: {path!r} is not a path below {self._roots}. Give paths that start there."
            )
        # ImageNet's tables name its images with a folder or without.
        for name in (key, self._roots.without_folders(key)) if "/" in key and is_validation_image(key) else (key,):
            size = self._size(name)
            if size == MISSING and not is_image_name(name):
                name = self._with_suffix(path, name, line)
                size = self._size(name)
            if size != MISSING:
                return name, size
        return key, MISSING

    def exists(self, path: str) -> bool:
        """Return whether ``path`` names a file, or more than one."""
        key = self._roots.key(path)
        return key is not None and (self._size(key) != MISSING or bool(self._candidates(key)))

    def refuse_guesses(self) -> None:
        """Raise SourceError if a path could only be guessed: the name of several images, or a number that lost its zeros."""
        if self._guesses:
            more = len(self._guesses) - _NAMED
            raise SourceError(
                f"{self._labels}: {len(self._guesses)} names are not the name of one image: {'; '.join(self._guesses[:_NAMED])}"
                f"{f'; and {more} more' if more > 0 else ''}. Write the names of the files in the table, with suffix, and in a "
                "spreadsheet as text, which keeps zeros."
            )

    def _with_suffix(self, path: str, key: str, line: int) -> str:
        """Return ``key`` with the suffix of the one image of that name; ``key`` if there is none; note what is a guess."""
        names = self._candidates(key)
        if len(names) == 1:
            return names[0]
        if names:
            self._guesses.append(f"{at_line(line).lstrip(', ') or path}: {path!r} may be {' or '.join(names)}")
        elif (longer := self._longer_number(key)) is not None:
            self._guesses.append(f"{at_line(line).lstrip(', ') or path}: {path!r} may be {longer}")
        return key

    def _candidates(self, key: str) -> list[str]:
        """Return the keys of the images with the name ``key`` and any suffix, in the order of their suffixes."""
        if is_image_name(key):
            return []
        folder, name = posixpath.split(key)
        return [key + suffix for suffix in self._folder(folder).get(name, ())]

    def _folder(self, folder: str) -> dict[str, list[str]]:
        """Return the suffixes of the images in a folder, by name."""
        if folder not in self._suffixes:
            suffixes = self._suffixes[folder] = defaultdict[str, list[str]](list)
            try:
                with os.scandir(self._roots.place(folder)) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        if is_image_name(entry.name) and not is_folder(entry):
                            name, suffix = os.path.splitext(entry.name)
                            suffixes[name].append(suffix)
            except OSError:
                pass  # no such folder: its images are missing
        return self._suffixes[folder]

    def _longer_number(self, key: str) -> str | None:
        """Return an image whose name is the number ``key`` with more zeros in front, as before a spreadsheet removed them."""
        folder, name = posixpath.split(key)
        if not (name.isascii() and name.isdecimal()):
            return None
        if folder not in self._numbers:
            names = (other for other in self._folder(folder) if other.isascii() and other.isdecimal())
            self._numbers[folder] = {_value(other): other for other in names if other.startswith("0")}
        longer = self._numbers[folder].get(_value(name))
        return None if longer is None else posixpath.join(folder, longer + self._folder(folder)[longer][0])

    def _size(self, key: str) -> int:
        try:
            status = os.stat(self._roots.place(key))  # noqa: PTH116
        except OSError:
            return MISSING
        return MISSING if S_ISDIR(status.st_mode) else status.st_size


def key_below(bases: Sequence[str], path: str, system: ModuleType = os.path) -> str | None:
    """Return the key of a table's ``path``: from the root, whose absolute paths are ``bases``; None if outside of it.

    ``system`` is the module of the operating system's paths. Windows takes both separators, and capitals for small letters.
    """
    key: str = system.normpath(path)
    inside = next((base for base in bases if system.normcase(key).startswith(system.normcase(base + system.sep))), None)
    key = (key[len(inside) + 1 :] if inside else key).replace(system.sep, "/")
    outside = system.isabs(key) or system.splitdrive(key)[0] or key in (".", "..") or key.startswith("../")
    return None if outside or "\0" in key else key


def at_line(line: int) -> str:
    """Return the end of a place in a table: ``, line 3``; empty for 0, an unknown line."""
    return f", line {line}" if line else ""


def _value(number: str) -> str:
    return number.lstrip("0") or "0"
