"""Random erasing compared with timm's and torchvision's."""

import random
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, kstest
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import RandomErasing as TorchvisionsErasing

from jpegcurr.training.augment.erasing import ASPECT, Fill, _keys, _normal, _quantiles, erase, erased_boxes
from jpegcurr.training.data.crops import HEIGHT, LEFT, TOP, WIDTH
from jpegcurr.training.sample_rng import SampleRng

COUNT = 2000
FILLS: tuple[Fill, ...] = get_args(Fill)


def batch(count: int, height: int = 40, width: int = 56) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(count))


def rng(count: int, seed: int = 0, epoch: int = 0) -> SampleRng:
    return SampleRng(seed, epoch, np.arange(count))


@pytest.mark.parametrize(("height", "width"), [(224, 224), (24, 200)])
def test_boxes_are_distributed_like_timms(height: int, width: int) -> None:
    """Compare at two sizes; few boxes fit into the second."""
    theirs, boxes = RandomErasing(1.0, mode="const", max_count=1, device="cpu"), []

    class Image:
        def __setitem__(self, where: tuple[slice, slice, slice], _pixels: torch.Tensor) -> None:
            boxes.append([where[1].start, where[2].start, *(part.stop - part.start for part in where[1:])])

    random.seed(0)
    for _ in range(COUNT):
        theirs._erase(Image(), 3, height, width, torch.float32)
    ours = erased_boxes(height, width, 1.0, rng(COUNT))
    erased = ours[:, HEIGHT] > 0
    assert erased.mean() == pytest.approx(len(boxes) / COUNT, abs=0.01)
    for column in (TOP, LEFT, HEIGHT, WIDTH):
        assert ks_2samp(ours[erased, column], np.array(boxes)[:, column], method="asymp").pvalue > 1e-3, column


def test_boxes_are_of_the_areas_and_aspects_asked_for() -> None:
    boxes = erased_boxes(224, 224, 1.0, rng(COUNT)).astype(float)
    areas, aspects = boxes[:, HEIGHT] * boxes[:, WIDTH] / 224**2, boxes[:, HEIGHT] / boxes[:, WIDTH]
    assert 0.019 < areas.min() < 0.03
    assert 0.3 < areas.max() < 0.34
    assert ASPECT[0] * 0.97 < aspects.min() < aspects.max() < ASPECT[1] * 1.03
    assert (boxes[:, [TOP, LEFT]] >= 0).all()
    assert (boxes[:, TOP] + boxes[:, HEIGHT] <= 224).all()
    assert (boxes[:, LEFT] + boxes[:, WIDTH] <= 224).all()


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_as_many_are_erased_as_asked(probability: float) -> None:
    share = (erased_boxes(224, 224, probability, rng(COUNT))[:, HEIGHT] > 0).mean()
    assert share == pytest.approx(probability, abs=0.03)


def test_a_box_is_noise_and_the_rest_stays_unchanged() -> None:
    images = batch(60)
    before = images.clone()
    erased = erase(images, 0.5, rng(60))
    assert torch.equal(images, before)
    boxes = erased_boxes(40, 56, 0.5, rng(60))
    assert 15 < (boxes[:, HEIGHT] > 0).sum() < 45
    expected = np.zeros((60, 40, 56), bool)
    for hit, (top, left, height, width) in zip(expected, boxes, strict=True):
        hit[top : top + height, left : left + width] = True
    changed = (erased != images).numpy()
    assert (changed == expected[:, None]).all()  # no noise equals by chance the pixel that it replaces


def test_a_constant_fills_the_boxes_that_noise_would_with_zero() -> None:
    images = batch(60)
    noisy, constant = (erase(images, 0.5, rng(60), fill=fill) for fill in FILLS)
    assert torch.equal(noisy, erase(images, 0.5, rng(60))), "noise is the default"
    erased = noisy != images
    assert erased.any()
    assert torch.equal(constant, images.masked_fill(erased, 0))


