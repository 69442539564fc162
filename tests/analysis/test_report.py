"""The page without a browser, and the files beside it: what stands in them is what the study says."""

import base64
import csv
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

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.cam.results import FIGURES, CamStudy, CamView, ClassRow, Example, ExamplePrediction
from jpegcurr.analysis.cam.similarity import Comparison, by_class, compare_views
from jpegcurr.analysis.report.data import map_pooling, pooled, to_script
from jpegcurr.analysis.report.export import write_classes, write_images
from jpegcurr.analysis.report.html import LARGEST, render, report_files, write_report
from jpegcurr.analysis.report.images import LADDER, distances, embed_pictures
from jpegcurr.analysis.report.text import verdict, warnings
from jpegcurr.analysis.report.views import arms, view_names
from jpegcurr.analysis.stats import accuracy_interval
from jpegcurr.encoding.jpeg.codec import EncodeSpec
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
        found: dict[str, Any] = json.loads(self.inside["script"][0], parse_constant=lambda name: pytest.fail(f"{name}"))
        return found

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def study() -> CamStudy:
    return cam_study()


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


def unpacked(seen: dict[str, Any], grid: list[int]) -> np.ndarray:
    levels = np.frombuffer(base64.b64decode(seen["cam"]), "<u2").reshape(grid)
    return levels * (seen["peak"] / 65535)


def spaced(text: str) -> str:
    return " ".join(text.split())


