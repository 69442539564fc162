"""Classes of ImageNet's validation images, from any of the files in which they are distributed."""

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
# File names to try, the most reliable first.
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


def find_ground_truth(archive: Path) -> Path:
    """Return the file or folder beside ``archive`` that holds its images' classes; raises SourceError if there is none."""
    truth = next((path for name in _NAMES if (path := archive.with_name(name)).exists()), None)
    if truth is None:
        raise SourceError(
            f"The classes of the images in {archive} are unknown. Put {DEVKIT} or LOC_val_solution.csv beside it, "
            "give such a file with --labels, or encode the archive of the training images alone."
        )
    return truth


def read_ground_truth(images: Sequence[str], archive: str, truth: Path, classes: Sequence[str] | None) -> list[str]:
    """Return the class of every one of ``images``, the sorted file names in ``archive``, as given by the file ``truth``.

    ``truth`` is the devkit, packed or unpacked; or has a class per line, in the order of the images' names; or lines that
    name image and class: ``name class``, with a space or a comma, or ``mv name class/``. A class is one of ``classes``
    (those of train, if they are known), or a position among them.

    Raises:
        SourceError: ``truth`` cannot be read or is of another kind, lacks an image, names an image that does not exist, or a
            class that is not among ``classes``.
    """
    content = _read(truth)
    if isinstance(content, list):
        if len(content) != len(images):
            raise SourceError(
                f"{truth} holds {len(content)} classes, but {archive} holds {len(images)} images. Give this archive's file."
            )
        names = content
    else:
        names = _by_name(content, images, archive, truth)
    if all(name.isdecimal() for name in names) and not (classes and set(names) <= set(classes)):
        names = _by_position(names, truth, classes)
    _check(names, images, truth, classes)
    return names


def _read(truth: Path) -> list[str] | dict[str, str]:
    """Return the classes in the order of the images' names, or by the stem of these."""
    if truth.is_dir() or {".tar", ".tgz"} & set(truth.suffixes):
        return _read_devkit(truth)
    try:
        lines = truth.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(
            f"{truth} cannot be read as a table of labels: {reason}. Give {DEVKIT} or LOC_val_solution.csv."
        ) from None
    rows = [words for line in lines if (words := re.split(r"[,\s]+", line.strip())) != [""]]
    if any(words[0] == "mv" for words in rows):
        return _read_moves(rows, truth)
    rows = rows[1:] if rows[:1] == [_KAGGLE_HEADER] else rows
    if not rows:
        raise SourceError(f"{truth} is empty. Give {DEVKIT} or LOC_val_solution.csv.")
    if all(len(words) == 1 for words in rows):
        return _check_not_ids([name for (name,) in rows], truth)
    return _keyed(rows, truth)


def _check_not_ids(names: list[str], truth: Path) -> list[str]:
    if all(name.isdecimal() for name in names):
        raise SourceError(f"{truth} holds ILSVRC ids, whose classes only the devkit names. Give {DEVKIT} itself.")
    return names


def _read_moves(rows: list[list[str]], truth: Path) -> dict[str, str]:
    """Return the classes by stem from lines ``mv [-n] name class/`` or ``mv name class/name``; ignore other lines."""
    moves = []
    for words in rows:
        if words[0] == "mv":
            name, *targets = [word for word in words[1:] if not word.startswith("-")] or [""]
            folders = (posixpath.dirname(target) if is_image_name(target) else target for target in targets)
            moves.append([name, *(posixpath.basename(folder.rstrip("/")) for folder in folders)])
    return _keyed(moves, truth)


def _keyed(rows: list[list[str]], truth: Path) -> dict[str, str]:
    """Return the classes by stem from rows of an image, its class and anything behind it (Kaggle's boxes)."""
    classes: dict[str, str] = {}
    for words in rows:
        if len(words) < 2:
            raise SourceError(f"{truth} has a line without a class, {words[0]!r}. Every line needs an image and its class.")
        stem = _stem(words[0])
        if classes.setdefault(stem, words[1]) != words[1]:
            raise SourceError(f"{truth} gives {words[0]} two classes, {classes[stem]} and {words[1]}. Keep the right one.")
    return classes


