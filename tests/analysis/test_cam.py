"""The study: columns of all images in every view, and a second pass over the few that are shown."""

import hashlib
import json
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from samples import jpeg, photograph

from jpegcurr.analysis.cam import compare as cam
from jpegcurr.analysis.cam import pipeline
from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.cam.similarity import METRICS, compare_views, similarities
from jpegcurr.analysis.evaluation.evaluate import evaluate_run
from jpegcurr.analysis.prediction.predict import predict_images, read_image
from jpegcurr.cli import main
from jpegcurr.encoding.jpeg.codec import EncodeSpec, reencode
from jpegcurr.encoding.sources.labelled_files import find_images
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.models.classifier import Run
from jpegcurr.training.models.load import load_run

SPECS = [EncodeSpec("source"), EncodeSpec(50), EncodeSpec(5)]


@pytest.fixture(scope="module")
def study(photos: Path, trained: Path, cpu: Runtime) -> CamStudy:
    return compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, layer="stages.1", limit=10)


def test_bytes_are_those_of_the_images_that_were_read(study: CamStudy, photos: Path) -> None:
    encoded = [reencode((photos / "val" / name).read_bytes(), SPECS) for name in study.names]
    for number, spec in enumerate(SPECS):
        jpegs = [image[number] for image in encoded]
        counted = study.jpegs[spec.name]
        assert (counted.images, counted.total) == (len(study.names), sum(len(jpeg.data) for jpeg in jpegs))
        assert counted.pixels == sum(jpeg.width * jpeg.height for jpeg in jpegs)


def with_view(run: Run, **fields: object) -> Run:
    """The same model, which sees another crop."""
    image = ImageSection(**{**run.image.model_dump(), **fields})  # type: ignore[arg-type]
    return replace(run, recipe=run.recipe.model_copy(update={"image": image}))


