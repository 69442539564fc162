"""Layouts of annotated boxes: which annotation belongs to an image, and which split and class its folders name.

The annotation of ``A/images/B/x.jpg`` is ``A/labels/B/x.txt`` or ``A/annotations/B/x.txt`` (of VOC ``A/JPEGImages/x.jpg`` and
``A/Annotations/x.xml``), or it lies beside the image; a file of COCO names its images. Splits are folders (``images/train`` or
``train/images``), files of COCO (``instances_train2017.json``), or VOC's lists (``ImageSets/Main/train.txt``).
"""

import logging
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from jpegcurr.encoding.box_windows import BoxFormat
from jpegcurr.encoding.sources.annotations import AnnotatedBox, read_class_names, read_coco, read_voc, read_yolo
from jpegcurr.encoding.sources.base import SPLITS
from jpegcurr.encoding.sources.image_folder import image_files
from jpegcurr.encoding.sources.split_names import SPLIT_NAMES, split_in_name
from jpegcurr.errors import SourceError
from jpegcurr.text import join_words

log = logging.getLogger("jpegcurr")

_IMAGE_FOLDERS = ("images", "jpegimages")
_ANNOTATION_FOLDERS = ("labels", "annotations", "Annotations")
_COCO_PROBE = 500  # names of images by which their folder is chosen


@dataclass(frozen=True, slots=True)
class BoxImage:
    """An image and its boxes.

    ``path`` is below the root, ``bytes`` its size on the disk, ``stated`` the (width, height) that its annotation gives it,
    zeros if none; ``split`` is the split that a file, not a folder, names.
    """

    path: str
    bytes: int
    boxes: Sequence[AnnotatedBox]
    stated: tuple[int, int] = (0, 0)
    split: str | None = None

    def meaningful_folders(self) -> list[int]:
        """Return the positions in the path of the folders that may mean a split or a class: all but the lowest ``images``."""
        folders = self.path.split("/")[:-1]
        images = _lowest_image_folder(folders)
        return [at for at in range(len(folders)) if at != images]

    def top(self) -> str:
        """Return the path of the highest of these folders, from the root; "" if there is none."""
        positions = self.meaningful_folders()
        return "/".join(self.path.split("/")[: positions[0] + 1]) if positions else ""


@dataclass(frozen=True, slots=True)
class BoxSplit:
    """The images of one split: ``base`` is its folder below the root, "" for the root itself.

    ``named`` says that the data set names the split, so that it must not be renamed.
    """

    name: str
    base: str
    images: Sequence[BoxImage]
    named: bool

    def key(self, image: BoxImage) -> str:
        """Return an image's path below the split's folder."""
        return image.path.removeprefix(f"{self.base}/") if self.base else image.path

    def holds(self, path: str) -> bool:
        """Return whether a path from the root lies in the split's folder."""
        return not self.base or path.startswith(f"{self.base}/")

    def class_folder(self, image: BoxImage) -> str:
        """Return the name of the folder that stands for the class of an image; "" if there is none."""
        above = self.base.count("/") + 1 if self.base else 0
        position = next((at for at in image.meaningful_folders() if at >= above), None)
        return "" if position is None else image.path.split("/")[position]


@dataclass(slots=True)
class Annotations:
    """The annotated images of a data set, the images that have no annotation, and the declared class names by number."""

    images: list[BoxImage]
    bare: list[str]
    declared: dict[str, str] = field(default_factory=dict)


def _lowest_image_folder(folders: Sequence[str]) -> int | None:
    return next((at for at in reversed(range(len(folders))) if folders[at].lower() in _IMAGE_FOLDERS), None)


