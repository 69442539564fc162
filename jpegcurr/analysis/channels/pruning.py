"""Accuracy without the channels that move most with JPEG quality, next to those that move least and random ones.

A pruned channel is set to zero everywhere in the layer's output, including the tokens before those of the patches. Later layers
are left as they are, so a norm after the layer still counts the zeros. Channels are chosen on one half of the images, and
accuracy is measured on the other half: chosen and tested on the same images, they would look better chosen than they are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.grad_cam import held_still
from jpegcurr.analysis.channels.activations import Floats, masked_logits, watch_layers
from jpegcurr.analysis.channels.statistics import rank_by_size
from jpegcurr.analysis.channels.study import ChannelStudy, LayerStudy, column_names, open_loaders
from jpegcurr.analysis.stats import Flags, Paired, compare_paired
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.datasets import Dataset
from jpegcurr.training.data.sampling import Batch
from jpegcurr.training.metrics import evaluate_batches
from jpegcurr.training.models.classifier import Classifier

DRAWS = 5  # of random channels, for each k

Which = Literal["most moved", "least moved", "random"]


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of ``k`` channels to be set to zero; ``draw`` numbers the random choices of one k, from 0."""

    k: int
    which: Which
    draw: int
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """The accuracy with one choice set to zero: top-1 in percent by quality, and its comparison with the unmasked model."""

    choice: Choice
    top1: dict[str, float]
    pairs: dict[str, Paired]


@dataclass(frozen=True, slots=True)
class PruneStudy:
    """The trials of one layer, which has ``channels`` channels.

    Attributes:
        chosen_on, images: the number of images that channels were chosen on, and that accuracy was measured on.
        seed: the seed of the split of the images and of the random choices.
        unmasked: top-1 of the whole model, percent, by quality.
    """

    layer: str
    channels: int
    chosen_on: int
    images: int
    seed: int
    unmasked: dict[str, float]
    trials: tuple[Trial, ...]


class MaskedModel(torch.nn.Module):
    """A model that returns logits [m b classes], with ``layer``'s channels multiplied by each of ``masks`` [m c]."""

    def __init__(self, model: torch.nn.Module, layer: LayerStudy, masks: torch.Tensor) -> None:
        super().__init__()
        self.model, self.layer, self.masks = model, layer, masks

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of normalised images; see ``activations.masked_logits``."""
        return masked_logits(self.model, self.layer.layer, self.layer.layout, images, self.masks)


def check_prunable(
    run: Classifier, datasets: Sequence[Dataset], runtime: Runtime, layers: Sequence[str], sizes: Sequence[int]
) -> None:
    """Raise UsageError, before any image is read, for a single quality and for a layer with fewer channels than a size."""
    if len(datasets) < 2:
        raise UsageError("--prune-study compares at least two qualities. Give them: --qualities source,50.")
    side = run.image.size
    with watch_layers(run.model, layers) as summarise:
        summaries = summarise(run.normalise(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=runtime.device)))
    for layer in layers:
        channels = summaries[layer].mean.shape[1]
        if max(sizes) > channels:
            raise UsageError(f"--prune-study {max(sizes)}: {layer} has {channels} channels. Give smaller numbers.")


def split_images(labels: NDArray[np.int64], seed: int) -> Flags:
    """Choose half of the images, bool [images], and half of every class to within one; raises UsageError for fewer than 4."""
    if len(labels) < 4:
        raise UsageError(f"--prune-study needs at least 4 images, two of them to choose channels on; there are {len(labels)}.")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    half = np.zeros(len(labels), np.bool_)
    half[by_class[::2]] = True
    return half


def largest_shifts(study: LayerStudy) -> Floats:
    """Return every channel's shift at the quality where it is largest, of either sign, [c]; nan where it has none anywhere."""
    shifts = np.array([channels.shift for channels in study.channels[1:]])
    at = np.where(np.isnan(shifts), -1, np.abs(shifts)).argmax(axis=0)
    largest: Floats = np.take_along_axis(shifts, at[None], axis=0)[0]
    return largest


def choose_channels(study: LayerStudy, sizes: Sequence[int], seed: int) -> list[Choice]:
    """Choose, for each k of ``sizes``, the k channels that move most, the k that move least, and five times k random ones.

    A channel without a shift, constant at the first quality, is never chosen. Raises UsageError if fewer than k channels have a
    shift.
    """
    movers = rank_by_size(largest_shifts(study))
    choices = []
    for k in sizes:
        if k > len(movers):
            raise UsageError(
                f"--prune-study {k}: {len(study) - len(movers)} of {study.layer}'s {len(study)} channels are constant on the "
                f"{study.channels[0].images} images that channels are chosen on, so they have no shift. Give smaller numbers."
            )
        random = np.random.default_rng((seed, k))
        choices += [Choice(k, "most moved", 0, tuple(movers[:k])), Choice(k, "least moved", 0, tuple(movers[::-1][:k]))]
        choices += [Choice(k, "random", draw, tuple(random.permutation(movers)[:k].tolist())) for draw in range(DRAWS)]
    return choices


