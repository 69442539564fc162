"""Opening of a labelled data set: the table of the layouts that can be encoded, and the choice of splits."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.class_labels import describe_lone_images
from jpegcurr.encoding.sources.csv_labels import open_table
from jpegcurr.encoding.sources.huggingface import is_hub, open_hub
from jpegcurr.encoding.sources.image_folder import is_image_folder, open_folders
from jpegcurr.encoding.sources.imagenet_tars import is_imagenet, open_imagenet
from jpegcurr.encoding.sources.webdataset import is_shards, open_shards
from jpegcurr.errors import SourceError

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class Layout:
    """One kind of data set.

    ``matches(where)`` recognises it by the path or name that was given. ``open(where)`` lists its splits; unless
    ``labels``, the use of a labels file, is ``none``, it is called as ``open(where, labels)``. ``folders`` says that classes
    are folders, so that it is called as ``open(where, flat_classes=True)`` where all of them are classes.
    """

    matches: Callable[[str], bool]
    open: Callable[..., tuple[Source, ...]]
    labels: Literal["none", "optional", "required"] = "none"
    folders: bool = False


# The first that matches opens the data set; one whose labels are required matches only if they are given.
LAYOUTS = (
    Layout(is_hub, open_hub),
    Layout(is_shards, open_shards),
    Layout(is_imagenet, open_imagenet, labels="optional"),
    Layout(is_image_folder, open_table, labels="required"),
    Layout(is_image_folder, open_folders, folders=True),
)


def open_sources(
    where: str | Path,
    *,
    labels: str | Path | None = None,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    flat_classes: bool = False,
) -> tuple[Source, ...]:
    """Open every split of a data set, or those named in ``splits``.

    ``where`` is an image folder, a flat folder with a table of ``labels``, ImageNet's own archives, WebDataset shards,
    or ``hf:NAME[:CONFIGURATION]``, a Hugging Face data set. ``classes`` keeps only the classes of these names; ``limit`` is
    the maximum number of images of each split, chosen by ``seed``. A data set without splits becomes one split, named by
    ``splits`` if given. ``flat_classes`` says that every folder in an image folder is a class, whatever its name. A data set
    in which nearly every image is a class of its own is warned of (``describe_lone_images``).

    Raises:
        SourceError: ``where`` is nothing that can be encoded, a split or class does not exist, or ``val`` has a class that
            ``train`` lacks; or ``flat_classes`` is set for what is no image folder.
    """
    opened = _open(str(where), None if labels is None else Path(labels), flat_classes)
    if warning := describe_lone_images(str(where), opened):
        log.warning("%s", warning)
    sources = _choose_splits(opened, splits, str(where))
    if classes:
        sources = tuple(source.with_classes(classes) for source in sources)
    if limit is not None:
        sources = tuple(source.limited(limit, seed) for source in sources)
    return sources


def _open(where: str, labels: Path | None, flat_classes: bool) -> tuple[Source, ...]:
    for layout in LAYOUTS:
        if (labels is None and layout.labels == "required") or not layout.matches(where):
            continue
        if flat_classes and not layout.folders:
            raise SourceError(f"The classes of {where} are not folders, so --flat-classes does nothing. Omit it.")
        if layout.labels != "none":
            return layout.open(where, labels)
        if labels is not None:
            raise SourceError(f"{where} has labels of its own, so --labels {labels} does nothing. Omit it.")
        return layout.open(where, flat_classes=True) if flat_classes else layout.open(where)
    if not Path(where).exists():
        hint = " Name shards like this: 'shards/train-{000..146}.tar'." if "*" in where else ""
        raise SourceError(
            f"{where} does not exist.{hint} Give a folder that holds train/<class>/* and val/<class>/*, or <class>/*."
        )
    raise SourceError(f"{where} is not a folder or a known archive. `jpegcurr encode --help` lists what can be encoded.")


def _choose_splits(sources: tuple[Source, ...], splits: Sequence[str], where: str) -> tuple[Source, ...]:
    """Return the splits of these names; a lone split that is only named after its folder is renamed instead."""
    names = list(dict.fromkeys(splits)) or [source.split for source in sources]
    if len(sources) == len(names) == 1 and not sources[0].named:
        return (replace(sources[0], split=names[0]),)
    by_name = {source.split: source for source in sources}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise SourceError(f"{where} has no split {unknown[0]!r}, only {', '.join(by_name)}.")
    return tuple(by_name[name] for name in names)