def same_metrics(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    return list(ours) == list(theirs) == list(METRICS) and all(
        np.array_equal(ours[name], theirs[name], equal_nan=True) for name in METRICS
    )


def assert_equal(ours: CamStudy, theirs: CamStudy) -> None:
    assert (ours.names, ours.skipped, ours.baseline_of) == (theirs.names, theirs.skipped, theirs.baseline_of)
    for one, other in zip(ours.columns, theirs.columns, strict=True):
        for field in ("predicted", "target", "confidence", "logit", "dark"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), field
        assert same_metrics(one.similarity, other.similarity)
    assert same_metrics(ours.baseline, theirs.baseline)
    assert same_metrics(ours.ceiling, theirs.ceiling)
    assert [(example.index, example.rules) for example in ours.examples] == [
        (example.index, example.rules) for example in theirs.examples
    ]
    for example, same in zip(ours.examples, theirs.examples, strict=True):
        assert all(np.array_equal(a.cam, b.cam) for a, b in zip(example.predictions, same.predictions, strict=True))


def test_a_study_explains_the_clean_prediction_in_every_view(study: CamStudy) -> None:
    assert [view.quality for view in study.views] == ["source", "q50", "q5"]
    assert (len(study.names), study.available, study.grid) == (10, 16, (4, 4))
    truth = [study.classes[label] for label in study.truth]
    assert truth == [Path(name).parent.name for name in study.names]
    assert set(truth) == {"astronaut", "cat", "coffee", "grass"}
    for columns in study.columns:
        assert np.array_equal(columns.target, study.columns[0].predicted)
        assert all(
            len(column) == 10 for column in (columns.confidence, columns.logit, columns.dark, *columns.similarity.values())
        )
        assert (columns.confidence.dtype, columns.similarity["pearson"].dtype) == (np.float32, np.float32)
        assert np.all((columns.confidence > 0.25) & (columns.confidence <= 1))
    assert all(np.isnan(column).all() for column in study.columns[0].similarity.values())
    assert np.isfinite(study.columns[2].similarity["logit_change"]).all()
    assert study.columns[2].similarity["pearson"].min() < 0.999


def test_the_examples_agree_with_the_columns(study: CamStudy) -> None:
    assert sorted(example.index for example in study.examples) == list(range(10)), "all of so few"
    for example in study.examples:
        assert example.rules
        assert set(example.pictures) == {"source", "q50", "q5"}
        assert np.abs(example.pictures["source"].astype(int) - example.pictures["q5"]).mean() > 1
        maps = np.stack([prediction.cam for prediction in example.predictions])
        assert maps.shape == (3, 4, 4)
        for columns, prediction in zip(study.columns, example.predictions, strict=True):
            assert prediction.top[0][0] == study.classes[columns.predicted[example.index]]
            assert prediction.top[0][1] == pytest.approx(columns.confidence[example.index], abs=1e-5)
            assert len(prediction.top) == 3
            assert prediction.target == study.classes[columns.target[example.index]]
            assert prediction.logit == pytest.approx(columns.logit[example.index], abs=1e-4)
            assert columns.dark[example.index] == (not prediction.cam.any())
        alike = similarities(maps[[0, 0]], maps[1:])
        for number, columns in enumerate(study.columns[1:]):
            for name in METRICS.keys() - {"logit_change"}:
                value = columns.similarity[name][example.index]
                assert alike[name][number] == pytest.approx(value, rel=0.01, abs=1e-4, nan_ok=True), name


def test_the_label_or_each_views_own_prediction_is_explained_if_asked(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)

    def explain(target_rule: str) -> CamStudy:
        return compare_cams([run], photos / "val", SPECS, cpu, layer="stages.1", target_rule=target_rule)  # type: ignore[arg-type]

    by_label, by_own = explain("label"), explain("own")
    for columns in by_label.columns:
        assert np.array_equal(columns.target, by_label.truth)
    assert not np.array_equal(by_label.truth, by_label.columns[0].predicted), "else it is no other rule"
    assert all(np.array_equal(columns.target, columns.predicted) for columns in by_own.columns)
    assert all(prediction.target == prediction.top[0][0] for example in by_own.examples for prediction in example.predictions)
    assert (by_label.target_rule, by_own.target_rule) == ("label", "own")
    Path("images/unknown").mkdir(parents=True)
    Path("images/unknown/cat.jpg").write_bytes(jpeg(photograph("cat")))
    with pytest.raises(UsageError, match=r"cat\.jpg: --target label needs the image's class, .* \(its folder is 'unknown'\)"):
        compare_cams([run], Path("images"), SPECS, cpu, target_rule="label")
    with pytest.raises(UsageError, match="--target 'truth' is not known"):
        explain("truth")


@pytest.mark.filterwarnings("ignore")
def test_other_methods_make_other_maps_of_the_same_predictions(
    study: CamStudy, photos: Path, trained: Path, cpu: Runtime
) -> None:
    other = compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, layer="stages.1", method="layercam", limit=10)
    assert (study.method, other.method) == ("gradcam", "layercam")
    for ours, theirs in zip(study.columns, other.columns, strict=True):
        assert np.array_equal(ours.target, theirs.target)
        assert ours.logit == pytest.approx(theirs.logit, abs=1e-4)
    maps = [{example.index: example.predictions[0].cam for example in one.examples}[0] for one in (study, other)]
    assert not np.allclose(*maps)
    with pytest.raises(UsageError, match="Did you mean 'layercam'"):
        compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, method="layrcam")


def test_the_ceiling_is_the_file_against_quality_95_and_no_view(
    study: CamStudy, photos: Path, trained: Path, cpu: Runtime
) -> None:
    run = load_run(trained, cpu)
    shown = compare_cams([run], photos / "val", [EncodeSpec("source"), EncodeSpec(95)], cpu, layer="stages.1", limit=10)
    assert same_metrics(study.ceiling, shown.columns[1].similarity)
    assert np.isfinite(study.ceiling["logit_change"]).all()
    assert not same_metrics(study.ceiling, study.columns[1].similarity)
    from_half = compare_cams([run], photos / "val", [EncodeSpec(50), EncodeSpec(5)], cpu, layer="stages.1", limit=2)
    assert all(np.isnan(column).all() for column in from_half.ceiling.values())


