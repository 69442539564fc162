"""Evaluations of runs on the same images, at qualities that are stored or encoded on the fly, and their comparison."""

import csv
import re
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_samples import simulated
from PIL import Image
from samples import jpeg

from jpegcurr.analysis.evaluation import evaluate
from jpegcurr.analysis.evaluation.evaluate import Evaluation, compare_evaluations, evaluate_run, evaluate_runs
from jpegcurr.analysis.evaluation.naming import quality_lines, quality_names, run_names
from jpegcurr.analysis.evaluation.outputs import accuracy_curve
from jpegcurr.analysis.evaluation.per_image import observe
from jpegcurr.analysis.evaluation.sets import expand_qualities, open_sets
from jpegcurr.analysis.evaluation.tables import (
    accuracy_matrix,
    changed_classes,
    paired_table,
    paired_verdicts,
    score_table,
    write_classes,
    write_scores,
)
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.classifier import Run
from jpegcurr.training.models.load import load_run


def same_outcomes(one: Evaluation, other: Evaluation) -> bool:
    names = ("labels", "predicted", "confidence", "top5", "loss")
    return all(np.array_equal(getattr(one.outcomes, name), getattr(other.outcomes, name)) for name in names)


def table(path: str) -> list[list[str]]:
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.reader(file))


