"""Classes: one order of their names in every kind of source, and what is said of them."""

import json
from pathlib import Path

import pytest
from imagenet import nested, tar, write_archives
from samples import image

from jpegcurr.encoding.sources.class_labels import complete_numbers, count_classes, sort_class_names
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import SourceError

NAMES = ("10", "9", "07", "7", "0", "100")
ORDER = ("0", "07", "7", "9", "10", "100")


def write_folder(names: tuple[str, ...]) -> str:
    for name in names:
        Path("folder", name).mkdir(parents=True)
        Path("folder", name, "1.jpg").write_bytes(image(0))
    return "folder"


def write_table(names: tuple[str, ...]) -> str:
    Path("table").mkdir()
    for number in range(len(names)):
        Path(f"table/{number}.jpg").write_bytes(image(0))
    Path("labels.csv").write_text("".join(f"{number}.jpg,{name}\n" for number, name in enumerate(names)))
    return "table"


def write_shards(names: tuple[str, ...]) -> str:
    files = {}
    for number, name in enumerate(names):
        files |= {f"{number}.jpg": image(0), f"{number}.cls": name.encode()}
    Path("shards").mkdir()
    Path("shards/0.tar").write_bytes(tar(files))
    return "shards"


def write_archive(names: tuple[str, ...]) -> str:
    Path("archive").mkdir()
    Path("archive/ILSVRC2012_img_train.tar").write_bytes(nested({name: {"1.jpg": image(0)} for name in names}))
    return "archive"


def write_hub_texts(names: tuple[str, ...]) -> str:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": [{"bytes": image(0), "path": None}] * len(names), "label": list(names)}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(columns, features=features)).save_to_disk("texts")
    return "hf:texts"


def write_hub_names(names: tuple[str, ...]) -> str:
    """Write a ``ClassLabel`` whose names are sorted as text, as ``datasets`` sorts the folders of images."""
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    known = sorted(names)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=known)})
    columns = {"image": [{"bytes": image(0), "path": None}] * len(names), "label": [known.index(name) for name in names]}
    datasets.DatasetDict(train=datasets.Dataset.from_dict(columns, features=features)).save_to_disk("names")
    return "hf:names"


WRITERS = (write_folder, write_table, write_shards, write_archive, write_hub_texts, write_hub_names)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("names", "order"), [(NAMES, ORDER), (("b", "10", "9", "B"), ("10", "9", "B", "b"))])
def test_classes_have_one_order_in_every_kind_of_source(write, names: tuple[str, ...], order: tuple[str, ...]) -> None:
    if write is write_shards and "b" in names:
        names, order = ("b", "a", "B"), ("B", "a", "b")  # they refuse names beside numbers
    if write is write_hub_names and "b" in names:
        order = tuple(sorted(names))  # the data set's own
    where = write(names)
    (source,) = open_sources(where, labels=Path("labels.csv") if where == "table" else None)
    assert source.classes == order
    used = [source.classes[item.label] for item in source.items]
    assert sorted(used) == sorted(names)
    if where.startswith("hf:"):
        assert used == list(names), "sorting the classes keeps every image's own"


def test_whole_numbers_are_sorted_as_numbers_and_their_values_are_labels_only_without_zeros_in_front() -> None:
    assert sort_class_names(NAMES) == ORDER
    assert sort_class_names(["10", "9", "x"]) == ("10", "9", "x")
    assert sort_class_names(["-1", "2", "-10"]) == ("-10", "-1", "2")
    assert complete_numbers(["3", "1"]) == ("0", "1", "2", "3")
    assert complete_numbers(["3", "01"]) == ("01", "3")


