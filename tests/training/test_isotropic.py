"""Isotropic ConvNeXts: the paper's numbers, and every use of a model in this package."""

from math import prod
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from samples import tiny_recipe
from timm.models import register_model
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import ModelSection, OptimSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.models import isotropic
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.isotropic import IsotropicConvNeXt
from jpegcurr.training.models.load import load_run
from jpegcurr.training.optim import layer_ids, parameter_groups
from jpegcurr.training.train import train

StateDict = dict[str, torch.Tensor]
DEPTH, DIM = 3, 24
TINY = "convnext_isotropic_tiny_test"

default_cfgs = {TINY: isotropic.default_cfgs["convnext_isotropic_small"]}  # timm looks for the entry point here


@register_model
def convnext_isotropic_tiny_test(pretrained: bool = False, **options: Any) -> IsotropicConvNeXt:
    """Create a model that trains in a second."""
    return isotropic._create(TINY, pretrained, {"depth": DEPTH, "dim": DIM, **options})


def authors_weights(classes: int, *, gamma: bool = False) -> StateDict:
    """Return random weights by the names of the authors' ``models/convnext_isotropic.py``."""
    random = torch.Generator().manual_seed(classes)
    weights: StateDict = {}

    def put(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = torch.randn(shape, generator=random) / prod(shape[1:]) ** 0.5
        weights[f"{name}.bias"] = torch.randn(shape[0], generator=random) / 5

    put("stem", DIM, 3, 16, 16)
    for block in range(DEPTH):
        if gamma:
            weights[f"blocks.{block}.gamma"] = torch.randn(DIM, generator=random)
        put(f"blocks.{block}.dwconv", DIM, 1, 7, 7)
        put(f"blocks.{block}.norm", DIM)
        put(f"blocks.{block}.pwconv1", 4 * DIM, DIM)
        put(f"blocks.{block}.pwconv2", DIM, 4 * DIM)
    put("norm", DIM)
    put("head", classes, DIM)
    return weights


def authors_forward(weights: StateDict, images: torch.Tensor) -> torch.Tensor:
    """Compute the model of the paper's section 3.3 and figure 4: patches, blocks at one size, pooling, norm, linear."""

    def of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    x = conv2d(images, *of("stem"), stride=16)
    for block in (f"blocks.{number}" for number in range(DEPTH)):
        y = conv2d(x, *of(f"{block}.dwconv"), padding=3, groups=DIM).permute(0, 2, 3, 1)
        y = layer_norm(y, (DIM,), *of(f"{block}.norm"), eps=1e-6)
        y = linear(gelu(linear(y, *of(f"{block}.pwconv1"))), *of(f"{block}.pwconv2"))
        x = x + (y * weights.get(f"{block}.gamma", torch.ones(()))).permute(0, 3, 1, 2)
    return linear(layer_norm(x.mean((2, 3)), (DIM,), *of("norm"), eps=1e-6), *of("head"))


# From the authors' README, and measured with their program.
@pytest.mark.parametrize(
    ("size", "parameters", "gmacs", "scaled"),
    [("small", 22.31e6, 4.286, False), ("base", 87.08e6, 16.896, False), ("large", 305.94e6, 59.699, True)],
)
def test_models_are_as_large_as_the_paper_says(size: str, parameters: float, gmacs: float, scaled: bool) -> None:
    counted = 0

    def count(module: torch.nn.Module, _arguments: object, out: torch.Tensor) -> None:
        nonlocal counted
        counted += out.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model = create_model(ModelSection(name=f"convnext_isotropic_{size}"), 1000)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        model(torch.empty(1, 3, 224, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(parameters, abs=5e3)
    assert counted / 1e9 == pytest.approx(gmacs, abs=0.0005)
    assert any(name.endswith("gamma") for name, _ in model.named_parameters()) == scaled


@pytest.mark.parametrize("gamma", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_authors_checkpoint_computes_what_the_paper_describes(gamma: bool, wrapped: bool) -> None:
    weights = authors_weights(10, gamma=gamma)
    torch.save({"model": weights} if wrapped else weights, "authors.pth")
    section = ModelSection(name=TINY, checkpoint=Path("authors.pth"), layer_scale=1.0 if gamma else None)
    model = create_model(section, 10).eval()
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    expected = authors_forward(weights, images)
    assert (model(images) - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_head_for_other_classes_is_re_initialised_and_weights_of_another_model_are_refused() -> None:
    torch.save(authors_weights(10), "authors.pth")
    model = create_model(ModelSection(name=TINY, checkpoint=Path("authors.pth"), head_init_scale=0.001), 7)
    assert isinstance(model, IsotropicConvNeXt)
    assert model.get_classifier().weight.shape == (7, DIM)
    assert 0 < model.get_classifier().weight.abs().max() < 1e-4
    assert torch.equal(model.stem.weight, authors_weights(10)["stem.weight"])
    assert torch.equal(model.head.norm.weight, authors_weights(10)["norm.weight"])
    torch.save(timm.create_model("test_convnext", num_classes=10).state_dict(), "stages.pth")
    with pytest.raises(RecipeError, match=rf"'{TINY}' cannot start from stages\.pth: "):
        create_model(ModelSection(name=TINY, checkpoint=Path("stages.pth")), 10)


def test_it_begins_as_the_authors_does() -> None:
    model = timm.create_model("convnext_isotropic_small", depth=5, drop_path_rate=0.2, num_classes=50)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert not module.bias.any(), name
    dropped = [getattr(block.drop_path, "drop_prob", 0.0) for block in model.blocks]
    assert dropped == pytest.approx([0, 0.05, 0.1, 0.15, 0.2])
    scaled = timm.create_model("convnext_isotropic_large", dim=8).state_dict()
    gammas = [tensor for name, tensor in scaled.items() if name.endswith("gamma")]
    assert torch.allclose(torch.stack(gammas), torch.full((36, 8), 1e-6))


def test_every_parameter_learns() -> None:
    model = create_model(ModelSection(name=TINY, drop_path=0.1, layer_scale=0.5), 5).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(64, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(images), torch.arange(64) % 5).backward()
    optimizer.step()
    assert not [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]


def test_it_has_what_timms_models_have() -> None:
    model = timm.create_model(TINY, num_classes=5, in_chans=1).eval()
    images = torch.randn(2, 1, 64, 96)
    features = model.forward_features(images)
    assert features.shape == (2, DIM, 4, 6)
    assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features)
    assert torch.equal(model.forward_head(features), model(images))
    assert model.get_submodule(model.pretrained_cfg["first_conv"]) is model.stem
    assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
    model.reset_classifier(3)
    assert model(images).shape == (2, model.num_classes) == (2, 3)
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(features, pre_logits=True))
    maps = timm.create_model(TINY, features_only=True, out_indices=(0, 2))
    assert [tuple(level.shape) for level in maps(torch.randn(1, 3, 64, 64))] == [(1, DIM, 4, 4)] * 2
    assert maps.feature_info.reduction() == [16, 16]


def test_every_block_is_a_layer_for_layer_decay() -> None:
    with torch.device("meta"):
        model = create_model(ModelSection(name="convnext_isotropic_small"), 10)
    layers = layer_ids(model, [name for name, _ in model.named_parameters()])
    assert {layers[f"stem.{kind}"] for kind in ("weight", "bias")} == {0}
    assert [layers[f"blocks.{block}.mlp.fc1.weight"] for block in range(18)] == list(range(1, 19))
    assert {layers[f"head.{name}"] for name in ("norm.weight", "norm.bias", "fc.weight", "fc.bias")} == {19}
    groups = parameter_groups(model, OptimSection(layer_decay=0.5))
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert (scales["stem.weight"], scales["blocks.17.norm.bias"], scales["head.fc.weight"]) == (0.5**19, 0.5, 1)


def test_a_run_is_trained_exported_loaded_and_explained(betons: Path, photos: Path, cpu: Runtime, tmp_path: Path) -> None:
    short = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "optim.layer_decay=0.8", "image.size=64")
    recipe = tiny_recipe(betons, tmp_path, f"model.name={TINY}", "model.layer_scale=0.1", "evaluate=[clean]", *short)
    train(recipe, Path("run"), runtime=cpu)
    run = load_run(Path("run"), cpu)
    again = timm.create_model("local-dir:run", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(again(images), run.model(images), atol=1e-6)  # the run's model is channels_last
    assert again.pretrained_cfg["input_size"] == (3, 64, 64)
    study = compare_cams([run], photos / "val", [EncodeSpec("source")], cpu, limit=2)
    assert study.layer == f"blocks.{DEPTH - 1}"
    assert [example.predictions[0].cam.shape for example in study.examples] == [(4, 4)] * 2


def test_a_name_that_is_nearly_right_is_reported() -> None:
    with pytest.raises(RecipeError, match="Did you mean 'convnext_isotropic_small'"):
        create_model(ModelSection(name="convnext_isotropic_smal"), 10)
