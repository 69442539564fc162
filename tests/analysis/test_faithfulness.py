"""Faithfulness: pytorch-grad-cam's own values, the same every time, and nan for constant maps."""

import sys

import numpy as np
import pytest
import torch
from networks import network, pictures

from jpegcurr.analysis.cam.faithfulness import FAITHFULNESS, PERCENTILES, find_metrics
from jpegcurr.analysis.cam.grad_cam import maps_and_logits
from jpegcurr.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_values_are_those_of_the_package_for_its_own_maps() -> None:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.metrics.cam_mult_image import CamMultImageConfidenceChange
    from pytorch_grad_cam.metrics.road import ROADCombined
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    model, images, classes = network("test_resnet"), pictures(3, 64), torch.tensor([1, 3, 2])
    targets = [ClassifierOutputSoftmaxTarget(int(label)) for label in classes]
    with GradCAM(model, [model.get_submodule("layer3")]) as theirs:
        scaled = theirs(images, targets=[lambda logits, label=label: logits[label] for label in classes])
    maps, _ = maps_and_logits(model, "layer3", images, classes)
    assert (maps.amax(dim=(1, 2)) > 0).all()
    metrics = find_metrics(["road", "confidence"])
    assert list(metrics) == ["road", "confidence_change"]
    change = metrics["confidence_change"](model, images, maps.numpy(), classes, 0)
    assert change == pytest.approx(CamMultImageConfidenceChange()(images, scaled, targets, model), abs=1e-6)
    torch.manual_seed(7)
    expected = ROADCombined(PERCENTILES)(images, scaled, targets, model)
    road = metrics["road"](model, images, maps.numpy(), classes, 7)
    assert road == pytest.approx(expected, abs=1e-5)
    assert len(set(road.tolist())) == 3


def test_the_same_seed_gives_the_same_value_and_leaves_the_callers_generator_alone() -> None:
    model, images, classes = network("test_resnet").train(), pictures(2, 64), torch.tensor([1, 5])
    maps = np.random.default_rng(0).random((2, 4, 4), np.float32)
    (road,) = find_metrics(["road"]).values()
    torch.manual_seed(1)
    first = road(model, images, maps, classes, 0)
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), drawn)
    assert np.array_equal(first, road(model, images, maps, classes, 0))
    assert not np.array_equal(first, road(model, images, maps, classes, 1))
    assert all(part.training for part in model.modules())


def test_a_constant_map_has_no_value() -> None:
    model, images, classes = network("test_resnet"), pictures(3, 64), torch.tensor([1, 5, 2])
    maps = np.random.default_rng(0).random((3, 4, 4), np.float32)
    maps[0], maps[2] = 0, 0.5
    for metric in find_metrics(list(FAITHFULNESS)).values():
        assert np.isfinite(metric(model, images, maps, classes, 0)).tolist() == [False, True, False]
        assert np.isnan(metric(model, images, np.zeros_like(maps), classes, 0)).all()


def test_a_wrong_name_or_a_missing_package_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--metrics 'raod' is not known\. Did you mean 'road'"):
        find_metrics(["confidence", "raod"])
    assert find_metrics([]) == {}
    for name in [name for name in sys.modules if name.startswith("pytorch_grad_cam")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    assert find_metrics([]) == {}, "nothing is imported that is not asked for"
    with pytest.raises(UsageError, match=r"--metrics road needs pytorch-grad-cam.*Run (uv )?pip install -U grad-cam, or omit"):
        find_metrics(["road"])
