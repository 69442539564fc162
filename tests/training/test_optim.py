"""Weight decay and learning rates of parameters."""

from collections.abc import Sequence
from math import ceil

import pytest
import timm
import torch

from jpegcurr.recipe.schema import OptimSection
from jpegcurr.training.optim import create_optimizer, is_decayed, layer_ids, parameter_groups, set_learning_rate


def model_of(name: str) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, num_classes=10)


def authors_layer(name: str) -> int:
    """Return the layer by ConvNeXt's ``optim_factory.get_num_layer_for_convnext``, on the authors' names of parameters."""
    parts = name.split(".")
    if parts[0] == "downsample_layers":
        return {0: 0, 1: 2, 2: 3, 3: 12}[int(parts[1])]
    if parts[0] == "stages":
        stage, block = int(parts[1]), int(parts[2])
        return {0: 1, 1: 2, 2: 3 + block // 3, 3: 12}[stage]
    return 13


def authors_name(name: str) -> str:
    """Return the authors' name of a parameter from timm's."""
    if name.startswith("stem."):
        return name.replace("stem.", "downsample_layers.0.")
    if ".downsample." in name:
        return f"downsample_layers.{name.split('.')[1]}.x"
    return name.replace(".blocks.", ".")


@pytest.mark.parametrize("name", ["convnext_small", "convnext_base", "convnextv2_base"])
def test_layers_are_the_authors_fourteen(name: str) -> None:
    names = [key for key, _ in model_of(name).named_parameters()]
    ids = layer_ids(model_of(name), names)
    assert ids == {key: authors_layer(authors_name(key)) for key in names}
    assert set(ids.values()) == set(range(14))
    assert layer_ids(model_of(name), names, "contiguous") == ids


@pytest.mark.parametrize(
    ("name", "unused"), [("convnext_tiny", range(6, 12)), ("convnext_atto", range(5, 12)), ("convnext_xxlarge", ())]
)
def test_layers_of_other_depths_are_the_authors_too(name: str, unused: Sequence[int]) -> None:
    """Their last stage is layer 12 and the head 13, whatever the third stage's depth; of a tiny one, no rate is left higher."""
    names = [key for key, _ in model_of(name).named_parameters()]
    ids = layer_ids(model_of(name), names)
    assert ids == {key: authors_layer(authors_name(key)) for key in names}
    assert set(range(14)) - set(ids.values()) == set(unused)


def test_rates_of_a_convnext_tiny_are_the_authors() -> None:
    """Their ``LayerDecayValueAssigner`` has the factors decay ** (13 - layer); ours before had others for 147 parameters."""
    rates = {}
    for numbering in ("authors", "contiguous"):
        groups = parameter_groups(model_of("convnext_tiny"), OptimSection(layer_decay=0.8, layer_ids=numbering))
        rates[numbering] = {key: group["lr_scale"] for group in groups for key in group["names"]}
    assert rates["authors"] == pytest.approx({key: 0.8 ** (13 - authors_layer(authors_name(key))) for key in rates["authors"]})
    assert len(rates["authors"]) == 182
    changed = {key for key, rate in rates["authors"].items() if rate != pytest.approx(rates["contiguous"][key])}
    assert len(changed) == 147
    assert {key for key in changed if key.startswith(("stages.3.", "head."))} == set()


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_atto", "convnextv2_nano"])
def test_contiguous_layers_are_as_many_as_groups_of_three_blocks_give(name: str) -> None:
    model = model_of(name)
    ids = layer_ids(model, [key for key, _ in model.named_parameters()], "contiguous")
    last = 4 + ceil(len(model.stages[2].blocks) / 3)
    assert set(ids.values()) == set(range(last + 1))
    assert (ids["stem.0.weight"], ids["stages.3.downsample.0.weight"], ids["head.fc.weight"]) == (0, last - 1, last)


def test_other_models_have_timms_layers() -> None:
    ids = layer_ids(model_of("resnet50"), ["conv1.weight", "layer1.0.conv1.weight", "layer4.2.bn3.bias", "fc.bias"])
    assert list(ids.values()) == sorted(ids.values())
    assert ids["conv1.weight"] == 0 < ids["layer4.2.bn3.bias"] < ids["fc.bias"]


def test_a_layer_moves_as_fast_as_its_distance_from_the_head_allows() -> None:
    model = model_of("convnext_small")
    optimizer = create_optimizer(model, OptimSection(layer_decay=0.8))
    set_learning_rate(optimizer, 5e-5)
    rates = {name: group["lr"] for group in optimizer.param_groups for name in group["names"]}
    assert rates["head.fc.weight"] == 5e-5
    assert rates["stages.3.blocks.0.conv_dw.weight"] == pytest.approx(5e-5 * 0.8)
    assert rates["stages.2.blocks.26.conv_dw.weight"] == pytest.approx(5e-5 * 0.8**2)
    assert rates["stem.0.weight"] == pytest.approx(5e-5 * 0.8**13)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "resnet50"])
