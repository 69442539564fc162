"""Annotated boxes as samples: every box is one item, whose class is that of the box or of the folder that its image lies in.

``box_layouts.py`` finds the annotations and the splits, ``annotations.py`` reads the files. All boxes of an image are in one
split, and a box that is no part of its image is an item that fails when it is encoded (``box_windows.Box.window``).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jpegcurr.encoding.box_windows import BoxLabel, BoxOptions
from jpegcurr.encoding.sources.annotations import AnnotatedBox
from jpegcurr.encoding.sources.base import FolderStore, Item, ListingBuilder, Source
from jpegcurr.encoding.sources.box_layouts import Annotations, BoxSplit, read_annotations, split_images
from jpegcurr.encoding.sources.class_labels import ClassNumbers, resolve_labels, sort_class_names
from jpegcurr.encoding.sources.image_folder import image_files
from jpegcurr.errors import SourceError, did_you_mean

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class BoxStore:
    """Files below a folder, of which items are boxes: the key ``images/x.jpg#3`` is the third box of ``images/x.jpg``."""

    files: FolderStore

    def read(self, item: Item) -> bytes:
        """Read the image file that holds a box; see ``Store``."""
        return self.files.read(_image_of(item))

    def locate(self, item: Item) -> str:
        """Return the image's path and the number of the box in it."""
        return f"{self.files.locate(_image_of(item))}, box {item.key.rpartition('#')[2]}"

    def changed_at(self, item: Item) -> int | None:
        """Return when the image's file last changed; see ``Store``."""
        return self.files.changed_at(_image_of(item))

    def modified_at(self, item: Item) -> int | None:
        """Return the time stamp of the image's file; see ``Store``."""
        return self.files.modified_at(_image_of(item))


def _image_of(item: Item) -> Item:
    return replace(item, key=item.key.rpartition("#")[0])


def open_boxes(where: str | Path, options: BoxOptions, *, flat_classes: bool = False) -> tuple[Source, ...]:
    """List every annotated box below the folder ``where``, by split; keys end in the number of the box in its image, from 1.

    Classes are those of train, sorted (``sort_class_names``). With ``flat_classes`` no folder is a split. Boxes without a
    class and images without annotations are counted in ``Source.unlabelled`` and ``Source.ignored``.

    Raises:
        UsageError: the options contradict each other.
        SourceError: there are no annotations of this format, one cannot be read, a class or a split is unclear or unknown, or
            ``val`` has a class that ``train`` lacks.
    """
    root, rule = Path(where), options.rule()
    if not root.is_dir():
        raise SourceError(f"{where} is not a folder, and --boxes reads images and annotations from one. Give their folder.")
    sizes = {path: size for path, size in image_files(root) if path}
    if not sizes:
        raise SourceError(f"{where} holds no images.")
    are_named = options.label != "folder" or bool(options.classes)
    annotations = read_annotations(root, options.format, sizes, are_named=are_named)
    splits = split_images(root, annotations.images, flat_classes=flat_classes)
    label = _choose_label(root, splits, options.label)
    is_kept = _class_filter(root, annotations, options.classes)
    names, listings, unlabelled = ClassNumbers(), {}, {}
    for split in splits:
        builder, unlabelled[split.name] = ListingBuilder(rule), 0
        for image in split.images:
            key, folder = split.key(image), split.class_folder(image)
            for number, box in enumerate(image.boxes, 1):
                name = folder if label == "folder" else box.name or box.number
                if not is_kept(box):
                    continue
                if name is None:
                    unlabelled[split.name] += 1
                    continue
                builder.add_box(f"{key}#{number}", names.number(name), image.bytes, box.edges, image.stated)
        if len(builder):
            listings[split.name] = builder.build()
    if not listings:
        kept = f" of {', '.join(options.classes)}" if options.classes else ""
        raise SourceError(f"{where}: its annotations have no boxes{kept} with a class.")
    classes, listings = resolve_labels(str(where), listings, names.names, sort_class_names)
    _describe(root, annotations, label, () if options.classes else classes, sum(map(len, listings.values())))
    return tuple(
        Source(
            str(where),
            split.name,
            classes,
            listings[split.name],
            BoxStore(FolderStore(root / split.base)),
            ignored=sum(split.holds(path) for path in annotations.bare) + unlabelled[split.name],
            named=split.named,
            unlabelled=unlabelled[split.name],
            flat_classes=flat_classes,
            boxes=replace(options, label=label),
        )
        for split in splits
        if split.name in listings
    )


def _choose_label(root: Path, splits: Sequence[BoxSplit], wanted: BoxLabel | None) -> BoxLabel:
    """Return where classes are from; raise SourceError if both are possible and none is chosen, or the folders lack some."""
    folders = {bool(split.class_folder(image)): image.path for split in splits for image in split.images}
    if wanted == "folder" and False in folders:
        raise SourceError(
            f"{root / folders[False]} lies in no folder of a class, as in <class>/images. Give --label box: the boxes' classes."
        )
    if wanted is None and True in folders:
        raise SourceError(
            f"{root}: images lie in folders, such as {folders[True]}, and boxes have classes too. Say which are the labels: "
            "--label folder or --label box."
        )
    return wanted or "box"


def _class_filter(root: Path, annotations: Annotations, wanted: Sequence[str]) -> Callable[[AnnotatedBox], bool]:
    """Return a function that tells whether a box has one of the ``wanted`` classes, by name or number; all if there are none.

    Raises:
        SourceError: one of them is no class of a box.
    """
    if not wanted:
        return lambda _box: True
    boxes = [box for image in annotations.images for box in image.boxes]
    names = {*annotations.declared.values(), *(box.name for box in boxes if box.name is not None)}
    numbers = {*annotations.declared, *(box.number for box in boxes if box.number is not None)}
    for name in wanted:
        if name not in names | numbers:
            known = ", ".join(sort_class_names(names or numbers)[:8])
            raise SourceError(f"--box-class {name}: {root} has no such class. It has {known}.{did_you_mean(name, names)}")
    by_name = set(wanted) & names
    by_number = set(wanted) - names
    left_out = sum(box.name not in by_name and box.number not in by_number for box in boxes)
    log.info("%s: %d of %d boxes are of other classes than --box-class and are left out", root, left_out, len(boxes))
    return lambda box: box.name in by_name or box.number in by_number


def _describe(root: Path, annotations: Annotations, label: BoxLabel, classes: Sequence[str], boxes: int) -> None:
    """Say in the log which boxes are encoded, how they are labelled, and which names are unknown or, of all classes, unused."""
    meaning = "the folders of their images" if label == "folder" else "their own classes"
    log.info(
        "%s: %d boxes in %d annotated images are the samples, labelled by %s", root, boxes, len(annotations.images), meaning
    )
    if label == "folder":
        return
    if not annotations.declared and any(box.name is None for image in annotations.images for box in image.boxes):
        log.warning(
            "%s: the names of the classes are not known, so their numbers are the names; a classes.txt, or a data.yaml with "
            "names, would name them",
            root,
        )
    unused = [name for name in annotations.declared.values() if name not in classes]
    if unused and classes:
        log.info("%s: %d of the declared classes have no boxes and are left out, such as %s", root, len(unused), unused[0])
