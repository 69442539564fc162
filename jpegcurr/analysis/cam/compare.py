"""Raw Grad-CAM maps of the same images at several qualities and in several runs, over whole validation sets.

The class explained is one per image, so that two maps never differ because they explain different classes: the first run's
prediction at the first quality, or the true class. Each view's own prediction is explained only if that is asked for. Maps
are compared raw, on the layer's own grid: per-image normalisation (pytorch-grad-cam's default) hides magnitude and can by
itself make other regions look brighter.

All images go by once, and of each only figures are kept; then the few that are shown are looked at again.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from jpegcurr.analysis.cam.example_selection import choose_examples
from jpegcurr.analysis.cam.faithfulness import find_metrics
from jpegcurr.analysis.cam.methods import OURS, find_method
from jpegcurr.analysis.cam.pipeline import PreparedImage, ResultCollector, ViewOutput, ViewRunner
from jpegcurr.analysis.cam.results import CamStudy, CamView, Example, ExamplePrediction, Explains, Rule, ViewColumns
from jpegcurr.analysis.layers import stages
from jpegcurr.analysis.prediction.predict import find_images
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import Run

NEAR = EncodeSpec(95)  # what a change that nobody sees does to a map: the ceiling of the comparison
PICTURES = 60
SHOWN = 3  # likeliest classes of an example


def compare_cams(
    runs: Sequence[Run],
    folder: Path,
    specs: Sequence[EncodeSpec],
    runtime: Runtime,
    *,
    layer: str | None = None,
    method: str = OURS,
    explains: Explains = "reference",
    limit: int | None = None,
    pictures: int = PICTURES,
    seed: int = 0,
    metrics: Sequence[str] = (),
    threads: int | None = None,
    on_images: Callable[[int, int], None] = lambda _done, _total: None,
) -> CamStudy:
    """Make the maps of every image in ``folder`` in every run at every quality, and keep the figures of all of them.

    Each image is re-encoded at full resolution, exactly as ``jpegcurr encode`` stores it, before it is cropped. An image and
    view takes about 100 bytes. Where fewer than half of the images have another one of their class (their folders' names are
    no classes, say), the first view's maps are kept too, 200 bytes an image on a grid of 7x7: the null is then between
    images half the list apart.

    Args:
        runs: of the same classes; the first one's first quality is what the others are compared with.
        folder: images in folders called like their classes, or any.
        specs: the qualities.
        runtime: where to compute.
        layer: the layer explained; the last stage if not given.
        method: one of ``methods.METHODS``.
        explains: the class explained.
        limit: of more images, so many evenly spaced ones; all if not given.
        pictures: images whose maps and pictures are kept, chosen by rule (``sampling.choose_examples``); none if 0.
        seed: of the random ones among these, and of the noise in ``metrics``.
        metrics: of ``faithfulness.METRICS``, for every view's own map; each costs up to tens of forward passes an image.
        threads: for reading and encoding; as many as there are processors if not given.
        on_images: told how many looks are done, and of how many: one for each image, and another for each that is shown.

    Raises:
        UsageError: no image can be read or explained, the runs have different classes or grids, or there is no such layer,
            method, metric or class to explain.
        EncodeError: the disk or the network folder with the images fails.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.classes != first.classes:
            raise UsageError(f"{run.path} and {first.path} have different classes, so their maps explain different things.")
    if explains not in get_args(Explains):
        raise UsageError(f"--target {explains!r} is not known. Give {', '.join(get_args(Explains))}.")
    near = NEAR if specs[0].quality == "source" else None
    measured = find_metrics(metrics)
    look = ViewRunner(runs, specs, layer or _last_stage(first), find_method(method), explains, runtime, near, measured, seed)
    views = tuple(CamView(run.path, run.weights, spec.name, sha256) for run, sha256 in _digests(runs) for spec in specs)
    found = find_images(folder)
    files = _evenly_spaced(found, limit)
    total = len(files) + min(pictures, len(files))
    gathered = _gather(look, files, threads, lambda done: on_images(done, total))
    files = gathered.files()
    if not files:
        what = "read, or explained" if explains == "label" else "read"
        name, reason = gathered.skipped[0]
        raise UsageError(f"{folder}: none of the {len(gathered.skipped)} images can be {what}. {name}: {reason}.")
    columns, truth, (null, null_of) = gathered.columns(), gathered.truth(), gathered.null()
    chosen = choose_examples(columns, truth, pictures, seed)
    examples, gone = _show(look, files, columns, chosen, threads)
    on_images(total, total)
    return CamStudy(
        views=views,
        classes=first.classes,
        names=tuple(_name(file, folder) for file in files),
        truth=truth,
        columns=columns,
        null=null,
        ceiling=gathered.ceiling(),
        null_of=null_of,
        examples=tuple(examples),
        skipped=(*gathered.skipped, *gone),
        found=len(found),
        layer=look.layer,
        grid=gathered.grid,
        runtime=runtime.reason,
        method=method,
        explains=explains,
        seed=seed,
    )


