"""One door for models: runs, timm's names, folders of hubs and one's own networks, in every command that takes a model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.evaluation.evaluate import evaluate_runs
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.cli import main
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.classifier import LoadedModel, ModelSettings
from jpegcurr.training.models.description import describe_model, hash_weights
from jpegcurr.training.models.load import load_classifier, load_classifiers

OWN = """
import torch
from torch import nn

def build():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

def broken():
    raise RuntimeError("no such file of weights")

def number():
    return 3

def flat():
    return nn.Flatten()

def none():
    return nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten(0))
"""
NORMALISED = ["--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--size", "32"]
SETTINGS = ModelSettings(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), size=32)
NAMED = replace(SETTINGS, class_names=Path("names.txt"))


@pytest.fixture
def own() -> Path:
    """Write a user's own network, and the names of its classes."""
    Path("nets.py").write_text(OWN)
    Path("names.txt").write_text("astronaut\ncat\ncoffee\ngrass\n")
    return Path("nets.py")


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def test_a_run_and_the_model_in_its_folder_are_one_network(trained: Path, betons: Path, photos: Path, cpu: Runtime) -> None:
    run, folder = load_classifiers([trained, f"local-dir:{trained}"], cpu)
    assert isinstance(folder, LoadedModel)
    assert folder.classes == run.classes
    assert folder.names_known
    assert (folder.image.size, folder.image.val_crop) == (run.image.size, run.image.val_crop)
    first, second = evaluate_runs(
        [run, folder], open_sets([run, folder], {"": betons / "val-source.beton"}), cpu, loader="plain"
    )
    assert first.scores.top1 == second.scores.top1
    assert first.scores.loss == pytest.approx(second.scores.loss, abs=1e-6)
    study = compare_cams([run, folder], photos / "val", [EncodeSpec("source")], cpu, pictures=4)
    for example in study.examples:
        np.testing.assert_allclose(example.predictions[0].cam, example.predictions[1].cam, rtol=1e-5, atol=1e-6)


def test_the_hash_is_of_the_weights_and_the_description_of_the_inputs(own: Path, cpu: Runtime) -> None:
    model, same = (load_classifier(Path(f"{own}:build"), cpu, settings=SETTINGS) for _ in range(2))
    assert hash_weights(model) == hash_weights(same)
    with torch.no_grad():
        next(same.model.parameters())[0, 0, 0, 0] += 1
    assert hash_weights(model) != hash_weights(same)
    described = describe_model(model)
    assert (described.size, described.mean, described.std) == (32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert "32 pixels" in str(described)


def test_ones_own_network_goes_through_every_command(
    own: Path, betons: Path, photos: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*NORMALISED, "--class-names", "names.txt"]
    val = betons / "val-source.beton"
    code, printed, err = call(capsys, "evaluate", "nets:build", trained, "--data", val, *settings, "--json")
    assert code == 0, err
    rows = json.loads(printed)
    assert [row["run"] for row in rows] == ["nets:build", str(trained)]
    assert (rows[0]["mean"], rows[0]["size"], rows[0]["images"]) == ([0.5, 0.5, 0.5], 32, 16)
    assert len(rows[0]["sha256"]) == 64
    code, printed, err = call(capsys, "predict", f"{own}:build", photos / "val", *settings)
    assert code == 0, err
    assert f"of 16 labelled images are right: {rows[0]['top1']:.2f} %" in printed
    code, _, err = call(capsys, "cam", "nets:build", photos / "val", "--layer", "0", *settings, "-o", "own.html")
    assert code == 0, err
    report = json.loads(Path("own.json").read_text())
    assert "mean 0.5, 0.5, 0.5" in json.dumps(report)
    code, printed, err = call(
        capsys, "channels", "nets:build", "--data", val, "--qualities", "source,10", "--layer", "0", *settings
    )
    assert code == 0, err


def test_without_class_names_labels_are_numbers_and_nothing_is_guessed(
    own: Path, betons: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = call(capsys, "evaluate", f"{own}:build", "--data", betons / "val-source.beton", *NORMALISED)
    assert code == 0
    assert f"the class names of {own}:build are not known" in err
    code, printed, _ = call(capsys, "predict", f"{own}:build", photos / "val", *NORMALISED)
    assert "so no image has a known class" in printed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nets:bild", r"nets has no function 'bild'\. Did you mean 'build'"),
        ("nowhere:build", "there is no module nowhere here"),
        ("nowhere.py:build", r"nowhere\.py does not exist"),
        ("nets:broken", r"nets:broken failed: RuntimeError: no such file of weights \(nets\.py, line 10\)"),
        ("nets:number", "returns int, which is no torch.nn.Module"),
        ("nets:flat", r"cannot take images|has 3072 outputs|classes"),
        ("nets:none", r"not with one number for each class, \[1, n\]"),
        ("syntax:build", "syntax:build cannot be imported: SyntaxError"),
        ("hf-hub:", "cannot be loaded"),
        ("local-dir:nowhere", "local-dir:nowhere cannot be loaded"),
    ],
)
def test_what_cannot_be_loaded_is_a_sentence(own: Path, cpu: Runtime, name: str, message: str) -> None:
    Path("syntax.py").write_text("def build(:\n")
    with pytest.raises(JpegcurrError, match=message):
        load_classifier(Path(name), cpu, settings=NAMED)


def test_what_a_model_does_not_state_must_be_given(own: Path, trained: Path, cpu: Runtime) -> None:
    with pytest.raises(UsageError, match=r"does not state how its inputs are made.*--mean 0\.485,0\.456,0\.406"):
        load_classifier(Path(f"{own}:build"), cpu)
    Path("names.txt").write_text("ant\nbee\n")
    with pytest.raises(UsageError, match=r"names\.txt names 2 classes, but .* has 4 outputs"):
        load_classifier(
            Path(f"{own}:build"), cpu, settings=ModelSettings(None, SETTINGS.mean, SETTINGS.std, 32, Path("names.txt"))
        )
    Path("names.txt").write_text("ant\nbee\nant\ncat\n")
    with pytest.raises(UsageError, match="has 'ant' twice"):
        load_classifier(
            Path(f"{own}:build"), cpu, settings=ModelSettings(None, SETTINGS.mean, SETTINGS.std, 32, Path("names.txt"))
        )
    with pytest.raises(UsageError, match=r"--size: the run .* states this itself"):
        load_classifier(trained, cpu, settings=ModelSettings(size=64))
    with pytest.raises(UsageError, match=r"--size: a run states all of this itself"):
        load_classifiers([trained], cpu, settings=ModelSettings(size=64))
    with pytest.raises(UsageError, match="is for one model, but 2 models are no runs"):
        load_classifiers(["nets:build", "test_convnext"], cpu, settings=ModelSettings(checkpoint=Path("w.pth")))


@pytest.mark.parametrize("value", ["0.5", "0.5,0.5,x", "0.5,0.5,0.5,0.5", "127,127,127", "nan,0,0"])
def test_a_mean_that_is_not_three_shares_is_refused(
    own: Path, betons: Path, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    val = betons / "val-source.beton"
    code, _, err = call(capsys, "evaluate", "nets:build", "--data", val, "--mean", value)
    assert code == 2
    assert f"--mean {value}" in err


def test_a_model_that_is_no_run_has_no_validation_sets_of_its_own(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "evaluate", "nets:build", *NORMALISED)
    assert code == 2
    assert "nets:build is no run, so it has no validation sets of its own. Name a beton: --data" in err
