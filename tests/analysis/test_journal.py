"""The journal of a pass, and commands that are stopped after any batch: resumed, they end in the same bytes."""

import errno
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import jpeg, photograph

from jpegcurr.analysis.cam import pipeline
from jpegcurr.analysis.evaluation import evaluate as evaluation
from jpegcurr.analysis.evaluation import per_image
from jpegcurr.analysis.evaluation.jpeg_bytes import JpegBytes
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.analysis.journal import Arrays, Journal, has_results, journal_of, pack_json, unpack_json
from jpegcurr.analysis.prediction import predict
from jpegcurr.cli import main
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime, World
from jpegcurr.training.models.load import load_run

FACTS = {"models": ["runs/a (raw)"], "weights of runs/a": "ab" * 32, "--seed": None}
PATH = Path("out.journal")


def batch(number: int) -> Arrays:
    values = np.random.default_rng(number).normal(size=(2, number % 3, 4)).astype(np.float32)
    return {"values": values.transpose(0, 2, 1), "flags": values[0, :, 0] > 0, "why": pack_json([["\udcff.jpg", number]])}


def write(batches: int, part: int = 0) -> None:
    """Write a journal as a process leaves it that is killed after so many batches."""
    journal = Journal(PATH, force=True)
    journal.begin(FACTS)
    for number in range(batches):
        journal.part(part).append(10 + number, batch(number))
    assert journal._file is not None
    journal._file.close()


def read(facts: dict[str, Any] = FACTS) -> list[dict[str, np.ndarray]]:
    with suppress(KeyboardInterrupt), Journal(PATH, resume=True) as journal:
        journal.begin(facts)
        batches = list(journal.part(0).recovered())
        raise KeyboardInterrupt
    return batches


def assert_batches(batches: list[dict[str, np.ndarray]], count: int) -> None:
    assert len(batches) == count
    for number, arrays in enumerate(batches):
        wanted = batch(number)
        assert arrays.keys() == wanted.keys()
        for name, values in wanted.items():
            assert arrays[name].dtype == values.dtype
            assert np.array_equal(arrays[name], values), name
        assert unpack_json(arrays["why"]) == [["\udcff.jpg", number]]


def test_a_journal_gives_back_what_it_was_given_and_ends_with_the_work() -> None:
    with Journal(PATH) as journal:
        assert journal.begin(FACTS) == 0
        for part in (0, 1):
            for number in range(3):
                journal.part(part).append(10, batch(number))
        assert journal.kept == 60
        assert has_results(PATH)
        other = Journal(PATH, resume=True)
        assert (other.begin(FACTS), other.resumed) == (60, 60)
        for part in (1, 0):
            assert_batches(list(other.part(part).recovered()), 3)
        assert list(other.part(2).recovered()) == []
        other.__exit__(KeyboardInterrupt, None, None)
        assert PATH.exists(), "it has results"
    assert not PATH.exists()


def test_nothing_is_left_of_work_that_fails_before_its_first_batch() -> None:
    with pytest.raises(OSError, match="disk"), Journal(PATH) as journal:  # noqa: PT012
        journal.begin(FACTS)
        raise OSError("disk")
    assert not PATH.exists()
    assert Journal().begin(FACTS) == 0, "without a file nothing is kept"


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_torn_or_damaged_end_costs_only_its_batches(data: st.DataObject) -> None:
    write(4)
    whole = PATH.read_bytes()
    first = whole.index(b"\n") + 1
    ends = [first]
    for _ in range(4):
        size = int.from_bytes(whole[ends[-1] + 8 : ends[-1] + 12], "little")
        ends.append(ends[-1] + 16 + size)
    assert ends[-1] == len(whole)
    place = data.draw(st.integers(first, len(whole) - 1))
    if data.draw(st.booleans()):
        PATH.write_bytes(whole[:place])
        left = sum(end <= place for end in ends[1:])
    else:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << data.draw(st.integers(0, 7))
        PATH.write_bytes(damaged)
        left = sum(end <= place for end in ends[1:])
        head = place - max(end for end in ends if end <= place)
        if head < 8:  # the number of the pass or of the images
            return
    if not left:
        assert not has_results(PATH)
        return
    journal = Journal(PATH, resume=True)
    journal.begin(FACTS)
    assert_batches(list(journal.part(0).recovered()), left)
    for number in range(left, 4):
        journal.part(0).append(10 + number, batch(number))
    journal.__exit__(KeyboardInterrupt, None, None)
    assert PATH.read_bytes() == whole


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"models": ["runs/b (raw)"]}, "with other models: runs/a (raw) there, runs/b (raw) here."),
        ({"weights of runs/a": "cd" * 32}, "with other weights of runs/a."),
        ({"--seed": 3}, "with other --seed: not set there, 3 here."),
        ({"--merge": "x"}, "with other --merge: not set there, x here."),
    ],
)
def test_results_of_other_work_are_refused_by_name(facts: dict[str, Any], message: str) -> None:
    write(2)
    before = PATH.read_bytes()
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        read(facts=FACTS | facts)
    assert str(refused.value).endswith("Give the command as it was, on such a machine, or start over with --force.")
    with pytest.raises(UsageError, match=r"holds the results of an interrupted run\. Continue it with --resume, or start over"):
        Journal(PATH)
    assert PATH.read_bytes() == before
    with Journal(PATH, resume=True, force=True) as journal:
        assert journal.begin(FACTS | facts) == 0
    assert not PATH.exists()


