import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from samples import contents, image

from jpegcurr.encoding.sources.base import MISSING, Source
from jpegcurr.encoding.sources.huggingface import open_hub
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import EncodeError, ImageError, SourceError, UsageError

datasets = pytest.importorskip("datasets")
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value  # noqa: E402

BREEDS = ClassLabel(names=["pug", "beagle", "akita"])


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no progress bars, and a cache of the test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def rows(labels: Sequence[object], feature: object = BREEDS, **more: Sequence[object]) -> Any:
    """A data set of an image and a label a row; ``more`` columns are text."""
    columns: dict[str, Any] = {"image": [{"bytes": image(row), "path": f"{row}.jpg"} for row in range(len(labels))]}
    features = {"image": Image(), "label": feature, **{name: Value("string") for name in more}}
    return Dataset.from_dict({**columns, "label": list(labels), **more}, features=Features(features))


def opened(**splits: Any) -> tuple[Source, ...]:
    DatasetDict(splits).save_to_disk("d")
    return open_hub("hf:d")


def test_splits_keys_and_the_data_sets_own_classes() -> None:
    train, val, test = opened(testing=rows([1]), Valid=rows([2]), train=rows([0] * 9 + [1, 2]))
    assert (test.split, contents(test)) == ("test", {"0-0.jpg": ("beagle", image(0))})
    assert (train.root, train.split, val.split) == ("hf:d", "train", "val")
    assert train.classes == val.classes == ("pug", "beagle", "akita")
    assert [item.key for item in train.items][8:] == ["08-8.jpg", "09-9.jpg", "10-10.jpg"]
    assert train.items.labels.tolist() == [0] * 9 + [1, 2]
    assert contents(val) == {"0-0.jpg": ("akita", image(0))}
    assert all(train.store.read(item) == image(row) for row, item in enumerate(train.items))
    assert train.items.sizes.tolist() == [len(image(row)) for row in range(11)]
    assert train.store.locate(train.items[10]) == "hf:d, split train, row 10"


def test_a_data_set_without_splits_is_one() -> None:
    rows([0, 1]).save_to_disk("dogs")
    (source,) = open_hub("hf:dogs")
    assert source.split == "dogs"
    Dataset.from_dict(rows([0])[:], features=rows([0]).features, split="train").save_to_disk("one")
    assert [source.split for source in open_hub("hf:one")] == ["train"]
    for name in ("dogs", "one"):
        assert [source.split for source in open_sources(f"hf:{name}", splits=["val"])] == ["val"]
    DatasetDict(train=rows([0])).save_to_disk("split")
    with pytest.raises(SourceError, match="has no split 'val', only train"):
        open_sources("hf:split", splits=["val"])


def test_the_order_of_a_shuffled_data_set_and_its_format_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows([0, 1, 2, 0, 1])
    chosen = whole.select([4, 2, 0]).with_format("numpy", columns=["label"])
    assert chosen._indices is not None
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: DatasetDict(train=chosen))
    (source,) = open_hub("hf:dogs")
    assert contents(source) == {"0-4.jpg": ("beagle", image(4)), "1-2.jpg": ("akita", image(2)), "2-0.jpg": ("pug", image(0))}
    assert source.items.sizes.tolist() == [len(image(row)) for row in (4, 2, 0)]


