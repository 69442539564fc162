"""Random erasing on the device, of a normalised batch: timm's ``RandomErasing(max_count=1)``, by noise or by 0.

Boxes are drawn on the CPU from each sample's own ``SampleRng``. Noise in them is a function of (seed, epoch, sample, pixel)
too, whatever the batch: SplitMix64, as in draws.py, run on the device, of which every pixel takes one number and every channel
16 bits of it, to look a normal number up by. That is integer arithmetic, so it is the same noise on every device.
"""

from functools import cache
from math import log
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from jpegcurr.training.data.crops import HEIGHT, LEFT, TOP, WIDTH
from jpegcurr.training.sample_rng import SampleRng

AREA, ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # shares of the image; height by width
TRIES = 10
Fill = Literal["pixel", "const"]

# Streams of random numbers, apart from those of sampling.py and policies.py: whether, the noise's key, the boxes.
_APPLIED, _KEY, _BOX = 2000, 2001, 2003

# SplitMix64's constants as int64, whose products wrap as those of uint64 do.
_GAMMA, _FIRST, _SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def erase(images: torch.Tensor, probability: float, rng: SampleRng, *, fill: Fill = "pixel") -> torch.Tensor:
    """Normalised float ``images`` [b 3 h w] -> the same with, at ``probability``, one box filled; ``images`` are kept.

    ``fill`` is timm's mode: ``pixel`` is normal noise, of mean 0 and deviation 1, for every pixel and channel anew; ``const``
    is 0, the mean colour. That is torchvision's ``RandomErasing(value=0)`` too, whose boxes end at 33 % of the image and at 3.3
    times their width (timm's at a third and at 3.33).
    """
    height, width = images.shape[2:]
    boxes = erased_boxes(height, width, probability, rng)
    areas = boxes[:, HEIGHT] * boxes[:, WIDTH]
    erased = np.flatnonzero(areas)
    images = images.clone()
    if not len(erased):
        return images
    starts = np.cumsum(areas[erased]) - areas[erased]
    columns = np.column_stack([starts, erased, boxes[erased], _keys(rng)[erased]])
    sample, row, column, key = _pixels(torch.from_numpy(columns).to(images.device, non_blocking=True), int(areas.sum()))
    images[sample, :, row, column] = 0 if fill == "const" else _normal(key, row * width + column).to(images.dtype)
    return images


def erased_boxes(height: int, width: int, probability: float, rng: SampleRng) -> NDArray[np.int64]:
    """Top, left, height and width of what is erased of each sample, int64 [n 4]; 0 all of it where nothing is.

    Of ten tries the first counts that is smaller than the image both ways.
    """
    boxes = np.zeros((len(rng), 4), np.int64)
    wanting = rng.uniform(_APPLIED) < probability
    for first in range(_BOX, _BOX + 4 * TRIES, 4):
        area = (AREA[0] + (AREA[1] - AREA[0]) * rng.uniform(first)) * height * width
        aspect = np.exp(log(ASPECT[0]) + (log(ASPECT[1]) - log(ASPECT[0])) * rng.uniform(first + 1))
        tall, wide = (np.rint(np.sqrt(square)).astype(np.int64) for square in (area * aspect, area / aspect))
        fits = wanting & (tall < height) & (wide < width)
        top, left = rng.integer(first + 2, 0, height - tall), rng.integer(first + 3, 0, width - wide)
        for name, number in ((TOP, top), (LEFT, left), (HEIGHT, tall), (WIDTH, wide)):
            boxes[fits, name] = number[fits]
        wanting &= ~fits
    return boxes


def _keys(rng: SampleRng) -> NDArray[np.int64]:
    """64 random bits for each sample."""
    high, low = (rng.integer(_KEY + half, 0, 2**32 - 1) for half in range(2))
    return ((high - 2**31) << 32) + low


def _pixels(columns: torch.Tensor, total: int) -> tuple[torch.Tensor, ...]:
    """Sample, row, column and key of each of ``total`` pixels, from those of the boxes that they are in."""
    number = torch.arange(total, device=columns.device)
    box = torch.searchsorted(columns[:, 0].contiguous(), number, right=True) - 1
    start, sample, top, left, _, width, key = columns[box].unbind(1)
    row = torch.div(number - start, width, rounding_mode="floor")
    return sample, top + row, left + number - start - row * width, key


def _normal(key: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Normal numbers, float32 [n 3]."""
    mixed = key + (pixel + 1) * _GAMMA
    mixed = (mixed ^ _shifted(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shifted(mixed, 27)) * _SECOND
    mixed = mixed ^ _shifted(mixed, 31)
    return _quantiles(key.device)[torch.stack([_shifted(mixed, bits) & 0xFFFF for bits in (16, 32, 48)], 1)]


def _shifted(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """To the right, with zeros from the left, as torch shifts no int64."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


@cache
def _quantiles(device: torch.device) -> torch.Tensor:
    """The normal distribution in 65536 equal parts, the middle of each, float32; up to 4.3 deviations."""
    middles = (np.arange(2**16) + 0.5) / 2**16
    return torch.from_numpy(ndtri(middles).astype(np.float32)).to(device)
