"""Names that could do harm, through the commands: no output steers a terminal, and JSON and CSV hold the true names."""

import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from samples import jpeg, photograph

from jpegcurr.analysis.prediction.confusion import Confusion
from jpegcurr.analysis.prediction.contact_sheet import ContactSheet
from jpegcurr.analysis.prediction.outputs import Outputs, classify_files
from jpegcurr.analysis.prediction.predict import FilePrediction
from jpegcurr.analysis.prediction.sort_by_class import folder_names
from jpegcurr.cli import main, terminal
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.files import read_csv
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import load_run

EVIL = "a\x1b[2J\x9b\u202eb\nerror: all is well"
CLASSES = ("=1+1", EVIL, "..", "a/b")


def harmful(text: str) -> list[str]:
    return [character for character in text if character != "\n" and character in "\x1b\x9b\u202e\r\x07\u2066\ud800"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):
    """Return a function that runs a command and returns its exit code, stdout and stderr, after a check of both."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main(arguments)
        out, err = capfd.readouterr()
        assert not harmful(out + err)
        assert not any(line.startswith("error: all") for line in (out + err).splitlines()), "a name that looks like a message"
        return int(left.value.code or 0), out, err

    return call


def image_at(*parts: str) -> None:
    path = Path(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(photograph("cat").crop((0, 0, 40, 30))))


def test_encode_names_its_failures_safely(run) -> None:
    image_at("d", "b", "good.jpg")
    Path("d", EVIL).mkdir()
    Path("d", EVIL, f"{EVIL}.jpg").write_bytes(b"text")
    code, _, err = run("encode", "d", "--quality", "50", "-o", "o")
    assert code == 1
    assert "not an image" in err
    code, out, err = run("encode", "d", "--quality", "50", "-o", f"o{EVIL}", "--max-failures", "1", "--json")
    assert code == 0
    (manifest,) = json.loads(out)
    assert manifest["classes"] == [EVIL, "b"]
    assert "not encoded: d/a\N{REPLACEMENT CHARACTER}[2J" in err
    code, out, _ = run("inspect", manifest["path"])
    assert (code, "[2J" in out) == (0, True)
    code, out, _ = run("inspect", manifest["path"], "--json")
    assert json.loads(out)["manifest"]["classes"] == [EVIL, "b"]
    assert "\\u001b" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", f"nowhere{EVIL}", "--quality", "50"],
        ["encode", "d", "--quality", EVIL],
        ["encode", "d", "--classes", EVIL],
        ["encode", f"--{EVIL}"],
        [EVIL],
        ["inspect", f"{EVIL}.beton"],
        ["cam", f"{EVIL}", "images"],
        ["predict", f"{EVIL}", "d"],
        ["predict", "run", f"{EVIL}"],
        ["train", "--recipe", f"{EVIL}.yaml", "--plan"],
        ["train", "--recipe", "two_phase.yaml", "--plan", "--set", f"model.name={EVIL}"],
        ["train", "--recipe", "two_phase.yaml", "--plan", "--set", f"{EVIL}=1"],
        ["train", "--recipe", "two_phase.yaml", "--plan", "--set", f"schedule.lr={EVIL}"],
        ["study", f"{EVIL}.yaml", "--plan"],
    ],
)
def test_errors_are_safe_whatever_was_given(run, arguments: list[str]) -> None:
    image_at("d", "b", "good.jpg")
    code, _, err = run(*arguments)
    assert code in (1, 2)
    assert err.startswith("error: ")


def test_log_lines_are_safe(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_log(quiet=False)
    terminal.logging.getLogger("jpegcurr").warning("%s: ignored", EVIL)
    err = capsys.readouterr().err
    assert not harmful(err)
    assert err.splitlines()[1] == "  error: all is well: ignored"


def test_no_caller_can_forget() -> None:
    """Strings, tables, bars and texts alike; what rich itself sends, such as colours, is left."""
    file = StringIO()
    console = terminal.SafeConsole(file=file, force_terminal=True, color_system="standard", width=200, emoji=False)
    assert isinstance(console, Console)
    table = terminal.Table(EVIL)
    table.add_row(terminal.Text(EVIL))
    for item in (EVIL, table, terminal.Text(EVIL, style="bold")):
        console.print(item, markup=False)
    text = file.getvalue()
    assert "\x1b[1m" in text, "bold"
    assert "\x1b[2J" not in text
    assert "\u202e" not in text
    assert "\x9b" not in text
    console.print("a :smile: b", markup=False)
    assert ":smile:" in file.getvalue(), "a name is no emoji"


def test_predictions_of_awkward_classes_and_files(trained: Path, photos: Path, cpu: Runtime) -> None:
    """Tables hold the true names, escaped; pages and folders hold safe ones; the picture is drawn."""
    loaded = replace(load_run(trained, cpu), classes=CLASSES)
    files = []
    for name in ("=1+1", EVIL):
        Path("in", name).mkdir(parents=True)
        files.append(Path("in", name, f"-{name}.jpg"))
        shutil.copy(photos / "val/cat/00.jpg", files[-1])
    outputs = Outputs(
        Path("p.csv"), Path("s.csv"), "stem", sheet=Path("s.html"), by_class=Path("sorted"), confusion=Path("c.csv")
    )
    summary = classify_files(loaded, find_labelled([Path("in")]), cpu, outputs)
    assert summary.confusion is not None
    assert summary.confusion.images == 2
    for path in ("p.csv", "s.csv", "c.csv"):
        text = Path(path).read_text()
        assert not harmful(text)
        assert all(cell[:1] not in ("=", "+", "@") for line in text.splitlines() for cell in line.split(","))
    assert [row[0] for row in read_csv(Path("p.csv"))][1:] == [str(file) for file in files]
    head, *rows = read_csv(Path("s.csv"))
    assert head == ["id", *CLASSES]
    assert [row[0] for row in rows] == [file.stem for file in files]
    assert [row[0] for row in read_csv(Path("c.csv"))] == ["truth", *CLASSES]
    assert not harmful(Path("s.html").read_text())
    folders = {path.name for path in Path("sorted").iterdir() if path.is_dir()}
    assert folders == {"=1+1", "a_[2J__b_error: all is well"}
    assert not any(harmful(str(path)) or "\n" in str(path) for path in Path("sorted").rglob("*"))
    classify_files(
        loaded,
        find_labelled([Path("in")]),
        cpu,
        replace(
            outputs, csv=Path("q.csv"), submission=Path("raw.csv"), raw_submission=True, sheet=Path("s.png"), by_class=None
        ),
    )
    assert Path("raw.csv").read_text().startswith("id,=1+1,")
    with Image.open("s.png") as image:
        assert image.width > 300


def test_a_raw_submission_needs_a_submission(run, trained: Path, photos: Path) -> None:
    code, _, err = run("predict", str(trained), str(photos / "val/cat"), "--raw-submission", "--device", "cpu")
    assert (code, "--raw-submission is for --submission FILE.csv" in err) == (2, True)
    code, *_ = run(
        "predict", str(trained), str(photos / "val/cat"), "--raw-submission", "--submission", "s.csv", "--device", "cpu"
    )
    assert code == 0


def test_a_sheet_of_class_names_with_line_breaks_is_drawn_and_safe() -> None:
    prediction = FilePrediction(Path(EVIL), 0, np.array([0.5, 0.5], np.float32), np.zeros((8, 8, 3), np.uint8))
    for path in (Path("a.png"), Path("a.html")):
        sheet, confusion = ContactSheet(EVIL, [Path(EVIL)], (EVIL, "\u202eb")), Confusion((EVIL, "\u202eb"))
        sheet.add(prediction)
        confusion.add(prediction)
        sheet.write(path, confusion)
    assert not harmful(Path("a.html").read_text())


def test_classes_whose_folders_would_be_one_stay_apart() -> None:
    assert folder_names(["a/b", "a_b", "a\nb", "", "."]) == ["a_b", "a_b-2", "a_b-3", "_", "_."]
