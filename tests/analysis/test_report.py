"""The report's model, its page without a browser, and the files beside it: all say the same."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cam_samples import CLASSES, MARKUP, NAMES, QUALITIES, SCRIPT, cam_study
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from jpegcurr.analysis.cam import similarity
from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.cam.results import CamStudy, CamView, ClassRow, Example, ExamplePrediction
from jpegcurr.analysis.cam.similarity import METRICS, Comparison, MapPairs, Metric, compare_views
from jpegcurr.analysis.html.page import to_script
from jpegcurr.analysis.report import model
from jpegcurr.analysis.report.export import write_classes, write_images
from jpegcurr.analysis.report.html import LARGEST, map_pooling, pooled, render, report_files, write_report
from jpegcurr.analysis.report.images import LADDER, distances, embed_pictures
from jpegcurr.analysis.report.model import Report, build_report, run_rows, view_names
from jpegcurr.analysis.report.text import verdict
from jpegcurr.analysis.stats import Paired, accuracy_interval, compare_paired
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.files import read_csv
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import load_run

VOID = ("meta", "img", "input", "br", "link", "hr")


class Page(HTMLParser):
    """A page's elements, the text outside of scripts and styles, and the text of these; every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        self.text += " "
        if tag not in VOID:
            self.open.append(tag)
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside in self.inside:
            self.inside[inside][-1] += data
        else:
            self.text += data

    @property
    def data(self) -> dict[str, Any]:
        data: dict[str, Any] = json.loads(self.inside["script"][0], parse_constant=lambda name: pytest.fail(f"{name}"))
        return data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def study() -> CamStudy:
    return cam_study()


@pytest.fixture(scope="module")
def report(study: CamStudy) -> Report:
    return build_report(study)


@pytest.fixture(scope="module")
def written(study: CamStudy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("written") / "both.v2.html"
    write_report(study, path)
    return path


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text())


def webp(text: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB"))


def unpacked(data: dict[str, Any], grid: list[int]) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(data["cam"]), "<u2").reshape(grid)
    return levels * (data["peak"] / 65535)


def spaced(text: str) -> str:
    return " ".join(text.split())


def test_the_files_are_those_that_are_announced_and_always_the_same(study: CamStudy, written: Path) -> None:
    names = ["both.v2.html", "both.v2.json", "both.v2.views.csv", "both.v2.classes.csv", "both.v2.images.csv"]
    assert report_files(written) == [written.with_name(name) for name in names]
    assert {path.name for path in written.parent.iterdir()} == set(names)
    again = Path("again/both.v2.html")
    write_report(study, again)
    for ours, theirs in zip(report_files(again), report_files(written), strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), ours


