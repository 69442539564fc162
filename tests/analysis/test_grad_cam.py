"""Grad-CAM: equal to pytorch-grad-cam's before its normalisation, on any layer with a grid; the model is restored."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from networks import network, pictures

from jpegcurr.analysis.cam.grad_cam import capture, maps_and_logits
from jpegcurr.analysis.layers import read_layout, stages
from jpegcurr.errors import UsageError


def reference(
    model: torch.nn.Module,
    layer: str,
    images: torch.Tensor,
    classes: torch.Tensor,
    reshape: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> np.ndarray:
    """pytorch-grad-cam's maps with its scaling to 0..1 and to the image's size left out."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    class Raw(GradCAM):
        def compute_cam_per_layer(self, input_tensor, targets, eigen_smooth):
            (activations,) = self.activations_and_grads.activations
            (gradients,) = self.activations_and_grads.gradients
            arrays = activations.cpu().data.numpy(), gradients.cpu().data.numpy()
            cam = self.get_cam_image(input_tensor, self.target_layers[0], targets, *arrays, False)
            return [np.maximum(cam, 0)[:, None, :]]

        def aggregate_multi_layers(self, cam_per_target_layer):
            return cam_per_target_layer[0][:, 0]

    targets = [ClassifierOutputTarget(int(index)) for index in classes]
    module = dict(model.named_modules())[layer]
    with Raw(model=model, target_layers=[module], reshape_transform=reshape) as cam:
        maps: np.ndarray = cam(images, targets=targets)
    return maps


def channels_first(output: torch.Tensor) -> torch.Tensor:
    return output.permute(0, 3, 1, 2)


def patches(output: torch.Tensor) -> torch.Tensor:
    return output[:, 1:].transpose(1, 2).unflatten(2, (10, 10))


CASES = [
    ("test_convnext", "stages.3", 96, None),
    ("test_convnext", "stages.2", 96, None),
    ("test_convnext", "stages.3.blocks.1.norm", 96, channels_first),
    ("test_convnext", "stages.2.blocks.0.mlp", 96, channels_first),
    ("test_convnext", "stages.2.blocks.0.mlp.act", 96, channels_first),
    ("test_resnet", "layer4", 96, None),
    ("test_efficientnet", "blocks.4", 96, None),
    ("test_mambaout", "stages.3", 96, channels_first),
    ("test_vit", "blocks.4", 160, patches),
    ("test_vit", "blocks.5.norm1", 160, patches),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "layer", "side", "reshape"), CASES, ids=lambda value: str(getattr(value, "__name__", value)))
def test_maps_are_those_of_pytorch_grad_cam_before_its_normalisation(
    name: str, layer: str, side: int, reshape: Callable[[torch.Tensor], torch.Tensor] | None
) -> None:
    model, images = network(name), pictures(3, side)
    for targets in (torch.tensor([1, 5, 2]), None):
        maps, logits = maps_and_logits(model, layer, images, targets)
        expected = reference(model, layer, images, logits.argmax(1) if targets is None else targets, reshape)
        assert maps.shape == expected.shape
        assert float(maps.max()) > 0
        assert np.allclose(maps.numpy(), expected, atol=1e-5 * max(1, expected.max()))
        with torch.no_grad():
            assert torch.allclose(logits, model(images), atol=1e-4)


def test_a_layer_whose_output_is_changed_in_place_is_given_as_it_was() -> None:
    """A residual addition works on the last norm's output; pytorch-grad-cam's activations are the sum then."""
    model, images = network("test_resnet"), pictures()
    before: list[torch.Tensor] = []
    handle = model.get_submodule("layer4.0.bn2").register_forward_hook(lambda _m, _i, output: before.append(output.clone()))
    captured = capture(model, "layer4.0.bn2", images)
    handle.remove()
    assert torch.equal(captured.activations, before[0])


