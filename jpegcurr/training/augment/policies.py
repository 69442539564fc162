"""Augmentation policies: timm's RandAugment, torchvision's TrivialAugmentWide, and colour jitter, for whole batches.

Which operations a sample gets, and with which arguments, is drawn on the CPU from its own ``SampleRng``: it depends on (seed,
epoch, sample) alone, not on the batch, the workers or the rank. Each operation is then applied at once to all samples that drew
it. The host knows which these are, so nothing waits for the device, and a layer of operations sends two numbers per sample.

The operations themselves are in ``pillow_ops``. This module is imported without torch, because ``train --plan`` checks
policies.
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
from jpegcurr.recipe.values import Interpolation as ImageInterpolation
from jpegcurr.training.sample_rng import SampleRng

if TYPE_CHECKING:
    import torch

    from jpegcurr.training.augment.pillow_ops import Interpolation

Floats = NDArray[np.float64]

MAX_LAYERS = 10
BINS = 31  # torchvision's default number of magnitudes

# Streams of random numbers, apart from those of data/sampling.py. Every layer has four: the operation, whether it is applied,
# its strength and its sign. The jitter has four: the order and three factors.
_FIRST, _PER_LAYER = 1000, 4
_OPERATION, _APPLIED, _AMOUNT, _SIGN = range(_PER_LAYER)
_JITTER = _FIRST + MAX_LAYERS * _PER_LAYER

_OPTION = re.compile(r"(m|n|inc)(\d+)|(mstd|p)(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Layer:
    """One operation for each of n samples.

    ``which`` is its position in ``names``, int64 [n], -1 for none; ``amounts`` are the operations' arguments, float64 [n].
    """

    names: tuple[str, ...]
    which: NDArray[np.int64]
    amounts: Floats


@dataclass(frozen=True, slots=True)
class RandAugment:
    """timm's RandAugment: ``layers`` operations out of 15, drawn with replacement, each applied with probability ``prob``.

    The level is drawn from a normal distribution of mean ``magnitude`` and standard deviation ``deviation``, clipped to 0 to
    10. With ``increasing``, every operation gets stronger with the level; without, some get weaker.
    """

    magnitude: int = 10
    deviation: float = 0.0
    layers: int = 2
    prob: float = 0.5
    increasing: bool = False
    interpolation: Interpolation = "bicubic"

    def draw(self, rng: SampleRng) -> Iterator[Layer]:
        """Yield the layers of operations, in order."""
        functions = _INCREASING if self.increasing else _PLAIN
        names = tuple(functions)
        for first in range(_FIRST, _FIRST + self.layers * _PER_LAYER, _PER_LAYER):
            which = rng.integer(first + _OPERATION, 0, len(names) - 1)
            levels = np.full(len(rng), float(self.magnitude))
            if self.deviation:
                levels += self.deviation * ndtri(rng.uniform(first + _AMOUNT))
            levels = np.clip(levels, 0.0, 10.0)
            signs = np.where(rng.uniform(first + _SIGN) < 0.5, 1.0, -1.0)
            amounts = np.stack([amount(levels, signs) for amount in functions.values()])[which, np.arange(len(rng))]
            yield Layer(names, np.where(rng.uniform(first + _APPLIED) < self.prob, which, -1), amounts)


@dataclass(frozen=True, slots=True)
class TrivialAugment:
    """torchvision's TrivialAugmentWide: one of 13 operations or none, at one of 31 magnitudes, of either sign."""

    interpolation: Interpolation = "bicubic"

    def draw(self, rng: SampleRng) -> Iterator[Layer]:
        """Yield the one layer of operations."""
        amounts = _trivial_amounts()
        which = rng.integer(_FIRST + _OPERATION, 0, len(amounts)) - 1
        bins = rng.integer(_FIRST + _AMOUNT, 0, BINS - 1)
        negative = rng.integer(_FIRST + _SIGN, 0, 1)
        yield Layer(tuple(amounts), which, np.stack(list(amounts.values()))[which, negative, bins])


Policy = RandAugment | TrivialAugment


def check_policies(recipe: Recipe) -> None:
    """Raise RecipeError, which names the field, for an unknown policy."""
    sections = {"": recipe.augment} | {
        f"curriculum.{number}.": phase.augment for number, phase in enumerate(recipe.curriculum) if phase.augment
    }
    for prefix, section in sections.items():
        try:
            parse_section_policy(section, recipe.image.interpolation)
        except ValueError as error:
            raise RecipeError(f"{prefix}augment.policy: {error}") from None


def parse_section_policy(section: AugmentSection, interpolation: ImageInterpolation) -> Policy | None:
    """Return the policy of a recipe's section, None if it has none; raise ValueError for an unknown one.

    Operations interpolate as ``interpolation``, the resize of the images, does; bilinear for area.
    """
    if section.policy is None:
        return None
    return parse_policy(section.policy, "bilinear" if interpolation == "area" else interpolation)