def test_what_has_changed_since_or_cannot_be_read_is_refused() -> None:
    write(2)
    journal = Journal(PATH, resume=True)
    with pytest.raises(
        UsageError, match=r"a/1.jpg has changed since the run of out.journal was begun. Name another output, or"
    ):
        journal.begin(FACTS, lambda since: f"a/1.jpg has changed{'!' * (since < 10**18)}")
    frames = PATH.read_bytes().partition(b"\n")[2]
    for line in (b"no JSON\n", b'{"journal": 2, "begun": 0, "facts": {}}\n', b"[" * 10_000 + b"\n"):
        PATH.write_bytes(line + frames)
        with pytest.raises(UsageError, match=r"is of an interrupted run and cannot be read .*Remove it, or start over"):
            read()


@pytest.mark.parametrize("failure", ["error", "short"])
def test_a_full_disk_ends_the_journal_and_not_the_work(
    failure: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Disk:
        """A file of which only 100 more bytes can be written."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def write(self, data: bytes) -> int:
            written: int = self._file.write(data[:100])
            if failure == "short":
                return written
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(KeyboardInterrupt), Journal(PATH) as journal:  # noqa: PT012
        journal.begin(FACTS)
        journal.part(0).append(10, batch(0))
        size = PATH.stat().st_size
        monkeypatch.setattr(journal, "_file", Disk(journal._file))
        for number in (1, 2):
            journal.part(0).append(10, batch(number))
        raise KeyboardInterrupt
    assert caplog.text.count("The run continues, and if it is stopped, --resume can continue from the 10 images") == 1
    assert PATH.stat().st_size == size
    assert_batches(read(), 1)


# Commands ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(betons: Path, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provide runs, a beton, and images of which one is broken; batches are of five images."""
    Path("betons").symlink_to(betons)
    for name in ("one", "two"):
        shutil.copytree(trained, name)
    shutil.copytree(photos / "val", "images")
    Path("images/cat/broken.jpg").write_bytes(b"no image")
    Path("images/grass/more.png").write_bytes(jpeg(photograph("grass").crop((0, 0, 64, 64))))
    monkeypatch.setattr("sys.argv", ["jpegcurr"])
    monkeypatch.setattr(pipeline, "BATCH", 5)
    monkeypatch.setattr(predict, "BATCH", 5)
    monkeypatch.setattr("jpegcurr.training.models.classifier.Run.batch", 5)


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    words = shlex.split(command)
    sys.argv[1:] = words  # which pages state; ``here`` has put a list of its own there
    with pytest.raises(SystemExit) as left:
        main(words)
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def outputs() -> dict[str, bytes]:
    """Return the bytes of every file that a command has written, and remove them."""
    made = {str(path): path.read_bytes() for path in Path("made").rglob("*") if path.is_file()}
    shutil.rmtree("made")
    return made


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], list[int]]:
    """Return a function that stops the next commands after so many batches, and returns a list that counts these."""
    append, counts, most = Journal.append, list[int](), [None]

    def counted(self: Journal, part: int, images: int, arrays: Arrays) -> None:
        append(self, part, images, arrays)
        counts.append(images)
        if len(counts) == most[0]:
            raise KeyboardInterrupt

    def stop_after(batches: int | None) -> list[int]:
        counts.clear()
        most[0] = batches  # type: ignore[call-overload]
        return counts

    monkeypatch.setattr(Journal, "append", counted)
    return stop_after


