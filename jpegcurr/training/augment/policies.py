"""Augmentation of a batch on its device, after the loader: timm's RandAugment, torchvision's TrivialAugmentWide, colour jitter.

Which operations a sample gets, and how much of each, is drawn on the CPU from its own ``SampleRng``: it depends on (seed,
epoch, sample) alone, not on the batch, the workers or the rank. An operation is then applied at once to all samples that drew
it. Which these are is known on the host, so nothing waits for the device, and a layer of operations sends two numbers a sample.

The operations themselves are in ``pillow_ops``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import AugmentSection, Recipe
from jpegcurr.recipe.schema import Interpolation as ImageInterpolation
from jpegcurr.training.sample_rng import SampleRng

if TYPE_CHECKING:  # a recipe's policies are checked without torch
    import torch

    from jpegcurr.training.augment.pillow_ops import Interpolation

Floats = NDArray[np.float64]

MAX_LAYERS = 10
BINS = 31  # torchvision's default number of magnitudes

# Streams of random numbers, apart from those of sampling.py: for each layer the operation, whether it is applied, how much of
# it and its sign; for the jitter the order and three factors.
_FIRST, _PER_LAYER = 1000, 4
_OPERATION, _APPLIED, _AMOUNT, _SIGN = range(_PER_LAYER)
_JITTER = _FIRST + MAX_LAYERS * _PER_LAYER

_SECTION = re.compile(r"(m|n|inc)(\d+)|(mstd|p)(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Layer:
    """An operation for each of n samples: ``which`` of ``names``, int64 [n], -1 for none, and its argument, float64 [n]."""

    names: tuple[str, ...]
    which: NDArray[np.int64]
    amounts: Floats


@dataclass(frozen=True, slots=True)
class RandAugment:
    """timm's: ``layers`` times one of 15 operations, with replacement, each applied with ``prob``.

    The level is drawn from a normal distribution of mean ``magnitude`` and standard deviation ``deviation``, clipped to 0 to
    10. With ``increasing``, operations get stronger with it; without, some get weaker.
    """

    magnitude: int = 10
    deviation: float = 0.0
    layers: int = 2
    prob: float = 0.5
    increasing: bool = False
    interpolation: Interpolation = "bicubic"

    def draw(self, rng: SampleRng) -> Iterator[Layer]:
        """One layer of operations after the other."""
        amounts_of = _INCREASING if self.increasing else _PLAIN
        names = tuple(name.removesuffix("Increasing") for name in amounts_of)
        for first in range(_FIRST, _FIRST + self.layers * _PER_LAYER, _PER_LAYER):
            which = rng.integer(first + _OPERATION, 0, len(names) - 1)
            levels = np.full(len(rng), float(self.magnitude))
            if self.deviation:
                levels += self.deviation * ndtri(rng.uniform(first + _AMOUNT))
            levels = np.clip(levels, 0.0, 10.0)
            signs = np.where(rng.uniform(first + _SIGN) < 0.5, 1.0, -1.0)
            amounts = np.stack([amount(levels, signs) for amount in amounts_of.values()])[which, np.arange(len(rng))]
            yield Layer(names, np.where(rng.uniform(first + _APPLIED) < self.prob, which, -1), amounts)


@dataclass(frozen=True, slots=True)
class TrivialAugment:
    """torchvision's TrivialAugmentWide: one of 13 operations or none, at one of 31 magnitudes, of either sign."""

    interpolation: Interpolation = "bicubic"

    def draw(self, rng: SampleRng) -> Iterator[Layer]:
        """One layer of operations."""
        trivial = _trivial_amounts()
        which = rng.integer(_FIRST + _OPERATION, 0, len(trivial)) - 1
        bins = rng.integer(_FIRST + _AMOUNT, 0, BINS - 1)
        negative = rng.integer(_FIRST + _SIGN, 0, 1)
        yield Layer(tuple(trivial), which, np.stack(list(trivial.values()))[which, negative, bins])


Policy = RandAugment | TrivialAugment


