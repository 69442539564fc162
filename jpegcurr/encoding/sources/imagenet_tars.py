"""ImageNet's own archives, read in place: the same keys and labels as after tools/prepare_imagenet has unpacked them."""

import logging
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jpegcurr.encoding.sources.base import Listing, ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import sort_class_names
from jpegcurr.encoding.sources.class_tars import add_class_archive
from jpegcurr.encoding.sources.csv_labels import label_images
from jpegcurr.encoding.sources.image_folder import is_image_name
from jpegcurr.encoding.sources.imagenet_labels import TRAIN_ARCHIVE, find_ground_truth
from jpegcurr.encoding.sources.split_table import divide
from jpegcurr.encoding.sources.table_rows import names_splits
from jpegcurr.encoding.sources.tar_index import Member, TarStore, read_members
from jpegcurr.errors import SourceError

NAMES = {"train": TRAIN_ARCHIVE, "val": "ILSVRC2012_img_val.tar"}

log = logging.getLogger("jpegcurr")


def is_imagenet(where: str | Path) -> bool:
    """Return whether ``where`` is a folder that holds one of ImageNet's archives, or any tar, whose kind opening it checks."""
    root = Path(where)
    if root.is_dir():
        return any((root / name).is_file() for name in NAMES.values())
    return ".tar" in root.suffixes and root.is_file()


def open_imagenet(where: str | Path, labels: Path | None) -> tuple[Source, ...]:
    """List ``ILSVRC2012_img_{train,val}.tar`` in the folder ``where``, or one such archive of any name.

    A tar of tars is ``train``, with a class per inner tar; a tar of images is ``val``, whose classes are read from ``labels``
    or from a file beside it, any that ``open_table`` reads too: the devkit, Kaggle's ``LOC_val_solution.csv``, ``val.txt``
    and others. Labels are positions among the sorted classes of train, if its archive is there. If it is there alone,
    ``labels`` may be a table that divides it (``split_table``).

    Raises:
        SourceError: an archive is cut short, damaged, compressed or of another kind; the classes of ``val`` are nowhere, or
            the file that holds them is about other images or classes.
    """
    root = Path(where)
    archives = _archives(root)
    sources: list[Source] = []
    if "val" in archives:  # first, since its errors appear within seconds
        sources.append(_open_val(root, archives["val"], labels))
    elif labels is not None and names_splits(labels):
        return divide(_open_train(root, archives["train"]), labels)
    elif labels is not None:
        raise SourceError(f"{labels} holds labels of validation images, but {root} holds training images only. Omit --labels.")
    if "train" in archives:
        sources.insert(0, _open_train(root, archives["train"]))
    return tuple(sources)


def _archives(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        return {_split_of(root): root}
    archives = {split: root / name for split, name in NAMES.items() if (root / name).is_file()}
    if not archives:
        raise SourceError(f"{root} holds neither {NAMES['train']} nor {NAMES['val']}. Give the folder that does.")
    for split in NAMES:
        if split not in archives and (root / split).is_dir():
            archive = ", ".join(str(path) for path in archives.values())
            raise SourceError(
                f"{root} holds the folder {split} and the archive {archive}. Give one of them, or move one to another folder."
            )
    return archives


def _split_of(path: Path) -> str:
    """Return the split that an archive is, judged by its first file."""
    with _opened(path) as file:
        first = next(read_members(file, str(path)), None)
    if first is not None and first.name.endswith(".tar"):
        return "train"
    if first is not None and is_image_name(first.name):
        return "val"
    raise SourceError(f"{path} holds neither class archives nor images. Unpack it and give the folder.")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise SourceError(
            f"{path} cannot be read: {error.strerror or error}. Check its permissions, or download it again."
        ) from None


def _open_train(root: Path, path: Path) -> Source:
    builder = ListingBuilder()
    log.info("%s: listing its images", path)
    with _opened(path) as file:
        tars, ignored = _class_tars(path, file)
        classes = sort_class_names(tars)
        labels = {name: label for label, name in enumerate(classes)}
        for name, tar in tars.items():
            start, end = tar.offset, tar.offset + tar.size
            ignored += add_class_archive(builder, file, f"{path}: {tar.name}", name, labels[name], start=start, end=end)
    return Source(str(root), "train", classes, builder.build(), TarStore((str(path),)), ignored)


def _class_tars(path: Path, file: BinaryIO) -> tuple[dict[str, Member], int]:
    """Return the class archives by class, and the number of other files."""
    tars: dict[str, Member] = {}
    ignored = 0
    for member in read_members(file, str(path)):
        name, suffix = posixpath.splitext(posixpath.basename(member.name))
        if name in tars and suffix == ".tar":
            raise SourceError(f"{path} holds {member.name} twice. Keep one.")
        if suffix == ".tar":
            tars[name] = member
        else:
            ignored += 1
    if not tars:
        raise SourceError(f"{path} holds no class archives, <class>.tar, as the archive of the training images does.")
    return tars, ignored


def _classes_beside(val: Path) -> tuple[str, ...] | None:
    """Return the classes of the training archive beside the validation archive; None if there is none."""
    train = val.with_name(NAMES["train"])
    if not train.is_file():
        return None
    with _opened(train) as file:
        return sort_class_names(_class_tars(train, file)[0])


def _open_val(root: Path, path: Path, labels_path: Path | None) -> Source:
    truth = labels_path or find_ground_truth(path)
    classes = _classes_beside(path)
    images, ignored = _list_flat(path)
    names = label_images([image.key for image in images], str(path), truth, classes)
    classes = classes or sort_class_names(names)
    labels = {name: label for label, name in enumerate(classes)}
    builder = ListingBuilder()
    for image, name in zip(images, names, strict=True):
        builder.add(f"{name}/{image.key}", labels[name], image.size, 0, image.offset)
    return Source(str(root), "val", classes, builder.build(), TarStore((str(path),), flat=True), ignored, str(truth))


def _list_flat(path: Path) -> tuple[Listing, int]:
    """Return the images of an archive without folders, in the order of their names, and the number of other files."""
    builder, ignored, folders = ListingBuilder(), 0, set[str]()
    with _opened(path) as file:
        for member in read_members(file, str(path)):
            if not is_image_name(member.name):
                ignored += 1
                continue
            folder, name = posixpath.split(member.name)
            folders.add(folder)
            if len(folders) > 1:
                raise SourceError(f"{path} holds images in folders, such as {member.name}. Unpack it and give the folder.")
            builder.add(name, 0, member.size, 0, member.offset)
    if not len(builder):
        raise SourceError(f"{path} holds no images.")
    return builder.build(), ignored
