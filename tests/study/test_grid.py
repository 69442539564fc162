"""The arms of a grid: the product of its values, by names that do not depend on the order of the file."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import PHASES, command, write_study

from jpegcurr.errors import RecipeError
from jpegcurr.study.config import load_study
from jpegcurr.study.folder import describe_design

GRID = {"schedule.lr": ["1e-4", "3e-4", 1e-3], "optim.weight_decay": [0.05, 0.1]}
CONTROL = "lr=1e-4,weight_decay=0.05"


def test_a_grid_is_the_study_that_lists_its_arms(betons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = load_study(write_study(betons, arms=None, fork=None, grid=GRID, control=CONTROL))
    listed = {
        f"lr={rate},weight_decay={decay}": {"set": [f"schedule.lr={rate}", f"optim.weight_decay={decay}"]}
        for rate in ("1e-4", "3e-4", "0.001")
        for decay in ("0.05", "0.1")
    }
    written = load_study(write_study(betons, arms=listed, fork=None, control=CONTROL))
    assert grid.arms == written.arms
    assert len(grid.arms) == 6
    assert describe_design(grid) == describe_design(written)
    rates = {recipe.schedule.lr for recipe in grid.recipes.values()}
    assert rates == {1e-4, 3e-4, 1e-3}
    write_study(betons, arms=None, fork=None, grid=dict(reversed(GRID.items())), control=CONTROL)
    assert {*load_study(Path("small.yaml")).arms} == {*grid.arms}, "in any order of the fields"
    assert command("study small.yaml --plan --images-per-second 100 --device cpu --json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert (cost["arms"], cost["runs"], cost["comparisons"]) == (6, 12, 5)
    single, corrected = cost["detectable"]
    assert corrected > 2 * single, "at a fifth of the level"


def test_values_that_are_no_names_get_names_and_forks_are_shared_within_a_grid(betons: Path) -> None:
    curricula = {name: yaml.safe_load(PHASES.format("clean", last)) for name, last in (("clean", "clean"), ("swap", "q50"))}
    grid = {"curriculum": curricula, "augment.erase": [0.0, 0.5]}
    study = load_study(write_study(betons, arms=None, grid=grid, control="curriculum=clean,erase=0.0"))
    assert [set(trunk.arms) for trunk in study.trunks] == [
        {"curriculum=clean,erase=0.0", "curriculum=swap,erase=0.0"},
        {"curriculum=clean,erase=0.5", "curriculum=swap,erase=0.5"},
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"grid": {"schedule.lr": ["1e-4", 0.0001]}, "control": "lr=1e-4"},
            r"line \d+: grid: lr=0.0001: its recipe is the same as that of lr=1e-4",
        ),
        ({"grid": {"schedule.lr": [0.1, 0.1]}}, r"line \d+: grid.schedule.lr: 0.1 is listed twice"),
        (
            {"grid": {"schedule.lrr": [0.1, 0.2]}, "control": "lrr=0.1"},
            r"(?s)grid: lrr=0.1: .*schedule.lrr: unknown key. Did you mean 'lr'",
        ),
        ({"grid": {"seed": [1, 2]}}, "grid.seed: it cannot set the seed"),
        ({"grid": {"augment.erase": [[1, 2]]}}, r"grid.augment.erase: \[1, 2\] cannot stand in the name of an arm. Give a map"),
        ({"grid": {"schedule.lr": 3}}, "grid.schedule.lr: give a list of values, or a map of names and values"),
        ({"grid": {"schedule.lr": [0.1]}}, "grid: a study compares two arms at least, and has 1"),
        ({"grid": {f"augment.{n}": [*range(200)] for n in range(10)}}, r"grid: [\d,]+ arms, where 256 are allowed"),
        ({"grid": {"schedule.lr": [0.1, 0.2]}, "control": "lr=0.3"}, r"control: no arm 'lr=0.3'\. Did you mean 'lr="),
        (
            {"grid": {"schedule.lr": [0.1, 0.2]}, "fork": {"epoch": 2}},
            r"grid: lr=0.1: it shares its first 2 epochs with no other arm.* name it under arms, with fork: false",
        ),
    ],
)
def test_a_mistake_in_a_grid_is_one_sentence(betons: Path, changes: dict[str, Any], message: str) -> None:
    path = write_study(betons, arms=None, **{"control": "lr=0.1", "fork": None, **changes})
    with pytest.raises(RecipeError, match=message):
        load_study(path)


def test_an_arm_that_a_grid_has_too_is_refused(betons: Path) -> None:
    named = {"lr=0.1": {"set": ["schedule.lr=0.3"]}}
    path = write_study(betons, arms=named, fork=None, grid={"schedule.lr": [0.1, 0.2]}, control="lr=0.1")
    with pytest.raises(RecipeError, match=r"arms.lr=0.1: the grid has an arm of that name"):
        load_study(path)
