import json
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from imagenet import nested, tar, train_files, write_archives
from samples import contents, image

from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.webdataset import is_shards, open_shards
from jpegcurr.errors import EncodeError, SourceError


def samples(labels: Mapping[str, object]) -> dict[str, bytes]:
    """``<key>.jpg`` and ``<key>.cls`` for every key."""
    files = {}
    for number, (key, label) in enumerate(labels.items()):
        files[f"{key}.cls"] = str(label).encode()
        files[f"{key}.jpg"] = image(number)
    return files


def put(name: str, files: Mapping[str, bytes]) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(tar(files))


def only(where: str) -> Source:
    assert is_shards(where)
    (source,) = open_shards(where)
    return source


def test_a_shard_is_read_in_place() -> None:
    put("dogs-000.tar", samples({"b/2": "pug", "a/1": "beagle", "a/3": "pug"}))
    source = only("dogs-000.tar")
    assert (source.root, source.split, source.classes) == ("dogs-000.tar", "dogs", ("beagle", "pug"))
    assert contents(source) == {
        "dogs-000/a/1.jpg": ("beagle", image(1)),
        "dogs-000/a/3.jpg": ("pug", image(2)),
        "dogs-000/b/2.jpg": ("pug", image(0)),
    }
    assert source.items.sizes.tolist() == [len(image(number)) for number in (1, 2, 0)]
    assert source.store.locate(source.items[0]) == "dogs-000.tar: a/1.jpg"
    again = pickle.loads(pickle.dumps(source.store))  # noqa: S301
    assert again.read(source.items[2]) == image(0)


def test_splits_are_reported_by_a_word_of_the_name_and_take_the_classes_of_train() -> None:
    put("d/imagenet1k-train-0001.tar", samples({"3": "c"}))
    put("d/imagenet1k-train-0000.tar", samples({"1": "b", "2": "a"}))
    put("d/imagenet1k_validation_0000.tar", samples({"1": "c"}))
    put("d/imagenet1k-test.tar", samples({"1": "b"}))
    assert is_shards("d")
    train, val, test = open_shards("d")
    assert [source.split for source in (train, val, test)] == ["train", "val", "test"]
    assert {source.classes for source in (train, val, test)} == {("a", "b", "c")}
    assert [item.key for item in train.items] == [
        "imagenet1k-train-0000/1.jpg",
        "imagenet1k-train-0000/2.jpg",
        "imagenet1k-train-0001/3.jpg",
    ]
    assert contents(train)["imagenet1k-train-0001/3.jpg"] == ("c", image(0))
    assert contents(val) == {"imagenet1k_validation_0000/1.jpg": ("c", image(0))}


@pytest.mark.parametrize(
    ("name", "split"),
    [("latest-00.tar", "latest"), ("d/00000.tar", "d"), ("x-000001-of-000009.tar", "x"), ("My_Train.tar", "train")],
)
def test_the_split_of_a_lone_shard(name: str, split: str) -> None:
    put(name, samples({"1": 0}))
    assert only(name).split == split


def test_folders_called_like_splits_hold_shards_too() -> None:
    put("d/Train/0.tar", samples({"1": "a", "2": "b"}))
    put("d/testing/0.tar", samples({"1": "b"}))
    assert is_shards("d")
    train, test = open_shards("d")
    assert (train.split, test.split) == ("train", "test")
    assert contents(test) == {"0/1.jpg": ("b", image(0))}


def test_a_folder_without_split_names_is_one_split() -> None:
    put("pets/cats.tar", samples({"1": "cat"}))
    put("pets/dogs.tar", samples({"1": "dog"}))
    source = only("pets")
    assert (source.split, list(contents(source))) == ("pets", ["cats/1.jpg", "dogs/1.jpg"])


def test_braces_name_shards() -> None:
    for number in range(8, 12):
        put(f"d/train-{number:03}.tar", samples({f"{number}": number}))
    put("d/val-9.tar", samples({"1": 9}))
    put("d/val-10.tar", samples({"1": 11}))
    assert len(only("d/train-{008..011}.tar").items) == 4
    assert len(only("d/train-{009,011}.tar").items) == 2
    assert len(only("d/train-0{08..09}.tar").items) == 2
    assert len(only("d/val-{9..10}.tar").items) == 2
    long = ",".join(f"{number:06}" for number in range(40))
    with pytest.raises(SourceError, match=r"train-000000\.tar does not exist"):
        only(f"d/train-{{{long}}}.tar")
    assert [len(source.items) for source in open_shards("d/{train-008,train-010,val-9}.tar")] == [2, 1]
    assert not is_shards("d/train-008{}.tar")
    with pytest.raises(SourceError, match=r"d/train-012\.tar does not exist"):
        open_shards("d/train-{008..012}.tar")
    with pytest.raises(SourceError, match="names more than"):
        is_shards("d/{000000..999999}/train-{000000..999999}.tar")


