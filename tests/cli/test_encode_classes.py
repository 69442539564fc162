"""The classes that ``encode`` and its dry run print, for every kind of source."""

import json
import shlex
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from imagenet import CLASSES, tar, write_archives
from samples import image

from jpegcurr.cli import main
from jpegcurr.encoding.estimate import ROW

NAMES = ("akita", "boxer", "collie")
LINE = "3 classes (akita, boxer, collie); images per class: least 1, median 2, most 3"


def put(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def write_images(folder: str) -> None:
    """Write an image of akita, two of boxer and three of collie into class folders."""
    for count, name in enumerate(NAMES, 1):
        for number in range(count):
            put(f"{folder}/{name}/{number}.jpg", image(10 * count + number))


def write_folder() -> tuple[str, dict[str, str]]:
    write_images("dogs")
    return "dogs", {"dogs": LINE}


def write_splits() -> tuple[str, dict[str, str]]:
    write_images("dogs/imgs_train")
    put("dogs/imgs_val/akita/1.jpg", image(0))
    val = "3 classes (akita, boxer, collie); images per class: least 0, median 0, most 1"
    return "dogs", {"train": LINE, "val": val}


def write_table() -> tuple[str, dict[str, str]]:
    names = ["boxer", "akita", "collie", "boxer", "collie", "collie"]
    for number in range(8):
        put(f"dogs/{number}.jpg", image(number))
    put("labels.csv", "".join(f"{number},{name}\n" for number, name in enumerate(names)).encode())
    return "dogs --labels labels.csv", {"dogs": f"{LINE}; 2 images without a label are left out"}


def write_tars() -> tuple[str, dict[str, str]]:
    write_archives(Path("d"))
    names = ", ".join(sorted(CLASSES))
    return "d", {
        "train": f"4 classes ({names}); images per class: least 3, median 3, most 3",
        "val": f"4 classes ({names}); images per class: least 1, median 1, most 2",
    }


def write_shards() -> tuple[str, dict[str, str]]:
    files = {}
    for number, label in enumerate((0, 1, 1, 6, 6, 6)):
        files |= {f"{number}.jpg": image(number), f"{number}.cls": str(label).encode()}
    put("shards/dogs-000.tar", tar(files))
    return "shards/dogs-000.tar", {
        "dogs": "7 classes (0, 1, 2, 3, 4, ...); images per class: least 0, median 0, most 3",
    }


def write_hub_folder() -> tuple[str, dict[str, str]]:
    pytest.importorskip("datasets").disable_progress_bars()
    write_images("dogs/train")
    return "hf:./dogs", {"train": LINE}


WRITERS = (write_folder, write_splits, write_table, write_tars, write_shards, write_hub_folder)


def encode(arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(["encode", *shlex.split(arguments)])
    output = capsys.readouterr()
    return int(left.value.code or 0), output.out, output.err


@pytest.mark.parametrize("write", WRITERS)
def test_encode_and_its_dry_run_print_the_classes(
    write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if write is write_hub_folder:
        pytest.importorskip("datasets")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    where, lines = write()
    code, out, _ = encode(f"{where} --quality 50 --dry-run", capsys)
    assert code == 0
    assert [line for line in out.splitlines() if "classes" in line] == [f"{split}: {line}" for split, line in lines.items()]
    (first, *_) = json.loads(encode(f"{where} --quality 50 --dry-run --json", capsys)[1])["splits"]
    text = next(iter(lines.values()))
    assert text.startswith(f"{first['classes']} classes ({', '.join(first['first_classes'])}")
    images = first["images_per_class"]
    assert f"least {images['least']:g}, median {images['median']:g}, most {images['most']:g}" in text
    assert first["unlabelled"] == (2 if write is write_table else 0)
    code, out, err = encode(f"{where} --quality 50", capsys)
    assert (code, "classes" in out) == (0, False), "stdout is the table of files"
    assert all(f"{split}: {line}" in err.splitlines() for split, line in lines.items())
    assert "classes" not in encode(f"{where} --quality 50 --force --quiet", capsys)[2]


def test_names_of_classes_are_printed_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    put("d/a\x1b[31m\u202eb/1.jpg", image(0))
    put("d/c/1.jpg", image(1))
    for option in ("--dry-run", "--dry-run --json", ""):
        _, out, err = encode(f"d --quality 50 {option}", capsys)
        assert not {"\x1b", "\u202e"} & set(out + err), option


def test_images_without_a_label_are_counted_in_the_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    where, _ = write_table()
    assert (
        "dogs: 2 files without the suffix of an image or without a label were skipped"
        in encode(f"{where} --quality 50", capsys)[1]
    )
    assert json.loads(Path("betons/dogs-q50.json").read_text())["ignored"] == 2


def test_flat_classes_take_every_folder_as_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("bus", "car", "train"):
        for inner in ("old", "new"):
            put(f"d/{name}/{inner}/1.jpg", image(0))
    assert "train: 2 classes (new, old)" in encode("d --quality 50 --dry-run", capsys)[1]
    _, out, err = encode("d --quality 50 --dry-run --flat-classes", capsys)
    assert "d: 3 classes (bus, car, train)" in out
    assert "the images of 3 of 3 classes all lie in sub-folders, such as bus/new" in err
    assert encode("d --quality 50 --flat-classes --split train", capsys)[0] == 0
    assert json.loads(Path("betons/train-q50.json").read_text())["classes"] == ["bus", "car", "train"]


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, free))


@pytest.mark.parametrize("quality", ["source", "50"])
def test_an_encode_that_does_not_fit_is_refused_before_its_first_byte(
    quality: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images("dogs")
    sizes = json.loads(encode(f"dogs --quality {quality} --dry-run --json", capsys)[1])["splits"][0]["outputs"]
    (needed,) = sizes.values()
    with_free(monkeypatch, needed - 1)
    assert "Not enough space" in encode(f"dogs --quality {quality} --dry-run", capsys)[1]
    code, out, err = encode(f"dogs --quality {quality}", capsys)
    assert (code, out, Path("betons").exists()) == (2, "", False)
    assert "betons needs about 0.0 MB more, and 0.0 MB are free, so this encode does not fit; nothing was written" in err
    for way_out in ("--limit 3", "--classes akita"):
        assert encode(f"dogs --quality {quality} {way_out} -o {way_out[2:5]}", capsys)[0] == 0, way_out
    with_free(monkeypatch, needed + 6 * ROW)
    assert encode(f"dogs --quality {quality}", capsys)[0] == 0


def test_what_an_interrupted_encode_has_written_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images("dogs")
    put("dogs/collie/9.jpg", b"no image")
    assert encode("dogs --quality 50", capsys)[0] == 1
    with_free(monkeypatch, 3000)
    code, _, err = encode("dogs --quality 50", capsys)
    assert (code, "was interrupted. Continue it with --resume" in err) == (2, True), "which is more to the point"
    put("dogs/collie/9.jpg", image(9))
    assert encode("dogs --quality 50 --resume", capsys)[0] == 0
