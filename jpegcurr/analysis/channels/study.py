"""Changes of a network's channels with the JPEG quality of its input: one pass over a validation set.

The qualities go through the model side by side, batch by batch, so that each image's channels are compared with its own at the
first quality. Nothing is kept but sums: the memory does not grow with the number of images.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch

from jpegcurr.analysis.channels.activations import LayerSummary, pick_layers, watch_layers
from jpegcurr.analysis.channels.statistics import Channels, RunningStats, summarise_channels
from jpegcurr.analysis.evaluation.naming import quality_names
from jpegcurr.analysis.evaluation.sets import tested_quality
from jpegcurr.analysis.layers import Layout
from jpegcurr.analysis.stats import Flags
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.data.datasets import Dataset, describe_unpaired
from jpegcurr.training.data.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.data.sampling import EpochSampler, Loader
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.description import ModelDescription, describe_model


@dataclass(frozen=True, slots=True, eq=False)
class LayerStudy:
    """One layer's channels at every quality; the first quality is the reference for the others."""

    layer: str
    layout: Layout
    channels: tuple[Channels, ...]

    def __len__(self) -> int:
        return len(self.channels[0].mean)


@dataclass(frozen=True, slots=True)
class QualityColumn:
    """One quality of a study: a beton, as it is stored or encoded again when it is loaded.

    Attributes:
        name: what tells it from the other qualities.
        data, quality: the beton and its quality, None if the manifest is missing.
        tested: the quality that the model saw, None if it is unknown or not one number.
        at_load: a description of the encoding on the fly, None if there is none.
    """

    name: str
    data: Path
    quality: Quality | None
    tested: Quality | None
    at_load: str | None


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStudy:
    """Channels of a run at several qualities.

    Attributes:
        run, weights, loader: the run's folder, which of its weights, and the decode path.
        description: the hash of the model's weights, and its preprocessing.
        images: the number of images at each quality.
        columns: the qualities, the reference first.
        layers: statistics over all images.
        chosen: statistics over the chosen images alone; empty if none were chosen.
    """

    run: Path
    weights: str
    loader: str
    description: ModelDescription
    images: int
    columns: tuple[QualityColumn, ...]
    layers: tuple[LayerStudy, ...]
    chosen: tuple[LayerStudy, ...] = ()


def study_channels(
    run: Classifier,
    datasets: Sequence[Dataset],
    runtime: Runtime,
    *,
    layers: Sequence[str] = (),
    loader: str = "auto",
    chosen: Flags | None = None,
    on_images: Callable[[int], None] | None = None,
) -> ChannelStudy:
    """Run every image once at every quality, and return the statistics of the channels of ``layers``.

    Args:
        run: the model.
        datasets: one for each quality, as ``sets.open_sets`` opens them; the first is the reference for the others.
        runtime: where to compute; always in float32, as ``cam`` does.
        layers: names of layers; all stages that timm names if empty.
        loader: see ``open_loaders``.
        chosen: bool [images], the images of ``ChannelStudy.chosen``.
        on_images: called with the number of further images that are done, counted once for each quality.

    Raises:
        UsageError: the data sets hold different images, or a layer's channel axis is not known.
        RecipeError: the loader asked for is not available.
    """
    check_same_images(datasets)
    picked = pick_layers(run.model, layers)
    kind, loaders = open_loaders(run, datasets, runtime, loader)

    def batches() -> Iterator[list[torch.Tensor]]:
        for at_every_quality in zip(*(of_quality.at(0) for of_quality in loaders), strict=True):
            yield [run.normalise(batch) for batch, *_ in at_every_quality]
            if on_images:
                on_images(sum(len(batch) for batch, *_ in at_every_quality))

    with whole_float32():  # rounding would be a change too
        whole, half = follow_channels(run.model, picked, batches(), chosen, source=run.path)
    images, description = whole[0].channels[0].images, describe_model(run)
    return ChannelStudy(run.path, run.weights, kind, description, images, _columns(datasets), whole, half)


