"""Fine-tuning: frozen weights, padded crops, and advice for few images."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from samples import FFCV, encode_all, jpeg, photograph, tiny_recipe, write_beton

from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import RecipeError, Terminated
from jpegcurr.recipe.schema import DataSection, ImageSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.advice import initial_share, schedule_advice, validation_warning
from jpegcurr.training.data.loaders import open_loader
from jpegcurr.training.data.sampling import EpochSampler, Variant
from jpegcurr.training.data.transforms import shift
from jpegcurr.training.models.freeze import freeze, set_mode
from jpegcurr.training.schedule import plan_run
from jpegcurr.training.train import train

CLEAN = ("curriculum=[{data: clean, until_epoch: 4}]",)
FROZEN = ("model.name=test_resnet", "model.drop_path=0", "model.freeze_until=2", "evaluate=[clean]")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write weights to start from, of 1000 classes."""
    import timm

    torch.manual_seed(3)
    file = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    return file


def test_frozen_epochs_move_the_classifier_alone_and_resume_to_the_bit(
    betons: Path, start: Path, tmp_path: Path, cpu: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jpegcurr")
    recipe = tiny_recipe(betons, tmp_path, *FROZEN, f"model.checkpoint={start}", "optim.class_weights=balanced")
    train(recipe, tmp_path / "whole", runtime=cpu)
    assert "epochs 0 to 1 train the classifier alone" in caplog.text
    assert "class weights in the loss: 1 (" in caplog.text
    before = torch.load(start, weights_only=True)
    kept = {epoch: load_file(tmp_path / f"whole/checkpoints/epoch-{epoch:04}.safetensors") for epoch in (1, 2)}
    moved = {
        epoch: {name for name in before if not tensors[f"model.{name}"].equal(before[name])} for epoch, tensors in kept.items()
    }
    assert moved[1] == {"fc.weight", "fc.bias"}, "neither weights nor statistics of batch norm"
    assert moved[2] > {"conv1.0.weight", "bn1.running_mean"}
    assert all(kept[1][f"ema.{name}"].equal(before[name]) for name in before if not name.startswith("fc."))

    stops: Iterator[bool] = iter([False] * 4 + [True])
    with pytest.raises(Terminated):
        train(recipe, tmp_path / "parts", runtime=cpu, stop=lambda: next(stops, False))
    train(recipe, tmp_path / "parts", runtime=cpu, resume=True)
    whole, parts = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(whole[name].equal(parts[name]) for name in whole)


def test_frozen_parameters_have_no_gradients_and_batch_norm_learns_nothing() -> None:
    import timm

    model = timm.create_model("test_resnet", num_classes=4)
    statistics = model.bn1.running_mean.clone()
    assert freeze(model, frozen=True)
    assert not freeze(model, frozen=True)
    set_mode(model, frozen=True)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == {"fc.weight", "fc.bias"}
    assert model.bn1.running_mean.equal(statistics)
    assert freeze(model, frozen=False)
    set_mode(model, frozen=False)
    model(torch.randn(4, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.bn1.running_mean.equal(statistics)
    with pytest.raises(RecipeError, match="does not say which part is its classifier"):
        freeze(torch.nn.Linear(1, 1), frozen=True)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["model.freeze_until=1"], "would freeze random weights"),
        (["model.pretrained=true", "model.freeze_until=5"], "model.freeze_until 5 is after the last epoch"),
        (
            ["model.pretrained=true", "model.freeze_until=1", "optim.name=lamb"],
            "is not for optim.name: lamb",
        ),
        (["image.padding=4", "image.scale=[0.5, 1]"], "scale does nothing with padding"),
        (["image.padding=32"], "could shift all of 32 pixels out of sight"),
        (["optim.class_weights={cat: 0}"], "greater than 0"),
    ],
)
def test_fields_that_do_not_fit_are_refused(betons: Path, tmp_path: Path, overrides: list[str], part: str) -> None:
    with pytest.raises(RecipeError, match=part):
        tiny_recipe(betons, tmp_path, *overrides)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, -2), (-4, 4), (7, 0)])
def test_a_shift_is_the_crop_of_a_padded_image(row: int, column: int) -> None:
    """Compare with torchvision's ``RandomCrop(8, padding=8)`` at the same place."""
    image = np.arange(1, 193, dtype=np.uint8).reshape(8, 8, 3)
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)))
    assert (shift(image, row, column) == padded[8 + row : 16 + row, 8 + column : 16 + column]).all()


