"""Accuracy of runs on validation sets, as they are stored and at other JPEG qualities, on the same images."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jpegcurr.analysis.evaluation.facts import evaluation_facts, find_changed_set
from jpegcurr.analysis.evaluation.image_set import ImageLoader, ImageSet
from jpegcurr.analysis.evaluation.jpeg_bytes import JpegBytes, Measured, bytes_of, measure_sets
from jpegcurr.analysis.evaluation.merge import Merge
from jpegcurr.analysis.evaluation.naming import data_names, pass_name, quality_names, run_names
from jpegcurr.analysis.evaluation.per_image import Outcomes, observe
from jpegcurr.analysis.evaluation.qualities import EvaluationSet, plan_pass
from jpegcurr.analysis.evaluation.sets import at_load, choose_sets, judged_classes, open_sets, tested_quality
from jpegcurr.analysis.journal import Journal
from jpegcurr.analysis.stats import Paired, class_accuracy, compare_paired
from jpegcurr.encoding.jpeg.codec import Quality, check_quality
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.files import json_values
from jpegcurr.recipe.values import OnTheFlyJpeg, Stage
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.text import join_words
from jpegcurr.training.data.classes import Classes, have_same_labels
from jpegcurr.training.data.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.data.sampling import EpochSampler, Loader
from jpegcurr.training.metrics import Scores
from jpegcurr.training.models.classifier import Classifier, Run
from jpegcurr.training.models.description import ModelDescription, describe_model
from jpegcurr.training.models.finite import require_finite
from jpegcurr.training.models.load import Models, load_models

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """The outcomes of one run on one beton, as it is stored or encoded again when it is loaded.

    Attributes:
        run, weights: the run's folder and which of its weights.
        data, quality: the beton and its quality, None if the manifest is missing.
        tested: the quality that the model saw, None if it is unknown or not one number.
        at_load: a description of the encoding on the fly, None if there is none.
        loader: the decode path, ``compiled``, ``ffcv`` or ``plain``; ``images`` where these were not in a beton.
        classes, names_known: the run's class names; the numbers of its outputs if the names are not known.
        description: the hash of the model's weights, and its preprocessing.
        keys: a fingerprint of the beton's images and their order, None if it is unknown.
        outcomes: one row for each image.
        merged: the outputs whose probabilities were added, by class; None if there are none.
        jpegs: the bytes of the images that were evaluated; None where they are encoded after the resize or at several
            qualities, which no file stores, and where nobody asked ``evaluate_runs`` for them.
    """

    run: Path
    weights: str
    data: Path
    quality: Quality | None
    tested: Quality | None
    at_load: str | None
    loader: str
    classes: tuple[str, ...]
    names_known: bool
    description: ModelDescription
    keys: str | None
    outcomes: Outcomes
    merged: Mapping[str, tuple[str, ...]] | None = None
    jpegs: JpegBytes | None = None

    @property
    def class_list(self) -> Classes:
        """The classes of the labels in ``outcomes``."""
        return Classes(self.classes, self.names_known, owner=str(self.run))

    @property
    def scores(self) -> Scores:
        """Top-1, top-5 and loss."""
        return self.outcomes.scores

    def class_accuracy(self) -> dict[str, float]:
        """Return the top-1 of each class, percent, by name; nan for a class without images."""
        shares = class_accuracy(self.outcomes.labels, self.outcomes.right, len(self.classes))
        return dict(zip(self.classes, shares.tolist(), strict=True))

    def class_images(self) -> dict[str, int]:
        """Return the number of images of each class, by name."""
        return dict(zip(self.classes, np.bincount(self.outcomes.labels, minlength=len(self.classes)).tolist(), strict=True))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON; the accuracy of a class without images is None."""
        values: dict[str, Any] = {
            "run": str(self.run),
            "weights": self.weights,
            "data": str(self.data),
            "quality": self.quality,
            "tested": self.tested,
            "at_load": self.at_load,
            "loader": self.loader,
            **self.scores.as_dict(),
            "ece": self.outcomes.calibration_error,
            **(self.jpegs.as_dict() if self.jpegs else {}),
            **({"merged": {name: list(outputs) for name, outputs in self.merged.items()}} if self.merged else {}),
            **self.description.as_dict(),
            "class_images": self.class_images(),
            "class_accuracy": self.class_accuracy(),
        }
        return {name: json_values(value) for name, value in values.items()}


