"""The study: columns of all images in every view, and another look at the few that are shown."""

import hashlib
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from samples import jpeg, photograph

from jpegcurr.analysis.cam import compare as cam
from jpegcurr.analysis.cam import pipeline as looking
from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.cam.results import FIGURES, CamStudy
from jpegcurr.analysis.cam.similarity import compare_views, similarities
from jpegcurr.analysis.evaluation.evaluate import evaluate_run
from jpegcurr.analysis.prediction.predict import find_images, predict_images, read_image
from jpegcurr.cli import main
from jpegcurr.encoding.jpeg.codec import EncodeSpec, reencode
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.models.load import Run, load_run

SPECS = [EncodeSpec("source"), EncodeSpec(50), EncodeSpec(5)]


@pytest.fixture(scope="module")
def study(photos: Path, trained: Path, cpu: Runtime) -> CamStudy:
    return compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, layer="stages.1", limit=10)


def with_view(run: Run, **fields: object) -> Run:
    """The same model, which sees another crop."""
    image = ImageSection(**{**run.image.model_dump(), **fields})  # type: ignore[arg-type]
    return replace(run, recipe=run.recipe.model_copy(update={"image": image}))


def assert_equal(ours: CamStudy, theirs: CamStudy) -> None:
    assert (ours.names, ours.skipped, ours.null_of) == (theirs.names, theirs.skipped, theirs.null_of)
    for one, other in zip(ours.columns, theirs.columns, strict=True):
        for field in ("predicted", "target", "confidence", "logit", "dark"):
            assert np.array_equal(getattr(one, field), getattr(other, field)), field
        assert np.array_equal(one.figures, other.figures, equal_nan=True)
    assert np.array_equal(ours.null, theirs.null, equal_nan=True)
    assert np.array_equal(ours.ceiling, theirs.ceiling, equal_nan=True)
    assert [(each.index, each.rules) for each in ours.examples] == [(each.index, each.rules) for each in theirs.examples]
    for example, same in zip(ours.examples, theirs.examples, strict=True):
        assert all(np.array_equal(a.cam, b.cam) for a, b in zip(example.seen, same.seen, strict=True))


def test_a_study_explains_the_clean_prediction_in_every_view(study: CamStudy) -> None:
    assert [view.quality for view in study.views] == ["source", "q50", "q5"]
    assert (len(study.names), study.found, study.grid) == (10, 16, (4, 4))
    truth = [study.classes[label] for label in study.truth]
    assert truth == [Path(name).parent.name for name in study.names]
    assert set(truth) == {"astronaut", "cat", "coffee", "grass"}
    for columns in study.columns:
        assert np.array_equal(columns.target, study.columns[0].predicted)
        assert all(len(column) == 10 for column in (columns.confidence, columns.logit, columns.dark, columns.figures))
        assert (columns.confidence.dtype, columns.figures.dtype) == (np.float32, np.float32)
        assert np.all((columns.confidence > 0.25) & (columns.confidence <= 1))
    assert np.isnan(study.columns[0].figures).all()
    assert np.isfinite(study.columns[2].figures[:, FIGURES.index("logit_change")]).all()
    assert study.columns[2].figures[:, 0].min() < 0.999


def test_what_is_shown_is_what_the_columns_are_of(study: CamStudy) -> None:
    assert sorted(each.index for each in study.examples) == list(range(10)), "all of so few"
    for example in study.examples:
        assert example.rules
        assert set(example.pictures) == {"source", "q50", "q5"}
        assert np.abs(example.pictures["source"].astype(int) - example.pictures["q5"]).mean() > 1
        maps = np.stack([seen.cam for seen in example.seen])
        assert maps.shape == (3, 4, 4)
        for columns, seen in zip(study.columns, example.seen, strict=True):
            assert seen.top[0][0] == study.classes[columns.predicted[example.index]]
            assert seen.top[0][1] == pytest.approx(columns.confidence[example.index], abs=1e-5)
            assert len(seen.top) == 3
            assert seen.target == study.classes[columns.target[example.index]]
            assert seen.logit == pytest.approx(columns.logit[example.index], abs=1e-4)
            assert columns.dark[example.index] == (not seen.cam.any())
        alike = similarities(maps[[0, 0]], maps[1:])
        for found, columns in zip(alike, study.columns[1:], strict=True):
            assert found == pytest.approx(columns.figures[example.index, :6], rel=0.01, abs=1e-4, nan_ok=True)


