"""A study as it is written: one recipe, arms that change it, seeds, what is measured, and the outcome fixed in advance."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, model_validator

from jpegcurr.errors import RecipeError, UsageError, did_you_mean
from jpegcurr.recipe.loading import find_recipe, find_study, in_its_line, load_checked, load_recipe
from jpegcurr.recipe.schema import PathOrOnTheFly, Positive, Recipe, Section, split_on_the_fly
from jpegcurr.study.fork import Trunk, share_trunks
from jpegcurr.training.checks import check_recipe

StudyWeights = Literal["raw", "ema"]


def _as_overrides(value: Any) -> Any:
    """A map as what would stand after ``--set``: inner maps are merged into the recipe's, lists replace its own."""
    return tuple(_flat(value)) if isinstance(value, Mapping) else value


def _flat(tree: Mapping[Any, Any], place: str = "") -> list[str]:
    lines = []
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{place}{key}.")
        else:
            lines.append(f"{place}{key}={yaml.safe_dump(value, default_flow_style=True, width=1 << 20)}")
    return lines


Overrides = Annotated[tuple[str, ...], BeforeValidator(_as_overrides)]
# Arms and sets are folders' and files' names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Arm(Section):
    """What is changed for this arm: ``set`` is a list as after ``--set``, ``[schedule.lr=1e-3]``, or a map.

    With ``fork: false`` it runs whole where other arms share their first epochs.
    """

    overrides: Overrides = Field((), alias="set")
    fork: bool = True


class Fork(Section):
    """Arms whose first ``epoch`` epochs are the same share one run of them per seed."""

    epoch: Positive


class Primary(Section):
    """The one outcome that the verdict is about: top-1 of ``weights`` on the validation set ``data``, after the last epoch."""

    data: str
    weights: StudyWeights
    metric: Literal["top1"] = "top1"


class StudyFile(Section):
    """A whole study.

    ``recipe`` is the base: a file, sought beside this one, then like ``train --recipe``; ``set`` changes it for all arms.
    ``evaluate`` names the validation sets of the matrix, each a beton or ``{beton: PATH, quality: 50}``; left out, they are
    the recipe's own.
    """

    recipe: Path
    overrides: Overrides = Field((), alias="set")
    arms: Annotated[dict[Name, Arm], Field(min_length=2)]
    control: str
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)] = (0,)
    evaluate: dict[Name, PathOrOnTheFly] = Field(default_factory=dict)
    primary: Primary
    fork: Fork | None = None

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.control not in self.arms:
            raise ValueError(f"control: no arm {self.control!r}.{did_you_mean(self.control, self.arms)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is there twice, which is one run and not two")
        for place, overrides in [("", self.overrides), *((f"arms.{name}.", arm.overrides) for name, arm in self.arms.items())]:
            if any(each.partition("=")[0].strip() == "seed" for each in overrides):
                raise ValueError(f"{place}set: the seed is not an arm's: give seeds, which every arm has")
        if self.fork is None:
            for name in [name for name, arm in self.arms.items() if not arm.fork]:
                raise ValueError(f"arms.{name}.fork: false does nothing in a study without fork: leave it away")
        return self


