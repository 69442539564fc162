"""Locks: who holds one, what a killed process leaves, and every command that writes."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from studies import command

from jpegcurr.errors import UsageError
from jpegcurr.files import locked, locked_outputs

HOLD = """
import sys
from pathlib import Path
from jpegcurr.files import locked
with locked(Path(sys.argv[1]), Path("x")):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(lock: str) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold a lock during the block."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_process_that_holds_a_lock_is_named_and_one_that_was_killed_holds_none(caplog: pytest.LogCaptureFixture) -> None:
    lock = Path("folder/.x.lock")
    with held_elsewhere(str(lock)) as holder:
        message = (
            rf"^folder/x is being trained by another process \({holder.pid} on \S+, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\)\. "
            rf"Wait for it, stop it \(kill {holder.pid} on \S+\), or choose another place with --out\.$"
        )
        with pytest.raises(UsageError, match=message), locked(lock, Path("folder/x"), doing="trained", option="--out"):
            pass
    assert lock.exists(), "it was killed"
    with locked(lock, Path("folder/x")):
        assert lock.read_text().startswith(f"{os.getpid()} ")
    assert not lock.exists()
    assert not caplog.messages


@pytest.mark.parametrize("text", ["", "17", "x y z", "1 host 2026-13-45", "\0" * 900])
def test_a_lock_whose_holder_is_not_readable_is_a_lock_all_the_same(text: str) -> None:
    with locked(Path("lock"), Path("x")):
        Path("lock").write_text(text)
        with pytest.raises(UsageError, match=r"^x is being encoded by another process\. Wait for it, or choose"):
            locked(Path("lock"), Path("x")).__enter__()
    with locked(Path("lock"), Path("x")):
        pass


def test_the_lock_of_another_machine_that_this_one_cannot_see_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    Path("lock").write_text("4711 node7 2026-03-01T14:05:09+00:00\n")
    with locked(Path("lock"), Path("runs/x")):
        pass
    (warning,) = caplog.messages
    assert warning.startswith("runs/x has a lock of process 4711 on node7, since 2026-03-01 14:05:09.")
    assert "carries no locks between machines" in warning


def test_a_lock_that_a_crashed_machine_left_at_a_disk_server_is_deleted_as_the_message_says() -> None:
    with locked(Path("lock"), Path("x")):  # in place of the server
        Path("lock").write_text("4711 node7 2026-03-01T14:05:09+00:00\n")
        with pytest.raises(UsageError, match=r"If node7 has crashed, .*, delete lock\.$"):
            locked(Path("lock"), Path("x")).__enter__()
        Path("lock").unlink()
        with locked(Path("lock"), Path("x")):
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_warned_of(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(Path("a/lock"), Path("a/x")):
        pass
    assert caplog.messages == ["a: this file system has no locks; make sure that no other process writes x"]


def test_a_lock_leaves_no_folder_that_nothing_was_written_to() -> None:
    with locked(Path("a/b/lock"), Path("x")):
        pass
    assert not Path("a").exists()
    with locked(Path("a/b/lock"), Path("x")):
        Path("a/file").touch()
    assert [str(path) for path in Path("a").rglob("*")] == ["a/file"]


def test_outputs_are_locked_by_their_place_and_named_by_their_option() -> None:
    Path("folder").mkdir()
    Path("link").symlink_to("folder")
    with locked_outputs({Path("a.csv"): "--csv", Path("folder/b.svg"): "--plot"}):
        with pytest.raises(UsageError, match=r"^link/b\.svg is being written .* choose another place with --sheet\.$"):
            locked_outputs({Path("c.csv"): "--csv", Path("link/b.svg"): "--sheet"}).__enter__()
        with locked_outputs({Path("c.csv"): "--csv"}):
            pass
    assert sorted(path.name for path in Path().rglob("*")) == ["folder", "link"]
    Path("file").touch()
    with pytest.raises(UsageError, match=r"cannot be written to: file is not a folder\. Choose another place with --csv"):
        locked_outputs({Path("file/c.csv"): "--csv"}).__enter__()


@pytest.mark.parametrize(
    ("words", "lock", "option"),
    [
        ("train --recipe two_phase.yaml --out run", "run/.run.lock", "--out"),
        ("train --recipe two_phase.yaml --out run --resume", "run/.run.lock", "--out"),
        ("study two_phase_study.yaml --out study", "study/.study.lock", "--out"),
        ("evaluate run --csv a.csv", ".a.csv.lock", "--csv"),
        ("evaluate run --json --force --plot b/a.svg", "b/.a.svg.lock", "--plot"),
        ("predict run images", ".predictions.csv.lock", "--csv"),
        ("predict run images --by-class sorted/", ".sorted.lock", "--by-class"),
        ("cam run images -o report.html", ".report.html.lock", "-o"),
        ("cam run images -o report.html", ".report.images.csv.lock", "-o"),
        ("channels run -o c.csv", ".c.csv.lock", "--csv"),
        ("export run --to authors -o a.pth", ".a.pth.lock", "-o"),
        ("export run --to transformers -o new/hf --force", "new/.hf.lock", "-o"),
    ],
)
def test_what_one_command_writes_another_does_not(
    words: str, lock: str, option: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jpegcurr.study.config.check_recipe", lambda *_, **__: None)
    with locked(Path(lock), Path("x")):
        before = sorted(Path().rglob("*"))
        assert command(words) == 2
        message = " ".join(capsys.readouterr().err.split())
        assert f"by another process ({os.getpid()} on " in message
        assert message.endswith(f"or choose another place with {option}.")
        assert sorted(Path().rglob("*")) == before


def test_of_several_processes_the_first_one_locks_when_the_others_can_notice(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Check that the command leaves it to ``train``: a process that ends before the others know it would keep them waiting."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "x")
    with locked(Path("run/.run.lock"), Path("x")):
        assert command("train --recipe two_phase.yaml --out run") == 2
    assert "torchrun sets these to numbers" in capsys.readouterr().err
