"""What a loader is, whichever one it is.

A loader yields ``(uint8 [b 3 h w], int64 [b])`` on the runtime's device, has ``len()`` in batches, and ``at(epoch)``. Which
samples come and in which order is a function of (seed, epoch); which data set, quality, crop and flip a sample gets, of
(seed, epoch, sample). So the number of workers changes nothing, a resumed run sees what an unbroken one would have, and two
data sets that differ in quality alone show the same crops of the same images. All of it is settled here, in a ``SAMPLE`` for
every sample; the loaders only carry jobs out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.schema import ImageSection, OnTheFlyJpeg, Order, Ramp
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data.crops import HEIGHT, LEFT, TOP, TRIES, WIDTH, centre_boxes, random_boxes
from jpegcurr.training.sample_rng import SampleRng

Batch = tuple[torch.Tensor, torch.Tensor]
Indices = NDArray[np.int64]

# One sample to be made: ``variant`` is the position in ``EpochSampler.variants``, ``quality`` 0 where nothing is encoded again.
SAMPLE = np.dtype(
    [
        ("index", np.int64),
        ("top", np.int32),
        ("left", np.int32),
        ("height", np.int32),
        ("width", np.int32),
        ("variant", np.uint8),
        ("quality", np.uint8),
        ("flip", np.bool_),
    ],
    align=True,
)
_FLIP, _MEMBER, _QUALITY, _BOX = 0, 1, 2, 3
_REPLACEMENT = _BOX + 4 * TRIES

# Quasi-random order: windows of so many runs of so many neighbours are shuffled as one. 128 photographs are about a page of
# 8 MiB at quality 95, so a window is about a gigabyte; at quality 50 a quarter of it.
RUN, WINDOW = 128, 128
TOGETHER = 2048  # samples whose jobs are drawn at once


@dataclass(frozen=True, slots=True)
class Variant:
    """A beton and what is done to its images when they are loaded, if anything."""

    beton: Beton
    on_the_fly: OnTheFlyJpeg | None = None

    @property
    def before_crop(self) -> bool:
        """Whether whole images are encoded again, before the crop."""
        return self.on_the_fly is not None and self.on_the_fly.stage == "before_crop"


@dataclass(frozen=True, slots=True)
class EpochSampler:
    """How betons are seen: in batches of ``batch``, shuffled and cropped at random if ``train``.

    ``members`` hold the same images at different qualities; ``plans`` say which of them an epoch draws from (without plans
    there is one member). A training epoch is cut to a multiple of ``step`` images, so that every optimiser step is whole.
    With several ``ranks``, each step's images are dealt out in equal parts, so the steps are the same for any number of
    ranks; for validation, ranks take turns, and each sample is seen by exactly one.

    With ``repeats`` each of an epoch's samples occurs so many times, in one step as a rule: the n-th occurrence of sample i
    stands in the order as ``i + n * len(beton)``, and is another crop.
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
    order_by: Order = "random"
    os_cache: bool = True
    skip_broken: bool = False
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of(
        cls, variant: Variant, image: ImageSection, *, batch: int, workers: int = 0, os_cache: bool = True
    ) -> "EpochSampler":
        """One beton as validation sees it."""
        return cls({"": variant}, image, train=False, batch=batch, workers=workers, os_cache=os_cache)

    @property
    def beton(self) -> Beton:
        """The first of the betons; labels and number of samples are the same in all."""
        return next(iter(self.variants.values())).beton

    def order(self, epoch: int) -> Indices:
        """The occurrences of samples in ``epoch`` that this rank sees, in order."""
        count = len(self.beton)
        if not self.train:
            return np.arange(self.rank, count, self.ranks)
        shuffle = _shuffled if self.order_by == "random" else _shuffled_in_windows
        shuffled = shuffle(count, np.random.default_rng((self.seed, epoch)))
        step = self.step_of(epoch)
        steps = _repeated(shuffled, self.repeats)[: count - count % step].reshape(-1, step)
        if self.repeats > 1:  # the first occurrences before the second: a sample's are then far apart, in other micro-batches
            steps = np.take_along_axis(steps, np.argsort(steps // count, axis=1, kind="stable"), axis=1)
        return steps.reshape(-1, self.ranks, step // self.ranks)[:, self.rank].reshape(-1)

    def __len__(self) -> int:
        """Batches of the first epoch."""
        count, step = len(self.beton), self.step_of(0)
        mine = (count - count % step) // self.ranks if self.train else len(range(self.rank, count, self.ranks))
        return ceil(mine / self.batch)

    def step_of(self, epoch: int) -> int:
        """Images of an optimiser step in ``epoch``."""
        return (self.plans[epoch].batch if self.plans else 0) or self.step

    def size(self, epoch: int) -> int:
        """Pixels a side of what the model sees in ``epoch``."""
        return (self.plans[epoch].size if self.plans else None) or self.image.size

    def batches(self, epoch: int) -> list[Indices]:
        """``order`` in pieces of ``batch``; the last may be smaller."""
        order = self.order(epoch)
        return [order[start : start + self.batch] for start in range(0, len(order), self.batch)]

    def indices(self, occurrences: Indices) -> Indices:
        """Which samples those are."""
        return occurrences % len(self.beton)

    def labels(self, indices: Indices) -> torch.Tensor:
        """Int64 [n]."""
        return torch.from_numpy(self.beton.labels[indices])

    def samples(self, epoch: int, indices: Indices) -> np.ndarray:
        """What is to be made of the occurrences ``indices`` of samples in ``epoch``: a ``SAMPLE`` each."""
        rng = SampleRng(self.seed, epoch, indices)
        samples = np.zeros(len(indices), SAMPLE)
        samples["index"] = self.indices(indices)
        samples["variant"] = self.drawn_variants(epoch, rng)
        samples["quality"] = self._qualities(epoch, samples["variant"], rng)
        heights, widths = self._sizes(samples)
        if self.train:
            boxes = random_boxes(heights, widths, self.image, rng, _BOX)
            samples["flip"] = rng.uniform(_FLIP) < self.image.hflip
        else:
            boxes = centre_boxes(heights, widths, self.image)
        for name, column in (("top", TOP), ("left", LEFT), ("height", HEIGHT), ("width", WIDTH)):
            samples[name] = boxes[:, column]
        return samples

    def samples_of(self, epoch: int, batches: Sequence[Indices]) -> Iterator[np.ndarray]:
        """The ``jobs`` of each batch in turn; many are drawn at once, which takes a sixth of the time."""
        together = max(1, TOGETHER // self.batch)
        for first in range(0, len(batches), together):
            some = batches[first : first + together]
            yield from np.split(self.samples(epoch, np.concatenate(some)), np.cumsum([len(batch) for batch in some])[:-1])

    def drawn_variants(self, epoch: int, rng: SampleRng) -> NDArray[np.int64]:
        """Which member each sample is taken from in ``epoch``."""
        if not self.plans:
            return np.zeros(len(rng), np.int64)
        shares = self.plans[epoch].shares
        positions = np.array([list(self.variants).index(name) for name, _ in shares])
        bounds = np.cumsum([share for _, share in shares])[:-1]
        return positions[np.searchsorted(bounds, rng.uniform(_MEMBER), side="right")]

    def replacement(self, epoch: int, index: int, attempt: int) -> int:
        """The sample that stands in for one that does not decode, at the ``attempt``-th attempt."""
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
            return rng.integer(_QUALITY, *quality)
        if isinstance(quality, Ramp):
            quality = round(quality.at(self.plans[epoch].progress))
        return np.full(len(rng), quality)

    def _sizes(self, samples: np.ndarray) -> tuple[Indices, Indices]:
        heights, widths = np.empty(len(samples), np.int64), np.empty(len(samples), np.int64)
        for position, variant in enumerate(self.variants.values()):
            mine = samples["variant"] == position
            indices = samples["index"][mine]
            heights[mine], widths[mine] = variant.beton.heights[indices], variant.beton.widths[indices]
        return np.maximum(heights, 1), np.maximum(widths, 1)  # damaged metadata, which decoders refuse


class Loader(Protocol):
    """What the training loop asks of a loader."""

    replaced: int
    """Samples that did not decode in the epoch under way or last seen, and were replaced by others."""

    def __len__(self) -> int:
        """Batches of the first epoch."""
        ...

    def at(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Iterate ``epoch`` from its batch ``first`` on; leaving early stops what works behind it. A batch is the caller's."""
        ...


def _repeated(indices: Indices, times: int) -> Indices:
    """Each of the first so many samples ``times`` over, as many in all: the n-th time as ``sample + n * len(samples)``."""
    count = len(indices)
    distinct = indices[: ceil(count / times), None] + count * np.arange(times)
    return distinct.reshape(-1)[:count]


def _shuffled(count: int, generator: np.random.Generator) -> Indices:
    return generator.permutation(count)


def _shuffled_in_windows(count: int, generator: np.random.Generator) -> Indices:
    """Runs of neighbours are shuffled, then the samples within every window of runs."""
    runs = ceil(count / RUN)
    place = np.empty(runs, np.int64)
    place[generator.permutation(runs)] = np.arange(runs)
    windows = place[np.arange(count) // RUN] // WINDOW
    return np.lexsort((generator.random(count), windows))