def read_annotations(root: Path, kind: BoxFormat, sizes: Mapping[str, int], *, are_named: bool = True) -> Annotations:
    """Read all annotations below ``root``; ``sizes`` are the bytes of its images, by path.

    Without ``are_named``, the names of YOLO's classes, which may differ from folder to folder, are not read.

    Images without annotations, annotations without an image and all else that gives no box are said in the log.

    Raises:
        SourceError: there are none of this format, or one cannot be read.
    """
    if kind == "yolo":
        annotations = _read_yolo(root, sizes, are_named=are_named)
    else:
        annotations = _read_coco(root, sizes) if kind == "coco" else _read_voc(root, sizes)
    if annotations.bare:
        log.warning(
            "%s: %s no annotation and gives no box, such as %s",
            root,
            _count(len(annotations.bare), "image has", "images have"),
            annotations.bare[0],
        )
    return annotations


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def _read_yolo(root: Path, sizes: Mapping[str, int], *, are_named: bool) -> Annotations:
    files_by_image, bare = _pair(root, sizes, ".txt", "yolo", {"classes.txt"})
    folders = dict.fromkeys((root / file).parent for file in files_by_image.values())
    names = read_class_names(root, folders) if are_named else None
    images = []
    for path, file in files_by_image.items():
        boxes = [_name_box(box, names, root / file) for box in read_yolo(root / file)]
        images.append(BoxImage(path, sizes[path], boxes))
    return Annotations(images, bare, {str(number): name for number, name in enumerate(names[0])} if names else {})


def _name_box(box: AnnotatedBox, names: tuple[tuple[str, ...], Path] | None, file: Path) -> AnnotatedBox:
    if names is None or box.number is None:
        return box
    if int(box.number) >= len(names[0]):
        raise SourceError(
            f"{file} has a box of the class {box.number}, and {names[1]} names the {len(names[0])} classes from 0 to "
            f"{len(names[0]) - 1}. Correct one of them."
        )
    return replace(box, name=names[0][int(box.number)])


def _read_voc(root: Path, sizes: Mapping[str, int]) -> Annotations:
    files_by_image, bare = _pair(root, sizes, ".xml", "voc", set())
    images = []
    for path, file in files_by_image.items():
        stated, boxes = read_voc(root / file)
        images.append(BoxImage(path, sizes[path], boxes, stated))
    return Annotations(_listed(root, images), bare)


def _listed(root: Path, images: list[BoxImage]) -> list[BoxImage]:
    """Return the images with the splits of VOC's lists, without those in none of them, if there are such lists."""
    folder = root / "ImageSets" / "Main"
    lists = {split: folder / f"{split}.txt" for split in SPLITS if (folder / f"{split}.txt").is_file()}
    if not lists.keys() & {"train", "val"} and (folder / "trainval.txt").is_file():
        lists["train"] = folder / "trainval.txt"
    splits: dict[str, str] = {}
    for split, file in lists.items():
        for line in file.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines():
            name = line.split()[0] if line.split() else ""
            if name and splits.setdefault(name, split) != split:
                raise SourceError(f"{name} is in {lists[splits[name]]} and in {file}, so its boxes would be in two splits.")
    if not lists:
        return images
    listed = [replace(image, split=splits.get(posixpath.splitext(posixpath.basename(image.path))[0])) for image in images]
    kept = [image for image in listed if image.split is not None]
    log.info("%s: splits are those of %s", root, join_words([str(file) for file in lists.values()]))
    if len(kept) < len(images):
        log.warning(
            "%s: %s in none of these lists and are left out", root, _count(len(images) - len(kept), "image is", "images are")
        )
    return kept


def _pair(
    root: Path, sizes: Mapping[str, int], suffix: str, kind: BoxFormat, others: set[str]
) -> tuple[dict[str, str], list[str]]:
    """Return the annotation of every image that has one, and the images that have none; ``others`` are no annotations."""
    files = {path for path, _ in image_files(root, lambda name: name.lower().endswith(suffix) and name not in others) if path}
    files_by_image: dict[str, str] = {}
    image_of: dict[str, str] = {}
    for path in sizes:
        file = next((place for place in _places(path, suffix) if place in files), None)
        if file is None:
            continue
        if file in image_of:
            raise SourceError(f"{root}: {image_of[file]} and {path} would both have the annotation {file}. Keep one of them.")
        files_by_image[path], image_of[file] = file, path
    if not files_by_image:
        raise SourceError(
            f"{root} has no image with an annotation of {kind}, which would be {next(_places(next(iter(sizes)), suffix))} for "
            f"{next(iter(sizes))}.{_other_format(root, kind)}"
        )
    folders = {posixpath.dirname(file) for file in image_of}
    lone = sorted(file for file in files - image_of.keys() if posixpath.dirname(file) in folders)
    if lone:
        log.warning("%s: %s no image, such as %s", root, _count(len(lone), "annotation has", "annotations have"), lone[0])
    return files_by_image, [path for path in sizes if path not in files_by_image]


