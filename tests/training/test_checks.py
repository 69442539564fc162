"""What a recipe does in silence: images that are not mixed, and images that an epoch leaves out."""

import json
from pathlib import Path

import pytest
import torch
from samples import tiny_recipe
from studies import command

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import RecipeError
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.recipe.schema import MixSection, Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.mixup import mix
from jpegcurr.training.checks import check_mixing, describe_left_out, mixing_warning, unmixed_share
from jpegcurr.training.data.sampling import EpochSampler, Variant
from jpegcurr.training.train import train

MIXUP = "mix.mixup=0.8"


def first_epoch(recipe: Recipe, betons: Path) -> list[int]:
    """Return the samples of the recipe's first epoch, in order."""
    variant = {"": Variant(Beton(betons / "train-source.beton"))}
    sampler = EpochSampler(
        variant, recipe.image, train=True, batch=recipe.micro(), step=recipe.batch.size, repeats=recipe.batch.repeats
    )
    return [int(index) for index in sampler.indices(sampler.order(0))]


@pytest.mark.parametrize(
    ("overrides", "ranks", "share"),
    [
        (["mix={}", "batch.per_device=1"], 1, 0),
        ([MIXUP, "batch.per_device=1"], 1, 1),
        (["mix.cutmix=1.0", "batch={size: 1, per_device: 64}"], 1, 1),
        ([MIXUP], 16, 1),  # a step of 16 on 16 devices
        ([MIXUP], 2, 0),
        ([MIXUP, "curriculum.1.batch=1"], 1, 1),  # all micro-batches have the size of the smallest step
        ([MIXUP, "batch={size: 9, per_device: 3}"], 1, 1 / 3),  # the middle one
        (["mix={mixup: 0.8, chunk: 7}"], 1, 2 / 8),  # of 8, one in the middle of 7, and one alone
        (["mix={mixup: 0.8, chunk: 5}", "batch={size: 10, per_device: 10}"], 1, 2 / 10),
        ([MIXUP, "batch={size: 2, per_device: 2, repeats: 2}"], 1, 1),  # an image and its repetition
        ([MIXUP, "batch={size: 6, per_device: 6, repeats: 2}"], 1, 2 / 6),
        ([MIXUP, "batch={size: 8, per_device: 4, repeats: 2}"], 1, 0),
    ],
)
def test_images_that_are_mixed_with_themselves_are_counted(
    tmp_path: Path, overrides: list[str], ranks: int, share: float
) -> None:
    recipe = tiny_recipe(Path(), tmp_path, *overrides)
    assert unmixed_share(recipe, ranks) == pytest.approx(share)
    if share == 1:
        with pytest.raises(RecipeError, match=r"^mix: no image has another to be mixed with: micro-batches have [12]\b"):
            check_mixing(recipe, ranks)
    else:
        check_mixing(recipe, ranks)
        assert (mixing_warning(recipe, ranks) is not None) == (share > 0)


@pytest.mark.parametrize(("size", "repeats"), [(1, 1), (2, 2), (3, 1), (6, 2), (8, 2), (7, 3)])
def test_the_count_is_what_the_mixing_does(betons: Path, tmp_path: Path, size: int, repeats: int) -> None:
    """Mix a step of images whose one pixel is the number of the sample, half and half, and count those that stay."""
    recipe = tiny_recipe(betons, tmp_path, MIXUP, f"batch={{size: {size}, per_device: {size}, repeats: {repeats}}}")
    numbers = torch.tensor(first_epoch(recipe, betons)[:size], dtype=torch.float32)
    images = numbers.view(-1, 1, 1, 1).expand(-1, 3, 1, 1).contiguous()
    mixed, _ = mix(images, torch.zeros(size, 2), MixSection(mixup=1e6), 0, 0, 0)
    unmixed = (mixed - images).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert unmixed.float().mean().item() == pytest.approx(unmixed_share(recipe))


def test_mixing_that_is_asked_for_with_probability_0_is_warned_of(tmp_path: Path) -> None:
    recipe = tiny_recipe(Path(), tmp_path, "mix={mixup: 0.8, prob: 0}")
    assert "mix.prob: 0 mixes no images" in str(mixing_warning(recipe))
    assert mixing_warning(tiny_recipe(Path(), tmp_path, "mix.prob=0")) is None


def test_mixing_that_mixes_nothing_is_refused_by_the_plan_and_the_run_but_an_old_run_resumes(
    betons: Path, cpu: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(betons, tmp_path, MIXUP, "batch.per_device=1", "evaluate=[]")
    Path("one.yaml").write_text(dump_recipe(recipe))
    assert command("train --recipe one.yaml --plan") == 2
    assert "mix: no image has another to be mixed with" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="Set an even") as refused:
        train(recipe, Path("run"), runtime=cpu)
    assert "or omit mix" in str(refused.value)
    assert command("train --recipe one.yaml --plan --set batch.per_device=2") == 0
    assert command("train --recipe one.yaml --plan --set mix={}") == 0
    with monkeypatch.context() as earlier:
        earlier.setattr("jpegcurr.training.train.check_mixing", lambda *_: None)  # as the version before
        train(recipe, Path("run"), runtime=cpu, until=1)
    train(recipe, Path("run"), runtime=cpu, resume=True, until=2)
    assert "no image has another to be mixed with" in capsys.readouterr().err, "a warning"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["batch.size=16"], None),
        (
            ["batch.size=40", "batch.per_device=40"],
            "every epoch: 40 of 48 images are trained on, in steps of 40; 8 (17 %) are left out, others in every epoch "
            "(all steps have the same size)",
        ),
        (
            ["curriculum.1.batch=32"],
            "epochs 2 to 3: 32 of 48 images are trained on, in steps of 32; 16 (33 %) are left out, others in every epoch "
            "(all steps have the same size)",
        ),
        (
            ["batch.repeats=3"],
            "every epoch: 16 of 48 images are trained on, in steps of 16; 32 (67 %) are left out, others in every epoch "
            "(batch.repeats=3 takes fewer images)",
        ),
    ],
)
def test_the_images_that_an_epoch_leaves_out_are_counted(
    betons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], sentence: str | None
) -> None:
    recipe = tiny_recipe(betons, tmp_path, *overrides)
    assert describe_left_out(recipe, 48) == sentence
    Path("r.yaml").write_text(dump_recipe(recipe))
    assert command("train --recipe r.yaml --plan") == 0
    printed = capsys.readouterr().out
    assert ("left out" in printed) == (sentence is not None)
    assert sentence is None or sentence in printed
    assert command("train --recipe r.yaml --plan --json") == 0
    planned = json.loads(capsys.readouterr().out)
    if len(overrides) == 1:  # the first epoch has steps of 16
        assert planned[0]["left_out"] == 48 - len(set(first_epoch(recipe, betons)))


def test_a_run_says_at_its_start_what_its_epochs_leave_out(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]", "batch={size: 20, per_device: 10}")
    with caplog.at_level("INFO", logger="jpegcurr"):
        train(recipe, Path("run"), runtime=cpu, until=1)
    assert sum("40 of 48 images are trained on, in steps of 20; 8 (17 %) are left out" in line for line in caplog.messages) == 1
