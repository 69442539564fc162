"""Mean and deviation of the inputs: set by a recipe, stored in the run, and compared with what weights state."""

import json
import re
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from samples import tiny_recipe

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import ModelSection, Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.classifier import ModelSettings
from jpegcurr.training.models.load import load_named, load_run
from jpegcurr.training.models.normalisation import normalisation_warning, normaliser, stated_normaliser
from jpegcurr.training.train import train

IMAGENET, INCEPTION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SET = ("image.mean=[0.485,0.456,0.406]", "image.std=[0.229,0.224,0.225]")  # test_convnext's own are 0.5


def recipe(betons: Path, folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(betons, folder, "curriculum=[{data: clean, until_epoch: 2}]", "evaluate=[clean]", *overrides)


def numbers(stated: Normaliser | None) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    return None if stated is None else (stated.levels, stated.deviations)


def test_a_run_is_normalised_as_its_recipe_says_and_stores_it(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        ours = train(recipe(betons, tmp_path, *SET), Path("set"), runtime=cpu, until=1).rows[0]
        own = train(recipe(betons, tmp_path), Path("own"), runtime=cpu, until=1).rows[0]
    lines = [message for message in caplog.messages if message.startswith("inputs are normalised")]
    assert lines == [
        "inputs are normalised by mean 0.485 0.456 0.406, deviation 0.229 0.224 0.225 (set by the recipe)",
        "inputs are normalised by mean 0.5 0.5 0.5, deviation 0.5 0.5 0.5 (those of test_convnext)",
    ]
    assert not [record for record in caplog.records if "state that inputs" in record.message], "random weights state nothing"
    assert ours["train/loss"] != own["train/loss"]
    for run, expected in (("set", IMAGENET), ("own", INCEPTION)):
        head = json.loads(Path(run, "run.json").read_text())["normalisation"]
        assert (tuple(head["mean"]), tuple(head["std"])) == expected
        for folder in (Path(run), Path(run, "ema"), Path(run, "best")):
            model = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
            assert numbers(normaliser(model)) == expected, "timm reads the same"
            assert numbers(stated_normaliser(folder)) == expected
        loaded = load_run(Path(run), cpu).normalise
        assert numbers(loaded) == expected
        assert loaded.mean.flatten().tolist() == pytest.approx([255 * level for level in expected[0]])
    train(recipe(betons, tmp_path, *SET), Path("set"), runtime=cpu, resume=True)
    with pytest.raises(RecipeError, match=r"image\.mean was \[0\.485, 0\.456, 0\.406\], is None"):
        train(recipe(betons, tmp_path), Path("set"), runtime=cpu, resume=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["image.mean=[0.5,0.5,0.5]"], r"image: mean without std: .* Give both, or neither"),
        (["image.std=[0.5,0.5,0.5]"], r"image: std without mean"),
        (["image.mean=[0.5,0.5]", "image.std=[0.5,0.5]"], r"image\.mean"),
        (["image.mean=[0.5,0.5,-0.1]", "image.std=[1,1,1]"], r"image: mean \[0\.5, 0\.5, -0\.1\] is not .* from 0 to 1"),
        (["image.mean=[0,0,0]", "image.std=[1,1,0]"], r"image: std \[1\.0, 1\.0, 0\.0\] is not .* above 0 and at most 1"),
        (["image.mean=[0,0,0]", "image.std=[300,1,1]"], r"image: std \[300\.0, 1\.0, 1\.0\] is not"),
    ],
)
def test_wrong_numbers_are_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(tmp_path, tmp_path, *overrides)


def test_numbers_of_the_scale_to_255_are_refused_and_converted_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(tmp_path, tmp_path, "image.mean=[123.675,116.28,103.53]", "image.std=[58.395,57.12,57.375]")
    converted = re.search(r"mean .* is on the scale 0 to 255, and 0 to 1 is needed: (\[.*\])", str(caught.value))
    assert converted is not None
    remedied = tiny_recipe(tmp_path, tmp_path, f"image.mean={converted[1]}", "image.std=[0.229,0.224,0.225]")
    assert remedied.image.mean == pytest.approx(IMAGENET[0], abs=1e-4)


def described(name: str, content: Any, *, file: str = "model.safetensors") -> Path:
    Path("weights").mkdir()
    save_file({"w": torch.zeros(1)}, f"weights/{file}")
    Path("weights", name).write_text(content if isinstance(content, str) else json.dumps(content))
    return Path("weights", file)


def saved(args: Namespace | None, **options: Any) -> Path:
    torch.save({"model": {"w": torch.zeros(3)}} | ({} if args is None else {"args": args}), "weights.pth", **options)
    return Path("weights.pth")