def test_a_configuration_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def load_dataset(name: str, configuration: str | None) -> Any:
        asked.append((name, configuration))
        return DatasetDict(train=rows([0]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert open_hub("hf:someone/dogs:small")[0].root == "hf:someone/dogs:small"
    open_hub("hf:dogs")
    assert asked == [("someone/dogs", "small"), ("dogs", None)]


def test_images_in_files_are_read_from_there() -> None:
    for number, name in enumerate(("train/akita/1.jpg", "train/pug/2.jpg", "validation/pug/3.jpg")):
        Path("folder", name).parent.mkdir(parents=True, exist_ok=True)
        Path("folder", name).write_bytes(image(number))
    train, val = open_hub("hf:folder")
    assert contents(train) == {"0-1.jpg": ("akita", image(0)), "1-2.jpg": ("pug", image(1))}
    assert contents(val) == {"0-3.jpg": ("pug", image(2))}
    assert train.items.sizes.tolist() == [len(image(0)), len(image(1))]
    Path("folder/train/pug/2.jpg").unlink()
    with pytest.raises(EncodeError, match="The source failed"):
        train.store.read(train.items[1])


def put(*names: str) -> None:
    for number, name in enumerate(names):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(image(number))


@pytest.mark.parametrize("folders", [("train", "test"), ("training", "validation"), ("imgs_train", "imgs_test")])
def test_names_of_splits_are_no_labels(folders: Sequence[str]) -> None:
    """Refuse the labels that ``datasets`` invents for folders of splits without class folders; class folders are labels."""
    put(*(f"flat/{folder}/{number}.jpg" for folder in folders for number in range(2)))
    with pytest.raises(SourceError, match=r"hf:flat has no labels: its classes \(.*\) only name the splits' folders"):
        open_hub("hf:flat")
    put(*(f"nest/{folder}/{name}/{number}.jpg" for folder in folders for name in ("pug", "akita") for number in range(2)))
    first, second = open_hub("hf:nest")
    assert first.classes == second.classes == ("akita", "pug")
    Path("labels.csv").write_text("0.jpg,pug\n1.jpg,akita\n")
    (source,) = open_sources(f"flat/{folders[0]}", labels=Path("labels.csv"))  # the way out that the message names
    assert source.classes == ("akita", "pug")


def test_a_class_that_datasets_takes_for_a_split_is_refused_with_a_way_out() -> None:
    put("vehicles/bus/1.jpg", "vehicles/car/1.jpg", "vehicles/train/1.jpg", "vehicles/train/2.jpg")
    with pytest.raises(SourceError, match=r"one column of labels, .*encode the folder itself, jpegcurr encode vehicles, or"):
        open_hub("hf:vehicles")
    assert open_sources("vehicles")[0].classes == ("bus", "car", "train")


def test_classes_called_like_splits_stay_where_images_of_several_are_in_a_split() -> None:
    names = ClassLabel(names=["invalid", "valid"])
    assert opened(train=rows([0, 1], names), validation=rows([0, 1], names))[1].classes == ("invalid", "valid")


def test_spaces_around_labels_do_not_make_classes() -> None:
    (source,) = opened(train=rows(["pug ", "pug", " 007", "7"], Value("string")))
    assert source.classes == ("007", "7", "pug")


def test_rows_without_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [None, (None, None), (None, "gone.jpg"), (None, "https://x.org/a.jpg"), (b"", None), (b"xy", "d/é.jpg")]
    images = [cell and dict(zip(("bytes", "path"), cell, strict=True)) for cell in cells]
    features = Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "label": BREEDS})
    data = Dataset.from_dict({"image": images, "label": [0] * 6}, features=features).cast_column("image", Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda name, configuration: DatasetDict(train=data))
    (source,) = open_hub("hf:dogs")
    assert [item.key for item in source.items] == ["0", "1", "2-gone.jpg", "3-a.jpg", "4", "5-é.jpg"]
    assert source.items.sizes.tolist() == [MISSING, MISSING, MISSING, MISSING, 0, 2]
    reasons = [
        "the row has no image",
        "the row has no image",
        "No such file",
        "not in the data set, but at https://x.org/a.jpg",
    ]
    for item, reason in zip(source.items, reasons, strict=False):
        with pytest.raises(ImageError, match=reason):
            source.store.read(item)
    assert [source.store.read(source.items[row]) for row in (4, 5)] == [b"", b"xy"]


def test_the_store_is_read_by_threads_and_from_another_process_in_another_folder() -> None:
    (source,) = opened(train=rows([0] * 40))
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(source.store.read, list(source.items) * 5)) == [image(row) for row in range(40)] * 5
    data = pickle.dumps((source.store, source.items[39]))
    assert len(data) < 10_000, "the names of files, not what is in them"
    code = "import pickle, sys; store, item = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(store.read(item))"
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True, cwd="/", env=os.environ)
    assert done.stdout == image(39)


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "expected"),
    [
        ([3, 1, 1], "int32", "0123", [3, 1, 1]),
        (["b", "a", "b"], "string", "ab", [1, 0, 1]),
        (["10", "9", "10"], "large_string", ("9", "10"), [1, 0, 1]),
    ],
)
def test_labels_of_other_kinds(labels: list[object], kind: str, classes: Sequence[str], expected: list[int]) -> None:
    train, val = opened(train=rows(labels, Value(kind)), validation=rows(labels[:1], Value(kind)))
    assert (train.classes, train.items.labels.tolist()) == (tuple(classes), expected)
    assert (val.classes, val.items.labels.tolist()) == (tuple(classes), expected[:1])


