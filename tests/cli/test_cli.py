"""The commands as typed: their output, their files, and their answers to mistakes."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import PYTHON
from samples import SMALL, encode_all, jpeg, photograph

from jpegcurr import __version__
from jpegcurr.cli import main
from jpegcurr.errors import Terminated
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.loop import StepInfo


class Ran:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(command: str) -> Ran:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        captured = capsys.readouterr()
        return Ran(int(left.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def imagenet(photos: Path) -> Path:
    """Copy the photographs to ``data/imagenet`` in the current folder."""
    shutil.copytree(photos, "data/imagenet")
    return Path("data/imagenet")


@pytest.fixture
def here(betons: Path, trained: Path, photos: Path) -> None:
    """Fill the current folder with betons, a run, images, and a few files and folders that are none of these."""
    Path("betons").symlink_to(betons)
    Path("run").symlink_to(trained)
    shutil.copytree(photos / "val", "images")
    Path("empty").mkdir()
    Path("text.beton").write_text("this is no beton, however long it may be")
    Path("flat").mkdir()
    Path("flat/1.jpg").write_bytes(jpeg(photograph("cat")))
    Path("file").touch()
    Path("there.html").touch()
    Path("there.svg").touch()


def tree() -> dict[str, tuple[int, int]]:
    """Return size and time of every file, in linked folders too."""
    files = (os.path.join(parent, name) for parent, _, names in os.walk(".", followlinks=True) for name in names)
    return {file: (os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("encode --quality 50", "data/imagenet does not exist"),
        ("encode nowhere --quality 50", "nowhere does not exist"),
        ("encode nowhere", "Which quality"),
        ("encode empty --quality 50", "empty has no class folders"),
        ("encode flat --quality 50", "flat has no class folders"),
        ("encode file --quality 50", "file is not a folder"),
        ("encode images --quality 0", "quality 0.*from 1 to 100, or source"),
        ("encode images --quality 101", "quality 101.*from 1 to 100, or source"),
        ("encode images --quality abc", "quality 'abc'.*from 1 to 100, or source"),
        ("encode images --qualtiy 50", "No such option: --qualtiy"),
        ("encode images --quality 50 --threads 0", "--threads"),
        ("encode images --quality 50 --order random", "random"),
        ("encode images --quality 50 --dask nonsense://x", "No Dask scheduler|pip install"),
        ("inspect", "Missing argument 'FILE'"),
        ("inspect none.beton", r"none\.beton does not exist"),
        ("inspect text.beton", r"text\.beton is not a version-2 \.beton"),
        ("inspect empty", "empty is a folder"),
        ("encode images --quality 50 -o file", "file cannot be written to: .*file is not a folder"),
        ("encode images --quality 50 -o file/deep/er", "cannot be written to: .*file is not a folder"),
        ("predict run images --csv file/x.csv", "cannot be written to"),
        ("cam run images -o report.json", r"ends in \.html"),
        ("train", "Missing option '--recipe'"),
        ("train --recipe two_fase.yaml", r"two_fase\.yaml does not exist, .*Did you mean 'two_phase'"),
        ("train --recipe two_phase.yaml --set schedule.lrr=1", r"schedule\.lrr: unknown key\. Did you mean 'lr'"),
        ("train --recipe two_phase.yaml --resume", "--resume: runs/two_phase holds no run"),
        (
            "train --recipe two_phase.yaml --set data.clean.train=none.beton --set data.clean.quality=null",
            r"none\.beton does not",
        ),
        ("train --recipe two_phase.yaml --set data.clean.train=text.beton", r"text\.beton is not a version-2"),
        ("train --recipe two_phase.yaml --out run", "run exists"),
        ("train --recipe two_phase.yaml", r"batch\.size 4096 is larger than data\.clean\.train"),
        ("train --recipe two_phase.yaml --device cuda:99", "cuda|CUDA"),
        ("train --recipe two_phase.yaml --set model.name=convnext_tinny --set batch.size=16", "Did you mean 'convnext_tiny'"),
        ("evaluate nowhere", "nowhere does not exist"),
        ("evaluate empty", "empty is not a run folder"),
        ("evaluate run --data none.beton", r"none\.beton does not exist"),
        ("evaluate run --weights worst", "worst"),
        ("evaluate run --on-the-fly", "--on-the-fly says when --qualities are encoded. Give them too"),
        ("evaluate run --qualities source,0", "quality 0.*from 1 to 100, or source"),
        ("evaluate run --csv file", "file exists.*--csv, or replace it with --force"),
        ("evaluate run -o file/x.csv", "file cannot be written to: file is not a folder.*with --csv"),
        ("evaluate run --classes file", "file exists.*--classes, or replace it with --force"),
        ("evaluate run --plot there.html", r"--plot there\.html: the curve is drawn as SVG; .* ends in \.svg"),
        ("evaluate run --plot file/x.svg", "file cannot be written to: file is not a folder.*with --plot"),
        ("evaluate run --plot there.svg", "there.svg exists.*--plot, or replace it with --force"),
        ("evaluate run --csv x --classes ./x", "x would be written twice"),
        ("evaluate run --axis bytes", r"--axis bytes is for --plot FILE\.svg"),
        ("evaluate run --qualities 50 --on-the-fly --axis bytes --plot x.svg", "no file stores them"),
        ("budget run --within 0", "--within 0: no number of images can show that nothing is lost"),
        ("budget run --within 100", "--within 100: a loss is between 0 and 100 points"),
        ("budget run --within nan", "--within nan: a loss is between 0 and 100 points"),
        ("budget run --level 0.6", r"--level 0\.6: .* from 0\.001 to 0\.5"),
        ("budget run --qualities source", "--qualities names none that could be chosen"),
        ("budget run --qualities 90,95 --against 95", "--qualities 95 is not below --against 95"),
        ("budget run --against 10", "--against 10: the qualities that are tried end at 10"),
        ("budget run --against good", "quality 'good'.*from 1 to 100, or source"),
        ("budget run --plot there.svg", "there.svg exists.*--plot, or replace it with --force"),
        ("budget run --csv x.svg --plot ./x.svg", "x.svg would be written twice"),
        ("budget run --plot x.png", r"the curve is drawn as SVG; .* ends in \.svg"),
        ("budget run --data none.beton", r"none\.beton does not exist"),
        ("predict run nowhere", "nowhere does not exist"),
        ("predict run empty", "empty holds no images"),
        ("predict nowhere images", "nowhere does not exist"),
        ("predict run images --csv file", "file exists.*--force"),
        ("cam run", "cam needs a model and a folder of images"),
        ("cam run images --qualities source,200", "quality 200"),
        ("cam run images --layer stages.9", "no such layer"),
        ("cam run empty", "empty holds no images"),
        ("cam run images -o there.html", "there.html exists.*--force"),
        ("nonsense", "No such command 'nonsense'"),
    ],
)
def test_a_mistake_is_a_sentence_on_stderr_with_exit_code_2_and_nothing_written(run, here, command: str, message: str) -> None:
    before = tree()
    done = run(command)
    assert re.search(message, done.err, re.DOTALL), done.err
    assert done.code == 2
    assert done.out == ""
    assert done.err.splitlines()[-1].startswith(("error: ", "  "))
    assert "Traceback" not in done.err
    assert tree() == before


def test_encode_without_arguments_reads_data_imagenet(run, imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jpegcurr.progress.FIRST", 0)  # seconds before the first line
    done = run("encode --quality 50")
    assert done.code == 0
    assert sorted(path.name for path in Path("betons").glob("*.beton")) == ["train-q50.beton", "val-q50.beton"]
    assert re.search(r"betons/train-q50\.beton +48 .* 0$", done.out, re.MULTILINE)
    assert "encoding train: 48 images in " in done.err
    again = run("encode --quality 50")
    assert (again.code, "--force" in again.err) == (2, True)
    assert run("encode --quality 50 --force --quiet").err == ""


def test_a_broken_image_is_named_with_exit_code_1(run, imagenet: Path) -> None:
    (imagenet / "train/cat/03.jpg").write_bytes(b"not an image")
    done = run("encode --quality 50 --quality source")
    assert done.code == 1
    assert "data/imagenet/train/cat/03.jpg: not an image that Pillow can read" in done.err
    assert "--max-failures" in done.err
    assert not list(Path("betons").glob("[!.]*"))
    done = run("encode --quality 50 --quality source --max-failures 1")
    assert (done.code, "--resume" in done.err) == (2, True)
    done = run("encode --quality 50 --quality source --max-failures 1 --resume")
    assert done.code == 0
    assert re.search(r"train-source\.beton +47 .* 1$", done.out, re.MULTILINE)


def test_the_two_commands_work_as_written_without_a_val_split(run, photos: Path) -> None:
    shutil.copytree(photos / "train", "data/imagenet/train")
    assert run("encode --quality 50").code == 0
    done = run(f"train --recipe two_phase.yaml {SMALL}")
    assert done.code == 0, done.err
    assert "data.q50.val: betons/val-q50.beton does not exist and its source has no val split" in done.err
    assert "betons/train-source.beton is missing; encoding it from data/imagenet" in done.err
    assert "swap to q50" in done.err


def test_the_whole_main_job(run, imagenet: Path) -> None:
    assert run("encode --quality 50").code == 0
    assert "every sample decodes and every byte is as it was written" in run("inspect betons/train-q50.beton --verify").out
    assert json.loads(run("inspect betons/train-q50.beton --verify --json").out)["wrong"] == []
    facts = json.loads(run("inspect betons/train-q50.beton --json").out)
    assert (facts["samples"], facts["manifest"]["quality"]) == (48, 50)

    before = tree()
    planned = json.loads(run(f"train --recipe two_phase.yaml {SMALL} --plan --json").out)
    done = run(f"train --recipe two_phase.yaml {SMALL} --plan")
    assert re.search(r"^1 +1 +q50 .* 32 +3 +48$", done.out, re.MULTILINE)
    assert "\n2 epochs, 6 steps, 96 images\n" in done.out
    assert tree() == before, "a plan encodes no missing beton"

    done = run(f"train --recipe two_phase.yaml {SMALL}")
    assert done.code == 0, done.err
    assert done.out == "runs/two_phase\n"
    assert "phase 1: swap to q50 (betons/train-q50.beton), epochs 1 to 1" in done.err
    assert "resuming" not in done.err
    done = run(f"train --recipe two_phase {SMALL} --resume --quiet --json")
    assert (done.code, done.err) == (0, "")

    rows = [json.loads(line) for line in Path("runs/two_phase/metrics.jsonl").read_text().splitlines()]
    ended = json.loads(done.out)
    assert (ended["run"], ended["epochs"]) == ("runs/two_phase", 2)
    assert ended["last"] == pytest.approx(rows[-1])
    for row, epoch in zip(rows, planned, strict=True):
        assert [row[key] for key in ("lr_first", "lr_last", "steps")] == [
            epoch[key] for key in ("lr_first", "lr_last", "steps")
        ]
    for weights, prefix in (("raw", ""), ("ema", "ema_")):
        results = json.loads(run(f"evaluate runs/two_phase --weights {weights} --json --device cpu").out)
        assert [result["quality"] for result in results] == ["source", 50]
        for name, result in zip(("clean", "q50"), results, strict=True):
            assert result["top1"] == pytest.approx(rows[-1][f"val/{name}/{prefix}top1"])
            assert result["loss"] == pytest.approx(rows[-1][f"val/{name}/{prefix}loss"], rel=1e-4)
            assert result["images"] == 16
    assert re.search(r"^val-q50 +50 +16 ", run("evaluate runs/two_phase").out, re.MULTILINE)

    (imagenet / "val/bad.jpg").write_bytes(b"text")
    done = run("predict runs/two_phase data/imagenet/val")
    assert done.code == 0
    assert "not read: not an image that Pillow can read" in done.out
    with Path("predictions.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == 17
    for row in table:
        if row["error"]:
            assert row["file"] == "data/imagenet/val/bad.jpg"
            continue
        shares = [float(row[f"probability_{rank}"]) for rank in range(1, 5)]
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-5), "there are four classes"

    done = run("cam runs/two_phase data/imagenet/val --qualities source,50 --layer stages.1")
    assert done.code == 0
    assert "source to q50: " in done.out
    assert done.out.endswith("report.html\n")
    assert Path("report.html").stat().st_size > 20_000
    assert json.loads(Path("report.json").read_text())["skipped"][0]["file"] == "data/imagenet/val/bad.jpg"


def test_a_beton_of_other_classes_is_refused_by_evaluate(run, here) -> None:
    Path("other/zebra").mkdir(parents=True)
    Path("other/zebra/1.jpg").write_bytes(jpeg(photograph("cat")))
    encode_all(Path("other"), Path("others"), [50])
    done = run("evaluate run --data others/other-q50.beton")
    assert done.code == 2
    assert "images of a class that run lacks: 'zebra'" in done.err


def test_an_evaluation_is_written_as_tables_and_a_curve(run, here) -> None:
    shutil.copytree("run", "other")
    done = run(
        "evaluate run other --data betons/val-source.beton --qualities source,90,10 --csv o/a.csv --classes o/c.csv "
        "--plot o/curve.svg --device cpu"
    )
    assert done.code == 0, done.err
    assert done.out.endswith("\no/a.csv\no/c.csv\no/curve.svg\n")
    with Path("o/a.csv").open() as file:
        arms = [(row["run"], row["tested"]) for row in csv.DictReader(file)]
    assert arms == [(name, quality) for name in ("run", "other") for quality in ("source", "90", "10")]
    with Path("o/c.csv").open() as file:
        assert next(csv.reader(file))[1:4] == ["images", "run, source", "run, 90"]
    curve = Path("o/curve.svg").read_text()
    assert curve.count("<polyline") == 2
    assert "JPEG quality of the 16 validation images" in curve
    assert run("evaluate run other --plot o/curve.svg --force --device cpu").code == 0
    assert "source:" in Path("o/curve.svg").read_text(), "the stored betons of the run, by their manifests"
    assert Path("o/curve.svg").read_text() != curve
    again = run("evaluate run other --plot o/curve.svg --force --device cpu --json")
    assert [result["class_images"]["cat"] for result in json.loads(again.out)] == [4, 4, 4, 4], "and nothing but JSON"


def test_a_folder_without_write_permission_is_refused_before_anything_is_read(run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("locked").mkdir()
    monkeypatch.setattr("jpegcurr.files.os.access", lambda path, mode: Path(path) != Path("locked"))  # root may write anywhere
    for option, name in (("--csv", "a.csv"), ("--classes", "a.csv"), ("--plot", "a.svg")):
        done = run(f"evaluate nowhere {option} locked/{name}")
        assert done.code == 2
        assert f"locked cannot be written to: no permission to write there. Choose another place with {option}." in done.err


def test_a_damaged_beton_ends_verify_with_exit_code_1(run, here) -> None:
    data = bytearray(Path("betons/val-q50.beton").read_bytes())
    at = data.index(b"\xff\xd8\xff")
    data[at : at + 30] = bytes(30)
    Path("damaged.beton").write_bytes(data)
    done = run("inspect damaged.beton --verify")
    assert done.code == 1
    assert "damaged.beton has 1 error." in done.err
    assert "sample 0 of damaged.beton" in done.err


def test_a_folder_of_broken_images_ends_predict_with_exit_code_1(run, here) -> None:
    Path("broken").mkdir()
    Path("broken/1.jpg").write_bytes(b"text")
    done = run("predict run broken")
    assert done.code == 1
    assert "None of the 1 files" in done.err


@pytest.mark.parametrize(
    "command", ["", "encode", "inspect", "train", "evaluate", "predict", "models", "cam", "channels", "export", "push"]
)
def test_every_command_has_help(run, command: str) -> None:
    done = run(f"{command} --help")
    assert done.code == 0
    assert "Usage: jpegcurr" in done.out
    assert run(f"{command} -h").out == done.out


def test_help_keeps_angle_brackets_and_stars(run) -> None:
    assert "train/<class>/* and val/<class>/*, or with <class>/*" in run("encode --help").out


def test_evaluate_names_the_path_of_a_missing_validation_set(run, here) -> None:
    recipe = Path("run").resolve() / "recipe.yaml"
    shutil.copytree("run", "moved")
    Path("moved/recipe.yaml").write_text(re.sub(r"\S*/(val-source\.beton)", r"betons/gone/\1", recipe.read_text()))
    done = run("evaluate moved")
    assert done.code == 2
    assert re.search(r"betons/gone/val-source\.beton, a validation set of moved, does not exist in /.*--data", done.err)


def test_the_bare_command_shows_help_and_the_version_is_there(run) -> None:
    done = run("")
    assert done.code == 2
    assert "encode" in done.out
    assert run("--version").out == f"jpegcurr {__version__}\n"


def test_python_m_is_the_same_program() -> None:
    done = subprocess.run([sys.executable, "-m", "jpegcurr", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"jpegcurr {__version__}\n"


def test_the_program_exits_even_if_a_library_would_still_wait() -> None:
    program = "import atexit, sys, time; from jpegcurr.cli import main; atexit.register(time.sleep, 3600); {}main()"
    for arguments, code in (("--version", 0), ("inspect no.beton", 2)):
        command = program.format(f"sys.argv = {['jpegcurr', *arguments.split()]}; ")
        assert subprocess.run([sys.executable, "-c", command], timeout=60).returncode == code


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a device that is always full")
def test_a_result_that_cannot_be_written_is_an_error() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "jpegcurr", "--version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def start(command: list[str]) -> subprocess.Popen[str]:
    """Start a process that Ctrl-C interrupts even if this one ignores it, as background jobs of a shell do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("steps", "code", "message"), [(0, 130, "error: stopped. To start again: jpegcurr train"), (1, 143, "error: it stopped.")]
)
def test_sigterm_is_handled_like_ctrl_c_until_there_is_something_to_save(
    run, monkeypatch: pytest.MonkeyPatch, steps: int, code: int, message: str
) -> None:
    def fake(*_arguments: object, on_step: Callable[..., None], stop: Callable[[], bool], **_options: object) -> None:
        for _ in range(steps):
            on_step(StepInfo(EpochPlan(0, 0, (("clean", 1.0),), 0.0, 1), 1, 3, 0.1, 1.0, 0.0, lambda: 1.0))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        if stop():
            raise Terminated("it stopped.")

    monkeypatch.setattr("jpegcurr.training.train.train", fake)
    before = signal.getsignal(signal.SIGTERM)
    done = run(f"train --recipe two_phase.yaml {SMALL}")
    assert (done.code, message in done.err) == (code, True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_in_training_saves_a_checkpoint_and_names_the_command_that_resumes(here) -> None:
    command = [PYTHON, "-m", "jpegcurr", "train", "--recipe", "two_phase.yaml", *shlex.split(SMALL)]
    command += ["--set", "curriculum.0.until_epoch=400", "--set", "curriculum.1.until_epoch=800", "--set", "evaluate=[]"]
    process = start(command)
    state = Path("runs/two_phase/state.safetensors")
    while not state.exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143, message
    (line,) = message.splitlines()[-1:]
    assert line.startswith("error: stopped; everything so far is saved. To resume: jpegcurr train --recipe two_phase.yaml")
    assert line.endswith(" --resume")


def test_ctrl_c_in_training_names_the_command_that_resumes(here) -> None:
    """Send a real SIGINT to a real process, in the middle of an epoch."""
    command = [PYTHON, "-m", "jpegcurr", "train", "--recipe", "two_phase.yaml", *shlex.split(SMALL)]
    many = ["--set", "curriculum.0.until_epoch=400", "--set", "curriculum.1.until_epoch=800", "--set", "evaluate=[]"]
    process = start([*command, *many])
    state = Path("runs/two_phase/state.safetensors")
    while not state.exists() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130, message
    assert "Traceback" not in message
    (line,) = message.splitlines()[-1:]
    assert line.startswith("error: stopped. To resume from the last checkpoint: jpegcurr train")
    again = shlex.split(line[line.index("jpegcurr train") :])[1:]
    assert again[-1] == "--resume"
    process = start([PYTHON, "-m", "jpegcurr", *again])
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("resuming at epoch"):
            break
    else:
        pytest.fail("it did not resume")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not list(Path("runs/two_phase").glob("*.partial"))


def test_a_full_disk_is_an_error_with_the_file_and_leaves_only_what_resume_needs(
    run, trained: Path, betons: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_arguments: object, **_named: object) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_text", full)
        done = run(f"evaluate {trained} --data {betons / 'val-q50.beton'} --plot curve.svg --device cpu")
    assert done.code == 1
    assert "curve.svg: No space left on device. Free some space, or write to another disk; finished files were kept" in done.err
    assert list(Path().iterdir()) == [Path(".curve.svg.journal")]
    assert run(f"evaluate {trained} --data {betons / 'val-q50.beton'} --plot curve.svg --device cpu --resume").code == 0
    assert list(Path().iterdir()) == [Path("curve.svg")]