def test_numbers_are_labels_as_they_are() -> None:
    put("d/train-0.tar", samples({"a": "7", "b": " 0\n", "c": 2}))
    put("d/val-0.tar", samples({"a": 5}))
    train, val = open_shards("d")
    assert train.classes == val.classes == tuple("01234567")
    assert train.items.labels.tolist() == [7, 0, 2]
    assert val.items.labels.tolist() == [5]


@pytest.mark.parametrize("suffix", ["cls", "json"])
def test_zeros_in_front_make_another_label(suffix: str) -> None:
    labels = ("007", "7", "10", "007", "00000000012")
    files: dict[str, bytes] = {}
    for number, label in enumerate(labels):
        files |= {f"{number}.jpg": image(number), f"{number}.{suffix}": label.encode()}
        if suffix == "json":
            files[f"{number}.json"] = json.dumps({"label": label}).encode()
    put("x.tar", files)
    source = only("x.tar")
    assert source.classes == ("007", "7", "10", "00000000012")
    assert [source.classes[item.label] for item in source.items] == list(labels)


@pytest.mark.parametrize(
    ("tree", "label"),
    [
        ({"label": 1}, "1"),
        ({"cls": "pug", "caption": "x"}, "pug"),
        ({"class_name": "pug", "label": 3}, "3"),
        ({"class_name": "päg"}, "päg"),
    ],
)
def test_labels_in_json(tree: object, label: str) -> None:
    put("x.tar", {"1.jpg": image(0), "1.json": json.dumps(tree).encode(), "1.txt": b"a caption"})
    source = only("x.tar")
    assert (source.classes[source.items[0].label], source.ignored) == (label, 1)


def test_a_cls_comes_before_a_json_and_other_files_are_counted() -> None:
    files = {"1.JPEG": image(0), "1.cls": b"a", "1.json": b'{"label": "b"}', "1.npy": b"x", "README": b"", "index.json": b"{}"}
    put("x.tar", files)
    source = only("x.tar")
    assert (source.classes, source.ignored, list(contents(source))) == (("a",), 2, ["x/1.JPEG"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.jpg": b"x", "1.txt": b"x", "2.jpg": b"x", "2.cls": b"0"}, r"d/x\.tar: 1 has an image and no label. Pack a .cls"),
        ({"1.jpg": b"x", "1.json": b'{"caption": "x"}'}, "1 has an image and no label"),
        ({"1.jpg": b"x", "1.json": b"[1]"}, "1 has an image and no label"),
        ({"a/1.jpg": b"x", "a/1.cls": b"0", "b/1.cls": b"0"}, r"d/x\.tar: b/1 has a label and no image"),
        ({"1.jpg": b"x", "2.jpg": b"x", "1.cls": b"0", "2.cls": b"0"}, "1 has an image and no label"),
        ({"1.a.jpg": b"x", "1.b.png": b"x", "1.cls": b"0"}, r"d/x\.tar: 1 has two images, 1.a.jpg and 1.b.png"),
        ({"1.jpg": b"x", "1.cls": b" \n"}, "1: '' in 1.cls is not a label"),
        ({"1.jpg": b"x", "1.cls": b"-1"}, "1: '-1' in 1.cls is not a label. Use a whole number, 0 or more, or a class's name"),
        ({"1.jpg": b"x", "1.cls": b"12345678"}, "is not a label"),
        ({"1.jpg": b"x", "1.json": b'{"label": true}'}, "1: True in 1.json is not a label"),
        ({"1.jpg": b"x", "1.json": b'{"label": [1, 2]}'}, r"\[1, 2\] in 1.json is not a label"),
        ({"1.jpg": b"x", "1.json": b'{"label": "\\ud800"}'}, "the label in 1.json is not UTF-8 text, or not JSON"),
        ({"1.jpg": b"x", "1.json": b"{"}, "the label in 1.json is not UTF-8 text, or not JSON"),
        ({"1.jpg": b"x", "1.cls": b"\xff"}, "the label in 1.cls is not UTF-8 text"),
        (
            {"1.jpg": b"x", "1.cls": b"3", "2.jpg": b"x", "2.cls": b"cat"},
            "both numbers and names as labels, such as 3 and 'cat'",
        ),
    ],
)
def test_what_is_no_sample_is_reported_by_shard_and_key(files: dict[str, bytes], message: str) -> None:
    put("d/x.tar", files)
    assert is_shards("d") or len(files) == 2
    with pytest.raises(SourceError, match=message):
        open_shards("d")


def test_a_file_that_is_packed_twice_is_reported() -> None:
    with tarfile.open("x.tar", "w") as archive:
        for name in ("1.cls", "1.jpg", "1.cls"):
            Path(name).write_bytes(b"7")
            archive.add(name)
    with pytest.raises(SourceError, match=r"x\.tar: 1 has 1.cls twice"):
        open_shards("x.tar")