def evaluate(
    models: Models,
    data: str | Path | Sequence[str | Path] | None = None,
    qualities: Sequence[Quality] | None = None,
    *,
    runtime: Runtime | None = None,
    labels: str | Path | None = None,
    stage: Stage = "before_crop",
    loader: str = "auto",
    max_pixels: int = MAX_PIXELS,
    merge: str | Mapping[str, Sequence[str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
    announce: Callable[[str], None] | None = None,
    byte_progress: Callable[[int, int], None] | None = None,
    journal: Journal | None = None,
) -> list[Evaluation]:
    """Evaluate one or more models on the same images, as ``jpegcurr evaluate`` does; every image counts once.

    Args:
        models: whatever ``load_model`` takes, one or more; a mapping gives networks their names.
        data: betons, or labelled images in whatever form ``encode`` takes; by default the first run's own validation sets.
        qualities: encode the images, which must be the source images, again at each of these while they are loaded; as they
            are stored by default.
        runtime: where to compute; by default a GPU if there is one.
        labels: a table of the images' classes, as for ``encode``.
        stage: encode the whole image, or, as ``after_resize``, what the model gets of it, which degrades it much more.
        loader: see ``evaluate_runs``.
        max_pixels: larger images that are in no beton are not read.
        merge: outputs that count as one class, ``{"right": ["a", "b"], ...}`` or as the option ``--merge``: their probabilities
            are added.
        progress: called with the number of images done and in all, counted once for each model; first with those that an
            interrupted evaluation has done, if there are any.
        announce: called before every pass over the images with a name of it, ``two_phase on val-q50.beton``.
        byte_progress: called before, with the number of a beton's images whose bytes at ``qualities`` are measured, and of all.
        journal: keeps the outcomes of every batch, and has those of an interrupted evaluation.

    Returns:
        The evaluations, model by model; ``compare_evaluations`` compares them with the first.

    Raises:
        UsageError, BetonError, SourceError: as ``load_models``, ``choose_sets``, ``open_sets`` and ``Journal.begin`` do.
        JpegcurrError: the outputs of a model are not finite numbers.
    """
    runtime = runtime or resolve_runtime()
    loaded = load_models(models, runtime)
    paths = [data] if isinstance(data, str | Path) else data or ()
    wanted = None if qualities is None else [check_quality(quality) for quality in qualities]
    sets = choose_sets(loaded[0], [Path(path) for path in paths], wanted, stage)
    merged = None if merge is None else Merge.read(merge)
    opened = open_sets(loaded, sets, None if labels is None else Path(labels), max_pixels=max_pixels, merge=merged)
    total = len(loaded) * sum(len(one) for one in opened) // runtime.world.ranks
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    measured = measure_sets(opened, runtime.world, byte_progress)
    passes = evaluate_runs(
        loaded,
        opened,
        runtime,
        loader=loader,
        on_images=count,
        merge=merged,
        announce=announce,
        journal=journal or Journal(),
        measured=measured,
    )
    return list(passes)


def evaluate_run(
    run: Classifier,
    betons: Mapping[str, str | Path | OnTheFlyJpeg],
    runtime: Runtime | None = None,
    *,
    loader: str = "auto",
) -> Iterator[Evaluation]:
    """Yield the evaluation of ``run`` on each beton; see ``open_sets`` and ``evaluate_runs``."""
    sets = {name: Path(val) if isinstance(val, str) else val for name, val in betons.items()}
    return evaluate_runs([run], open_sets([run], sets), runtime or resolve_runtime(), loader=loader)


def evaluate_runs(
    runs: Sequence[Classifier],
    datasets: Sequence[EvaluationSet],
    runtime: Runtime,
    *,
    loader: str = "auto",
    on_images: Callable[[int], None] | None = None,
    merge: Merge | None = None,
    announce: Callable[[str], None] | None = None,
    journal: Journal | None = None,
    measured: Measured | None = None,
) -> Iterator[Evaluation]:
    """Yield the evaluation of each run on each data set, run by run; every image counts once.

    Runs whose images differ in nothing but their normalisation share one pass over a data set, which is then decoded once. So
    do a data set and the qualities of it that are encoded after the resize.

    Args:
        runs: models in evaluation mode.
        datasets: as ``open_sets`` opens them.
        runtime: where to compute, and in which precision.
        loader: the decode path for all runs: a kind of loader, or ``auto``, which is plain if any run was trained with it.
        on_images: called with the number of further images that are done, counted once for each run; first with those that the
            journal has, if any.
        merge: outputs that count as one class; a run with the merged classes as its own is judged as it is.
        announce: called before every pass over the images with a name of it, ``two_phase on val-q50``.
        journal: keeps the outcomes of every batch, and has those of an interrupted evaluation.
        measured: the bytes of betons that are encoded on the fly, where these are wanted.

    Raises:
        UsageError: ``merge`` has an output that a run lacks, or leaves one out; or the journal is of another evaluation.
        RecipeError: the loader asked for is not available.
        JpegcurrError: the outputs of a run for an image are not finite numbers.
    """
    without_ffcv = any(run.loader == "plain" for run in runs) or all(isinstance(dataset, ImageSet) for dataset in datasets)
    kind, _ = choose_kind("plain" if loader == "auto" and without_ffcv else loader)
    journal = journal or Journal()
    if journal.path is not None:
        facts = evaluation_facts(runs, datasets, runtime, kind, [_loss_name(run) for run in runs], merge)
        done = journal.begin(facts, partial(find_changed_set, datasets))
        if done and on_images:
            on_images(done)
    pending: dict[tuple[int, int], Outcomes] = {}  # by run and data set
    reported: set[Path] = set()
    read: dict[int, JpegBytes] = {}  # of images in no beton, by data set
    paths = [dataset.path for dataset in datasets]
    for row, run in enumerate(runs):
        for column, dataset in enumerate(datasets):
            if (row, column) not in pending:
                together = [other for other, candidate in enumerate(runs) if _input_key(candidate) == _input_key(run)]
                models = [(runs[other].model, runs[other].normalise) for other in together]
                plan = plan_pass(dataset, datasets)
                of_set = _open_loader(run, plan.dataset, kind, runtime, merge)
                groups = None if merge is None else merge.numbers(run.class_list)
                loss = _loss_name(run) if merge is None else "cross_entropy"
                kept = journal.part(row * len(datasets) + column)
                if announce is not None:
                    names = run_names([(runs[other].path, runs[other].weights) for other in together])
                    shared = [datasets[other] for other in plan.columns]
                    named, remark = quality_names(dict.fromkeys((tested_quality(one), at_load(one)) for one in shared))
                    quality = join_words(named) + remark if any(map(at_load, shared)) else ""
                    announce(pass_name(names, data_names(paths)[dataset.path], quality))
                observed = observe(
                    models, of_set, runtime, on_images, kept=kept, loss=loss, groups=groups, qualities=plan.qualities
                )
                if isinstance(of_set, ImageLoader):
                    read |= dict.fromkeys(plan.columns, of_set.read.over(runtime.world))
                    if of_set.unread and dataset.path not in reported:
                        reported.add(dataset.path)
                        log.warning("%s", _describe_unread(dataset, of_set.unread))
                for at, of_column in zip(plan.columns, observed, strict=True):
                    pending |= {(other, at): of_run for other, of_run in zip(together, of_column, strict=True)}
            outcomes = pending.pop((row, column))
            _check_finite(run, dataset, outcomes)
            jpegs = bytes_of(dataset, read.get(column), measured or {})
            yield replace(_evaluation(run, dataset, kind, outcomes, merge), jpegs=jpegs)


def _loss_name(run: Classifier) -> str:
    """Return the loss that a run was trained by, with which ``image_losses`` judges it as during training."""
    return run.recipe.optim.loss if isinstance(run, Run) else "cross_entropy"


def _open_loader(run: Classifier, dataset: EvaluationSet, kind: str, runtime: Runtime, merge: Merge | None) -> Loader:
    """Open a loader of this process's share of a set, with labels that are numbers of the run's classes."""
    world, workers = runtime.world, loading_workers(runtime.world.local_ranks)
    matched = dataset.match(judged_classes(run, merge))
    if isinstance(matched, ImageSet):
        return ImageLoader(matched, run.image, run.batch, runtime, workers)
    sampler = EpochSampler.of(matched.variant, run.image, batch=run.batch, workers=workers)
    return open_loader(kind, replace(sampler, rank=world.rank, ranks=world.ranks), runtime)


def _describe_unread(dataset: EvaluationSet, unread: Sequence[tuple[str, str]]) -> str:
    name, reason = unread[0]
    return f"{len(unread):,} of {len(dataset):,} images of {dataset.path} cannot be read and are left out; {name}: {reason}"


def _check_finite(run: Classifier, dataset: EvaluationSet, outcomes: Outcomes) -> None:
    values = torch.from_numpy(np.stack([outcomes.confidence, outcomes.loss], axis=1))
    require_finite(values, run.path, [f"sample {number} of {dataset.path}" for number in range(len(outcomes))])


def _input_key(run: Classifier) -> tuple[object, ...]:
    """Return what has to be equal for two runs to get the same batches, to the bit, with the same labels."""
    image = run.image
    view = image.size, image.interpolation, image.val_crop, image.val_resize
    return *view, run.batch, run.classes, run.names_known, run.class_list.targets, _loss_name(run)


def _evaluation(run: Classifier, dataset: EvaluationSet, kind: str, outcomes: Outcomes, merge: Merge | None) -> Evaluation:
    classes = judged_classes(run, merge)
    return Evaluation(
        run=run.path,
        weights=run.weights,
        data=dataset.path,
        quality=dataset.quality,
        tested=tested_quality(dataset),
        at_load=at_load(dataset),
        loader="images" if isinstance(dataset, ImageSet) else kind,
        classes=classes.names,
        names_known=classes.known,
        description=describe_model(run),
        keys=dataset.keys,
        outcomes=outcomes,
        merged=None if merge is None or merge.leaves(run.class_list) else merge.groups,
    )


def compare_evaluations(results: Sequence[Evaluation]) -> list[Paired | None]:
    """Compare each evaluation with the first; None for the first itself and for those on other images."""
    first, *others = results
    return [None, *(_compare(first, other) for other in others)]


def _compare(first: Evaluation, other: Evaluation) -> Paired | None:
    same_keys = None in (first.keys, other.keys) or first.keys == other.keys
    if not same_keys or not have_same_labels(first.outcomes.labels, first.class_list, other.outcomes.labels, other.class_list):
        return None
    return compare_paired(first.outcomes.right, other.outcomes.right)


def paired_values(pair: Paired | None) -> dict[str, Any] | None:
    """Return plain values by name, for JSON; None for None."""
    if pair is None:
        return None
    return {name: json_values(value) for name, value in asdict(pair).items()} | {"verdict": pair.verdict}
