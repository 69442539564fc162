"""Random erasing of a normalised batch on its device: timm's ``RandomErasing(max_count=1)``, with noise or with 0.

Boxes are drawn on the CPU from each sample's own ``SampleRng``. The noise in them is a function of (seed, epoch, sample,
pixel), whatever the batch: it comes from SplitMix64, the generator of sample_rng.py, run on the device. Every pixel takes one
number, and every channel 16 bits of it, which index a table of normal numbers. This is integer arithmetic, so the noise is the
same on every device.
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

AREA, ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)  # area as a share of the image; height divided by width
TRIES = 10
Fill = Literal["pixel", "const"]

# Streams of random numbers, apart from those of data/sampling.py and policies.py: whether to erase, the noise's key, the boxes.
_APPLIED, _KEY, _BOX = 2000, 2001, 2003

# SplitMix64's constants as int64; products of int64 wrap like those of uint64.
_GAMMA, _FIRST, _SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def erase(
    images: torch.Tensor, probability: float, rng: SampleRng, *, fill: Fill = "pixel", in_place: bool = False
) -> torch.Tensor:
    """Return normalised float ``images`` [b 3 h w] with one box filled in each with ``probability``.

    ``images`` stay unchanged, unless it is done ``in_place``.

    ``fill`` is timm's mode: ``pixel`` is independent normal noise of mean 0 and deviation 1 for every pixel and channel;
    ``const`` is 0, the mean colour. The latter is also torchvision's ``RandomErasing(value=0)``, except that its largest box is
    33 % of the image and 3.3 times as high as wide, where timm's is a third and 3.33.
    """
    height, width = images.shape[2:]
    boxes = erased_boxes(height, width, probability, rng)
    areas = boxes[:, HEIGHT] * boxes[:, WIDTH]
    erased = np.flatnonzero(areas)
    images = images if in_place else images.clone()
    if not len(erased):
        return images
    starts = np.cumsum(areas[erased]) - areas[erased]
    columns = np.column_stack([starts, erased, boxes[erased], _keys(rng)[erased]])
    sample, row, column, key = _pixels(torch.from_numpy(columns).to(images.device, non_blocking=True), int(areas.sum()))
    images[sample, :, row, column] = 0 if fill == "const" else _normal(key, row * width + column).to(images.dtype)
    return images


def erased_boxes(height: int, width: int, probability: float, rng: SampleRng) -> NDArray[np.int64]:
    """Return the box that is erased in every sample, int64 [n 4]: top, left, height, width; zeros where nothing is erased.

    Of ten boxes that are drawn, the first that is smaller than the image in both directions is taken.
    """
    boxes = np.zeros((len(rng), 4), np.int64)
    pending = rng.uniform(_APPLIED) < probability
    for first in range(_BOX, _BOX + 4 * TRIES, 4):
        area = (AREA[0] + (AREA[1] - AREA[0]) * rng.uniform(first)) * height * width
        aspect = np.exp(log(ASPECT[0]) + (log(ASPECT[1]) - log(ASPECT[0])) * rng.uniform(first + 1))
        heights, widths = (np.rint(np.sqrt(square)).astype(np.int64) for square in (area * aspect, area / aspect))
        fits = pending & (heights < height) & (widths < width)
        tops, lefts = rng.integer(first + 2, 0, height - heights), rng.integer(first + 3, 0, width - widths)
        for column, values in ((TOP, tops), (LEFT, lefts), (HEIGHT, heights), (WIDTH, widths)):
            boxes[fits, column] = values[fits]
        pending &= ~fits
    return boxes


def _keys(rng: SampleRng) -> NDArray[np.int64]:
    """Return 64 random bits for every sample."""
    high, low = (rng.integer(_KEY + half, 0, 2**32 - 1) for half in range(2))
    return ((high - 2**31) << 32) + low


def _pixels(columns: torch.Tensor, total: int) -> tuple[torch.Tensor, ...]:
    """Return the sample, row, column and key of every pixel in the boxes, of which there are ``total``.

    ``columns``, int64 [boxes 7], are the number of the box's first pixel, its sample, top, left, height, width and key.
    """
    number = torch.arange(total, device=columns.device)
    box = torch.searchsorted(columns[:, 0].contiguous(), number, right=True) - 1
    start, sample, top, left, _, width, key = columns[box].unbind(1)
    row = torch.div(number - start, width, rounding_mode="floor")
    return sample, top + row, left + number - start - row * width, key


def _normal(key: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Return normal numbers, float32 [n 3]."""
    mixed = key + (pixel + 1) * _GAMMA
    mixed = (mixed ^ _shift_right(mixed, 30)) * _FIRST
    mixed = (mixed ^ _shift_right(mixed, 27)) * _SECOND
    mixed = mixed ^ _shift_right(mixed, 31)
    return _quantiles(key.device)[torch.stack([_shift_right(mixed, bits) & 0xFFFF for bits in (16, 32, 48)], 1)]


def _shift_right(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift to the right and fill with zeros, which torch's shift of int64 does not do."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


@cache
def _quantiles(device: torch.device) -> torch.Tensor:
    """Return the medians of 65536 equally likely parts of the normal distribution, float32; they end at 4.3 deviations."""
    middles = (np.arange(2**16) + 0.5) / 2**16
    return torch.from_numpy(ndtri(middles).astype(np.float32)).to(device)