def test_the_files_are_those_that_are_told_and_always_the_same(study: CamStudy, written: Path) -> None:
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
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    (_, script) = page.inside["script"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy
    assert [each.get("type") for each in page.all("script")] == ["application/json", None]


def test_without_the_script_the_page_says_what_the_study_says(study: CamStudy, written: Path, page: Page) -> None:
    text, said = written.read_text(), spaced(page.text)
    comparisons = compare_views(study)
    for sentence in verdict(study, comparisons):
        assert sentence in said
    for row, arm in enumerate(arms(study)):
        assert f'<th scope="row">{arm.name}</th>' in text
        for view in arm.views.values():
            right = int(study.right(view).sum())
            low, high = accuracy_interval(right, 24)
            assert f"<td>{100 * right / 24:.1f}<small>{low:.1f} to {high:.1f}</small></td>" in text, (row, view)
    for each in comparisons:
        found = each.figures["pearson"]
        assert f"<td>{found.mean:.2f}<small>{found.low:.2f} to {found.high:.2f}</small></td>" in text
        for part, of in (("prediction changed", found.flipped), ("prediction kept", found.unflipped)):
            assert f'<th scope="row">{part}</th><td>{of.mean:.2f}</td>' in text
    for anchor in ("the same images at quality 95", "another image of the same class"):
        assert f'<tr class="anchor"><th scope="row">{anchor}</th>' in text
    road = study.columns[1].faithfulness["road"]
    assert f"<td>{np.nanmean(road):+.3f}<small>" in text
    for row in by_class(study):
        before, after = (100 * right / row.images for right in row.right[:2])
        cells = f"<td>{row.images}</td><td>{before:.1f}</td><td>{after:.1f}</td><td>{after - before:+.1f}</td>"
        assert f"{cells}<td>{row.flips[1]}</td><td>{row.pearson[1]:.2f}</td></tr>" in text
    assert text.count("<svg ") == 2
    assert {f"image-{number}" for number in range(8)} == {each["id"] for each in page.all("article")}
    assert page.all("noscript")
    assert all(f"{100 * share:.1f} %" in said for example in study.examples for _, share in example.seen[0].top)
    hidden = {each["id"] for _, each in page.elements if "hidden" in each}
    assert hidden == {"controls", "classes-control"}, "what does nothing without the script is not shown"


def test_the_page_says_where_it_comes_from(page: Page) -> None:
    said = spaced(page.text)
    for words in (
        "runs/restart_only, raw weights, SHA-256 bbbbbbbbbbbb",
        "Layer stages.3",
        "Grid 4x5 cells",
        "Method Grad-CAM, raw",
        "Class explained each image's prediction in the first view",
        "Decoder libjpeg's accurate DCT",
        "Encoder OpenCV's libjpeg",
        "Null maps of another image of the same class, both in two_phase, source",
        "Seed 0",
        "Images 24 of 25, 24 of them labelled",
        "Command jpegcurr",
        "Versions jpegcurr",
        "kept exactly: the best that keeps this page under 10 MB",
    ):
        assert words in said
    assert {"a" * 64, "b" * 64} == {each["title"] for each in page.all("code")}


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
    moved = replace(study, examples=tuple(replace(each, index=index) for each in study.examples))
    return Page(render(moved, compare_views(moved), by_class(moved))).text


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_text_comes_back_from_a_script_element(value: Any) -> None:
    text = to_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_maps_and_predictions_in_the_page_are_the_studys(study: CamStudy, page: Page) -> None:
    data = page.data
    assert data["views"] == list(view_names(study))
    assert data["grid"] == [4, 5]
    for example, given_ in zip(study.examples, data["examples"], strict=True):
        assert given_["rules"] == list(example.rules)
        assert data["classes"][given_["truth"]].startswith(CLASSES[study.truth[example.index]])
        for seen, told in zip(example.seen, given_["seen"], strict=True):
            assert np.allclose(unpacked(told, data["grid"]), seen.cam, atol=1e-4 * max(1e-9, float(seen.cam.max())))
            assert [data["classes"][name].split()[0] for name, _ in told["top"]] == [name.split()[0] for name, _ in seen.top]
            assert told["logit"] == pytest.approx(seen.logit, abs=1e-4)
    assert [row["right"] for row in data["rows"]] == [list(row.right) for row in by_class(study)]


def test_pictures_are_the_first_quality_and_exactly_what_others_change(study: CamStudy, page: Page) -> None:
    sources = [image["src"].split(",")[1] for image in page.all("img")]
    for example, source, told in zip(study.examples, sources, page.data["examples"], strict=True):
        first = example.pictures["source"].astype(int)
        assert np.abs(webp(source) - first).mean() < 8
        assert len(told["changes"]) == len(QUALITIES) - 1
        for quality, (strength, change) in zip(QUALITIES[1:], told["changes"], strict=True):
            found = (webp(change).astype(int) - 128) * strength / 8
            assert np.array_equal(found, np.clip(example.pictures[quality] - first, -128, 127))
        apart = np.sqrt(np.mean((example.pictures["q10"].astype(float) - example.pictures["q50"]) ** 2))
        assert told["rms"][2][1] == pytest.approx(apart, abs=1e-3)


def test_the_best_pictures_that_fit_are_taken(study: CamStudy) -> None:
    whole = embed_pictures(study.examples, QUALITIES, 10**9)
    assert (whole.rung, whole.fits) == (LADDER[0], True)
    sizes = []
    for share in (2, 5, 12):
        room = sum(each.size for each in whole.pictures) // share
        found = embed_pictures(study.examples, QUALITIES, room)
        sizes.append(sum(each.size for each in found.pictures))
        assert found.fits
        assert sizes[-1] <= room
        better = LADDER[LADDER.index(found.rung) - 1]
        assert found.rung.picture <= better.picture or found.rung.shrink > better.shrink
        assert embed_pictures(study.examples, QUALITIES, room) == found
    assert sizes == sorted(sizes, reverse=True)
    none = embed_pictures(study.examples, QUALITIES, 10)
    assert (none.rung, none.fits) == (LADDER[-1], False)
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
    several = [noise, example]
    exact = embed_pictures(several, ("source", "q50"), 10**6)
    assert exact.rung.difference is None
    found = embed_pictures(several, ("source", "q50"), sum(each.size for each in exact.pictures) - 1)
    assert found.rung.difference is not None
    (difference,) = found.pictures[1].differences
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
    found = pooled(cam, factor)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            block = cam[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            assert found[row, column] == pytest.approx(block.mean(), rel=1e-4, abs=1e-5)


def test_the_figures_for_machines_have_everything(study: CamStudy, written: Path) -> None:
    text = written.with_suffix(".json").read_text()
    figures = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    comparisons = compare_views(study)
    assert figures["schema_version"] == 3
    assert figures["verdict"] == verdict(study, comparisons)
    assert [view["sha256"][0] for view in figures["views"]] == ["a"] * 3 + ["b"] * 3
    for told, each in zip(figures["comparisons"], comparisons, strict=True):
        assert told["figures"]["pearson"]["mean"] == each.mean["pearson"]
        assert told["figures"]["jsd"]["flipped"]["mean"] == each.figures["jsd"].flipped.mean
        assert told["p_value"] == each.p_value
    assert figures["comparisons"][0]["figures"]["logit_change"]["null"]["mean"] is None
    assert [row["right"] for row in figures["classes"]] == [list(row.right) for row in by_class(study)]
    assert figures["skipped"] == [{"file": f"bad/{MARKUP}", "reason": "not an image that Pillow can read"}]
    assert figures["provenance"]["Layer"] == "stages.3"
    for told, example in zip(figures["examples"], study.examples, strict=True):
        assert told["rules"] == list(example.rules)
        for seen, one in zip(told["seen"], example.seen, strict=True):
            assert np.array_equal(np.array(seen["cam"], np.float32), one.cam)
            assert seen["target"] == one.target
    assert figures["views"][1]["right"] == study.right(1).sum()


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_for_every_view(study: CamStudy, written: Path) -> None:
    rows = rows_of(written.with_suffix(".views.csv"))
    comparisons = compare_views(study)
    assert len(rows) == 6
    assert rows[0]["pearson"] == rows[0]["flips"] == ""
    for view, (row, each) in enumerate(zip(rows[1:], comparisons, strict=True), 1):
        assert (row["run"], row["quality"]) == (str(study.views[view].run), study.views[view].quality)
        assert int(row["right"]) == study.right(view).sum()
        assert (int(row["flips"]), int(row["lost"]), int(row["gained"])) == (each.flips, each.lost, each.gained)
        assert float(row["accuracy_low"]) == pytest.approx(accuracy_interval(each.right, 24)[0])
        assert float(row["p_value"]) == pytest.approx(each.p_value)
        assert float(row["road"]) == pytest.approx(np.nanmean(study.columns[view].faithfulness["road"]), rel=1e-5)
        for name in FIGURES:
            found = each.figures[name]
            expected = {"": found.mean, "_low": found.low, "_high": found.high, "_flipped": found.flipped.mean}
            for suffix, value in expected.items():
                assert float(row[f"{name}{suffix}"]) == pytest.approx(value, rel=1e-5)
            assert int(row[f"{name}_images"]) == 23, "one has dark maps"
    assert rows[1]["logit_change_null"] == ""


def test_a_row_for_every_class_and_view(study: CamStudy, written: Path) -> None:
    rows = rows_of(written.with_suffix(".classes.csv"))
    expected = [
        (row.name, row.images, view.quality, row.right[index], row.flips[index])
        for row in by_class(study)
        for index, view in enumerate(study.views)
    ]
    assert [(r["class"], int(r["images"]), r["quality"], int(r["right"]), int(r["flips"])) for r in rows] == expected
    assert rows[0]["pearson"] == "", "the first view is not compared with itself"
    empty = ClassRow("none", 0, (0,) * 6, (0,) * 6, (float("nan"),) * 6)
    write_classes(study, [empty], Path("empty.csv"))
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
        pearson = columns.figures[image, 0]
        assert row["pearson"] == ("" if np.isnan(pearson) else f"{pearson:.7g}")
    unknown = cam_study(3000, 2, labelled=False, size=16)
    write_images(unknown, Path("many.csv"))
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
    assert write_report(study, Path("report.html")) == []
    page = Page(Path("report.html").read_text())
    assert "One view of 24 images: nothing to compare. Give more --qualities or runs." in page.text
    assert "How alike" not in page.text
    assert "By class" in page.text


def comparison(**changes: Any) -> Comparison:
    (found, *_) = compare_views(cam_study(size=16))
    return replace(found, **changes)


def test_the_verdict_is_as_strong_as_the_test() -> None:
    study = cam_study(runs=("runs/one",), qualities=("source", "q50"))
    counts = {"labelled": 24, "right": 12, "right_reference": 12, "flips": 3}
    (said,) = verdict(study, [comparison(p_value=0.5, detectable=12.3, lost=1, gained=1, **counts)])
    assert said.startswith("source to q50: 3 of 24 predictions change; their maps correlate 0.")
    assert said.endswith("no detectable difference (lost 1, gained 1; a difference of 12.3 points or more would show).")
    (said,) = verdict(study, [comparison(p_value=0.5, detectable=120.0, **counts)])
    assert said.endswith("24 labelled images: too few to show any difference.")
    (said,) = verdict(study, [comparison(p_value=0.012, lost=9, gained=1, **counts)])
    assert said.endswith("(lost 9, gained 1; McNemar's p = 0.012).")
    (said,) = verdict(study, [comparison(**{**counts, "labelled": 0})])
    assert "Accuracy" not in said


def test_a_reader_is_warned_of_what_is_missing_or_coarse(study: CamStudy) -> None:
    skipped, dark, coarse = warnings(study)
    assert skipped == f"1 file could not be read, and left out (bad/{MARKUP}: not an image that Pillow can read)."
    assert dark.startswith("6 of 144 maps are zero everywhere")
    assert "only 4x5 cells" in coarse
    fine = replace(study, grid=(7, 7), skipped=(("x", "y"),) * 9, found=500)
    skipped, limit, _ = warnings(fine)
    assert skipped == "9 files could not be read, and left out (x: y; x: y; x: y; x: y; x: y; ...)."
    assert limit == "24 evenly spaced images of 500 are counted (--limit)."


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
def test_views_are_told_apart(study: CamStudy, views: list[tuple[str, str]], names: list[str]) -> None:
    all_views = tuple(CamView(Path(run), weights, quality) for run, weights in views for quality in ("source", "q50"))
    several = replace(study, views=all_views)
    assert list(view_names(several)) == names


def test_what_is_not_finite_is_drawn_as_nothing(study: CamStudy) -> None:
    """float16 overflows."""
    broken = ExamplePrediction((("grass", 1.0),), float("nan"), np.full((4, 5), np.nan, np.float32), "grass")
    example = replace(study.examples[0], seen=(broken,) * len(study.views))
    odd = replace(study, examples=(example,))
    write_report(odd, Path("report.html"))
    seen = Page(Path("report.html").read_text()).data["examples"][0]["seen"][0]
    assert (seen["peak"], seen["logit"]) == (0, None)
    assert json.loads(Path("report.json").read_text())["examples"][0]["seen"][0]["cam"][0][0] is None


def test_a_study_of_a_trained_run_becomes_a_page(photos: Path, trained: Path, cpu: Runtime) -> None:
    specs = [EncodeSpec("source"), EncodeSpec(50), EncodeSpec(5)]
    study = compare_cams([load_run(trained, cpu)], photos / "val", specs, cpu, layer="stages.1", limit=10)
    comparisons = write_report(study, Path("out/report.html"))
    text = Path("out/report.html").read_text()
    page = Page(text)
    assert len(page.data["examples"]) == len(page.all("img")) == len(study.examples)
    for each in comparisons:
        found = each.figures["pearson"]
        assert f"<td>{found.mean:.2f}<small>{found.low:.2f} to {found.high:.2f}</small></td>" in text
    assert study.views[0].sha256[:12] in page.text
    assert "10 evenly spaced images of 16 are counted" in page.text
