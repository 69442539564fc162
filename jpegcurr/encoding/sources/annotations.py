"""Files of annotated boxes: YOLO's text, COCO's JSON and PASCAL VOC's XML, and the class names that stand beside YOLO's.

All give the edges of a box. Those of VOC are read as its tools write them, ``xmin`` and ``xmax`` as edges; PASCAL's own files
count pixels from 1, so there a window begins one pixel further to the right and the bottom.
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf, nan
from pathlib import Path
from typing import Any

from jpegcurr.errors import SourceError
from jpegcurr.json_files import describe, parse_fields, read_bounded

Edges = tuple[float, float, float, float]

NO_EDGES: Edges = (nan, nan, nan, nan)
_MOST_BYTES = 1 << 24  # of the annotations of one image, and of a file of class names
_MOST_COCO = 1 << 32
_COCO_FIELDS = frozenset(
    {"images", "annotations", "categories", "id", "name", "file_name", "width", "height", "image_id", "category_id", "bbox"}
    | {"iscrowd"}
)
_POLYGON = 9  # columns of a line of YOLO's, at least: a class and four corners


@dataclass(frozen=True, slots=True)
class AnnotatedBox:
    """One box: its edges, NaN if they cannot be read, and the number (YOLO, COCO) and name of its class, if there are any."""

    edges: Edges
    number: str | None
    name: str | None


@dataclass(slots=True)
class CocoImage:
    """An image that a COCO file lists, with its boxes in the order of the file; ``size`` is (width, height), 0 if unknown."""

    name: str
    size: tuple[int, int]
    boxes: list[AnnotatedBox] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CocoFile:
    """The content of a COCO file. ``crowds`` were left out, because they are regions and no objects; ``strays`` too, the
    annotations of images that the file does not list. ``categories`` are names by number."""

    images: tuple[CocoImage, ...]
    categories: dict[str, str]
    crowds: int
    strays: int


def read_yolo(file: Path) -> list[AnnotatedBox]:
    """Read ``class cx cy w h`` a line, as shares of the image's sides; further columns are ignored, such as a confidence.

    Raises:
        SourceError: the file cannot be read, or a line is the polygon of a segmentation.
    """
    boxes = []
    for number, line in enumerate(_read(file).decode("utf-8-sig", "replace").splitlines(), 1):
        columns = line.split()
        if len(columns) >= _POLYGON and len(columns) % 2 and all(0 <= _number(column) <= 1 for column in columns[1:]):
            raise SourceError(
                f"{file}: line {number} has {len(columns)} columns, the corners of a polygon. Give the boxes of the objects: a "
                "class, the centre x and y, the width and the height."
            )
        if columns:
            boxes.append(AnnotatedBox(_around(columns[1:5]), _class_number(columns[0]), None))
    return boxes


def _around(columns: Sequence[str]) -> Edges:
    if len(columns) < 4:
        return NO_EDGES
    x, y, width, height = map(_number, columns)
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _number(value: object) -> float:
    """Return a number as a float, NaN for anything else."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        return nan
    try:
        return float(value)
    except ValueError:
        return nan
    except OverflowError:
        return inf


def _class_number(text: str) -> str | None:
    """Return the number of a class as it is written without a fraction (``2.0`` is 2); None if it is no whole number."""
    value = _number(text)
    return str(int(value)) if 0 <= value < inf and value == int(value) else None


