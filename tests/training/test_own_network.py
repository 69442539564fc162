"""Training a network of one's own, which a recipe names as ``module:function``: runs, resuming, studies, and bad functions."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from samples import tiny_tree
from studies import command, write_study

from jpegcurr.analysis.evaluation.evaluate import evaluate_runs
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.classifier import ModelSettings
from jpegcurr.training.models.load import load_classifier
from jpegcurr.training.train import train

NETS = """
from torch import nn

def build(num_classes, drop_path_rate=0.0):
    body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Dropout(drop_path_rate), nn.Linear(8, num_classes))
    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (3, 32, 32)}
    return model

def seven():
    return build(7)
"""
MODEL = {"name": "own_nets:build", "drop_path": 0.1}


@pytest.fixture(autouse=True)
def _nets(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_nets.py").write_text(NETS)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


def write_recipe(betons: Path, **changes: object) -> Path:
    path = Path("own.yaml")
    path.write_text(json.dumps(tiny_tree(betons) | {"model": MODEL} | changes))
    return path


def test_it_trains_resumes_to_the_same_weights_and_is_evaluated(
    betons: Path, cpu: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe(write_recipe(betons))
    metrics = train(recipe, Path("whole"), runtime=cpu)
    train(recipe, Path("parts"), runtime=cpu, until=2)
    train(recipe, Path("parts"), runtime=cpu, resume=True)
    whole, parts = (load_file(Path(run, "model.safetensors")) for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())

    run = load_classifier(Path("whole"), cpu, settings=ModelSettings(factory="own_nets:build"))
    assert run.normalise.describe() == "mean 0.5 0.5 0.5, deviation 0.25 0.25 0.25"
    (result,) = evaluate_runs([run], open_sets([run], {"source": betons / "val-source.beton"}), cpu)
    assert result.scores.top1 == metrics.rows[-1]["val/clean/top1"]
    assert "has changed" not in caplog.text

    Path("own_nets.py").write_text(NETS + "# another version\n")
    load_classifier(Path("whole"), cpu, settings=ModelSettings(factory="own_nets:build"))
    assert "the code of own_nets:build has changed since it was trained" in caplog.text


def test_files_of_a_run_alone_start_no_code(betons: Path, cpu: Runtime) -> None:
    train(load_recipe(write_recipe(betons)), Path("run"), runtime=cpu, until=1)
    Path("own_nets.py").write_text("raise SystemExit('this ran')")
    sys.modules.pop("own_nets")
    for factory in (None, "json:loads"):
        with pytest.raises(UsageError, match=r"code of your own, own_nets:build\. Give --factory own_nets:build"):
            load_classifier(Path("run"), cpu, settings=ModelSettings(factory=factory))


def test_a_run_is_a_start_for_others_of_its_kind_only(betons: Path, cpu: Runtime) -> None:
    train(load_recipe(write_recipe(betons)), Path("run"), runtime=cpu, until=1)
    again = write_recipe(betons, model=MODEL | {"checkpoint": "run"}, schedule={"lr": 1e-30, "min_lr": 0, "warmup_epochs": 0})
    train(load_recipe(again), Path("again"), runtime=cpu, until=1)
    before, after = (load_file(Path(run, "model.safetensors")) for run in ("run", "again"))
    assert torch.equal(before["2.weight"], after["2.weight"])
    other = write_recipe(betons, model={"name": "test_convnext", "checkpoint": "run"})
    with pytest.raises(RecipeError, match=r"cannot start from run: stem\.0\.weight is missing"):
        train(load_recipe(other), Path("other"), runtime=cpu)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"name": "own_nets:seven"}},
            "own_nets:seven: its model answers with 7 numbers for one image",
        ),
        ({"model": MODEL | {"name": "own_nets:seven"}}, "model.drop_path: own_nets:seven has no parameter 'drop_path_rate'"),
        ({"model": MODEL | {"pretrained": True}}, "model.pretrained: own_nets:build has no parameter 'pretrained'"),
        ({"model": MODEL | {"layer_scale": 0.1}}, "model.layer_scale is for timm's ConvNeXts"),
        ({"model": {"name": "own_nets:bild"}}, "own_nets has no function 'bild'. Did you mean 'build'?"),
        ({"optim": {"layer_decay": 0.8}}, "it has no group_matcher"),
    ],
)
def test_what_does_not_fit_is_a_sentence(betons: Path, cpu: Runtime, changes: dict[str, object], message: str) -> None:
    with pytest.raises((RecipeError, UsageError)) as caught:
        train(load_recipe(write_recipe(betons, **changes)), Path("run"), runtime=cpu)
    assert message in str(caught.value)
    assert not Path("run", "run.json").exists()


def test_a_study_compares_arms_of_it(betons: Path) -> None:
    study = write_study(betons, base={"model": MODEL}, seeds=[0])
    assert command(f"study {study} --out out --quiet") == 0
    results = json.loads(Path("out/study.json").read_text())
    assert results["finished"] == results["planned"] == 2
    assert yaml.safe_load(Path("out/runs/swap/seed-0/recipe.yaml").read_text())["model"]["name"] == "own_nets:build"


def test_a_folder_of_timms_format_is_a_model_of_a_recipe(betons: Path, trained: Path, cpu: Runtime) -> None:
    still = {"lr": 1e-30, "min_lr": 0, "warmup_epochs": 0}
    model = {"name": f"local-dir:{trained}", "pretrained": True}
    train(load_recipe(write_recipe(betons, model=model, schedule=still)), Path("run"), runtime=cpu, until=1)
    train(load_recipe(write_recipe(betons, model=model, schedule=still)), Path("run"), runtime=cpu, resume=True)
    before, after = (load_file(run / "model.safetensors") for run in (trained, Path("run")))
    assert torch.equal(before["stem.0.weight"], after["stem.0.weight"])
    assert load_classifier(Path("run"), cpu).classes == ("astronaut", "cat", "coffee", "grass")
    nowhere = write_recipe(betons, model={"name": "local-dir:nowhere", "pretrained": True})
    with pytest.raises(RecipeError, match="local-dir:nowhere"):
        train(load_recipe(nowhere), Path("other"), runtime=cpu)