@pytest.mark.filterwarnings("ignore:.*meshgrid")
@pytest.mark.parametrize(
    ("name", "side"),
    [("test_byobnet", 96), ("test_nfnet", 96), ("test_coatnet", 160), ("test_maxvit", 160), ("test_vit_relpos", 160)],
)
def test_every_stage_of_other_families_has_maps_of_its_grid(name: str, side: int) -> None:
    model, images = network(name), pictures(1, side)
    reductions = {stage["module"]: stage["reduction"] for stage in model.feature_info}  # type: ignore[union-attr]
    for layer in stages(model):
        maps, _ = maps_and_logits(model, layer, images)
        assert maps.shape == (1, side // reductions[layer], side // reductions[layer])
        assert torch.isfinite(maps).all()


def test_swin_gives_channels_last_as_it_says() -> None:
    options = {"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "img_size": 56}
    model = network("swin_tiny_patch4_window7_224", **options)
    captured = capture(model, "layers.1", pictures(2, 56))
    assert captured.activations.shape == captured.gradients.shape == (2, 16, 7, 7)


def test_as_many_channels_as_cells_a_side_are_no_riddle() -> None:
    """[2 48 48 48]: the norm says that it is over the last axis, timm that stages give channels first."""
    model = network()
    model.output_fmt = None  # as in models that do not say
    shape, images = (2, 48, 48, 48), (2, 3, 768, 768)
    assert read_layout(model, "stages.2", shape, images).kind == "NCHW"
    assert read_layout(model, "stages.2.blocks.0.norm", shape, images).kind == "NHWC"
    assert read_layout(model, "stages.2.blocks.0.conv_dw", shape, images).kind == "NCHW"
    with pytest.raises(UsageError, match="cannot be read as a map"):
        read_layout(model, "stages.2.blocks.0.drop_path", shape, images)
    assert read_layout(network("test_mambaout"), "stages.2", shape, images).kind == "NHWC"


def test_tokens_are_patches_row_by_row_after_those_of_the_class() -> None:
    model, images = network("test_vit"), (2, 3, 160, 160)
    layout = read_layout(model, "blocks.4", (2, 101, 64), images)
    tokens = torch.arange(101.0).expand(2, 3, 101).transpose(1, 2)
    assert torch.equal(layout.nchw(tokens)[1, 2], 1 + torch.arange(100.0).reshape(10, 10))
    assert read_layout(model, "blocks.4", (2, 100, 64), images).extra == 0, "CaiT adds the class token in its last blocks"
    with pytest.raises(UsageError, match="cannot be read as a map"):
        read_layout(model, "blocks.4", (2, 99, 64), images)
    with pytest.raises(UsageError, match="cannot be read as a map"):
        read_layout(model, "blocks.4", (8, 101, 64), images)  # windows, not images


class Broken(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("broken")


@pytest.mark.parametrize("place", ["stem", "stages.3", "head.drop"])
def test_the_model_is_restored_when_a_layer_raises(place: str) -> None:
    model = network().train()
    model.get_submodule("stages.1").eval()  # as if part of it were frozen
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    training = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps_and_logits(model, "stages.2", pictures())
    owner, _, name = place.rpartition(".")
    whole = getattr(model.get_submodule(owner), name)
    setattr(model.get_submodule(owner), name, Broken())
    with pytest.raises(RuntimeError, match="broken"):
        maps_and_logits(model, "stages.2", pictures())
    setattr(model.get_submodule(owner), name, whole)
    assert [part.training for part in model.modules()] == training
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * (
        len(list(model.parameters())) - 1
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("caller", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_makes_no_difference_who_calls(caller: Callable[[], AbstractContextManager[None]]) -> None:
    """Images created in inference mode, too, and weights that are frozen or not."""
    model = network()
    expected = maps_and_logits(model, "stages.2", pictures())[0]
    for learns in (True, False):
        for parameter in model.parameters():
            parameter.requires_grad_(learns)
        with caller():
            images = pictures() * 1
            maps, logits = maps_and_logits(
                model, "stages.2", images.requires_grad_() if caller is torch.enable_grad else images
            )
            assert torch.is_grad_enabled() == (caller in (nullcontext, torch.enable_grad))
        assert torch.equal(maps, expected)
        assert not maps.requires_grad
        assert not logits.requires_grad


def test_weights_made_in_inference_mode_are_copied_for_the_call() -> None:
    expected = maps_and_logits(network(), "stages.2", pictures())[0]
    with torch.inference_mode():
        model = network()
        images = pictures()
    assert next(model.parameters()).is_inference()
    assert torch.equal(maps_and_logits(model, "stages.2", images)[0], expected)
    assert next(model.parameters()).is_inference()


def test_nothing_before_the_layer_is_kept_for_a_backward_pass() -> None:
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor):
        maps_and_logits(network(), "stages.2", pictures(2, 96))
    grids = {shape[2] for shape in kept if len(shape) == 4 and shape[0] == 2}
    assert grids
    assert max(grids) <= 6, "the grid of stages.2"


def test_half_precision_is_close() -> None:
    model = network()
    exact, logits = maps_and_logits(model, "stages.2", pictures())
    targets = logits.argmax(1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = maps_and_logits(model, "stages.2", pictures(), targets)[0]
        with torch.inference_mode():
            model(pictures())  # fills autocast's cache with tensors of inference mode
        again = maps_and_logits(model, "stages.2", pictures(), targets)[0]
    half = maps_and_logits(model.bfloat16(), "stages.2", pictures(), targets)[0]
    for maps in (cast, again, half):
        assert maps.dtype == torch.float32
        assert float((maps - exact).abs().max()) < 0.1 * float(exact.max())


def test_a_compiled_model_is_explained_uncompiled() -> None:
    def refuse(*_arguments: object) -> None:
        raise AssertionError("compiled")

    expected = maps_and_logits(network(), "stages.2", pictures())[0]
    wrapped, in_place, in_part = torch.compile(network(), backend=refuse), network(), network()
    in_place.compile(backend=refuse)
    in_part.stages[3].compile(backend=refuse)  # type: ignore[index]
    for model in (wrapped, in_place, in_part):
        assert torch.equal(maps_and_logits(model, "stages.2", pictures())[0], expected)


def test_a_layer_without_a_map_is_an_error() -> None:
    model = network()
    assert stages(model) == ["stages.0", "stages.1", "stages.2", "stages.3"]
    with pytest.raises(UsageError, match=r"'stages\.7'.*Did you mean 'stages\.\d'.*stages\.0, stages\.1"):
        maps_and_logits(model, "stages.7", pictures())
    with pytest.raises(UsageError, match=r"head\.fc returns \[2, 7\].*Grad-CAM needs \[batch channels h w\]"):
        maps_and_logits(model, "head.fc", pictures())
    vit = network("test_vit")
    with pytest.raises(UsageError, match=r"reads the class token alone.*blocks\.5\.norm1"):
        maps_and_logits(vit, "blocks.5", pictures(2, 160))
    with pytest.raises(UsageError, match=r"returns \[2, 2, 101, 32\]"):
        maps_and_logits(vit, "blocks.4.attn.q_norm", pictures(2, 160))
    with pytest.raises(UsageError, match="is called 0 times"):
        maps_and_logits(vit, "blocks.4.attn.attn_drop", pictures(2, 160))
