"""JPEG on the fly after the resize, on the device: the batches of the codec on threads, to the bit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import LOADERS, jpeg, photograph, write_beton

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import OnTheFlyJpeg
from jpegcurr.runtime import Runtime
from jpegcurr.training.curriculum import EpochPlan
from jpegcurr.training.data import device_jpeg
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import Batch, EpochSampler, Variant


@pytest.fixture
def by_device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which every encoding by arithmetic adds its number of images."""
    calls: list[int] = []
    encode = device_jpeg.jpeg_unchecked

    def counted(images: torch.Tensor, qualities: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return encode(images, qualities)

    monkeypatch.setattr(device_jpeg, "jpeg_unchecked", counted)
    return calls


def epochs(kind: str, sampler: EpochSampler, runtime: Runtime, count: int = 2) -> list[Batch]:
    loader = open_loader(kind, sampler, runtime)
    return [batch for epoch in range(count) for batch in loader.at(epoch)]


def sampler_of(betons: Path, **options: Any) -> EpochSampler:
    """Return a training sampler of four sets: two encoded after the resize, one before the crop, one as it is stored."""
    source, half = (Beton(betons / f"train-{name}.beton") for name in ("source", "q50"))

    def of(quality: Any, stage: str) -> Variant:
        return Variant(source, OnTheFlyJpeg.model_validate({"beton": source.path, "quality": quality, "stage": stage}))

    variants = {
        "ramp": of({"start": 90, "end": 10}, "after_resize"),
        "range": of([5, 95], "after_resize"),
        "whole": of([5, 95], "before_crop"),
        "stored": Variant(half),
    }
    shares = tuple((name, 0.25) for name in variants)
    plans = (EpochPlan(0, 0, shares, 0.25, 1), EpochPlan(1, 0, (("ramp", 0.5), ("range", 0.5)), 0.75, 1, size=56))
    image = ImageSection(size=40, padding=0, interpolation="bicubic")
    return EpochSampler(variants, image, train=True, batch=10, workers=2, plans=plans, seed=3, **options)


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        assert one.images.stride() == other.images.stride()


@pytest.mark.parametrize("kind", LOADERS)
def test_whole_epochs_of_ramps_ranges_and_mixtures_are_those_of_the_codec(
    betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch, by_device: list[int], kind: str
) -> None:
    sampler = sampler_of(betons)
    flips = sampler.samples(1, sampler.order(1))["flip"]
    assert 0 < flips.sum() < len(flips)
    by_codec = epochs(kind, sampler, cpu)
    assert by_device == []
    monkeypatch.setattr(Runtime, "jpeg_on_device", True)
    assert_same(epochs(kind, sampler, cpu), by_codec)
    assert sum(by_device[:5]) < 48 - 10, "of the first epoch about half"
    assert by_device[5:] == [10, 10, 10, 10, 8]


@pytest.mark.parametrize("kind", LOADERS)
def test_validation_too(betons: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch, by_device: list[int], kind: str) -> None:
    beton = Beton(betons / "val-source.beton")
    variant = Variant(beton, OnTheFlyJpeg(beton=beton.path, quality=20, stage="after_resize"))
    sampler = EpochSampler.of(variant, ImageSection(size=37), batch=7, workers=1)
    by_codec = epochs(kind, sampler, cpu, 1)
    monkeypatch.setattr(Runtime, "jpeg_on_device", True)
    assert_same(epochs(kind, sampler, cpu, 1), by_codec)
    assert by_device == [7, 7, 2]


@pytest.mark.parametrize("kind", LOADERS)
def test_a_replaced_sample_has_the_quality_and_the_mirroring_of_its_replacement(
    tmp_path: Path, cpu: Runtime, monkeypatch: pytest.MonkeyPatch, by_device: list[int], kind: str
) -> None:
    cat = np.asarray(photograph("cat").crop((40, 30, 104, 94)))
    payloads = [jpeg(Image.fromarray(np.roll(cat, 4 * number, axis=0)), quality=95) for number in range(12)]
    payloads[3] = payloads[7] = bytes(700)
    beton = Beton(write_beton(tmp_path / "bad.beton", [(payload, 64, 64, label) for label, payload in enumerate(payloads)]))
    variant = Variant(beton, OnTheFlyJpeg(beton=beton.path, quality=(1, 100), stage="after_resize"))
    sampler = EpochSampler({"": variant}, ImageSection(size=32), train=True, batch=5, workers=1, skip_broken=True, seed=8)
    by_codec = epochs(kind, sampler, cpu, 3)
    monkeypatch.setattr(Runtime, "jpeg_on_device", True)
    assert_same(epochs(kind, sampler, cpu, 3), by_codec)
    assert sum(by_device) == 36