@pytest.mark.parametrize(("known", "new"), [(("a", "b"), "zebra"), ((0, 1), 2)])
def test_val_has_no_class_that_train_lacks(known: tuple[object, object], new: object) -> None:
    put("d/train-0.tar", samples({"1": known[0], "2": known[1]}))
    put("d/val-0.tar", samples({"1": known[1], "2": new}))
    with pytest.raises(SourceError, match=f"d: val-0/2.jpg of the split val has the class '{new}', which train lacks"):
        open_shards("d")


def test_two_shards_of_one_name_and_shards_without_images_are_reported() -> None:
    put("a/0.tar", samples({"1": 0}))
    put("b/0.tar", samples({"1": 0}))
    with pytest.raises(SourceError, match=r"\{a,b\}/0.tar has two shards named 0.tar"):
        open_shards("{a,b}/0.tar")
    put("d/train-0.tar", samples({"1": 0}))
    put("d/val-0.tar", {"README.md": b"x"})
    with pytest.raises(SourceError, match="d holds no samples of the split val"):
        open_shards("d")
    Path("empty").mkdir()
    with pytest.raises(SourceError, match="empty holds no shards"):
        open_shards("empty")


def test_compressed_shards_are_reported() -> None:
    with tarfile.open("x.tar.gz", "w:gz"), tarfile.open("y.tgz", "w:gz"):
        pass
    for where, name in (("x.tar.gz", "x.tar.gz"), ("y.tgz", "y.tgz"), ("{x,z}.tar.gz", "x.tar.gz"), (".", "x.tar.gz")):
        assert is_shards(where)
        with pytest.raises(SourceError, match=f"{name} is compressed, but images are read in place. Decompress it"):
            open_shards(where)


def test_a_shard_that_is_cut_short_is_told_and_one_that_shrinks_later_stops_the_run() -> None:
    put("train-0.tar", samples({"1": 0, "2": 1}))
    source = only("train-0.tar")
    data = Path("train-0.tar").read_bytes()
    item = source.items[1]
    Path("train-0.tar").write_bytes(data[: item.offset + 100])
    with pytest.raises(EncodeError, match=r"train-0\.tar: 2\.jpg is cut off"):
        source.store.read(item)
    assert is_shards("train-0.tar")
    with pytest.raises(SourceError, match=r"train-0\.tar is cut short"):
        open_shards("train-0.tar")
    Path("train-0.tar").unlink()
    with pytest.raises(EncodeError, match="No such file"):
        source.store.read(item)


def test_what_is_something_else_is_no_shard() -> None:
    write_archives(Path("imagenet"))
    write_archives(Path("half"), "train")
    put("half/extra-0.tar", samples({"1": 0}))
    Path("renamed.tar").write_bytes(nested(train_files()))
    put("images.tar", {"a/1.jpg": image(0), "a/2.jpg": image(1)})
    put("captions.tar", {"1.jpg": image(0), "1.txt": b"a cup"})
    put("apart.tar", {"1.jpg": image(0), "2.cls": b"0"})
    put("classes/n01.tar", {"n01_1.JPEG": image(0)})
    Path("noise.tar").write_bytes(b"x" * 3000)
    Path("folder.tar").mkdir()
    for where in (
        "imagenet",
        "imagenet/ILSVRC2012_img_train.tar",
        "imagenet/ILSVRC2012_img_val.tar",
        "half",
        "classes",
        "no.tar",
    ):
        assert not is_shards(where), where
    for where in ("renamed.tar", "images.tar", "captions.tar", "apart.tar", "noise.tar", "folder.tar", "{}.tar", "hf:cifar10"):
        assert not is_shards(where), where


def test_an_archive_that_lies_beside_a_data_set_does_not_make_it_shards() -> None:
    put("d/train/a/1.jpg", {})
    put("d/left-over.tar", samples({"1": 0}))
    put("d/train/left-over.tar", samples({"1": 0}))
    put("flat/1.jpg", {})
    put("flat/download.tar.gz", {})
    assert not is_shards("d")
    assert not is_shards("flat")


def test_a_folder_that_cannot_be_listed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    Path("d").mkdir()
    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(SourceError, match="d cannot be listed: Permission denied"):
        is_shards("d")


@pytest.mark.parametrize("label", [b"[" * 100_000, b'{"label": ' + b"9" * 6000 + b"}", b'{"a": "' + b"x" * 2_000_000 + b'"}'])
def test_a_label_that_is_deep_or_large_is_refused_by_its_shard(label: bytes) -> None:
    put("d/x.tar", {"1.jpg": b"x", "1.json": label})
    with pytest.raises(SourceError, match=r"d/x\.tar: 1: the label in 1\.json is not UTF-8 text, or not JSON, or larger"):
        open_shards("d")
