"""Several sources as one data set, lists of bare paths, class archives, and encodes that draw their own splits."""

import json
import os
import pickle
from pathlib import Path

import pytest
from imagenet import nested, tar
from samples import contents, digests, encode_all, image, tiny_recipe

from jpegcurr.cli import main
from jpegcurr.encoding.beton.manifest import read_items, read_manifest
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import SourceError
from jpegcurr.training.data.datasets import open_datasets


def put(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)


def put_names(*names: str) -> None:
    put(dict.fromkeys(names, b"x"))


def command(line: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(line.split())
    return int(left.value.code or 0)


def classes_of(where: str | list[str], **options: object) -> dict[str, str]:
    (source,) = open_sources(where, **options)  # type: ignore[arg-type]
    return {item.key: source.classes[item.label] for item in source.items}


def test_two_folders_are_one_data_set() -> None:
    put({"one/x/0.jpg": b"1", "one/y/0.jpg": b"2", "two/y/0.jpg": b"3", "two/z/0.jpg": b"4", "two/z/note.txt": b""})
    (source,) = open_sources(["one", "two"])
    assert (source.root, source.more_roots, source.split, source.named) == ("one", ("two",), "one+two", False)
    assert (source.classes, source.ignored) == (("x", "y", "z"), 1)
    expected = {"one/x/0.jpg": ("x", b"1"), "one/y/0.jpg": ("y", b"2"), "two/y/0.jpg": ("y", b"3"), "two/z/0.jpg": ("z", b"4")}
    assert contents(source) == expected
    assert source.store.locate(source.items[3]) == "two/z/0.jpg"
    assert source.store.changed_at(source.items[0]) == Path("one/x/0.jpg").stat().st_ctime_ns
    assert source.store.modified_at(source.items[0]) == Path("one/x/0.jpg").stat().st_mtime_ns
    store = pickle.loads(pickle.dumps(source.store))  # noqa: S301
    assert store.read(source.items[2]) == b"3"
    (renamed,) = open_sources(["one", "two"], splits=["train"])
    assert renamed.split == "train"


def test_splits_of_one_name_are_one() -> None:
    put_names("one/train/x/0.jpg", "one/val/x/0.jpg", "two/training/y/0.jpg", "two/test/y/0.jpg")
    sources = {source.split: [item.key for item in source.items] for source in open_sources(["one", "two"])}
    assert sources == {
        "train": ["one/x/0.jpg", "two/y/0.jpg"],
        "val": ["one/x/0.jpg"],
        "test": ["two/y/0.jpg"],
    }
    assert {source.classes for source in open_sources(["one", "two"])} == {("x", "y")}
    assert [source.split for source in open_sources(["one/train", "one/val"])] == ["train", "val"], "folders with such names"
    put_names("three/z/0.jpg", "four/val/z/0.jpg")
    with pytest.raises(SourceError, match="three has no splits, but there is the split train of one"):
        open_sources(["one", "three"])
    with pytest.raises(SourceError, match=r"four/val/z/0.jpg of the split val has the class 'z', which train lacks"):
        open_sources(["one", "four"])


@pytest.mark.parametrize(
    ("roots", "message"),
    [
        (["a/x", "b/x"], r"a/x and b/x have one name, 'x', .* a link of another name: ln -s .*/b/x x2"),
        (["a", "a/x"], "a/x lies in a, so its images would be listed twice"),
        (["a", "link"], "a and link are the same folder. Give it once"),
        (["a", "none"], "none does not exist"),
    ],
)
def test_sources_that_are_not_apart_are_refused(roots: list[str], message: str) -> None:
    put_names("a/x/c/0.jpg", "b/x/c/0.jpg")
    Path("link").symlink_to("a")
    with pytest.raises(SourceError, match=message):
        open_sources(roots)
    Path("x2").symlink_to("b/x")
    assert set(classes_of(["a/x", "x2"])) == {"x/c/0.jpg", "x2/c/0.jpg"}


def test_a_table_for_several_folders_begins_with_their_names() -> None:
    put_names("p/one/0.jpg", "p/one/1.jpg", "p/two/0.jpg", "p/two/9.jpg")
    here = os.path.realpath("p/two/0.jpg")
    Path("l.csv").write_text(f"path,label\none/0.jpg,cat\none/1,dog\n{here},cat\n")
    assert classes_of(["p/one", "p/two"], labels="l.csv") == {"one/0.jpg": "cat", "one/1.jpg": "dog", "two/0.jpg": "cat"}
    (source,) = open_sources(["p/one", "p/two"], labels="l.csv")
    assert (source.split, source.unlabelled, source.store.read(source.items[2])) == ("one+two", 1, b"x")
    Path("l.csv").write_text("path,label\none/0.jpg,cat\nthree/0.jpg,dog\n")
    with pytest.raises(SourceError, match=r"line 3: 'three/0.jpg' is not a path below p/one and p/two"):
        open_sources(["p/one", "p/two"], labels="l.csv")


@pytest.mark.parametrize(
    ("text", "label_from", "expected"),
    [
        ("cat/images/0 0.jpg\ndog/images/1,1.jpg\n", "grandparent", ["cat", "dog"]),
        ("path\ncat/images/0 0.jpg\ndog/images/1,1\n", "grandparent", ["cat", "dog"]),
        ("cat/images/0 0.jpg\r\n\r\ndog/images/1,1.jpg", None, ["images", "images"]),
        ('"cat/images/0 0.jpg"\n"dog/images/1,1.jpg"\n', "parent", ["images", "images"]),
        ("{here}/cat/images/0 0.jpg\n{here}/dog/images/1,1.jpg\n", "grandparent", ["cat", "dog"]),
    ],
)
def test_a_list_of_paths_has_the_labels_of_folders(text: str, label_from: str | None, expected: list[str]) -> None:
    put_names("d/cat/images/0 0.jpg", "d/dog/images/1,1.jpg", "d/dog/images/2.jpg")
    Path("list.txt").write_bytes(text.format(here=os.path.realpath("d")).encode())
    found_classes = classes_of("d", labels="list.txt", label_from=label_from)
    assert found_classes == dict(zip(("cat/images/0 0.jpg", "dog/images/1,1.jpg"), expected, strict=True))
    (source,) = open_sources("d", labels="list.txt", label_from=label_from)  # type: ignore[arg-type]
    assert (source.unlabelled, source.label_from) == (1, label_from or "parent")


def test_label_from_is_for_lists_with_such_folders() -> None:
    put_names("d/cat/0.jpg")
    Path("list.txt").write_text("cat/0.jpg\n")
    Path("table.csv").write_text("cat/0.jpg,cat\n")
    for options, message in (
        ({"labels": "list.txt", "label_from": "grandparent"}, "line 1: 'cat/0.jpg' has no grandparent folder in d"),
        (
            {"labels": "table.csv", "label_from": "parent"},
            "table.csv is no list of bare paths, so --label-from parent does nothing",
        ),
        ({"label_from": "parent"}, "--label-from parent is for a list of bare paths"),
    ):
        with pytest.raises(SourceError, match=message):
            open_sources("d", **options)  # type: ignore[arg-type]


def test_class_archives_give_the_betons_of_their_folders() -> None:
    files = {name: {f"{name}_{n}.JPEG": image(n + 5 * c) for n in range(3)} for c, name in enumerate(("n02", "n01"))}
    put({f"unpacked/train/{name}/{key}": data for name, members in files.items() for key, data in members.items()})
    put({f"train/{name}.tar": tar(members) for name, members in files.items()} | {"train/words.txt": b""})
    encode_all("train", Path("of_tars"), [50])
    encode_all("unpacked/train", Path("of_folders"), [50])
    assert digests(Path("of_tars"))["train-q50.beton"] == digests(Path("of_folders"))["train-q50.beton"]
    (source,) = open_sources("train")
    assert (source.classes, source.ignored, source.named) == (("n01", "n02"), 1, False)
    put({"ILSVRC2012_img_train.tar": nested(files)})
    assert contents(source) == contents(open_sources("ILSVRC2012_img_train.tar")[0])
    assert main_refusal({"train/n03.tar": tar({"a.txt": b""})}) == "train/n03.tar holds no images"
    assert main_refusal({"train/n03.tar": tar({"a.jpg": b"x"})[:600]}) == "train/n03.tar is cut short"
    assert main_refusal({"train/n03.tar": tar({"a.jpg": b"x"}), "train/n03/a.jpg": b""}).startswith(
        "train holds class archives"
    )


def main_refusal(files: dict[str, bytes]) -> str:
    """Return the start of the message when a folder with these files is opened."""
    put(files)
    with pytest.raises(SourceError) as refused:
        open_sources("train")
    message = str(refused.value)
    return message[: max(message.find(end) + len(end) for end in ("holds no images", "is cut short", "class archives"))]


def test_an_encode_that_draws_its_splits_is_resumed_and_completed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put({f"one/{kind}/{n}.jpg": image(n) for kind in ("cat", "dog") for n in range(12)})
    put({f"two/dog/{n}.jpg": image(40 + n) for n in range(12)})
    encode = "encode one two --val 0.25 --quality source -o betons -q"
    assert command(encode) == 0
    manifest = read_manifest(Path("betons/val-source.beton"))
    assert manifest is not None
    assert (manifest.source, manifest.more_sources, manifest.images) == ("one", ("two",), 9)
    assert (manifest.val_share, manifest.test_share, manifest.split_seed) == (0.25, 0, 0)
    rows = [row for split in ("train", "val") for row in read_items(Path(f"betons/{split}-source.beton"))]
    assert len({row["key"] for row in rows}) == 36
    assert command(f"{encode} --resume") == 0
    capsys.readouterr()
    assert command(f"{encode} --val 0.5 --resume") == 2
    assert "has val_share 0.25, this encode 0.5. Give the same options" in capsys.readouterr().err
    assert command(encode.replace(" two", "") + " --resume") == 2
    assert "betons/train-source.beton was encoded from 27 images, but the source has 18 now" in capsys.readouterr().err
    assert command("inspect betons/val-source.beton --json") == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["val_share"] == 0.25
    sets = open_datasets(tiny_recipe(Path("betons"), tmp_path, "evaluate=[q50]"))  # encodes q50 as the source was
    assert [len(dataset) for dataset in (*sets.train.values(), *sets.val.values())] == [27, 27, 9]
    assert sets.val["q50"].keys == manifest.keys_sha256
