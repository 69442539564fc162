"""Opening of a labelled data set: the table of the layouts that can be encoded, and the choice of splits."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jpegcurr.encoding.box_windows import BoxOptions
from jpegcurr.encoding.sources.base import LabelFrom, Source, SplitDraw
from jpegcurr.encoding.sources.boxes import open_boxes
from jpegcurr.encoding.sources.class_labels import describe_lone_images
from jpegcurr.encoding.sources.class_tars import is_class_tars, open_class_tars
from jpegcurr.encoding.sources.csv_labels import open_table
from jpegcurr.encoding.sources.huggingface import is_hub, open_hub
from jpegcurr.encoding.sources.image_folder import is_image_folder, open_folders
from jpegcurr.encoding.sources.imagenet_tars import is_imagenet, open_imagenet
from jpegcurr.encoding.sources.spelling import describe_missing, describe_spellings
from jpegcurr.encoding.sources.split_table import divide
from jpegcurr.encoding.sources.table_rows import names_splits
from jpegcurr.encoding.sources.union import unite
from jpegcurr.encoding.sources.webdataset import is_shards, open_shards
from jpegcurr.encoding.splits import split_source
from jpegcurr.errors import SourceError
from jpegcurr.text import join_words

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
    Layout(is_class_tars, open_class_tars),
    Layout(is_image_folder, open_table, labels="required"),
    Layout(is_image_folder, open_folders, folders=True),
)


def open_sources(
    where: str | Path | Sequence[str | Path],
    *,
    labels: str | Path | None = None,
    label_from: LabelFrom | None = None,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    limit: int | None = None,
    seed: int = 0,
    flat_classes: bool = False,
    draw: SplitDraw | None = None,
    boxes: BoxOptions | None = None,
) -> tuple[Source, ...]:
    """Open every split of a data set, or those named in ``splits``.

    ``where`` is an image folder, a flat folder with a table of ``labels``, ImageNet's own archives, a folder of class archives,
    WebDataset shards, or ``hf:NAME[:CONFIGURATION]``, a Hugging Face data set. Several are united (``unite``): keys begin
    with the name of the folder, and so do the paths in ``labels``. A table of splits divides a data set with labels of its
    own. ``label_from`` is for a list of bare paths. ``draw`` draws the splits of a data set that has none. ``classes`` keeps
    only the classes of these names; ``limit`` is the maximum number of images of each split, chosen by ``seed``. A data set
    without splits becomes one split, named by ``splits`` if given. ``flat_classes`` says that every folder in an image folder
    is a class, whatever its name. With ``boxes``, the items are not the images of the folder ``where`` but the boxes that are
    annotated in them. A data set in which nearly every image is a class of its own is warned of, and classes that differ in
    spelling alone or look like a missing value.

    Raises:
        UsageError: the shares of ``draw`` are none.
        SourceError: ``where`` is nothing that can be encoded, a split or class does not exist, or ``val`` has a class that
            ``train`` lacks; or ``flat_classes`` or ``label_from`` is set for what has no such classes; or ``draw`` is set for
            what has splits, or leaves a class without images to train on; or ``boxes`` cannot be read.
    """
    roots = [str(where)] if isinstance(where, str | Path) else list(map(str, where))
    if boxes is None:
        opened = _open_all(roots, None if labels is None else Path(labels), label_from, flat_classes)
    else:
        opened = _open_boxes(roots, labels or label_from, flat_classes, boxes)
    for describe in (describe_lone_images, describe_spellings, describe_missing):
        if warning := describe(join_words(roots), opened):
            log.warning("%s", warning)
    if draw is not None:
        opened = split_source(lone_split(opened), draw)
    sources = _choose_splits(opened, splits, join_words(roots))
    if classes:
        sources = tuple(source.with_classes(classes) for source in sources)
    if limit is not None:
        sources = tuple(source.limited(limit, seed) for source in sources)
    return sources


def lone_split(sources: Sequence[Source]) -> Source:
    """Return the only split of a data set, whose images can be divided; raise SourceError if it has splits of its own."""
    first = sources[0]
    if len(sources) > 1 or (first.named and first.split != "train"):
        splits = f"the split{'s' if len(sources) > 1 else ''} {join_words([source.split for source in sources])}"
        raise SourceError(
            f"{first.where} has {splits} already, so none is drawn. To divide one of them, give its folder or archive alone; "
            "to encode them as they are, omit --val and --test."
        )
    return first


def _open_boxes(roots: Sequence[str], labels: object, flat_classes: bool, boxes: BoxOptions) -> tuple[Source, ...]:
    if labels is not None:
        raise SourceError("The labels of boxes are from annotations or folders, so --labels does nothing. Omit it.")
    if len(roots) > 1:
        raise SourceError(f"--boxes reads one folder, and {join_words(roots)} are {len(roots)}. Encode them one by one.")
    return open_boxes(roots[0], boxes, flat_classes=flat_classes)


def _open_all(
    roots: Sequence[str], labels: Path | None, label_from: LabelFrom | None, flat_classes: bool
) -> tuple[Source, ...]:
    if label_from and labels is None:
        raise SourceError(f"--label-from {label_from} is for a list of bare paths. Give it too: --labels list.txt.")
    if len(roots) == 1:
        return _open(roots[0], labels, label_from, flat_classes)
    if labels is not None and all(_layout(root, labels).labels == "required" for root in roots):
        _refuse_flat_classes(roots[0], flat_classes)
        return open_table(roots, labels, label_from)
    if label_from or (labels is not None and not names_splits(labels)):
        raise SourceError(f"Some of {join_words(roots)} have labels of their own, so --labels {labels} does nothing. Omit it.")
    united = unite(roots, [_open(root, None, None, flat_classes) for root in roots])
    return united if labels is None else _divide(united, labels)


def _open(where: str, labels: Path | None, label_from: LabelFrom | None, flat_classes: bool) -> tuple[Source, ...]:
    layout = _layout(where, labels)
    if not layout.folders:
        _refuse_flat_classes(where, flat_classes)
    if layout.labels == "required":
        return layout.open(where, labels, label_from)
    if label_from:
        raise SourceError(f"--label-from {label_from} is for lists of paths in a folder, which {where} is not. Omit it.")
    if layout.labels == "optional":
        return layout.open(where, labels)
    if labels is not None and not names_splits(labels):
        raise SourceError(f"{where} has labels of its own, so --labels {labels} does nothing. Omit it.")
    opened = layout.open(where, flat_classes=True) if flat_classes else layout.open(where)
    return opened if labels is None else _divide(opened, labels)


def _refuse_flat_classes(where: str, flat_classes: bool) -> None:
    if flat_classes:
        raise SourceError(f"The classes of {where} are not folders, so --flat-classes does nothing. Omit it.")


def _divide(sources: Sequence[Source], labels: Path) -> tuple[Source, ...]:
    """Return the splits into which a table divides data sets with labels of their own."""
    where = sources[0].where
    if len(sources) > 1:
        splits = join_words([source.split for source in sources])
        raise SourceError(f"{where} has the splits {splits} already, so --labels {labels} does nothing. Omit it.")
    return divide(sources[0], labels)


def _layout(where: str, labels: Path | None) -> Layout:
    for layout in LAYOUTS:
        if (labels is not None or layout.labels != "required") and layout.matches(where):
            return layout
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