def test_the_label_or_each_views_own_prediction_is_explained_if_asked(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)

    def look(explains: str) -> CamStudy:
        return compare_cams([run], photos / "val", SPECS, cpu, layer="stages.1", explains=explains)  # type: ignore[arg-type]

    by_label, by_own = look("label"), look("own")
    for columns in by_label.columns:
        assert np.array_equal(columns.target, by_label.truth)
    assert not np.array_equal(by_label.truth, by_label.columns[0].predicted), "else it is no other rule"
    assert all(np.array_equal(columns.target, columns.predicted) for columns in by_own.columns)
    assert all(seen.target == seen.top[0][0] for example in by_own.examples for seen in example.seen)
    assert (by_label.explains, by_own.explains) == ("label", "own")
    Path("images/unknown").mkdir(parents=True)
    Path("images/unknown/cat.jpg").write_bytes(jpeg(photograph("cat")))
    with pytest.raises(
        UsageError, match=r"cat\.jpg: its folder's name, 'unknown', is no class of the run, which --target label"
    ):
        compare_cams([run], Path("images"), SPECS, cpu, explains="label")
    with pytest.raises(UsageError, match="--target 'truth' is not known"):
        look("truth")


@pytest.mark.filterwarnings("ignore")
def test_other_methods_make_other_maps_of_the_same_predictions(
    study: CamStudy, photos: Path, trained: Path, cpu: Runtime
) -> None:
    other = compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, layer="stages.1", method="layercam", limit=10)
    assert (study.method, other.method) == ("gradcam", "layercam")
    for ours, theirs in zip(study.columns, other.columns, strict=True):
        assert np.array_equal(ours.target, theirs.target)
        assert ours.logit == pytest.approx(theirs.logit, abs=1e-4)
    maps = [{each.index: each.seen[0].cam for each in one.examples}[0] for one in (study, other)]
    assert not np.allclose(*maps)
    with pytest.raises(UsageError, match="Did you mean 'layercam'"):
        compare_cams([load_run(trained, cpu)], photos / "val", SPECS, cpu, method="layrcam")


def test_the_ceiling_is_the_file_against_quality_95_and_no_view(
    study: CamStudy, photos: Path, trained: Path, cpu: Runtime
) -> None:
    run = load_run(trained, cpu)
    shown = compare_cams([run], photos / "val", [EncodeSpec("source"), EncodeSpec(95)], cpu, layer="stages.1", limit=10)
    assert np.array_equal(study.ceiling, shown.columns[1].figures, equal_nan=True)
    assert np.isfinite(study.ceiling[:, -1]).all()
    assert not np.array_equal(study.ceiling, study.columns[1].figures, equal_nan=True)
    from_half = compare_cams([run], photos / "val", [EncodeSpec(50), EncodeSpec(5)], cpu, layer="stages.1", limit=2)
    assert np.isnan(from_half.ceiling).all()


