"""Comparison of the same images' raw Grad-CAM maps at several qualities and in several runs, over whole validation sets.

All maps of an image explain the same class, so that they never differ only because they explain different classes: the first
run's prediction at the first quality, or the label. Each view's own prediction is explained on request. Maps are compared raw,
on the layer's own grid: per-image normalisation (pytorch-grad-cam's default) hides magnitude, and can by itself make other
regions look brighter.

All images pass once, and only columns of numbers are kept of them; the few that are shown then pass a second time.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from jpegcurr.analysis.cam.example_selection import choose_examples
from jpegcurr.analysis.cam.faithfulness import find_metrics
from jpegcurr.analysis.cam.methods import OURS, find_method
from jpegcurr.analysis.cam.pipeline import PreparedImage, ResultCollector, ViewOutput, ViewRunner
from jpegcurr.analysis.cam.results import CamStudy, CamView, Example, ExamplePrediction, Rule, TargetRule, ViewColumns
from jpegcurr.analysis.fingerprint import file_facts, find_changed_file, machine_facts, model_facts
from jpegcurr.analysis.journal import Journal, Part
from jpegcurr.analysis.layers import stages
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality, as_specs
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.sources.labelled_files import LabelledFiles, find_labelled
from jpegcurr.errors import UsageError
from jpegcurr.recipe.values import Stage
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.text import sanitize
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.description import describe_model, hash_weights
from jpegcurr.training.models.load import Models, load_models

NEAR = EncodeSpec(95)  # a change that nobody sees, whose effect on the maps is the ceiling of the comparison
PICTURES = 60
TOP = 3  # likeliest classes of an example


def compare_cams(
    models: Models,
    images: str | Path,
    qualities: Sequence[EncodeSpec | Quality],
    runtime: Runtime | None = None,
    *,
    layer: str | None = None,
    method: str = OURS,
    labels: str | Path | None = None,
    target_rule: TargetRule = "reference",
    limit: int | None = None,
    pictures: int = PICTURES,
    seed: int = 0,
    metrics: Sequence[str] = (),
    threads: int | None = None,
    max_pixels: int = MAX_PIXELS,
    stage: Stage = "before_crop",
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    journal: Journal | None = None,
) -> CamStudy:
    """Compute the maps of every image of a folder in every model at every quality, and compare them.

    Each image is re-encoded at full resolution, exactly as ``jpegcurr encode`` stores it, before it is cropped; or, with
    ``stage``, the crop that the model gets is, of one decode and one resize for all qualities. An image and view takes about
    100 bytes. Where fewer than half of the images have another one of their class (because these are not known, say), the
    first view's maps are kept too, 200 bytes an image on a grid of 7x7: the baseline then compares images half the list apart.

    Args:
        models: whatever ``load_model`` takes, one or more with the same classes, in any order; the first at the first quality
            is the reference. A mapping gives networks their names.
        images: a folder of them, in folders named after their classes or not; or one file.
        labels: a table of the images' classes, as for ``jpegcurr encode``, instead of their folders' names.
        qualities: numbers, ``source``, or ``EncodeSpec``.
        runtime: the device to compute on; by default a GPU if there is one.
        layer: the name of the layer explained; timm's last stage if None.
        method: one of ``methods.METHODS``.
        target_rule: the class explained.
        limit: the maximum number of images, evenly spaced over the folder; None for all.
        pictures: the maximum number of images whose maps and pictures are kept, see ``example_selection.choose_examples``.
        seed: the seed of the random ones among them, and of the noise in ``metrics``.
        metrics: names in ``faithfulness.FAITHFULNESS``, computed for every view's own map; each costs up to tens of forward
            passes an image.
        threads: threads for reading and encoding; the number of processors if None.
        max_pixels: how many pixels an image may have; a larger one is skipped.
        stage: encode the whole image, or, as ``after_resize``, what the model gets of it, which degrades it much more.
        progress: called with the number of images done and in all; at the end pictures are drawn, which do not count.
        journal: keeps the results of every batch, about as many bytes as they take in memory and the first view's maps; and has
            those of an interrupted comparison.

    Raises:
        UsageError: no image can be read or explained, the models have different classes or grids or cannot be loaded, or there
            is no such layer, method, metric or target rule, or a quality is given twice; or the journal is of another
            comparison.
        EncodeError: the disk or the network folder with the images fails.
    """
    folder, specs, runtime = Path(images), as_specs(qualities), runtime or resolve_runtime()
    runs = load_models(models, runtime)
    first = runs[0]
    for run in runs[1:]:
        _check_classes(first, run)
    if target_rule not in get_args(TargetRule):
        raise UsageError(f"--target {target_rule!r} is not known. Give {', '.join(get_args(TargetRule))}.")
    _check_stage(stage, specs)
    near = NEAR if specs[0].quality == "source" else None
    measures = find_metrics(metrics)
    layer = layer or last_stage(first)
    hashes = [(run, hash_weights(run)) for run in runs]
    views = tuple(CamView(run.path, run.weights, spec.name, sha256) for run, sha256 in hashes for spec in specs)
    available = find_labelled([folder], None if labels is None else Path(labels))
    labelled = available.take(_evenly_spaced(len(available), limit))
    files = list(labelled.files)
    labelled = labelled.renamed(first.class_list.truths)
    truths = dict(zip(files, labelled.numbers(first.classes, known=first.names_known), strict=True))
    runner = ViewRunner(
        runs, specs, layer, find_method(method), target_rule, runtime, truths, near, measures, seed, max_pixels, stage
    )
    total = len(files)
    journal = journal or Journal()
    if journal.path is not None:
        facts = _describe_work(runner, labelled, folder, method, list(metrics))
        if done := journal.begin(facts, partial(find_changed_file, files)):
            progress(done, total)
    results = _collect(runner, files, threads, journal.part(0), lambda done: progress(done, total))
    files = results.files()
    if not files:
        what = "read, or explained" if target_rule == "label" else "read"
        name, reason = results.skipped[0]
        raise UsageError(f"{folder}: none of the {len(results.skipped)} images can be {what}. {name}: {reason}.")
    columns, truth, (baseline, baseline_of) = results.columns(), results.truth(), results.baseline()
    chosen = choose_examples(columns, truth, pictures, seed)
    examples, lost_files = _run_examples(runner, files, columns, chosen, threads)
    return CamStudy(
        views=views,
        classes=first.classes,
        names=tuple(_name(file, folder) for file in files),
        truth=truth,
        converted=results.converted(),
        columns=columns,
        baseline=baseline,
        ceiling=results.ceiling(),
        baseline_of=baseline_of,
        examples=tuple(examples),
        skipped=(*results.skipped, *lost_files),
        unknown=labelled.describe_unknown(first.classes, sanitize(first.path), known=first.names_known),
        available=len(available),
        layer=layer,
        grid=results.grid,
        runtime=runtime.reason,
        preprocessing=tuple(str(describe_model(run)) for run in runs),
        method=method,
        target_rule=target_rule,
        seed=seed,
        stage=stage,
        jpegs=results.jpegs,
    )


def _check_stage(stage: Stage, specs: Sequence[EncodeSpec]) -> None:
    """Raise UsageError for a stage that is none, and for specifications that only whole images can have."""
    if stage not in get_args(Stage):
        raise UsageError(f"stage {stage!r} is not known. Give {' or '.join(get_args(Stage))}.")
    if stage == "after_resize" and any(spec.resize or spec.subsampling == "keep" for spec in specs):
        raise UsageError(
            "A resize, or the subsampling keep, is of a stored image, and stage after_resize encodes its crop. Give qualities, "
            "with subsampling 420, 422 or 444."
        )


def last_stage(run: Classifier) -> str:
    """Return the layer that is explained if none is named; raise UsageError if timm names no stages of the model."""
    names = stages(run.model)
    if not names:
        raise UsageError(
            f"{run.path}: timm names no stages of it. Give the layer to explain as --layer (in Python, layer='...')."
        )
    return names[-1]


def _check_classes(first: Classifier, run: Classifier) -> None:
    """Raise UsageError if two runs do not have the same classes; their order may differ if the names are known."""
    known = first.names_known and run.names_known
    if set(run.classes) != set(first.classes) or (run.classes != first.classes and not known):
        stray = next(iter(sorted(set(run.classes) ^ set(first.classes))), "")
        example = f" ({sanitize(stray)!r} is a class of only one)" if stray else ""
        raise UsageError(
            f"{run.path} and {first.path} have different classes{example}, so their maps explain different things. Compare "
            "each with runs of the same classes."
        )


def _evenly_spaced(count: int, limit: int | None) -> list[int]:
    """Return at most ``limit`` indices of ``count`` files."""
    spaced: list[int] = np.unique(np.linspace(0, count - 1, min(limit or count, count)).round().astype(int)).tolist()
    return spaced


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file != folder else file.name


def _describe_work(
    runner: ViewRunner, labelled: LabelledFiles, folder: Path, method: str, metrics: Sequence[str]
) -> dict[str, Any]:
    """Return everything that decides the results of the first pass, for the journal."""
    return {
        "qualities": [spec.name for spec in runner.specs],
        "--on-the-fly": runner.stage == "after_resize",
        "--layer": runner.layer,
        "--method": method,
        "--target": runner.target_rule,
        "--metrics": list(metrics),
        "--seed": runner.seed if metrics else None,
        "--max-pixels": runner.max_pixels,
        "number of images": len(labelled),
        **model_facts(runner.runs),
        **file_facts(labelled, str(folder)),
        **machine_facts(runner.runtime),
    }


def _collect(
    runner: ViewRunner, files: Sequence[Path], threads: int | None, kept: Part, on_done: Callable[[int], None]
) -> ResultCollector:
    """Return the results of the first pass, over all images, from those that an interrupted run has ``kept``."""
    results = ResultCollector(runner, files)
    for batch_results in kept.recovered():
        results.restore(batch_results)
    with closing(runner.batches(files[results.added :], threads)) as batches:
        for batch in batches:
            kept.append(len(batch), results.add(batch))
            on_done(results.added)
    return results


def _run_examples(
    runner: ViewRunner,
    files: Sequence[Path],
    columns: Sequence[ViewColumns],
    chosen: Sequence[tuple[int, tuple[Rule, ...]]],
    threads: int | None,
) -> tuple[list[Example], list[tuple[str, str]]]:
    """Return the chosen images from a second pass, which explains the same classes, and those that cannot be read any more."""
    runner = replace(runner, near=None, measures={})
    choices = {files[index]: (index, rules) for index, rules in chosen}
    examples: list[Example] = []
    lost_files: list[tuple[str, str]] = []
    with closing(runner.batches(list(choices), threads)) as batches:
        for batch in batches:
            lost_files += [
                (str(image.file), f"it was compared, but could not be read again to be shown: {image.reason}")
                for image in batch
                if not image.crops
            ]
            readable = [image for image in batch if image.crops]
            if readable:
                places = [choices[image.file] for image in readable]
                targets = [view.target[[index for index, _ in places]] for view in columns]
                outputs, _ = runner.run_batch(readable, targets)
                examples += [
                    _example(runner, number, *places[number], readable[number], outputs) for number in range(len(readable))
                ]
    return examples, lost_files


def _example(
    runner: ViewRunner, number: int, index: int, rules: tuple[Rule, ...], image: PreparedImage, outputs: list[ViewOutput]
) -> Example:
    """Return image ``number`` of a batch as an example."""
    pictures = {spec.name: image.crops[0, spec.name].permute(1, 2, 0).numpy() for spec in runner.specs}
    return Example(index, rules, pictures, tuple(_prediction(output, number, runner.runs[0].classes) for output in outputs))


def _prediction(output: ViewOutput, number: int, classes: Sequence[str]) -> ExamplePrediction:
    logits, target = output.logits[number], int(output.targets[number])
    likeliest = logits.softmax(dim=0).topk(min(TOP, len(classes)))
    top = tuple(
        (classes[label], share) for label, share in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    )
    return ExamplePrediction(top, float(logits[target]), output.maps[number].copy(), classes[target])
