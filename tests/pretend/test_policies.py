"""Augmentation in few kernels, which is the way of a GPU, against that of a CPU, to the bit."""

from itertools import product

import numpy as np
import pytest
import torch
from pretend.backend import NAME
from pretend.device import PretendedGpu

from jpegcurr.training.augment.pillow_ops import Interpolation
from jpegcurr.training.augment.policies import augment, color_jitter, parse_policy
from jpegcurr.training.sample_rng import SampleRng

FILL = [124, 116, 104]


def batch(height: int, width: int, seed: int) -> torch.Tensor:
    """Return 96 images: smooth ones, noise, ones of few levels, and ones of a single level."""
    random = np.random.default_rng(seed)
    slopes = random.integers(0, 3, (96, 3, 2, 1, 1))
    noise = random.integers(0, random.integers(1, 256, (96, 1, 1, 1)), (96, 3, height, width))
    rows, columns = np.arange(height)[:, None], np.arange(width)
    images = (slopes[:, :, 0] * rows + slopes[:, :, 1] * columns + noise * random.integers(0, 2, (96, 1, 1, 1))) % 256
    return torch.from_numpy(images.astype(np.uint8)).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_all_operations_at_once_give_the_same_pixels(interpolation: Interpolation) -> None:
    policies = ("rand-m9-mstd0.5-inc1", "rand-m10-mstd3-n3-p1", "trivial")
    for seed, (policy, (height, width)) in enumerate(product(policies, ((32, 32), (33, 47)))):
        images, rng = batch(height, width, seed), SampleRng(seed, 1, np.arange(96))
        expected = augment(images, parse_policy(policy, interpolation), rng, FILL)
        with PretendedGpu() as gpu:
            on_device = images.to(f"{NAME}:0", non_blocking=True)
            gpu.waits.clear()
            found = augment(on_device, parse_policy(policy, interpolation), rng, FILL)
            jittered = color_jitter(on_device, 0.4, rng)
            assert found.is_contiguous(memory_format=torch.channels_last)
        assert gpu.waits == gpu.faults == []
        assert torch.equal(found.host, expected)  # type: ignore[attr-defined]
        assert torch.equal(jittered.host, color_jitter(images, 0.4, rng))  # type: ignore[attr-defined]