def test_boxes_are_nearly_torchvisions() -> None:
    """Allow for torchvision's largest area and aspect, which are 0.33 and 3.3, not a third and ten thirds."""
    torch.manual_seed(0)
    image = torch.ones(3, 64, 64)
    theirs = [TorchvisionsErasing.get_params(image, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=[0.0]) for _ in range(COUNT)]
    ours = erased_boxes(64, 64, 1.0, rng(COUNT))
    for column, drawn in zip((TOP, LEFT, HEIGHT, WIDTH), zip(*theirs, strict=True), strict=False):
        assert ks_2samp(ours[:, column], np.array(drawn), method="asymp").pvalue > 1e-3, column


def test_noise_is_normal_and_new_for_every_sample_pixel_channel_epoch_and_seed() -> None:
    def noise(seed: int, epoch: int) -> torch.Tensor:
        keys = torch.from_numpy(_keys(rng(40, seed, epoch)))
        return torch.stack([_normal(key.expand(2000), torch.arange(2000)) for key in keys])  # [sample pixel channel]

    values = noise(0, 0)
    assert values.mean().item() == pytest.approx(0, abs=0.01)
    assert values.std().item() == pytest.approx(1, abs=0.01)
    assert kstest(values.flatten().numpy(), "norm").pvalue > 1e-3
    shifted = [values.roll(1, dimension) for dimension in range(3)]
    for other in (noise(0, 1), noise(1, 0), *shifted, values.roll((1, 1), (0, 1))):
        correlation = np.corrcoef(values.flatten().numpy(), other.flatten().numpy())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(values.numel())


def test_noise_is_splitmix_as_numpy_computes_it() -> None:
    """NumPy's uint64 wraps by definition; torch's int64 wraps because compilers do so."""
    key, pixels = -(2**63) + 12345, np.arange(500)
    state = np.uint64(key % 2**64) + (pixels.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state = state ^ (state >> np.uint64(31))
    parts = np.stack([(state >> np.uint64(bits)) & np.uint64(0xFFFF) for bits in (16, 32, 48)], 1).astype(np.int64)
    expected = _quantiles(torch.device("cpu"))[torch.from_numpy(parts)]
    assert torch.equal(_normal(torch.tensor(key), torch.from_numpy(pixels)), expected)


def test_erasing_depends_on_the_sample_alone() -> None:
    images, samples = batch(24), np.arange(24)
    whole = erase(images, 0.5, SampleRng(3, 1, samples))
    parts = [erase(images[part], 0.5, SampleRng(3, 1, samples[part])) for part in (slice(5), slice(5, 24))]
    assert torch.equal(whole, torch.cat(parts))
    back = erase(images.flip(0), 0.5, SampleRng(3, 1, samples[::-1].copy())).flip(0)
    assert torch.equal(whole, back)
    assert torch.equal(whole, erase(images, 0.5, SampleRng(3, 1, samples)))
    for key in ((3, 2), (4, 1)):
        assert not torch.equal(whole, erase(images, 0.5, SampleRng(*key, samples)))


def test_memory_format_and_type_are_kept() -> None:
    images = batch(12)
    expected = erase(images, 1.0, rng(12))
    channels_last = erase(images.to(memory_format=torch.channels_last), 1.0, rng(12))
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(channels_last, expected)
    for fill in FILLS:
        half = erase(images.bfloat16(), 1.0, rng(12), fill=fill)
        assert half.dtype == torch.bfloat16
        assert torch.equal(half, erase(images, 1.0, rng(12), fill=fill).bfloat16())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (4, 3)])
def test_a_small_image_is_no_special_case(height: int, width: int) -> None:
    erased = erase(batch(50, height, width), 1.0, rng(50))
    assert erased.shape == (50, 3, height, width)
    assert erased.isfinite().all()


@pytest.mark.parametrize("fill", FILLS)
def test_no_value_is_read_back_from_the_device(fill: Fill) -> None:
    """Meta tensors have no values."""
    erased = erase(batch(12).to("meta"), 1.0, rng(12), fill=fill)
    assert erased.shape == (12, 3, 40, 56)
