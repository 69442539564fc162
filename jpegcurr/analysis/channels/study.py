"""How the channels of a network's layers change with the JPEG quality of what it sees: one pass over a validation set.

The qualities go through the model side by side, batch by batch, so that each image's channels are held against its own at the
first quality, and nothing is kept but sums: the memory does not grow with the images.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch

from jpegcurr.analysis.channels.activations import LayerSummary, pick_layers, watched
from jpegcurr.analysis.channels.statistics import Channels, RunningStats, settle
from jpegcurr.analysis.evaluation.evaluate import tested_quality
from jpegcurr.analysis.layers import Layout
from jpegcurr.analysis.stats import Flags
from jpegcurr.encoding.jpeg.codec import Quality
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.data.datasets import Dataset
from jpegcurr.training.data.loaders import choose_kind, loading_workers, open_loader
from jpegcurr.training.data.sampling import EpochSampler, Loader
from jpegcurr.training.models.load import Run


@dataclass(frozen=True, slots=True, eq=False)
class LayerStudy:
    """One layer's channels at every quality, the first of which the others are held against."""

    layer: str
    layout: Layout
    channels: tuple[Channels, ...]

    def __len__(self) -> int:
        return len(self.channels[0].mean)


@dataclass(frozen=True, slots=True)
class QualityColumn:
    """One quality. ``name`` tells it from the others; ``quality`` is the file's, ``tested`` what the model saw."""

    name: str
    data: Path
    quality: Quality | None
    tested: Quality | None
    at_load: str | None


@dataclass(frozen=True, slots=True, eq=False)
class ChannelStudy:
    """``layers`` over all ``images``, and ``chosen`` over those alone that were asked for (empty if none were)."""

    run: Path
    weights: str
    loader: str
    images: int
    arms: tuple[QualityColumn, ...]
    layers: tuple[LayerStudy, ...]
    chosen: tuple[LayerStudy, ...] = ()


def study_channels(
    run: Run,
    arms: Sequence[Dataset],
    runtime: Runtime,
    *,
    layers: Sequence[str] = (),
    loader: str = "auto",
    chosen: Flags | None = None,
    on_images: Callable[[int], None] | None = None,
) -> ChannelStudy:
    """Put every image through ``run`` at every quality, each once, and follow the channels of ``layers``.

    Args:
        run: whose model it is.
        arms: as ``evaluate.open_arms`` opens them; the first is what the others are held against.
        runtime: where to compute, in float32 whatever its precision, as ``cam`` does.
        layers: their names; all stages that timm names if none are given.
        loader: see ``open_arm_loaders``.
        chosen: bool [images], those that ``ChannelStudy.chosen`` is about.
        on_images: is told how many more images are done, those of each quality counted.

    Raises:
        UsageError: the arms hold different images, or a layer's channels cannot be told.
        RecipeError: the loader asked for cannot be had.
    """
    check_same_images(arms)
    picked = pick_layers(run.model, layers)
    kind, loaders = open_arm_loaders(run, arms, runtime, loader)

    def batches() -> Iterator[list[torch.Tensor]]:
        for at_every_quality in zip(*(each.at(0) for each in loaders), strict=True):
            yield [run.normalise(batch) for batch, *_ in at_every_quality]
            if on_images:
                on_images(sum(len(batch) for batch, *_ in at_every_quality))

    with whole_float32():  # rounding would be a change too
        whole, half = follow_channels(run.model, picked, batches(), chosen)
    told = tuple(_arm(name, each) for name, each in zip(arm_names(arms), arms, strict=True))
    return ChannelStudy(run.path, run.weights, kind, whole[0].channels[0].images, told, whole, half)


def follow_channels(
    model: torch.nn.Module, layers: Sequence[str], batches: Iterable[Sequence[torch.Tensor]], chosen: Flags | None = None
) -> tuple[tuple[LayerStudy, ...], tuple[LayerStudy, ...]]:
    """What ``study_channels`` follows, over all images and over those ``chosen``, bool [images] (nothing without any).

    ``batches`` are normalised images, float [b 3 s s], the same ones at every quality; there is at least one batch.
    """
    growing = _Growing(layers)
    start = 0
    with watched(model, layers) as look:
        for batch in batches:
            end = start + len(batch[0])
            rows = np.zeros(end - start, np.bool_) if chosen is None else chosen[start:end]
            growing.include([look(images) for images in batch], rows)
            start = end
    return growing.settled((False, True)), growing.settled((True,)) if chosen is not None and chosen.any() else ()


class _Growing:
    """The tallies of a pass under way: of each layer and arm two, over the images that are chosen and over the others."""

    def __init__(self, layers: Sequence[str]) -> None:
        self._tallies: dict[str, list[dict[bool, RunningStats]]] = {layer: [] for layer in layers}
        self._layouts: dict[str, Layout] = {}

    def include(self, seen: Sequence[Mapping[str, LayerSummary]], chosen: Flags) -> None:
        """One batch of images [b] at every quality; ``chosen`` are flags [b]."""
        for layer, arms in self._tallies.items():
            reference = seen[0][layer]
            self._layouts[layer] = reference.layout
            arms.extend({} for _ in seen[len(arms) :])
            for tallies, each in zip(arms, seen, strict=True):
                for part, rows in ((False, ~chosen), (True, chosen)):
                    if rows.any():
                        more = RunningStats.of(each[layer], reference, rows)
                        tallies[part] = tallies[part] + more if part in tallies else more

    def settled(self, parts: Sequence[bool]) -> tuple[LayerStudy, ...]:
        """Every layer's figures over the images of ``parts``."""
        rows = [
            [reduce(add, (each[part] for part in parts if part in each)) for each in arms] for arms in self._tallies.values()
        ]
        figures = zip(self._tallies, settle(rows), strict=True)
        return tuple(LayerStudy(layer, self._layouts[layer], channels) for layer, channels in figures)


def open_arm_loaders(run: Run, arms: Sequence[Dataset], runtime: Runtime, loader: str = "auto") -> tuple[str, list[Loader]]:
    """The kind of loader, and one for each arm; ``auto`` is as in training where it can be. Raises RecipeError."""
    kind, _ = choose_kind("plain" if loader == "auto" and run.loader == "plain" else loader)
    views = [EpochSampler.of(arm.variant, run.image, batch=run.recipe.micro(), workers=loading_workers()) for arm in arms]
    return kind, [open_loader(kind, view, runtime) for view in views]


def check_same_images(arms: Sequence[Dataset]) -> None:
    """Raise UsageError unless all arms hold the first one's images, in its order, as far as can be known."""
    first, *others = arms
    for other in others:
        known = first.manifest and other.manifest
        same = not known or first.manifest.keys_sha256 == other.manifest.keys_sha256  # type: ignore[union-attr]
        if not same or not np.array_equal(first.beton.labels, other.beton.labels):
            raise UsageError(
                f"{other.beton.path} holds other images than {first.beton.path}, so their channels cannot be held against each "
                "other image by image. Give betons that were encoded from one source, or one beton and --qualities."
            )


def arm_names(arms: Sequence[Dataset]) -> list[str]:
    """The quality that the model sees; where that does not tell them apart, the file and what is done to it."""
    short = [str(tested_quality(arm) or "?") for arm in arms]
    return short if len(set(short)) == len(short) else [arm.description for arm in arms]


def _arm(name: str, dataset: Dataset) -> QualityColumn:
    at_load = dataset.on_the_fly.describe() if dataset.on_the_fly else None
    return QualityColumn(name, dataset.beton.path, dataset.quality, tested_quality(dataset), at_load)
