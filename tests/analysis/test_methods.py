"""pytorch-grad-cam's methods on our activations and gradients: their maps are its own, before its normalisation."""

import sys

import numpy as np
import pytest
import torch
from networks import network, pictures

from jpegcurr.analysis.cam.grad_cam import maps_and_logits
from jpegcurr.analysis.cam.methods import METHODS, OURS, PACKAGED, WITHOUT_CLASS, _turned, find_method
from jpegcurr.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")


def normalised(maps: np.ndarray) -> np.ndarray:
    """Scale maps as pytorch-grad-cam scales every map."""
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return maps / (1e-7 + maps.max(axis=(1, 2), keepdims=True))


@pytest.mark.parametrize("name", [name for name in PACKAGED if "eigen" not in name and name != "kpcacam"])
def test_maps_are_those_of_the_package(name: str) -> None:
    """The package scales each map to 0..1 twice, and to the image's size, which is the grid's where that is 1."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model, images, classes = network("test_resnet"), pictures(2, 64), torch.tensor([1, 5])
    maps, logits = find_method(name)(model, "layer3", images, classes)
    with getattr(pytorch_grad_cam, PACKAGED[name])(model, [model.get_submodule("layer3")]) as theirs:
        expected = theirs(images, targets=[ClassifierOutputTarget(int(label)) for label in classes])
    ours = scale_cam_image(scale_cam_image(maps.numpy(), (64, 64)))
    assert maps.shape == (2, 4, 4)
    assert float(maps.max()) > 0
    assert np.allclose(ours, expected, atol=1e-4)
    assert torch.allclose(logits, model(images), atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_the_model_is_restored(name: str) -> None:
    model = network().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps, _ = find_method(name)(model, "stages.3.blocks.1.norm", pictures(2, 64), None)
    assert maps.shape == (2, 2, 2), "channels last"
    assert float(maps.min()) >= 0
    assert all(part.training for part in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_component_has_the_sign_of_its_largest_value() -> None:
    """Otherwise two nearly equal images could have maps that are each other's negative."""
    raw = np.array([[[-3.0, 1.0]], [[-1.0, 3.0]]], np.float32)
    assert _turned(raw).tolist() == [[[3, -1]], [[-1, 3]]]


def test_some_explain_no_class() -> None:
    model, images = network("test_resnet"), pictures(1, 64)
    for name in METHODS:
        one, other = (find_method(name)(model, "layer3", images, torch.tensor([label]))[0] for label in (1, 5))
        assert torch.allclose(one, other) == (name in WITHOUT_CLASS), name


def test_score_cam_works_in_half_precision_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    maps, _ = find_method("scorecam")(network("test_resnet").bfloat16(), "layer4", pictures(1, 64), None)
    assert maps.dtype == torch.float32
    assert capfd.readouterr() == ("", "")


def test_a_wrong_name_or_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_method(OURS) is maps_and_logits
    with pytest.raises(
        UsageError, match=r"'hirecam' is not known\. Did you mean 'hirescam'\? Known methods: gradcam, gradcam\+\+"
    ):
        find_method("hirecam")
    import pytorch_grad_cam

    monkeypatch.delattr(pytorch_grad_cam, "FEM")
    with pytest.raises(UsageError, match=r"has no FEM\. Run (uv )?pip install -U grad-cam"):
        find_method("fem")
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UsageError, match=r"Run (uv )?pip install -U grad-cam, or use --method gradcam"):
        find_method("layercam")
