import csv
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from imagenet import TRAIN, TRUTH, VAL, kaggle_table, nested, tar, train_files, val_files, val_name, write_archives
from samples import TOOLS, tool_module

from jpegcurr.encoding.sources.image_folder import open_folders
from jpegcurr.encoding.sources.imagenet_tars import open_imagenet
from jpegcurr.progress import Progress

TOOL = TOOLS / "prepare_imagenet"
SRC, OUT = Path("src"), Path("out")
FIRST = "n01440764/n01440764_0.JPEG"
IMAGES = {"train": 12, "val": 5}

Files = dict[str, tuple[bytes, int]]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the script as a module, whose names can be patched."""
    return tool_module("prepare_imagenet", monkeypatch)


def run(tool: ModuleType, *arguments: str) -> int:
    return int(tool.main([str(SRC), str(OUT), "--threads", "2", *arguments]))


def files(root: Path) -> Files:
    """Return the bytes and the modification time of every file below a folder."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def broken_rows() -> list[list[str]]:
    with Path("out/broken.tsv").open(newline="") as file:
        return list(csv.reader(file, "excel-tab"))


def put_broken(name: str, data: bytes) -> None:
    """Write archives with one broken training image."""
    classes = train_files()
    classes["n01440764"][name] = data
    write_archives(SRC)
    (SRC / TRAIN).write_bytes(nested(classes))


