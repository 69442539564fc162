"""Classes of ImageNet's validation images, from any of the files in which they are distributed.

Every one of these formats is read here and nowhere else, for images in a folder and in an archive; ``csv_labels`` reads all
other tables.
"""

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
TRAIN_ARCHIVE = "ILSVRC2012_img_train.tar"
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
_PEEK = 1 << 16  # bytes that tell a format; the shell script begins with some 20,000 bytes of mkdir
_MOVE = re.compile(r"^[ ]*mv( |$)", re.MULTILINE)
_IMAGE = re.compile(r"ILSVRC2012_val_[0-9]{8}", re.ASCII)
_WORDNET = re.compile(r"n[0-9]{8}", re.ASCII)
_KAGGLE_HEADER = ["imageid", "predictionstring"]


def find_ground_truth(archive: Path) -> Path:
    """Return the file or folder beside ``archive`` that holds its images' classes; raises SourceError if there is none."""
    truth = next((path for name in _NAMES if (path := archive.with_name(name)).exists()), None)
    if truth is None:
        raise SourceError(
            f"The classes of the images in {archive} are unknown. Put {DEVKIT} or LOC_val_solution.csv beside it, "
            "give such a file with --labels, or encode the archive of the training images alone."
        )
    return truth


def read_imagenet_labels(truth: Path) -> list[str] | dict[str, str] | None:
    """Return the classes in the order of the images' names, or by image; None if ``truth`` is none of ImageNet's own files.

    ImageNet's files are the devkit, packed or unpacked; a WordNet id per line, in the order of the images' names; Kaggle's
    lines of an image, its class and its boxes, with their header or without; and shell lines ``mv image class/``. Images are
    named as in the file. Tables of image and class alone, such as ``val.txt``, are read as every table is; see
    ``resolve_positions`` for classes that are numbers.

    Raises:
        SourceError: ``truth`` is damaged, or holds ids whose classes only the devkit names.
    """
    if truth.is_dir():
        return _read_devkit(truth) if (truth / "data").exists() or truth.name.startswith("ILSVRC2012_devkit") else None
    if {".tar", ".tgz"} & set(truth.suffixes):
        return _read_devkit(truth)
    try:
        with truth.open(encoding="utf-8-sig", errors="surrogateescape") as file:
            start = file.read(_PEEK)
            if "\0" in start:
                return None
            first = next((words for line in start.splitlines() if (words := _words(line))), [])
            moves = _MOVE.search(start) is not None
            if not moves and not _is_imagenet_row(first):
                return None
            rows = [words for line in (start + file.read()).splitlines() if (words := _words(line))]
    except OSError:
        return None  # which reading it as any other table reports
    if moves:
        return _read_moves(rows, truth)
    if len(first) == 1:
        return _read_list(rows, truth)
    return _keyed(rows[1:] if _is_kaggle_header(first) else rows, truth)


def _words(line: str) -> list[str]:
    """Split a line at commas and spaces; an empty line has no words."""
    return [] if line.isspace() or not line else re.split(r"[,\s]+", line.strip())


def _is_kaggle_header(words: Sequence[str]) -> bool:
    return [word.lower() for word in words] == _KAGGLE_HEADER


def _is_imagenet_row(words: Sequence[str]) -> bool:
    if len(words) == 1:
        return _WORDNET.fullmatch(words[0]) is not None or words[0].isdecimal()
    boxes = len(words) >= 6 and all(word.isdecimal() for word in words[2:6])
    return _is_kaggle_header(words) or (boxes and is_validation_image(words[0]))


def is_validation_image(name: str) -> bool:
    """Return whether an image is named like ImageNet's validation images, with folder and suffix or without."""
    return _IMAGE.fullmatch(stem_of(name)) is not None


def _read_list(rows: list[list[str]], truth: Path) -> list[str]:
    wrong = next((words for words in rows if len(words) > 1), None)
    if wrong is not None:
        raise SourceError(f"{truth} has lines of one word and a line of {len(wrong)}, {' '.join(wrong[:3])!r}. Repair it.")
    names = [name for (name,) in rows]
    if all(name.isdecimal() for name in names):
        raise SourceError(
            f"{truth} holds ILSVRC ids, whose classes only the devkit names. Give {DEVKIT} itself; "
            "or, for other images, a table with a row of path and label for each."
        )
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
    """Return the classes by image from rows of an image, its class and anything behind it (Kaggle's boxes)."""
    classes: dict[str, str] = {}
    images: dict[str, str] = {}
    for words in rows:
        if len(words) < 2:
            raise SourceError(f"{truth} has a line without a class, {words[0]!r}. Every line needs an image and its class.")
        image = images.setdefault(stem_of(words[0]), words[0])
        if classes.setdefault(image, words[1]) != words[1]:
            raise SourceError(f"{truth} gives {words[0]} two classes, {classes[image]} and {words[1]}. Keep the right one.")
    if not classes:
        raise SourceError(f"{truth} is empty. Give {DEVKIT} or LOC_val_solution.csv.")
    return classes


def stem_of(name: str) -> str:
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


def resolve_positions(names: Sequence[str], truth: Path, classes: Sequence[str] | None) -> list[str]:
    """Return the classes that ``names`` mean, where they are of ImageNet's validation images.

    Whole numbers are positions among ``classes``, those of the training images, unless all of them are names of these.

    Raises:
        SourceError: ``names`` are numbers, and ``classes`` are unknown or fewer.
    """
    if not all(name.isdecimal() for name in names) or (classes and set(names) <= set(classes)):
        return list(names)
    if classes is None:
        raise SourceError(
            f"{truth} gives classes as positions among the classes of the training images. Put their archive, "
            f"{TRAIN_ARCHIVE}, beside that of the validation images, or their folder train beside the folder of these."
        )
    beyond = next((name for name in names if int(name) >= len(classes)), None)
    if beyond is not None:
        raise SourceError(f"{truth} has the class {beyond}, but train has {len(classes)} classes, 0 to {len(classes) - 1}.")
    return [classes[int(name)] for name in names]