def _stem(name: str) -> str:
    """Return ``a`` for ``val/a.JPEG`` and for ``a``: tables name images with and without folder and suffix."""
    name = posixpath.basename(name)
    return posixpath.splitext(name)[0] if is_image_name(name) else name


def _read_devkit(truth: Path) -> list[str]:
    """Return the classes of the devkit; as in torchvision's ``parse_devkit_archive``, only ids of leaf synsets are classes."""
    from scipy.io import loadmat

    meta, ids = (_unpack(truth, name) for name in (_META, _IDS))
    try:
        synsets = np.atleast_1d(loadmat(BytesIO(meta), squeeze_me=True)["synsets"])
        # The columns of a synset: id, WordNet id, words, gloss, number of children.
        leaves = {int(row[0]): str(row[1]) for row in synsets if int(row[4]) == 0}
        numbers = [int(number) for number in ids.split()]
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise SourceError(f"{truth} is damaged: {_META} or {_IDS} cannot be read ({error}). Download it again.") from None
    unknown = next((number for number in numbers if number not in leaves), None)
    if unknown is not None:
        raise SourceError(f"{truth} gives an image the id {unknown}, which is no class in its {_META}. Download it again.")
    return [leaves[number] for number in numbers]


def _unpack(truth: Path, name: str) -> bytes:
    """Return the bytes of one file of the devkit."""
    try:
        if truth.is_dir():
            return (truth / name).read_bytes()
        with tarfile.open(truth) as tar:
            for member in tar:
                if member.name.endswith(f"/{name}") and (file := tar.extractfile(member)) is not None:
                    return file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        reason = str(error).partition(":")[0]  # tarfile lists all that it tried, on as many lines
        raise SourceError(f"{truth} cannot be read as the devkit: {reason}. Give {DEVKIT}.") from None
    raise SourceError(f"{truth} lacks {name}, which the devkit has. Give {DEVKIT}.")


def _by_name(classes: dict[str, str], images: Sequence[str], archive: str, truth: Path) -> list[str]:
    stems = [_stem(image) for image in images]
    lacking = next((image for image, stem in zip(images, stems, strict=True) if stem not in classes), None)
    if lacking is not None:
        raise SourceError(f"{truth} lacks {lacking}, which {archive} holds. Give the file of this archive.")
    other = next(iter(classes.keys() - set(stems)), None) if len(classes) != len(images) else None
    if other is not None:
        raise SourceError(f"{truth} names {other}, which {archive} does not hold. Give the file of this archive.")
    return [classes[stem] for stem in stems]


def _by_position(names: list[str], truth: Path, classes: Sequence[str] | None) -> list[str]:
    if classes is None:
        raise SourceError(
            f"{truth} gives classes as positions among the classes of the training images. "
            "Put their archive, ILSVRC2012_img_train.tar, beside that of the validation images."
        )
    beyond = next((name for name in names if int(name) >= len(classes)), None)
    if beyond is not None:
        raise SourceError(f"{truth} has the class {beyond}, but train has {len(classes)} classes, 0 to {len(classes) - 1}.")
    return [classes[int(name)] for name in names]


def _check(names: Sequence[str], images: Sequence[str], truth: Path, classes: Sequence[str] | None) -> None:
    """Raise SourceError for a class that ``train`` lacks or that cannot be the name of a folder."""
    known = set(names if classes is None else classes)
    for name, image in zip(names, images, strict=True):
        if name not in known:
            raise SourceError(f"{truth} gives {image} the class {name}, which the train split lacks.")
        if "/" in name or name.startswith("."):
            raise SourceError(f"{truth} gives {image} the class {name!r}, which cannot be the name of a folder.")
