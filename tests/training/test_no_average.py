"""Runs that keep no average of their weights (``ema: null``)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from samples import tiny_recipe, tiny_tree

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import load_run
from jpegcurr.training.train import train


def recipe(betons: Path, folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(betons, folder, "curriculum=[{data: clean, until_epoch: 2}]", "evaluate=[clean]", *overrides)


def test_such_a_run_has_no_trace_of_an_average_and_resumes(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are those of a run with an average, which training does not depend on."""
    without = recipe(betons, tmp_path, "ema=null")
    with caplog.at_level("INFO"):
        train(without, Path("run"), runtime=cpu, until=1)
        rows = train(without, Path("run"), runtime=cpu, resume=True).rows
    assert [message.split("  | ")[1] for message in caplog.messages if message.startswith("epoch ")] == [
        f"clean {row['val/clean/top1']:.1f}" for row in rows
    ]
    with_average = train(recipe(betons, tmp_path), Path("average"), runtime=cpu).rows
    assert {name for name in rows[0] if "ema" in name} == set()
    assert {name for name in with_average[0] if "ema" in name} == {f"val/clean/ema_{key}" for key in ("top1", "top5", "loss")}
    for row, other in zip(rows, with_average, strict=True):
        assert (row["train/loss"], row["val/clean/loss"]) == (other["train/loss"], other["val/clean/loss"])
    ours, theirs = (load_file(Path(name, "model.safetensors")) for name in ("run", "average"))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert not Path("run/ema").exists()
    assert "ema" not in Path("run/summary.csv").read_text()
    assert json.loads(Path("run/best/best.json").read_text())["column"] == "val/clean/top1"
    with safe_open("run/state.safetensors", "pt") as state:
        assert not [name for name in state.keys() if name.startswith("ema.")]  # noqa: SIM118
    assert state_size("run") < 0.8 * state_size("average")


def state_size(run: str) -> int:
    return Path(run, "state.safetensors").stat().st_size


def test_averaged_weights_that_do_not_exist_are_refused_with_the_reason(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    train(recipe(betons, tmp_path, "ema=null"), Path("run"), runtime=cpu)
    with pytest.raises(
        UsageError, match=r"run keeps no average of its weights \(ema: null in its recipe\)\. Use --weights raw\."
    ):
        load_run(Path("run"), cpu, "ema")
    assert load_run(Path("run"), cpu, "raw").weights == "raw"
    assert load_run(Path("run"), cpu, "best").weights == "best"


def test_a_run_does_not_lose_or_gain_an_average_when_it_is_resumed(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    train(recipe(betons, tmp_path), Path("run"), runtime=cpu, until=1)
    with pytest.raises(RecipeError, match=r"ema was \{'decay': 0\.9, 'half_life': None\}, is None"):
        train(recipe(betons, tmp_path, "ema=null"), Path("run"), runtime=cpu, resume=True)


def test_an_average_is_set_over_a_recipe_that_has_none() -> None:
    tree = tiny_tree(Path("betons")) | {"ema": None}
    Path("recipe.yaml").write_text(json.dumps(tree))
    assert load_recipe(Path("recipe.yaml")).ema is None
    assert load_recipe(Path("recipe.yaml")).weights == ("raw",)
    for override, decay in (("ema.decay=0.99", 0.99), ("ema={}", 0.5 ** (1 / 4))):  # a half-life of a tenth of 4 epochs
        section = load_recipe(Path("recipe.yaml"), [override]).ema
        assert section is not None
        assert section.per_step(10) == decay
    with pytest.raises(RecipeError, match=r"save\.best: 'val/clean/ema_top1' is not measured\."):
        load_recipe(Path("recipe.yaml"), ["save.best=val/clean/ema_top1"])
    with pytest.raises(RecipeError, match=r"ema\.decya: unknown key\. Did you mean 'decay'"):
        load_recipe(Path("recipe.yaml"), ["ema.decya=0.9"])
