"""Class archives, ``<class>.tar``, in which ImageNet-22k comes, read in place: the keys are those of the unpacked folders."""

import logging
from pathlib import Path
from typing import BinaryIO

from jpegcurr.encoding.sources.base import ListingBuilder, Source
from jpegcurr.encoding.sources.class_labels import sort_class_names
from jpegcurr.encoding.sources.image_folder import image_files, is_image_name
from jpegcurr.encoding.sources.tar_index import TarStore, read_members
from jpegcurr.errors import SourceError

SUFFIX = ".tar"

log = logging.getLogger("jpegcurr")


def is_class_tars(where: str) -> bool:
    """Return whether ``where`` is a folder that holds tars; those that are shards or ImageNet's archives are tried before."""
    root = Path(where)
    return root.is_dir() and bool(_archives(root))


def open_class_tars(where: str) -> tuple[Source, ...]:
    """List a folder of ``<class>.tar``, as one split named after the folder; other files are counted as ignored.

    Labels are positions among the sorted names of the archives (``sort_class_names``).

    Raises:
        SourceError: an archive is cut short, damaged, compressed, or holds no images; or the folder holds images as well.
    """
    root = Path(where)
    archives = _archives(root)
    image = next((path for path, _ in image_files(root) if path), None)
    if image is not None:
        raise SourceError(
            f"{root} holds class archives, such as {archives[0].name}, and images, such as {image}. Move one of the two away."
        )
    log.info("%s: listing the images of %d class archives", root, len(archives))
    classes = sort_class_names(path.stem for path in archives)
    labels = {name: label for label, name in enumerate(classes)}
    builder = ListingBuilder()
    ignored = sum(1 for _ in image_files(root)) - len(archives)
    for container, path in enumerate(archives):
        try:
            with path.open("rb") as file:
                ignored += add_class_archive(builder, file, str(path), path.stem, labels[path.stem], container)
        except OSError as error:
            raise SourceError(
                f"{path} cannot be read: {error.strerror or error}. Check its permissions, or download it again."
            ) from None
    store = TarStore(tuple(map(str, archives)))
    return (Source(where, root.resolve().name, classes, builder.build(), store, ignored, named=False),)


def _archives(root: Path) -> list[Path]:
    return sorted(path for path in root.glob(f"*{SUFFIX}") if not path.name.startswith(".") and path.is_file())


def add_class_archive(
    builder: ListingBuilder,
    file: BinaryIO,
    where: str,
    name: str,
    label: int,
    container: int = 0,
    start: int = 0,
    end: int | None = None,
) -> int:
    """Add the images of the class ``name``, whose archive lies between two bytes of ``file``; return the number of other files.

    Raises:
        SourceError: the archive ``where`` is damaged (``read_members``), or holds no images.
    """
    before, ignored = len(builder), 0
    for member in read_members(file, where, start, end):
        if is_image_name(member.name):
            builder.add(f"{name}/{member.name}", label, member.size, container, member.offset)
        else:
            ignored += 1
    if len(builder) == before:
        raise SourceError(f"{where} holds no images, so its class cannot be learned. Download it again, or remove it.")
    return ignored