def _places(path: str, suffix: str) -> Iterator[str]:
    """Yield the places where an image's annotation may lie, the most usual first."""
    *folders, name = path.split("/")
    file, images = posixpath.splitext(name)[0] + suffix, _lowest_image_folder(folders)
    if images is not None:
        for other in _ANNOTATION_FOLDERS:
            yield "/".join([*folders[:images], other, *folders[images + 1 :], file])
    yield "/".join([*folders, file])
    for other in _ANNOTATION_FOLDERS:
        yield "/".join([*folders, other, file])


def _other_format(root: Path, kind: BoxFormat) -> str:
    """Return a sentence that names another format of which ``root`` has files, if there is one."""
    suffixes: dict[BoxFormat, str] = {"yolo": ".txt", "coco": ".json", "voc": ".xml"}
    for other, suffix in suffixes.items():
        if other != kind and any(path for path, _ in image_files(root, lambda name, end=suffix: name.endswith(end))):  # type: ignore[misc]
            return f" It has {suffix} files: is it --boxes {other}?"
    return ""


def _read_coco(root: Path, sizes: Mapping[str, int]) -> Annotations:
    files = _coco_files(root)
    annotations = Annotations([], [])
    listed: dict[str, Path] = {}
    for split, file in files.items():
        content = read_coco(file)
        annotations.declared |= content.categories
        base = _coco_base(root, file, split, [image.name for image in content.images], sizes)
        missing = []
        for image in content.images:
            path = _below(base, image.name)
            if path not in sizes:
                missing.append(image.name)
                continue
            if path in listed:
                raise SourceError(f"{path} is listed twice, in {listed[path]} and {file}, so its boxes would be in two splits.")
            listed[path] = file
            annotations.images.append(BoxImage(path, sizes[path], image.boxes, image.size, split or None))
        if missing:
            log.warning(
                "%s: %s not below %s, such as %s", file, _count(len(missing), "image is", "images are"), root / base, missing[0]
            )
        if content.crowds:
            log.info("%s: %s left out", file, _count(content.crowds, "region of a crowd is", "regions of crowds are"))
        if content.strays:
            log.warning("%s: %s of no image in its list", file, _count(content.strays, "annotation is", "annotations are"))
    annotations.bare = [path for path in sizes if path not in listed]
    return annotations


def _below(base: str, name: str) -> str:
    path = posixpath.normpath(name.replace("\\", "/"))
    return f"{base}/{path}" if base else path


def _coco_files(root: Path) -> dict[str, Path]:
    """Return the files of COCO's annotations by split, "" if their names mean none."""
    files = sorted([*root.glob("*.json"), *root.glob("*/*.json")])
    chosen = [file for file in files if file.name.startswith("instances")] or files
    if not chosen:
        raise SourceError(
            f"{root} has no .json file of COCO's annotations, in itself or in a folder.{_other_format(root, 'coco')}"
        )
    by_split: dict[str, Path] = {}
    for file in chosen:
        meaning = split_in_name(file.stem) or (split_in_name(file.parent.name) if file.parent != root else None)
        other = by_split.setdefault(meaning[0] if meaning else "", file)
        if other != file:
            raise SourceError(f"{other} and {file} are both of {meaning[0] if meaning else 'no split'}. Keep one of them.")
    if "" in by_split and len(by_split) > 1:
        named = next(file for split, file in by_split.items() if split)
        raise SourceError(f"{named} is of a split, and {by_split['']} of none. Keep one of them, or name the split in both.")
    return by_split