def read_voc(file: Path) -> tuple[tuple[int, int], list[AnnotatedBox]]:
    """Read the size of the image, zeros if it is not stated, and its boxes; raise SourceError for what is no VOC file."""
    data = _read(file)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise SourceError(f"{file} has a DOCTYPE, which annotations do not need and jpegcurr does not read. Remove it.")
    try:
        tree = ElementTree.fromstring(data)  # noqa: S314  # bounded, and without entities
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # of bytes or encodings that the parser does not know
        raise SourceError(f"{file} is not XML: {error}. Repair it, or remove it.") from None
    if tree.tag != "annotation":
        raise SourceError(f"{file} is not an annotation of PASCAL VOC: it is a <{tree.tag}>, not an <annotation>. Remove it.")
    width, height = (_number(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    size = (int(width), int(height)) if 0 < width < inf and 0 < height < inf else (0, 0)
    boxes = []
    for entry in tree.findall("object"):
        left, top, right, bottom = (_number(entry.findtext(f"bndbox/{edge}")) for edge in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append(AnnotatedBox((left, top, right, bottom), None, (entry.findtext("name") or "").strip() or None))
    return size, boxes


def read_coco(file: Path) -> CocoFile:
    """Read a file of COCO's instances; raise SourceError for JSON that is none. Polygons and masks are not kept in memory."""
    try:
        content = parse_fields(read_bounded(file, _MOST_COCO), _COCO_FIELDS)
    except ValueError as error:
        raise SourceError(f"{file} cannot be read ({describe(error)}). Repair it, or remove it.") from None
    lists = [content.get(name) if isinstance(content, dict) else None for name in ("images", "annotations", "categories")]
    for name, entries in zip(("images", "annotations", "categories"), lists, strict=True):
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise SourceError(
                f"{file} is not a file of COCO's instances: it has no list {name!r} of objects. Give another one."
            )
    try:
        return _coco(file, *lists)  # type: ignore[arg-type]
    except KeyError as error:
        raise SourceError(
            f"{file} is not a file of COCO's instances: an entry has no field {error}. Give another one."
        ) from None


def _coco(file: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]], categories: list[Any]) -> CocoFile:
    names = {str(category["id"]): str(category["name"]) for category in categories}
    listed = {str(image["id"]): CocoImage(str(image["file_name"]), _size(image)) for image in images}
    crowds = strays = 0
    for annotation in annotations:
        image, number = listed.get(str(annotation["image_id"])), str(annotation["category_id"])
        if number not in names:
            raise SourceError(
                f"{file}: an annotation has the category_id {number}, which none of its {len(names)} categories has. Repair it."
            )
        box = annotation["bbox"]
        if annotation.get("iscrowd"):
            crowds += 1
        elif image is None:
            strays += 1
        else:
            image.boxes.append(AnnotatedBox(_from_corner(box), number, names[number]))
    return CocoFile(tuple(listed.values()), names, crowds, strays)


def _size(image: dict[str, Any]) -> tuple[int, int]:
    width, height = _number(image.get("width")), _number(image.get("height"))
    return (int(width), int(height)) if 0 < width < inf and 0 < height < inf else (0, 0)


def _from_corner(box: object) -> Edges:
    if not isinstance(box, list) or len(box) != 4:
        return NO_EDGES
    x, y, width, height = map(_number, box)
    return x, y, x + width, y + height


def read_class_names(root: Path, folders: Iterable[Path]) -> tuple[tuple[str, ...], Path] | None:
    """Return the names of YOLO's classes by number, and the file that has them; None if there is no such file.

    The files are ``classes.txt`` and ``*.names`` in ``root`` and the ``folders`` of annotations, and YAML with ``names`` in
    ``root``.

    Raises:
        SourceError: one cannot be read, or two name other classes.
    """
    places = dict.fromkeys([root, *folders])
    files = [place / "classes.txt" for place in places if (place / "classes.txt").is_file()]
    files += sorted(root.glob("*.names")) + sorted([*root.glob("*.yaml"), *root.glob("*.yml")])
    by_file = {file: names for file in files if (names := _names_in(file))}
    for file, names in by_file.items():
        first = next(iter(by_file))
        if names != by_file[first]:
            raise SourceError(f"{first} and {file} name other classes. Keep the right one.")
    return next(((names, file) for file, names in by_file.items()), None)


def _names_in(file: Path) -> tuple[str, ...]:
    data = _read(file)
    if file.suffix not in (".yaml", ".yml"):
        return tuple(line.strip() for line in data.decode("utf-8-sig", "replace").strip().splitlines())
    import yaml  # in few data sets there is a file to read

    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise SourceError(f"{file} is not YAML: {str(error).splitlines()[0]}. Repair it, or remove it.") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(map(str, names)) != sorted(map(str, range(len(names)))):
            raise SourceError(f"{file}: the names of {len(names)} classes are not numbered from 0. Number them so.")
        names = [names[number] for number in sorted(names, key=int)]
    return tuple(str(name) for name in names) if isinstance(names, list) else ()


def _read(file: Path) -> bytes:
    try:
        return read_bounded(file, _MOST_BYTES)
    except ValueError as error:
        raise SourceError(f"{file} cannot be read ({describe(error)}). Repair it, or remove it.") from None
