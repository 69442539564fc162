"""Which folders are splits and which are classes: read where it is certain, refused with a way out where it is not."""

from pathlib import Path

import pytest

from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.sources.split_names import split_in_name
from jpegcurr.errors import SourceError


def put(*names: str) -> None:
    for name in names:
        Path("d", name).parent.mkdir(parents=True, exist_ok=True)
        Path("d", name).write_bytes(b"x")


def splits(where: str = "d", **options: bool) -> dict[str, tuple[tuple[str, ...], list[str]]]:
    """Return classes and keys of every split."""
    return {source.split: (source.classes, [item.key for item in source.items]) for source in open_sources(where, **options)}


def images(*folders: str) -> list[str]:
    return [f"{folder}/{name}/1.jpg" for folder in folders for name in ("a", "b")]


AB = (("a", "b"), ["a/1.jpg", "b/1.jpg"])


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("seg_train", ("train", ("seg",))),
        ("Training Set", ("train", ("set",))),
        ("TestImages", ("test", ("images",))),
        ("val2017", ("val", ())),
        ("trainval", ("train", ())),
        ("bullet_train", ("train", ("bullet",))),
        ("invalid", None),
        ("latest", None),
        ("train_test", None),
        ("strain", None),
    ],
)
def test_the_split_in_a_name(name: str, meaning: object) -> None:
    assert split_in_name(name) == meaning


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (images("imgs_train", "imgs_val", "imgs_test"), {"train": AB, "val": AB, "test": AB}),
        (images("TrainImages", "ValidationImages"), {"train": AB, "val": AB}),
        (images("train_data", "holdout_test"), {"train": AB, "test": AB}),  # by their class folders
        (images("trainval", "test"), {"train": AB, "test": AB}),
        (images("x-train/x-train", "x-test/x-test"), {"train": AB, "test": AB}),  # as Kaggle's archives unpack
        (images("train/train", "val"), {"train": AB, "val": AB}),
        (images("train2017", "val2017"), {"train": AB, "val": AB}),
        ([*images("train_images"), "test_images/1.jpg"], {"train": AB}),
        ([*images("seg_train", "seg_test"), "seg_pred/1.jpg"], {"train": AB, "test": AB}),
        (images("my_train"), {"train": AB}),  # a single class would be of no use
        (images("test"), {"test": AB}),
        (
            ["train/a/1.jpg", "train/b/1.jpg", "train/train/1.jpg"],
            {"train": (("a", "b", "train"), ["a/1.jpg", "b/1.jpg", "train/1.jpg"])},
        ),
    ],
)
def test_folders_that_are_splits(files: list[str], expected: object) -> None:
    put(*files)
    assert splits() == expected


@pytest.mark.parametrize(
    "names",
    [
        ("bus", "car", "train"),
        ("Valid", "invalid"),
        ("maglev", "test"),
        ("bullet_train", "crash_test"),
        ("bullet_train", "plane"),
        ("test_tube", "beaker"),
        ("validated", "trained"),
    ],
)
def test_classes_that_are_called_like_splits(names: tuple[str, ...]) -> None:
    put(*(f"{name}/{number}.jpg" for name in names for number in range(2)))
    assert [(split, classes) for split, (classes, _) in splits().items()] == [("d", tuple(sorted(names)))]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/1.jpg", "test/1.jpg"], "d/train has no class folders, though its name means the split train"),
        (["train/1.jpg", "valid/1.jpg", "bus/1.jpg"], "d/train has no class folders"),
        (["training_set/1.jpg", "test_set/1.jpg"], "d/te?.*_set has no class folders, though its name means the split"),
        ([*images("test_images"), "train_images/1.jpg"], "d/train_images has no class folders"),
        (images("train_a", "train_b", "test"), "the folders train_a and train_b for the split train. Keep one"),
        (images("seg_train", "extra"), "seg_train and d/extra have sub-folders of the same names, such as a"),
    ],
)
def test_what_may_be_either_is_refused_and_flat_classes_is_a_way_out(files: list[str], message: str) -> None:
    put(*files)
    with pytest.raises(SourceError, match=message) as refusal:
        splits()
    if "encodes" not in str(refusal.value):
        assert "--flat-classes" in str(refusal.value)
    classes = tuple(sorted({name.partition("/")[0] for name in files}))
    assert [(split, found) for split, (found, _) in splits(flat_classes=True).items()] == [("d", classes)]


