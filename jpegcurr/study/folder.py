"""A study's folder: what was fixed when it began, and whether a changed file may go on in it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.recipe.schema import OnTheFlyJpeg, Recipe, split_on_the_fly
from jpegcurr.study.config import Study
from jpegcurr.training.run_folder import describe_changes

SCHEMA_VERSION = 1
STUDY = "study.json"
# What does not change what a run learns, and the seed, which is each run's own.
_FREE = {"seed", "loader", "tracking", "save", "evaluate", "data"}


def design(study: Study) -> dict[str, Any]:
    """What is fixed before a study runs, as plain values."""
    return {
        "recipe": str(study.plan.recipe),
        "control": study.plan.control,
        "primary": study.plan.primary.model_dump(mode="json"),
        "seeds": list(study.seeds),
        "fork": study.plan.fork.epoch if study.plan.fork else None,
        "trunks": {trunk.name: list(trunk.arms) for trunk in study.trunks},
        "evaluate": {name: _described(used) for name, used in study.evaluate.items()},
        "arms": {arm: recipe.model_dump(mode="json") for arm, recipe in study.recipes.items()},
    }


def _described(used: Path | OnTheFlyJpeg) -> dict[str, Any]:
    path, on_the_fly = split_on_the_fly(used)
    return {"beton": str(path), "quality": on_the_fly.quality if on_the_fly else None, "stage": on_the_fly and on_the_fly.stage}


def check_folder(study: Study, out: Path) -> None:
    """More seeds, arms and validation sets may come to what is in ``out``; what was run or measured stays as it was.

    Raises:
        UsageError: ``out`` is another's, or what was fixed in advance is not what it was.
        RecipeError: an arm that has runs has another recipe now.
    """
    if not (out / STUDY).is_file():
        if out.exists() and (not out.is_dir() or any(each.name != ".study.lock" for each in out.iterdir())):
            raise UsageError(f"{out} exists and is not a study. Choose another folder with --out.")
        return
    before = _read_design(out)
    now = design(study)
    begun = {arm for arm in before["arms"] if any((out / "runs" / arm).glob("seed-*"))}
    for arm in sorted(begun & study.recipes.keys()):
        if changes := describe_changes(_learnt(before["arms"][arm]), _learnt(study.recipes[arm])):
            lines = "".join(f"\n  {change}" for change in changes)
            raise RecipeError(
                f"arms.{arm}: it has runs in {out}, and its recipe is not theirs any more. Give what is changed "
                f"another name, or start another study with --out.{lines}"
            )
    measured = dict(_measured(out))
    for complaint in _complaints(before, now, measured):
        raise UsageError(f"{complaint} What was measured in {out} counts: undo the change, or start another study with --out.")


def _complaints(before: dict[str, Any], now: dict[str, Any], measured: dict[str, set[int]]) -> Iterator[str]:
    """What may not change any more once something was measured."""
    if not measured:
        return
    for key in ("control", "primary"):
        if before[key] != now[key]:
            yield f"{key} was {_short(before[key])} when this study began, and is {_short(now[key])}: it is fixed in advance."
    for name, was in before["evaluate"].items():
        if now["evaluate"].get(name, was) != was:
            yield f"evaluate.{name} was {_short(was)}, and is {_short(now['evaluate'][name])}."
    for arm, seeds in measured.items():
        if arm in before["arms"] and arm not in now["arms"]:
            yield f"arms.{arm} is gone, which has results: fewer comparisons would make the others look surer than they are."
        for seed in sorted(seeds & set(before["seeds"]) - set(now["seeds"])):
            yield f"seeds: {seed} is gone, which has results: seeds are not chosen by them."


def _measured(out: Path) -> Iterator[tuple[str, set[int]]]:
    """The arms with outcomes, and their seeds."""
    for arm in sorted(out.glob("outcomes/*")):
        if seeds := {int(each.name.removeprefix("seed-")) for each in arm.glob("seed-*") if any(each.glob("*.npz"))}:
            yield arm.name, seeds


def _learnt(recipe: Recipe) -> dict[str, Any]:
    data = {name: recipe.data[name].model_dump(mode="json", exclude={"val"}) for name in recipe.training_sets}
    curriculum = {str(number): each for number, each in enumerate(recipe.model_dump(mode="json")["curriculum"])}
    return {**recipe.model_dump(mode="json", exclude=_FREE | {"curriculum"}), "data": data, "curriculum": curriculum}


def _read_design(out: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads((out / STUDY).read_text(encoding="utf-8"))["design"]
        arms = {arm: Recipe.model_validate(each) for arm, each in known["arms"].items()}
        return {key: known[key] for key in ("control", "primary", "seeds", "evaluate")} | {"arms": arms}
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise UsageError(f"{out / STUDY} is not as a study leaves it ({error}). Choose another --out.") from None


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(each) for each in value.values() if each is not None)
    return str(value)