def test_images_per_class_include_classes_without_any() -> None:
    for name, count in {"a": 5, "b": 1, "c": 2}.items():
        for number in range(count):
            Path("d/train", name).mkdir(parents=True, exist_ok=True)
            Path("d/train", name, f"{number}.jpg").write_bytes(b"x")
    Path("d/val/a").mkdir(parents=True)
    Path("d/val/a/1.jpg").write_bytes(b"x")
    train, val = map(count_classes, open_sources("d"))
    assert (train.classes, train.first, train.least, train.median, train.most) == (3, ("a", "b", "c"), 1, 2, 5)
    assert (val.classes, val.least, val.median, val.most) == (3, 0, 0, 1)


def lone_classes(kind: str, count: int) -> str:
    """Write ``count`` images, each of a class of its own."""
    names = tuple(f"c{number}" for number in range(count))
    return {"folder": write_folder, "table": write_table, "shards": write_shards}[kind](names)


@pytest.mark.parametrize("kind", ["folder", "table", "shards"])
def test_a_data_set_in_which_nearly_every_image_is_a_class_is_warned_of(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    where = lone_classes(kind, 12)
    labels = Path("labels.csv") if kind == "table" else None
    open_sources(where, labels=labels, limit=3)
    assert f"{where}: nearly every image is a class of its own: 12 images have 12 classes. Check that" in caplog.text
    assert ("Check that labels.csv holds labels, not ids or boxes" in caplog.text) is (kind == "table")


@pytest.mark.parametrize("write", [write_folder, write_table, write_shards, write_hub_texts])
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("Cat", "cat", "dog"), "'Cat' and 'cat' differ only in capitals. They are classes of their own"),
        (("tiger_cat", "tiger cat", "dog"), "'tiger cat' and 'tiger_cat' differ only in spaces, separators"),
        (("caf\u00e9", "cafe\u0301", "dog"), r"'cafe\u0301' and 'caf\xe9' differ only in Unicode's form"),
        (("dog", "NaN", "cat"), "'NaN' (1 image) is taken for a class, and may be a missing label."),
    ],
)
def test_names_that_look_alike_or_missing_are_warned_of(
    write, names: tuple[str, ...], sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    where = write(names)
    open_sources(where, labels=Path("labels.csv") if where == "table" else None)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith(f"{where}: {sentence}")


def test_other_names_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    open_sources(write_folder(("n01440764", "n01443537", "none", "-1", "1", "n1-2", "n12", "ant", "ants")))
    assert not caplog.records


def test_a_class_that_train_spells_otherwise_is_refused_with_the_other_name() -> None:
    rows, shards = ["path,label,split"], {"train": {}, "val": {}}
    for split, name in (("train", "Cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")):
        Path("folder", split, name).mkdir(parents=True)
        Path("folder", split, name, "1.jpg").write_bytes(image(0))
        rows.append(f"{split}/{name}/1.jpg,{name},{split}")
        shards[split] |= {f"{name}.jpg": image(0), f"{name}.cls": name.encode()}
    Path("labels.csv").write_text("\n".join(rows))
    Path("shards").mkdir()
    for split, files in shards.items():
        Path(f"shards/{split}-0.tar").write_bytes(tar(files))
    for where, labels in (("folder", None), ("folder", Path("labels.csv")), ("shards", None)):
        with pytest.raises(SourceError, match=r"lacks\. 'cat' and 'Cat' differ only in capitals"):
            open_sources(where, labels=labels)


def test_few_images_and_small_parts_of_a_data_set_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    open_sources(lone_classes("folder", 9))
    write_archives(Path("d"))
    open_sources("d", limit=1)
    assert "class of its own" not in caplog.text


def test_boxes_that_are_no_kaggle_table_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Path("pics").mkdir()
    for number in range(12):
        Path(f"pics/{number}.jpg").write_bytes(b"x")
    Path("boxes.csv").write_text(
        "image,label\n" + "".join(f"{n}.jpg,{json.dumps([n, 1, 2])!r}\n".replace(", ", " ") for n in range(12))
    )
    open_sources("pics", labels=Path("boxes.csv"))
    assert "12 images have 12 classes. Check that boxes.csv holds labels, not ids or boxes" in caplog.text
