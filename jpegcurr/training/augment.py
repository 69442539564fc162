"""Augmentation of a batch on its device, after the loader: timm's RandAugment, torchvision's TrivialAugmentWide, colour jitter.

Which operations a sample gets, and how much of each, is drawn on the CPU from its own ``Draws``: it depends on (seed, epoch,
sample) alone, not on the batch, the workers or the rank. An operation is then carried out at once on all samples that drew it.
Who they are is known on the host, so nothing waits for the device, and a layer of operations sends it two numbers a sample.

The operations are Pillow's on uint8, as timm calls them, and to the last bit, but for those that move pixels: see ``_moved``.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from jpegcurr.training.draws import Draws

Floats = NDArray[np.float64]
Interpolation = Literal["bilinear", "bicubic"]

MAX_LAYERS = 10
BINS = 31  # torchvision's default number of magnitudes

# Streams of random numbers, apart from those of contract.py: for each layer the operation, whether it is applied, how much of
# it and its sign; for the jitter the order and three factors.
_FIRST, _PER_LAYER = 1000, 4
_OPERATION, _APPLIED, _AMOUNT, _SIGN = range(_PER_LAYER)
_JITTER = _FIRST + MAX_LAYERS * _PER_LAYER

# Pillow cuts off what it interpolates to whole levels; what is a whole one but for the rounding of float32 is to stay.
_SLACK = 2**-7

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

    def draw(self, draws: Draws) -> Iterator[Layer]:
        """One layer of operations after the other."""
        amounts_of = _INCREASING if self.increasing else _PLAIN
        names = tuple(name.removesuffix("Increasing") for name in amounts_of)
        for first in range(_FIRST, _FIRST + self.layers * _PER_LAYER, _PER_LAYER):
            which = draws.integer(first + _OPERATION, 0, len(names) - 1)
            levels = np.full(len(draws), float(self.magnitude))
            if self.deviation:
                levels += self.deviation * ndtri(draws.uniform(first + _AMOUNT))
            levels = np.clip(levels, 0.0, 10.0)
            signs = np.where(draws.uniform(first + _SIGN) < 0.5, 1.0, -1.0)
            amounts = np.stack([amount(levels, signs) for amount in amounts_of.values()])[which, np.arange(len(draws))]
            yield Layer(names, np.where(draws.uniform(first + _APPLIED) < self.prob, which, -1), amounts)


@dataclass(frozen=True, slots=True)
class TrivialAugment:
    """torchvision's TrivialAugmentWide: one of 13 operations or none, at one of 31 magnitudes, of either sign."""

    interpolation: Interpolation = "bicubic"

    def draw(self, draws: Draws) -> Iterator[Layer]:
        """One layer of operations."""
        which = draws.integer(_FIRST + _OPERATION, 0, len(_TRIVIAL)) - 1
        bins = draws.integer(_FIRST + _AMOUNT, 0, BINS - 1)
        negative = draws.integer(_FIRST + _SIGN, 0, 1)
        yield Layer(tuple(_TRIVIAL), which, np.stack(list(_TRIVIAL.values()))[which, negative, bins])


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


def augment(images: torch.Tensor, policy: Policy, draws: Draws, fill: Sequence[int]) -> torch.Tensor:
    """Uint8 ``images`` [b 3 h w], of which sample i is drawn for by the i-th of ``draws`` -> the same, augmented.

    ``fill`` is the RGB level, 0 to 255, of what comes in from outside an image: timm's is ``min(255, round(255 * mean))`` of
    the mean that the model is normalised by. The memory format is kept, and ``images`` themselves are.
    """
    images = images.clone()
    for layer in policy.draw(draws):
        _apply(images, layer, fill, policy.interpolation)
    return images


def color_jitter(images: torch.Tensor, strength: float, draws: Draws) -> torch.Tensor:
    """torchvision's ``ColorJitter(strength, strength, strength)`` of Pillow's images, for uint8 ``images`` [b 3 h w].

    Brightness, contrast and saturation, in an order drawn for each sample, by factors from 1 - ``strength``, or 0, to
    1 + ``strength``.
    """
    images = images.clone()
    low = max(0.0, 1.0 - strength)
    factors = np.stack([low + (1.0 + strength - low) * draws.uniform(_JITTER + 1 + number) for number in range(len(_JITTERED))])
    for which in _ORDERS[draws.integer(_JITTER, 0, len(_ORDERS) - 1)].T:
        _apply(images, Layer(_JITTERED, which, factors[which, np.arange(len(draws))]))
    return images


def operate(
    name: str,
    images: torch.Tensor,
    amounts: torch.Tensor,
    fill: Sequence[int] = (0, 0, 0),
    interpolation: Interpolation = "bicubic",
) -> torch.Tensor:
    """One operation on uint8 ``images`` [k 3 h w], with the argument that timm's function gets for each, float64 [k].

    ``TranslateX`` and ``TranslateY`` are by pixels, their ``Rel`` by shares of the side.
    """
    if name in _MOVES:
        return _moved(images, amounts, _MOVES[name], fill, interpolation)
    return _RECOLOURS[name](images, amounts[:, None, None, None])


def _apply(
    images: torch.Tensor, layer: Layer, fill: Sequence[int] = (0, 0, 0), interpolation: Interpolation = "bicubic"
) -> None:
    """Carry out ``layer`` on ``images``, in place."""
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
    return torch.linspace(first, last, BINS).numpy().astype(np.float64)


def _both(positive: Floats, negative: Floats | None = None) -> Floats:
    return np.stack([positive, positive if negative is None else negative])


def _around(middle: float, span: Floats) -> Floats:
    return _both(middle + span, middle - span)


