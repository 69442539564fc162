"""Images sorted into folders by truth and prediction, ``<truth>/<predicted>/name.jpg``, as links or copies."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.errors import UsageError

MARK = ".sorted-by-jpegcurr"  # what is replaced is only what this made


class SortedFolder:
    """A folder under way; labelled images that were read go into it."""

    def __init__(self, folder: Path, classes: Sequence[str], *, copy: bool) -> None:
        self._folder, self._classes, self._copy = folder, classes, copy
        self._taken: Counter[Path] = Counter()

    def add(self, seen: FilePrediction) -> None:
        """Sort an image in, if it was read and its truth is known; a second one of a name gets a number."""
        if seen.truth is None or seen.probabilities is None:
            return
        truth, predicted = (folder_name(self._classes[label]) for label in (seen.truth, seen.likeliest(1)[0]))
        place = self._free(self._folder / truth / predicted / seen.file.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        if self._copy:
            shutil.copy2(seen.file, place)
        else:
            place.symlink_to(seen.file.resolve())

    def _free(self, place: Path) -> Path:
        """``place``, or the first of ``name-2.jpg``, ``name-3.jpg``, ... that nothing has."""
        while os.path.lexists(free := self._numbered(place)):
            pass
        return free

    def _numbered(self, place: Path) -> Path:
        self._taken[place] += 1
        number = self._taken[place]
        return place if number == 1 else place.with_stem(f"{place.stem}-{number}")


def folder_name(name: str) -> str:
    """A class's name as that of a folder: it may come from a data set and hold anything."""
    safe = name.replace("/", "_").replace("\0", "_")
    return f"_{safe}" if safe.startswith(".") or not safe else safe


def refuse_folder(folder: Path, files: Sequence[Path], *, force: bool) -> None:
    """Raise UsageError unless ``folder`` may be made, or replaced with ``force``."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"--by-class {folder} is not a folder. Give the name of one that is to be made.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise UsageError(f"--by-class {folder} is not empty. Choose another, or replace it with --force.")
    if not (folder / MARK).is_file():
        raise UsageError(f"--by-class {folder} holds what jpegcurr has not sorted, and is not replaced. Choose another.")
    here = folder.resolve()
    if inside := next((file for file in files if here in file.absolute().parents or here in file.resolve().parents), None):
        raise UsageError(f"--by-class {folder} would be replaced, and {inside} lies in it. Choose another.")


@contextmanager
def sorted_folder(folder: Path, classes: Sequence[str], *, copy: bool) -> Iterator[SortedFolder]:
    """Yield what sorts images into ``folder``, which appears whole or not at all and replaces what was there."""
    target = folder.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as aside:
        partial = Path(aside, "new")
        partial.mkdir()
        (partial / MARK).touch()
        yield SortedFolder(partial, classes, copy=copy)
        if target.exists():
            target.rename(Path(aside, "old"))
        partial.rename(target)
