"""The page of predictions and its JSON: the numbers are scikit-learn's, and every image is in one place."""

import json
import re
import shutil
import tracemalloc
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prediction_samples import planted, planted_report
from sklearn import metrics
from sklearn.calibration import calibration_curve

from jpegcurr.analysis.class_names import find_class
from jpegcurr.analysis.html.page import hash_script, source
from jpegcurr.analysis.prediction.class_metrics import BINS
from jpegcurr.analysis.prediction.columns import PredictionColumns, common_folder, evenly_spaced
from jpegcurr.analysis.prediction.one_class import CURVE_POINTS, OUTCOMES, judge_one_class, trace_curves
from jpegcurr.analysis.prediction.page import page_files, render, report_values, write_page
from jpegcurr.analysis.prediction.predict import FilePrediction, classify
from jpegcurr.analysis.prediction.report import MOST_POINTS, build_report, share_out
from jpegcurr.cli import main
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.errors import UsageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.transforms import centre_crop, whole_image
from jpegcurr.training.models.load import load_run

EVIL = "<img src=x onerror=alert(1)>\u202e\x1b[2J.jpg"
EXACT = {"rel": 0, "abs": 1e-12}


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main([*arguments, "--device", "cpu"])
    return int(left.value.code or 0)


def columns_of(predictions: Sequence[FilePrediction]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return truth, prediction, confidence and probabilities of the images that have all of them."""
    known = [p for p in predictions if p.truth is not None and p.probabilities is not None]
    shares = np.array([p.probabilities for p in known], np.float64)
    return np.array([p.truth for p in known]), shares.argmax(1), shares.max(1), shares


@pytest.mark.parametrize(
    ("images", "classes", "outputs", "digits"), [(400, 5, 5, None), (300, 4, 9, 1), (60, 30, 300, None), (50, 2, 2, 1)]
)
def test_every_number_of_the_json_is_scikit_learns(images: int, classes: int, outputs: int, digits: int | None) -> None:
    """With ties, classes that are never predicted, predictions that no image has, and files that cannot be read."""
    positive, threshold = classes - 1, 0.3
    options = {"outputs": outputs, "digits": digits, "labelled": 0.8, "unread": 5, "strength": 1.5}
    subject, predictions = planted(images, classes, **options)
    write_page(planted_report(images, classes, positive=positive, threshold=threshold, **options), Path("page.html"))
    values = json.loads(Path("page.json").read_text())
    truth, predicted, confidence, shares = columns_of(predictions)
    labels = np.unique(truth)
    names = [subject.classes[label] for label in labels]

    assert values["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted), **EXACT)
    precision, recall, f1, counts = metrics.precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0)
    assert [row["class"] for row in values["classes"]] == names
    assert [row["images"] for row in values["classes"]] == counts.tolist()
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert [row[name] or 0 for row in values["classes"]] == pytest.approx(expected.tolist(), **EXACT)
        assert values["macro"][name] == pytest.approx(expected.mean(), **EXACT)
    matrix = metrics.confusion_matrix(truth, predicted, labels=range(outputs))
    cells = {(pair["truth"], pair["predicted"]): pair["images"] for pair in values["confusion"]}
    assert cells == {
        (subject.classes[row], subject.classes[column]): matrix[row, column] for row, column in np.argwhere(matrix)
    }
    assert sum(cells.values()) == values["labelled"] == len(truth)

    accuracies, confidences = calibration_curve(truth == predicted, confidence, n_bins=BINS)
    assert [row["accuracy"] for row in values["reliability"]] == pytest.approx(accuracies.tolist(), **EXACT)
    assert [row["confidence"] for row in values["reliability"]] == pytest.approx(confidences.tolist(), **EXACT)

    one, positives, score = values["positive"], truth == positive, shares[:, positive]
    assert one["average_precision"] == pytest.approx(metrics.average_precision_score(positives, score), **EXACT)
    assert one["roc_area"] == pytest.approx(metrics.roc_auc_score(positives, score), **EXACT)
    for decision, called in zip(one["decisions"], (predicted == positive, score >= threshold), strict=False):
        tn, fp, fn, tp = metrics.confusion_matrix(positives, called, labels=[False, True]).ravel()
        assert [decision[name] for name in ("tp", "fp", "fn", "tn")] == [tp, fp, fn, tn]
        assert decision["f1"] == pytest.approx(metrics.f1_score(positives, called), **EXACT)
        assert (decision["precision"] or 0) == pytest.approx(
            metrics.precision_score(positives, called, zero_division=0), **EXACT
        )
        assert decision["recall"] == pytest.approx(metrics.recall_score(positives, called), **EXACT)
        assert decision["accuracy"] == pytest.approx(metrics.accuracy_score(positives, called), **EXACT)
        assert decision["false_positive_rate"] == pytest.approx(fp / (fp + tn), **EXACT)
    fall_out, recall, thresholds = metrics.roc_curve(positives, score, drop_intermediate=False)
    assert one["curve"]["threshold"] == thresholds[1:].tolist()
    assert one["curve"]["recall"] == pytest.approx(recall[1:].tolist(), **EXACT)
    assert one["curve"]["false_positive_rate"] == pytest.approx(fall_out[1:].tolist(), **EXACT)
    precision = metrics.precision_recall_curve(positives, score)[0]
    assert one["curve"]["precision"] == pytest.approx(precision[:-1][::-1].tolist(), **EXACT)
    best = max(metrics.f1_score(positives, score >= at) for at in np.unique(score))
    assert one["decisions"][2]["f1"] == pytest.approx(best, **EXACT)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=30), st.integers(0, 7))
def test_areas_outcomes_and_the_threshold_of_any_scores(rows: list[tuple[bool, int]], threshold: int) -> None:
    truth, score = np.array([int(positive) for positive, _ in rows]), np.array([level / 6 for _, level in rows])
    predicted = (score > 0.5).astype(np.int64)
    one = judge_one_class(truth, predicted, score, 1, threshold / 6)
    decision = one.at_threshold
    assert np.bincount(one.outcome, minlength=4).tolist() == [decision.tp, decision.fp, decision.fn, decision.tn]
    assert decision.tp + decision.fp + decision.fn + decision.tn == len(rows)
    likeliest = one.decisions[0]
    assert decision.tp == likeliest.tp - one.trade.lost + one.trade.gained
    assert decision.fp == likeliest.fp - one.trade.spared + one.trade.alarmed
    assert (one.curves is None) == (len(set(truth.tolist())) == 1)
    if one.curves is not None:
        assert one.curves.average_precision == pytest.approx(metrics.average_precision_score(truth, score), **EXACT)
        assert one.curves.roc_area == pytest.approx(metrics.roc_auc_score(truth, score), **EXACT)


def test_a_curve_that_is_thinned_keeps_its_ends_and_its_steps() -> None:
    random = np.random.default_rng(0)
    positive = random.random(20_000) < 0.002
    curves = trace_curves(positive, random.normal(size=20_000) + 2 * positive)
    thin = curves.thinned()
    assert len(thin.threshold) <= CURVE_POINTS < len(curves.threshold)
    assert (thin.tp[-1], thin.fp[-1]) == (curves.tp[-1], curves.fp[-1])
    assert thin.threshold[0] == curves.threshold[0]
    assert np.abs(np.interp(curves.fall_out, thin.fall_out, thin.recall) - curves.recall).max() < 0.06


def test_fifty_thousand_images_take_the_memory_of_a_thousand() -> None:
    """Predictions come one by one; what is kept of each are numbers, and the page has a bounded number of points."""
    subject, predictions = planted(1000, 4)
    peaks, sizes = [], []
    for repeats in (1, 50):
        many = replace(subject, files=[name for name in subject.files for _ in range(repeats)])
        tracemalloc.start()
        columns = PredictionColumns(1)
        for prediction in predictions:
            for _ in range(repeats):
                columns.add(prediction)
        report = build_report(many, columns, positive=1)
        text = render(report)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(len(text))
    assert report.read == 50_000
    assert report.scatter.drawn == report.positive_scatter.drawn == MOST_POINTS
    assert peaks[1] - peaks[0] < 10e6, "200 bytes for each of 49,000 images, while the page is computed"
    assert sizes[1] < 2 * sizes[0] < 3e6


def test_every_file_is_in_one_of_the_three_groups_and_every_image_in_one_bin() -> None:
    report = planted_report(200, 4, labelled=0.7, unread=7, positive=2)
    values = report_values(report)
    assert values["labelled"] + values["unlabelled"] + values["unread"] == values["files"] == 200
    assert values["unread"] == 7
    right, wrong = values["confidence"]
    assert (right["images"], right["images"] + wrong["images"]) == (values["right"], values["labelled"])
    for group in (*values["confidence"], *values["confidence_without_label"], *values["positive"]["probability"]):
        assert sum(group["counts"]) == group["images"]
    assert sum(row["images"] for row in values["reliability"]) == values["labelled"]
    assert sum(group["images"] for group in values["confidence_without_label"]) == values["unlabelled"]
    assert [group["name"] for group in values["positive"]["probability"]] == list(OUTCOMES)
    words = " ".join(re.sub(r"<[^>]+>", " ", render(report)).split())
    assert f"200 files: {values['labelled']} with a known class, {values['unlabelled']} without, 7 not read." in words
    assert "Images without a known class" in words


def test_images_without_labels_have_histograms_and_nothing_is_judged() -> None:
    report = planted_report(90, 20, labelled=0)
    assert report.labelled is None
    assert "so nothing is judged" in report.summary[0]
    assert [len(report.unlabelled), report.unlabelled[-1].name] == [13, "8 other classes"]
    images = [group.images for group in report.unlabelled[:-1]]
    assert images == sorted(images, reverse=True)
    text = render(report)
    assert "Confidence by predicted class" in text
    assert "Confusion matrix" not in text


def test_the_points_of_a_scatter_are_shared_out_and_evenly_spaced() -> None:
    assert share_out(100, [10, 1000, 30]) == [10, 60, 30]
    assert share_out(100, [10, 20]) == [10, 20]
    assert share_out(100, [500, 500, 7]) == [46, 47, 7] or sum(share_out(100, [500, 500, 7])) == 100
    assert evenly_spaced(11, 3).tolist() == [0, 5, 10]
    assert evenly_spaced(0, 3).tolist() == []
    report = planted_report(3000, 2, strength=4)
    assert report.scatter.drawn == MOST_POINTS
    (right, wrong), (all_right, all_wrong) = report.scatter.groups, report.scatter.totals
    assert (all_right + all_wrong, len(wrong.points)) == (3000, all_wrong), "the rare ones are all there"
    places = [place for place, *_ in right.points]
    assert (min(places) < 5, max(places) > 2995, max(np.diff(places)) < 10) == (True, True, True)


def test_a_folder_that_all_files_share_is_stated_once() -> None:
    assert common_folder(["a/b/1.jpg", "a/b/c/2.jpg"]) == "a/b/"
    assert common_folder(["a/b1/1.jpg", "a/b2/2.jpg"]) == "a/"
    assert common_folder(["1.jpg", "2.jpg"]) == common_folder([]) == ""
    assert common_folder(["a/1.jpg"]) == "a/"


@pytest.mark.parametrize(("classes", "outputs", "columns"), [(10, 10, 10), (10, 400, 11), (30, 31, 31), (31, 31, None)])
def test_a_matrix_is_a_table_a_table_with_one_column_for_the_rest_or_a_picture(
    classes: int, outputs: int, columns: int | None
) -> None:
    report = planted_report(400, classes, outputs=outputs, strength=1)
    text = render(report)
    assert report.labelled is not None
    table = re.search(r'<table class="matrix">.*?</table>', text, re.DOTALL)
    if columns is None:
        assert table is None
        data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
        assert sum(data["cells"][2::3]) == 400 == sum(data["images"])
        assert "data:image/png;base64," in text
        return
    rows = re.findall(r"<tr><th scope=\"row\".*?</tr>", table[0], re.DOTALL)
    cells = [[int(cell or 0) for cell in re.findall(r"<td[^>]*>(\d*)</td>", row)] for row in rows]
    assert {len(row) for row in cells} == {columns + 1}, "and one for the images of the class"
    assert sum(sum(row[:-1]) for row in cells) == 400
    assert all(sum(row[:-1]) == row[-1] for row in cells)
    assert sum(row[place] for place, row in enumerate(cells)) == report.labelled.right


def test_undefined_numbers_are_no_zeros() -> None:
    report = planted_report(20, 2, positive=2, outputs=3, strength=9)
    values = report_values(report)
    assert values["positive"]["decisions"][1]["recall"] is None
    assert values["positive"]["roc_area"] is values["positive"]["curve"] is None
    assert "recall and both curves are undefined" in report.summary[-1]
    assert "all others" in render(report)
    all_right = report_values(planted_report(20, 1, outputs=2, positive=0, strength=9))
    assert all_right["confidence"][1] == {"name": "wrong", "images": 0, "mean": None, "counts": [0] * 25}
    assert all_right["positive"]["decisions"][0]["false_positive_rate"] is None


def test_names_are_shown_and_never_run_and_only_our_script_may() -> None:
    name = "<b>bold</b>\u202e"
    report = planted_report(40, 2, names={0: name}, files={3: f"data/{EVIL}"}, positive=0, labelled=0.9, strength=0.5)
    write_page(report, Path("p.html"))
    text = Path("p.html").read_text()
    assert "<b>bold" not in text
    assert "&lt;img src=x onerror" in text
    assert not re.search("[\u202e\x1b]", text)
    tags = re.findall(r"<[a-z][^>]*>", re.sub(r"(?s)<script.*?</script>", "", text))
    assert not [tag for tag in tags if re.search(r"\son\w+=|\s(href|src)=\"(?!data:)", tag)]
    assert not re.search(r"https?:|@import|url\(", text)
    assert f"script-src 'sha256-{hash_script(source('predictions.js'))}'" in text
    assert "default-src 'none'" in text
    as_json = Path("p.json").read_text()
    assert not re.search("[\u202e\x1b]", as_json)
    assert json.loads(as_json)["classes"][0]["class"] == name
    assert [path.name for path in page_files(Path("p.html"))] == sorted(["p.html", "p.json"])
    before = text
    write_page(report, Path("p.html"))
    assert Path("p.html").read_text() == before


# ---- the command


def test_the_command_writes_a_page_of_the_same_predictions(
    photos: Path, trained: Path, cpu: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photos / "val", "images")
    Path("images/odd").mkdir()
    shutil.copy("images/cat/00.jpg", "images/odd/x.jpg")
    Path("images/cat/bad.jpg").write_bytes(b"text")
    options = ["--report", "page.html", "--positive", "cat", "--threshold", "0.25"]
    assert call("predict", str(trained), "images", *options) == 0
    out = capsys.readouterr().out
    values = json.loads(Path("page.json").read_text())
    assert (values["files"], values["labelled"], values["unlabelled"], values["unread"]) == (18, 16, 1, 1)
    assert values["unread_files"] == [{"file": "cat/bad.jpg", "reason": values["unread_files"][0]["reason"]}]
    assert "'odd' (1)" in values["unknown"]
    for sentence in values["summary"][1:]:
        assert sentence in out
    assert "page.html" in out
    assert "page.json" in out
    predictions = list(classify(load_run(trained, cpu), find_labelled([Path("images")]), cpu))
    truth, predicted, _, shares = columns_of(predictions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are never predicted
        f1 = metrics.f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0)
    assert values["macro"]["f1"] == pytest.approx(f1, **EXACT)
    decision = values["positive"]["decisions"][1]
    cat = shares[:, 1] >= 0.25
    assert (decision["tp"], decision["fp"]) == ((cat & (truth == 1)).sum(), (cat & (truth != 1)).sum())
    assert call("predict", str(trained), "images", *options, "-o", "other.csv") == 2
    assert "page.html exists. Choose another place with --report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--report .", "Give a name that ends in .html"),
        ("--report page.pdf", "Give a name that ends in .html"),
        ("--positive cat", "--positive cat is for --report FILE.html"),
        ("--report p.html --threshold 0.9", "--threshold 0.9 is for --positive CLASS"),
        ("--report p.html --positive cat --threshold 97", "97 is not a probability, 0 to 1. Did you mean 0.97?"),
        ("--report p.html --positive cat --threshold nan", "nan is not a probability"),
        ("--report p.html --positive cta", "has no class of this name. Did you mean 'cat'?"),
        ("--report p.html --csv p.json", "p.json would be written twice"),
        ("--report nowhere/x/../p.html --positive 7", "has no class of this name. Its classes are '"),
    ],
)
def test_a_wrong_use_of_the_page_is_one_sentence(
    photos: Path, trained: Path, capsys: pytest.CaptureFixture[str], options: str, message: str
) -> None:
    assert call("predict", str(trained), str(photos / "val/cat"), *options.split()) == 2
    assert message in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_class_is_found_by_its_own_name_or_by_a_readable_one() -> None:
    classes = ["n01440764", "n02012849", "n03126707", "tench"]
    assert find_class("n01440764", classes) == [0]
    assert find_class("tench", classes) == [3], "its own name comes first"
    assert find_class("tench, Tinca tinca", classes) == find_class("Tinca tinca", classes) == [0]
    assert find_class("crane", classes) == [1, 2], "the bird and the machine"
    assert find_class("ten", classes) == []


def test_a_positive_class_needs_labels(photos: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(photos / "val/cat", "odd")
    assert call("predict", str(trained), "odd", "--report", "p.html", "--positive", "cat") == 2
    assert "--positive needs images in folders named like the classes" in capsys.readouterr().err
    assert call("predict", str(trained), "odd", "--report", "p.html") == 0
    assert json.loads(Path("p.json").read_text())["unlabelled"] == 4


# ---- whole images


@pytest.mark.parametrize("size", [(40, 90), (90, 40), (51, 51), (33, 700)])
def test_the_crop_is_the_centre_of_the_whole_image(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for image in (ImageSection(size=32), ImageSection(size=33, interpolation="bilinear", val_crop=1.0)):
        whole, crop = whole_image(pixels, image), centre_crop(pixels, image)
        side = int(image.size / image.val_share)
        assert min(whole.shape[1:]) == side
        assert max(whole.shape[1:]) == int(side * max(size) / min(size))
        top, left = (round((length - image.size) / 2) for length in whole.shape[1:])
        assert torch.equal(whole[:, top : top + image.size, left : left + image.size], crop)
    squashed = whole_image(pixels, ImageSection(size=40, val_crop="squash"))
    assert min(squashed.shape[1:]) == 40
    assert max(squashed.shape[1:]) == int(40 * max(size) / min(size)), "it is never squashed"
    assert whole_image(pixels, ImageSection(size=40, interpolation="area")).shape[1:] == (
        *whole_image(pixels, ImageSection(size=40)).shape[1:],
    )


def test_predict_shows_the_model_whole_images(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    files = find_labelled([photos / "val/cat"])
    whole, crops = (list(classify(run, files, cpu, view=view)) for view in ("whole", "crop"))
    assert all(min(a.view.shape[:2]) > b.view.shape[0] for a, b in zip(whole, crops, strict=True))
    shares = run.model(run.normalise(torch.from_numpy(whole[0].view).permute(2, 0, 1)[None])).softmax(1)[0]
    assert whole[0].probabilities.tolist() == pytest.approx(shares.tolist(), abs=1e-6)
    arguments = ["predict", str(trained), str(photos / "val/cat"), "--view", "whole", "--report", "p.html", "--sheet", "s.html"]
    assert call(*arguments) == 0
    assert json.loads(Path("p.json").read_text())["view"] == "whole"
    assert "whole images, resized" in Path("p.html").read_text()


def test_a_model_of_one_size_refuses_whole_images(photos: Path, trained: Path, cpu: Runtime) -> None:
    class OneSize(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, : 3 * 32 * 32].view(-1, 3 * 32 * 32)[:, :4] if images.shape[3] == 32 else fail()

    def fail() -> Any:
        raise AssertionError("Input width (64) doesn't match model (32).")

    run = replace(load_run(trained, cpu), model=OneSize())
    with pytest.raises(UsageError, match=r"--view whole: .* takes inputs of \d+ by \d+ pixels only. Omit it."):
        list(classify(run, find_labelled([photos / "val/cat"]), cpu, view="whole"))
