"""The study file: one recipe, the arms that change it, the seeds, the validation sets and the primary outcome."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from jpegcurr.errors import RecipeError, UsageError, did_you_mean
from jpegcurr.recipe.loading import add_line_number, find_recipe, find_study, load_arm, load_checked
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import (
    MOST_SETS,
    FilePath,
    PathOrOnTheFly,
    Positive,
    Section,
    TrainedWeights,
    ValResize,
    split_on_the_fly,
)
from jpegcurr.study.fork import Trunk, share_trunks
from jpegcurr.study.grid import Grid, count_arms, expand, format_value
from jpegcurr.training.checks import check_recipe

# Every arm resolves a recipe of its own, and every pair of arms is compared.
MOST_ARMS, MOST_SEEDS = 256, 1000


def _to_overrides(value: Any) -> Any:
    """Return a map as the arguments of ``--set``: inner maps are merged into the recipe's, lists replace them."""
    return tuple(_flatten(value)) if isinstance(value, Mapping) else value


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            lines += _flatten(value, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}={format_value(value)}")
    return lines


Overrides = Annotated[tuple[str, ...], BeforeValidator(_to_overrides)]
# Names of arms and validation sets become names of folders and files.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
ARM_NAME, LONGEST_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.=,+-]*$", 200  # as a grid gives them
ArmName = Annotated[str, Field(pattern=ARM_NAME, max_length=LONGEST_NAME)]


class Arm(Section):
    """One arm: ``set`` changes the recipe, as a list like the arguments of ``--set``, ``[schedule.lr=1e-3]``, or as a map.

    ``fork: false`` trains the arm from its first epoch, even if other arms share theirs.
    """

    overrides: Overrides = Field((), alias="set")
    fork: bool = True


class Fork(Section):
    """The epoch of the fork: arms whose first ``epoch`` epochs are the same train them once per seed."""

    epoch: Positive


class Primary(Section):
    """The outcome that the verdict is about: top-1 of ``weights`` on the validation set ``data``, after the last epoch."""

    data: str
    weights: TrainedWeights
    metric: Literal["top1"] = "top1"


class StudyConfig(Section):
    """The content of a study file.

    ``recipe`` is the base recipe: a file, searched first beside the study file, then as for ``train --recipe``. ``set`` changes
    it for all arms. ``arms`` names the arms; ``grid`` adds one for every combination of its fields' values, see
    ``grid.expand``. ``evaluate`` names the validation sets of the matrix, each a beton or ``{beton: PATH, quality: 50}``; by
    default they are the recipe's own.
    """

    recipe: FilePath
    overrides: Overrides = Field((), alias="set")
    arms: Annotated[dict[ArmName, Arm], Field(max_length=MOST_ARMS)] = Field(default_factory=dict)
    grid: Grid = Field(default_factory=dict)
    control: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1, max_length=MOST_SEEDS)] = (0,)
    evaluate: Annotated[dict[Name, PathOrOnTheFly], Field(max_length=MOST_SETS)] = Field(default_factory=dict)
    primary: Primary
    fork: Fork | None = None

    @cached_property
    def all_arms(self) -> dict[str, Arm]:
        """The arms, those of the grid after those that are named."""
        return self.arms | {name: Arm.model_validate({"set": values}) for name, values in expand(self.grid).items()}

    def place(self, arm: str) -> str:
        """Return where the file has an arm, as the beginning of an error: ``arms.clean``, or ``grid: lr=0.1``."""
        return f"arms.{arm}" if arm in self.arms else f"grid: {arm}"

    @model_validator(mode="after")
    def _check_consistent(self) -> Self:
        check_number_of_arms(self.arms, self.grid)
        if "seed" in self.grid:
            raise ValueError("grid.seed: it cannot set the seed. All arms have the same seeds: list them under seeds.")
        if self.control not in self.all_arms:
            raise ValueError(f"control: no arm {self.control!r}.{suggest_arm(self.control, self.all_arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: a seed is listed twice. Equal seeds give equal runs: list each seed once.")
        for place, overrides in [("", self.overrides), *((f"arms.{name}.", arm.overrides) for name, arm in self.arms.items())]:
            if any(override.partition("=")[0].strip() == "seed" for override in overrides):
                raise ValueError(f"{place}set: it cannot set the seed. All arms have the same seeds: list them under seeds.")
        if self.fork is None:
            for name in [name for name, arm in self.arms.items() if not arm.fork]:
                raise ValueError(f"arms.{name}.fork: false has no effect in a study without fork. Remove it.")
        return self


