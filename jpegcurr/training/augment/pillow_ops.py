"""Pillow's operations on uint8 images, as timm calls them, for a batch of which each sample has an amount of its own.

To the last bit, but for those that move pixels: see ``_moved``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Interpolation = Literal["bilinear", "bicubic"]

# Pillow cuts off what it interpolates to whole levels; what is a whole one but for the rounding of float32 is to stay.
_SLACK = 2**-7


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
