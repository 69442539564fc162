"""Images sorted into folders by truth and prediction, ``<truth>/<predicted>/name.jpg``, as links or copies."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from itertools import chain, count
from pathlib import Path

from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.errors import UsageError
from jpegcurr.files import path_part, staged_folder

MARK = ".sorted-by-jpegcurr"  # only a folder with this mark is ever replaced


class SortedFolder:
    """A folder that receives the labelled images that could be read."""

    def __init__(self, folder: Path, classes: Sequence[str], *, copy: bool) -> None:
        self._folder, self._copy = folder, copy
        self._names = folder_names(classes)
        self._taken: Counter[Path] = Counter()

    def add(self, prediction: FilePrediction) -> None:
        """Add an image, if it was read and its true class is known; a repeated file name gets a number."""
        if prediction.truth is None or prediction.probabilities is None:
            return
        labels = (prediction.truth, prediction.likeliest(1)[0])
        truth, predicted = (self._names[label] for label in labels)
        place = self._free(self._folder / truth / predicted / path_part(prediction.file.name))
        place.parent.mkdir(parents=True, exist_ok=True)
        if self._copy or not _link(place, prediction.file.resolve()):
            shutil.copy2(prediction.file, place)

    def _free(self, place: Path) -> Path:
        """Return ``place``, or the first of ``name-2.jpg``, ``name-3.jpg``, ... that does not exist."""
        while os.path.lexists(free := self._numbered(place)):
            pass
        return free

    def _numbered(self, place: Path) -> Path:
        self._taken[place] += 1
        number = self._taken[place]
        return place if number == 1 else place.with_stem(f"{place.stem}-{number}")


def _link(place: Path, file: Path) -> bool:
    """Create a symbolic link; return False where there are none: on FAT disks, and on Windows without the privilege."""
    try:
        place.symlink_to(file)
    except OSError:
        return False
    return True


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a safe and distinct folder name for every class; one that another class has already gets a number."""
    names: dict[str, None] = {}
    for name in map(path_part, classes):
        numbered = (f"{name}-{number}" for number in count(2))
        names[next(free for free in chain([name], numbered) if free not in names)] = None
    return list(names)


def refuse_folder(folder: Path, files: Sequence[Path], *, force: bool) -> None:
    """Raise UsageError unless ``folder`` can be created, or ``force`` is given and it holds nothing but sorted images."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--by-class {folder} is not a folder. Give the name of a new one.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not (folder / MARK).is_file():
        raise UsageError(f"--by-class {folder} holds other files than sorted images. Choose another folder.")
    if not force:
        raise UsageError(f"--by-class {folder} is not empty. Choose another folder, or replace it with --force.")
    here = folder.resolve()
    if inside := next((file for file in files if here in file.absolute().parents or here in file.resolve().parents), None):
        raise UsageError(f"--by-class {folder} would be replaced, but {inside} lies in it. Choose another folder.")


@contextmanager
def sorted_folder(folder: Path, classes: Sequence[str], *, copy: bool) -> Iterator[SortedFolder]:
    """Yield a ``SortedFolder`` that becomes ``folder``, or replaces it, when the block ends: whole or not at all.

    What a killed process has left beside ``folder`` is removed; the commands lock ``folder``, so nobody else is at it.
    """
    for aside in folder.absolute().parent.glob(f".{escape(folder.name)}-????????"):
        if (aside / "new" / MARK).is_file() and not (aside / "old").exists():
            shutil.rmtree(aside)
    with staged_folder(folder) as partial:
        (partial / MARK).touch()
        yield SortedFolder(partial, classes, copy=copy)