def test_a_column_of_classes_comes_before_other_labels_and_a_known_name_before_others() -> None:
    data = rows([0, 1], label_text=["x", "y"]).rename_column("label", "breed").rename_column("label_text", "label")
    assert opened(train=data)[0].classes == ("pug", "beagle", "akita")
    both = rows([0, 1]).add_column("coarse_label", [0, 0]).cast_column("coarse_label", ClassLabel(names=["dog"]))
    (source,) = opened(train=both.rename_column("label", "fine_label"))
    assert source.items.labels.tolist() == [0, 1]


def test_splits_without_labels_are_ignored_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    (train,) = opened(test=rows([-1, -1]), train=rows([0, 1]), more=rows([None]), other=rows([0]).remove_columns("label"))
    assert train.split == "train"
    assert [line.getMessage().partition(" is ignored")[0] for line in caplog.records if line.name == "jpegcurr"] == [
        f"hf:d: the split {name}" for name in ("test", "more", "other")
    ]


def refused(message: str, **splits: Any) -> None:
    with pytest.raises(SourceError, match=message):
        opened(**splits)


def test_columns_that_cannot_be_told_apart_are_listed() -> None:
    two = Dataset.from_dict(
        {"a": [image(0)], "b": [image(0)], "label": [0]}, features=Features({"a": Image(), "b": Image(), "label": BREEDS})
    )
    refused(r"hf:d must have one column of images, but has 2: a \(Image\), b \(Image\), label \(ClassLabel\)", train=two)
    refused("one column of images, but has 0: label", train=two.remove_columns(["a", "b"]))
    refused(r"must have one column of labels, .* It has image \(Image\)", train=rows([0]).remove_columns("label"))
    refused(r"one column of labels, .* breed \(float32\)", train=rows([0.5], Value("float32")).rename_column("label", "breed"))
    refused("one column of labels", train=rows([0.5], Value("float32")))
    refused("one column of labels", train=rows(["a"], Value("string"), target=["b"]))


def test_what_is_wrong_with_labels_is_reported() -> None:
    text, number, others = Value("string"), Value("int64"), ClassLabel(names=["b", "a"])
    refused("hf:d has no labels in the column label", train=rows([-1]), test=rows([None]))
    refused("hf:d, split train, row 1 has no label in label", train=rows([0, -1, 1]))
    refused("hf:d, split train, row 2 has no label", train=rows(["a", "b", ""], text))
    refused("label has values up to 5000000000, which are ids", train=rows([1, 5_000_000_000], number))
    refused("label of the split val differs from the first split", train=rows([0]), val=rows([0], others))
    refused("0-0.jpg of the split val has the class 'c', which train lacks", train=rows(["a"], text), val=rows(["c"], text))


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("hf:", "hf: names no data set. Give hf:NAME"),
        ("hf:nobody/nothing", "hf:nobody/nothing cannot be opened: Couldn't reach 'nobody/nothing' on the Hub .*hf auth login"),
        ("hf:./gone", "hf:./gone: there is no folder ./gone"),
        ("hf:files:other", "hf:files:other cannot be opened: BuilderConfig 'other' not found. Available: .'default'.. Check"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(where: str, message: str) -> None:
    Path("files/a").mkdir(parents=True)
    Path("files/a/1.jpg").write_bytes(image(0))
    with pytest.raises(SourceError, match=message) as caught:
        open_hub(where)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_no_code_of_a_data_set_is_run() -> None:
    Path("evil").mkdir()
    Path("evil/evil.py").write_text("open('ran', 'w')")
    with pytest.raises(SourceError, match="hf:evil cannot be opened"):
        open_hub("hf:evil")
    with pytest.raises(SourceError, match="cannot be opened: Dataset scripts are no longer supported"):
        open_hub("hf:evil/evil.py")
    assert not Path("ran").exists()


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"hf:d needs the package datasets\. Run (uv )?pip install -U datasets"):
        open_hub("hf:d")
