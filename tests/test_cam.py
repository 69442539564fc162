"""The study and its classes, the comparison against cases whose answer is known, and the page."""

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from samples import jpeg, photograph

from jpegcurr.analysis.cam import CamStudy, compare_cams
from jpegcurr.analysis.evaluate import evaluate_run
from jpegcurr.analysis.predict import find_images, predict_images, read_image
from jpegcurr.analysis.report import verdict, write_report
from jpegcurr.analysis.similarity import compare_views
from jpegcurr.cli import main
from jpegcurr.encoding.codec import EncodeSpec
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.model import load_run

SPECS = [EncodeSpec("source"), EncodeSpec(50), EncodeSpec(5)]


@pytest.fixture(scope="module")
def study(photos: Path, trained: Path, cpu: Runtime) -> CamStudy:
    return compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, layer="stages.1", limit=10)


def test_a_study_explains_the_clean_prediction_in_every_view(study: CamStudy) -> None:
    assert [view.quality for view in study.views] == ["source", "q50", "q5"]
    assert (len(study.images), study.found) == (10, 16)
    assert {image.truth for image in study.images} == {"astronaut", "cat", "coffee", "grass"}
    for image in study.images:
        assert image.target == image.seen[0].top[0][0]
        assert set(image.pictures) == {"source", "q50", "q5"}
        assert all(seen.cam.shape == (4, 4) for seen in image.seen)
        assert np.abs(image.pictures["source"].astype(int) - image.pictures["q5"]).mean() > 1
    assert any(not np.array_equal(image.seen[0].cam, image.seen[1].cam) for image in study.images)


def test_the_label_or_each_views_own_prediction_is_explained_if_asked(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)

    def look(explains: str) -> CamStudy:
        return compare_cams([run], photos / "val", SPECS, cpu, layer="stages.1", explains=explains)  # type: ignore[arg-type]

    by_label, by_own = look("label"), look("own")
    assert all(image.target == image.truth == seen.target for image in by_label.images for seen in image.seen)
    assert any(image.target != image.seen[0].top[0][0] for image in by_label.images), "else it is no other rule"
    assert all(seen.target == seen.top[0][0] for image in by_own.images for seen in image.seen)
    assert (by_label.explains, by_own.explains) == ("label", "own")
    Path("images/unknown").mkdir(parents=True)
    Path("images/unknown/cat.jpg").write_bytes(jpeg(photograph("cat")))
    with pytest.raises(
        UsageError, match=r"cat\.jpg: its folder's name, 'unknown', is no class of the run, which --class label"
    ):
        compare_cams([run], Path("images"), SPECS, cpu, explains="label")
    with pytest.raises(UsageError, match="--class 'truth' is not known"):
        look("truth")


@pytest.mark.filterwarnings("ignore")
def test_other_methods_make_other_maps_of_the_same_predictions(
    study: CamStudy, photos: Path, trained: Path, cpu: Runtime
) -> None:
    other = compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, layer="stages.1", method="layercam", limit=10)
    assert (study.method, other.method) == ("gradcam", "layercam")
    for ours, theirs in zip(study.images, other.images, strict=True):
        assert ours.target == theirs.target
        assert [seen.logit for seen in ours.seen] == pytest.approx([seen.logit for seen in theirs.seen], abs=1e-4)
    assert not np.allclose(study.images[0].seen[0].cam, other.images[0].seen[0].cam)
    with pytest.raises(UsageError, match="Did you mean 'layercam'"):
        compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, method="layrcam")