def parse_policy(text: str, interpolation: Interpolation = "bicubic") -> Policy:
    """``trivial``, or timm's ``rand`` with its ``-m9 -mstd0.5 -n2 -p0.5 -inc1`` in any order, of which each may be left out.

    Defaults are timm's: m10, mstd0, n2, p0.5, inc0. ``interpolation`` is what timm calls so; the published ConvNeXts had
    ``bicubic``, as their views had. timm's other sections are refused, and what it passes over in silence or clips.

    Raises:
        ValueError: it is not understood.
    """
    if text == "trivial":
        return TrivialAugment(interpolation)
    kind, *sections = text.split("-")
    if kind != "rand":
        raise ValueError(f"{text!r} is no policy of augmentation: write trivial, or such as rand-m9-mstd0.5-inc1.")
    values: dict[str, str] = {}
    for section in sections:
        match = _SECTION.fullmatch(section)
        key, value = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
        if not key or key in values:
            raise ValueError(f"{text!r}: {section!r} is not known or comes twice; there are m9, mstd0.5, n2, p0.5, inc1.")
        values[key] = value
    for key, low, high in (("m", 0, 10), ("mstd", 0, 100), ("n", 1, MAX_LAYERS), ("p", 0, 1), ("inc", 0, 1)):
        if not low <= float(values.get(key, low)) <= high:
            raise ValueError(f"{text!r}: {key}{values[key]} is out of range, {key} is from {low} to {high}.")
    return RandAugment(
        magnitude=int(values.get("m", 10)),
        deviation=float(values.get("mstd", 0)),
        layers=int(values.get("n", 2)),
        prob=float(values.get("p", 0.5)),
        increasing=values.get("inc") == "1",
        interpolation=interpolation,
    )


def augment(images: torch.Tensor, policy: Policy, rng: SampleRng, fill: Sequence[int]) -> torch.Tensor:
    """Uint8 ``images`` [b 3 h w], of which sample i is drawn for by the i-th of ``draws`` -> the same, augmented.

    ``fill`` is the RGB level, 0 to 255, of what comes in from outside an image: timm's is ``min(255, round(255 * mean))`` of
    the mean that the model is normalised by. The memory format is kept, and ``images`` themselves are.
    """
    images = images.clone()
    for layer in policy.draw(rng):
        _apply(images, layer, fill, policy.interpolation)
    return images


def color_jitter(images: torch.Tensor, strength: float, rng: SampleRng) -> torch.Tensor:
    """torchvision's ``ColorJitter(strength, strength, strength)`` of Pillow's images, for uint8 ``images`` [b 3 h w].

    Brightness, contrast and saturation, in an order drawn for each sample, by factors from 1 - ``strength``, or 0, to
    1 + ``strength``.
    """
    images = images.clone()
    low = max(0.0, 1.0 - strength)
    factors = np.stack([low + (1.0 + strength - low) * rng.uniform(_JITTER + 1 + number) for number in range(len(_JITTERED))])
    for which in _ORDERS[rng.integer(_JITTER, 0, len(_ORDERS) - 1)].T:
        _apply(images, Layer(_JITTERED, which, factors[which, np.arange(len(rng))]))
    return images


def _apply(
    images: torch.Tensor, layer: Layer, fill: Sequence[int] = (0, 0, 0), interpolation: Interpolation = "bicubic"
) -> None:
    """Carry out ``layer`` on ``images``, in place."""
    import torch

    from jpegcurr.training.augment.pillow_ops import operate

    order = np.argsort(layer.which, kind="stable")
    bounds = np.searchsorted(layer.which[order], np.arange(len(layer.names) + 1)).tolist()
    samples = torch.from_numpy(order).to(images.device, non_blocking=True)
    amounts = torch.from_numpy(layer.amounts[order]).to(images.device, non_blocking=True)
    for name, first, last in zip(layer.names, bounds[:-1], bounds[1:], strict=True):
        if first < last:
            drew_it = samples[first:last]
            images[drew_it] = operate(name, images[drew_it], amounts[first:last], fill, interpolation)


# What an operation is given, float64 [n], by timm's level, 0 to 10, and a sign; in timm's order. The enhancements and those
# below take the same argument whether they increase or not, only the way from the level to it differs. As in timm, Solarize
# and Posterize count in whole steps, cut off: at level 9, increasing, the threshold is 256 - 230 and 4 - 3 bits are kept.
_Amount = Callable[[Floats, Floats], Floats]


