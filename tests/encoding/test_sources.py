from pathlib import Path

import pytest

from jpegcurr.encoding.sources import open as open_module
from jpegcurr.encoding.sources.base import FolderStore, ListingBuilder, Source
from jpegcurr.encoding.sources.open import LAYOUTS, Layout, open_sources
from jpegcurr.errors import SourceError


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")


def test_labels_are_positions_of_sorted_class_names_and_val_takes_those_of_train() -> None:
    put("d/train/b/1.jpg", "d/train/a/2.JPEG", "d/train/c/3.png", "d/val/c/4.jpg")
    train, val = open_sources(Path("d"))
    assert train.classes == val.classes == ("a", "b", "c")
    assert [(item.key, item.label) for item in train.items] == [("a/2.JPEG", 0), ("b/1.jpg", 1), ("c/3.png", 2)]
    assert [(item.key, item.label) for item in val.items] == [("c/4.jpg", 2)]


def test_a_folder_of_classes_is_one_split_named_after_it() -> None:
    put("flowers/rose/deep/down/1.jpg", "flowers/tulip/2.jpg")
    (source,) = open_sources(Path("flowers"))
    assert (source.split, [item.key for item in source.items]) == ("flowers", ["rose/deep/down/1.jpg", "tulip/2.jpg"])


def test_other_names_of_splits_and_what_lies_beside_them(caplog: pytest.LogCaptureFixture) -> None:
    put("d/Train/a/1.jpg", "d/Train/b/1.jpg", "d/validation/a/2.jpg", "d/test/b/3.jpg", "d/extra/c/4.jpg")
    sources = open_sources(Path("d"))
    assert [(source.split, source.classes, len(source.items)) for source in sources] == [
        ("train", ("a", "b"), 2),
        ("val", ("a", "b"), 1),
        ("test", ("a", "b"), 1),
    ]
    assert "d: ignored, because they are not splits with class folders: extra" in caplog.text
    put("d/Testing/a/6.jpg")
    with pytest.raises(SourceError, match=r"for the split test\. Keep one"):
        open_sources(Path("d"))
    Path("d/Testing").rename("away")
    put("d/valid/a/5.jpg")
    with pytest.raises(SourceError, match=r"for the split val\. Keep one"):
        open_sources(Path("d"))


def test_a_test_folder_without_labels_is_ignored_and_one_class_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    put("d/train/a/1.jpg", "d/train/b/1.jpg", "d/test/1.jpg")
    assert [source.split for source in open_sources(Path("d"))] == ["train"]
    assert "ignored" in caplog.text
    put("dogs/images/1.jpg", "dogs/labels.csv")
    assert open_sources(Path("dogs"))[0].ignored == 1
    assert "dogs has a single class, 'images'" in caplog.text


def test_other_files_are_counted_and_hidden_ones_are_not() -> None:
    put("d/a/1.jpg", "d/a/notes.txt", "d/a/.DS_Store", "d/.git/x.jpg")
    (source,) = open_sources(Path("d"))
    assert (len(source.items), source.ignored, source.classes) == (1, 1, ("a",))


def test_odd_names_are_kept() -> None:
    put("d/a/with space.jpg", "d/a/new\nline.jpg", "d/a/ünï.jpg", "d/a/surrogate\udcff.jpg")
    assert len(open_sources(Path("d"))[0].items) == 4


def keys(source: Source, seed: int) -> list[str]:
    return [source.items[int(position)].key for position in source.ordered("shuffle", seed)]


def test_the_shuffle_depends_on_the_seed_and_is_stable_when_images_come_and_go() -> None:
    put(*(f"d/{label}/{number}.jpg" for label in "abc" for number in range(20)))
    source = open_sources(Path("d"))[0]
    first = keys(source, 0)
    assert first == keys(source, 0)
    assert first != keys(source, 1)
    assert sorted(first) == sorted(item.key for item in source.items)
    assert first[:3] == ["c/11.jpg", "b/2.jpg", "c/15.jpg"], "the same on every machine"
    Path("d/a/0.jpg").unlink()
    assert [key for key in first if key != "a/0.jpg"] == keys(open_sources(Path("d"))[0], 0)
    assert source.ordered("folder", 7).tolist() == list(range(60))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "d does not exist"),
        (["d"], "d is not a folder or a known archive"),
        (["d/readme.txt"], "no class folders"),
        (["d/1.jpg"], "no class folders"),
        (["d/train/1.jpg"], "d/train has no class folders"),
        (["d/train/a/1.jpg", "d/train/b/notes.txt"], "d/train/b holds no images"),
        (["d/train/a/1.jpg", "d/val/zebra/1.jpg"], "zebra is a class that the train split lacks"),
        (["d/train/a/1.jpg", "d/val/a/notes.txt"], "no images"),
    ],
)
def test_what_is_no_data_set_is_reported_by_name(files: list[str], message: str) -> None:
    put(*files)
    with pytest.raises(SourceError, match=message):
        open_sources(Path("d"))


def test_a_split_that_is_not_there_is_reported() -> None:
    put("d/train/a/1.jpg")
    with pytest.raises(SourceError, match="no split 'val', only train"):
        open_sources(Path("d"), splits=["val"])


def test_a_new_layout_takes_one_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_list(where: str) -> tuple[Source, ...]:
        builder = ListingBuilder()
        for name in Path(where).read_text().split():
            builder.add(name, 0, Path(name).stat().st_size)
        return (Source(where, "listed", ("all",), builder.build(), FolderStore(Path()), named=False),)

    put("a.jpg", "b.jpg")
    Path("images.list").write_text("b.jpg a.jpg")
    monkeypatch.setattr(open_module, "LAYOUTS", (Layout(lambda where: where.endswith(".list"), open_list), *LAYOUTS))
    (source,) = open_sources("images.list", splits=["train"], limit=1)
    assert (source.split, source.classes, len(source.items)) == ("train", ("all",), 1)
    assert source.store.read(source.items[0]) == b"x"
    with pytest.raises(SourceError, match=r"images\.list has labels of its own"):
        open_sources("images.list", labels=Path("labels.csv"))
