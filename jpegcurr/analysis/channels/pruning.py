"""What it costs to prune the channels that move most with JPEG quality, next to those that move least and to random ones.

A pruned channel is set to zero wherever the layer gives it, the tokens before those of the patches included; what follows is
left as it is, so a norm after the layer still counts the zeros. Channels are chosen on one half of the images and accuracy is
measured on the other: chosen and tested on the same images, they would look better chosen than they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.cam.grad_cam import held_still
from jpegcurr.analysis.channels.activations import Columns, masked_logits, watched
from jpegcurr.analysis.channels.statistics import by_size
from jpegcurr.analysis.channels.study import ChannelStudy, LayerStudy, arm_names, open_arm_loaders
from jpegcurr.analysis.stats import Flags, Paired, compare_paired
from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.datasets import Dataset
from jpegcurr.training.models.load import Run

DRAWS = 5  # of random channels, for each k

Which = Literal["most moved", "least moved", "random"]


@dataclass(frozen=True, slots=True)
class Choice:
    """``k`` channels of a layer to be set to zero; ``draw`` numbers the random ones of one k, from 0."""

    k: int
    which: Which
    draw: int
    channels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One choice: top-1 in percent at every quality, by name, and how it differs from the unmasked model's there."""

    choice: Choice
    top1: dict[str, float]
    pairs: dict[str, Paired]


@dataclass(frozen=True, slots=True)
class PruneStudy:
    """What the choices of one layer, of so many ``channels``, came to.

    Attributes:
        chosen_on, images: the number of images that channels were chosen on, and of those that accuracy is of.
        seed: of the split of the images and of the random choices.
        unmasked: top-1 of the whole model, percent, by quality.
    """

    layer: str
    channels: int
    chosen_on: int
    images: int
    seed: int
    unmasked: dict[str, float]
    trials: tuple[Trial, ...]


def check_prunable(run: Run, arms: Sequence[Dataset], runtime: Runtime, layers: Sequence[str], sizes: Sequence[int]) -> None:
    """Raise UsageError, before images are looked at, for one quality alone and for a layer with fewer channels than a size."""
    if len(arms) < 2:
        raise UsageError("--prune-study needs two qualities at least, to see what moves between them: --qualities source,50.")
    side = run.image.size
    with watched(run.model, layers) as look:
        seen = look(run.normalise(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=runtime.device)))
    for layer in layers:
        channels = seen[layer].mean.shape[1]
        if max(sizes) > channels:
            raise UsageError(f"--prune-study {max(sizes)}: {layer} has {channels} channels. Give smaller numbers.")


def split_images(labels: NDArray[np.int64], seed: int) -> Flags:
    """Choose half of the images, bool [images], and of every class half to within one; raises UsageError for fewer than 4."""
    if len(labels) < 4:
        raise UsageError(f"--prune-study needs 4 images at least, two to choose channels on; there are {len(labels)}.")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    half = np.zeros(len(labels), np.bool_)
    half[by_class[::2]] = True
    return half


def largest_shifts(study: LayerStudy) -> Columns:
    """Every channel's shift at the quality where it is largest, of either sign, [c]; nan where it has none anywhere."""
    shifts = np.array([each.shift for each in study.channels[1:]])
    at = np.where(np.isnan(shifts), -1, np.abs(shifts)).argmax(axis=0)
    largest: Columns = np.take_along_axis(shifts, at[None], axis=0)[0]
    return largest


def choose_channels(study: LayerStudy, sizes: Sequence[int], seed: int) -> list[Choice]:
    """For each k of ``sizes`` the k channels that move most and least, and five times k random ones.

    A channel without a shift, constant at the first quality, is in none of them. Raises UsageError for a k that is larger
    than what is left.
    """
    movers = by_size(largest_shifts(study))
    choices = []
    for k in sizes:
        if k > len(movers):
            raise UsageError(
                f"--prune-study {k}: of {study.layer}'s {len(study)} channels {len(study) - len(movers)} are constant on the "
                f"{study.channels[0].images} images that channels are chosen on, so no shift of theirs is known. "
                "Give smaller numbers."
            )
        random = np.random.default_rng((seed, k))
        choices += [Choice(k, "most moved", 0, tuple(movers[:k])), Choice(k, "least moved", 0, tuple(movers[::-1][:k]))]
        choices += [Choice(k, "random", draw, tuple(random.permutation(movers)[:k].tolist())) for draw in range(DRAWS)]
    return choices