def _nothing(levels: Floats, _signs: Floats) -> Floats:
    return np.zeros_like(levels)


def _signed(most: float) -> _Amount:
    return lambda levels, signs: signs * (levels / 10.0 * most)


def _steps(most: int) -> _Amount:
    return lambda levels, _signs: np.trunc(levels / 10.0 * most)


def _steps_down(start: int, most: int) -> _Amount:
    return lambda levels, _signs: start - np.trunc(levels / 10.0 * most)


def _factor(levels: Floats, _signs: Floats) -> Floats:
    return levels / 10.0 * 1.8 + 0.1


def _factor_away_from_one(levels: Floats, signs: Floats) -> Floats:
    return np.maximum(0.1, 1.0 + signs * (levels / 10.0 * 0.9))


_PLAIN: Mapping[str, _Amount] = {
    "AutoContrast": _nothing,
    "Equalize": _nothing,
    "Invert": _nothing,
    "Rotate": _signed(30.0),
    "Posterize": _steps(4),
    "Solarize": _steps(256),
    "SolarizeAdd": _steps(110),
    "Color": _factor,
    "Contrast": _factor,
    "Brightness": _factor,
    "Sharpness": _factor,
    "ShearX": _signed(0.3),
    "ShearY": _signed(0.3),
    "TranslateXRel": _signed(0.45),
    "TranslateYRel": _signed(0.45),
}
_INCREASES: Mapping[str, _Amount] = {
    "Posterize": _steps_down(4, 4),
    "Solarize": _steps_down(256, 256),
    **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), _factor_away_from_one),
}
_INCREASING: Mapping[str, _Amount] = {**_PLAIN, **_INCREASES}


def _linspace(first: float, last: float) -> Floats:
    """In float32, as torchvision has it."""
    import torch

    return torch.linspace(first, last, BINS).numpy().astype(np.float64)


def _both(positive: Floats, negative: Floats | None = None) -> Floats:
    return np.stack([positive, positive if negative is None else negative])


def _around(middle: float, span: Floats) -> Floats:
    return _both(middle + span, middle - span)


@cache
def _trivial_amounts() -> Mapping[str, Floats]:
    """Return every operation's arguments, float64 [2 31], by sign, positive first, and magnitude, in torchvision's order.

    Shifts are in whole pixels, and have the opposite sign of those in Pillow's matrix.
    """
    return {
        **dict.fromkeys(("ShearX", "ShearY"), _around(0.0, _linspace(0.0, 0.99))),
        **dict.fromkeys(("TranslateX", "TranslateY"), _around(0.0, -np.trunc(_linspace(0.0, 32.0)))),
        "Rotate": _around(0.0, _linspace(0.0, 135.0)),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _around(1.0, _linspace(0.0, 0.99))),
        "Posterize": _both(8.0 - np.rint(np.arange(BINS) / ((BINS - 1) / 6))),
        "Solarize": _both(np.ceil(_linspace(255.0, 0.0))),
        "AutoContrast": _both(np.zeros(BINS)),
        "Equalize": _both(np.zeros(BINS)),
    }


_JITTERED = ("Brightness", "Contrast", "Color")
_ORDERS = np.array(list(permutations(range(len(_JITTERED)))))


def policy_of(section: AugmentSection, interpolation: ImageInterpolation) -> Policy | None:
    """The policy that a recipe names; raises ValueError for one that is unknown."""
    if section.policy is None:
        return None
    return parse_policy(section.policy, "bilinear" if interpolation == "area" else interpolation)


def check_policies(recipe: Recipe) -> None:
    """Raise RecipeError, with its place, for a policy that is unknown."""
    sections = {"": recipe.augment} | {
        f"curriculum.{number}.": phase.augment for number, phase in enumerate(recipe.curriculum) if phase.augment
    }
    for place, section in sections.items():
        try:
            policy_of(section, recipe.image.interpolation)
        except ValueError as error:
            raise RecipeError(f"{place}augment.policy: {error}") from None