def test_nothing_is_fetched_and_nothing_but_the_one_script_may_run(written: Path, page: Page) -> None:
    without_data = written.read_text().replace(page.inside["script"][0], "")
    assert not re.search(r"(https?:)?//[a-z]|@import|url\(", re.sub(r"data:image/webp;base64,[\w+/=]+", "", without_data))
    assert all(image["src"].startswith("data:image/webp;base64,") for image in page.all("img"))
    assert not any({"src", "href"} & attributes.keys() for tag, attributes in page.elements if tag not in ("img", "a"))
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    (_, script) = page.inside["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert [tag.get("type") for tag in page.all("script")] == ["application/json", None]


def test_without_the_script_the_page_says_what_the_study_says(
    study: CamStudy, report: Report, written: Path, page: Page
) -> None:
    text, words = written.read_text(), spaced(page.text)
    for sentence in (*report.summary, *report.verdict):
        assert sentence in words
    for row in report.rows:
        assert f'<th scope="row">{row.name}</th>' in text
        for view in row.views.values():
            right = int(study.right(view).sum())
            low, high = accuracy_interval(right, 24)
            assert f">{100 * right / 24:.1f}<small>{low:.1f} to {high:.1f}</small></td>" in text, (row, view)
    for _, comparison in report.compared:
        pearson = comparison.metrics["pearson"]
        assert f"<td>{pearson.mean:.2f}<small>{pearson.low:.2f} to {pearson.high:.2f}</small></td>" in text
        for part, mean in (("prediction changed", pearson.flipped), ("prediction kept", pearson.unflipped)):
            assert f'<th scope="row">{part}</th><td>{mean.mean:.2f}</td>' in text
    for anchor in ("the same images at quality 95", "another image of the same class"):
        assert f'<tr class="anchor"><th scope="row">{anchor}</th>' in text
    road = study.columns[1].faithfulness["road"]
    assert f"<td>{np.nanmean(road):+.3f}<small>" in text
    for row in report.classes:
        before, after = (100 * right / row.images for right in row.right[:2])
        cells = f"<td>{row.images}</td><td>{before:.1f}</td><td>{after:.1f}</td><td>{after - before:+.1f}</td>"
        assert f"{cells}<td>{row.flips[1]}</td><td>{row.pearson[1]:.2f}</td></tr>" in text
    assert text.count("<svg ") == 6, "each chart is there for a phone too"
    assert {f"image-{number}" for number in range(8)} == {tag["id"] for tag in page.all("article")}
    assert page.all("noscript")
    assert all(f"{100 * share:.1f} %" in words for example in study.examples for _, share in example.predictions[0].top)
    hidden = {attributes["id"] for _, attributes in page.elements if "hidden" in attributes}
    assert hidden == {"controls", "classes-control"}, "what does nothing without the script is not shown"


def test_the_page_says_where_it_comes_from(page: Page) -> None:
    text = spaced(page.text)
    for words in (
        "runs/restart_only, raw weights, SHA-256 bbbbbbbbbbbb",
        "Layer stages.3",
        "Grid 4x5 cells",
        "Method Grad-CAM, raw",
        "Class explained each image's prediction in the first view",
        "Decoder libjpeg's accurate DCT",
        "Encoder OpenCV's libjpeg",
        "Baseline maps of another image of the same class, both in two_phase, source",
        "Seed 0",
        "Images 24 of 25, 24 of them of a known class",
        "Command jpegcurr",
        "Versions jpegcurr",
        "stored exactly: the best that keeps this page under 10 MB",
    ):
        assert words in text
    assert {"a" * 64, "b" * 64} == {tag["title"] for tag in page.all("code")}


def test_names_cannot_be_markup(study: CamStudy, written: Path, page: Page) -> None:
    text = written.read_text()
    assert MARKUP in page.text
    assert SCRIPT in page.text
    assert "onerror=alert" in text
    assert "<img src=x" not in text
    assert len(page.all("script")) == 2
    assert not set("<>&\u2028\u2029") & set(page.inside["script"][0])
    assert page.data["examples"][0]["name"] == MARKUP
    assert SCRIPT in page.data["classes"]
    assert "\u202e" not in text, "a name may not turn the text around"
    assert "bytes\N{REPLACEMENT CHARACTER}.jpg" in shown_names(replace(study, examples=study.examples[:1]), 3)


def shown_names(study: CamStudy, index: int) -> str:
    moved = replace(study, examples=tuple(replace(example, index=index) for example in study.examples))
    return Page(render(build_report(moved))).text


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_text_comes_back_from_a_script_element(value: Any) -> None:
    text = to_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_maps_and_predictions_in_the_page_are_the_studys(study: CamStudy, report: Report, page: Page) -> None:
    data = page.data
    assert data["views"] == list(view_names(report.rows))
    assert data["grid"] == [4, 5]
    for example, given_ in zip(study.examples, data["examples"], strict=True):
        assert given_["rules"] == list(example.rules)
        assert data["classes"][given_["truth"]].startswith(CLASSES[study.truth[example.index]])
        for prediction, shown in zip(example.predictions, given_["predictions"], strict=True):
            exact = prediction.cam
            assert np.allclose(unpacked(shown, data["grid"]), exact, atol=1e-4 * max(1e-9, float(exact.max())))
            names = [data["classes"][name].split()[0] for name, _ in shown["top"]]
            assert names == [name.split()[0] for name, _ in prediction.top]
            assert shown["logit"] == pytest.approx(prediction.logit, abs=1e-4)
    assert [row["right"] for row in data["rows"]] == [list(row.right) for row in report.classes]


def test_pictures_are_the_first_quality_and_exactly_what_others_change(study: CamStudy, page: Page) -> None:
    sources = [image["src"].split(",")[1] for image in page.all("img")]
    for example, source, shown in zip(study.examples, sources, page.data["examples"], strict=True):
        first = example.pictures["source"].astype(int)
        assert np.abs(webp(source) - first).mean() < 8
        assert len(shown["changes"]) == len(QUALITIES) - 1
        for quality, (strength, change) in zip(QUALITIES[1:], shown["changes"], strict=True):
            difference = (webp(change).astype(int) - 128) * strength / 8
            assert np.array_equal(difference, np.clip(example.pictures[quality] - first, -128, 127))
        apart = np.sqrt(np.mean((example.pictures["q10"].astype(float) - example.pictures["q50"]) ** 2))
        assert shown["rms"][2][1] == pytest.approx(apart, abs=1e-3)


def test_the_best_pictures_that_fit_are_taken(study: CamStudy) -> None:
    whole = embed_pictures(study.examples, QUALITIES, 10**9)
    assert (whole.level, whole.fits) == (LADDER[0], True)
    sizes = []
    for share in (2, 5, 12):
        room = sum(picture.size for picture in whole.pictures) // share
        embedded = embed_pictures(study.examples, QUALITIES, room)
        sizes.append(sum(picture.size for picture in embedded.pictures))
        assert embedded.fits
        assert sizes[-1] <= room
        better = LADDER[LADDER.index(embedded.level) - 1]
        assert embedded.level.picture <= better.picture or embedded.level.shrink > better.shrink
        assert embed_pictures(study.examples, QUALITIES, room) == embedded
    assert sizes == sorted(sizes, reverse=True)
    none = embed_pictures(study.examples, QUALITIES, 10)
    assert (none.level, none.fits) == (LADDER[-1], False)
    assert webp(none.pictures[0].webp).shape == (16, 16, 3)


@pytest.mark.parametrize(("change", "strength"), [(8, 1), (25, 2), (60, 4), (90, 4)])
def test_a_difference_is_amplified_as_far_as_it_goes(change: int, strength: int) -> None:
    """Lossy ones are, so that WebP's own errors weigh less."""
    flat = np.full((32, 32, 3), 100, np.uint8)
    pictures = {"source": flat, "q50": flat + np.uint8(change)}
    example = Example(0, ("random",), pictures, ())
    noise = replace(
        example, pictures=dict(zip(pictures, np.random.default_rng(0).integers(0, 255, (2, 32, 32, 3), np.uint8), strict=True))
    )
    examples = [noise, example]
    exact = embed_pictures(examples, ("source", "q50"), 10**6)
    assert exact.level.difference is None
    lossy = embed_pictures(examples, ("source", "q50"), sum(picture.size for picture in exact.pictures) - 1)
    assert lossy.level.difference is not None
    (difference,) = lossy.pictures[1].differences
    assert difference.strength == strength
    expected = min(change, 127 * strength / 8)
    assert np.abs((webp(difference.webp).astype(int) - 128) * strength / 8 - expected).max() <= strength / 4
    assert distances(example, ("source", "q50")) == [[], [change]]


def test_a_page_of_many_large_maps_keeps_means_of_cells(study: CamStudy) -> None:
    large = replace(study, grid=(56, 56))
    assert map_pooling(study) == 1
    assert map_pooling(large) == 1
    many = replace(large, examples=study.examples * 40)
    factor = map_pooling(many)
    assert factor > 1
    assert len(many.examples) * len(many.views) * (-(-56 // factor)) ** 2 * 8 / 3 < LARGEST / 5


@given(
    arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.floats(0, 8, width=32)), st.integers(1, 4)
)
def test_pooled_cells_are_means(cam: np.ndarray, factor: int) -> None:
    means = pooled(cam, factor)
    for row in range(means.shape[0]):
        for column in range(means.shape[1]):
            block = cam[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert means[row, column] == pytest.approx(block.mean(), rel=1e-4, abs=1e-5)


def test_the_json_has_everything(study: CamStudy, report: Report, written: Path) -> None:
    text = written.with_suffix(".json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["schema_version"] == 3
    assert (content["summary"], content["verdict"]) == (list(report.summary), list(report.verdict))
    assert [view["sha256"][0] for view in content["views"]] == ["a"] * 3 + ["b"] * 3
    for entry, (_, comparison) in zip(content["comparisons"], report.compared, strict=True):
        assert entry["figures"]["pearson"]["mean"] == pytest.approx(comparison.metrics["pearson"].mean, rel=1e-9)
        assert entry["figures"]["jsd"]["flipped"]["mean"] == pytest.approx(comparison.metrics["jsd"].flipped.mean, rel=1e-9)
        assert entry["p_value"] == pytest.approx(comparison.p_value, rel=1e-9)
        assert comparison.paired is not None
        assert (entry["low"], entry["high"]) == pytest.approx((comparison.paired.low, comparison.paired.high), rel=1e-9)
    assert content["comparisons"][0]["figures"]["logit_change"]["null"]["mean"] is None
    assert [row["right"] for row in content["classes"]] == [list(row.right) for row in report.classes]
    assert content["skipped"] == [{"file": f"bad/{MARKUP}", "reason": "not an image that Pillow can read"}]
    assert content["provenance"]["Layer"] == "stages.3"
    for entry, example in zip(content["examples"], study.examples, strict=True):
        assert entry["rules"] == list(example.rules)
        for written_, prediction in zip(entry["seen"], example.predictions, strict=True):
            assert np.array_equal(np.array(written_["cam"], np.float32), prediction.cam)
            assert written_["target"] == prediction.target
    assert content["views"][1]["right"] == study.right(1).sum()


def test_bytes_are_in_the_table_the_chart_and_the_files(study: CamStudy, page: Page, written: Path) -> None:
    assert [study.jpegs[name].mean for name in ("source", "q50", "q10")] == [90_000, 30_000, 18_000]
    assert "kB an image 90.0 4.00 bits a pixel 30.0 1.33 bits a pixel 18.0 0.80 bits a pixel" in spaced(page.text)
    assert any(attributes.get("aria-label") == "accuracy by bytes, as a curve" for attributes in page.all("div"))
    content = json.loads(written.with_suffix(".json").read_text())
    assert [view["bytes_per_image"] for view in content["views"]] == 2 * [90_000, 30_000, 18_000]
    assert [row["bytes"] for row in rows_of(written.with_suffix(".views.csv"))] == 2 * ["2160000", "720000", "432000"]
    without = cam_study(runs=["a"])
    page_without = Page(render(build_report(replace(without, jpegs={}))))
    assert "kB an image" not in page_without.text


def rows_of(path: Path) -> list[dict[str, str]]:
    head, *rows = read_csv(path)
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_a_row_for_every_view(study: CamStudy, report: Report, written: Path) -> None:
    rows = rows_of(written.with_suffix(".views.csv"))
    assert len(rows) == 6
    assert rows[0]["pearson"] == rows[0]["flips"] == ""
    for view, (row, (_, comparison)) in enumerate(zip(rows[1:], report.compared, strict=True), 1):
        assert (row["run"], row["quality"]) == (str(study.views[view].run), study.views[view].quality)
        assert int(row["right"]) == study.right(view).sum()
        assert (int(row["flips"]), int(row["lost"]), int(row["gained"])) == (
            comparison.flips,
            comparison.lost,
            comparison.gained,
        )
        assert float(row["accuracy_low"]) == pytest.approx(accuracy_interval(comparison.right, 24)[0])
        assert float(row["p_value"]) == pytest.approx(comparison.p_value)
        pair = comparison.paired
        assert pair is not None
        interval = [float(row[name]) for name in ("difference", "difference_low", "difference_high")]
        assert interval == pytest.approx([pair.difference, pair.low, pair.high], rel=1e-6)
        assert float(row["road"]) == pytest.approx(np.nanmean(study.columns[view].faithfulness["road"]), rel=1e-5)
        for name in METRICS:
            metric = comparison.metrics[name]
            expected = {"": metric.mean, "_low": metric.low, "_high": metric.high, "_flipped": metric.flipped.mean}
            for suffix, value in expected.items():
                assert float(row[f"{name}{suffix}"]) == pytest.approx(value, rel=1e-5)
            assert int(row[f"{name}_images"]) == 23, "one has dark maps"
    assert rows[1]["logit_change_null"] == ""


def test_a_row_for_every_class_and_view(study: CamStudy, report: Report, written: Path) -> None:
    rows = rows_of(written.with_suffix(".classes.csv"))
    expected = [
        (row.name, row.images, view.quality, row.right[index], row.flips[index])
        for row in report.classes
        for index, view in enumerate(study.views)
    ]
    assert [(r["class"], int(r["images"]), r["quality"], int(r["right"]), int(r["flips"])) for r in rows] == expected
    assert rows[0]["pearson"] == "", "the first view is not compared with itself"
    empty = ClassRow("none", 0, (0,) * 6, (0,) * 6, (float("nan"),) * 6)
    write_classes(replace(report, classes=(empty,)), Path("empty.csv"))
    assert rows_of(Path("empty.csv"))[0]["accuracy"] == ""


def test_a_row_for_every_image_and_view(study: CamStudy, written: Path) -> None:
    rows = rows_of(written.with_suffix(".images.csv"))
    assert [row["image"] for row in rows[:: len(study.views)]] == list(study.names)
    assert rows[0]["image"] == NAMES[0]
    for number, row in enumerate(rows):
        image, view = divmod(number, len(study.views))
        columns = study.columns[view]
        assert row["predicted"] == CLASSES[columns.predicted[image]]
        assert row["truth"] == CLASSES[study.truth[image]]
        assert float(row["logit"]) == pytest.approx(columns.logit[image], rel=1e-5)
        pearson = columns.similarity["pearson"][image]
        assert row["pearson"] == ("" if np.isnan(pearson) else f"{pearson:.7g}")
    unknown = cam_study(3000, 2, labelled=False, size=16)
    write_images(build_report(unknown), Path("many.csv"))
    many = rows_of(Path("many.csv"))
    assert len(many) == 6 * 3000, "more than are written at a time"
    assert {row["truth"] for row in many} == {""}
    assert many[-1]["image"] == unknown.names[-1]


def test_a_study_without_labels_says_nothing_of_accuracy() -> None:
    study = cam_study(labelled=False)
    write_report(study, Path("report.html"))
    page = Page(Path("report.html").read_text())
    assert "Accuracy" not in page.text
    assert "By class" not in page.text
    assert "another image" in page.text
    views = rows_of(Path("report.views.csv"))
    assert views[1]["accuracy"] == views[1]["lost"] == views[1]["p_value"] == views[1]["right"] == ""
    assert views[1]["flips"] != ""
    assert rows_of(Path("report.classes.csv")) == []
    assert json.loads(Path("report.json").read_text())["classes"] == []


def test_one_view_has_nothing_to_compare() -> None:
    study = cam_study(runs=("runs/one",), qualities=("source",))
    assert write_report(study, Path("report.html")).compared == ()
    page = Page(Path("report.html").read_text())
    assert "One view of 24 images: nothing to compare. Give more --qualities or runs." in page.text
    assert "Similarity of the maps" not in page.text
    assert "By class" in page.text


def comparison(**changes: Any) -> Comparison:
    """Return a comparison of views with these fields, and with these fields of its test."""
    (comparison, *_) = compare_views(cam_study(size=16))
    assert comparison.paired
    of_test = {name: changes.pop(name) for name in Paired.__slots__ if name in changes}
    return replace(comparison, **changes, paired=replace(comparison.paired, **of_test))


def test_the_verdict_is_as_strong_as_the_test() -> None:
    names = ("source", "q50")
    counts: dict[str, Any] = {"labelled": 24, "right": 12, "right_reference": 12, "flips": 3}
    counts |= {"difference": 0.0, "low": -14.9, "high": 14.9}
    compared = comparison(p_value=0.5, detectable=12.3, lost=1, gained=1, **counts)
    (sentence,) = verdict(names, 24, [compared])
    pearson = compared.metrics["pearson"]
    assert sentence.startswith(
        "source to q50: 3 of 24 predictions change; the maps of 23 of the 24 images (where neither map is constant) have a "
        f"mean correlation of {pearson.mean:.2f} (those of the {pearson.flipped.images} with a changed prediction: "
        f"{pearson.flipped.mean:.2f}; maps of another image of the same class: {pearson.baseline.mean:.2f}). Accuracy"
    )
    everywhere = replace(compared, metrics={**compared.metrics, "pearson": replace(pearson, images=24)})
    assert "; the maps of all 24 images have a mean" in verdict(names, 24, [everywhere])[0]
    nowhere = replace(compared, metrics={**compared.metrics, "pearson": replace(pearson, images=0)})
    assert "change; no image's maps have a correlation: they are constant. Acc" in verdict(names, 24, [nowhere])[0]
    assert sentence.endswith(
        "no detectable difference (+0.0 points, 95 % -14.9 to +14.9; lost 1, gained 1; "
        "a difference of 12.3 points or more would show)."
    )
    (sentence,) = verdict(names, 24, [comparison(p_value=0.5, detectable=120.0, **counts)])
    assert sentence.endswith("24 labelled images: too few to show any difference.")
    (sentence,) = verdict(names, 24, [comparison(p_value=0.012, lost=9, gained=1, **counts)])
    assert sentence.endswith("(+0.0 points, 95 % -14.9 to +14.9; lost 9, gained 1; McNemar's p = 0.012).")
    (sentence,) = verdict(names, 24, [comparison(p_value=0.0, **counts)])
    assert sentence.endswith("McNemar's p < 1e-300)."), "a p-value that is too small for a float is no 0"
    (sentence,) = verdict(names, 24, [comparison(**{**counts, "labelled": 0})])
    assert "Accuracy" not in sentence


def test_a_reader_is_warned_of_what_is_missing_or_coarse(study: CamStudy, report: Report) -> None:
    skipped, converted, dark, coarse = report.warnings
    assert converted == (
        "At source, 1 of 24 images is a JPEG of quality 95, 4:4:4, made of the file as jpegcurr encode stores it: the file is "
        f"no upright JPEG in RGB or grey ({MARKUP})."
    )
    assert skipped == f"1 file could not be read and is left out (bad/{MARKUP}: not an image that Pillow can read)."
    assert dark.startswith("6 of 144 maps are zero everywhere")
    assert "only 4x5 cells" in coarse
    fine = replace(study, grid=(7, 7), skipped=(("x", "y"),) * 9, available=500)
    skipped, limit, *_ = build_report(fine).warnings
    assert skipped == "9 files could not be read and are left out (x: y; x: y; x: y; x: y; x: y; ...)."
    assert limit == "24 evenly spaced images of 500 are compared (--limit)."


def test_a_metric_is_one_line_and_reaches_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def brightness(pairs: MapPairs) -> np.ndarray:
        return (pairs.cells[1] - pairs.cells[0]).mean(axis=1)

    metric = Metric(brightness, "brightness, mean", "change of the mean cell (0)", digits=4, signed=True)
    monkeypatch.setitem(METRICS, "brightness", metric)
    report = write_report(cam_study(), Path("report.html"))
    (_, first), *_ = report.compared
    mean = first.metrics["brightness"].mean
    text = Path("report.html").read_text()
    assert '<th scope="col">brightness, mean</th>' in text
    assert f"<td>{mean:+.4f}<small>" in text
    assert f"<td>{report.anchors['the same images at quality 95']['brightness'].mean:+.4f}<small>" in text
    assert "brightness, mean: change of the mean cell (0)" in spaced(Page(text).text)
    assert rows_of(Path("report.views.csv"))[1]["brightness"] == f"{mean:.7g}"
    image = rows_of(Path("report.images.csv"))[1]
    assert image["brightness"] == f"{report.study.columns[1].similarity['brightness'][0]:.7g}"
    content = json.loads(Path("report.json").read_text())
    assert content["comparisons"][0]["figures"]["brightness"]["mean"] == pytest.approx(mean, rel=1e-9)


def test_every_pair_of_views_is_tested_once(study: CamStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five views with the first, the second run's two qualities with its source, and both runs at two qualities."""
    tested: list[tuple[bytes, bytes]] = []

    def count(reference: np.ndarray, other: np.ndarray) -> Paired:
        tested.append((reference.tobytes(), other.tobytes()))
        return compare_paired(reference, other)

    for module in (model, similarity):
        monkeypatch.setattr(module, "compare_paired", count)
    write_report(study, Path("report.html"))
    assert len(tested) == len(set(tested)) == 5 + 2 + 2


@pytest.mark.parametrize(
    ("views", "names"),
    [
        ([("a/x", "raw"), ("b/y", "raw")], ["x, source", "x, q50", "y, source", "y, q50"]),
        ([("a/x", "raw"), ("b/x", "raw")], ["a/x, source", "a/x, q50", "b/x, source", "b/x, q50"]),
        ([("r/s/a/x", "raw"), ("r/s/b/x", "raw")], ["a/x, source", "a/x, q50", "b/x, source", "b/x, q50"]),
        ([("x", "raw"), ("b/x", "raw")], ["x, source", "x, q50", "b/x, source", "b/x, q50"]),
        ([("a/x", "raw"), ("a/x", "ema")], ["x (raw), source", "x (raw), q50", "x (ema), source", "x (ema), q50"]),
        ([("a/x", "raw"), ("a/x", "raw")], ["x, source", "x, q50", "x #2, source", "x #2, q50"]),
        ([("a/x", "ema")], ["source", "q50"]),
    ],
)
def test_views_have_names_of_their_own(study: CamStudy, views: list[tuple[str, str]], names: list[str]) -> None:
    all_views = tuple(CamView(Path(run), weights, quality) for run, weights in views for quality in ("source", "q50"))
    assert list(view_names(run_rows(replace(study, views=all_views)))) == names


def test_values_that_are_not_finite_are_drawn_as_nothing(study: CamStudy) -> None:
    """float16 overflows."""
    broken = ExamplePrediction((("grass", 1.0),), float("nan"), np.full((4, 5), np.nan, np.float32), "grass")
    example = replace(study.examples[0], predictions=(broken,) * len(study.views))
    odd = replace(study, examples=(example,))
    write_report(odd, Path("report.html"))
    shown = Page(Path("report.html").read_text()).data["examples"][0]["predictions"][0]
    assert (shown["peak"], shown["logit"]) == (0, None)
    assert json.loads(Path("report.json").read_text())["examples"][0]["seen"][0]["cam"][0][0] is None


def test_a_study_of_a_trained_run_becomes_a_page(photos: Path, trained: Path, cpu: Runtime) -> None:
    specs = [EncodeSpec("source"), EncodeSpec(50), EncodeSpec(5)]
    study = compare_cams([load_run(trained, cpu)], photos / "val", specs, cpu, layer="stages.1", limit=10)
    report = write_report(study, Path("out/report.html"))
    text = Path("out/report.html").read_text()
    page = Page(text)
    assert len(page.data["examples"]) == len(page.all("img")) == len(study.examples)
    for _, comparison in report.compared:
        pearson = comparison.metrics["pearson"]
        assert f"<td>{pearson.mean:.2f}<small>{pearson.low:.2f} to {pearson.high:.2f}</small></td>" in text
    assert study.views[0].sha256[:12] in page.text
    assert "10 evenly spaced images of 16 are compared" in page.text
