"""``audit``: what the files of a data set are, whether their headers tell the classes, and its page, tables and errors."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from samples import jpeg, photograph
from sklearn.linear_model import Ridge

import jpegcurr
from jpegcurr.analysis.audit.columns import _DTYPES, FileColumns
from jpegcurr.analysis.audit.label_prediction import _Test, choose_images, one_hot, predict_labels
from jpegcurr.analysis.audit.text import distribution, percent, sentences
from jpegcurr.cli import main
from jpegcurr.encoding.survey import read_facts
from jpegcurr.files import read_csv

COFFEE = photograph("coffee")


def crop(number: int, side: int = 32) -> Image.Image:
    return COFFEE.crop((3 * number, 2 * number, 3 * number + side, 2 * number + side))


def write_classes(root: str, qualities: dict[str, int], images: int = 20, **options: object) -> None:
    """Write crops of one photograph into ``root/<class>``, by turns, those of a class at its quality."""
    for place, (name, quality) in enumerate(qualities.items()):
        Path(root, name).mkdir(parents=True)
        for number in range(images):
            data = jpeg(crop(len(qualities) * number + place), quality=quality, **options)
            Path(root, name, f"{number:02}.jpg").write_bytes(data)


def run(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(shlex.split(command))
    output = capsys.readouterr()
    return int(left.value.code or 0), output.out, output.err


def predict(labels: np.ndarray, columns: dict[str, list[np.ndarray]], **options: Any) -> Any:
    fingerprints = options.pop("fingerprints", np.arange(len(labels), dtype=np.uint64))
    return predict_labels(
        "class", labels, lambda images: {k: [c[images] for c in v] for k, v in columns.items()}, fingerprints, **options
    )


def test_an_encoder_that_gives_the_class_away_is_named() -> None:
    write_classes("biased", {"dark": 75, "light": 96})
    report = jpegcurr.audit("biased", sample=0)
    (prediction,) = report.predictions
    assert prediction.p_value < 0.001
    assert prediction.accuracy > 0.95 > 0.5 == prediction.majority
    scores = {score.name: score for score in prediction.fields}
    assert (scores["quality"].alone, scores["quality"].p_holm < 0.01) == (1.0, True)
    assert {"chroma", "sides", "orientation"} <= set(prediction.constant)
    text = " ".join(sentences(report))
    assert f"Headers alone tell the class of {100 * prediction.accuracy:.1f} % of 40 images" in text
    assert "A field by itself tells the class: quality 100.0 %" in text
    assert "a trace of the encoder" in text
    write_classes("fair", {"dark": 75, "light": 75})
    (fair,) = jpegcurr.audit("fair", sample=0).predictions
    assert fair.p_value > 0.01
    assert "quality" in fair.constant


def test_shuffled_labels_are_told_as_rarely_as_stated() -> None:
    """Of 40 shuffles about two have a p-value below 0.05; more than six would be one chance in two hundred."""
    random = np.random.default_rng(0)
    columns = {"quality": [random.choice([75.0, 90.0, 96.0], 120)], "bytes": [random.normal(size=120)]}
    columns["chroma"] = [random.integers(0, 2, 120).astype(np.uint8)]
    p_values = [
        predict(random.permutation(np.arange(120) % 3), columns, permutations=99, seed=seed).p_value for seed in range(40)
    ]
    assert sum(p < 0.05 for p in p_values) <= 6
    assert 0.3 < np.mean(p_values) < 0.7
    assert min(p_values) >= 1 / 100


def test_the_model_is_scikit_learns_ridge_regression() -> None:
    random = np.random.default_rng(1)
    number, kind = random.normal(size=300), random.integers(0, 30, 300)
    truth = (number > 0.3) * 1 + (kind > 20) * 1
    features = one_hot([number, kind.astype(np.uint8)])
    assert features.shape[1] == 32, "sixteen bins of numbers, and the fifteen most frequent categories beside all others"
    test = _Test(truth, seed=3)
    right = 0
    for fold in test._folds:
        others = np.setdiff1d(np.arange(300), fold)
        model = Ridge(1.0).fit(features[others], np.eye(3)[truth[others]])
        right += int((model.predict(features[fold]).argmax(axis=1) == truth[fold]).sum())
    accuracy, p_value = test.run(features, 19, lambda _done: None)
    assert accuracy == right / 300 > 0.7
    assert p_value == 1 / 20
    counted: list[tuple[int, int]] = []
    columns = {"number": [number], "kind": [kind.astype(np.uint8)], "copy": [number], "same": [np.ones(300)]}
    found = predict(truth, columns, permutations=19, seed=3, progress=lambda *done: counted.append(done))
    assert (found.accuracy, found.constant, found.repeated) == (accuracy, ("same",), {"copy": "number"})
    assert {score.name for score in found.fields} == {"number", "kind"}
    assert all(score.without < found.accuracy for score in found.fields)
    assert counted[-1][0] == counted[-1][1]
    assert found == predict(truth, columns, permutations=19, seed=3)


def test_copies_and_small_classes_are_left_out_and_counted() -> None:
    labels = np.array([0] * 10 + [1] * 10 + [2] * 4)
    fingerprints = np.arange(24, dtype=np.uint64)
    fingerprints[[1, 12]] = 0
    chosen, counts = choose_images(labels, fingerprints, 0)
    assert chosen.tolist() == [0, *range(2, 12), *range(13, 20)]
    assert counts == {"duplicates": 2, "rare": 4, "rare_classes": 1, "unsampled": 0}
    many = np.repeat(np.arange(1000), 12)
    chosen, counts = choose_images(many, np.arange(12_000, dtype=np.uint64), 0)
    assert counts["unsampled"] == 12_000 - len(chosen) > 0
    assert set(np.bincount(many[chosen])) == {10}
    alone = predict(np.arange(12), {"bytes": [np.arange(12.0)]})
    assert alone.missing == "at least two classes with 5 different images each are needed, and there are 0"
    assert (alone.rare, alone.rare_classes) == (12, 12)
    same = predict(np.arange(20) % 2, {"bytes": [np.ones(20)]})
    assert (same.p_value, same.accuracy, same.fields) == (1.0, 0.5, ())


def test_without_scikit_learn_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes("d", {"a": 75, "b": 80}, images=6)
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    report = jpegcurr.audit("d")
    assert report.splits[0].qualities == {75: 6, 80: 6}
    assert "pip install -U scikit-learn" in report.predictions[0].missing
    assert jpegcurr.audit("d", permutations=0).predictions == ()


@pytest.fixture
def awkward() -> None:
    """Write two splits with every kind of file that an audit counts."""
    write_classes("d/train", {"a": 75, "=b": 90}, images=6)
    write_classes("d/val", {"a": 75}, images=1, subsampling="4:4:4")
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "Editor <b>"
    train = Path("d/train/a")
    (train / "turned.jpg").write_bytes(jpeg(crop(50), quality=75, exif=exif))
    (train / "cmyk.jpg").write_bytes(jpeg(crop(51).convert("CMYK"), quality=75))
    (train / "cut.jpg").write_bytes(jpeg(crop(52), quality=75)[:-2])
    (train / "broken.jpg").write_bytes(b"no image at all")
    (train / "empty.jpg").write_bytes(b"")
    crop(53).save(train / "really_png.jpg", "PNG")
    shutil.copy(train / "00.jpg", "d/train/=b/copy.jpg")
    shutil.copy(train / "01.jpg", "d/val/a/copy.jpg")
    write = Path("d/train/a/progressive.jpg").write_bytes
    write(jpeg(crop(54), quality=75, progressive=True))


@pytest.mark.usefixtures("awkward")
def test_every_awkward_file_is_a_row_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("audit d --csv rows.csv -o page.html --sample 8 --permutations 99 --json", capsys)
    assert code == 0, err
    assert "not readable: d/train/a/broken.jpg: not an image" in err
    document = json.loads(out)
    train, val = document["splits"]
    assert (document["images"], document["unread"]) == (22, 2)
    assert (train["formats"], train["unended"], train["misnamed"]) == ({"JPEG": 17, "PNG": 1}, 1, 1)
    assert (train["orientations"], train["processes"]) == ({"6": 1}, {"baseline": 16, "progressive": 1})
    assert train["layouts"] == {"4:2:0": 16, "CMYK": 1}
    assert train["qualities"] == {"75": 11, "90": 6}
    assert (val["layouts"], train["encoders"]) == ({"4:2:0": 1, "4:4:4": 1}, {"Editor <b>": 1})
    assert document["duplicates"] == {"copies": 2, "across_splits": 2, "across_classes": 2}
    assert [one["name"] for one in document["classes"]] == ["=b", "a"]
    header, *rows = read_csv(Path("rows.csv"))
    by_file = {(row[0], row[1]): dict(zip(header, row, strict=True)) for row in rows}
    assert len(by_file) == 22
    assert by_file["train", "a/broken.jpg"]["problem"]
    assert by_file["train", "a/empty.jpg"]["problem"] == "the file is empty"
    assert by_file["train", "a/cut.jpg"]["problem"] == "no end-of-image marker"
    assert (by_file["train", "a/really_png.jpg"]["format"], by_file["train", "a/really_png.jpg"]["quality"]) == ("PNG", "")
    assert by_file["train", "a/turned.jpg"]["orientation"] == "6"
    assert by_file["train", "=b/00.jpg"]["class"] == "=b"
    assert sum(row["earlier"] != "" for row in by_file.values()) <= 2 * 8
    page = Path("page.html").read_text(encoding="utf-8")
    assert "Editor &lt;b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    code, out, _ = run("audit d -q --permutations 0", capsys)
    assert code == 0
    for words in (
        "2 of 20 files cannot be read",
        "suffix of another format",
        "turned by a flag",
        "are CMYK",
        "in another split",
    ):
        assert words in out, words


def test_a_folder_of_images_needs_no_classes(capsys: pytest.CaptureFixture[str]) -> None:
    write_classes("d", {"a": 75}, images=6)
    code, out, err = run("audit d/a -o page.html --csv all.csv", capsys)
    assert (code, "6 JPEGs, most often of quality 75" in out) == (0, True)
    assert "d/a has no class folders, so its 6 images are one set without classes" in err
    assert "Predicting" not in out
    page = Path("page.html").read_text()
    assert "6 files in 1 split, no classes" in page
    assert "the images have no classes" in page
    assert "By class" not in page
    assert [row[2] for row in read_csv(Path("all.csv"))] == ["class"] + 6 * [""]
    report = jpegcurr.audit("d/a", limit=4)
    assert (report.images, report.classes, report.predictions) == (4, (), ())


@pytest.mark.parametrize("options", ["--labels no.csv", "--classes a", "--split val", "--flat-classes"])
def test_options_of_labels_are_not_dropped_where_there_are_none(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_classes("d", {"a": 75}, images=2)
    code, out, err = run(f"audit d/a {options}", capsys)
    assert (code, out) == (2, "")
    assert "error: " in err


def test_unclear_splits_are_not_taken_for_images_without_classes(capsys: pytest.CaptureFixture[str]) -> None:
    write_classes("d", {"train": 75, "val": 75}, images=2)
    assert run("audit d", capsys)[0] == 2, "labels may be meant"


def test_mistakes_are_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert "empty" in run("audit empty", capsys)[2]
    assert "nowhere does not exist" in run("audit nowhere", capsys)[2]
    write_classes("d", {"a": 75}, images=2)
    Path("page.html").write_text("mine")
    assert run("audit d -o page.html", capsys)[0] == 2
    assert Path("page.html").read_text() == "mine"
    assert "has no class 'x'" in run("audit d --classes x", capsys)[2]
    for file in Path("d/a").iterdir():
        file.write_text("text")
    code, _, err = run("audit d --csv all.csv", capsys)
    assert (code, "None of the 2 files is a readable image." in err) == (1, True)
    assert len(list(read_csv(Path("all.csv")))) == 3


def test_a_file_takes_some_tens_of_bytes() -> None:
    assert sum(np.dtype(dtype).itemsize for dtype in _DTYPES.values()) < 48
    columns = FileColumns(3000)
    for number in range(3000):
        columns.add(f"{number}.jpg", read_facts(jpeg(Image.new("L", (8, 8)), comment=f"photograph {number}")))
    assert len(columns.encoders) == 1000
    assert len(columns) == 3000


def test_shares_never_look_like_all_or_none() -> None:
    assert [percent(*pair) for pair in ((0, 9), (1, 10_000), (9_999, 10_000), (3, 3), (1, 0))] == [
        "0 %",
        "< 0.1 %",
        "> 99.9 %",
        "100 %",
        "-",
    ]
    assert distribution({"a": 2, "b": 1}, 3, most=1) == "a (66.7 %), 1 more"


@pytest.mark.usefixtures("awkward")
def test_a_dry_run_tells_what_else_would_change(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run("encode d --quality source,50 --dry-run -q", capsys)
    assert code == 0, err
    assert "train: source quality 75 64.7 %, 90 35.3 %; chroma 4:2:0 94.1 %, CMYK 5.88 % (a sample of 18)" in out
    assert "train: source cannot keep" in out
    for words in ("CMYK chroma (they become quality 95, 4:4:4) (1 of 18)", "the format PNG (1 of 18)", "turned by a flag"):
        assert words in out, words
    for words in ("coding from progressive to baseline (1 of 18)", "chroma from CMYK to 4:2:0 (1 of 18)", "a rotation flag"):
        assert words in out, words
    assert "val: quality 50 also changes chroma from 4:4:4 to 4:2:0 (1 of 2)" in out
    assert "val: source keeps every file as it is" in out
    first, _ = json.loads(run("encode d --quality 50 --dry-run -q --json", capsys)[1])["changes"]
    assert (first["sampled"], first["qualities"]) == (18, {"75": 11, "90": 6})
    # What is foretold is what happens: three images are converted, and the one that is cut off fails.
    assert run("encode d --quality source,50 --split train --max-failures 3 -q", capsys)[0] == 0
    source = json.loads(run("inspect betons/train-source.beton -q --json", capsys)[1])
    assert (source["manifest"]["failures"], source["manifest"]["images"] - source["manifest"]["copied"]) == (3, 3)
    assert sum(source["qualities_of_tables"].values()) == 17
    assert source["qualities_of_tables"]["95"] == 3
    stored = json.loads(run("inspect betons/train-q50.beton -q --json", capsys)[1])
    assert (stored["qualities_of_tables"], stored["subsampling"]) == ({"50": 17}, {"4:2:0": 17})
    kept = run("encode d --quality 50 --subsampling keep --split val --dry-run -q", capsys)[1]
    assert "val: quality 50 changes nothing besides" in kept
