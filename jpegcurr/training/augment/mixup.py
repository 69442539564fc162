"""Mixup and CutMix of images and targets on the device, the same for both loaders.

They work as timm's ``Mixup`` in batch mode, which the published ConvNeXts used: one draw for a whole chunk of images, of which
the i-th from the start is mixed with the i-th from the end. The draw depends on (seed, epoch, chunk) alone.
"""

from math import sqrt

import numpy as np
import torch

from jpegcurr.recipe.schema import MixSection

_TAG = 0x6D6978  # separates these random numbers from those of the order, which also come from (seed, epoch)
Box = tuple[int, int, int, int]  # top, bottom, left, right


def mix(
    images: torch.Tensor, targets: torch.Tensor, section: MixSection, seed: int, epoch: int, first_chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix float ``images`` [b 3 h w] and their ``targets`` [b classes] chunk by chunk, numbered from ``first_chunk`` on."""
    if not section.mixup and not section.cutmix:
        return images, targets
    mixed, mixed_targets = torch.empty_like(images), torch.empty_like(targets)
    for number, start in enumerate(range(0, len(images), section.chunk)):
        part = slice(start, start + section.chunk)
        share, box = draw(section, (seed, epoch, first_chunk + number), images.shape[2:])
        if box is None:
            _average(images[part], share, mixed[part])
        else:
            top, bottom, left, right = box
            mixed[part] = images[part]
            mixed[part, :, top:bottom, left:right] = images[part, :, top:bottom, left:right].flip(0)
        _average(targets[part], share, mixed_targets[part])
    return mixed, mixed_targets


def _average(values: torch.Tensor, share: float, out: torch.Tensor) -> None:
    """Write the average of ``values`` and their mirror positions into ``out``."""
    torch.mul(values, share, out=out).add_(values.flip(0).mul_(1 - share))


def draw(section: MixSection, key: tuple[int, int, int], size: torch.Size) -> tuple[float, Box | None]:
    """Return the share that an image keeps of itself, and for CutMix the box that its partner fills; None for mixup."""
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