def _coco_base(root: Path, file: Path, split: str, names: Sequence[str], sizes: Mapping[str, int]) -> str:
    """Return the folder, below ``root``, from which a file of COCO names its images: the one in which most of them lie."""
    folders = {""}
    for path in sizes:
        parts = path.split("/")[:-1]
        folders.update("/".join(parts[:depth]) for depth in range(1, min(len(parts), 3) + 1))
    probe = names[:: max(1, len(names) // _COCO_PROBE)]
    hits = {folder: sum(_below(folder, name) in sizes for name in probe) for folder in sorted(folders)}
    most = max(hits.values())
    if not most:
        example = f", such as {names[0]}" if names else ""
        raise SourceError(f"{root} has none of the {len(names)} images that {file} lists{example}. Give the folder of both.")
    best = [folder for folder, count in hits.items() if count == most]
    if len(best) > 1:
        best = [folder for folder in best if _belongs(folder, file, root, split)] or best
    if len(best) > 1:
        raise SourceError(
            f"{file}: its images may be those of {root / best[0]} or of {root / best[1]}, which have files of the same names. "
            "Keep the images of each split in a folder that is named after it."
        )
    return best[0]


def _belongs(folder: str, file: Path, root: Path, split: str) -> bool:
    """Return whether a folder of images surely is that of a file of COCO: it holds it, or is named after its split."""
    name = posixpath.basename(folder)
    parts = folder.split("/")
    means = any((meaning := split_in_name(part)) is not None and meaning[0] == split for part in parts)
    return root / folder == file.parent or (bool(name) and file.stem.endswith(name)) or bool(split and means)


def split_images(root: Path, images: Sequence[BoxImage], *, flat_classes: bool = False) -> list[BoxSplit]:
    """Return the splits, train first: those that files name, or folders if the names of all of them mean different splits.

    Raises:
        SourceError: some folders are called train, val or test and others are not, or two mean the same split.
    """
    by_name: dict[str, list[BoxImage]] = defaultdict(list)
    by_folder: dict[str, list[BoxImage]] = defaultdict(list)
    for image in images:
        by_name[image.split or ""].append(image)
        by_folder[image.top()].append(image)
    if by_name.keys() - {""}:
        splits = [BoxSplit(split, _common_base(split, by_name[split]), by_name[split], named=True) for split in by_name]
    else:
        names = {} if flat_classes else _folder_splits(root, list(by_folder))
        splits = [BoxSplit(split, folder, by_folder[folder], named=True) for split, folder in names.items()]
        if names:
            log.info("%s: read as splits: %s", root, ", ".join(f"{folder} as {split}" for split, folder in names.items()))
    if not splits:
        return [BoxSplit(root.resolve().name, "", images, named=False)]
    return sorted(splits, key=lambda split: SPLITS.index(split.name))


def _common_base(split: str, images: Sequence[BoxImage]) -> str:
    """Return the folder of a split that a file names, if all its images lie in one that means this split; else ""."""
    tops = {image.top() for image in images}
    return next(iter(tops)) if len(tops) == 1 and _meaning(next(iter(tops))) == split else ""


def _meaning(folder: str) -> str | None:
    meaning = split_in_name(posixpath.basename(folder))
    return meaning[0] if meaning else None


def _folder_splits(root: Path, folders: Sequence[str]) -> dict[str, str]:
    """Return the folders that are splits by the split's name; none if none of them is called like one."""
    meanings = {folder: _meaning(folder) for folder in folders}
    exact = [folder for folder in folders if posixpath.basename(folder).lower() in SPLIT_NAMES]
    others = [folder for folder, meaning in meanings.items() if meaning is None]
    if exact and others:
        raise SourceError(
            f"{root}: {exact[0]} is named like a split, but {others[0] or 'the folder itself'} is not, and both have annotated "
            "images. Give one split alone, and name it with --split; or, if these are classes, add --flat-classes."
        )
    if others:
        return {}
    splits: dict[str, str] = {}
    for folder, meaning in meanings.items():
        other = splits.setdefault(str(meaning), folder)
        if other != folder:
            raise SourceError(
                f"{root} has the folders {other} and {folder} for the split {meaning}. Keep one; or, if they are classes, add "
                "--flat-classes."
            )
    return splits