# What an operation is given, float64 [2 31], by the sign, positive first, and the magnitude, in torchvision's order. Shifts are
# in whole pixels, and to the other side than Pillow's matrix has them.
_TRIVIAL: Mapping[str, Floats] = {
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


# Operations that change colours: uint8 [k 3 h w] and amounts, float64 [k 1 1 1] -> uint8 [k 3 h w].


def _invert(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return 255 - images


def _posterize(images: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """With 0 bits an image is black, as it was with Pillow before it refused that."""
    return images & (256 - (256 >> bits.int())).to(torch.uint8)


def _solarize(images: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    return torch.where(images < threshold.to(torch.int16), images, 255 - images)


def _solarize_add(images: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
    brighter = (images + amount.to(torch.int16)).clamp_(max=255).to(torch.uint8)
    return torch.where(images < 128, brighter, images)


def _auto_contrast(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    darkest, brightest = (end.flatten(2).double() for end in (images.amin((2, 3), True), images.amax((2, 3), True)))
    identity = torch.arange(256.0, device=images.device, dtype=torch.float64)
    scale = torch.full_like(darkest, 255) / (brightest - darkest)  # a number over a tensor is not rounded as a division is
    table = (identity * scale - darkest * scale).clamp_(0, 255)
    return _look_up(images, torch.where(brightest > darkest, table, identity))


def _equalize(images: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    levels = images.flatten(2).long()
    counts = levels.new_zeros((*levels.shape[:2], 256))
    counts.scatter_add_(2, levels, levels.new_ones(()).expand_as(levels))
    step = (levels.shape[2] - counts.gather(2, levels.amax(2, keepdim=True))) // 255
    table = (step // 2 + counts.cumsum(2) - counts) // step.clamp(min=1)
    return _look_up(images, torch.where(step > 0, table.clamp_(max=255), torch.arange(256, device=images.device)))


def _look_up(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """By the ``tables`` of each sample and channel, [k 3 256]."""
    return tables.to(torch.uint8).gather(2, images.flatten(2).long()).view(images.shape)


def _brightness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(0.0, images.float(), factor)


def _contrast(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Away from the image's mean grey, rounded."""
    total = _grey(images).sum((1, 2, 3), keepdim=True)
    count = images.shape[2] * images.shape[3]
    return _blend(((2 * total + count) // (2 * count)).float(), images.float(), factor)


def _color(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    return _blend(_grey(images).float(), images.float(), factor)


def _sharpness(images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Away from Pillow's SMOOTH: a mean over nine pixels in which the middle counts five times; the edge stays as it is."""
    values = images.float()
    rows = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * values[:, :, 1:-1, 1:-1]
    smooth = values.clone()
    smooth[:, :, 1:-1, 1:-1] = ((total + 6.5) / 13).floor()
    return _blend(smooth, values, factor)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """Pillow's conversion to L, int32 [k 1 h w]."""
    red, green, blue = images.int().unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000)[:, None] >> 16


def _blend(start: torch.Tensor | float, images: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Pillow's ``Image.blend``: in float32, clipped and cut off. A fused multiply-add would round otherwise."""
    change = factor.float() * (images - start)
    return (start + change).clamp_(0, 255).to(torch.uint8)


_RECOLOURS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "SolarizeAdd": _solarize_add,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
}


# Operations that move pixels: where in the image [height width] the pixel comes from that is seen at x [w], y [h 1], in pixels
# from the corner, by amounts, float32 [k 1 1].
_Move = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]


def _rotate(
    x: torch.Tensor, y: torch.Tensor, degrees: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Anticlockwise, about the middle."""
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    x, y = x - width / 2, y - height / 2
    return cos * x - sin * y + width / 2, sin * x + cos * y + height / 2


_MOVES: Mapping[str, _Move] = {
    "Rotate": _rotate,
    "ShearX": lambda x, y, slope, _height, _width: (x + slope * y, y),
    "ShearY": lambda x, y, slope, _height, _width: (x, y + slope * x),
    "TranslateX": lambda x, y, pixels, _height, _width: (x + pixels, y),
    "TranslateY": lambda x, y, pixels, _height, _width: (x, y + pixels),
    "TranslateXRel": lambda x, y, share, _height, width: (x + share * width, y),
    "TranslateYRel": lambda x, y, share, height, _width: (x, y + share * height),
}


def _moved(
    images: torch.Tensor, amounts: torch.Tensor, move: _Move, fill: Sequence[int], interpolation: Interpolation
) -> torch.Tensor:
    """Pixels from where ``move`` says, ``fill`` where that is outside the image.

    Bilinear is Pillow's, but for one level in 1 to 3 % of the pixels. Bicubic is torch's cubic, of a = -0.75, and Pillow's for
    this is of -1: half a level from it in the mean, in photographs, and up to six. Moves by whole pixels are exact with both.
    """
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device) + 0.5
    y = torch.arange(height, device=images.device)[:, None] + 0.5
    places = move(x, y, amounts.float()[:, None, None], height, width)
    x, y = (place.expand(len(images), height, width) for place in places)
    grid = torch.stack((x * (2 / width) - 1, y * (2 / height) - 1), 3)
    seen = torch.nn.functional.grid_sample(images.float(), grid, interpolation, "border", align_corners=False)
    inside = ((x >= 0) & (x < width) & (y >= 0) & (y < height))[:, None]
    outside = torch.cat([images.new_full((1, 1, 1, 1), level) for level in fill], 1)
    return torch.where(inside, seen.add_(_SLACK).clamp_(0, 255).to(torch.uint8), outside)