@pytest.mark.parametrize(
    ("kind", "interpolation"),
    [
        *(pytest.param("compiled", way, marks=pytest.mark.compiled) for way in ("area", "bilinear", "bicubic")),
        ("plain", "bilinear"),
        pytest.param("ffcv", "bicubic", marks=FFCV),
    ],
)
def test_a_padded_crop_of_an_image_of_that_size_is_not_resized(
    tmp_path: Path, cpu: Runtime, kind: str, interpolation: str
) -> None:
    """Take 32 of 40 x 32 pixels: the centre square, shifted by up to four pixels each way, and mirrored or not."""
    files = [jpeg(photograph("coffee").crop((20 * n, 0, 20 * n + 40, 32)), quality=95) for n in range(64)]
    beton = Beton(write_beton(tmp_path / "c.beton", [(file, 40, 32, 0) for file in files]))
    image = ImageSection(size=32, padding=4, interpolation=interpolation)
    sampler = EpochSampler({"": Variant(beton)}, image, train=True, batch=64, step=64)
    (batch,) = list(open_loader(kind, sampler, cpu).at(0))
    rows = sampler.samples(0, batch.numbers)
    assert set(rows["row"]) == set(rows["column"]) == set(range(-4, 5))
    for row, pixels in zip(rows, batch.images.permute(0, 2, 3, 1).numpy(), strict=True):
        padded = np.pad(read_pixels(beton, int(row["index"]))[:, 4:36], ((4, 4), (4, 4), (0, 0)))
        crop = padded[4 + row["row"] : 36 + row["row"], 4 + row["column"] : 36 + row["column"]]
        assert (pixels == (crop[:, ::-1] if row["flip"] else crop)).all()


def test_the_share_of_the_initial_weights_is_that_of_an_average(betons: Path, tmp_path: Path) -> None:
    from timm.utils import ModelEmaV3

    recipe = tiny_recipe(betons, tmp_path, "ema={decay: 0.97}")
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = ModelEmaV3(model, decay=0.97)
    torch.nn.init.zeros_(model.weight)
    for _ in range(4 * 3):
        average.update(model)
    assert average.module.weight.item() == pytest.approx(initial_share(recipe, 48), rel=1e-5)
    assert initial_share(tiny_recipe(betons, tmp_path, "ema={half_life: 2}"), 48) == pytest.approx(0.25)
    assert initial_share(tiny_recipe(betons, tmp_path, "ema=null"), 48) == 0


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ([], ["still consists of 28 % initial weights", "set ema.half_life=0.4 in place of ema.decay"]),
        (["ema={half_life: 0.4}"], []),
        (["ema=null", "schedule.warmup_epochs=3"], ["3 of 4 epochs", "schedule.warmup_epochs=1"]),
        (["ema=null", "batch={size: 48, per_device: 48}"], ["has 1 step of 48"]),
        (["ema=null", "model.pretrained=true"], ["schedule.lr: 2.0e-03 for batches of 16 is high", "5.0e-05 is usual"]),
    ],
)
def test_advice_names_the_value_to_set(betons: Path, tmp_path: Path, overrides: list[str], parts: list[str]) -> None:
    advice = schedule_advice(tiny_recipe(betons, tmp_path, *overrides), 48)
    assert len(advice) == bool(parts)
    assert all(part in advice[0] for part in parts)


def test_training_without_validation_is_said_with_the_way_out(
    betons: Path, tmp_path: Path, cpu: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]", "curriculum=[{data: clean, until_epoch: 2}]")
    _, remarks = plan_run(recipe)
    assert "no validation while training: evaluate is empty" in remarks[-1]
    assert "set evaluate=[clean]" in remarks[-1]
    train(recipe, tmp_path / "run", runtime=cpu, until=1)
    assert remarks[-1] in caplog.text
    without = tiny_recipe(betons, tmp_path, "evaluate=[]", "data.clean.val=null", "data.q50.val=null")
    assert "jpegcurr encode SRC --val 0.2" in str(validation_warning(without))
    there = tiny_recipe(betons, tmp_path)
    assert validation_warning(there, ["clean"]) is None
    assert "data.clean.val and data.q50.val is not there" in str(validation_warning(there, ["clean", "q50"]))


def test_a_plan_knows_whether_the_images_have_a_val_split(photos: Path, betons: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path, f"data.clean.val={tmp_path / 'none.beton'}", "evaluate=[clean]", *CLEAN)
    _, remarks = plan_run(recipe)
    assert not any("no validation" in remark for remark in remarks), "the source has a val split, which a run encodes"
    encode_all(photos / "train", tmp_path, ["source"])
    (train_only,) = tmp_path.glob("*source.beton")
    _, remarks = plan_run(
        recipe.model_copy(update={"data": {"clean": DataSection(train=train_only, val=Path("no"), quality="source")}})
    )
    assert "no validation while training: data.clean.val is not there, and the images have no val split" in remarks[-1]