def test_the_other_ways_out_work_too() -> None:
    put(*images("seg_train", "extra"))
    with pytest.raises(SourceError, match="jpegcurr encode d/seg_train --split train"):
        splits()
    (source,) = open_sources("d/seg_train", splits=["train"])
    assert (source.split, source.classes) == ("train", ("a", "b"))
    put("e/train/a/1.jpg", "e/val/1.jpg")
    with pytest.raises(SourceError, match=r"--labels labels.csv\. jpegcurr encode d/e/train encodes train alone"):
        splits("d/e")
    Path("labels.csv").write_text("1.jpg,a")
    assert splits("d/e/train") == {"train": (("a",), ["a/1.jpg"])}
    assert [source.split for source in open_sources("d/e/val", labels=Path("labels.csv"))] == ["val"]


def test_flat_classes_are_for_folders_alone() -> None:
    put("1.jpg")
    Path("labels.csv").write_text("1.jpg,a")
    with pytest.raises(SourceError, match="The classes of d are not folders, so --flat-classes does nothing"):
        open_sources("d", labels=Path("labels.csv"), flat_classes=True)


def test_splits_within_classes_are_not_mixed() -> None:
    """Refuse MVTec's layout, and a data set whose parent folder was given."""
    put(*(f"{name}/{split}/{number}.jpg" for name in ("bottle", "cable") for split in ("train", "test") for number in range(2)))
    with pytest.raises(SourceError, match="d/bottle would be a class, but holds images of several splits, test and train"):
        splits()
    assert splits(flat_classes=True)["d"][0] == ("bottle", "cable")
    put(*(f"photos/{name}" for name in images("train", "val")))
    for name in ("bottle", "cable"):
        Path("d", name).rename(name)
    with pytest.raises(SourceError, match="If it is the data set, give it: jpegcurr encode d/photos"):
        splits()
    assert splits("d/photos") == {"train": AB, "val": AB}


def test_classes_whose_images_lie_in_sub_folders_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    put("art/dog/1.jpg", "art/cat/1.jpg", "photo/dog/1.jpg", "photo/2.jpg")
    assert splits()["d"][0] == ("art", "photo")
    assert "d: the images of 1 of 2 classes all lie in sub-folders, such as art/cat, and the upper folder is" in caplog.text
    assert "if the sub-folders are the classes, give the folder that holds them: jpegcurr encode d/art" in caplog.text
    assert splits("d/art")["art"][0] == ("cat", "dog")
    caplog.clear()
    put(*(f"tiny/train/n{number}/images/1.jpg" for number in range(3)))
    assert splits("d/tiny/train")["train"][0] == ("n0", "n1", "n2")
    assert "the images of 3 of 3 classes all lie in sub-folders, such as n0/images" in caplog.text


def test_images_beside_class_folders_are_counted() -> None:
    put("train/a/1.jpg", "train/1.jpg", "train/2.PNG", "train/labels.txt", "val/a/1.jpg")
    train, val = open_sources("d")
    assert [(source.unlabelled, source.ignored) for source in (train, val)] == [(2, 3), (0, 0)]


def test_what_lies_beside_splits_is_still_ignored(caplog: pytest.LogCaptureFixture) -> None:
    put(*images("train", "val", "val_old", "extra"), "masks/1.png")
    assert splits() == {"train": AB, "val": AB}
    assert "d: ignored, because they are not splits with class folders: extra, masks, val_old (--flat-classes" in caplog.text
