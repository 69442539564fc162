"""Mixup and CutMix compared with timm's, and targets compared with torch's label smoothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import tiny_recipe
from timm.data.mixup import Mixup

from jpegcurr.recipe.schema import MixSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.mixup import draw, mix
from jpegcurr.training.loss import soft_targets
from jpegcurr.training.models.load import load_run
from jpegcurr.training.train import train

SIZE = torch.Size((24, 20))
BOTH = MixSection(mixup=0.8, cutmix=1.0)


def batch(count: int, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, *SIZE, generator=random), torch.randint(classes, (count,), generator=random)


@pytest.mark.parametrize("seed", range(8))
def test_a_chunk_is_mixed_as_timm_mixes_a_batch(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = batch(6)
    share, box = draw(BOTH, (seed, 0, 0), SIZE)
    theirs = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    monkeypatch.setattr(theirs, "_params_per_batch", lambda: (share, box is not None))
    monkeypatch.setattr("timm.data.mixup.rand_bbox", lambda *_arguments, **_options: box)
    expected, targets = theirs(images.clone(), labels)
    mixed, mixed_targets = mix(images, soft_targets(labels, 5, 0.1), BOTH, seed, 0, 0)
    assert torch.allclose(mixed, expected, atol=1e-6)
    assert torch.allclose(mixed_targets, targets, atol=1e-6)
    assert not torch.equal(mixed, images)


@pytest.mark.parametrize("section", [MixSection(mixup=0.8), MixSection(cutmix=1.0)], ids=["mixup", "cutmix"])
def test_a_target_has_the_share_that_the_image_has(section: MixSection) -> None:
    """Mix black images of class 0 with white ones of class 1, so that an image's mean is its share of class 1."""
    images = torch.stack([torch.full((3, *SIZE), float(white)) for white in (0, 0, 1, 1)])
    targets = soft_targets(torch.tensor([0, 0, 1, 1]), 2, 0.0)
    for epoch in range(30):
        mixed, mixed_targets = mix(images, targets, section, 0, epoch, 0)
        assert torch.allclose(mixed.mean((1, 2, 3)), mixed_targets[:, 1], atol=1e-5)
        assert torch.allclose(mixed_targets.sum(1), torch.ones(4))


def test_the_draw_depends_on_the_chunk_alone() -> None:
    images, labels = batch(12)
    targets = soft_targets(labels, 5, 0.1)
    section = BOTH.model_copy(update={"chunk": 4})
    whole, _ = mix(images, targets, section, 3, 1, 0)
    parts = [mix(images[start : start + 4], targets[start : start + 4], section, 3, 1, start // 4)[0] for start in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))
    draws = [draw(BOTH, key, SIZE) for key in ((3, 1, 0), (3, 1, 1), (3, 2, 0), (4, 1, 0))]
    assert len(set(draws)) == 4


def test_the_given_images_stay_unchanged() -> None:
    images, labels = batch(4)
    before = images.clone()
    mix(images, soft_targets(labels, 5, 0.1), BOTH, 0, 0, 0)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("section", "mixed", "cut"),
    [
        (MixSection(), 0.0, 0.0),
        (MixSection(mixup=0.8, prob=0.25), 0.25, 0.0),
        (MixSection(cutmix=1.0), 1.0, 1.0),
        (MixSection(mixup=0.8, cutmix=1.0, switch_prob=0.3), 1.0, 0.3),
        (MixSection(mixup=0.8, cutmix=1.0, prob=0.5), 0.5, 0.25),
    ],
)
def test_chunks_are_mixed_and_cut_as_often_as_asked(section: MixSection, mixed: float, cut: float) -> None:
    if not section.mixup and not section.cutmix:
        images, labels = batch(4)
        targets = soft_targets(labels, 5, 0.1)
        assert mix(images, targets, section, 0, 0, 0) == (images, targets)
        return
    draws = [draw(section, (0, epoch, chunk), SIZE) for epoch in range(20) for chunk in range(100)]
    assert np.mean([share < 1 or box is not None for share, box in draws]) == pytest.approx(mixed, abs=0.04)
    assert np.mean([box is not None for _, box in draws]) == pytest.approx(cut, abs=0.04)


def test_shares_have_the_beta_distribution() -> None:
    """Check the variance, which is 1 / (4 (2 alpha + 1)) for two equal parameters."""
    shares = [draw(MixSection(mixup=0.8), (0, 0, chunk), SIZE)[0] for chunk in range(4000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * 2.6), rel=0.06)


def test_soft_targets_are_torchs_label_smoothing() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 4, 0])
    for smoothing in (0.0, 0.1):
        expected = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels)
        ours = torch.nn.functional.cross_entropy(logits, soft_targets(labels, 5, smoothing))
        assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def run_weights(recipe_of: Callable[..., object], cpu: Runtime, name: str, *overrides: str) -> torch.Tensor:
    train(recipe_of(*overrides), Path(name), runtime=cpu)  # type: ignore[arg-type]
    return torch.cat([weight.flatten() for weight in load_run(Path(name), cpu).model.parameters()])


def test_mixing_does_not_depend_on_the_size_of_micro_batches(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    def recipe(*overrides: str) -> object:
        short = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "evaluate=[]", "model.drop_path=0")
        return tiny_recipe(betons, tmp_path, *short, "mix={mixup: 0.8, cutmix: 1.0, chunk: 4}", *overrides)

    whole, halves, unmixed, bce = (
        run_weights(recipe, cpu, name, *overrides)
        for name, overrides in (
            ("whole", ["batch.per_device=16"]),
            ("halves", ["batch.per_device=8"]),
            ("unmixed", ["batch.per_device=16", "mix.prob=0"]),
            ("bce", ["batch.per_device=16", "optim.loss=bce"]),
        )
    )
    assert (whole - halves).abs().max() < 1e-3 * (whole - unmixed).abs().max()
    assert (whole - bce).abs().max() > 1e-3