def parse_policy(text: str, interpolation: Interpolation = "bicubic") -> Policy:
    """Parse ``trivial``, or timm's ``rand`` with any of the options ``-m9 -mstd0.5 -n2 -p0.5 -inc1`` in any order.

    Defaults are timm's: m10, mstd0, n2, p0.5, inc0. The published ConvNeXts used ``bicubic`` interpolation for operations and
    resize. timm's other options are refused, and so are values that timm ignores or clips.

    Raises:
        ValueError: the text is not such a policy.
    """
    if text == "trivial":
        return TrivialAugment(interpolation)
    kind, *options = text.split("-")
    if kind != "rand":
        raise ValueError(f"{text!r} is no policy: write trivial, or a RandAugment such as rand-m9-mstd0.5-inc1.")
    values: dict[str, str] = {}
    for option in options:
        match = _OPTION.fullmatch(option)
        key, value = (match[1] or match[3], match[2] or match[4]) if match else ("", "")
        if not key or key in values:
            raise ValueError(f"{text!r}: {option!r} is unknown or repeated; the options are m9, mstd0.5, n2, p0.5 and inc1.")
        values[key] = value
    for key, low, high in (("m", 0, 10), ("mstd", 0, 100), ("n", 1, MAX_LAYERS), ("p", 0, 1), ("inc", 0, 1)):
        if not low <= float(values.get(key, low)) <= high:
            raise ValueError(f"{text!r}: {key}{values[key]} is out of range; {key} goes from {low} to {high}.")
    return RandAugment(
        magnitude=int(values.get("m", 10)),
        deviation=float(values.get("mstd", 0)),
        layers=int(values.get("n", 2)),
        prob=float(values.get("p", 0.5)),
        increasing=values.get("inc") == "1",
        interpolation=interpolation,
    )


def augment(images: torch.Tensor, policy: Policy, rng: SampleRng, fill: Sequence[int]) -> torch.Tensor:
    """Return uint8 ``images`` [b 3 h w] augmented; ``images`` stay unchanged, and the result has their memory format.

    ``rng`` has the random numbers of the b samples, in the same order. ``fill`` is the RGB level, 0 to 255, of pixels from
    outside an image; timm's is ``min(255, round(255 * mean))`` of the mean that the model's input is normalised by.
    """
    images = images.clone()
    for layer in policy.draw(rng):
        _apply(images, layer, fill, policy.interpolation)
    return images


def color_jitter(images: torch.Tensor, strength: float, rng: SampleRng) -> torch.Tensor:
    """Apply torchvision's ``ColorJitter(strength, strength, strength)`` for Pillow images to uint8 ``images`` [b 3 h w].

    Brightness, contrast and saturation change in an order drawn for every sample, by factors from 1 - ``strength`` (at least
    0) to 1 + ``strength``. ``images`` stay unchanged.
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
    """Apply ``layer`` to ``images`` in place."""
    import torch

    from jpegcurr.training.augment.pillow_ops import operate

    if images.device.type != "cpu":
        from jpegcurr.training.augment.layer_ops import apply_at_once

        apply_at_once(images, layer, fill, interpolation)
        return
    order = np.argsort(layer.which, kind="stable")
    bounds = np.searchsorted(layer.which[order], np.arange(len(layer.names) + 1)).tolist()
    samples = torch.from_numpy(order).to(images.device, non_blocking=True)
    amounts = torch.from_numpy(layer.amounts[order]).to(images.device, non_blocking=True)
    for name, first, last in zip(layer.names, bounds[:-1], bounds[1:], strict=True):
        if first < last:
            selected = samples[first:last]
            images[selected] = operate(name, images[selected], amounts[first:last], fill, interpolation)


_JITTERED = ("Brightness", "Contrast", "Color")
_ORDERS = np.array(list(permutations(range(len(_JITTERED)))))

# RandAugment's arguments of the operations, float64 [n], as functions of timm's level, 0 to 10, and a sign; in timm's order. As
# in timm, Solarize and Posterize count in whole steps, truncated: at level 9, increasing, the threshold is 256 - 230, and 4 - 3
# bits are kept.
_Amount = Callable[[Floats, Floats], Floats]


def _nothing(levels: Floats, _signs: Floats) -> Floats:
    return np.zeros_like(levels)


def _signed(largest: float) -> _Amount:
    return lambda levels, signs: signs * (levels / 10.0 * largest)


def _steps(largest: int) -> _Amount:
    return lambda levels, _signs: np.trunc(levels / 10.0 * largest)


def _steps_down(start: int, largest: int) -> _Amount:
    return lambda levels, _signs: start - np.trunc(levels / 10.0 * largest)


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
    """Return ``BINS`` numbers with the float32 rounding of torchvision's."""
    import torch

    return torch.linspace(first, last, BINS).numpy().astype(np.float64)


def _either_sign(positive: Floats, negative: Floats | None = None) -> Floats:
    return np.stack([positive, positive if negative is None else negative])


def _around(middle: float, span: Floats) -> Floats:
    return _either_sign(middle + span, middle - span)


@cache
def _trivial_amounts() -> Mapping[str, Floats]:
    """Return TrivialAugment's arguments of every operation, float64 [2 31], in torchvision's order.

    The first axis is the sign, positive first; the second is the magnitude. Shifts are in whole pixels, with the opposite sign
    of those in Pillow's matrix.
    """
    return {
        **dict.fromkeys(("ShearX", "ShearY"), _around(0.0, _linspace(0.0, 0.99))),
        **dict.fromkeys(("TranslateX", "TranslateY"), _around(0.0, -np.trunc(_linspace(0.0, 32.0)))),
        "Rotate": _around(0.0, _linspace(0.0, 135.0)),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), _around(1.0, _linspace(0.0, 0.99))),
        "Posterize": _either_sign(8.0 - np.rint(np.arange(BINS) / ((BINS - 1) / 6))),
        "Solarize": _either_sign(np.ceil(_linspace(255.0, 0.0))),
        "AutoContrast": _either_sign(np.zeros(BINS)),
        "Equalize": _either_sign(np.zeros(BINS)),
    }
