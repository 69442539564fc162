"""Interrupted encodes continue where they stopped and end in the same bytes."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from forked import PYTHON
from samples import digests, encode_all, jpeg, photograph

from jpegcurr.encoding.beton.manifest import read_manifest
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.resume import partial_files
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import Outcome, open_executor
from jpegcurr.errors import EncodeError, UsageError
from jpegcurr.files import locked

ENCODE = ["encode", "--quality", "source", "--quality", "50", "-o", "betons", "-q"]
# What an encode asks of the system while it writes; it is killed at the n-th of these.
CALLS = ("pwritev", "pwrite", "write", "ftruncate", "fsync", "fdatasync", "replace", "unlink", "mkdir", "open")
KILLED = f"""
import os, pathlib, signal, sys
left = int(sys.argv.pop(1))
real_write = os.write
def killing(name, call):
    def wrapped(*arguments, **options):
        global left
        inside = any(str(argument).find("betons") >= 0 for argument in arguments) or isinstance(arguments[0], int)
        left -= inside
        if inside and left == 0:
            if name in ("write", "pwrite", "pwritev"):  # torn in the middle
                data = b"".join(arguments[1]) if name == "pwritev" else bytes(arguments[1])
                os.lseek(arguments[0], arguments[2], 0) if len(arguments) > 2 else None
                real_write(arguments[0], data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped
import jpegcurr.encoding.encode
for name in {CALLS!r}:
    setattr(os, name, killing(name, getattr(os, name)))
from jpegcurr.cli import main
main(sys.argv[1:])
"""


class Watch:
    """Counts what was there already and what was encoded."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.there = self.encoded = 0
        self._stop_after = stop_after

    def begin(self, source: Source, done: int) -> None:
        self.there += done

    def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
        self.encoded += len(outcomes)
        if self.encoded >= self._stop_after:
            raise KeyboardInterrupt


def stop(photos: Path, after: int = 20, qualities: tuple[int | str, ...] = ("source", 50)) -> None:
    """Encode some of the photographs into ``betons``, as far as one who presses Ctrl-C lets it come."""
    with pytest.raises(KeyboardInterrupt):
        encode_all(photos, Path("betons"), qualities, watcher=Watch(after))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def calls(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many such calls a whole encode makes."""
    folder = tmp_path_factory.mktemp("counted")
    code = KILLED.replace("main(sys.argv[1:])", "try:\n    main(sys.argv[1:])\nfinally:\n    print(-left)")
    command = [PYTHON, "-c", code, "0", *ENCODE, str(photos)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return int(done.stdout.split()[-1])


def kill(photos: Path, at: int, *options: str) -> bool:
    """Encode into ``betons`` and die at the ``at``-th call; whether it came to that."""
    command = [PYTHON, "-c", KILLED, str(at), *ENCODE, str(photos), *options]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


def finish(photos: Path, betons: Path) -> Watch:
    """Go on to the end, which must be that of an unbroken run."""
    for path in Path("betons").glob("[!.]*.beton"):
        assert path.read_bytes() == (betons / path.name).read_bytes(), "a file with its name is whole"
    watch = Watch()
    encode_all(photos, Path("betons"), ["source", 50], resume=True, watcher=watch)
    assert watch.there + watch.encoded == 64
    assert digests(Path("betons")) == digests(betons)
    return watch


@pytest.mark.parametrize("share", [*np.random.default_rng(0).random(12).tolist(), 0.9, 0.95, 0.98, 1.0])
def test_a_kill_at_any_moment_costs_nothing_but_the_time(photos: Path, betons: Path, calls: int, share: float) -> None:
    assert kill(photos, max(1, round(share * calls)))
    finish(photos, betons)


@pytest.mark.parametrize("seed", range(4))
def test_kills_of_resumed_runs_and_crashes_of_the_machine_between_them(
    photos: Path, betons: Path, calls: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    kill(photos, int(random.integers(1, calls)))
    for _ in range(2):
        if random.random() < 0.5:
            crash()
        kill(photos, int(random.integers(1, calls)), "--resume")
    finish(photos, betons)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_a_kill_while_files_are_replaced(photos: Path, betons: Path, calls: int, share: float) -> None:
    """A damaged output is written again with --force."""
    shutil.copytree(betons, "betons")
    for path in Path("betons").glob("*.beton"):
        data = bytearray(path.read_bytes())
        data[-4000] ^= 1
        path.write_bytes(data)
    assert kill(photos, round(share * calls), "--force")
    watch = Watch()
    encode_all(photos, Path("betons"), ["source", 50], resume=True, watcher=watch)
    different = {name for name, digest in digests(Path("betons")).items() if digest != digests(betons)[name]}
    assert not different or share < 0.1, "unless it was not begun when it was killed"


def crash(output: str = "*") -> None:
    """What the disk had not taken is lost: the end of a file of records."""
    for plan in Path("betons").glob(".*.plan"):
        plan.write_text(plan.read_text().replace(json.loads(plan.read_text())["boot"], "0" * 36))
    for partial in Path("betons").glob(f".{output}.beton.partial"):
        data = bytearray(partial.read_bytes())
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        partial.write_bytes(data)


def test_a_check_after_a_crash_that_is_stopped_is_made_again(
    photos: Path, betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(photos, after=48)
    crash()
    with monkeypatch.context() as patch:
        patch.setattr("jpegcurr.encoding.output.Output.rewind", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            encode_all(photos, Path("betons"), ["source", 50], resume=True)
    assert finish(photos, betons).there < 48


def failing_sync(_file: int) -> None:
    raise OSError(5, "Input/output error")


def test_a_disk_that_fails_behind_the_writer_is_heard_and_its_records_are_read_back(
    photos: Path, betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jpegcurr.encoding.beton.writer._SYNC_EVERY", 1)
        patch.setattr("jpegcurr.encoding.beton.writer.sync_data", failing_sync)
        with pytest.raises(EncodeError, match=r"\.train-source\.beton\.partial: Input/output error.*and --resume"):
            encode_all(photos, Path("betons"), ["source", 50])
    assert not list(Path("betons").glob("[!.]*"))
    assert json.loads(Path("betons/.train-source.plan").read_text())["boot"].strip() == ""
    finish(photos, betons)


def test_a_sync_that_failed_before_ctrl_c_is_not_forgotten(photos: Path, betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("jpegcurr.encoding.beton.writer._SYNC_EVERY", 50_000)
        patch.setattr("jpegcurr.encoding.beton.writer.sync_data", failing_sync)
        stop(photos, after=16, qualities=("source",))
    assert json.loads(Path("betons/.train-source.plan").read_text())["boot"].strip() == ""
    finish(photos, betons)


def test_a_folder_that_is_replaced_under_an_encode_gets_nothing_from_it(photos: Path) -> None:
    class Replace(Watch):
        def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
            if not self.encoded:
                Path("betons").rename("gone")
                shutil.copytree("gone", "betons")
            self.encoded += len(outcomes)

    with pytest.raises(EncodeError, match="betons was replaced meanwhile"):
        encode_all(photos, Path("betons"), [50], watcher=Replace())
    assert not list(Path("betons").glob("[!.]*"))


def test_a_plan_that_cannot_be_read_is_not_taken_for_none(photos: Path) -> None:
    stop(photos)
    Path("betons/.train-q50.plan").write_text("{")
    for options in ({}, {"resume": True}):
        with pytest.raises(UsageError, match=r"train-q50\.plan is of an interrupted encode, and cannot be read.*--force"):
            encode_all(photos, Path("betons"), [50], **options)
    encode_all(photos, Path("betons"), [50], force=True)


def test_a_full_disk_at_a_resume_loses_nothing(photos: Path, betons: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    stop(photos, after=48)
    with monkeypatch.context() as patch:
        for name in ("pwrite", "pwritev", "write"):
            patch.setattr(os, name, full)
        with pytest.raises(EncodeError, match="No space left on device"):
            encode_all(photos, Path("betons"), ["source", 50], resume=True)
    assert finish(photos, betons).there == 48


def test_a_lock_that_is_taken_away_while_another_waits_is_not_held_by_that_one(tmp_path: Path) -> None:
    """B opens the file, A finishes and removes it, B locks what nobody else can find."""
    lock = tmp_path / "lock"
    plain = fcntl.flock

    def flock(file: int, operation: int) -> None:
        if not removed:
            removed.append(lock.unlink())
        plain(file, operation)

    removed: list[None] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fcntl, "flock", flock)
        with locked(lock, Path("x")), pytest.raises(UsageError, match="another process"), locked(lock, Path("x")):
            pass
    assert not lock.exists()


def test_resume_replaces_nothing_that_is_not_its_own(photos: Path) -> None:
    Path("betons").mkdir()
    for name in ("train-q50.beton", "val-q50.json"):
        Path("betons", name).write_text("mine")
        with pytest.raises(UsageError, match=rf"betons/{name} (exists|is not a jpegcurr manifest)"):
            encode_all(photos, Path("betons"), [50], resume=True)
        assert Path("betons", name).read_text() == "mine"
        Path("betons", name).unlink()


def test_a_lower_limit_of_failures_holds_for_what_is_done() -> None:
    for number in range(40):
        Path("d/a").mkdir(parents=True, exist_ok=True)
        Path(f"d/a/{number:02}.jpg").write_bytes(jpeg(photograph("cat").resize((40, 30))) if number > 9 else b"text")
    with pytest.raises(KeyboardInterrupt):
        encode_all(Path("d"), Path("betons"), [50], max_failures=10, watcher=Watch(16))
    with pytest.raises(EncodeError, match="10 images could not be encoded and 0 may fail"):
        encode_all(Path("d"), Path("betons"), [50], resume=True)
    encode_all(Path("d"), Path("betons"), [50], resume=True, max_failures=10)


def test_outputs_that_do_not_pair_are_reported_at_once(photos: Path) -> None:
    """A scan that is damaged can be copied, but not encoded."""
    shutil.copytree(photos, "d")
    broken = Path("d/train/cat/03.jpg")
    data = broken.read_bytes()
    table = data.index(b"\xff\xc4")
    broken.write_bytes(data[: table + 5] + bytes([255] * 8) + data[table + 13 :])
    encode_all(Path("d"), Path("betons"), ["source"])
    with pytest.raises(
        EncodeError, match=r"train-q50\.beton does not hold the samples of betons/train-source\.beton: 47 images"
    ):
        encode_all(Path("d"), Path("betons"), ["source", 50], resume=True, max_failures=1)


def test_with_resume_force_replaces_only_outputs_of_other_options(photos: Path, betons: Path) -> None:
    encode_all(photos, Path("betons"), ["source", 50], seed=7)
    encode_all(photos, Path("betons"), ["source"], force=True)
    watch = Watch()
    encode_all(photos, Path("betons"), ["source", 50], resume=True, force=True, watcher=watch)
    assert digests(Path("betons")) == digests(betons)
    assert watch.encoded == 48, "a seed decides nothing for val"


def test_work_that_is_done_is_not_done_again(photos: Path, betons: Path) -> None:
    stop(photos, after=20)
    assert finish(photos, betons).there >= 20
    assert finish(photos, betons).there == 64, "what is finished is kept"


def test_a_stopped_encode_is_neither_replaced_nor_resumed_unasked(photos: Path, betons: Path) -> None:
    stop(photos)
    with pytest.raises(UsageError, match=r"An encode of betons/train-source\.beton was interrupted.*--resume.*--force"):
        encode_all(photos, Path("betons"), ["source", 50])
    encode_all(photos, Path("betons"), ["source", 50], force=True)
    assert digests(Path("betons")) == digests(betons)


def test_other_options_do_not_resume_it(photos: Path) -> None:
    stop(photos)
    with pytest.raises(UsageError, match=r"interrupted encode of betons/train-source\.beton has seed 0, this encode 7"):
        encode_all(photos, Path("betons"), ["source", 50], resume=True, seed=7)
    encode_all(photos, Path("betons"), ["source", 50], resume=True)
    with pytest.raises(UsageError, match=r"betons/train-source\.beton has order shuffle, this encode folder"):
        encode_all(photos, Path("betons"), ["source", 50], resume=True, order="folder")


def test_a_seed_that_decides_nothing_may_be_another(photos: Path) -> None:
    encode_all(photos / "val", Path("betons"), [50], seed=1)
    encode_all(photos / "val", Path("betons"), ["source", 50], seed=2, resume=True)
    one, other = (read_manifest(Path(f"betons/val-{name}.beton")) for name in ("q50", "source"))
    assert one is not None
    assert other is not None
    assert (one.order, one.seed, one.keys_sha256) == ("folder", 0, other.keys_sha256)


def test_another_source_does_not_resume_it(photos: Path) -> None:
    shutil.copytree(photos, "d")
    stop(Path("d"), after=48)
    image = json.loads(Path("betons/.train-q50.items.jsonl.partial").read_text().splitlines()[0])["key"]
    Path("d/train", image).write_bytes(jpeg(photograph("cat")))
    with pytest.raises(UsageError, match=rf"d/train/{image} has .* changed since.*--resume --force"):
        encode_all(Path("d"), Path("betons"), ["source", 50], resume=True)
    Path("d/train", image).unlink()
    with pytest.raises(UsageError, match="was encoded from 48 images, but the source has 47 now"):
        encode_all(Path("d"), Path("betons"), ["source", 50], resume=True)


def test_one_of_the_outputs_can_be_resumed_alone(photos: Path, betons: Path) -> None:
    stop(photos)
    encode_all(photos, Path("betons"), [50], resume=True)
    finish(photos, betons)


def test_after_a_crash_of_the_machine_the_records_are_read_back(photos: Path, betons: Path) -> None:
    """Rows may then be on the disk whose records are not."""
    stop(photos, after=48)
    crash("train-q50")
    assert 5 < finish(photos, betons).there < 40


def test_without_an_id_of_the_machines_start_only_interrupted_outputs_are_read_back(
    photos: Path, betons: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on macOS, or where /proc is masked."""
    caplog.set_level("INFO")
    for module in ("resume", "output"):
        monkeypatch.setattr(f"jpegcurr.encoding.{module}.read_boot_id", lambda: " " * 36)
    stop(photos, after=48)
    assert "reading its records back" not in caplog.text
    assert finish(photos, betons).there == 48
    assert caplog.text.count("reading its records back") == 2, "the training set's two"


def test_a_mended_image_is_read_again() -> None:
    for number in range(40):
        Path("d/a").mkdir(parents=True, exist_ok=True)
        Path(f"d/a/{number}.jpg").write_bytes(jpeg(photograph("cat").resize((40 + number, 30))))
    whole = Path("d/a/33.jpg").read_bytes()
    Path("d/a/33.jpg").write_bytes(b"a text file")
    with pytest.raises(EncodeError, match=r"d/a/33\.jpg: not an image"):
        encode_all(Path("d"), Path("betons"), [50])
    Path("d/a/33.jpg").write_bytes(whole)
    watch = Watch()
    encode_all(Path("d"), Path("betons"), [50], resume=True, watcher=watch)
    assert watch.there > 0
    encode_all(Path("d"), Path("straight"), [50])
    assert digests(Path("betons")) == digests(Path("straight"))


def test_a_mended_image_whose_failure_was_allowed_is_read_again() -> None:
    """Images are encoded in the order of their names; the first failure is a row when the second ends the run."""
    Path("d/a").mkdir(parents=True)
    for number in range(10, 60):
        Path(f"d/a/{number}.jpg").write_bytes(jpeg(photograph("cat").resize((number, 30))))
    whole = {path: path.read_bytes() for path in (Path("d/a/15.jpg"), Path("d/a/50.jpg"))}
    for path in whole:
        path.write_bytes(b"a text file")
    with pytest.raises(EncodeError, match=r"2 images could not be encoded and 1 may fail"):
        encode_all(Path("d"), Path("betons"), ["source", 50], max_failures=1)
    Path("d/a/50.jpg").write_bytes(whole[Path("d/a/50.jpg")])
    watch = Watch(1)
    with pytest.raises(KeyboardInterrupt):
        encode_all(Path("d"), Path("betons"), ["source", 50], resume=True, max_failures=1, watcher=watch)
    assert watch.there == 40, "what failed and was not mended is not read again"
    Path("d/a/15.jpg").write_bytes(whole[Path("d/a/15.jpg")])
    watch = Watch()
    encode_all(Path("d"), Path("betons"), ["source", 50], resume=True, max_failures=1, watcher=watch)
    assert watch.there == 5
    encode_all(Path("d"), Path("straight"), ["source", 50])
    assert digests(Path("betons")) == digests(Path("straight"))


def test_two_encodes_into_one_place_the_second_refuses(photos: Path, betons: Path) -> None:
    class Meddle(Watch):
        def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
            for options in () if source.split == "val" else ({}, {"resume": True}, {"force": True}):
                with pytest.raises(UsageError, match="is being encoded by another process"):
                    encode_all(photos, Path("betons"), [50], **options)

    encode_all(photos, Path("betons"), ["source", 50], watcher=Meddle())
    assert digests(Path("betons")) == digests(betons)


def test_a_source_that_vanishes_ends_the_run_and_is_no_bad_image(photos: Path, betons: Path) -> None:
    class Vanish(Watch):
        def done(self, source: Source, outcomes: Sequence[Outcome]) -> None:
            if Path("d").exists():
                Path("d").rename("gone")

    shutil.copytree(photos, "d")
    sources = open_sources("d")
    outputs = plan_outputs(sources, [EncodeSpec("source"), EncodeSpec(50)], Path("betons"))
    with open_executor(1) as (executor, _), pytest.raises(EncodeError, match=r"The source failed.*and --resume"):
        encode_dataset(sources, outputs, executor=executor, workers=1, max_failures=1000, watcher=Vanish())
    Path("gone").rename("d")
    encode_all(Path("d"), Path("betons"), ["source", 50], resume=True)
    assert {name: digest for name, digest in digests(Path("betons")).items() if name.endswith(".beton")} == {
        name: digest for name, digest in digests(betons).items() if name.endswith(".beton")
    }


def test_a_read_error_ends_the_run(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO, as a dying disk gives it."""

    def failing(file: int, size: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{file}").endswith("03.jpg"):
            raise OSError(5, "Input/output error")
        return pread(file, size, offset)

    pread = os.pread
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing)
        with pytest.raises(EncodeError, match=r"03\.jpg: Input/output error\. The source failed.*and --resume"):
            encode_all(photos, Path("betons"), [50], max_failures=1000)
    encode_all(photos, Path("betons"), [50], resume=True)


def limited(photos: Path, size: int, *options: str) -> subprocess.CompletedProcess[str]:
    """A limit on the size of files stands in for a full disk: both are an OSError in the middle of a write."""
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}));"
        "from jpegcurr.cli import main; main()"
    )
    command = [PYTHON, "-c", code, "encode", str(photos), "--quality", "source", "--quality", "50", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_full_disk_is_a_sentence_and_the_encode_goes_on_when_there_is_room(photos: Path, betons: Path) -> None:
    done = limited(photos, 200_000)
    assert done.returncode == 1
    assert "betons/.train-source.beton.partial: File too large. The encoded images are kept" in done.stderr
    assert "--resume" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(Path("betons").glob("[!.]*"))
    done = limited(photos, 10_000_000, "--resume")
    assert done.returncode == 0, done.stderr
    assert "images are already there" in done.stderr
    assert digests(Path("betons")) == digests(betons)


def test_ctrl_c_stops_and_says_how_to_resume(photos: Path, betons: Path) -> None:
    slow = (
        "import time, jpegcurr.encoding.workers as encode; plain = encode._encode_item\n"
        "def slowly(*arguments):\n    time.sleep(0.1)\n    return plain(*arguments)\n"
        "encode._encode_item = slowly\nfrom jpegcurr.cli import main\nmain()"
    )
    command = [PYTHON, "-c", slow, "encode", str(photos), *["--quality", "source", "--quality", "50", "--threads", "1"]]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        partial = partial_files(Path("betons/train-q50.beton"))[2]
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in message
    assert "Traceback" not in message
    assert finish(photos, betons).there > 0