def test_quality_50_on_the_fly_gives_the_predictions_of_the_stored_file(betons: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    (stored,) = evaluate_run(run, {"q50": betons / "val-q50.beton"}, cpu)
    (encoded,) = evaluate_run(run, expand_qualities([betons / "val-source.beton"], [50]), cpu)
    (resized,) = evaluate_run(run, expand_qualities([betons / "val-source.beton"], [50], "after_resize"), cpu)
    assert same_outcomes(stored, encoded)
    assert not np.array_equal(resized.outcomes.confidence, encoded.outcomes.confidence), "after the resize is another treatment"
    assert (encoded.tested, encoded.at_load, resized.at_load) == (
        50,
        "quality 50, on the fly, before the crop",
        "quality 50, on the fly, after the resize",
    )


@pytest.mark.parametrize("kind", ["plain", "images", "device"])
def test_qualities_after_the_resize_are_those_of_pillow_from_one_pass(
    betons: Path, photos: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Compare every batch that the model gets with what Pillow makes of the first one, for two models and a set twice."""
    run = load_run(trained, cpu)
    monkeypatch.setattr(Runtime, "jpeg_on_device", kind == "device")
    data = photos / "val" if kind == "images" else betons / "val-source.beton"
    sets = open_sets([run], expand_qualities([data], ["source", 30, 5], "after_resize"))
    sets += [sets[1], *open_sets([run], expand_qualities([data], [30]))]
    inputs: list[torch.Tensor] = []
    passes = []
    normalise = type(run.normalise).forward
    monkeypatch.setattr(type(run.normalise), "forward", lambda self, images: inputs.append(images) or normalise(self, images))
    monkeypatch.setattr(evaluate, "observe", lambda *given, **options: passes.append(1) or observe(*given, **options))
    results = list(evaluate_runs([run, replace(run)], sets, cpu, loader="plain"))
    assert len(passes) == 2, "of those after the resize, and of the one before the crop"
    assert [result.tested for result in results] == 2 * ["source", 30, 5, 30, 30]
    assert [result.at_load for result in results[:3]] == [
        None,
        "quality 30, on the fly, after the resize",
        "quality 5, on the fly, after the resize",
    ]
    source, *encoded = inputs[:4]
    for quality, images in zip((30, 5, 30), encoded, strict=True):
        for before, after in zip(source.permute(0, 2, 3, 1).numpy(), images.permute(0, 2, 3, 1).numpy(), strict=True):
            assert np.array_equal(after, np.asarray(Image.open(BytesIO(jpeg(Image.fromarray(before), quality=quality)))))
    assert same_outcomes(results[1], results[3])
    assert not same_outcomes(results[1], results[4]), "before the crop is another treatment"
    alone = evaluate_runs([run], open_sets([run], expand_qualities([data], [5], "after_resize")), cpu, loader="plain")
    assert same_outcomes(results[2], next(alone))
    assert same_outcomes(results[2], results[7])


def test_every_image_counts_once_with_any_batch(betons: Path, trained: Path, cpu: Runtime) -> None:
    run = load_run(trained, cpu)
    batch = run.recipe.batch.model_copy(update={"per_device": 5, "size": 15})
    for candidate in (run, replace(run, recipe=run.recipe.model_copy(update={"batch": batch}))):
        (result,) = evaluate_run(candidate, {"": betons / "val-source.beton"}, cpu)
        assert result.outcomes.labels.tolist() == sorted([0, 1, 2, 3] * 4), "in the order of the file"
        shares = list(result.class_accuracy().values())
        assert np.mean(shares) == pytest.approx(result.scores.top1), "four classes of four images"


def test_evaluations_are_compared_with_the_first_and_written_as_csv(betons: Path, trained: Path, cpu: Runtime) -> None:
    runs = [load_run(trained, cpu), replace(load_run(trained, cpu, "ema"), path=Path("other"))]
    datasets = open_sets(runs, expand_qualities([betons / "val-source.beton"], ["source", 10]))
    results = list(evaluate_runs(runs, datasets, cpu))
    pairs = compare_evaluations(results)
    matrix, paired = accuracy_matrix(results), paired_table(results, pairs)
    assert matrix is not None
    assert paired is not None
    assert (matrix[0], [row[0] for row in matrix[1]]) == (["top-1, %", "source", "10"], ["run", "other"])
    assert [row[0] for row in paired[1]] == ["run, 10", "other, source", "other, 10"]
    write_scores(Path("all.csv"), results, pairs)
    columns, *cells = table("all.csv")
    rows = [dict(zip(columns, row, strict=True)) for row in cells]
    assert [(row["run"], row["tested"]) for row in rows[1:]] == [(str(trained), "10"), ("other", "source"), ("other", "10")]
    assert rows[0]["verdict"] == ""
    for row, result, pair in zip(rows[1:], results[1:], pairs[1:], strict=True):
        assert pair is not None
        assert (float(row["top1"]), row["verdict"]) == (result.scores.top1, pair.verdict)
        assert float(row["low"]) == pytest.approx(pair.low, rel=1e-9)


def test_a_file_that_is_not_of_the_source_is_not_encoded_again(betons: Path) -> None:
    with pytest.raises(UsageError, match=r"val-q50\.beton has quality 50: --qualities would encode it a second time"):
        expand_qualities([betons / "val-q50.beton"], [90])


def test_runs_with_the_same_input_share_one_pass(
    betons: Path, trained: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw and averaged weights, the latter normalised otherwise, and runs that see other pixels."""
    raw, ema = load_run(trained, cpu), replace(load_run(trained, cpu, "ema"), path=Path("ema"))
    ema = replace(ema, normalise=Normaliser((0.5,) * 3, (0.5,) * 3))
    views = {"closer": {"val_crop": 0.5}, "box": {"val_resize": "box"}}
    others = [
        replace(raw, path=Path(name), recipe=raw.recipe.model_copy(update={"image": raw.image.model_copy(update=view)}))
        for name, view in views.items()
    ]
    runs: list[Run] = [raw, *others, ema]
    datasets = open_sets(runs, expand_qualities([betons / "val-source.beton"], ["source", 10]))
    alone = [result for run in runs for result in evaluate_runs([run], datasets, cpu)]
    opened: list[object] = []

    def counted(*arguments: Any) -> Any:
        opened.append(arguments)
        return open_loader(*arguments)

    open_loader = evaluate.open_loader
    monkeypatch.setattr(evaluate, "open_loader", counted)
    counts: list[int] = []
    together = list(evaluate_runs(runs, datasets, cpu, on_images=counts.append))
    assert len(opened) == 6, "two data sets, for raw and ema, and for the two others"
    assert sum(counts) == 4 * 2 * 16
    assert [(result.run, result.tested) for result in together] == [(result.run, result.tested) for result in alone]
    assert [(result.run.name, result.tested) for result in together[2:]] == [
        ("closer", "source"),
        ("closer", 10),
        ("box", "source"),
        ("box", 10),
        ("ema", "source"),
        ("ema", 10),
    ]
    assert all(same_outcomes(one, by_itself) for one, by_itself in zip(together, alone, strict=True))
    assert not any(same_outcomes(together[0], together[other]) for other in (2, 4, 6))


def test_models_return_to_their_mode_when_the_pass_fails(betons: Path, trained: Path, cpu: Runtime) -> None:
    runs = [load_run(trained, cpu), load_run(trained, cpu, "ema")]
    runs[1].model.train()

    def stop(_more: int) -> None:
        assert not any(run.model.training for run in runs)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(evaluate_runs(runs, open_sets(runs, {"": betons / "val-source.beton"}), cpu, on_images=stop))
    assert [run.model.training for run in runs] == [False, True]


def test_a_run_has_one_line_over_its_qualities_or_a_line_for_every_beton_if_qualities_repeat() -> None:
    def evaluated(run: str, data: str, quality: Quality | None, keys: str | None = "same", **more: Any) -> Evaluation:
        return simulated([True, True, False], [0, 1, 2], run=run, data=data, quality=quality, keys=keys, **more)

    stored = [evaluated(run, f"q{quality}", quality) for run in ("a", "b") for quality in (10, "source", 90)]
    assert [(name, [result.quality for result in line]) for name, line in quality_lines(stored)] == [
        ("a", ["source", 90, 10]),
        ("b", ["source", 90, 10]),
    ]
    again = [*stored, evaluated("a", "new/q10", 10)]
    assert [name for name, _ in quality_lines(again)] == [
        "a, q10",
        "a, qsource",
        "a, q90",
        "b, q10",
        "b, qsource",
        "b, q90",
        "a, new/q10",
    ]
    twice = [evaluated("a", "one", "source", "1"), evaluated("a", "one 50", 50, "1"), evaluated("a", "two", "source", "2")]
    assert [(name, len(line)) for name, line in quality_lines(twice)] == [("one, one 50", 2), ("two", 1)]
    assert [(name, len(line)) for name, line in quality_lines([stored[0], stored[0]])] == [("a", 1)]
    unknown = [evaluated("a", "one", None, None), evaluated("a", "two", None, None)]
    assert [name for name, _ in quality_lines(unknown)] == ["one", "two"]
    assert ">not known</text>" in accuracy_curve(unknown)


def test_the_curve_names_the_tested_qualities() -> None:
    right, labels = [True] * 30 + [False] * 10, [0] * 40
    views = [
        simulated(right, labels),
        *(
            simulated(right, labels, tested=quality, at_load=f"quality {quality}, on the fly, after the resize")
            for quality in (10, 90)
        ),
    ]
    drawn = accuracy_curve(views)
    assert "JPEG quality of the 40 validation images, encoded after the resize" in drawn
    assert "source: 75 (59.81 to 85.81); 90: 75 (59.81 to 85.81); 10: 75 (59.81 to 85.81)" in drawn
    mixed = accuracy_curve([*views, simulated(right, labels, data="val-q10.beton", quality=10)])
    assert "10, after the resize" in mixed
    assert "images, encoded after" not in mixed


def test_classes_are_written_with_their_images(trained: Path, betons: Path, cpu: Runtime) -> None:
    results = list(evaluate_run(load_run(trained, cpu), expand_qualities([betons / "val-source.beton"], ["source", 10]), cpu))
    write_classes(Path("classes.csv"), results)
    columns, *rows = table("classes.csv")
    assert columns == ["class", "images", "source", "10"]
    assert [(row[0], row[1]) for row in rows] == [(name, "4") for name in ("astronaut", "cat", "coffee", "grass")]
    for column, result in ((2, results[0]), (3, results[1])):
        assert np.mean([float(row[column]) for row in rows]) == pytest.approx(result.scores.top1)
        assert {row[0]: float(row[column]) for row in rows} == result.as_dict()["class_accuracy"]
    assert results[0].as_dict()["class_images"] == dict.fromkeys(results[0].classes, 4)


def test_numbers_in_tables_have_no_digits_of_rounding() -> None:
    """928 of 1,000 are 92.8 %, and not 92.80000000000001 %; of 3 classes one has a third."""
    labels = [0] * 994 + [1] * 3 + [2] * 3
    first = simulated([True] * 924 + [False] * 70 + [True] + [False] * 2 + [True] * 3, labels)
    other = simulated([True] * 921 + [False] * 79, labels, quality=50, data="q50")
    assert first.scores.top1 == first.scores.top5 == 92.8
    results, pairs = [first, other], compare_evaluations([first, other])
    write_scores(Path("scores.csv"), results, pairs)
    write_classes(Path("classes.csv"), results)
    head, *rows = table("scores.csv")
    assert dict(zip(head, rows[0], strict=True))["top1"] == "92.8"
    assert dict(zip(head, rows[1], strict=True))["difference"] == "-0.7"
    assert table("classes.csv")[2][2:] == ["33.33333333", "0.0"]
    assert first.as_dict()["class_accuracy"]["dog"] == 33.33333333
    numbers = [float(cell) for row in rows for cell in row if re.fullmatch(r"[-+.\de]+", cell)]
    assert [float(f"{number:.10g}") for number in numbers] == numbers


def test_no_difference_has_an_interval_of_its_own() -> None:
    """64 images, all answered alike: the table no longer says that 0 is known exactly."""
    answers, labels = [True] * 50 + [False] * 14, [0] * 64
    results = [simulated(answers, labels), simulated(answers, labels, quality=50, data="q50")]
    paired = paired_table(results, compare_evaluations(results))
    assert paired is not None
    (row,) = paired[1]
    assert row[1:6] == ["+0.00", "-5.66 to +5.66", "0", "0", "1.000"]


def test_classes_of_different_images_are_counted_by_evaluation_and_names_keep_their_bytes() -> None:
    classes = ("n01440764", "caf\udce9", "empty")
    one = simulated([True, True, False], [0, 1, 1], data="one", classes=("0", "1", "2"), named=False)
    two = simulated([True], [0], data="two", classes=classes, keys="other")
    write_classes(Path("classes.csv"), [one, two])
    assert table("classes.csv") == [
        ["class", "name", "images, one, source", "images, two, source", "one, source", "two, source"],
        ["n01440764", "tench, Tinca tinca", "1", "1", "100.0", "100.0"],
        ["caf\udce9", "caf\udce9", "2", "0", "50.0", ""],
        ["empty", "empty", "0", "0", "", ""],
    ]


def test_classes_in_another_order_are_paired_and_counted_by_name() -> None:
    one = simulated([True, True, False], [0, 1, 1], run="one", classes=("a", "b"))
    two = simulated([False, True, True], [1, 0, 0], run="two", classes=("b", "a"))
    pair = compare_evaluations([one, two])[1]
    assert pair is not None
    assert (pair.lost, pair.gained) == (1, 1)
    write_classes(Path("classes.csv"), [one, two])
    assert table("classes.csv")[1:] == [["a", "1", "100.0", "0.0"], ["b", "2", "50.0", "100.0"]]
    other = simulated([False, True, True], [0, 1, 1], run="two", classes=("b", "a"))
    assert compare_evaluations([one, other]) == [None, None], "the same numbers of other classes"


def test_the_classes_that_changed_most_have_corrected_p_values() -> None:
    """Three classes of 100 images: one loses 30, one gains 3, and one loses as many as it gains."""
    labels = [0] * 100 + [1] * 100 + [2] * 100
    before = [True] * 300
    before[100:103] = [False] * 3
    before[200:205] = [False] * 5
    after = [True] * 300
    after[:30] = [False] * 30
    after[205:210] = [False] * 5
    results = [simulated(before, labels), simulated(after, labels, quality=50, data="q50")]
    changed = changed_classes(results, compare_evaluations(results))
    assert changed is not None
    tested, sentence = changed
    assert tested is not None
    assert tested[0][-1] == "p (Holm)"
    assert tested[1] == [["cat", "50", "100", "100.0", "-30.0", "30", "0", "< 0.001"]], "p of the dog is 0.5"
    assert sentence.endswith("for all 3 comparisons of a class. Told apart are these, and no others.")
    assert changed_classes(results[:1], [None]) is None
    assert changed_classes([results[0], results[0]], compare_evaluations([results[0], results[0]])) is None


def test_where_no_class_is_told_apart_a_sentence_says_why() -> None:
    labels = [0] * 3 + [1] * 3
    one_each = [simulated([True, True], [0, 1]), simulated([False, True], [0, 1], quality=50, data="q50")]
    few = [simulated([True] * 6, labels), simulated([False] * 3 + [True] * 3, labels, quality=50, data="q50")]
    many = [simulated([True] * 40, [0, 1] * 20), simulated([False] * 2 + [True] * 38, [0, 1] * 20, quality=50, data="q50")]
    for results, why in (
        (one_each, "with one image a class, even one that is lost entirely has p = 1 among 2 comparisons of a class"),
        (few, "with at most 3 images a class, even one that is lost entirely has p = 0.5 among 2 comparisons of a class"),
        (many, "the smallest p among 2 comparisons of a class (McNemar's test, Holm's correction) is 1."),
    ):
        changed = changed_classes(results, compare_evaluations(results))
        assert changed is not None
        assert changed[0] is None
        assert changed[1].startswith("No class is told apart from source: ")
        assert why in changed[1]


def test_equal_models_have_no_class_that_stands_out_in_19_of_20() -> None:
    """50 classes of 40 images, a tenth of the images flip: without Holm's correction most comparisons would show a class."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(50), 40)
    names = tuple(f"class {number}" for number in range(50))
    positives: Counter[bool] = Counter()
    for _ in range(200):
        first = random.random(2000) < 0.8
        second = first ^ (random.random(2000) < np.where(first, 0.05 / 0.8, 0.05 / 0.2))
        results = [simulated(list(right), list(labels), classes=names) for right in (first, second)]
        changed = changed_classes(results, compare_evaluations(results))
        assert changed is not None
        positives[changed[0] is not None] += 1
    assert positives[True] <= 200 * 0.05 + 3 * (200 * 0.05 * 0.95) ** 0.5


def test_tables_of_two_runs_at_six_qualities_fit_a_terminal_of_80_columns() -> None:
    labels = [0] * 4000
    results = []
    for run in ("two_phase", "restart_only"):
        for quality, right in (("source", 3000), (90, 3000), (10, 2910)):
            at_load = None if quality == "source" else f"quality {quality}, on the fly, before the crop"
            hits = [True] * right + [False] * (4000 - right)
            results.append(simulated(hits, labels, run=run, at_load=at_load, tested=quality))
    pairs = compare_evaluations(results)
    for shown in (score_table(results), accuracy_matrix(results), paired_table(results, pairs)):
        assert shown is not None
        wide = [max(len(cell) for cell in column) for column in zip(shown[0], *shown[1], strict=True)]
        assert sum(wide) + 2 * (len(wide) - 1) <= 80
    matrix = accuracy_matrix(list(reversed(results)))
    assert matrix == (
        ["top-1, %", "source", "90", "10"],
        [["restart_only", "75.00", "75.00", "72.75"], ["two_phase", "75.00", "75.00", "72.75"]],
    )
    assert paired_verdicts(results, pairs) == (
        "By McNemar's test at 5 %, each comparison by itself, lower: two_phase, 10 | restart_only, 10; no detectable "
        "difference in the others."
    )
    assert paired_verdicts(results[:2], pairs[:2]).endswith("each comparison by itself, no detectable difference.")


def test_betons_are_distinguished_by_their_names() -> None:
    right, labels = [True, False], [0, 1]
    betons = [simulated(right, labels, data=f"betons/{name}.beton") for name in ("val", "other")]
    encoded = [replace(stored, tested=10, at_load="quality 10, on the fly, before the crop") for stored in betons]
    assert accuracy_matrix([*betons, *encoded]) == (
        ["top-1, %", "source", "10"],
        [["val", "50.00", "50.00"], ["other", "50.00", "50.00"]],
    )
    columns, rows = score_table(betons)
    assert (columns[:2], [row[0] for row in rows]) == (["data", "quality"], ["val", "other"])
    alike = [betons[0], replace(betons[1], data=Path("elsewhere/val.beton"))]
    assert [row[0] for row in score_table(alike)[1]] == ["betons/val", "elsewhere/val"]


@pytest.mark.parametrize(
    ("runs", "names"),
    [
        ([("a/x", "raw"), ("b/y", "raw")], ["x", "y"]),
        ([("a/x", "raw"), ("b/x", "ema")], ["a/x", "b/x"]),
        ([("a/x", "raw"), ("a/x", "ema"), ("a/y", "raw")], ["x (raw)", "x (ema)", "y"]),
        ([("a/x", "raw"), ("a/x", "raw")], ["x", "x #2"]),
    ],
)
def test_runs_are_named_by_folder_then_weights_then_number(runs: list[tuple[str, str]], names: list[str]) -> None:
    assert run_names([(Path(folder), weights) for folder, weights in runs]) == names


def test_qualities_after_the_resize_are_named_once_for_all() -> None:
    after, before = "quality 50, on the fly, after the resize", "quality 50, on the fly, before the crop"
    assert quality_names([("source", None), (50, after)]) == (["source", "50"], ", encoded after the resize")
    assert quality_names([(50, before), (50, after), (None, None)]) == (["50", "50, after the resize", "not known"], "")


def test_two_weights_of_one_folder_are_two_runs() -> None:
    raw = simulated([True, False], [0, 1])
    results = [raw, replace(raw, weights="ema")]
    assert [name for name, _ in quality_lines(results)] == ["run (raw)", "run (ema)"]
    assert [row[0] for row in score_table(results)[1]] == ["run (raw)", "run (ema)"]