def follow_channels(
    model: torch.nn.Module,
    layers: Sequence[str],
    batches: Iterable[Sequence[torch.Tensor]],
    chosen: Flags | None = None,
    *,
    source: Path | str = "the model",
) -> tuple[tuple[LayerStudy, ...], tuple[LayerStudy, ...]]:
    """Return the statistics over all images, and over the ``chosen`` ones, bool [images]; the latter are empty without any.

    ``batches`` yields normalised images, float [b 3 s s], the same ones at every quality; there is at least one batch. Raises
    JpegcurrError, which names ``source``, if an output of the model is not a finite number.
    """
    collector = _StatsCollector(layers)
    start = 0
    with watch_layers(model, layers, source) as summarise:
        for batch in batches:
            end = start + len(batch[0])
            rows = np.zeros(end - start, np.bool_) if chosen is None else chosen[start:end]
            collector.add([summarise(images) for images in batch], rows)
            start = end
    half = collector.summarise((True,)) if chosen is not None and chosen.any() else ()
    return collector.summarise((False, True)), half


class _StatsCollector:
    """The running statistics of every layer and quality, over the chosen images and over the others."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._stats: dict[str, list[dict[bool, RunningStats]]] = {layer: [] for layer in layers}
        self._layouts: dict[str, Layout] = {}

    def add(self, summaries: Sequence[Mapping[str, LayerSummary]], chosen: Flags) -> None:
        """Add one batch of images [b] at every quality; ``chosen`` are flags [b]."""
        for layer, columns in self._stats.items():
            reference = summaries[0][layer]
            self._layouts[layer] = reference.layout
            columns.extend({} for _ in summaries[len(columns) :])
            for stats, summary in zip(columns, summaries, strict=True):
                for part, rows in ((False, ~chosen), (True, chosen)):
                    if rows.any():
                        more = RunningStats.of(summary[layer], reference, rows)
                        stats[part] = stats[part] + more if part in stats else more

    def summarise(self, parts: Sequence[bool]) -> tuple[LayerStudy, ...]:
        """Return every layer's statistics over the images of ``parts``: chosen (True), others (False) or both."""
        rows = [
            [reduce(add, (stats[part] for part in parts if part in stats)) for stats in columns]
            for columns in self._stats.values()
        ]
        summaries = zip(self._stats, summarise_channels(rows), strict=True)
        return tuple(LayerStudy(layer, self._layouts[layer], channels) for layer, channels in summaries)


def open_loaders(
    run: Classifier, datasets: Sequence[Dataset], runtime: Runtime, loader: str = "auto"
) -> tuple[str, list[Loader]]:
    """Return the kind of loader, and one for each data set; ``auto`` is plain if the run was trained so. Raises RecipeError."""
    kind, _ = choose_kind("plain" if loader == "auto" and run.loader == "plain" else loader)
    workers = loading_workers()
    variants = [dataset.match(run.class_list).variant for dataset in datasets]
    samplers = [EpochSampler.of(variant, run.image, batch=run.batch, workers=workers) for variant in variants]
    return kind, [open_loader(kind, sampler, runtime) for sampler in samplers]


def check_same_images(datasets: Sequence[Dataset]) -> None:
    """Raise UsageError unless all data sets hold the first one's images, in its order, as far as the manifests tell."""
    first, *others = datasets
    for other in others:
        if difference := describe_unpaired(first, other.match(first.classes)):
            raise UsageError(
                f"{other.beton.path} does not hold the samples of {first.beton.path}: {difference}. Their channels cannot be "
                "compared image by image. Give betons that were encoded from one source, or one beton and --qualities."
            )


def column_names(datasets: Sequence[Dataset]) -> list[str]:
    """Return the quality that the model sees in each data set; the files and their encoding where two qualities are equal."""
    names, _ = quality_names((tested_quality(dataset), _at_load(dataset)) for dataset in datasets)
    return names if len(set(names)) == len(names) else [dataset.description for dataset in datasets]


def _columns(datasets: Sequence[Dataset]) -> tuple[QualityColumn, ...]:
    return tuple(
        QualityColumn(name, dataset.beton.path, dataset.quality, tested_quality(dataset), _at_load(dataset))
        for name, dataset in zip(column_names(datasets), datasets, strict=True)
    )


def _at_load(dataset: Dataset) -> str | None:
    return dataset.on_the_fly.describe() if dataset.on_the_fly else None