def study_pruning(
    run: Run,
    arms: Sequence[Dataset],
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
        run: whose model it is.
        arms: those of ``study``.
        runtime: where to compute, and in which precision, as ``evaluate`` does it.
        study: of the same arms and at least these layers, with ``chosen``, on which channels are chosen.
        sizes: how many channels to prune, each a study of its own.
        chosen: bool [images], as ``study`` was made with (``split_images``).
        layers: which of the study's layers.
        seed: of the random choices; that of the split, for the record.
        loader: as for ``study_channels``.
        on_images: is told how many more images are done, those of each quality counted.

    Raises:
        UsageError: fewer channels of a layer have a shift than are to be pruned.
    """
    picked = [each for each in study.chosen if each.layer in layers]
    choices = [choose_channels(each, sizes, seed) for each in picked]
    masks = [_masks(each, of, runtime.device) for each, of in zip(picked, choices, strict=True)]
    _, loaders = open_arm_loaders(run, arms, runtime, loader)
    whole: list[Flags] = []  # at each quality, whether the unmasked model is right: [images]
    pruned: list[list[Flags]] = []  # and by layer, the masked ones: [masks images]
    for batches in loaders:
        right: list[list[torch.Tensor]] = [[] for _ in range(1 + len(picked))]
        start = 0
        with held_still(run.model), torch.inference_mode(), runtime.autocast():
            for batch, labels, _ in batches.at(0):
                rows = torch.from_numpy(~chosen[start : start + len(batch)]).to(batch.device)
                start += len(batch)
                images, truth = run.normalise(batch[rows]), labels[rows]
                if len(images):
                    right[0].append((run.model(images).argmax(dim=1) == truth).cpu())
                    for results, each, mask in zip(right[1:], picked, masks, strict=True):
                        logits = masked_logits(run.model, each.layer, each.layout, images, mask)
                        results.append((logits.argmax(dim=2) == truth).cpu())
                if on_images:
                    on_images(len(batch))
        whole.append(torch.cat(right[0]).numpy())
        pruned.append([torch.cat(each, dim=1).numpy() for each in right[1:]])
    names = arm_names(arms)
    return [
        PruneStudy(
            layer=each.layer,
            channels=len(each),
            chosen_on=int(chosen.sum()),
            images=len(whole[0]),
            seed=seed,
            unmasked=dict(zip(names, map(_top1, whole), strict=True)),
            trials=tuple(_trial(choice, names, whole, [arm[at][row] for arm in pruned]) for row, choice in enumerate(of)),
        )
        for at, (each, of) in enumerate(zip(picked, choices, strict=True))
    ]


def _masks(study: LayerStudy, choices: Sequence[Choice], device: torch.device) -> torch.Tensor:
    """1, and 0 for the channels of each choice: float32 [choices c]."""
    masks = torch.ones(len(choices), len(study))
    for row, choice in enumerate(choices):
        masks[row, list(choice.channels)] = 0
    return masks.to(device)


def _trial(choice: Choice, names: Sequence[str], whole: Sequence[Flags], pruned: Sequence[Flags]) -> Trial:
    """``whole`` and ``pruned`` are, at each quality, whether the images are right."""
    pairs = {name: compare_paired(*each) for name, *each in zip(names, whole, pruned, strict=True)}
    return Trial(choice, dict(zip(names, map(_top1, pruned), strict=True)), pairs)


def _top1(right: Flags) -> float:
    return 100 * float(right.mean())