def study_pruning(
    run: Classifier,
    datasets: Sequence[Dataset],
    runtime: Runtime,
    study: ChannelStudy,
    sizes: Sequence[int],
    chosen: Flags,
    *,
    layers: Sequence[str],
    seed: int = 0,
    loader: str = "auto",
    on_images: Callable[[int], None] | None = None,
) -> list[PruneStudy]:
    """Prune ``layers`` of ``run``, each by itself, and measure top-1 at every quality on the images that are not ``chosen``.

    Args:
        run: the model.
        datasets: those of ``study``.
        runtime: where to compute, and in which precision, as in ``evaluate``.
        study: the study of the same data sets and at least these layers, with ``chosen``; channels are chosen by it.
        sizes: how many channels to prune, each a study of its own.
        chosen: bool [images], as ``study`` was given it (``split_images``).
        layers: which of the study's layers.
        seed: the seed of the random choices, and for the record of the split.
        loader: as for ``study_channels``.
        on_images: called with the number of further images that are done, counted once for each quality.

    Raises:
        UsageError: fewer channels of a layer have a shift than are to be pruned.
    """
    picked = [layer for layer in study.chosen if layer.layer in layers]
    choices = [choose_channels(layer, sizes, seed) for layer in picked]
    masks = [_masks(layer, of_layer, runtime.device) for layer, of_layer in zip(picked, choices, strict=True)]
    masked = [MaskedModel(run.model, layer, of_layer) for layer, of_layer in zip(picked, masks, strict=True)]
    models = [(model, run.normalise) for model in (run.model, *masked)]
    _, loaders = open_loaders(run, datasets, runtime, loader)
    whole: list[Flags] = []  # by quality, whether the unmasked model is right: [images]
    pruned: list[list[Flags]] = []  # by quality and layer, whether the masked models are: [masks images]
    for of_quality in loaders:
        right: list[list[torch.Tensor]] = [[] for _ in models]
        batches = _tested_part(of_quality.at(0), chosen, on_images)
        with held_still(run.model):
            for logits, labels, _targets in evaluate_batches(models, batches, runtime):
                for parts, of_model in zip(right, logits, strict=True):
                    parts.append((of_model.argmax(dim=-1) == labels).cpu())
        unmasked, *rest = (torch.cat(parts, dim=-1).numpy() for parts in right)
        whole.append(unmasked)
        pruned.append(rest)
    names = column_names(datasets)
    return [
        PruneStudy(
            layer=layer.layer,
            channels=len(layer),
            chosen_on=int(chosen.sum()),
            images=len(whole[0]),
            seed=seed,
            unmasked=dict(zip(names, map(_top1, whole), strict=True)),
            trials=tuple(
                _trial(choice, names, whole, [of_quality[at][row] for of_quality in pruned])
                for row, choice in enumerate(of_layer)
            ),
        )
        for at, (layer, of_layer) in enumerate(zip(picked, choices, strict=True))
    ]


def _tested_part(batches: Iterable[Batch], chosen: Flags, on_images: Callable[[int], None] | None) -> Iterator[Batch]:
    """Yield of every batch the images that are not ``chosen``, where there are any, and report the whole batch as done."""
    start = 0
    for images, labels, numbers, epoch, position, targets in batches:
        tested = ~chosen[start : start + len(images)]
        start += len(images)
        if tested.any():
            rows = torch.from_numpy(tested).to(images.device)
            soft = None if targets is None else targets[rows]
            yield Batch(images[rows], labels[rows], numbers[tested], epoch, position, soft)
        if on_images:
            on_images(len(images))


def _masks(study: LayerStudy, choices: Sequence[Choice], device: torch.device) -> torch.Tensor:
    """Return masks of 1, and 0 for the channels of each choice: float32 [choices c]."""
    masks = torch.ones(len(choices), len(study))
    for row, choice in enumerate(choices):
        masks[row, list(choice.channels)] = 0
    return masks.to(device)


def _trial(choice: Choice, names: Sequence[str], whole: Sequence[Flags], pruned: Sequence[Flags]) -> Trial:
    """Return the trial of a choice; ``whole`` and ``pruned`` are, by quality, whether the images are right."""
    pairs = {name: compare_paired(*flags) for name, *flags in zip(names, whole, pruned, strict=True)}
    return Trial(choice, dict(zip(names, map(_top1, pruned), strict=True)), pairs)


def _top1(right: Flags) -> float:
    return 100 * float(right.mean())