MEAN_STD = {"mean": [0.5] * 3, "std": [0.5] * 3}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (lambda: described("config.json", {"architecture": "x", "pretrained_cfg": MEAN_STD}), INCEPTION),
        (lambda: described("config.json", {"architecture": "x", **MEAN_STD}, file="pytorch_model.bin"), INCEPTION),
        (lambda: described("preprocessor_config.json", {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]}), IMAGENET),
        (lambda: described("config.json", {"pretrained_cfg": MEAN_STD}, file="start.safetensors"), None),
        (lambda: described("config.json", {"pretrained_cfg": {"mean": [0.5, "x", 1], "std": [1, 1, 1]}}), None),
        (lambda: described("config.json", {"pretrained_cfg": {"mean": [True, 0, 0], "std": [1, 1, 0]}}), None),
        (lambda: described("config.json", {"pretrained_cfg": [1]}), None),
        (lambda: described("config.json", "[" * 100_000), None),
        (lambda: saved(Namespace(imagenet_default_mean_and_std=True)), IMAGENET),
        (lambda: saved(Namespace(imagenet_default_mean_and_std=False)), INCEPTION),
        (lambda: saved(Namespace(mean=[0.485, 0.456, 0.406], std=(0.229, 0.224, 0.225))), IMAGENET),
        (
            lambda: saved(Namespace(mean=(0.5,) * 3, std=(0.5,) * 3), _use_new_zipfile_serialization=False),
            INCEPTION,
        ),
        (lambda: saved(Namespace(mean=None, std=None)), None),
        (lambda: saved(Namespace(lr=1)), None),
        (lambda: saved(None), None),
    ],
)
def test_what_weights_state_is_read_of_their_own_description_and_of_options_in_a_checkpoint(
    weights: Any, expected: tuple[tuple[float, ...], tuple[float, ...]] | None
) -> None:
    path = weights()
    if path.suffix == ".bin":  # its description is beside it, and the file itself is torch's
        torch.save({"w": torch.zeros(1)}, path)
    assert numbers(stated_normaliser(path)) == expected


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if "may cost accuracy" in message]


def test_a_start_from_weights_that_were_normalised_otherwise_is_warned_of_and_the_remedy_works(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(recipe(betons, tmp_path, *SET), Path("first"), runtime=cpu)
    start = "model.checkpoint=first/ema"
    train(recipe(betons, tmp_path, start), Path("second"), runtime=cpu, until=1)
    (warning,) = warnings(caplog)
    assert "first/ema: its weights state that inputs are normalised by mean 0.485 0.456 0.406, deviation" in warning
    assert "but they are normalised by mean 0.5 0.5 0.5" in warning
    caplog.clear()
    train(recipe(betons, tmp_path, start), Path("second"), runtime=cpu, resume=True)
    assert not warnings(caplog), "the run's weights are its own by now"
    options = warning.partition("as stated: set ")[2].split(" and ")
    train(recipe(betons, tmp_path, start, *options), Path("third"), runtime=cpu, until=1)
    assert not warnings(caplog)


def test_timms_weights_are_warned_of_where_the_recipe_sets_others() -> None:
    model = timm.create_model("test_convnext")
    section = ModelSection(name="test_convnext.r160_in1k", pretrained=True)
    assert normalisation_warning(section, Normaliser(*INCEPTION), model) is None
    assert normalisation_warning(section, Normaliser((0.5004,) * 3, (0.5,) * 3), model) is None, "rounded"
    assert normalisation_warning(ModelSection(name="test_convnext"), Normaliser(*IMAGENET), model) is None
    warning = normalisation_warning(section, Normaliser(*IMAGENET), model)
    assert warning is not None
    assert warning.endswith("To normalise as stated: set image.mean=[0.5,0.5,0.5] and image.std=[0.5,0.5,0.5]")


def test_named_models_are_warned_of_too(cpu: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    def create(name: str, *, pretrained: bool, **options: object) -> torch.nn.Module:
        assert pretrained
        return timm.create_model(name, **options)

    state = timm.create_model("test_convnext").state_dict()
    torch.save({"state_dict": state, "args": Namespace(mean=IMAGENET[0], std=IMAGENET[1])}, "file.pth")

    def load(**settings: Any) -> list[str]:
        caplog.clear()
        load_named("test_convnext.r160_in1k", cpu, settings=ModelSettings(**settings), create=create)
        return warnings(caplog)

    (warning,) = load(checkpoint=Path("file.pth"))
    assert warning.startswith("file.pth: its weights state")
    assert warning.endswith("--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225")
    assert not load(checkpoint=Path("file.pth"), mean=IMAGENET[0], std=IMAGENET[1])
    assert not load()
    (warning,) = load(mean=IMAGENET[0], std=IMAGENET[1])
    assert warning.endswith("--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5")