def test_the_folders_are_the_same_data_set_as_the_archives(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    write_archives(SRC)
    assert run(tool) == 0
    in_place, unpacked = open_imagenet(SRC, None), open_folders(OUT)
    for archive, folder in zip(in_place, unpacked, strict=True):
        assert (archive.split, archive.classes) == (folder.split, folder.classes)
        assert [(item.key, item.label, item.size) for item in archive.items] == [
            (item.key, item.label, item.size) for item in folder.items
        ]
        assert [archive.store.read(item) for item in archive.items] == [folder.store.read(item) for item in folder.items]
        assert (archive.ordered("shuffle", 7) == folder.ordered("shuffle", 7)).all()
    assert len(files(OUT)) == sum(IMAGES.values()), "nothing else is left there"
    assert capsys.readouterr().out.splitlines() == [
        "train: 12 images: 12 written, 0 kept, 0 broken",
        "val: 5 images: 5 written, 0 kept, 0 broken",
    ]


def test_a_second_run_writes_only_what_is_missing(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    write_archives(SRC)
    run(tool)
    before = files(OUT)
    (OUT / "train" / FIRST).unlink()
    (OUT / "val/n01440764" / val_name(2)).write_bytes(b"half")
    capsys.readouterr()
    assert run(tool) == 0
    assert capsys.readouterr().out.splitlines() == [
        "train: 12 images: 1 written, 11 kept, 0 broken",
        "val: 5 images: 1 written, 4 kept, 0 broken",
    ]
    after = files(OUT)
    assert {name: data for name, (data, _) in after.items()} == {name: data for name, (data, _) in before.items()}
    assert len([name for name in after if after[name] != before[name]]) == 2


def test_one_split_does_not_need_the_other(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    write_archives(SRC, "train")
    (SRC / VAL).write_bytes(b"not yet fetched")
    assert run(tool, "--split", "train") == 0
    assert os.listdir(OUT) == ["train"]
    (SRC / VAL).write_bytes(tar(val_files()))
    Path("table.csv").write_text(kaggle_table())
    assert run(tool, "--split", "val", "--labels", "table.csv") == 0
    assert sorted(os.listdir("out/val")) == sorted(set(TRUTH))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_archive_can_be_given_itself(tool: ModuleType) -> None:
    write_archives(SRC)
    assert tool.main([str(SRC / VAL), "out"]) == 0
    assert os.listdir(OUT) == ["val"]
    assert tool.main([str(SRC / VAL), "out", "--split", "train"]) == 2


def test_an_empty_image_is_listed_and_not_unpacked(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    put_broken("empty.JPEG", b"")
    assert run(tool) == 1
    assert broken_rows() == [["split", "path", "reason"], ["train", "n01440764/empty.JPEG", "the file is empty"]]
    output = capsys.readouterr()
    assert output.out.splitlines()[0] == "train: 13 images: 12 written, 0 kept, 1 broken"
    assert "broken: train/n01440764/empty.JPEG: the file is empty" in output.err
    assert "1 images are broken and were not unpacked: out/broken.tsv lists them" in output.err
    assert len(files(OUT / "train")) == IMAGES["train"]


def test_verify_finds_what_does_not_decode_in_files_of_an_earlier_run_too(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train_files()["n01440764"]["n01440764_1.JPEG"]
    put_broken("odd\tname.JPEG", b"no picture")
    assert run(tool) == 0, "without --verify no image is decoded"
    target = OUT / "train" / FIRST
    target.write_bytes(whole[:20].ljust(target.stat().st_size, b"x"))
    capsys.readouterr()
    assert run(tool, "--verify") == 1
    assert broken_rows()[1:] == [["train", "n01440764/odd\tname.JPEG", "not an image that Pillow can read"]]
    assert capsys.readouterr().out.splitlines() == [
        "train: 13 images: 1 written, 11 kept, 1 broken",
        "val: 5 images: 0 written, 5 kept, 0 broken",
    ]
    assert target.read_bytes() == train_files()["n01440764"]["n01440764_0.JPEG"]
    assert not (OUT / "train/n01440764/odd\tname.JPEG").exists()


def test_the_list_of_broken_images_is_of_the_last_run_of_each_split(tool: ModuleType) -> None:
    put_broken("surrogate\udcff.JPEG", b"")
    (SRC / VAL).write_bytes(tar({**val_files(), val_name(1): b""}))
    assert run(tool, "--split", "train") == 1
    assert run(tool, "--split", "val") == 1
    assert [row[:2] for row in broken_rows()] == [
        ["split", "path"],
        ["train", "n01440764/surrogate\\udcff.JPEG"],
        ["val", f"{TRUTH[0]}/{val_name(1)}"],
    ]
    write_archives(SRC)
    assert run(tool, "--split", "val") == 0
    assert [row[0] for row in broken_rows()] == ["split", "train"]
    assert run(tool) == 0
    assert not Path("out/broken.tsv").exists()


@pytest.mark.parametrize("evil", ["../../evil.JPEG", "/evil.JPEG", "x/../../../evil.JPEG"])
def test_nothing_is_written_outside(tool: ModuleType, capsys: pytest.CaptureFixture[str], evil: str) -> None:
    put_broken(evil, b"evil")
    assert run(tool) == 2
    assert "lies outside the archive's own folder" in capsys.readouterr().err
    write_archives(SRC, "val")
    (SRC / TRAIN).unlink()
    (SRC / "LOC_val_solution.csv").write_text(kaggle_table().replace(TRUTH[0], "../../evil"))
    assert run(tool) == 2
    assert "cannot be the name of a folder" in capsys.readouterr().err
    assert os.listdir() == ["src"]
    assert not list(Path("..").rglob("evil*"))


def test_a_link_in_the_output_is_replaced_not_followed(tool: ModuleType) -> None:
    write_archives(SRC)
    (OUT / "train/n01440764").mkdir(parents=True)
    Path("precious").write_bytes(b"precious")
    (OUT / "train" / FIRST).symlink_to(Path("precious").absolute())
    (OUT / "train/n01440764/.n01440764_0.JPEG.partial").symlink_to(Path("precious").absolute())
    assert run(tool) == 0
    assert Path("precious").read_bytes() == b"precious"
    assert not (OUT / "train" / FIRST).is_symlink()


def test_an_interrupted_run_resumes(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archives(SRC)
    monkeypatch.setattr(tool, "CHUNK", 1)
    update = Progress.update

    def interrupt(bar: Progress, title: str, done: int, total: int) -> None:
        update(bar, title, done, total)
        if done == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "update", interrupt)
    assert run(tool) == 130
    assert "run the same command again" in capsys.readouterr().err
    there = files(OUT)
    assert 3 <= len(there) < sum(IMAGES.values())
    assert all(name.endswith(".JPEG") for name in there)
    monkeypatch.setattr(Progress, "update", update)
    assert run(tool) == 0
    assert there.items() <= files(OUT).items(), "what was there was kept"
    assert len(files(OUT)) == sum(IMAGES.values())


def test_a_full_disk_is_a_sentence_and_leaves_no_half_files() -> None:
    write_archives(SRC)
    command = [sys.executable, str(TOOL), str(SRC), str(OUT), "--threads", "2"]
    limit = min(len(data) for data in train_files()["n01440764"].values()) - 1
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: out/train/n01440764/")
    assert "cannot be written: File too large. The unpacked images are kept" in last
    assert "Traceback" not in done.stderr
    assert all(len(data) <= limit for data, _ in files(OUT).values())
    assert not list(OUT.rglob(".*"))


def test_an_output_that_cannot_be_written_is_a_sentence(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    write_archives(SRC)
    OUT.write_text("a file")
    assert run(tool) == 1
    assert "Not a directory" in capsys.readouterr().err
    OUT.unlink()
    (OUT / "train" / FIRST).mkdir(parents=True)
    assert run(tool) == 1
    assert f"out/train/{FIRST} cannot be written: Is a directory" in capsys.readouterr().err


def test_an_archive_that_fails_while_it_is_read_stops_the_run(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archives(SRC, "train")
    unpack_split = tool.unpack_split

    def cut(*arguments: object) -> object:
        os.truncate(SRC / TRAIN, 30_000)
        return unpack_split(*arguments)

    monkeypatch.setattr(tool, "unpack_split", cut)
    assert run(tool) == 1
    assert "the archive has become shorter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent", "out"], "absent does not exist"),
        (["src", "out", "--split", "val"], f"src/{VAL} does not exist"),
        (["images", "out"], f"images holds neither {TRAIN} nor {VAL}"),
        (["src", "out", "--labels", "t.csv"], "src holds training images only"),
        (["src", "out", "--threads", "0"], "--threads is 1 or more"),
        (["src", "out", "--split", "test"], "invalid choice: 'test'"),
        (["src"], "required: out"),
    ],
)
def test_wrong_use_is_reported_and_writes_nothing(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_archives(SRC, "train")
    Path("images").mkdir()
    try:
        code = tool.main(arguments)
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert not OUT.exists()


def test_it_is_a_command() -> None:
    assert os.access(TOOL, os.X_OK)
    done = subprocess.run([sys.executable, str(TOOL), "--help"], capture_output=True, text=True, check=True)
    assert "--verify" in done.stdout