def test_biases_norms_layer_scale_and_grn_are_not_decayed(name: str) -> None:
    model = model_of(name)
    groups = parameter_groups(model, OptimSection(weight_decay=0.05))
    decays = {key: group["weight_decay"] for group in groups for key in group["names"]}
    assert decays.keys() == {key for key, _ in model.named_parameters()}
    for module_name, module in model.named_modules():
        weighs = isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        for key, _ in module.named_parameters(prefix=module_name, recurse=False):
            assert decays[key] == (0.05 if weighs and key.endswith(".weight") else 0.0), key


def test_grn_of_the_authors_shape_is_not_decayed() -> None:
    assert not is_decayed("stages.0.blocks.0.mlp.grn.weight", torch.empty(1, 1, 1, 8))
    assert not is_decayed("stages.0.blocks.0.gamma", torch.empty(1, 8, 1, 1))
    assert is_decayed("stages.0.blocks.0.mlp.fc1.weight", torch.empty(8, 2))


def test_everything_is_decayed_where_it_is_asked_for() -> None:
    groups = parameter_groups(model_of("resnet50"), OptimSection(weight_decay=1e-4, decay_all=True))
    assert [group["weight_decay"] for group in groups] == [1e-4]


@pytest.mark.parametrize(
    ("section", "kind", "expected"),
    [
        (OptimSection(), "AdamW", {"betas": (0.9, 0.999), "eps": 1e-8}),
        (OptimSection(betas=(0.8, 0.9), eps=1e-6), "AdamW", {"betas": (0.8, 0.9), "eps": 1e-6}),
        (OptimSection(name="sgd"), "SGD", {"momentum": 0.9, "nesterov": False}),
        (OptimSection(name="sgd", momentum=0.0), "SGD", {"momentum": 0.0}),
        (OptimSection(name="nesterov", momentum=0.8), "SGD", {"momentum": 0.8, "nesterov": True}),
        (OptimSection(name="lamb"), "Lamb", {"betas": (0.9, 0.999), "eps": 1e-6}),
    ],
)
def test_optimisers_are_those_named(section: OptimSection, kind: str, expected: dict[str, object]) -> None:
    optimizer = create_optimizer(torch.nn.Linear(3, 2), section)
    assert type(optimizer).__name__ == kind
    for group in optimizer.param_groups:
        assert {name: group[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "sgd", "betas": (0.9, 0.99)}, "betas does nothing with sgd"),
        ({"name": "nesterov", "eps": 1e-8}, "eps does nothing with nesterov"),
        ({"momentum": 0.9}, "momentum does nothing with adamw"),
        ({"layer_ids": "contiguous"}, "layer_ids: contiguous does nothing without layer_decay"),
    ],
)
def test_a_field_of_another_optimiser_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimSection.model_validate(fields)


def test_a_step_moves_each_parameter_by_its_own_rate() -> None:
    model = timm.create_model("test_convnext", num_classes=4)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = create_optimizer(model, OptimSection(name="sgd", weight_decay=0.0, momentum=0.0, layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    ids = layer_ids(model, before)
    for name, parameter in model.named_parameters():
        moved = (before[name] - parameter.detach()).mean().item()
        assert moved == pytest.approx(0.5 ** (max(ids.values()) - ids[name]), rel=1e-3), name