@pytest.mark.filterwarnings("ignore")
def test_the_command_takes_a_method_and_the_class_to_explain(
    photos: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[object, str]:
        with pytest.raises(SystemExit) as done:
            main(["cam", str(trained), str(photos / "val"), "--layer", "stages.1", "--limit", "4", "--device", "cpu", *options])
        said = capsys.readouterr()
        return done.value.code, " ".join((said.out + said.err).split())

    assert run("--method", "hirescamm")[0] == 2
    assert run("--class", "truth")[0] == 2
    assert not Path("report.html").exists()
    code, said = run("--method", "hirescam", "--class", "label")
    assert code in (0, None)
    assert "source to q50: " in said
    images = json.loads(Path("report.json").read_text())["images"]
    assert all(image["target"] == image["truth"] for image in images)


def test_the_ceiling_is_the_file_against_quality_95_and_no_view(
    study: CamStudy, photos: Path, trained: Path, cpu: Runtime
) -> None:
    run = load_run(trained, cpu)
    shown = compare_cams([run], photos / "val", [EncodeSpec("source"), EncodeSpec(95)], cpu, layer="stages.1", limit=10)
    for image, other in zip(study.images, shown.images, strict=True):
        assert image.near is not None
        assert np.allclose(image.near.cam, other.seen[1].cam, rtol=1e-4, atol=1e-5)
        assert image.near.target == image.target
    from_half = compare_cams([run], photos / "val", [EncodeSpec(50), EncodeSpec(5)], cpu, layer="stages.1", limit=2)
    assert all(image.near is None for image in from_half.images)


def test_the_same_quality_twice_is_no_difference(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    same = compare_cams([run, run], photos / "val", [EncodeSpec("source")], cpu, layer="stages.1")
    (found,) = compare_views(same)
    assert (found.flips, found.lost, found.gained, found.p_value) == (0, 0, 0, 1)
    assert found.mean["pearson"] == pytest.approx(1)
    assert found.mean["magnitude"] == pytest.approx(1)
    assert found.null["pearson"] < 0.99
    assert "no detectable difference" in verdict(same, [found])[0]


def test_averaged_weights_are_another_model(photos: Path, trained: Path, cpu: Runtime) -> None:
    runs = [load_run(trained, cpu, "raw"), load_run(trained, cpu, "ema")]
    study = compare_cams(runs, photos / "val", [EncodeSpec("source")], cpu, layer="stages.1")
    assert [view.weights for view in study.views] == ["raw", "ema"]
    assert any(image.seen[0].logit != image.seen[1].logit for image in study.images)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.canvases: list[list[list[float]]] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "data-cam" in values:
            self.canvases.append(json.loads(values["data-cam"] or ""))
        self.sources += [values[key] or "" for key in ("src", "href") if key in values]
        if tag not in ("meta", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_offline_and_says_what_the_figures_say(study: CamStudy) -> None:
    comparisons = write_report(study, Path("out/report.html"))
    text = Path("out/report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert len(page.sources) == 30
    assert all(source.startswith("data:image/webp;base64,") for source in page.sources)
    assert sorted(map(str, page.canvases)) == sorted(
        str([[float(f"{cell:.4g}") for cell in row] for row in seen.cam.tolist()])
        for image in study.images
        for seen in image.seen
    )
    for each in comparisons:
        found = each.figures["pearson"]
        assert f"<td>{found.mean:.2f}<small>{found.low:.2f} to {found.high:.2f}</small></td>" in text
    assert "<td>the same images at quality 95</td>" in text
    assert "<td>another image of the same class</td>" in text
    figures = json.loads(Path("out/report.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert figures["verdict"] == verdict(study, comparisons)
    assert len(figures["images"]) == 10
    assert figures["comparisons"][0]["figures"]["pearson"]["mean"] == comparisons[0].mean["pearson"]
    again = Path("again.html")
    write_report(study, again)
    assert again.read_text() == text


def test_names_in_the_page_cannot_be_markup(trained: Path, cpu: Runtime) -> None:
    name = '<script>alert(1)</script> & "quoted" \'.jpg'
    Path("images").mkdir()
    Path("images", name.replace("/", "")).write_bytes(jpeg(photograph("cat")))
    study = compare_cams([load_run(trained, cpu)], Path("images"), SPECS, cpu)
    write_report(study, Path("report.html"))
    assert "<script>alert" not in Path("report.html").read_text()
    assert Page(Path("report.html").read_text()).open == []


def test_a_few_images_can_show_no_difference(photos: Path, trained: Path, cpu: Runtime) -> None:
    study = compare_cams([load_run(trained, cpu)], photos / "val", SPECS[:2], cpu, limit=5)
    assert "too few to show any difference" in verdict(study, compare_views(study))[0]


def test_unreadable_images_are_listed_and_a_folder_of_them_is_an_error(trained: Path, cpu: Runtime) -> None:
    Path("images").mkdir()
    Path("images/bad.jpg").write_bytes(b"text")
    run = load_run(trained, cpu)
    with pytest.raises(UsageError, match=r"none of the 1 images can be read.*bad\.jpg"):
        compare_cams([run], Path("images"), SPECS, cpu)
    Path("images/good.jpg").write_bytes(jpeg(photograph("cat")))
    study = compare_cams([run], Path("images"), SPECS, cpu)
    assert study.skipped == (("images/bad.jpg", "not an image that Pillow can read"),)
    comparisons = write_report(study, Path("report.html"))
    assert math.isnan(comparisons[0].null["pearson"]), "one image has no unrelated fellow"
    assert "1 file could not be read" in Path("report.html").read_text()
    assert json.loads(Path("report.json").read_text())["comparisons"][0]["figures"]["pearson"]["null"]["mean"] is None


@pytest.mark.gpu
def test_a_gpu_gives_the_maps_and_scores_of_a_cpu(photos: Path, betons: Path, trained: Path, cpu: Runtime) -> None:
    """Float32 on both; matrix products may round differently."""
    gpu = resolve_runtime("cuda")
    studies = [
        compare_cams([load_run(trained, runtime)], photos / "val", SPECS, runtime, layer="stages.1") for runtime in (gpu, cpu)
    ]
    for ours, theirs in zip(studies[0].images, studies[1].images, strict=True):
        assert ours.target == theirs.target
        for one, other in zip(ours.seen, theirs.seen, strict=True):
            assert np.allclose(one.cam, other.cam, rtol=0.05, atol=0.01 * float(other.cam.max()) + 1e-6)
    scores = [
        next(evaluate_run(load_run(trained, runtime), {"q50": betons / "val-q50.beton"}, runtime)).scores
        for runtime in (gpu, cpu)
    ]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=0.02)
    files = sorted((photos / "val").glob("*/*.jpg"))
    likeliest = [
        [each.top[0][0] for each in predict_images(load_run(trained, runtime), files, runtime)] for runtime in (gpu, cpu)
    ]
    assert likeliest[0] == likeliest[1]


def test_files_are_found_and_read_as_encode_finds_and_reads_them() -> None:
    """Nothing in hidden folders, nothing round in a circle, and a pipe with an image's name does not hang."""
    good = jpeg(photograph("cat").crop((0, 0, 40, 40)))
    for name in (".cache/thumbnail.jpg", "b/2.jpg", "1.jpg"):
        path = Path("images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(good)
    Path("images/b/circle").symlink_to(Path("images").resolve())
    os.mkfifo("images/pipe.jpg")
    assert find_images(Path("images")) == [Path("images", name) for name in ("1.jpg", "b/2.jpg", "pipe.jpg")]
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(Path("images/pipe.jpg"))
