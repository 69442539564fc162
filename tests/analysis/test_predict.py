"""Predictions for many files and their outputs: tables, submissions, contact sheets, sorted folders, confusion."""

import base64
import csv
import shutil
import weakref
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jpegcurr.analysis.prediction import outputs as classification
from jpegcurr.analysis.prediction import predict
from jpegcurr.analysis.prediction.confusion import Confusion
from jpegcurr.analysis.prediction.contact_sheet import ContactSheet
from jpegcurr.analysis.prediction.outputs import Outputs, classify_files
from jpegcurr.analysis.prediction.predict import FilePrediction, classify
from jpegcurr.analysis.prediction.sort_by_class import MARK, folder_names, sorted_folder
from jpegcurr.cli import main
from jpegcurr.encoding.sources.labelled_files import LabelledFiles, find_labelled
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.text import sanitize
from jpegcurr.training.models.classifier import Run
from jpegcurr.training.models.load import load_run

EVIL = "<img src=x onerror=alert(1)>.jpg"
CLASSES = ["astronaut", "cat", "coffee", "grass"]


class Page(HTMLParser):
    """A page's tags with their attributes, and its text; every tag that is opened must be closed in turn."""

    VOID = frozenset({"meta", "img", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data.strip())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def images(photos: Path) -> Path:
    """Labelled images, and a folder with an image whose name is markup and a file that is not an image."""
    shutil.copytree(photos / "val", "images")
    Path("odd").mkdir()
    shutil.copy(photos / "val/cat/00.jpg", f"odd/{EVIL}")
    Path("odd/bad.jpg").write_bytes(b"text")
    return Path("images")


@pytest.fixture
def run(trained: Path, cpu: Runtime) -> Run:
    return load_run(trained, cpu)


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--device", "cpu"])
    return int(left.value.code or 0)


def rows_of(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def predicted(file: str, truth: int | None, shares: list[float]) -> FilePrediction:
    return FilePrediction(Path(file), truth, np.array(shares, np.float32), np.zeros((8, 8, 3), np.uint8))


def test_files_and_folders_are_mixed_in_the_order_given_without_repetitions(images: Path) -> None:
    last, folder = Path("images/grass/03.jpg"), Path("images/cat")
    found = find_labelled([last, folder, Path("odd/bad.jpg"), folder / "01.jpg", last])
    assert list(found.files) == [last, *(folder / f"0{number}.jpg" for number in range(4)), Path("odd/bad.jpg")]
    with pytest.raises(UsageError, match="nowhere does not exist"):
        find_labelled([folder, Path("nowhere")])


def test_a_submission_has_every_class_in_the_runs_order_and_leaves_out_what_cannot_be_read(
    images: Path, run: Run, cpu: Runtime, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", str(trained), "images/grass", "odd", "--submission", "s.csv") == 0
    rows = rows_of("s.csv")
    assert list(rows[0]) == ["id", *run.classes] == ["id", *CLASSES]
    assert [row["id"] for row in rows] == ["00", "01", "02", "03", EVIL.removesuffix(".jpg")]
    files = [*sorted(Path("images/grass").iterdir()), Path("odd", EVIL)]
    for row, prediction in zip(rows, classify(run, LabelledFiles.of(files), cpu), strict=True):
        shares = [float(row[name]) for name in CLASSES]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert np.array(shares, np.float32).tolist() == prediction.probabilities.tolist(), "no digit is lost"
        assert max(len(row[name].split("e")[0].strip("0.")) for name in CLASSES) <= 9
    assert "not read: odd/bad.jpg: not an image" in capsys.readouterr().err
    assert [row["error"] != "" for row in rows_of("predictions.csv")] == [False] * 5 + [True]


def test_files_of_one_name_get_distinct_ids_or_are_refused(
    images: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(trained), "images", "--submission", "s.csv"]
    assert call(*arguments) == 2
    assert "4 files would have the id '00'. Tell them apart with --id path." in capsys.readouterr().err
    assert not Path("predictions.csv").exists()
    assert call(*arguments, "--id", "path") == 0
    assert len({row["id"] for row in rows_of("s.csv")}) == 16


def test_the_sheet_shows_names_and_never_runs_them(images: Path, trained: Path) -> None:
    assert call("predict", str(trained), "images/cat", "odd", "--sheet", "sheet.html") == 0
    page = Page(Path("sheet.html").read_text())
    pictures = page.named("img")
    assert [picture["alt"] for picture in pictures] == [f"images/cat/0{number}.jpg" for number in range(4)] + [f"odd/{EVIL}"]
    assert f"odd/{EVIL}" in page.words
    assert not page.named("script") + page.named("link")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    for picture in pictures:
        start, _, data = str(picture["src"]).partition(",")
        assert start == "data:image/webp;base64"
        with Image.open(BytesIO(base64.b64decode(data))) as image:
            assert image.size == (192, 192)
    shares = [float(str(bar["style"]).removeprefix("width:").removesuffix("%")) for bar in page.named("i")]
    assert len(shares) == 5 * len(CLASSES)
    assert sum(shares) == pytest.approx(500, abs=2)
    assert "odd/bad.jpg" in page.words
    assert any(word.startswith("not an image") for word in page.words)


def test_class_names_are_escaped_in_the_sheet() -> None:
    classes = ["<b>bold</b>", "n01440764"]
    sheet = ContactSheet("<i>run</i>", [Path("1.jpg")], classes)
    confusion = Confusion(classes)
    for sink in (sheet, confusion):
        sink.add(predicted("1.jpg", 0, [0.25, 0.75]))
    sheet.write(Path("sheet.html"), confusion)
    page = Page(Path("sheet.html").read_text())
    assert not page.named("b")
    assert {"<b>bold</b>", "wrong: is <b>bold</b>", "n01440764 tench, Tinca tinca", "1 of 1"} <= set(page.words)
    counts = [bars["aria-label"] for bars in page.named("svg")]
    assert counts == ["images by probability of the true class, in tenths: 0, 0, 1, 0, 0, 0, 0, 0, 0, 0"] * 2


def test_a_sheet_of_many_shows_evenly_spaced_ones_and_keeps_no_more(images: Path, run: Run, cpu: Runtime) -> None:
    files = find_labelled([images]).files
    classify_files(run, find_labelled([images]), cpu, Outputs(Path("p.csv"), sheet=Path("s.html"), sheet_limit=4))
    page = Page(Path("s.html").read_text())
    assert [picture["alt"] for picture in page.named("img")] == [str(files[place]) for place in (0, 5, 10, 15)]
    assert any("evenly spaced images of 16 files" in word for word in page.words)


def test_a_sheet_can_be_a_picture(images: Path, trained: Path) -> None:
    assert call("predict", str(trained), "images/cat", "--sheet", "sheet.png") == 0
    with Image.open("sheet.png") as image:
        assert image.width == 4 * 204 + 12
        assert len(image.crop((12, 12, 204, 204)).getcolors(1 << 16) or ()) > 100, "the first picture is there"


def test_names_that_are_not_text_or_steer_a_terminal_are_shown_without_that() -> None:
    unknown = "\N{REPLACEMENT CHARACTER}"
    assert sanitize(b"a\xff\x1b[31m.jpg".decode("utf-8", "surrogateescape")) == f"a{unknown}{unknown}[31m.jpg"


def test_an_image_whose_name_is_not_text_goes_through_everything(photos: Path, run: Run, cpu: Runtime) -> None:
    Path("cat").mkdir()
    name = b"cat/\xff.jpg".decode("utf-8", "surrogateescape")
    shutil.copy(photos / "val/cat/00.jpg", name)
    outputs = Outputs(Path("p.csv"), submission=Path("s.csv"), sheet=Path("s.html"), by_class=Path("sorted"))
    classify_files(run, find_labelled([Path(name)]), cpu, outputs)
    assert b"cat/\xff.jpg," in Path("p.csv").read_bytes()
    assert b"\n\xff," in Path("s.csv").read_bytes()


@pytest.mark.parametrize("copy", [False, True])
def test_images_are_sorted_by_truth_and_prediction(images: Path, run: Run, trained: Path, cpu: Runtime, copy: bool) -> None:
    shutil.copytree("images/cat", "again/cat")
    assert call("predict", str(trained), "images", "again", "odd", "--by-class", "sorted", *["--copy"] * copy) == 0
    sorted_files = list(Path("sorted").rglob("*.jpg"))
    assert len(sorted_files) == 20, "none but those in folders of classes, and none twice in one place"
    assert all(path.is_symlink() != copy and path.read_bytes() for path in sorted_files)
    expected = Counter(
        (CLASSES[prediction.truth], CLASSES[prediction.likeliest(1)[0]])
        for prediction in classify(run, find_labelled([images, Path("again")]), cpu)
    )
    assert Counter(path.parts[1:3] for path in sorted_files) == expected
    if not copy:
        assert sorted(path.resolve() for path in sorted_files) == sorted(
            path.resolve() for path in find_labelled([images, Path("again")]).files
        )


@pytest.mark.parametrize("option", ["--csv", "--submission", "--sheet", "--confusion"])
def test_an_output_that_exists_is_named_with_its_own_option(
    images: Path, trained: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    name = "there.html" if option == "--sheet" else "there.csv"
    Path(name).touch()
    words = ["predict", str(trained), "images/cat"]
    assert call(*words, option, name) == 2
    assert f"{name} exists. Choose another place with {option}, or replace it with --force." in capsys.readouterr().err
    Path(name).unlink()
    Path(name).mkdir()
    assert call(*words, option, name, "--force") == 2
    assert f"{name} is a folder. Choose another place with {option}." in capsys.readouterr().err


def test_a_folder_that_force_would_not_replace_is_not_said_to_be_replaced_by_force(
    images: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("sorted").mkdir()
    Path("sorted/mine.txt").touch()
    assert call("predict", str(trained), "images/cat", "--by-class", "sorted") == 2
    message = capsys.readouterr().err
    assert "holds other files than sorted images" in message
    assert "--force" not in message


def test_a_sorted_folder_is_replaced_only_with_force_and_only_if_it_is_one(
    images: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sort(*more: str) -> tuple[int, str]:
        return call("predict", str(trained), *(more or ["images/cat"]), "--by-class", "sorted", "-f"), capsys.readouterr().err

    Path("sorted").mkdir()
    Path("sorted/mine.txt").touch()
    code, message = sort()
    assert (code, "holds other files than sorted images" in message) == (2, True)
    Path("sorted/mine.txt").unlink()
    assert sort()[0] == 0
    assert call("predict", str(trained), "images/cat", "--by-class", "sorted", "-o", "new.csv") == 2
    assert "sorted is not empty" in capsys.readouterr().err
    assert sort("images/grass")[0] == 0
    assert [path.name for path in Path("sorted").iterdir() if path.is_dir()] == ["grass"]
    code, message = sort("sorted")
    assert (code, "lies in it" in message) == (2, True)
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]


def test_the_confusion_matrix_counts_every_labelled_image_once(
    images: Path, run: Run, cpu: Runtime, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("predict", str(trained), "images", "odd", "--confusion", "c.csv") == 0
    expected = Counter(
        (CLASSES[prediction.truth], CLASSES[prediction.likeliest(1)[0]])
        for prediction in classify(run, find_labelled([images]), cpu)
    )
    rows = rows_of("c.csv")
    assert [row["truth"] for row in rows] == CLASSES
    assert {(row["truth"], name): int(row[name]) for row in rows for name in CLASSES if row[name] != "0"} == expected
    right = sum(count for (truth, predicted), count in expected.items() if truth == predicted)
    assert f"{right} of 16 labelled images are right" in capsys.readouterr().out


def test_the_most_confused_pairs_come_first_and_histograms_are_of_the_true_class() -> None:
    confusion = Confusion(["a", "b", "c"])
    for truth, shares in [(0, [0.1, 0.9, 0]), (0, [0.3, 0.7, 0]), (0, [1, 0, 0]), (1, [0.6, 0.35, 0.05]), (None, [1, 0, 0])]:
        confusion.add(predicted("x.jpg", truth, shares))
    assert [(pair.truth, pair.predicted, pair.count, pair.images) for pair in confusion.most_confused()] == [
        ("a", "b", 2, 3),
        ("b", "a", 1, 1),
    ]
    assert (confusion.right, confusion.images) == (1, 4)
    assert confusion.by_class() == [("a", 1, 3, [0, 1, 0, 1, 0, 0, 0, 0, 0, 1]), ("b", 0, 1, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0])]
    assert confusion.histogram() == [0, 1, 0, 2, 0, 0, 0, 0, 0, 1]


def test_outputs_that_need_labels_are_refused_without_them(
    images: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, path in (("--by-class", "sorted"), ("--confusion", "c.csv")):
        assert call("predict", str(trained), "odd", option, path) == 2
        assert f"{option} needs images in folders named like the classes" in capsys.readouterr().err
    assert call("predict", str(trained), "odd") == 0
    assert "labelled" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--sheet sheet.pdf", r"Give a name that ends in .html or .png"),
        ("--copy", "--copy is for --by-class"),
        ("--sheet a.html --csv a.html", "a.html would be written twice"),
        ("--by-class sorted --confusion sorted/c.csv", "would lie in the folder of --by-class"),
        ("--by-class odd/bad.jpg", "is not a folder"),
    ],
)
def test_a_wrong_use_is_one_sentence(
    images: Path, trained: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert call("predict", str(trained), "images", *options.split()) == 2
    assert message in capsys.readouterr().err
    assert not Path("predictions.csv").exists()


def test_nothing_is_left_of_a_pass_that_is_interrupted(images: Path, run: Run, cpu: Runtime) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    before = sorted(Path().rglob("*"))
    names = {"submission": "s.csv", "sheet": "s.html", "by_class": "sorted", "confusion": "c.csv", "report": "r.html"}
    outputs = Outputs(Path("p.csv"), **{name: Path(path) for name, path in names.items()})
    with pytest.raises(KeyboardInterrupt):
        classify_files(run, find_labelled([images]), cpu, outputs, stop)
    assert sorted(Path().rglob("*")) == before


def test_what_a_killed_process_has_left_of_a_sorted_folder_is_removed() -> None:
    for name, mark in ((".by-abcdefgh", MARK), (".by-ijklmnop", "mine"), (".buy-qrstuvwx", MARK)):
        Path(name, "new").mkdir(parents=True)
        Path(name, "new", mark).touch()
    with sorted_folder(Path("by"), ["cat"], copy=False):
        assert not Path(".by-abcdefgh").exists()
    assert {path.name for path in Path().iterdir()} == {"by", ".by-ijklmnop", ".buy-qrstuvwx"}


def test_no_more_than_two_batches_of_pixels_are_held(
    images: Path, run: Run, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[object] = weakref.WeakSet()
    most = 0

    def tracked(*arguments: object, **options: object) -> Iterator[FilePrediction]:
        for prediction in classify(*arguments, **options):
            alive.add(prediction.view.base)
            yield prediction

    def count(done: int, total: int) -> None:
        nonlocal most
        most = max(most, len(alive))

    monkeypatch.setattr(predict, "BATCH", 2)
    monkeypatch.setattr(classification, "classify", tracked)
    outputs = Outputs(Path("p.csv"), submission=Path("s.csv"), identity="path", sheet=Path("s.html"), by_class=Path("sorted"))
    classify_files(run, find_labelled([images]), cpu, outputs, count)
    assert 1 <= most <= 4


def test_a_class_may_be_called_anything() -> None:
    assert folder_names(["cat", "a/b", "..", "", "../../x"]) == ["cat", "a_b", "_..", "_", "_.._.._x"]