def _last_stage(run: Run) -> str:
    names = stages(run.model)
    if not names:
        raise UsageError(f"{run.path}: timm names no stages of {run.recipe.model.name}. Give the layer to explain as --layer.")
    return names[-1]


def _digests(runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Each run with the SHA-256 of the file that its weights are from; nothing for a run that was made without a folder."""
    found = []
    for run in runs:
        file = (run.path if run.weights == "raw" else run.path / run.weights) / "model.safetensors"
        if file.is_file():
            with file.open("rb") as weights:
                found.append((run, hashlib.file_digest(weights, "sha256").hexdigest()))
        else:
            found.append((run, ""))
    return found


def _evenly_spaced(files: Sequence[Path], limit: int | None) -> list[Path]:
    count = min(limit or len(files), len(files))
    return [files[index] for index in np.unique(np.linspace(0, len(files) - 1, count).round().astype(int))]


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file != folder else file.name


def _gather(look: ViewRunner, files: Sequence[Path], threads: int | None, on_done: Callable[[int], None]) -> ResultCollector:
    """The first look, at all images."""
    gathered = ResultCollector(look, files)
    done = 0
    with closing(look.batches(files, threads)) as batches:
        for batch in batches:
            gathered.add(batch)
            done += len(batch)
            on_done(done)
    return gathered


def _show(
    look: ViewRunner,
    files: Sequence[Path],
    columns: Sequence[ViewColumns],
    chosen: Sequence[tuple[int, tuple[Rule, ...]]],
    threads: int | None,
) -> tuple[list[Example], list[tuple[str, str]]]:
    """The second look, at the chosen images, which explains what the first did; and those that cannot be read any more."""
    look = replace(look, near=None, metrics={})
    rules = {files[index]: (index, rules) for index, rules in chosen}
    examples: list[Example] = []
    gone: list[tuple[str, str]] = []
    with closing(look.batches(list(rules), threads)) as batches:
        for batch in batches:
            gone += [
                (str(each.file), f"read once, but not again to be shown: {each.reason}") for each in batch if not each.views
            ]
            read = [each for each in batch if each.views]
            if read:
                places = [rules[each.file] for each in read]
                targets = [each.target[[index for index, _ in places]] for each in columns]
                sights, _ = look.see(read, targets)
                examples += [_example(look, number, *places[number], read[number], sights) for number in range(len(read))]
    return examples, gone


def _example(
    look: ViewRunner, number: int, index: int, rules: tuple[Rule, ...], cropped: PreparedImage, sights: list[ViewOutput]
) -> Example:
    """Image ``number`` of a batch."""
    pictures = {spec.name: cropped.views[0, spec.name].permute(1, 2, 0).numpy() for spec in look.specs}
    return Example(index, rules, pictures, tuple(_seen(sight, number, look.runs[0].classes) for sight in sights))


def _seen(sight: ViewOutput, number: int, classes: Sequence[str]) -> ExamplePrediction:
    logits, target = sight.logits[number], int(sight.targets[number])
    likeliest = logits.softmax(dim=0).topk(min(SHOWN, len(classes)))
    top = tuple(
        (classes[label], share) for label, share in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
    )
    return ExamplePrediction(top, float(logits[target]), sight.maps[number].copy(), classes[target])
