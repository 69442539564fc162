"""Recipes that an earlier version resolved: what the fields that they lack stand for."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples import tiny_tree

from jpegcurr.recipe.former import fill_former, keep_former, omit_former
from jpegcurr.recipe.loading import dump_recipe, load_recipe, load_resolved
from jpegcurr.recipe.schema import Recipe


def recipe_of(**optim: Any) -> Recipe:
    return Recipe.model_validate(tiny_tree(Path("betons")) | {"optim": optim})


def former_tree(recipe: Recipe) -> dict[str, Any]:
    """Return the resolved recipe as version 0.1 wrote it."""
    tree: dict[str, Any] = yaml.safe_load(dump_recipe(recipe))
    del tree["optim"]["layer_ids"], tree["image"]["mean"], tree["image"]["std"], tree["targets"]
    del tree["evaluate_every"]
    del tree["image"]["padding"], tree["model"]["freeze_until"], tree["batch"]["balance"], tree["optim"]["class_weights"]
    return tree


@pytest.mark.parametrize(("decay", "expected"), [(0.8, "contiguous"), (None, "authors")])
def test_a_run_of_an_earlier_version_has_the_layers_of_that_version(decay: float | None, expected: str) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(former_tree(recipe_of(layer_decay=decay))))
    assert load_resolved(Path("recipe.yaml")).optim.layer_ids == expected
    assert load_recipe(Path("recipe.yaml")).optim.layer_ids == "authors", "as a recipe of a new run it has today's default"


def test_a_run_of_this_version_is_read_as_it_is() -> None:
    for ids in ("authors", "contiguous"):
        Path("recipe.yaml").write_text(dump_recipe(recipe_of(layer_decay=0.8, layer_ids=ids)))
        assert load_resolved(Path("recipe.yaml")).optim.layer_ids == ids


def test_former_fields_are_filled_and_omitted_without_touching_the_argument() -> None:
    recipe = recipe_of(layer_decay=0.8)
    tree = former_tree(recipe)
    before = copy.deepcopy(tree)
    assert omit_former(fill_former(tree)) == tree == before
    kept = omit_former(recipe.model_dump(mode="json"))
    assert kept["optim"]["layer_ids"] == "authors", "another value than the former one stays"
    assert "mean" not in kept["image"]


def test_a_field_that_a_recipe_sets_itself_is_not_changed() -> None:
    tree = former_tree(recipe_of(layer_decay=0.8))
    kept, texts = keep_former(recipe_of(layer_decay=0.8), tree)
    assert (kept.optim.layer_ids, texts) == ("contiguous", ["optim.layer_ids=contiguous"])
    resumed = yaml.safe_load(dump_recipe(kept))  # which states the field
    assert keep_former(recipe_of(layer_decay=0.8), resumed) == (kept, texts)
    own = recipe_of(layer_decay=0.8, layer_ids="authors")
    assert keep_former(own, resumed) == (own, [])
    today = yaml.safe_load(dump_recipe(own))
    assert keep_former(recipe_of(layer_decay=0.8), today) == (recipe_of(layer_decay=0.8), [])
    assert keep_former(own, tree) == (own, [])
