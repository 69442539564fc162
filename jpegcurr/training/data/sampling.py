"""Samplers and the loader's contract: which samples an epoch has, in which order, at which quality and crop.

All loaders yield a ``Batch`` on the runtime's device, have ``len()`` in batches, and ``at(epoch)``. The samples of an epoch
and their order are a function of (seed, epoch); the data set, quality, crop and flip of a sample, of (seed, epoch, sample).
So the number of workers changes nothing, a resumed run gets the batches of an unbroken one, and two data sets that
differ in quality alone give the same crops of the same images. ``EpochSampler`` decides all of it, as one ``SAMPLE`` record per
sample; the loaders only decode these records.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import Balance, OnTheFlyJpeg, Order, Ramp
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.balancing import draw
from jpegcurr.training.data.crops import TRIES, as_views, random_boxes, random_shifts, square_boxes, validation_views
from jpegcurr.training.data.targets import SoftTargets
from jpegcurr.training.sample_rng import SampleRng

if TYPE_CHECKING:
    import torch

Indices = NDArray[np.int64]

# One sample: ``variant`` is the position in ``EpochSampler.variants``; ``quality`` is 0 where nothing is encoded on the fly.
# The six numbers from ``top`` to ``to_width`` are a view: see ``crops.validation_views``. The result begins at ``row`` and
# ``column`` of the resized image: see ``crops.random_shifts``.
SAMPLE = np.dtype(
    [
        ("index", np.int64),
        ("top", np.int32),
        ("left", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("to_height", np.int32),
        ("to_width", np.int32),
        ("row", np.int16),
        ("column", np.int16),
        ("variant", np.uint8),
        ("quality", np.uint8),
        ("flip", np.bool_),
    ],
    align=True,
)
VIEW = ("top", "left", "height", "width", "to_height", "to_width")
SHIFT = ("row", "column")
_FLIP, _VARIANT, QUALITY_STREAM, _BOX = 0, 1, 2, 3  # streams of random numbers
_REPLACEMENT = _BOX + 4 * TRIES

# Quasi-random order shuffles runs of neighbours, then the samples within each window of this many runs. 128 photographs are
# about a page of 8 MiB at quality 95, so a window is about a gigabyte; at quality 50 a quarter of it.
RUN, WINDOW = 128, 128
TOGETHER = 2048  # samples whose records are drawn in one call


class Batch(NamedTuple):
    """Samples that are loaded and trained on together.

    ``images`` are uint8 [b 3 h w] and ``labels`` int64 [b], both on the runtime's device. The rest is what random numbers
    depend on: ``numbers``, int64 [b] on the host, are the occurrences that ``EpochSampler.order`` gives; ``position`` is the
    batch's place among those of all processes in ``epoch``. ``targets`` are the distributions over the classes that the
    recipe's ``targets`` give the images, float32 [b classes], before smoothing and mixing; None where labels are the targets.
    """

    images: torch.Tensor
    labels: torch.Tensor
    numbers: Indices
    epoch: int
    position: int
    targets: torch.Tensor | None = None


class Loader(Protocol):
    """The interface that all loaders have."""

    @property
    def replaced(self) -> int:
        """Number of samples of the current or last epoch that did not decode and were replaced by others."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of the first epoch."""
        ...

    def at(self, epoch: int, first: int = 0) -> Generator[Batch]:
        """Iterate over ``epoch`` from batch ``first``; the caller owns each batch. Closing the iterator ends its threads.

        Raises ImageError for a sample that does not decode, and BetonError for a file that was changed since it was opened.
        """
        ...


@dataclass(frozen=True, slots=True)
class Variant:
    """A beton, and the JPEG encoding applied to its images while loading (None: none).

    ``matched`` are labels to use instead of the file's, int64 [n]: numbers of a model's classes. ``soft`` are distributions
    over these classes, if a recipe has any.
    """

    beton: Beton
    on_the_fly: OnTheFlyJpeg | None = None
    matched: Indices | None = None
    soft: SoftTargets | None = None

    @property
    def labels(self) -> Indices:
        """The label of every image, int64 [n]."""
        return self.beton.labels if self.matched is None else self.matched

    @property
    def before_crop(self) -> bool:
        """Whether whole images are encoded again, before the crop."""
        return self.on_the_fly is not None and self.on_the_fly.stage == "before_crop"


