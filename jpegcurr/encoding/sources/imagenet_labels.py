"""Which class each of ImageNet's validation images is: the forms in which that is handed around."""

import posixpath
import re
import tarfile
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from jpegcurr.encoding.sources.image_folder import is_image_name
from jpegcurr.errors import SourceError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_META, _IDS = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
# The names it goes by; the surest comes first.
_NAMES = (
    DEVKIT,
    "ILSVRC2012_devkit_t12.tar",
    "ILSVRC2012_devkit_t12",
    "imagenet_2012_validation_synset_labels.txt",
    "LOC_val_solution.csv",
    "valprep.sh",
    "val.txt",
    "ILSVRC2012_validation_ground_truth.txt",
)
_KAGGLE_HEADER = ["ImageId", "PredictionString"]


def find_truth(archive: Path) -> Path:
    """Return the file or folder beside ``archive`` that tells its images' classes; raises SourceError if there is none."""
    found = next((path for name in _NAMES if (path := archive.with_name(name)).exists()), None)
    if found is None:
        raise SourceError(
            f"Nothing tells the classes of the images in {archive}. Put {DEVKIT} or LOC_val_solution.csv beside it, "
            "name such a file with --labels, or give the training images' archive alone."
        )
    return found


def classes_of(images: Sequence[str], archive: str, truth: Path, classes: Sequence[str] | None) -> list[str]:
    """Return the class of each of ``images``, the sorted file names in ``archive``, as ``truth`` has it.

    ``truth`` is the devkit, packed or unpacked; a class a line, in the order of the images' names; or lines that name
    image and class: ``name class``, with commas too, or ``mv name class/``. A class is one of ``classes`` (train's, if
    they are known), or its position among them.

    Raises:
        SourceError: it cannot be read or is something else, lacks an image, is about another one, or names a class that
            is not among ``classes``.
    """
    told = _read(truth)
    if isinstance(told, list):
        if len(told) != len(images):
            raise SourceError(f"{truth} tells {len(told)} classes, but {archive} holds {len(images)} images: they differ.")
        names = told
    else:
        names = _by_name(told, images, archive, truth)
    if all(name.isdecimal() for name in names) and not (classes and set(names) <= set(classes)):
        names = _by_position(names, truth, classes)
    _check(names, images, truth, classes)
    return names


def _read(truth: Path) -> list[str] | dict[str, str]:
    """Classes in the order of the images' names, or by the stem of those."""
    if truth.is_dir() or {".tar", ".tgz"} & set(truth.suffixes):
        return _read_devkit(truth)
    try:
        lines = truth.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{truth} cannot be read as a table of labels: {reason}. Give {DEVKIT} or another.") from None
    rows = [words for line in lines if (words := re.split(r"[,\s]+", line.strip())) != [""]]
    if any(words[0] == "mv" for words in rows):
        return _read_moves(rows, truth)
    rows = rows[1:] if rows[:1] == [_KAGGLE_HEADER] else rows
    if not rows:
        raise SourceError(f"{truth} is empty. Give {DEVKIT} or LOC_val_solution.csv.")
    if all(len(words) == 1 for words in rows):
        return _read_in_order([name for (name,) in rows], truth)
    return _keyed(rows, truth)


def _read_in_order(names: list[str], truth: Path) -> list[str]:
    if all(name.isdecimal() for name in names):
        raise SourceError(f"{truth} holds ILSVRC ids, whose meaning is in the devkit. Give {DEVKIT} itself.")
    return names


def _read_moves(rows: list[list[str]], truth: Path) -> dict[str, str]:
    """``mv [-n] name class/`` or ``mv name class/name``, among lines that do something else."""
    moves = []
    for words in rows:
        if words[0] == "mv":
            name, *targets = [word for word in words[1:] if not word.startswith("-")] or [""]
            folders = (posixpath.dirname(target) if is_image_name(target) else target for target in targets)
            moves.append([name, *(posixpath.basename(folder.rstrip("/")) for folder in folders)])
    return _keyed(moves, truth)


