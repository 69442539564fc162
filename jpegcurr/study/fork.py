"""Trunks, the first epochs that several arms share, and the fork that turns a trunk's run into the run of an arm."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from jpegcurr.errors import RecipeError
from jpegcurr.files import write_json, write_text
from jpegcurr.recipe.former import omit_former
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.recipe.schema import Recipe
from jpegcurr.training.curriculum import EpochPlan, plan_difference, plan_epochs
from jpegcurr.training.run_folder import STATE, describe_changes, fixed_part, locked_run
from jpegcurr.training.run_head import HEAD, read_whole_head


@dataclass(frozen=True, slots=True)
class Trunk:
    """The first ``epoch`` epochs of ``arms``. ``name`` depends on what is trained alone, so that later arms can share it."""

    name: str
    epoch: int
    arms: tuple[str, ...]


def share_trunks(
    recipes: Mapping[str, Recipe], control: str, epoch: int, place: Callable[[str], str] = "arms.{}".format
) -> tuple[Trunk, ...]:
    """Group the arms whose first ``epoch`` epochs are the same; ``place`` returns where the study file has an arm.

    Raises:
        RecipeError: an arm shares them with no other, or ends before; it names the arm and the field.
    """
    groups: dict[str, list[str]] = {}
    for arm, recipe in recipes.items():
        if recipe.epochs <= epoch:
            ends = f"it ends at epoch {recipe.epochs}, which is not after fork.epoch, {epoch}"
            raise RecipeError(f"{place(arm)}: {ends}. {_unfork(place(arm))}.")
        groups.setdefault(_trunk_name(recipe, epoch), []).append(arm)
    if alone := [arms[0] for arms in groups.values() if len(arms) == 1]:
        raise RecipeError(f"{place(alone[0])}: {_explain_alone(alone[0], recipes, control, epoch, place)}")
    return tuple(Trunk(name, epoch, tuple(arms)) for name, arms in groups.items())


def _unfork(place: str) -> str:
    """Return how the arm at ``place`` trains from its first epoch."""
    return "Name it under arms, with fork: false" if place.startswith("grid") else "Give it fork: false"


def _explain_alone(arm: str, recipes: Mapping[str, Recipe], control: str, epoch: int, place: Callable[[str], str]) -> str:
    others = [name for name in recipes if name != arm]
    if not others:
        return "it is the only arm that forks, so that it can share no epochs. Remove fork from the study."
    other = control if control in others else others[0]
    change = describe_difference(recipes[other], recipes[arm], epoch)
    return (
        f"it shares its first {epoch} epochs with no other arm: compared with {other}, {change}. Make them equal. Or "
        f"let it train from its first epoch: {_unfork(place(arm)).lower()}."
    )


def describe_difference(reference: Recipe, recipe: Recipe, epoch: int) -> str:
    """Return the first field in which the first ``epoch`` epochs differ, and how; an empty string if they are the same."""
    was, now = _trunk_inputs(reference, epoch), _trunk_inputs(recipe, epoch)
    if changes := describe_changes(was["fixed"], now["fixed"]):
        return changes[0]
    for before, after in zip(plan_epochs(reference)[:epoch], plan_epochs(recipe)[:epoch], strict=True):
        if before != after:
            difference = plan_difference(before, after)
            return f"{difference}: let a phase of both arms end at the fork" if "other phases" in difference else difference
    return next(iter(describe_changes(was["data"], now["data"], "data")), "")


def _trunk_inputs(recipe: Recipe, epoch: int) -> dict[str, Any]:
    """Return everything that the first epochs depend on, except the seed."""
    plans = plan_epochs(recipe)[:epoch]
    names = sorted({name for plan in plans for name, _ in plan.shares})
    fixed = {name: value for name, value in fixed_part(recipe).items() if name != "seed"}
    data = {name: recipe.data[name].model_dump(mode="json", exclude={"val"}) for name in names}
    return {"fixed": fixed, "plans": [_as_dict(plan) for plan in plans], "data": data}


def _as_dict(plan: EpochPlan) -> dict[str, Any]:
    return asdict(plan) | {"augment": plan.augment.model_dump(mode="json")}


def _trunk_name(recipe: Recipe, epoch: int) -> str:
    inputs = _trunk_inputs(recipe, epoch)
    inputs["fixed"] = omit_former(inputs["fixed"])  # so that a trunk of an earlier version keeps its name
    text = json.dumps(inputs, sort_keys=True)
    return f"trunk-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def fork_run(trunk: Path, recipe: Recipe, out: Path) -> None:
    """Copy the run in ``trunk`` to ``out`` as a run of ``recipe`` that can be resumed.

    ``out`` appears whole or not at all. The copy has an id of its own, so that trackers list it as a run of its own.

    Raises:
        UsageError: another process trains into ``out``.
    """
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in ("metrics.jsonl", "summary.csv", STATE):
        shutil.copyfile(trunk / name, partial / name)
    if (trunk / "best").is_dir():
        shutil.copytree(trunk / "best", partial / "best")
    head = read_whole_head(trunk, f"Delete {trunk}, and the study trains it again.")
    write_json(partial / HEAD, head | {"id": uuid4().hex[:12]})
    write_text(partial / "recipe.yaml", dump_recipe(recipe))
    with locked_run(out):
        shutil.rmtree(out, ignore_errors=True)  # a run that was stopped before its first state
    partial.rename(out)