@pytest.mark.usefixtures("here")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("command", "journal"),
    [
        (
            "evaluate one two --data betons/val-source.beton --data images --qualities source,10 --csv made/e.csv "
            "--classes made/c.csv --plot made/p.svg",
            "made/.e.csv.journal",
        ),
        (
            "evaluate one two --data betons/val-source.beton --data images --qualities source,20,10 --on-the-fly "
            "--csv made/e.csv",
            "made/.e.csv.journal",
        ),
        (
            "cam one images --qualities source,10 --metrics confidence --pictures 3 --limit 12 -o made/r.html",
            "made/.r.html.journal",
        ),
        (
            "predict one images -o made/p.csv --submission made/s.csv --id path --sheet made/s.html --sheet-limit 9 "
            "--by-class made/by --copy --confusion made/c.csv --report made/r.html --positive cat",
            "made/.p.csv.journal",
        ),
    ],
)
def test_a_command_that_is_stopped_anywhere_ends_in_the_same_bytes(
    command: str, journal: str, stopping: Callable[[int | None], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    command += " --device cpu --json"
    counts = stopping(None)
    code, printed, err = run(command, capsys)
    assert code == 0, err
    wanted, batches, images = outputs(), len(counts), sum(counts)
    assert batches >= 3
    done = 0
    for stop in (1, 1, None):
        counts = stopping(stop)
        code, again, err = run(command + " --resume", capsys)
        assert (f"resumed: {done:,} of" in err) == (done > 0), err
        done += sum(counts)
        if stop is None:
            break
        assert code == 130
        resume = f"To resume after {done:,} images: jpegcurr {shlex.join(shlex.split(command))} --resume"
        assert resume in err
        assert {str(path) for path in Path("made").iterdir()} - wanted.keys() == {journal}
        with Path(journal).open("ab") as file:
            file.write(b"torn")
        written = min(name for name in wanted if name.count("/") == 1)  # as if it had been killed between two outputs
        Path(written).write_bytes(wanted[written])
    assert code == 0, err
    assert (again, done) == (printed, images), "no batch is computed twice"
    assert outputs() == wanted


@pytest.mark.usefixtures("here")
def test_a_stopped_command_is_not_forgotten_and_not_mixed_up(
    stopping: Callable[[int | None], list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    base = "evaluate one --device cpu -q --data "
    stopping(1)
    code, _, err = run(base + "images --csv e.csv", capsys)
    assert (
        code,
        "To resume after 5 images: jpegcurr evaluate one --device cpu -q --data images --csv e.csv --resume" in err,
    ) == (
        130,
        True,
    ), err
    before = Path(".e.csv.journal").read_bytes()
    refusals = {
        "images --csv e.csv": ".e.csv.journal holds the results of an interrupted run. Continue it with --resume, or",
        "images --csv e.csv --resume --qualities 10": "run with other validation sets: images there, images (",
        "images --csv e.csv --resume --max-pixels 9999": "run with other images or labels of images.",
        "images --resume": "--resume continues from what a run keeps beside its output, and this one writes none. Give --csv",
    }
    stopping(None)
    for options, message in refusals.items():
        code, _, err = run(base + options, capsys)
        assert (code, message in err) == (2, True), err
    Path("two/model.safetensors").replace("one/model.safetensors")
    assert run(base + "images --csv e.csv --resume", capsys)[0] == 0, (
        "the same weights are the same, whichever file they are in"
    )
    assert not Path(".e.csv.journal").exists()

    Path(".e.csv.journal").write_bytes(before)
    image = Path("images/cat/00.jpg")
    content = image.read_bytes()
    image.write_bytes(bytes(len(content)))
    code, _, err = run(base + "images --csv e.csv --classes e.csv.bak --resume", capsys)
    assert "e.csv exists" in err, "and is not replaced by --resume of a run that had other outputs"
    code, _, err = run(base + "images --csv e.csv --resume", capsys)
    assert (code, "images/cat/00.jpg has changed since the run of .e.csv.journal was begun." in err) == (2, True), err
    code, _, err = run(base + "images --csv e.csv --resume --force", capsys)
    assert (code, "It is replaced, and everything is computed again." in err) == (0, True), err


@pytest.mark.usefixtures("here")
def test_without_an_output_a_stop_says_what_would_have_kept_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation, "observe", stop)
    code, _, err = run("evaluate one --data images", capsys)
    assert (code, err.endswith("stopped. Nothing was kept; with --csv FILE.csv a stopped run can be resumed.\n")) == (130, True)
    code, _, err = run("evaluate one --data images --csv e.csv", capsys)
    assert (code, "stopped before anything was kept. To start again: jpegcurr evaluate one" in err) == (130, True)
    assert not journal_of(Path("e.csv")).exists()


@pytest.mark.usefixtures("here")
def test_every_process_keeps_its_own_part(cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the processes one after the other: each gets its own rows from its journal, and reads no image again."""
    monkeypatch.setattr(per_image, "_gather", lambda mine, _world: mine)
    monkeypatch.setattr(World, "sum", lambda _world, values: values)
    counted: dict[str, JpegBytes | None] = {}
    model = load_run(Path("one"), cpu)
    sets = open_sets([model], {"": Path("images")})

    def rows(file: str, runtime: Runtime, **options: bool) -> list[float]:
        with suppress(KeyboardInterrupt), Journal(file, **options) as journal:
            (result,) = evaluation.evaluate_runs([model], sets, runtime, journal=journal)
            raise KeyboardInterrupt
        assert counted.setdefault(file, result.jpegs) == result.jpegs, "a resumed pass counts what it does not read again"
        return [float(loss) for loss in result.outcomes.loss]

    of_both: list[float] = []
    for rank in range(2):
        runtime = replace(cpu, world=World(rank, 2))
        first = rows(f"j.{rank}", runtime)
        with monkeypatch.context() as patch:
            patch.setattr(evaluation.ImageLoader, "at", None)
            assert rows(f"j.{rank}", runtime, resume=True) == first
        of_both += first
    assert sorted(of_both) == pytest.approx(sorted(rows("j", cpu)))
    with pytest.raises(UsageError, match="with other process: 1 of 2 there, 0 of 1 here"):
        rows("j.1", cpu, resume=True)
    assert journal_of(Path("a/b.csv")) == Path("a/.b.csv.journal")
