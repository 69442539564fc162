"""Runs of earlier versions: what those did is kept when the run is resumed, unless the recipe says otherwise."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from samples import tiny_recipe

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.train import train


def forget(run: Path, section: str, *fields: str) -> None:
    """Write the run's recipe as a version without these fields did."""
    tree = yaml.safe_load((run / "recipe.yaml").read_text())
    for field in fields:
        del tree[section][field]
    (run / "recipe.yaml").write_text(yaml.safe_dump(tree))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def test_a_run_keeps_the_layers_that_its_rates_were_of(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def recipe(*overrides: str) -> Recipe:
        return tiny_recipe(betons, tmp_path, "optim.layer_decay=0.5", "curriculum=[{data: clean, until_epoch: 2}]", *overrides)

    former = "optim.layer_ids=contiguous"
    train(recipe(former), Path("whole"), runtime=cpu)
    train(recipe(former), Path("run"), runtime=cpu, until=1)
    forget(Path("run"), "optim", "layer_ids")
    with pytest.raises(RecipeError, match=r"optim\.layer_ids was contiguous, is authors"):
        train(recipe("optim.layer_ids=authors"), Path("run"), runtime=cpu, resume=True)
    with caplog.at_level("INFO"):
        train(recipe(), Path("run"), runtime=cpu, resume=True)
    assert f"run keeps what it was started with: {former}" in caplog.text
    assert all(torch.equal(tensor, weights(Path("whole"))[name]) for name, tensor in weights(Path("run")).items())
    assert load_recipe(Path("run/recipe.yaml")).optim.layer_ids == "contiguous", "from now on the run states it"
    train(recipe(), Path("today"), runtime=cpu)
    assert any(not torch.equal(tensor, weights(Path("whole"))[name]) for name, tensor in weights(Path("today")).items())


def test_a_run_whose_recipe_was_changed_since_resumes_with_its_own(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Shipped recipes change: a chunk, no average any more. A run has its recipe with it, also one that lacks fields."""
    short = ("curriculum=[{data: clean, until_epoch: 2}]", "evaluate=[clean]")
    train(tiny_recipe(betons, tmp_path, *short), Path("run"), runtime=cpu, until=1)
    forget(Path("run"), "image", "mean", "std")
    forget(Path("run"), "optim", "layer_ids")
    changed = tiny_recipe(betons, tmp_path, *short, "ema=null", "mix.chunk=64")
    with pytest.raises(
        RecipeError, match=r"run/recipe\.yaml; resume with that one \(--recipe\), or .*\n  mix\.chunk was 128"
    ) as error:
        train(changed, Path("run"), runtime=cpu, resume=True)
    assert "\n  ema was " in str(error.value)
    assert len(train(load_recipe(Path("run/recipe.yaml")), Path("run"), runtime=cpu, resume=True).rows) == 2