def test_the_same_quality_twice_is_no_difference(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    same = compare_cams([run, run], photos / "val", [EncodeSpec("source")], cpu, layer="stages.1")
    (found,) = compare_views(same)
    assert (found.flips, found.lost, found.gained, found.p_value) == (0, 0, 0, 1)
    assert found.mean["pearson"] == pytest.approx(1)
    assert found.mean["magnitude"] == pytest.approx(1)
    assert found.null["pearson"] < 0.99
    assert found.null_of == same.null_of == "same class"


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
    real = looking.centre_crop
    monkeypatch.setattr(looking, "centre_crop", lambda pixels, image: crops.append(image.size) or real(pixels, image))
    monkeypatch.setattr(looking, "reencode", lambda data, specs: decodes.append(len(specs)) or reencode(data, specs))
    run = load_run(trained, cpu)
    runs = [run, with_view(load_run(trained, cpu, "ema"), size=size)]

    def look() -> CamStudy:
        return compare_cams(runs, photos / "val", SPECS[:2], cpu, layer="stages.0", limit=4, pictures=0)

    if size == run.image.size:
        assert look().grid == (8, 8)
    else:
        with pytest.raises(UsageError, match=r"--layer stages\.0 has different grids in the runs"):
            look()
    assert decodes == [3] * 4, "source, q50, and q95 for the ceiling"
    assert sorted(set(crops)) == sorted({run.image.size, size})
    assert len(crops) == 3 * 4 * len(set(crops))


def test_runs_that_crop_otherwise_see_their_own_pictures(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    runs = [run, with_view(run, val_crop=0.5)]
    both = compare_cams(runs, photos / "val", SPECS[:1], cpu, layer="stages.1", limit=4)
    alone = compare_cams(runs[1:], photos / "val", SPECS[:1], cpu, layer="stages.1", limit=4, explains="own")
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

    def look(threads: int, **options: object) -> CamStudy:
        return compare_cams([run], photos_and_more, SPECS, cpu, layer="stages.1", threads=threads, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(looking, "BATCH", 3)
    monkeypatch.setattr(looking, "AHEAD", 4)
    small = look(1, pictures=7)
    assert len(small.examples) == 7
    assert small.skipped == (("images/cat/01b.jpg", "not an image that Pillow can read"),)
    assert_equal(small, look(3, pictures=7))
    monkeypatch.setattr(looking, "BATCH", 32)
    whole = look(2, pictures=7)
    assert whole.names == small.names
    for one, other in zip(whole.columns, small.columns, strict=True):
        assert one.logit == pytest.approx(other.logit, abs=1e-4)
        assert np.allclose(one.figures, other.figures, rtol=0.01, atol=1e-3, equal_nan=True)


def test_no_more_is_decoded_ahead_than_is_said_and_nothing_is_kept_of_a_batch(
    photos: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a batch is looked at, no more than it and ``AHEAD`` images have been begun since the batches before."""
    monkeypatch.setattr(looking, "BATCH", 2)
    monkeypatch.setattr(looking, "AHEAD", 3)
    begun: list[Path] = []
    kept: list[weakref.ref[object]] = []
    read = looking.read_file
    monkeypatch.setattr(looking, "read_file", lambda path: begun.append(path) or read(path))
    run, seen = load_run(trained, cpu), []
    real = looking.ViewRunner.see

    def see(self: looking.ViewRunner, batch: list[looking.PreparedImage], *targets: object) -> object:
        seen.append(len(batch))
        assert len(begun) <= sum(seen) + looking.AHEAD
        assert len(seen) > 8 or not any(each() is not None for each in kept), "of the batches before, at the first look"
        kept.extend(weakref.ref(crop) for each in batch for crop in each.views.values())
        sights, near = real(self, batch, *targets)  # type: ignore[arg-type]
        kept.extend(weakref.ref(each) for sight in sights for each in (sight.logits, sight.maps))
        return sights, near

    monkeypatch.setattr(looking.ViewRunner, "see", see)
    compare_cams([run], photos / "val", SPECS[:1], cpu, layer="stages.1", pictures=6, threads=4)
    assert seen == [2] * 8 + [2] * 3
    assert len(begun) == 16 + 6


def test_all_images_are_counted_and_a_few_are_shown(photos: Path, trained: Path, cpu: Runtime) -> None:
    told: list[tuple[int, int]] = []
    run = load_run(trained, cpu)

    def look(**options: object) -> CamStudy:
        return compare_cams([run], photos / "val", SPECS[:2], cpu, layer="stages.1", **options)  # type: ignore[arg-type]

    study = look(pictures=5, on_images=lambda done, total: told.append((done, total)))
    assert (len(study.names), len(study.columns[1].figures), len(study.examples)) == (16, 16, 5)
    assert told == [(16, 21), (21, 21)]
    pearson = study.columns[1].figures[:, 0]
    assert study.examples[0].index == int(np.argmin(pearson))
    assert [pearson[each.index] for each in study.examples] == sorted(pearson[each.index] for each in study.examples)
    assert {rule for each in look(pictures=5, seed=1).examples for rule in each.rules} >= {"most changed", "median"}
    part = look(limit=4, pictures=1)
    assert [study.names.index(name) for name in part.names] == [0, 5, 10, 15]
    assert part.found == 16


def test_one_view_is_looked_at_too(photos: Path, trained: Path, cpu: Runtime) -> None:
    study = compare_cams([load_run(trained, cpu)], photos / "val", [EncodeSpec(50)], cpu, layer="stages.1", pictures=3)
    assert compare_views(study) == []
    assert [each.rules for each in study.examples] == [("random",)] * 3
    assert np.isfinite(study.null[:, 0]).all()


def test_unreadable_images_are_listed_and_a_folder_of_them_is_an_error(trained: Path, cpu: Runtime) -> None:
    Path("images").mkdir()
    Path("images/bad.jpg").write_bytes(b"text")
    run = load_run(trained, cpu)
    with pytest.raises(UsageError, match=r"none of the 1 images can be read.*bad\.jpg"):
        compare_cams([run], Path("images"), SPECS, cpu)
    Path("images/good.jpg").write_bytes(jpeg(photograph("cat")))
    study = compare_cams([run], Path("images"), SPECS, cpu)
    assert study.skipped == (("images/bad.jpg", "not an image that Pillow can read"),)
    assert (study.names, study.truth.tolist(), study.null_of) == (("good.jpg",), [-1], "")
    assert np.isnan(study.null).all(), "one image has no unrelated fellow"


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
    assert len(study.names) == 5, "its figures are known"
    assert sorted(each.index for each in study.examples) == [0, 1, 2, 4]
    ((name, reason),) = study.skipped
    assert name == "images/3.jpg"
    assert reason.startswith("read once, but not again to be shown: ")
    assert study.null_of == "half the list", "their folder is no class"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_metrics_are_columns_of_every_views_own_map(photos: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)

    def look(*metrics: str, specs: list[EncodeSpec] = SPECS[:2]) -> CamStudy:
        return compare_cams([run], photos / "val", specs, cpu, layer="stages.1", limit=3, metrics=metrics)

    study = look("road", "confidence")
    for columns in study.columns:
        assert set(columns.faithfulness) == {"road", "confidence_change"}
        for figures in columns.faithfulness.values():
            assert (figures.shape, figures.dtype) == ((3,), np.float32)
            assert np.array_equal(np.isfinite(figures), ~columns.dark)
    first, second = (columns.faithfulness["confidence_change"] for columns in study.columns)
    assert not np.array_equal(first, second)
    alone = look("confidence", specs=[EncodeSpec("source")])
    assert alone.columns[0].faithfulness["confidence_change"] == pytest.approx(first, abs=1e-6)
    assert look().columns[0].faithfulness == {}
    with pytest.raises(UsageError, match="--metrics 'raod' is not known"):
        look("raod")


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[CamStudy]:
    """What the command hands to the page, in place of which nothing is written."""
    studies: list[CamStudy] = []
    page = ModuleType("jpegcurr.analysis.report.html")
    page.report_files = lambda output: [output, output.with_suffix(".json")]  # type: ignore[attr-defined]
    page.write_report = lambda study, output: studies.append(study) or []  # type: ignore[attr-defined]
    page.summary = lambda study, comparisons: [f"{len(study.names)} images seen"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jpegcurr.analysis.report.html", page)
    return studies


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[object, str]:
    with pytest.raises(SystemExit) as done:
        main(["cam", *map(str, arguments), "--layer", "stages.1", "--device", "cpu"])
    said = capsys.readouterr()
    return done.value.code, " ".join((said.out + said.err).split())


@pytest.mark.filterwarnings("ignore")
def test_the_command_takes_all_images_and_its_options_reach_the_study(
    photos: Path, trained: Path, reported: list[CamStudy], capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = command(capsys, trained, photos / "val")
    assert code in (0, None)
    assert "16 images seen" in said
    assert "images seen report.html" in said, "the sentences, then where the page is"
    options = ["--method", "hirescam", "--target", "label", "--limit", 4, "--pictures", 2, "--seed", 5]
    assert command(capsys, trained, photos / "val", *options, "--metrics", "confidence", "--qualities", "50")[0] in (0, None)
    every, few = reported
    assert (len(every.names), len(every.examples), every.seed) == (16, 16, 0)
    assert [view.quality for view in every.views] == ["source", "q50"]
    assert every.columns[0].faithfulness == {}
    assert (len(few.names), len(few.examples), few.seed, few.method, few.explains) == (4, 2, 5, "hirescam", "label")
    assert set(few.columns[0].faithfulness) == {"confidence_change"}


def test_the_command_refuses_what_it_cannot_do_before_it_looks(
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
        code, said = command(capsys, *wrong)
        assert code == 2
        assert sentence in said
    Path("report.json").touch()
    code, said = command(capsys, trained, images)
    assert code == 2
    assert "report.json exists" in said
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
    shown = [{each.index: each for each in study.examples} for study in studies]
    for index, example in shown[0].items():
        for one, other in zip(example.seen, shown[1][index].seen, strict=True):
            assert one.target == other.target
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
