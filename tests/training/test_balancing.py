"""Classes of different sizes: samples drawn by class, and weights of classes in the loss."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from samples import COMPILED, tiny_recipe

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.mixup import draw as draw_mix
from jpegcurr.training.augment.mixup import mix
from jpegcurr.training.data.balancing import class_weights, describe_balance, draw, quotas
from jpegcurr.training.data.datasets import open_datasets
from jpegcurr.training.data.loaders import open_loader, open_loaders
from jpegcurr.training.data.sampling import EpochSampler, Variant
from jpegcurr.training.loss import recipe_loss, soft_targets

LABELS = np.array([0] * 100 + [2] * 7 + [3] * 41)
SIZES = np.bincount(LABELS)


@pytest.mark.parametrize(("balance", "expected"), [("equal", [148 / 3, 0, 148 / 3, 148 / 3]), ("sqrt", None)])
def test_classes_are_drawn_by_their_quota_on_average(balance: str, expected: list[float] | None) -> None:
    roots = np.sqrt(SIZES)
    expected = expected or list(148 * roots / roots.sum())
    assert quotas(SIZES, balance, 148) == pytest.approx(expected)
    drawn = [np.bincount(LABELS[draw(LABELS, balance, 148, np.random.default_rng(n)) % 148], minlength=4) for n in range(400)]
    assert (abs(np.array(drawn) - expected) < 1).all(), "a quota is rounded, up or down"
    assert np.mean(drawn, axis=0) == pytest.approx(expected, abs=0.1)


@given(arrays(np.int64, st.integers(1, 80), elements=st.integers(0, 5)), st.integers(1, 90), st.integers(0, 99))
@settings(deadline=None)
def test_images_of_a_class_occur_equally_often(labels: np.ndarray, count: int, seed: int) -> None:
    drawn = draw(labels, "equal", count, np.random.default_rng(seed))
    times = np.bincount(drawn % len(labels), minlength=len(labels))
    assert len(np.unique(drawn)) == times.sum() == count
    for label in np.unique(labels):
        assert np.ptp(times[labels == label]) <= 1
    for sample in np.flatnonzero(times):
        assert sorted(drawn[drawn % len(labels) == sample] // len(labels)) == list(range(times[sample]))


def uneven(betons: Path, **options: object) -> EpochSampler:
    """Return a sampler of 48 images, 40 of them of class 0."""
    labels = np.minimum(Beton(betons / "train-q50.beton").labels * 0 + np.maximum(np.arange(48) - 39, 0), 3)
    variants = {name: Variant(Beton(betons / f"train-{name}.beton"), matched=labels) for name in ("source", "q50")}
    return EpochSampler(variants, ImageSection(size=32), train=True, batch=4, step=16, balance="equal", **options)


@pytest.mark.parametrize("order_by", ["random", "quasi_random"])
@pytest.mark.parametrize("repeats", [1, 2])
def test_a_balanced_epoch_is_as_long_and_the_same_for_any_number_of_ranks(betons: Path, order_by: str, repeats: int) -> None:
    sampler = uneven(betons, order_by=order_by, repeats=repeats)
    order = sampler.order(1)
    assert len(np.unique(order)) == len(order) == 48
    assert (np.bincount(sampler.labels[order % 48]) == 12).all()
    assert (order == sampler.order(1)).all()
    assert (order != sampler.order(2)).any()
    parts = [replace(sampler, rank=rank, ranks=2).order(1).reshape(-1, 8) for rank in range(2)]
    assert (np.concatenate(parts, axis=1).reshape(-1) == order).all()
    views = sampler.samples(1, order)
    same = views[views["index"] == 40]  # the only one of its class
    assert len(same) == 12
    assert len(np.unique(same[["top", "left", "height", "width"]])) == 12, "every occurrence is another crop"


@pytest.mark.parametrize("kind", [COMPILED, "plain"])
def test_loaders_show_a_balanced_epoch_and_start_at_any_batch(betons: Path, cpu: Runtime, kind: str) -> None:
    sampler = uneven(betons)
    loader = open_loader(kind, sampler, cpu)
    batches = list(loader.at(0))
    assert np.bincount(torch.cat([batch.labels for batch in batches])).tolist() == [12] * 4
    (again,) = list(loader.at(0, first=11))
    assert again.images.equal(batches[11].images)


def test_a_recipe_balances_training_and_never_validation(betons: Path, tmp_path: Path, cpu: Runtime) -> None:
    loaders = open_loaders(tiny_recipe(betons, tmp_path, "batch.balance=equal"), runtime=cpu)
    assert loaders.train._sampler.balance == "equal"
    for loader in loaders.val.values():
        assert torch.cat([batch.labels for batch in loader]).bincount().tolist() == [4] * 4


def test_how_often_images_come_is_said() -> None:
    names = ["dog", "empty", "cat", "cow"]
    line = describe_balance(SIZES, names, "equal")
    assert "an image of cat (7 images) comes 7.05 times on average, an image of dog (100 images) comes 0.493 times" in line


def test_weights_have_a_mean_of_one_over_the_images() -> None:
    for wanted in ("balanced", "sqrt", {"cat": 5.0}):
        weights = class_weights(SIZES, ["dog", "empty", "cat", "cow"], wanted)
        assert (weights * SIZES).sum() == pytest.approx(148)
        assert weights[1] == 1, "a class without images"
    assert weights[2] / weights[0] == pytest.approx(5)
    assert class_weights(SIZES, list("abcd"), "balanced") == pytest.approx([148 / 300, 1, 148 / 21, 148 / 123])
    assert np.divide(*class_weights(SIZES, list("abcd"), "sqrt")[[2, 0]]) == pytest.approx((100 / 7) ** 0.5)
    with pytest.raises(RecipeError, match=r"optim.class_weights.cut: the training images have no such class. Did you mean"):
        class_weights(SIZES, ["dog", "empty", "cat", "cow"], {"cut": 2})


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_weights_multiply_the_shares_of_mixed_targets(betons: Path, tmp_path: Path, loss: str) -> None:
    """Compare with the formula, on smoothed and mixed targets; equal weights are the loss without weights, to the bit."""
    options = [f"optim.loss={loss}", "optim.class_weights={cat: 4}", "mix.mixup=0.8"]
    recipe = tiny_recipe(betons, tmp_path, *options)
    names = open_datasets(recipe).classes.names
    weights = torch.tensor([4.0 if name == "cat" else 1.0 for name in names]) * 4 / 7
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    targets = soft_targets(torch.tensor([0, 1, 2, 3, 1, 0]), 4, 0.1)
    _, targets = mix(torch.zeros(6, 3, 1, 1), targets, recipe.mix, 0, 0, 0)
    assert 0 < draw_mix(recipe.mix, (0, 0, 0), torch.Size((1, 1)))[0] < 1
    if loss == "bce":
        present, absent = logits.sigmoid().log(), (-logits).sigmoid().log()
        expected = -(weights * targets * present + (1 - targets) * absent).mean()
    else:
        expected = -(weights * targets * logits.log_softmax(1)).sum(1).mean()
    assert recipe_loss(recipe)(logits, targets).item() == pytest.approx(expected.item(), rel=1e-6)
    plain, even = (
        recipe_loss(tiny_recipe(betons, tmp_path, *options[:1], f"optim.class_weights={how}")) for how in ("null", "sqrt")
    )
    assert plain(logits, targets).equal(even(logits, targets)), "all classes have 12 images"
