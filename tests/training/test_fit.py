"""Weights that do not fit a model: what is said, and that the advice works."""

import logging
import re
from pathlib import Path

import pytest
import timm
import torch

from jpegcurr.errors import JpegcurrError, RecipeError
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.classifier import ModelSettings
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.fit import create_on_meta, describe_misfit, find_models
from jpegcurr.training.models.key_maps import KEY_MAPS
from jpegcurr.training.models.load import load_named


def section(name: str, file: str = "weights.pth") -> ModelSection:
    return ModelSection(name=name, checkpoint=Path(file))


@pytest.mark.parametrize(
    ("own", "asked", "keys"),
    [
        ("convnext_atto", "convnext_femto", "torchvision"),
        ("convnext_atto", "resnet18", "transformers"),
        ("test_resnet", "test_convnext", None),
        ("test_vit", "convnext_atto", None),
        ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "efficientnet-lite, 16 blocks"),
    ],
)
@pytest.mark.parametrize("classes", [7, 3])
def test_weights_of_another_model_name_it_and_that_name_works(own: str, asked: str, keys: str | None, classes: int) -> None:
    weights = timm.create_model(own, num_classes=7).state_dict()
    torch.save(KEY_MAPS[keys].from_timm(weights) if keys else weights, "weights.pth")
    with pytest.raises(RecipeError) as left:
        create_model(section(asked), classes)
    message = str(left.value)
    assert message.startswith(f"model: '{asked}' cannot start from weights.pth: ")
    assert re.search(r" is missing,| where the model has \[", message)
    assert len(message) < 500
    names = re.findall(r"'(\w+)'", message.partition("The weights fit ")[2])
    assert own in names
    model = create_model(section(names[0]), classes)
    trunk = [name for name in weights if name.startswith(("stem.", "stages.", "blocks.", "layer", "conv"))]
    assert trunk
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in trunk)


def test_weights_of_no_model_are_described_by_their_first_names() -> None:
    torch.save({"trunk.0.weight": torch.ones(3, 3), "head.fc.weight": torch.ones(7, 3)}, "weights.pth")
    message = (
        r"stem\.0\.weight is missing, stem\.0\.bias is missing, trunk\.0\.weight is not in the model, and so on: \d+ tensors "
        r"in all\. No model of timm's has tensors of these names and shapes\.$"
    )
    with pytest.raises(RecipeError, match=message):
        create_model(section("convnext_atto"), 7)


def test_predict_says_the_same(cpu: Runtime) -> None:
    torch.save(timm.create_model("convnext_atto", num_classes=7).state_dict(), "weights.pth")
    with pytest.raises(
        JpegcurrError, match=r"weights\.pth cannot be loaded into convnext_femto: .*The weights fit 'convnext_atto'"
    ):
        load_named("convnext_femto", cpu, settings=ModelSettings(checkpoint=Path("weights.pth")))
    assert len(load_named("convnext_atto", cpu, settings=ModelSettings(checkpoint=Path("weights.pth"))).classes) == 7


def test_predict_needs_a_classifier_and_says_so(cpu: Runtime) -> None:
    weights = timm.create_model("convnext_atto").state_dict()
    torch.save({name: tensor for name, tensor in weights.items() if not name.startswith("head.fc")}, "weights.pth")
    message = r"cannot be loaded into convnext_atto: it has no classifier \(head\.fc\.bias\)\. Give weights that have one"
    with pytest.raises(JpegcurrError, match=message):
        load_named("convnext_atto", cpu, settings=ModelSettings(checkpoint=Path("weights.pth")))


@pytest.mark.parametrize("keys", ["authors", "torchvision", "mmpretrain", "transformers", None])
def test_weights_without_a_classifier_start_a_model_and_the_classifier_is_new(keys: str | None) -> None:
    weights = timm.create_model("convnext_atto", num_classes=7).state_dict()
    trunk = {name: tensor for name, tensor in weights.items() if not name.startswith("head.fc")}
    torch.save(KEY_MAPS[keys].from_timm(trunk) if keys else trunk, "weights.pth")
    model = create_model(section("convnext_atto"), 7).state_dict()
    assert all(torch.equal(model[name], tensor) for name, tensor in trunk.items())
    assert not torch.equal(model["head.fc.weight"], weights["head.fc.weight"])
    assert find_models(trunk) == ["convnext_atto"]


def test_a_tensor_that_stays_new_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    weights = timm.create_model("convnext_atto", num_classes=7).state_dict()
    weights["head.norm.weight"] = weights["head.norm.weight"] + 1
    trunk = {name: tensor for name, tensor in weights.items() if not name.startswith("head.fc")}
    torch.save(trunk, "weights.pth")
    create_model(section("convnext_atto"), 7)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    detector = {name: tensor for name, tensor in trunk.items() if not name.startswith("head.")}
    torch.save(detector | {"neck.weight": torch.ones(2)}, "weights.pth")
    create_model(section("convnext_atto"), 7)
    warnings = [record.getMessage() for record in caplog.records if record.name == "jpegcurr"]
    assert not warnings, "norms begin at ones and zeros, which the file has too"
    del detector["stages.3.blocks.1.mlp.fc2.weight"]
    torch.save(detector, "weights.pth")
    create_model(section("convnext_atto"), 7)
    (warning,) = [record.getMessage() for record in caplog.records if record.name == "jpegcurr"]
    assert "stages.3.blocks.1.mlp.fc2.weight" in warning


def test_models_are_found_among_all_of_timms() -> None:
    for name in ("resnet18", "mobilenetv3_small_050"):
        with torch.device("meta"):
            weights = timm.create_model(name, num_classes=12).state_dict()
        assert name in find_models(weights)
    model = create_on_meta("resnet18", num_classes=3)
    assert model is not None
    with torch.device("meta"):
        assert describe_misfit(timm.create_model("resnet18", num_classes=12).state_dict(), model) == ""
    assert create_on_meta("resnet18", dims=3) is None
