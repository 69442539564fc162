"""Annotated boxes: windows, the three formats, layouts, labels, and annotations that are wrong."""

import json
import pickle
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from samples import jpeg, photograph

from jpegcurr.cli.encode import parse_boxes
from jpegcurr.encoding.beton.manifest import read_items, read_manifest
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.box_windows import Box, BoxOptions, Pad, WindowRule
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.sources.base import Source, SplitDraw
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import ImageError, SourceError, UsageError

NAMES = ("person", "dog")
# Boxes (class, left, top, right, bottom) of two images of 100x80 and 80x60 pixels.
BOXES = {"a": [(0, 10, 20, 60, 70), (1, 0, 0, 33, 27)], "b": [(1, 7, 11, 71, 53), (0, 30, 5, 47, 60), (0, 79, 59, 80, 60)]}
SIZES = {"a": (100, 80), "b": (80, 60)}


def write_images(folder: str) -> None:
    for name, (width, height) in SIZES.items():
        path = Path("set", folder, f"{name}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(photograph("coffee").crop((100, 90, 100 + width, 90 + height)), quality=93))


def write(path: str, text: str) -> None:
    Path("set", path).parent.mkdir(parents=True, exist_ok=True)
    Path("set", path).write_text(text)


def write_yolo(folder: str = "labels") -> None:
    for name, boxes in BOXES.items():
        width, height = SIZES[name]
        lines = []
        for kind, x1, y1, x2, y2 in boxes:
            numbers = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height
            lines.append(" ".join([str(kind), *(f"{number:.6f}" for number in numbers)]))
        write(f"{folder}/{name}.txt", "\n\n".join(lines))


def write_coco(path: str = "boxes.json", prefix: str = "") -> None:
    images = [
        {"id": number, "file_name": f"{prefix}{name}.jpg", "width": SIZES[name][0], "height": SIZES[name][1]}
        for number, name in enumerate(BOXES, 70)
    ]
    annotations = [
        {
            "image_id": number,
            "category_id": 5 + kind,
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "iscrowd": 0,
            "segmentation": [[1.5] * 6],
        }
        for number, name in enumerate(BOXES, 70)
        for kind, x1, y1, x2, y2 in BOXES[name]
    ]
    annotations.insert(1, {"image_id": 70, "category_id": 5, "bbox": [0, 0, 9, 9], "iscrowd": 1})
    categories = [{"id": 5 + number, "name": name} for number, name in enumerate(NAMES)]
    write(path, json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def write_voc(folder: str = "annotations") -> None:
    for name, boxes in BOXES.items():
        objects = "".join(
            f"<object><name>{NAMES[kind]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
            "</bndbox></object>"
            for kind, x1, y1, x2, y2 in boxes
        )
        size = f"<size><width>{SIZES[name][0]}</width><height>{SIZES[name][1]}</height></size>"
        write(f"{folder}/{name}.xml", f"<annotation>{size}{objects}</annotation>")


def opened(kind: str = "yolo", **options: object) -> Source:
    (source,) = open_sources("set", boxes=BoxOptions(kind, **options))  # type: ignore[arg-type]
    return source


def classes_by_key(source: Source) -> dict[str, str]:
    return {item.key: source.classes[item.label] for item in source.items}


WINDOWS = [
    ((1280, 720), (0.05, 0.05, 0.1, 0.1), "pixel:100", True, (0, 0, 328, 272)),
    ((1280, 720), (0.05, 0.05, 0.1, 0.1), "pixel:100", False, (0, 0, 228, 172)),
    ((1280, 720), (0.5, 0.5, 0.5, 0.5), "fix:224", True, (320, 180, 960, 540)),
    ((1280, 720), (0.9, 0.9, 0.2, 0.2), "bbox:.5", True, (768, 432, 1280, 720)),
    ((1280, 720), (0.5, 0.5, 0.1, 0.1), "image:.1", True, (448, 252, 832, 468)),
    ((1280, 720), (0.5, 0.5, 0.3, 0.6), "fix2:384", True, (424, 144, 856, 576)),
    ((500, 300), (0.5, 0.5, 0.2, 0.2), "fix2:384", True, (58, 0, 442, 300)),
    ((500, 300), (0.5, 0.5, 0.2, 0.2), "fix2:384", False, (58, 0, 442, 300)),
    ((1280, 720), (0.5, 0.5, 0.101, 0.1), "fix:224", False, (528, 248, 752, 472)),  # 129 pixels wide: 47 and 48 more
    ((1280, 720), (1.0, 0.5, 0.1, 0.1), None, False, (1216, 324, 1280, 396)),
]


@pytest.mark.parametrize(("size", "yolo", "pad", "keep_inside", "expected"), WINDOWS)
def test_windows(
    size: tuple[int, int], yolo: Sequence[float], pad: str | None, keep_inside: bool, expected: tuple[int, int, int, int]
) -> None:
    x, y, width, height = yolo
    rule = WindowRule(True, Pad.parse(pad) if pad else None, keep_inside)
    assert Box((x - width / 2, y - height / 2, x + width / 2, y + height / 2), (0, 0), rule).window(*size) == expected


numbers = st.floats(allow_nan=True, allow_infinity=True)
pads = st.sampled_from([None, "pixel:1", "pixel:65500", "bbox:100", "image:1", "fix:33", "fix2:65500"])


@given(edges=st.tuples(numbers, numbers, numbers, numbers), pad=pads, relative=st.booleans(), keep_inside=st.booleans())
def test_any_box_is_a_part_of_the_image_or_an_error(
    edges: tuple[float, float, float, float], pad: str | None, relative: bool, keep_inside: bool
) -> None:
    box = Box(edges, (0, 0), WindowRule(relative, Pad.parse(pad) if pad else None, keep_inside))
    try:
        left, top, right, bottom = box.window(41, 37)
    except ImageError:
        return
    assert 0 <= left < right <= 41
    assert 0 <= top < bottom <= 37


@given(x=st.integers(0, 3999), y=st.integers(0, 2999), width=st.integers(1, 4000), height=st.integers(1, 3000))
def test_six_decimals_cost_no_pixel(x: int, y: int, width: int, height: int) -> None:
    right, bottom = min(x + width, 4000), min(y + height, 3000)
    cx, cy = (float(f"{value:.6f}") for value in ((x + right) / 8000, (y + bottom) / 6000))
    w, h = (float(f"{value:.6f}") for value in ((right - x) / 4000, (bottom - y) / 3000))
    box = Box((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), (0, 0), WindowRule(True))
    assert box.window(4000, 3000) == (x, y, right, bottom)


@pytest.mark.parametrize(
    ("pad", "reason"),
    [
        ("pixels:3", "Did you mean 'pixel'"),
        ("pixel", "a whole number of pixels"),
        ("fix:0", "above 0"),
        ("fix:1.5", "a whole number"),
        ("bbox:nan", "a share of the box"),
        ("image:2", "at most 1"),
    ],
)
def test_paddings_that_are_none(pad: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        Pad.parse(pad)


def test_options() -> None:
    assert parse_boxes(None, None, (), None, keep_inside=False) is None
    options = parse_boxes("coco", "BBOX:.10", ("dog, 3", "dog"), "box", keep_inside=True)
    assert options == BoxOptions("coco", "bbox:0.1", True, ("dog", "3"), "box")
    for kind, pad, classes, keep_inside, reason in (
        (None, "fix:2", (), False, "--pad is for annotated boxes"),
        (None, None, ("dog",), False, "--box-class is for annotated boxes"),
        ("yolo", None, (), True, "--keep-inside does nothing without --pad"),
        ("yolo", None, (",",), False, "names no class"),
    ):
        with pytest.raises(UsageError, match=reason):
            parse_boxes(kind, pad, classes, None, keep_inside=keep_inside)  # type: ignore[arg-type]


def test_the_three_formats_give_the_same_betons_of_the_windows_pixels() -> None:
    write_images("images")
    written = {}
    for kind, annotate in {"yolo": write_yolo, "coco": write_coco, "voc": write_voc}.items():
        annotate()
        if kind == "yolo":
            write("data.yaml", "names: {1: dog, 0: person}\n")
        (source,) = open_sources("set", splits=["train"], boxes=BoxOptions(kind, pad="pixel:4", keep_inside=True))  # type: ignore[arg-type]
        assert pickle.loads(pickle.dumps(source.store)) == source.store  # noqa: S301
        manifests = encode_dataset(source, ["source", 50], kind)
        written[kind] = [path.read_bytes() for path in manifests]
    assert written["yolo"] == written["coco"] == written["voc"]
    path = Path("coco/train-q50.beton")
    beton, rows, manifest = Beton(path), list(read_items(path)), read_manifest(path)
    assert manifest is not None
    assert (manifest.boxes, manifest.classes) == (BoxOptions("coco", "pixel:4", True, (), "box"), ("dog", "person"))
    assert sorted(row["key"] for row in rows) == ["images/a.jpg#1", "images/a.jpg#2", *(f"images/b.jpg#{n}" for n in (1, 2, 3))]
    for index, row in enumerate(rows):
        name, number = row["key"].removeprefix("images/").split(".jpg#")
        kind, *edges = BOXES[name][int(number) - 1]
        assert row["box"] == edges
        left, top, right, bottom = row["window"]
        assert (right - left, bottom - top) == (
            min(edges[2] - edges[0] + 8, SIZES[name][0]),
            min(edges[3] - edges[1] + 8, SIZES[name][1]),
        )
        assert manifest.classes[row["label"]] == NAMES[kind]
        with Image.open(f"set/images/{name}.jpg") as image:
            part = image.crop((left, top, right, bottom))
        assert bytes(beton.payload(index)) == jpeg(part, quality=50)
    source_rows = list(read_items(Path("coco/train-source.beton")))
    assert {(row["status"], row["quality"], row["subsampling"]) for row in source_rows} == {("encoded", 95, "444")}
    assert [row["window"] for row in source_rows] == [row["window"] for row in rows]


def test_awkward_boxes_are_rows_with_a_reason() -> None:
    write_images("images")
    lines = [
        "1 .5 .5 .2 .2 .97",
        "1 nan .5 .2 .2",
        "1 .5 .5 .2",
        "1 1.5 .5 .2 .2",
        "1 .5 .5 0 .2",
        "1 .5 .5 1e300 .5",
        "1 .505 .5 .001 .5",
    ]
    write("labels/a.txt", "\n".join(lines))
    write("labels/b.txt", "")
    source = opened()
    manifests = encode_dataset(source, 50, "out", max_failures=5)
    rows = {row["key"]: row for row in read_items(Path("out/set-q50.beton"))}
    assert [
        rows[f"images/a.jpg#{number}"].get("reason", rows[f"images/a.jpg#{number}"].get("window")) for number in range(1, 8)
    ] == [
        [40, 32, 60, 48],
        "its box is not four finite numbers",
        "its box is not four finite numbers",
        "its box lies outside the image",
        "its box has no area",
        [0, 20, 100, 60],
        "its box covers no whole pixel of the 100x80 of the image",
    ]
    assert next(iter(manifests.values())).failures == 5
    assert rows["images/a.jpg#2"]["box"] is None
    assert source.store.locate(source.items[1]) == str(Path("set/images/a.jpg, box 2"))


def test_a_box_of_an_image_of_another_size_fails() -> None:
    write_images("images")
    write_coco()
    Path("set/images/a.jpg").write_bytes(Path("set/images/b.jpg").read_bytes())
    encode_dataset(opened("coco"), 50, "out", max_failures=2)
    reasons = {row["key"]: row.get("reason") for row in read_items(Path("out/set-q50.beton"))}
    assert reasons["images/a.jpg#1"] == "its box is of an image of 100x80 pixels, and the upright image has 80x60"
    assert reasons["images/b.jpg#1"] is None


def test_boxes_are_part_of_the_identity_that_resume_compares() -> None:
    write_images("images")
    write_yolo()
    encode_dataset(opened(), 50, "out")
    encode_dataset(opened(), 50, "out", resume=True)
    with pytest.raises(UsageError, match="has pad not set, this encode fix:50"):
        encode_dataset(opened(pad="fix:50"), 50, "out", resume=True)
    text = Path("set/labels/a.txt").read_text()
    write("labels/a.txt", text.replace("0.350000", "0.360000"))
    with pytest.raises(UsageError, match=r"a\.jpg, box 1 has another box than it had"):
        encode_dataset(opened(), 50, "out", resume=True)
    write("labels/a.txt", text)
    encode_dataset(opened(pad="fix:50"), 50, "other")
    first, second = read_manifest(Path("out/set-q50.beton")), read_manifest(Path("other/set-q50.beton"))
    assert first is not None
    assert second is not None
    assert first.keys_sha256 == second.keys_sha256
    assert first.content_sha256 != second.content_sha256  # so that they are not taken for two qualities of one data set


@pytest.mark.parametrize(
    ("images", "labels", "expected"),
    [
        ("images/{}", "labels/{}", "{}.jpg#1"),
        ("{}/images", "{}/labels", "images/{}.jpg#1"),
        ("{}2017/images", "{}2017/annotations", "images/{}.jpg#1"),
        ("{}", "{}", "{}.jpg#1"),
    ],
)
def test_splits_are_folders(images: str, labels: str, expected: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "jpegcurr")
    for split in ("train", "valid"):
        write_images(images.format(split))
        write_yolo(labels.format(split))
    train, val = open_sources("set", boxes=BoxOptions("yolo"))
    assert (train.split, val.split) == ("train", "val")
    assert classes_by_key(train) == classes_by_key(val)
    assert expected.replace("{}", "a") in classes_by_key(train)
    assert [len(source.store.read(source.items[0])) for source in (train, val)] == [train.items.sizes[0]] * 2
    assert "read as splits" in caplog.text
    assert "names of the classes are not known" in caplog.text
    assert train.classes == ("0", "1")


def test_voc_lists_and_cocos_files_are_splits() -> None:
    write_images("JPEGImages")
    write_voc("Annotations")
    write("ImageSets/Main/train.txt", "a\n")
    write("ImageSets/Main/val.txt", "b\n")
    train, val = open_sources("set", boxes=BoxOptions("voc"))
    assert (train.items[0].key, val.items[0].key) == ("JPEGImages/a.jpg#1", "JPEGImages/b.jpg#1")
    write("ImageSets/Main/val.txt", "b\na\n")
    with pytest.raises(SourceError, match=r"a is in .*train.txt and in .*val.txt"):
        open_sources("set", boxes=BoxOptions("voc"))
    for split in ("train", "val"):
        write_images(f"{split}2017")
        write_coco(f"annotations/instances_{split}2017.json")
        write(f"annotations/captions_{split}2017.json", "{}")
    train, val = open_sources("set", boxes=BoxOptions("coco"))
    assert (train.split, val.split, train.store.locate(train.items[0])) == (
        "train",
        "val",
        str(Path("set/train2017/a.jpg, box 1")),
    )


def test_labels_of_folders_or_boxes() -> None:
    for name in ("car", "train"):
        write_images(f"{name}/images")
        write_yolo(f"{name}/annotations")
    with pytest.raises(SourceError, match=r"train is named like a split, but car is not.*--flat-classes"):
        opened(label="folder")
    (source,) = open_sources("set", boxes=BoxOptions("yolo", label="folder"), flat_classes=True)
    assert classes_by_key(source)["train/images/a.jpg#2"] == "train"
    Path("set/train").rename("set/bus")
    with pytest.raises(SourceError, match="Say which are the labels"):
        opened()
    assert opened(label="folder").classes == ("bus", "car")
    assert opened(label="box").classes == ("0", "1")
    kept = opened(label="folder", classes=("1",))
    assert [item.key for item in kept.items] == [
        "bus/images/a.jpg#2",
        "bus/images/b.jpg#1",
        "car/images/a.jpg#2",
        "car/images/b.jpg#1",
    ]
    write("classes.txt", "person\ndog\n")
    assert opened(label="box", classes=("dog",)).classes == ("dog",)
    write("car/annotations/classes.txt", "vehicle\n")
    assert opened(label="folder").classes == ("bus", "car")
    with pytest.raises(SourceError, match="name other classes"):
        opened(label="box")
    Path("set/car/annotations/classes.txt").unlink()
    with pytest.raises(SourceError, match=r"--box-class dgo: set has no such class.*Did you mean 'dog'"):
        opened(label="box", classes=("dgo",))


def test_what_gives_no_box_is_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    write_images("images")
    write_yolo()
    Path("set/images/c.jpg").write_bytes(Path("set/images/b.jpg").read_bytes())
    write("labels/z.txt", "0 .5 .5 .1 .1\n")
    write("labels/a.txt", "x .5 .5 .1 .1\n0 .5 .5 .1 .1\n")
    source = opened()
    assert (source.ignored, source.unlabelled, len(source.items)) == (2, 1, 4)
    assert "1 image has no annotation and gives no box, such as images/c.jpg" in caplog.text
    assert "1 annotation has no image, such as labels/z.txt" in caplog.text
    write_coco()
    Path("set/images/a.jpg").unlink()
    assert len(opened("coco").items) == 3
    assert "1 image is not below" in caplog.text


WRONG = {
    "no annotations": ("yolo", {}, "no image with an annotation of yolo, which would be labels/a.txt"),
    "another format": ("yolo", {"a.json": "{}"}, "is it --boxes coco"),
    "a class beyond the names": (
        "yolo",
        {"labels/a.txt": "2 .5 .5 .1 .1", "classes.txt": "a\nb"},
        "the class 2.*classes from 0 to 1",
    ),
    "a polygon": ("yolo", {"labels/a.txt": "1 .1 .1 .2 .2 .3 .3 .4 .4"}, "line 1 has 9 columns, the corners of a polygon"),
    "no boxes": ("yolo", {"labels/a.txt": "\n"}, "have no boxes"),
    "two names": ("yolo", {"labels/a.txt": "0 .5 .5 .1 .1", "classes.txt": "a", "d.yaml": "names: [b]"}, "name other classes"),
    "no yaml": ("yolo", {"labels/a.txt": "0 .5 .5 .1 .1", "d.yaml": "a: ["}, "is not YAML"),
    "no json file": ("coco", {}, "has no .json file"),
    "another schema": ("coco", {"a.json": '{"images": [], "shapes": []}'}, "it has no list 'annotations'"),
    "no json": ("coco", {"a.json": "{"}, "it is not JSON"),
    "a list": ("coco", {"a.json": "[1]"}, "it has no list 'images'"),
    "captions": (
        "coco",
        {"a.json": '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}], "categories": []}'},
        "an entry has no field 'category_id'",
    ),
    "no images": (
        "coco",
        {"a.json": '{"images": [{"id": 1, "file_name": "q.jpg"}], "annotations": [], "categories": []}'},
        "none of the 1 images that .*, such as q.jpg",
    ),
    "an unknown category": (
        "coco",
        {
            "a.json": '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [], '
            '"annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 1, 1]}]}'
        },
        "the category_id 3",
    ),
    "no xml": ("voc", {"annotations/a.xml": "<annotation>"}, "a.xml is not XML"),
    "other xml": ("voc", {"annotations/a.xml": "<html/>"}, "it is a <html>"),
    "entities": ("voc", {"annotations/a.xml": "<!DOCTYPE x []><annotation/>"}, "has a DOCTYPE"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_annotations_are_refused_in_a_sentence(case: str) -> None:
    kind, files, reason = WRONG[case]
    write_images("images")
    for path, text in files.items():
        write(path, text)
    with pytest.raises(SourceError, match=reason) as error:
        opened(kind)
    assert "\n" not in str(error.value)


def test_huge_and_foreign_numbers_of_coco_are_rows() -> None:
    write_images("images")
    write_coco()
    content = json.loads(Path("set/boxes.json").read_text())
    boxes = [[0, 0, 10**90, 5], [0, 0, 9, 9], [-1e308, 0, 2e307, 5], [0, 0, "9", None], "0 0 1 1", [0, 0, True, 1]]
    for annotation, box in zip(content["annotations"], boxes, strict=True):
        annotation["bbox"] = box
    write("boxes.json", json.dumps(content).replace(str(10**90), "1" + "0" * 90))
    encode_dataset(opened("coco"), 50, "out", max_failures=4)
    rows = {row["key"]: row.get("reason", row.get("window")) for row in read_items(Path("out/set-q50.beton"))}
    nothing = "its box is not four finite numbers"
    assert list(rows.values()) == [[0, 0, 100, 5], "its box lies outside the image", nothing, nothing, nothing]


def test_drawn_splits_keep_the_boxes_of_an_image_together() -> None:
    for number in range(40):
        Path("set/images").mkdir(parents=True, exist_ok=True)
        Path(f"set/images/{number}.jpg").write_bytes(b"x")
        write(f"labels/{number}.txt", "0 .5 .5 .1 .1\n" * (1 + number % 3))
    train, val = open_sources("set", boxes=BoxOptions("yolo"), draw=SplitDraw(0.25, 0.0, 0))
    images = [{item.key.rpartition("#")[0] for item in source.items} for source in (train, val)]
    assert len(val.items) == 20
    assert not images[0] & images[1]
    with pytest.raises(SourceError, match="--boxes reads one folder"):
        open_sources(["set", "set/images"], boxes=BoxOptions("yolo"))
