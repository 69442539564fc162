"""Random numbers of a sample, and crops drawn with them."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, kstest
from torchvision.transforms import v2

from jpegcurr.recipe.schema import ImageSection
from jpegcurr.training.data.crops import HEIGHT, LEFT, TOP, WIDTH, centre_boxes, random_boxes
from jpegcurr.training.sample_rng import SampleRng

MANY = 20_000


def test_a_draw_depends_on_seed_epoch_sample_and_stream_alone() -> None:
    samples = np.array([5, 3, 900])
    rng = SampleRng(7, 2, samples)
    assert (rng.uniform(4) == SampleRng(7, 2, samples).uniform(4)).all()
    assert (SampleRng(7, 2, samples[::-1]).uniform(4) == rng.uniform(4)[::-1]).all()
    assert (rng.take(np.array([2])).uniform(4) == rng.uniform(4)[2:]).all()
    for other in (SampleRng(8, 2, samples).uniform(4), SampleRng(7, 3, samples).uniform(4), rng.uniform(5)):
        assert (other != rng.uniform(4)).all()


@pytest.mark.parametrize("stream", [0, 1, 42])
def test_draws_are_uniform_and_streams_samples_epochs_and_seeds_independent(stream: int) -> None:
    samples = np.arange(MANY)
    values = SampleRng(1, 0, samples).uniform(stream)
    assert 0 <= values.min() < values.max() < 1
    assert kstest(values, "uniform").pvalue > 1e-3
    others = (
        SampleRng(1, 0, samples).uniform(stream + 1),
        *(SampleRng(*key, samples).uniform(stream) for key in ((1, 1), (2, 0))),
    )
    for other in (*others, np.roll(values, 1)):
        assert abs(np.corrcoef(values, other)[0, 1]) < 4 / np.sqrt(MANY)


def test_integers_are_uniform_with_both_ends() -> None:
    rng = SampleRng(3, 0, np.arange(MANY))
    for low, high in ((30, 35), (-3, 2)):
        counts = np.bincount(rng.integer(0, low, high) - low, minlength=6)
        assert (len(counts), counts.sum()) == (6, MANY)
        assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(("height", "width"), [(375, 500), (500, 333), (64, 1000), (1000, 40), (7, 9)])
def test_random_boxes_are_distributed_like_torchvisions(height: int, width: int) -> None:
    """Include sizes into which most tries do not fit, so that the fallback is used."""
    image = ImageSection()
    count = 3000
    ours = random_boxes(np.full(count, height), np.full(count, width), image, SampleRng(0, 0, np.arange(count)), 3)
    torch.manual_seed(0)
    crop = v2.RandomResizedCrop(8, scale=image.scale, ratio=image.ratio)
    meta = torch.empty(3, height, width, device="meta")
    drawn = [crop.make_params([meta]) for _ in range(count)]
    for column, name in ((TOP, "top"), (LEFT, "left"), (HEIGHT, "height"), (WIDTH, "width")):
        assert ks_2samp(ours[:, column], [box[name] for box in drawn], method="asymp").pvalue > 1e-3, name
    assert (ours[:, TOP] >= 0).all()
    assert (ours[:, LEFT] >= 0).all()
    assert (ours[:, [HEIGHT, WIDTH]] >= 1).all()
    assert (ours[:, TOP] + ours[:, HEIGHT] <= height).all()
    assert (ours[:, LEFT] + ours[:, WIDTH] <= width).all()


def test_the_centre_box_is_ffcvs() -> None:
    heights, widths = np.array([375, 1]), np.array([500, 90])
    assert centre_boxes(heights, widths, ImageSection()).tolist() == [[23, 86, 328, 328], [0, 44, 1, 1]]
    assert centre_boxes(heights, widths, ImageSection(val_crop="squash")).tolist() == [[0, 0, 375, 500], [0, 0, 1, 90]]
