"""Betons that are changed while they are in use: a sentence that names the file, never a signal without a word."""

import json
import logging
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from forked import PYTHON
from samples import LOADERS, image, tiny_tree, write_beton

from jpegcurr.cli import main
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import BetonError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import EpochSampler, Variant

# Runs a command of jpegcurr in which a file is cut short as soon as a number of batches was loaded.
CUTTING = """
import os, sys
from pathlib import Path
file, left, *words = sys.argv[1:]
left = int(left)
from jpegcurr.runtime import Runtime
upload = Runtime.upload
def cutting(self, tensor):
    global left
    left -= 1
    if left == 0:
        os.truncate(file, Path(file).stat().st_size // 2)
    return upload(self, tensor)
Runtime.upload = cutting
from jpegcurr.cli import main
main(words)
"""


def run(file: str, batches: int, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in which ``file`` is cut short after so many batches."""
    Path("cutting.py").write_text(CUTTING)
    words = [PYTHON, "cutting.py", file, str(batches), *shlex.split(command)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("kind", LOADERS)
def test_a_training_file_that_is_cut_short_within_an_epoch_ends_training_with_its_name(
    photos: Path, betons: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is cut in the second epoch of 24 batches; each batch uploads its images and its labels."""
    shutil.copytree(betons, "betons")
    tree = tiny_tree(Path("betons"))
    tree |= {"batch": {"size": 8, "per_device": 2}, "evaluate": [], "loader": {"kind": kind, "workers": 1}}
    Path("tiny.yaml").write_text(json.dumps(tree))
    command = "train -r tiny.yaml --out out --device cpu -q"
    done = run("betons/train-source.beton", 60, command)
    assert done.returncode == 1, (done.returncode, done.stderr)
    assert "betons/train-source.beton was changed while it was in use: it had" in done.stderr
    assert "out/state.safetensors is from before it and can be resumed with --resume once the file is whole" in done.stderr
    assert "Traceback" not in done.stderr
    shutil.copy(betons / "train-source.beton", "betons/train-source.beton")
    with pytest.raises(SystemExit) as left:
        main([*shlex.split(command), "--resume"])
    assert left.value.code == 0, capsys.readouterr().err
    assert len(Path("out/metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", LOADERS)
def test_a_validation_file_that_is_cut_short_ends_evaluate_with_its_name(trained: Path, kind: str) -> None:
    write_beton(Path("val.beton"), [(image(number), 40, 30, number % 4) for number in range(200)])
    done = run("val.beton", 2, f"evaluate {trained} --data val.beton --loader {kind} --device cpu")
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "val.beton was changed while it was in use" in done.stderr
    assert "Traceback" not in done.stderr


def loader(path: Path, cpu: Runtime, kind: str = "plain"):
    beton = Beton(path)
    return open_loader(kind, EpochSampler.of(Variant(beton), ImageSection(size=32), batch=4), cpu)


@pytest.fixture
def copy(betons: Path) -> Path:
    path = Path("val.beton")
    path.write_bytes((betons / "val-source.beton").read_bytes())
    return path


@pytest.mark.parametrize("kind", LOADERS)
def test_a_file_that_grew_or_was_written_to_is_noticed_before_an_epoch(copy: Path, cpu: Runtime, kind: str) -> None:
    opened = loader(copy, cpu, kind)
    assert sum(len(batch.images) for batch in opened.at(0)) == 16
    with copy.open("ab") as file:
        file.write(b"more")
    with pytest.raises(BetonError, match=r"val\.beton was changed while it was in use: it had \d+ bytes and has \d+"):
        next(opened.at(1))


def test_a_file_that_is_overwritten_by_another_of_its_size_is_noticed(copy: Path, cpu: Runtime) -> None:
    opened = loader(copy, cpu)
    data = bytearray(copy.read_bytes())
    data[2106 + 24] ^= 1  # the label of the first sample
    copy.write_bytes(data)
    os.utime(copy, ns=(0, 0))
    with pytest.raises(BetonError, match="its content is another"):
        next(opened.at(1))


def test_a_file_that_was_only_touched_is_still_read(copy: Path, cpu: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    """Clusters delete files that are old, so people touch them."""
    opened = loader(copy, cpu)
    os.utime(copy, ns=(0, 0))
    with caplog.at_level(logging.WARNING):
        for epoch in range(3):
            assert sum(len(batch.images) for batch in opened.at(epoch)) == 16
    assert [record.message for record in caplog.records] == [
        "val.beton was touched or rewritten since it was opened; its index is the same, its images unknown"
    ]


def test_a_file_that_is_replaced_by_another_is_read_to_its_end(
    copy: Path, cpu: Runtime, betons: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An encode with --force gives the file a new one; the old one stays whole as long as it is open."""
    opened = loader(copy, cpu)
    before = [batch.images for batch in opened.at(0)]
    copy.unlink()
    copy.write_bytes((betons / "val-q50.beton").read_bytes())
    with caplog.at_level(logging.WARNING):
        for epoch in range(2):
            after = [batch.images for batch in opened.at(epoch)]
            assert all(bool((one == other).all()) for one, other in zip(before, after, strict=True))
    assert [record.message for record in caplog.records] == [
        "val.beton was moved or replaced; what was opened before is still read, and is whole"
    ]


def test_a_disk_that_fails_is_a_sentence(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beton = Beton(copy)

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(BetonError, match=r"val\.beton cannot be read: Input/output error"):
        beton.payload(0)


def test_no_file_stays_open(copy: Path) -> None:
    before = set(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else set()
    for _ in range(20):
        Beton(copy)
    assert len(set(os.listdir("/proc/self/fd")) - before) <= 1 if before else True


def test_a_mapped_file_would_have_ended_the_process() -> None:
    """What this module is about: reading a map behind the end of its file is a signal."""
    code = (
        "import mmap, os; open('f', 'wb').write(bytes(1 << 16)); m = mmap.mmap(os.open('f', os.O_RDONLY), 0, "
        "access=mmap.ACCESS_READ); os.truncate('f', 0); m[5000]"
    )
    done = subprocess.run([PYTHON, "-c", code], check=False, capture_output=True)
    assert done.returncode == -signal.SIGBUS