def check_number_of_arms(arms: Mapping[str, Any], grid: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError if there are too few or too many ``arms`` with those of the ``grid``, or two of one name."""
    field, number = "grid" if grid else "arms", len(arms) + count_arms(grid)
    if number < 2:
        raise ValueError(f"{field}: a study compares two arms at least, and has {number}. Name them in arms, or give a grid.")
    if number > MOST_ARMS:
        raise ValueError(f"{field}: {number:,} arms, where {MOST_ARMS} are allowed. Give fewer values.")
    names = expand(grid)
    if twice := next((name for name in names if name in arms), None):
        raise ValueError(f"arms.{twice}: the grid has an arm of that name. Remove one of the two.")
    if unfit := next((name for name in names if not re.fullmatch(ARM_NAME, name) or len(name) > LONGEST_NAME), None):
        raise ValueError(
            f"grid: {unfit!r} cannot be the name of a folder: it has other characters than letters, digits and _ . = , + -, or "
            f"more than {LONGEST_NAME}. Give a map: a shorter name for every value."
        )


def suggest_arm(name: str, arms: Iterable[str]) -> str:
    """Return a space and a sentence that names the arm most like ``name``, or else the first ones."""
    known = list(arms)
    more = f" and {len(known) - 8} more" if len(known) > 8 else ""
    return did_you_mean(name, known) or f" There are: {', '.join(known[:8])}{more}."


@dataclass(frozen=True, slots=True)
class Study:
    """A study that can be run.

    Attributes:
        path: the study file.
        config: its content.
        recipes: the resolved recipe of every arm, with the first seed; ``recipe`` returns it for any seed.
        evaluate: the validation sets of the matrix by name.
        trunks: the first epochs that arms share.
    """

    path: Path
    config: StudyConfig
    recipes: dict[str, Recipe]
    evaluate: dict[str, PathOrOnTheFly]
    trunks: tuple[Trunk, ...]

    @property
    def name(self) -> str:
        """The name of the file without its suffix."""
        return self.path.stem

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, in the order of the file."""
        return tuple(self.recipes)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the file."""
        return self.config.seeds

    @property
    def comparisons(self) -> int:
        """The number of arms that are compared with the control."""
        return len(self.recipes) - 1

    def recipe(self, arm: str, seed: int) -> Recipe:
        """Return the recipe of an arm with ``seed``."""
        return self.recipes[arm].model_copy(update={"seed": seed})

    def trunk(self, arm: str) -> Trunk | None:
        """Return the trunk that the arm shares with others, or None."""
        return next((trunk for trunk in self.trunks if arm in trunk.arms), None)


def load_study(name: Path, val_resize: ValResize | None = None, *, encoded: bool = True) -> Study:
    """Read a study file, or the shipped study of that bare name, and resolve the recipe of every arm.

    ``val_resize`` is how a study that has begun validates (see ``folder.validates_by``), where its recipes do not say it.
    Unless ``encoded``, validation files need not exist, as in a plan.

    Raises:
        RecipeError: the file or the recipe of an arm has an unknown, missing or wrong field; two arms are the same; or an arm
            shares its first epochs with no other arm and does not have ``fork: false``.
    """
    path = find_study(name)
    config = load_checked(path, StudyConfig)
    base = find_recipe(config.recipe, beside=path.parent)
    try:
        resolved = {arm: _resolve_arm(arm, base, config, val_resize) for arm in config.all_arms}
        recipes = {arm: recipe for arm, (recipe, _) in resolved.items()}
        _check_data_used(base, resolved.values())
        _check_different(config, recipes)
        _check_primary_weights(config, recipes)
        evaluate = _resolve_sets(config, recipes, encoded=encoded)
        forking = {name: recipes[name] for name, arm in config.all_arms.items() if arm.fork}
        trunks = share_trunks(forking, config.control, config.fork.epoch, config.place) if config.fork else ()
    except RecipeError as error:
        raise RecipeError(add_line_number(str(error), path)) from None
    return Study(path, config, recipes, evaluate, trunks)


def check_arms(study: Study, only: Iterable[str] = ()) -> None:
    """Raise UsageError if ``only`` names an unknown arm, and RecipeError if training would refuse the recipe of an arm."""
    for arm in only:
        if arm not in study.recipes:
            raise UsageError(
                f"--only {arm}: no such arm.{did_you_mean(arm, study.arms)} The study has {', '.join(study.arms)}."
            )
    for arm, recipe in study.recipes.items():
        try:
            check_recipe(recipe, start=True)
        except UsageError as error:
            raise RecipeError(add_line_number(f"{study.config.place(arm)}: {error}", study.path)) from None


def _resolve_arm(arm: str, base: Path, config: StudyConfig, val_resize: ValResize | None) -> tuple[Recipe, frozenset[str]]:
    """Return the recipe of an arm, and the data sets that it has no use for."""
    overrides = (*config.overrides, *config.all_arms[arm].overrides, f"seed={config.seeds[0]}")
    try:
        recipe, unused = load_arm(base, overrides)
    except RecipeError as error:
        raise RecipeError(f"{config.place(arm)}: {error}") from None
    return recipe.validating_by(val_resize) if val_resize else recipe, unused


def _check_data_used(base: Path, resolved: Iterable[tuple[Recipe, frozenset[str]]]) -> None:
    used, unused = set[str](), dict[str, None]()
    for recipe, omitted in resolved:
        used |= recipe.data.keys()
        unused |= dict.fromkeys(sorted(omitted))
    if never := next((name for name in unused if name not in used), None):
        raise RecipeError(f"{base}: data.{never} is used in no arm: name it in a phase or in evaluate, or omit it")


def _check_different(config: StudyConfig, recipes: Mapping[str, Recipe]) -> None:
    arms = list(recipes)
    for number, arm in enumerate(arms):
        for other in arms[:number]:
            if recipes[other] == recipes[arm]:
                raise RecipeError(
                    f"{config.place(arm)}: its recipe is the same as that of {other}. Remove one of the two arms."
                )


def _check_primary_weights(config: StudyConfig, recipes: Mapping[str, Recipe]) -> None:
    weights = config.primary.weights
    if without := next((arm for arm, recipe in recipes.items() if weights not in recipe.weights), None):
        arm = f"arms.{without}" if without in config.arms else f"the grid's {without}"
        raise RecipeError(
            f"primary.weights: {weights}, but {arm} keeps no average of its weights. Compare raw weights, or give the "
            "arm an average (ema: {decay: 0.9999} in set)."
        )


def _resolve_sets(config: StudyConfig, recipes: Mapping[str, Recipe], *, encoded: bool) -> dict[str, PathOrOnTheFly]:
    control = recipes[config.control]
    sets = dict(config.evaluate) or {name: val for name in control.evaluate if (val := control.data[name].val) is not None}
    if not sets:
        raise RecipeError("evaluate: neither the study nor its recipe names a validation set. Give one: {clean: val.beton}.")
    if config.primary.data not in sets:
        hint = did_you_mean(config.primary.data, sets)
        raise RecipeError(f"primary.data: no validation set {config.primary.data!r}.{hint} evaluate has: {', '.join(sets)}.")
    for name, source in sets.items():
        path, on_the_fly = split_on_the_fly(source)
        if on_the_fly is not None and not on_the_fly.fixed:
            raise RecipeError(f"evaluate.{name}.quality: give a single number, so that the measurement can be repeated.")
        if encoded and not path.exists() and path not in _encoded_by_training(recipes.values()):
            raise RecipeError(f"evaluate.{name}: {path} does not exist, and no arm's recipe encodes it. Encode it first.")
    return sets


def _encoded_by_training(recipes: Iterable[Recipe]) -> set[Path]:
    """Return the validation betons that training encodes if they are missing: those that a recipe evaluates."""
    return {
        split_on_the_fly(val)[0] for recipe in recipes for name in recipe.evaluate if (val := recipe.data[name].val) is not None
    }