def _keyed(rows: list[list[str]], truth: Path) -> dict[str, str]:
    """Rows of an image, its class and whatever follows (Kaggle's boxes), by the image's stem."""
    told: dict[str, str] = {}
    for words in rows:
        if len(words) < 2:
            raise SourceError(f"{truth} names no class in the line {words[0]!r}. Each line needs an image and its class.")
        stem = _stem(words[0])
        if told.setdefault(stem, words[1]) != words[1]:
            raise SourceError(f"{truth} gives {words[0]} two classes, {told[stem]} and {words[1]}. Keep the right one.")
    return told


def _stem(name: str) -> str:
    """``val/a.JPEG`` and ``a`` -> ``a``: tables name images with and without what surrounds that."""
    name = posixpath.basename(name)
    return posixpath.splitext(name)[0] if is_image_name(name) else name


def _read_devkit(truth: Path) -> list[str]:
    """The devkit's table of synsets read as torchvision's ``parse_devkit_archive`` does: of its ids, the leaves' count."""
    from scipy.io import loadmat

    meta, ids = (_unpack(truth, name) for name in (_META, _IDS))
    try:
        synsets = np.atleast_1d(loadmat(BytesIO(meta), squeeze_me=True)["synsets"])
        # Of each synset: id, WordNet id, words, gloss, number of children.
        leaves = {int(row[0]): str(row[1]) for row in synsets if int(row[4]) == 0}
        numbers = [int(number) for number in ids.split()]
    except Exception as error:  # of scipy's: whatever a damaged file leads to
        raise SourceError(f"{truth} is damaged: {_META} or {_IDS} cannot be read ({error}). Fetch it again.") from None
    unknown = next((number for number in numbers if number not in leaves), None)
    if unknown is not None:
        raise SourceError(f"{truth} gives an image the id {unknown}, which is no class in its {_META}. Fetch it again.")
    return [leaves[number] for number in numbers]


def _unpack(truth: Path, name: str) -> bytes:
    """One file of the devkit."""
    try:
        if truth.is_dir():
            return (truth / name).read_bytes()
        with tarfile.open(truth) as tar:
            for member in tar:
                if member.name.endswith(f"/{name}") and (file := tar.extractfile(member)) is not None:
                    return file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = str(error).partition(":")[0]  # tarfile tells of all it tried, on as many lines
        raise SourceError(f"{truth} cannot be read as the devkit: {reason}. Give {DEVKIT}.") from None
    raise SourceError(f"{truth} has no {name}, which the devkit has. Give {DEVKIT}.")


def _by_name(told: dict[str, str], images: Sequence[str], archive: str, truth: Path) -> list[str]:
    stems = [_stem(image) for image in images]
    lacking = next((image for image, stem in zip(images, stems, strict=True) if stem not in told), None)
    if lacking is not None:
        raise SourceError(f"{truth} tells no class of {lacking}, which {archive} holds. They do not belong together.")
    other = next(iter(told.keys() - set(stems)), None) if len(told) != len(images) else None
    if other is not None:
        raise SourceError(f"{truth} names {other}, which {archive} does not hold. They do not belong together.")
    return [told[stem] for stem in stems]


def _by_position(names: list[str], truth: Path, classes: Sequence[str] | None) -> list[str]:
    if classes is None:
        raise SourceError(
            f"{truth} gives classes as positions among those of the training images, whose archive "
            "ILSVRC2012_img_train.tar is needed beside the validation images' to tell them."
        )
    beyond = next((name for name in names if int(name) >= len(classes)), None)
    if beyond is not None:
        raise SourceError(
            f"{truth} has the class {beyond}, but train has {len(classes)}, so positions end at {len(classes) - 1}."
        )
    return [classes[int(name)] for name in names]


def _check(names: Sequence[str], images: Sequence[str], truth: Path, classes: Sequence[str] | None) -> None:
    """A class is a folder's name, and one of train's."""
    known = set(names if classes is None else classes)
    for name, image in zip(names, images, strict=True):
        if name not in known:
            raise SourceError(f"{truth} gives {image} the class {name}, which the train split does not have.")
        if "/" in name or name.startswith("."):
            raise SourceError(f"{truth} gives {image} the class {name!r}, which cannot be a folder's name.")
