"""Values that a recipe may omit: they fit the run, the resolved recipe states them, and a resumed run keeps them."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from samples import tiny_tree

from jpegcurr.recipe.former import keep_former
from jpegcurr.recipe.loading import dump_recipe, load_resolved
from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.advice import initial_share, schedule_advice


def recipe_of(epochs: int, batch: int, **sections: Any) -> Recipe:
    """Return a recipe of one phase that states no rate, warm-up or average."""
    tree = tiny_tree(Path("betons"))
    del tree["schedule"], tree["ema"], tree["data"]["q50"]
    tree |= {"curriculum": [{"data": "clean", "until_epoch": epochs}], "evaluate": ["clean"]}
    return Recipe.model_validate(tree | {"batch": {"size": batch, "per_device": batch}} | sections)


def omitted(recipe: Recipe) -> tuple[float, int, float | None]:
    assert recipe.ema is not None
    return recipe.schedule.lr, recipe.schedule.warmup_epochs, recipe.ema.half_life


def test_the_authors_run_has_the_authors_values() -> None:
    recipe = recipe_of(300, 4096)
    assert omitted(recipe) == (4e-3, 20, 22)
    assert recipe.ema is not None
    assert recipe.ema.per_step(312) == pytest.approx(0.9999, abs=2e-6)


@pytest.mark.parametrize(
    ("epochs", "batch", "sections", "rate"),
    [
        (4, 64, {}, 5e-4),
        (1, 16, {"model": {"name": "convnext_tiny", "pretrained": True}}, 5e-5),
        (30, 64, {"model": {"name": "convnext_tiny", "checkpoint": "a.pth"}}, 1e-4),
        (90, 1024, {"optim": {"name": "nesterov"}}, 0.4),
        (30, 64, {"optim": {"name": "sgd"}, "model": {"name": "resnet18", "pretrained": True}}, 2.5e-3),
        (600, 512, {"optim": {"name": "lamb"}}, 2.5e-3),
    ],
)
def test_a_rate_is_that_of_the_optimiser_the_batch_and_the_start(
    epochs: int, batch: int, sections: dict[str, Any], rate: float
) -> None:
    assert recipe_of(epochs, batch, **sections).schedule.lr == pytest.approx(rate)


@given(st.integers(1, 400), st.sampled_from([16, 64, 128, 1024]), st.booleans(), st.integers(10, 2000))
def test_what_is_omitted_never_needs_advice(epochs: int, batch: int, pretrained: bool, steps: int) -> None:
    recipe = recipe_of(epochs, batch, model={"name": "convnext_tiny", "pretrained": pretrained})
    assert schedule_advice(recipe, steps * batch) == []
    assert initial_share(recipe, steps * batch) <= 0.00101
    assert recipe.schedule.warmup_epochs < epochs


def test_the_resolved_recipe_states_what_was_omitted_and_is_read_as_the_same() -> None:
    recipe = recipe_of(40, 64)
    Path("recipe.yaml").write_text(dump_recipe(recipe))
    tree = yaml.safe_load(Path("recipe.yaml").read_text())
    assert (tree["schedule"]["lr"], tree["schedule"]["warmup_epochs"]) == (5e-4, 4)
    assert tree["ema"] == {"decay": None, "half_life": 4}
    assert load_resolved(Path("recipe.yaml")) == recipe
    assert omitted(recipe_of(40, 64, schedule={"lr": 1e-3}, ema={"half_life": 1})) == (1e-3, 4, 1)


def test_a_run_that_is_made_longer_keeps_what_it_was_started_with() -> None:
    started = yaml.safe_load(dump_recipe(recipe_of(40, 64)))
    kept, texts = keep_former(recipe_of(80, 64), started)
    assert omitted(kept) == omitted(recipe_of(40, 64))
    assert texts == ["schedule.warmup_epochs=4", "ema.half_life=4.0"]
    own = recipe_of(80, 64, schedule={"warmup_epochs": 8}, ema={"decay": 0.99})
    assert keep_former(own, started) == (own, [])


def test_a_run_of_an_earlier_version_keeps_the_values_that_every_run_had() -> None:
    started = yaml.safe_load(dump_recipe(recipe_of(40, 64)))
    started["schedule"] |= {"lr": 4e-3, "warmup_epochs": 20}
    started["ema"] = {"decay": None, "half_life": None}
    kept, texts = keep_former(recipe_of(40, 64), started)
    assert texts == ["schedule.lr=0.004", "schedule.warmup_epochs=20", "ema.decay=0.9999"]
    assert kept.ema is not None
    assert (kept.ema.decay, kept.ema.half_life) == (0.9999, None)
    Path("recipe.yaml").write_text(yaml.safe_dump(started))
    assert load_resolved(Path("recipe.yaml")) == kept
