"""Mixup and CutMix on the device, after the loader, so that both loaders have them; and the targets that belong to them.

As timm's ``Mixup`` in its batch mode, which is what the published ConvNeXts had: one draw for a whole chunk of images, each
mixed with the one as far from the chunk's other end. What is drawn for a chunk depends on (seed, epoch, chunk) alone.
"""

from math import sqrt

import numpy as np
import torch

from jpegcurr.recipe.schema import MixSection

_TAG = 0x6D6978  # apart from the order, which is drawn from (seed, epoch) too
Box = tuple[int, int, int, int]  # top, bottom, left, right


def mix(
    images: torch.Tensor, targets: torch.Tensor, section: MixSection, seed: int, epoch: int, first_chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix float ``images`` [b 3 h w] and their ``targets`` [b classes], chunk by chunk, counted from ``first_chunk``."""
    if not section.mixup and not section.cutmix:
        return images, targets
    mixed, softer = images.clone(), targets.clone()
    for number, start in enumerate(range(0, len(images), section.chunk)):
        part = slice(start, start + section.chunk)
        share, box = draw(section, (seed, epoch, first_chunk + number), images.shape[2:])
        partners = images[part].flip(0)
        if box is None:
            mixed[part] = share * images[part] + (1 - share) * partners
        else:
            top, bottom, left, right = box
            mixed[part, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        softer[part] = share * targets[part] + (1 - share) * targets[part].flip(0)
    return mixed, softer


def draw(section: MixSection, key: tuple[int, int, int], size: torch.Size) -> tuple[float, Box | None]:
    """The share that an image keeps of itself, and the box that its partner takes where it is CutMix."""
    random = np.random.default_rng((*key, _TAG))
    if random.random() >= section.prob:
        return 1.0, None
    cut = bool(section.cutmix) and (not section.mixup or random.random() < section.switch_prob)
    alpha = section.cutmix if cut else section.mixup
    share = float(random.beta(alpha, alpha))
    if not cut:
        return share, None
    height, width = size
    half_height, half_width = (int(side * sqrt(1 - share)) // 2 for side in (height, width))
    middle_y, middle_x = int(random.integers(height)), int(random.integers(width))
    top, bottom = max(middle_y - half_height, 0), min(middle_y + half_height, height)
    left, right = max(middle_x - half_width, 0), min(middle_x + half_width, width)
    return 1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right)
