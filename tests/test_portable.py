"""Other systems: the commands without what Windows lacks, and their file names and paths."""

import json
import ntpath
import os
import posixpath
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forked import PYTHON
from samples import SMALL, digests, encode_all

from jpegcurr import descriptors, files
from jpegcurr.encoding.sources.table_paths import key_below

SCRIPT = Path(__file__).with_name("as_windows.py")
TRAIN = f"train --recipe clean_only.yaml {SMALL.replace('--set curriculum.1.until_epoch=2 ', '')} --quiet"
COMMANDS = f"""
encode data/imagenet --quality 50 --quiet
{TRAIN}
{TRAIN} --set curriculum.0.until_epoch=2 --set schedule.horizon=1 --resume
evaluate runs/clean_only --data betons/val-source.beton --qualities source,50 --csv scores.csv --device cpu
cam runs/clean_only data/imagenet/val --qualities source,50 --device cpu
predict runs/clean_only data/imagenet/val --by-class sorted --device cpu
"""


def test_the_commands_run_without_what_windows_lacks(photos: Path) -> None:
    """The betons are those of a machine that has everything, from folders within folders too."""
    shutil.copytree(photos, "data/imagenet")
    deep = Path("data/imagenet/train/cat/a/b")
    deep.mkdir(parents=True)
    Path("data/imagenet/train/cat/00.jpg").rename(deep / "00.jpg")
    commands = [shlex.split(line) for line in COMMANDS.strip().splitlines()]
    done = subprocess.run([PYTHON, str(SCRIPT), json.dumps(commands)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    encode_all("data/imagenet", Path("expected"), ["source", 50])
    written, expected = (
        {name: digest for name, digest in digests(Path(folder)).items() if name.endswith(".beton")}
        for folder in ("betons", "expected")
    )
    assert written == expected
    assert len(written) == 4
    assert [json.loads(line)["epoch"] for line in Path("runs/clean_only/metrics.jsonl").read_text().splitlines()] == [0, 1]
    assert Path("report.html").is_file()
    copies = [path for path in Path("sorted").rglob("*.jpg") if not path.is_symlink()]
    assert len(copies) == 16


def test_bytes_are_read_and_written_at_a_position_without_posix(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pread", "preadv", "pwrite", "pwritev", "fdatasync", "posix_fadvise"):
        monkeypatch.delattr(os, name, raising=False)
    file = descriptors.open_to_write(Path("file"))
    try:
        descriptors.write_at(file, [b"three", b"four"], 3)
        descriptors.write_at(file, [b"one"], 0)
        descriptors.sync_data(file)
        descriptors.drop_cache(file)
        assert descriptors.read_at(file, 100, 0) == b"onethreefour"
        buffer = bytearray(5)
        with ThreadPoolExecutor(4) as threads:
            words = threads.map(lambda number: descriptors.read_at(file, 4, (3, 8)[number % 2]), range(400))
            assert list(words) == [b"thre", b"four"] * 200
        assert descriptors.read_into(file, memoryview(buffer), 10) == 2
        assert buffer == b"ur\0\0\0"
    finally:
        os.close(file)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (r"cat\1.jpg", "cat/1.jpg"),
        ("cat/1.jpg", "cat/1.jpg"),
        (r".\cat\..\dog\1.jpg", "dog/1.jpg"),
        (r"c:\DATA\cat\1.jpg", "cat/1.jpg"),
        ("C:/Data/cat/1.jpg", "cat/1.jpg"),
        (r"C:\Database\1.jpg", None),
        (r"..\1.jpg", None),
        (r"D:1.jpg", None),
        (r"\\server\share\1.jpg", None),
        ("cat\0.jpg", None),
    ],
)
def test_a_table_of_windows_paths_names_keys_with_slashes(path: str, key: str | None) -> None:
    assert key_below([r"C:\Data"], path, ntpath) == key


def test_a_backslash_in_a_name_is_one_on_posix() -> None:
    assert key_below(["/data"], r"/data/a\b.jpg", posixpath) == r"a\b.jpg"


@pytest.mark.parametrize(
    ("name", "part"),
    [("a:b", "a_b"), (r"a\b", "a_b"), ("con", "_con"), ("NUL.txt", "_NUL.txt"), ("console", "console"), ("x. ", "x_")],
)
def test_class_names_become_names_that_windows_allows(name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.path_part(name) == name
    monkeypatch.setattr(files, "WINDOWS", True)
    assert files.path_part(name) == part
