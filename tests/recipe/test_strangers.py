"""Recipes that a stranger wrote: each is a sentence that names the file, within a bounded time."""

import os
from pathlib import Path

import pytest
import yaml
from hostile import YAML, each
from samples import tiny_tree

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.loading import MOST_BYTES, dump_recipe, load_recipe
from jpegcurr.recipe.values import MOST_EPOCHS, MOST_PHASES
from jpegcurr.study.config import load_study
from jpegcurr.training.curriculum import plan_epochs

RECIPE = Path("recipe.yaml")


@pytest.mark.parametrize("text", each(YAML))
def test_a_file_of_anything_is_refused_by_name(text: str) -> None:
    RECIPE.write_text(text)
    for load in (load_recipe, load_study):
        with pytest.raises(RecipeError, match=r"^recipe\.yaml"):
            load(RECIPE)


@pytest.mark.parametrize("text", [text for text in YAML.values() if len(text) < 5000])
def test_an_override_of_anything_is_refused_too(text: str, tmp_path: Path) -> None:
    RECIPE.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    with pytest.raises(RecipeError):
        load_recipe(RECIPE, [f"model={text}"])


def test_a_file_of_too_many_values_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    RECIPE.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    load_recipe(RECIPE)
    monkeypatch.setattr("jpegcurr.recipe.loading.MOST_NODES", 50)
    with pytest.raises(RecipeError, match=r"recipe\.yaml is not YAML: more than 50 values"):
        load_recipe(RECIPE)


def test_aspect_ratios_that_no_crop_can_have_are_refused(tmp_path: Path) -> None:
    RECIPE.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    with pytest.raises(RecipeError, match="not two aspect ratios"):
        load_recipe(RECIPE, ["image.ratio=[1e-300, 1e300]"])


def test_a_pipe_is_no_recipe() -> None:
    os.mkfifo("pipe.yaml")
    with pytest.raises(RecipeError, match=r"pipe\.yaml"):
        load_recipe(Path("pipe.yaml"))


@pytest.mark.parametrize(
    "change",
    [
        "image.size=20000",
        "image.size=1000000",
        "curriculum.0.size=8192",
        "curriculum.1.until_epoch=1000000000",
        "batch.size=1000000000000",
        "batch.per_device=1000000000000",
        "batch.repeats=1000000000000",
        "mix.chunk=1000000000000",
        "schedule.lr=1e300",
        "schedule.warmup_epochs=1000000000",
        "schedule.decay={every: 1000000000}",
        "optim.clip_grad=.inf",
        "loader.workers=1000000",
        "save.last=1000000000",
        "curriculum.0.data={clean: 1e308, q50: 1e308}",
        'data.clean.train="a\\0b"',
        'model.checkpoint="a\\0b"',
        'data.clean.val={beton: "a\\0b", quality: 3}',
    ],
)
def test_a_number_or_a_path_beyond_any_use_is_refused_with_its_field(change: str, tmp_path: Path) -> None:
    RECIPE.write_text(yaml.safe_dump(tiny_tree(tmp_path)))
    field = change.partition("=")[0].partition(".data")[0]
    with pytest.raises(RecipeError, match=rf"^recipe\.yaml:\n  {field}"):
        load_recipe(RECIPE, [change])


def test_more_data_sets_than_a_byte_can_number_are_refused(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path)
    names = [f"set{number}" for number in range(300)]
    tree["data"] |= dict.fromkeys(names, tree["data"]["clean"])
    tree["curriculum"][0]["data"] = dict.fromkeys(names, 1)
    RECIPE.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError, match="at most 255 items"):
        load_recipe(RECIPE)


def test_the_largest_recipe_can_be_written_and_read_back(tmp_path: Path) -> None:
    """A run's own recipe.yaml has every default of every phase, and must be within the limits of what is read."""
    tree = tiny_tree(tmp_path)
    augment = {"policy": "rand-m9-mstd0.5-inc1", "erase": 0.25}
    tree["curriculum"] = [
        {"data": {"clean": 1.0, "q50": {"start": 0.1, "end": 0.9}}, "until_epoch": 20 * number, "size": 64, "augment": augment}
        for number in range(1, MOST_PHASES + 1)
    ]
    RECIPE.write_text(yaml.safe_dump(tree))
    recipe = load_recipe(RECIPE)
    assert len(plan_epochs(recipe)) == recipe.epochs == MOST_EPOCHS
    Path("resolved.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(Path("resolved.yaml")) == recipe
    assert Path("resolved.yaml").stat().st_size < MOST_BYTES
