"""The public API as the package's docstring shows it."""

import json
import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
import torch
from samples import tiny_recipe
from torch import nn

import jpegcurr
from jpegcurr.errors import UsageError
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.training.data.loaders import choose_kind

CLASSES = ["astronaut", "cat", "coffee", "grass"]
INPUTS: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "size": 32}


def own(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture
def _no_ffcv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every import of FFCV fail, as if it were not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "ffcv" or ".ffcv_" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ffcv", None)


@pytest.mark.usefixtures("_no_ffcv")
def test_the_example_in_the_docstring_runs_without_ffcv(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Encode, train, evaluate and explain photographs, with a tiny recipe in place of the shipped one."""
    Path("data").mkdir()
    Path("data/imagenet").symlink_to(photos)
    Path("recipes").mkdir()
    Path("recipes/two_phase.yaml").write_text(dump_recipe(tiny_recipe(Path("betons"), Path(), "loader.kind=auto")))
    doc = jpegcurr.__doc__ or ""
    lines = [line for line in doc.splitlines() if line.startswith("    ") or not line]
    exec(compile(dedent("\n".join(lines)), "docstring", "exec"), {})  # noqa: S102
    assert "'tested': 50" in capsys.readouterr().out
    assert Path("report.html").is_file()
    (run,) = Path().glob("**/run.json")
    assert json.loads(run.read_text(encoding="utf-8"))["loader"] == choose_kind("auto")[0]
    assert not [name for name in sys.modules if name.startswith("ffcv.") or ".ffcv_" in name]


def test_networks_in_memory_are_compared_at_two_qualities_and_left_as_they_are(photos: Path) -> None:
    net = own().train()
    models = [jpegcurr.load_model(net, **INPUTS, classes=CLASSES, name=name) for name in ("first", "same")]
    study = jpegcurr.compare_cams(models, str(photos / "val"), ["source", 5], layer="0", pictures=2)
    assert [(str(view.run), view.quality) for view in study.views] == [
        (name, quality) for name in ("first", "same") for quality in ("source", "q5")
    ]
    columns = [view.similarity["pearson"] for view in study.columns]
    assert np.nanmin(columns[2]) > 0.9999  # the same network at the same quality
    assert np.nanmin(columns[1]) < 0.999
    np.testing.assert_array_equal(columns[1], columns[3])
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    jpegcurr.write_report(study, "own.html")
    assert Path("own.html").is_file()


def test_a_map_of_ones_own_network_is_grad_cams() -> None:
    net, images = own(), torch.randn(3, 3, 32, 32)
    maps = jpegcurr.grad_cam(net, "0", images)
    activations = net[0](images)  # type: ignore[index]
    logits = net[4](activations.relu().mean(dim=(2, 3)))  # type: ignore[index]
    (gradients,) = torch.autograd.grad(logits.amax(dim=1).sum(), activations)
    torch.testing.assert_close(maps, (gradients.mean(dim=(2, 3), keepdim=True) * activations).sum(dim=1).relu())
    assert maps.shape == (3, 8, 8)
    loaded = jpegcurr.load_model(net, **INPUTS, classes=CLASSES)
    levels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normalised = (levels / 255 - 0.5) / 0.25
    torch.testing.assert_close(jpegcurr.grad_cam(loaded, "0", levels), jpegcurr.grad_cam(net, "0", normalised))


def test_one_call_evaluates_a_run_and_a_network_on_betons_and_folders(trained: Path, betons: Path, photos: Path) -> None:
    counted: list[tuple[int, int]] = []
    network = jpegcurr.load_model(own(), **INPUTS, classes=CLASSES)
    results = jpegcurr.evaluate(
        [str(trained), network], str(betons / "val-source.beton"), ["source", 50], progress=lambda *args: counted.append(args)
    )
    assert [(str(result.run), result.tested) for result in results] == [
        (name, quality) for name in (str(trained), "Sequential") for quality in ("source", 50)
    ]
    assert counted[-1] == (64, 64)
    (stored,) = jpegcurr.evaluate(trained, betons / "val-q50.beton")
    np.testing.assert_allclose(stored.outcomes.loss, results[1].outcomes.loss, atol=1e-5)
    (of_folder,) = jpegcurr.evaluate(network, photos / "val")
    np.testing.assert_array_equal(np.sort(of_folder.outcomes.loss), np.sort(results[2].outcomes.loss))
    assert jpegcurr.compare_evaluations(results)[1] is not None
    assert [len(jpegcurr.evaluate(trained)), len(list(jpegcurr.predict_images(str(trained), ["nowhere.jpg"])))] == [2, 1]


def test_what_a_network_does_not_say_is_asked_for_in_a_sentence(trained: Path, betons: Path, photos: Path) -> None:
    val = betons / "val-source.beton"
    named = jpegcurr.load_model(own(1), **INPUTS)
    calls = {
        r"Sequential does not state how its inputs are made.*load_model\(network, mean=": lambda: jpegcurr.evaluate(own(), val),
        "--mean 123,117,104: give three numbers on the scale 0 to 1": lambda: jpegcurr.load_model(
            own(), mean=(123, 117, 104), std=(1, 1, 1), size=32
        ),
        "--class-names names 2 classes, but Sequential has 4": lambda: jpegcurr.load_model(own(), **INPUTS, classes=["a", "b"]),
        "2 models are called Sequential. Give them names": lambda: jpegcurr.evaluate(
            [named, jpegcurr.load_model(own(), **INPUTS)], val
        ),
        "has a name already": lambda: jpegcurr.evaluate({"mine": trained}, val),
        "is loaded already and states this itself": lambda: jpegcurr.load_model(named, size=64),
        "weights and factory are for the folder of a run": lambda: jpegcurr.load_model(named, weights="ema"),
        "Tensor is no model. Give a run's folder": lambda: jpegcurr.evaluate(own().state_dict(), val),
        "There is no model": lambda: jpegcurr.evaluate([], val),
        "quality 0 is not a JPEG quality": lambda: jpegcurr.evaluate(named, val, [0]),
        "The quality q50 is given twice": lambda: jpegcurr.compare_cams(named, photos / "val", [50, 50]),
        r"in Python, layer='...'": lambda: jpegcurr.compare_cams(named, photos / "val", [50]),
        "no batch of square ones": lambda: jpegcurr.grad_cam(own(), "0", torch.zeros(3, 32, 32)),
        "are not normalised": lambda: jpegcurr.grad_cam(own(), "0", torch.zeros(1, 3, 32, 32, dtype=torch.uint8)),
        "has no such layer": lambda: jpegcurr.grad_cam(own(), "stage", torch.zeros(1, 3, 32, 32)),
    }
    for message, call in calls.items():
        with pytest.raises(UsageError, match=message):
            call()