@dataclass(frozen=True, slots=True)
class Study:
    """A study that can be run: every arm's recipe, settled, and the trunks that arms share.

    ``evaluate`` are the sets of the matrix by name; ``recipes`` have the first seed, ``recipe`` gives any.
    """

    path: Path
    plan: StudyFile
    recipes: dict[str, Recipe]
    evaluate: dict[str, PathOrOnTheFly]
    trunks: tuple[Trunk, ...]

    @property
    def name(self) -> str:
        """The file's, without its ending."""
        return self.path.stem

    @property
    def arms(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(self.recipes)

    @property
    def seeds(self) -> tuple[int, ...]:
        """In the order of the file."""
        return self.plan.seeds

    @property
    def comparisons(self) -> int:
        """Arms that are held against the control."""
        return len(self.recipes) - 1

    def recipe(self, arm: str, seed: int) -> Recipe:
        """What this arm trains with ``seed``."""
        return self.recipes[arm].model_copy(update={"seed": seed})

    def trunk(self, arm: str) -> Trunk | None:
        """What the arm shares with others, if anything."""
        return next((trunk for trunk in self.trunks if arm in trunk.arms), None)


def load_study(name: Path) -> Study:
    """Read a study's YAML, or a shipped study of that bare name, and settle every arm's recipe.

    Raises:
        RecipeError: the file, or an arm's recipe, has an unknown, missing or wrong field; two arms are the same; or an arm
            that is to fork shares its first epochs with no other.
    """
    path = find_study(name)
    plan = load_checked(path, StudyFile)
    beside = path.parent / plan.recipe
    base = beside if beside.is_file() else find_recipe(plan.recipe)
    try:
        recipes = {arm: _settle(arm, base, plan) for arm in plan.arms}
        _check_different(recipes)
        evaluate = _sets(plan, recipes)
        forks = {arm: recipes[arm] for arm, each in plan.arms.items() if each.fork}
        trunks = share_trunks(forks, plan.control, plan.fork.epoch) if plan.fork else ()
    except RecipeError as error:
        raise RecipeError(in_its_line(str(error), path)) from None
    return Study(path, plan, recipes, evaluate, trunks)


def check_arms(study: Study, only: Iterable[str] = ()) -> None:
    """Raise UsageError for an arm in ``only`` that is none, RecipeError for whatever training would refuse before it begins."""
    for arm in only:
        if arm not in study.recipes:
            raise UsageError(
                f"--only {arm}: no such arm.{did_you_mean(arm, study.arms)} The study has {', '.join(study.arms)}."
            )
    for arm, recipe in study.recipes.items():
        try:
            check_recipe(recipe, start=True)
        except UsageError as error:
            raise RecipeError(in_its_line(f"arms.{arm}: {error}", study.path)) from None


def _settle(arm: str, base: Path, plan: StudyFile) -> Recipe:
    overrides = (*plan.overrides, *plan.arms[arm].overrides, f"seed={plan.seeds[0]}")
    try:
        return load_recipe(base, overrides)
    except RecipeError as error:
        raise RecipeError(f"arms.{arm}: {error}") from None


def _check_different(recipes: Mapping[str, Recipe]) -> None:
    arms = list(recipes)
    for number, arm in enumerate(arms):
        for other in arms[:number]:
            if recipes[other] == recipes[arm]:
                raise RecipeError(f"arms.{arm}: it is the same as {other}, seed by seed: leave one away.")


def _sets(plan: StudyFile, recipes: Mapping[str, Recipe]) -> dict[str, PathOrOnTheFly]:
    control = recipes[plan.control]
    sets = dict(plan.evaluate) or {name: val for name in control.evaluate if (val := control.data[name].val) is not None}
    if not sets:
        raise RecipeError("evaluate: neither the study nor its recipe names a validation set. Give one: {clean: val.beton}.")
    if plan.primary.data not in sets:
        hint = did_you_mean(plan.primary.data, sets)
        raise RecipeError(f"primary.data: no validation set {plan.primary.data!r}.{hint} evaluate has: {', '.join(sets)}.")
    for name, used in sets.items():
        path, on_the_fly = split_on_the_fly(used)
        if on_the_fly is not None and not on_the_fly.fixed:
            raise RecipeError(f"evaluate.{name}.quality: it is not one number, and a measurement has to be repeatable.")
        if not path.exists() and path not in _made(recipes.values()):
            raise RecipeError(f"evaluate.{name}: {path} does not exist, and no arm's recipe makes it. Encode it first.")
    return sets


def _made(recipes: Iterable[Recipe]) -> set[Path]:
    """The betons that training makes if they are missing: those that it evaluates."""
    return {split_on_the_fly(val)[0] for each in recipes for name in each.evaluate if (val := each.data[name].val) is not None}