def test_the_same_quality_twice_is_no_difference(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    same = compare_cams([run, run], photos / "val", [EncodeSpec("source")], cpu, layer="stages.1")
    (comparison,) = compare_views(same)
    assert (comparison.flips, comparison.lost, comparison.gained, comparison.p_value) == (0, 0, 0, 1)
    assert comparison.metrics["pearson"].mean == pytest.approx(1)
    assert comparison.metrics["magnitude"].mean == pytest.approx(1)
    assert comparison.metrics["pearson"].baseline.mean < 0.99
    assert comparison.baseline_of == same.baseline_of == "same class"


def test_averaged_weights_are_another_model_from_another_file(photos: Path, trained: Path, cpu: Runtime) -> None:
    runs = [load_run(trained, cpu, "raw"), load_run(trained, cpu, "ema")]
    study = compare_cams(runs, photos / "val", [EncodeSpec("source"), EncodeSpec(50)], cpu, layer="stages.1", limit=3)
    assert [(view.weights, view.quality) for view in study.views] == [
        (weights, quality) for weights in ("raw", "ema") for quality in ("source", "q50")
    ]
    assert not np.array_equal(study.columns[0].logit, study.columns[2].logit)
    files = [trained / "model.safetensors"] * 2 + [trained / "ema" / "model.safetensors"] * 2
    assert [view.sha256 for view in study.views] == [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert len({view.sha256 for view in study.views}) == 2


@pytest.mark.parametrize("size", [32, 64])
def test_runs_share_one_decode_and_one_crop_where_they_see_alike(
    photos: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    crops: list[int] = []
    decodes: list[int] = []
    real = pipeline.centre_crop
    monkeypatch.setattr(pipeline, "centre_crop", lambda pixels, image: crops.append(image.size) or real(pixels, image))
    monkeypatch.setattr(
        pipeline, "reencode", lambda data, *options: decodes.append(len(options[0])) or reencode(data, *options)
    )
    run = load_run(trained, cpu)
    runs = [run, with_view(load_run(trained, cpu, "ema"), size=size)]

    def study() -> CamStudy:
        return compare_cams(runs, photos / "val", SPECS[:2], cpu, layer="stages.0", limit=4, pictures=0)

    if size == run.image.size:
        assert study().grid == (8, 8)
    else:
        with pytest.raises(UsageError, match=r"--layer stages\.0 has different grids in the runs"):
            study()
    assert decodes == [3] * 4, "source, q50, and q95 for the ceiling"
    assert sorted(set(crops)) == sorted({run.image.size, size})
    assert len(crops) == 3 * 4 * len(set(crops))


def test_runs_that_crop_otherwise_see_their_own_pictures(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    runs = [run, with_view(run, val_crop=0.5)]
    both = compare_cams(runs, photos / "val", SPECS[:1], cpu, layer="stages.1", limit=4)
    alone = compare_cams(runs[1:], photos / "val", SPECS[:1], cpu, layer="stages.1", limit=4, target_rule="own")
    assert np.array_equal(both.columns[1].predicted, alone.columns[0].predicted)
    assert both.columns[1].confidence == pytest.approx(alone.columns[0].confidence, abs=1e-6)
    assert not np.array_equal(both.columns[0].confidence, both.columns[1].confidence)
    assert both.examples[0].pictures["source"].shape == (32, 32, 3)


def test_runs_of_other_classes_are_refused(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    other = replace(run, path=Path("other"), classes=("a", "b", "c", "d"))
    with pytest.raises(UsageError, match=r"other and .* have different classes"):
        compare_cams([run, other], photos / "val", SPECS, cpu)


def test_threads_and_batches_change_nothing(photos: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(trained, cpu)
    (photos_and_more := Path("images")).mkdir()
    for file in find_images(photos / "val"):
        folder = photos_and_more / file.parent.name
        folder.mkdir(exist_ok=True)
        (folder / file.name).symlink_to(file)
    (photos_and_more / "cat" / "01b.jpg").write_bytes(b"text")

    def study(threads: int, **options: object) -> CamStudy:
        return compare_cams([run], photos_and_more, SPECS, cpu, layer="stages.1", threads=threads, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "BATCH", 3)
    monkeypatch.setattr(pipeline, "AHEAD", 4)
    small = study(1, pictures=7)
    assert len(small.examples) == 7
    assert small.skipped == (("images/cat/01b.jpg", "not an image that Pillow can read"),)
    assert_equal(small, study(3, pictures=7))
    monkeypatch.setattr(pipeline, "BATCH", 32)
    whole = study(2, pictures=7)
    assert whole.names == small.names
    for one, other in zip(whole.columns, small.columns, strict=True):
        assert one.logit == pytest.approx(other.logit, abs=1e-4)
        for name in METRICS:
            assert np.allclose(one.similarity[name], other.similarity[name], rtol=0.01, atol=1e-3, equal_nan=True), name


def test_at_most_ahead_images_are_decoded_ahead_and_no_batch_is_kept(
    photos: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch is run, no more than it and ``AHEAD`` images have been opened since the batches before."""
    monkeypatch.setattr(pipeline, "BATCH", 2)
    monkeypatch.setattr(pipeline, "AHEAD", 3)
    opened: list[Path] = []
    kept: list[weakref.ref[object]] = []
    read = pipeline.read_file
    monkeypatch.setattr(pipeline, "read_file", lambda path: opened.append(path) or read(path))
    run, sizes = load_run(trained, cpu), []
    real = pipeline.ViewRunner.run_batch

    def run_batch(self: pipeline.ViewRunner, batch: list[pipeline.PreparedImage], *targets: object) -> object:
        sizes.append(len(batch))
        assert len(opened) <= sum(sizes) + pipeline.AHEAD
        assert len(sizes) > 8 or not any(reference() is not None for reference in kept), (
            "of the batches before, in the first pass"
        )
        kept.extend(weakref.ref(crop) for image in batch for crop in image.crops.values())
        outputs, near = real(self, batch, *targets)  # type: ignore[arg-type]
        kept.extend(weakref.ref(array) for output in outputs for array in (output.logits, output.maps))
        return outputs, near

    monkeypatch.setattr(pipeline.ViewRunner, "run_batch", run_batch)
    compare_cams([run], photos / "val", SPECS[:1], cpu, layer="stages.1", pictures=6, threads=4)
    assert sizes == [2] * 8 + [2] * 3
    assert len(opened) == 16 + 6


def test_all_images_are_counted_and_a_few_are_shown(photos: Path, trained: Path, cpu: Runtime) -> None:
    progress: list[tuple[int, int]] = []
    run = load_run(trained, cpu)

    def run_study(**options: object) -> CamStudy:
        return compare_cams([run], photos / "val", SPECS[:2], cpu, layer="stages.1", **options)  # type: ignore[arg-type]

    study = run_study(pictures=5, progress=lambda done, total: progress.append((done, total)))
    assert (len(study.names), len(study.columns[1].similarity["pearson"]), len(study.examples)) == (16, 16, 5)
    assert progress == [(16, 16)]
    pearson = study.columns[1].similarity["pearson"]
    assert study.examples[0].index == int(np.argmin(pearson))
    assert [pearson[example.index] for example in study.examples] == sorted(
        pearson[example.index] for example in study.examples
    )
    assert {rule for example in run_study(pictures=5, seed=1).examples for rule in example.rules} >= {"most changed", "median"}
    part = run_study(limit=4, pictures=1)
    assert [study.names.index(name) for name in part.names] == [0, 5, 10, 15]
    assert part.available == 16


def test_one_view_is_enough(photos: Path, trained: Path, cpu: Runtime) -> None:
    study = compare_cams([load_run(trained, cpu)], photos / "val", [EncodeSpec(50)], cpu, layer="stages.1", pictures=3)
    assert compare_views(study) == []
    assert [example.rules for example in study.examples] == [("random",)] * 3
    assert np.isfinite(study.baseline["pearson"]).all()


def test_unreadable_images_are_listed_and_a_folder_of_them_is_an_error(trained: Path, cpu: Runtime) -> None:
    Path("images").mkdir()
    Path("images/bad.jpg").write_bytes(b"text")
    run = load_run(trained, cpu)
    with pytest.raises(UsageError, match=r"none of the 1 images can be read.*bad\.jpg"):
        compare_cams([run], Path("images"), SPECS, cpu)
    Path("images/good.jpg").write_bytes(jpeg(photograph("cat")))
    study = compare_cams([run], Path("images"), SPECS, cpu)
    assert study.skipped == (("images/bad.jpg", "not an image that Pillow can read"),)
    assert (study.names, study.truth.tolist(), study.baseline_of) == (("good.jpg",), [-1], "")
    assert all(np.isnan(column).all() for column in study.baseline.values()), "one image has no partner"


def test_a_file_that_is_gone_when_it_is_to_be_shown_is_left_out(
    photos: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("images").mkdir()
    for number, file in enumerate(find_images(photos / "val")[:5]):
        Path(f"images/{number}.jpg").write_bytes(file.read_bytes())
    real: Callable[..., object] = cam.choose_examples

    def choose(*arguments: object) -> object:
        Path("images/3.jpg").unlink()
        return real(*arguments)

    monkeypatch.setattr(cam, "choose_examples", choose)
    study = compare_cams([load_run(trained, cpu)], Path("images"), SPECS, cpu, layer="stages.1")
    assert len(study.names) == 5, "its metrics are known"
    assert sorted(example.index for example in study.examples) == [0, 1, 2, 4]
    ((name, reason),) = study.skipped
    assert name == "images/3.jpg"
    assert reason.startswith("it was compared, but could not be read again to be shown: ")
    assert study.baseline_of == "half the list", "their folder is no class"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_are_columns_of_every_views_own_map(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)

    def run_study(*metrics: str, specs: list[EncodeSpec] = SPECS[:2]) -> CamStudy:
        return compare_cams([run], photos / "val", specs, cpu, layer="stages.1", limit=3, metrics=metrics)

    study = run_study("road", "confidence")
    for columns in study.columns:
        assert set(columns.faithfulness) == {"road", "confidence_change"}
        for values in columns.faithfulness.values():
            assert (values.shape, values.dtype) == ((3,), np.float32)
            assert np.array_equal(np.isfinite(values), ~columns.dark)
    first, second = (columns.faithfulness["confidence_change"] for columns in study.columns)
    assert not np.array_equal(first, second)
    alone = run_study("confidence", specs=[EncodeSpec("source")])
    assert alone.columns[0].faithfulness["confidence_change"] == pytest.approx(first, abs=1e-6)
    assert run_study().columns[0].faithfulness == {}
    with pytest.raises(UsageError, match="--metrics 'raod' is not known"):
        run_study("raod")


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[CamStudy]:
    """Collect what the command would write as a page."""
    studies: list[CamStudy] = []
    page = ModuleType("jpegcurr.analysis.report.html")
    page.report_files = lambda output: [output, output.with_suffix(".json")]  # type: ignore[attr-defined]

    def write_report(study: CamStudy, _output: Path) -> SimpleNamespace:
        studies.append(study)
        return SimpleNamespace(summary=[f"{len(study.names)} images compared"])

    page.write_report = write_report  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jpegcurr.analysis.report.html", page)
    return studies


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    with pytest.raises(SystemExit) as done:
        main(["cam", *map(str, arguments), "--layer", "stages.1", "--device", "cpu"])
    captured = capsys.readouterr()
    return done.value.code, " ".join((captured.out + captured.err).split())


@pytest.mark.filterwarnings("ignore")
def test_the_command_takes_all_images_and_its_options_reach_the_study(
    photos: Path, trained: Path, reported: list[CamStudy], capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = command(capsys, trained, photos / "val")
    assert code in (0, None)
    assert "16 images compared" in output
    assert "images compared report.html" in output, "the sentences, then where the page is"
    options = ["--method", "hirescam", "--target", "label", "--limit", 4, "--pictures", 2, "--seed", 5]
    assert command(capsys, trained, photos / "val", *options, "--metrics", "confidence", "--qualities", "50")[0] in (0, None)
    every, few = reported
    assert (len(every.names), len(every.examples), every.seed) == (16, 16, 0)
    assert [view.quality for view in every.views] == ["source", "q50"]
    assert every.columns[0].faithfulness == {}
    assert (len(few.names), len(few.examples), few.seed, few.method, few.target_rule) == (4, 2, 5, "hirescam", "label")
    assert set(few.columns[0].faithfulness) == {"confidence_change"}


@pytest.mark.filterwarnings("ignore")
def test_files_that_are_no_jpegs_are_counted_where_source_is_a_view(
    photos: Path, trained: Path, cpu: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("images/cat").mkdir(parents=True)
    first = find_images(photos / "val" / "cat")[0]
    Path("images/cat/a.jpg").write_bytes(first.read_bytes())
    with Image.open(first) as image:
        image.save("images/cat/b.png")
    code, output = command(capsys, trained, "images")
    sentence = (
        "At source, 1 of 2 images is a JPEG of quality 95, 4:4:4, made of the file as jpegcurr encode stores it: the file is "
        "no upright JPEG in RGB or grey (cat/b.png)."
    )
    assert code in (0, None)
    assert sentence in output
    assert sentence in Path("report.html").read_text()
    content = json.loads(Path("report.json").read_text())
    assert (content["source_converted"], sentence in content["warnings"]) == (1, True)
    assert {example["name"]: example["source_converted"] for example in content["examples"]} == {
        "cat/a.jpg": False,
        "cat/b.png": True,
    }
    without = compare_cams([load_run(trained, cpu)], Path("images"), SPECS[1:], cpu, layer="stages.1")
    assert not without.converted.any()


def test_the_command_refuses_what_it_cannot_do_before_it_starts(
    photos: Path, trained: Path, reported: list[CamStudy], capsys: pytest.CaptureFixture[str]
) -> None:
    images = photos / "val"
    for wrong, sentence in (
        ((trained, images, "--method", "hirescamm"), "Did you mean 'hirescam'"),
        ((trained, images, "--target", "truth"), "truth"),
        ((trained, images, "--metrics", "confidence,raod"), "--metrics 'raod' is not known. Did you mean 'road'?"),
        ((trained, images, "--pictures", "0"), "--pictures"),
        ((trained, trained.parent / trained.name / "ema" / "..", images), "is given twice"),
        ((trained, trained, images), "is given twice"),
    ):
        code, output = command(capsys, *wrong)
        assert code == 2
        assert sentence in output
    Path("report.json").touch()
    code, output = command(capsys, trained, images)
    assert code == 2
    assert "report.json exists" in output
    assert reported == []


@pytest.mark.gpu
def test_a_gpu_gives_the_maps_and_scores_of_a_cpu(photos: Path, betons: Path, trained: Path, cpu: Runtime) -> None:
    """Float32 on both; matrix products may round differently."""
    gpu = resolve_runtime("cuda")
    studies = [
        compare_cams([load_run(trained, runtime)], photos / "val", SPECS, runtime, layer="stages.1") for runtime in (gpu, cpu)
    ]
    for ours, theirs in zip(studies[0].columns, studies[1].columns, strict=True):
        assert np.array_equal(ours.target, theirs.target)
        assert ours.logit == pytest.approx(theirs.logit, rel=0.05, abs=0.05)
    shown = [{example.index: example for example in study.examples} for study in studies]
    for index, example in shown[0].items():
        for one, other in zip(example.predictions, shown[1][index].predictions, strict=True):
            assert one.target == other.target
            assert np.allclose(one.cam, other.cam, rtol=0.05, atol=0.01 * float(other.cam.max()) + 1e-6)
    scores = [
        next(evaluate_run(load_run(trained, runtime), {"q50": betons / "val-q50.beton"}, runtime)).scores
        for runtime in (gpu, cpu)
    ]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=0.02)
    files = sorted((photos / "val").glob("*/*.jpg"))
    likeliest = [
        [prediction.top[0][0] for prediction in predict_images(load_run(trained, runtime), files, runtime)]
        for runtime in (gpu, cpu)
    ]
    assert likeliest[0] == likeliest[1]


def test_cam_lists_and_reads_files_as_encode_does() -> None:
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


def test_after_the_resize_the_crops_of_one_decode_are_encoded_as_by_pillow(
    photos: Path, trained: Path, cpu: Runtime, study: CamStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, decoded = load_run(trained, cpu), []
    decode = pipeline.decode_rgb
    monkeypatch.setattr(pipeline, "decode_rgb", lambda data, **options: decoded.append(1) or decode(data, **options))
    views = {"layer": "stages.1", "limit": 10, "pictures": 3}
    resized = compare_cams([run], photos / "val", [*SPECS[:2], EncodeSpec(5, "444")], cpu, stage="after_resize", **views)  # type: ignore[arg-type]
    assert len(decoded) == 10 + 3, "and those that are shown a second time"
    for example in resized.examples:
        source = Image.fromarray(example.pictures["source"])
        for name, options in (("q50", {"quality": 50}), ("q5", {"quality": 5, "subsampling": "4:4:4"})):
            shown = np.asarray(Image.open(BytesIO(jpeg(source, **options))))
            assert np.array_equal(example.pictures[name], shown)
    assert np.array_equal(resized.columns[0].logit, study.columns[0].logit), "the source is the same"
    assert not np.array_equal(resized.columns[1].logit, study.columns[1].logit)
    for stage, specs in (("after_crop", SPECS), ("after_resize", [EncodeSpec(50, "keep")])):
        with pytest.raises(UsageError, match=r"stage"):
            compare_cams([run], photos / "val", specs, cpu, stage=stage)  # type: ignore[arg-type]


def test_the_stage_is_stated_on_the_page_in_its_json_and_in_the_terminal(
    photos: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["cam", str(trained), str(photos / "val"), "--layer", "stages.1", "--limit", "4", "--on-the-fly", "-q"]
    with pytest.raises(SystemExit) as left:
        main(line)
    assert left.value.code in (0, None)
    sentence = "Qualities are encoded after the resize, at the size the model receives"
    assert sentence in " ".join(capsys.readouterr().out.split())
    values = json.loads(Path("report.json").read_text(encoding="utf-8"))
    assert values["stage"] == "after_resize"
    assert "encoded after the resize" in values["provenance"]["Qualities"]
    assert sentence in Path("report.html").read_text(encoding="utf-8")
