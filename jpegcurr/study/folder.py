"""The design lock of a study's folder: ``study.json`` records the design, and a changed study file may only add to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.files import locked, refuse_unwritable, write_json
from jpegcurr.json_files import describe, read_json, read_json_map
from jpegcurr.recipe.former import fill_former
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import OnTheFlyJpeg, ValResize, split_on_the_fly
from jpegcurr.study.config import Study
from jpegcurr.training.run_folder import describe_changes

SCHEMA_VERSION = 1
STUDY = "study.json"
LOCK = ".study.lock"
# Fields that do not change what a run learns, and the seed, which differs between the runs of an arm.
_FREE = {"seed", "loader", "tracking", "save", "evaluate", "data"}
# Version 0.1 wrote the stage of an on-the-fly JPEG as "where", with these values.
_STAGES_BEFORE = {"stored": "before_crop", "view": "after_resize"}


_COMPLAINT, _REMEDY = "cannot be read as a study's", "Choose another folder with --out."


class _Design(BaseModel):
    """The part of a design that a changed study file is compared with; ``arms`` are recipes."""

    control: str
    primary: dict[str, Any]
    seeds: list[int]
    evaluate: dict[str, dict[str, Any]]
    arms: dict[str, dict[str, Any]]


class _StudyFile(BaseModel):
    """The part of ``study.json`` that jpegcurr reads; the results in it are kept as they are."""

    design: _Design


@contextmanager
def locked_study(out: Path) -> Iterator[None]:
    """Hold the lock of a study's folder during the block; its workers, which train into its runs, hold theirs.

    Raises:
        UsageError: another process runs a study in ``out``, or ``out`` cannot be written to.
    """
    refuse_unwritable([out], option="--out")
    with locked(out / LOCK, out, doing="run", option="--out"):
        yield


def describe_design(study: Study) -> dict[str, Any]:
    """Return what is fixed before a study runs, as plain values for ``study.json``."""
    config = study.config
    return {
        "recipe": str(config.recipe),
        "control": config.control,
        "primary": config.primary.model_dump(mode="json"),
        "seeds": list(study.seeds),
        "fork": config.fork.epoch if config.fork else None,
        "trunks": {trunk.name: list(trunk.arms) for trunk in study.trunks},
        "evaluate": {name: _describe_set(source) for name, source in study.evaluate.items()},
        "arms": {arm: recipe.model_dump(mode="json") for arm, recipe in study.recipes.items()},
    }


def _describe_set(source: Path | OnTheFlyJpeg) -> dict[str, Any]:
    path, on_the_fly = split_on_the_fly(source)
    return {"beton": str(path), "quality": on_the_fly.quality if on_the_fly else None, "stage": on_the_fly and on_the_fly.stage}


def write_design(study: Study, out: Path) -> None:
    """Write the design of ``study`` to ``study.json`` before the next task; results that the file holds are kept."""
    path = out / STUDY
    content = read_json_map(path, _StudyFile, complaint=_COMPLAINT, remedy=_REMEDY) if path.is_file() else {}
    write_json(path, {**content, "schema_version": SCHEMA_VERSION, "name": study.name, "design": describe_design(study)})


def validates_by(out: Path) -> ValResize | None:
    """Return ``image.val_resize`` of the control of the study in ``out``; None if there is no study yet.

    All of its arms keep it unless they name it, also new ones, so that all runs are measured in the same way.
    """
    if not (out / STUDY).is_file():
        return None
    design = _read_design(out)
    recipe: Recipe | None = design["arms"].get(design["control"])
    return recipe.image.val_resize if recipe else None


def check_folder(study: Study, out: Path) -> None:
    """Check that ``study`` may continue in ``out``: it may add seeds, arms and sets, but change nothing that has results.

    Raises:
        UsageError: ``out`` is not a study's folder, or the study file changes what is fixed in advance.
        RecipeError: an arm with runs in ``out`` has another recipe now.
    """
    if not (out / STUDY).is_file():
        if out.exists() and (not out.is_dir() or any(path.name != LOCK for path in out.iterdir())):
            raise UsageError(f"{out} exists and is not a study. Choose another folder with --out.")
        return
    before = _read_design(out)
    now = describe_design(study)
    with_runs = {arm for arm in before["arms"] if any((out / "runs" / arm).glob("seed-*"))}
    for arm in sorted(with_runs & study.recipes.keys()):
        if changes := describe_changes(_learnt_part(before["arms"][arm]), _learnt_part(study.recipes[arm])):
            lines = "".join(f"\n  {change}" for change in changes)
            raise RecipeError(
                f"arms.{arm}: it has runs in {out} that were trained with another recipe. Keep it as it was and add the "
                f"changed arm under another name, or start another study with --out.{lines}"
            )
    measured = dict(_measured_seeds(out))
    for complaint in _complaints(before, now, measured):
        raise UsageError(f"{complaint} {out} has results already: undo the change, or start another study with --out.")


def _complaints(before: dict[str, Any], now: dict[str, Any], measured: dict[str, set[int]]) -> Iterator[str]:
    """Yield a sentence for every change that is not allowed once there are results."""
    if not measured:
        return
    for key in ("control", "primary"):
        if before[key] != now[key]:
            yield f"{key} was {_format(before[key])} when this study began, and is {_format(now[key])}: it is fixed in advance."
    for name, was in before["evaluate"].items():
        if now["evaluate"].get(name, was) != was:
            yield f"evaluate.{name} was {_format(was)}, and is {_format(now['evaluate'][name])}."
    for arm, seeds in measured.items():
        if arm in before["arms"] and arm not in now["arms"]:
            yield (
                f"arms.{arm} has results and is no longer in the study file: with fewer comparisons the other arms would look "
                "more certain than they are."
            )
        for seed in sorted(seeds & set(before["seeds"]) - set(now["seeds"])):
            yield f"seeds: {seed} has results and is no longer in the study file: seeds must not be chosen by their results."


def _measured_seeds(out: Path) -> Iterator[tuple[str, set[int]]]:
    """Yield every arm with outcomes, and its seeds."""
    for arm in sorted(out.glob("outcomes/*")):
        if seeds := {int(path.name.removeprefix("seed-")) for path in arm.glob("seed-*") if any(path.glob("*.npz"))}:
            yield arm.name, seeds


def _learnt_part(recipe: Recipe) -> dict[str, Any]:
    data = {name: recipe.data[name].model_dump(mode="json", exclude={"val"}) for name in recipe.training_sets}
    curriculum = {str(number): phase for number, phase in enumerate(recipe.model_dump(mode="json")["curriculum"])}
    return {**recipe.model_dump(mode="json", exclude=_FREE | {"curriculum"}), "data": data, "curriculum": curriculum}


def _read_design(out: Path) -> dict[str, Any]:
    file = read_json(out / STUDY, _StudyFile, complaint=_COMPLAINT, remedy=_REMEDY)
    design = _rename_stages(file.design.model_dump())
    try:
        return {**design, "arms": {arm: _read_recipe(recipe) for arm, recipe in design["arms"].items()}}
    except ValidationError as error:
        raise UsageError(f"{out / STUDY} {_COMPLAINT} ({describe(error)}). {_REMEDY}") from None


def _read_recipe(recorded: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(fill_former(recorded))


def _rename_stages(value: Any) -> Any:
    """Return a design with every on-the-fly JPEG in today's words, so that a study of version 0.1 continues."""
    if isinstance(value, list):
        return [_rename_stages(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"beton", "quality", "where"}:
        return {"beton": value["beton"], "quality": value["quality"], "stage": _STAGES_BEFORE.get(str(value["where"]))}
    return {key: _rename_stages(item) for key, item in value.items()}


def _format(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(item) for item in value.values() if item is not None)
    return str(value)