@dataclass(frozen=True, slots=True)
class EpochSampler:
    """The samples of every epoch, in batches of ``batch``; shuffled and cropped at random if ``train``.

    ``variants`` hold the same images at different qualities; ``plans`` give the share of each in an epoch (without plans there
    is one variant), and with ``endless`` the last of them holds for all later epochs. A training epoch is cut to a multiple of
    ``step`` images, so that every optimiser step is whole. With several ``ranks``, the images of each step are divided equally,
    so the steps are the same for any number of ranks; in validation the ranks take turns, and each sample belongs to exactly
    one.

    With ``repeats`` each sample of an epoch occurs that many times, usually in one step. With ``balance`` samples are drawn by
    class (``balancing.draw``), and may be drawn more than once. Either way the n-th occurrence of sample i has the number
    ``i + n * len(beton)`` in the order, and gets another crop.

    With ``jpeg_on_device`` the images that are encoded after the resize are yielded by rendering as they were before, and
    ``device_jpeg`` does the rest.
    """

    variants: Mapping[str, Variant]
    image: ImageSection
    train: bool
    batch: int
    step: int = 1
    repeats: int = 1
    seed: int = 0
    workers: int = 0
    plans: tuple[EpochPlan, ...] = ()
    endless: bool = False
    order_by: Order = "random"
    balance: Balance | None = None
    os_cache: bool = True
    skip_broken: bool = False
    jpeg_on_device: bool = False
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of(cls, variant: Variant, image: ImageSection, *, batch: int, workers: int = 0, os_cache: bool = True) -> EpochSampler:
        """Return the sampler that validates on one variant."""
        return cls({"": variant}, image, train=False, batch=batch, workers=workers, os_cache=os_cache)

    @property
    def beton(self) -> Beton:
        """The first beton; the number of samples is the same in all."""
        return next(iter(self.variants.values())).beton

    @property
    def labels(self) -> Indices:
        """The label of every image, int64 [n], the same in all variants."""
        return next(iter(self.variants.values())).labels

    @property
    def soft(self) -> SoftTargets | None:
        """The distribution of every image, the same in all variants; None where the labels are the targets."""
        return next(iter(self.variants.values())).soft

    def check_files(self) -> None:
        """Check, before an epoch, that no beton was cut short or written to since it was opened; raises BetonError."""
        for beton in dict.fromkeys(variant.beton for variant in self.variants.values()):
            beton.check_unchanged()

    def order(self, epoch: int) -> Indices:
        """Return the numbers of the occurrences of samples in ``epoch`` that belong to this rank, in order."""
        count = len(self.beton)
        if not self.train:
            return np.arange(self.rank, count, self.ranks)
        generator = np.random.default_rng((self.seed, epoch))
        shuffle = _shuffled if self.order_by == "random" else _shuffled_in_windows
        if self.balance is None:
            drawn = shuffle(np.arange(count), count, generator)
        else:
            drawn = shuffle(draw(self.labels, self.balance, ceil(count / self.repeats), generator), count, generator)
        step = self.step_of(epoch)
        steps = _repeated(drawn, self.repeats, count)[: count - count % step].reshape(-1, step)
        if self.repeats > 1:  # first occurrences before second ones: a sample's are then far apart, in other micro-batches
            repetition = steps // count % self.repeats
            steps = np.take_along_axis(steps, np.argsort(repetition, axis=1, kind="stable"), axis=1)
        return steps.reshape(-1, self.ranks, step // self.ranks)[:, self.rank].reshape(-1)

    def __len__(self) -> int:
        """Return the number of batches of the first epoch."""
        return self.length(0)

    def length(self, epoch: int) -> int:
        """Return the number of batches of ``epoch`` that belong to this rank."""
        count, step = len(self.beton), self.step_of(epoch)
        mine = (count - count % step) // self.ranks if self.train else len(range(self.rank, count, self.ranks))
        return ceil(mine / self.batch)

    def plan(self, epoch: int) -> EpochPlan:
        """Return the plan of ``epoch``; there must be plans."""
        return self.plans[min(epoch, len(self.plans) - 1) if self.endless else epoch]

    def step_of(self, epoch: int) -> int:
        """Return the number of images of an optimiser step in ``epoch``."""
        return (self.plan(epoch).batch if self.plans else 0) or self.step

    def batches_per_step(self, epoch: int) -> int:
        """Return the number of this rank's batches that an optimiser step of ``epoch`` takes."""
        return max(self.step_of(epoch) // (self.batch * self.ranks), 1)

    def position(self, epoch: int, number: int) -> int:
        """Return the place, among the batches of all ranks in ``epoch``, of this rank's batch ``number``.

        A step's batches follow one another, those of rank 0 first, so that any number of ranks counts the same images alike.
        """
        per_step = self.batches_per_step(epoch)
        step, within = divmod(number, per_step)
        return (step * self.ranks + self.rank) * per_step + within

    def size(self, epoch: int) -> int:
        """Return the side length of the model's input in ``epoch``, in pixels."""
        return (self.plan(epoch).size if self.plans else None) or self.image.size

    def batches(self, epoch: int) -> list[Indices]:
        """Return ``order`` in pieces of ``batch``; the last may be smaller."""
        order = self.order(epoch)
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def indices(self, occurrences: Indices) -> Indices:
        """Return the index of the sample of every occurrence."""
        return occurrences % len(self.beton)

    def samples(self, epoch: int, occurrences: Indices) -> np.ndarray:
        """Return one ``SAMPLE`` record for every occurrence in ``epoch``."""
        rng = SampleRng(self.seed, epoch, occurrences)
        samples = np.zeros(len(occurrences), SAMPLE)
        samples["index"] = self.indices(occurrences)
        samples["variant"] = self.drawn_variants(epoch, rng)
        samples["quality"] = self._qualities(epoch, samples["variant"], rng)
        heights, widths = self._sizes(samples)
        if self.train:
            padding = self.image.padding
            boxes = square_boxes(heights, widths) if padding else random_boxes(heights, widths, self.image, rng, _BOX)
            views, shifts = as_views(boxes), random_shifts(len(samples), padding, rng, _BOX)
            samples["row"], samples["column"] = shifts.T
            samples["flip"] = rng.uniform(_FLIP) < self.image.hflip
        else:
            views = validation_views(heights, widths, self.image)
        for name, column in zip(VIEW, views.T, strict=True):
            samples[name] = column
        return samples

    def deferred(self, samples: np.ndarray | np.void) -> NDArray[np.bool_]:
        """Return whether each ``SAMPLE`` record is encoded, and then mirrored, by the device: bool, of their shape."""
        after_resize = np.array([not variant.before_crop for variant in self.variants.values()])
        deferred: NDArray[np.bool_] = self.jpeg_on_device & (samples["quality"] > 0) & after_resize[samples["variant"]]
        return deferred

    def samples_of(self, epoch: int, batches: Sequence[Indices]) -> Iterator[np.ndarray]:
        """Yield the records of one batch after the other; many are drawn in one call, which takes a sixth of the time."""
        together = max(1, TOGETHER // self.batch)
        for first in range(0, len(batches), together):
            some = batches[first : first + together]
            yield from np.split(self.samples(epoch, np.concatenate(some)), np.cumsum([len(batch) for batch in some])[:-1])

    def drawn_variants(self, epoch: int, rng: SampleRng) -> NDArray[np.int64]:
        """Return the position of the variant that each sample is taken from in ``epoch``, int64 [n]."""
        if not self.plans:
            return np.zeros(len(rng), np.int64)
        shares = self.plan(epoch).shares
        positions = np.array([list(self.variants).index(name) for name, _ in shares])
        bounds = np.cumsum([share for _, share in shares])[:-1]
        return positions[np.searchsorted(bounds, rng.uniform(_VARIANT), side="right")]

    def replacement(self, epoch: int, index: int, attempt: int) -> int:
        """Return the index of the sample to try, at attempt number ``attempt``, instead of one that does not decode."""
        rng = SampleRng(self.seed, epoch, np.array([index]))
        return int(rng.integer(_REPLACEMENT + attempt, 0, len(self.beton) - 1)[0])

    def _qualities(self, epoch: int, variants: Indices, rng: SampleRng) -> Indices:
        qualities = np.zeros(len(variants), np.int64)
        for position, variant in enumerate(self.variants.values()):
            if variant.on_the_fly is not None:
                mine = variants == position
                qualities[mine] = self._quality(variant.on_the_fly, epoch, rng)[mine]
        return qualities

    def _quality(self, on_the_fly: OnTheFlyJpeg, epoch: int, rng: SampleRng) -> Indices:
        quality = on_the_fly.quality
        if isinstance(quality, tuple):
            return rng.integer(QUALITY_STREAM, *quality)
        if isinstance(quality, Ramp):
            quality = round(quality.at(self.plan(epoch).progress))
        return np.full(len(rng), quality)

    def _sizes(self, samples: np.ndarray) -> tuple[Indices, Indices]:
        heights, widths = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for position, variant in enumerate(self.variants.values()):
            mine = samples["variant"] == position
            indices = samples["index"][mine]
            heights[mine], widths[mine] = variant.beton.heights[indices], variant.beton.widths[indices]
        return np.maximum(heights, 1), np.maximum(widths, 1)  # damaged metadata has 0; the decoder then raises


def _repeated(drawn: Indices, times: int, count: int) -> Indices:
    """Return ``count`` occurrences: each of the first ``drawn`` ones ``times`` over.

    The n-th repetition of occurrence number m of a sample is its occurrence number ``m * times + n``.
    """
    first = drawn[: ceil(count / times)]
    occurrences = (first % count + first // count * count * times)[:, None] + count * np.arange(times)
    return occurrences.reshape(-1)[:count]


def _shuffled(drawn: Indices, _count: int, generator: np.random.Generator) -> Indices:
    return generator.permutation(drawn)


def _shuffled_in_windows(drawn: Indices, count: int, generator: np.random.Generator) -> Indices:
    """Shuffle runs of samples that are neighbours among ``count``, then the samples within every window of runs."""
    runs = ceil(count / RUN)
    place = np.empty(runs, np.int64)
    place[generator.permutation(runs)] = np.arange(runs)
    windows = place[drawn % count // RUN] // WINDOW
    return drawn[np.lexsort((generator.random(len(drawn)), windows))]
