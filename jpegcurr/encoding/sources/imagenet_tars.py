"""ImageNet's own archives, read in place: what prepare_imagenet would unpack, key by key, without unpacking it."""

import logging
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jpegcurr.encoding.sources.base import Listing, ListingBuilder, Source
from jpegcurr.encoding.sources.image_folder import is_image_name
from jpegcurr.encoding.sources.imagenet_labels import classes_of, find_truth
from jpegcurr.encoding.sources.tar_index import Member, TarStore, members
from jpegcurr.errors import SourceError

NAMES = {"train": "ILSVRC2012_img_train.tar", "val": "ILSVRC2012_img_val.tar"}

log = logging.getLogger("jpegcurr")


def is_imagenet(root: Path) -> bool:
    """Whether ``root`` is a folder that holds one of ImageNet's archives, or is a tar, whatever opening it will tell of it."""
    if root.is_dir():
        return any((root / name).is_file() for name in NAMES.values())
    return ".tar" in root.suffixes and root.is_file()


def open_imagenet(root: Path, labels: Path | None) -> tuple[Source, ...]:
    """Read ``ILSVRC2012_img_{train,val}.tar`` in the folder ``root``, or one of them, whatever its name, as ``root``.

    A tar of tars is ``train``, each of them a class; a tar of images is ``val``, whose classes are told by ``labels`` or
    by a file beside it: the devkit, packed or not; one WordNet id a line, in the order of the images' names; lines
    ``name label`` or Kaggle's ``LOC_val_solution.csv``; or the shell lines ``mv name label/``. Labels are positions among
    the sorted classes of train, if its archive is there.

    Raises:
        SourceError: an archive is cut short, damaged, compressed or something else; nothing tells the classes of ``val``,
            or what does is about other images or classes.
    """
    archives = _archives(root)
    sources: list[Source] = []
    if "val" in archives:  # first, since what is wrong with it is found in seconds
        sources.append(_open_val(root, archives["val"], labels))
    elif labels is not None:
        raise SourceError(f"{labels} tells the classes of validation images, but {root} holds training images only.")
    if "train" in archives:
        sources.insert(0, _open_train(root, archives["train"]))
    return tuple(sources)


def _archives(root: Path) -> dict[str, Path]:
    if not root.is_dir():
        return {_split_of(root): root}
    found = {split: root / name for split, name in NAMES.items() if (root / name).is_file()}
    if not found:
        raise SourceError(f"{root} holds neither {NAMES['train']} nor {NAMES['val']}. Give the folder that does.")
    for split in NAMES:
        if split not in found and (root / split).is_dir():
            other = ", ".join(str(path) for path in found.values())
            raise SourceError(f"{root} holds the folder {split} and the archive {other}. Give either alone, or move one away.")
    return found


def _split_of(path: Path) -> str:
    """What an archive is, told by its first file."""
    with _opened(path) as file:
        first = next(members(file, str(path)), None)
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
        raise SourceError(f"{path} cannot be read: {error.strerror or error}. Mend that, or fetch it again.") from None


def _open_train(root: Path, path: Path) -> Source:
    builder = ListingBuilder()
    log.info("%s: looking up where its images lie", path)
    with _opened(path) as file:
        tars, ignored = _class_tars(path, file)
        classes = tuple(sorted(tars))
        labels = {name: label for label, name in enumerate(classes)}
        for name, tar in tars.items():
            before = len(builder)
            for member in members(file, f"{path}: {tar.name}", tar.offset, tar.offset + tar.size):
                if is_image_name(member.name):
                    builder.add(f"{name}/{member.name}", labels[name], member.size, 0, member.offset)
                else:
                    ignored += 1
            if len(builder) == before:
                raise SourceError(f"{path}: {tar.name} holds no images, so its class cannot be learnt. Fetch it again.")
    return Source(str(root), "train", classes, builder.build(), TarStore((str(path),)), ignored)


def _class_tars(path: Path, file: BinaryIO) -> tuple[dict[str, Member], int]:
    """The class archives by class, and how many files are none."""
    tars: dict[str, Member] = {}
    ignored = 0
    for member in members(file, str(path)):
        name, suffix = posixpath.splitext(posixpath.basename(member.name))
        if name in tars and suffix == ".tar":
            raise SourceError(f"{path} holds {member.name} twice. Keep one.")
        if suffix == ".tar":
            tars[name] = member
        else:
            ignored += 1
    if not tars:
        raise SourceError(f"{path} holds no class archives, <class>.tar, as the training images' archive does.")
    return tars, ignored


def _classes_beside(val: Path) -> tuple[str, ...] | None:
    """The classes of the training images' archive that lies beside the validation images'."""
    train = val.with_name(NAMES["train"])
    if not train.is_file():
        return None
    with _opened(train) as file:
        return tuple(sorted(_class_tars(train, file)[0]))


def _open_val(root: Path, path: Path, labels_path: Path | None) -> Source:
    truth = labels_path or find_truth(path)
    classes = _classes_beside(path)
    images, ignored = _flat(path)
    names = classes_of([image.key for image in images], str(path), truth, classes)
    classes = classes or tuple(sorted(set(names)))
    labels = {name: label for label, name in enumerate(classes)}
    builder = ListingBuilder()
    for image, name in zip(images, names, strict=True):
        builder.add(f"{name}/{image.key}", labels[name], image.size, 0, image.offset)
    return Source(str(root), "val", classes, builder.build(), TarStore((str(path),), flat=True), ignored, str(truth))


def _flat(path: Path) -> tuple[Listing, int]:
    """The images of an archive without folders, in the order of their names, and how many files are none."""
    builder, ignored, folders = ListingBuilder(), 0, set[str]()
    with _opened(path) as file:
        for member in members(file, str(path)):
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
