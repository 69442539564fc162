"""One YAML file is one run: read, checked whole, and every default written down.

Errors name every wrong field with its dotted path, all at once, and the nearest right name for a key that is unknown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from jpegcurr.errors import RecipeError, did_you_mean
from jpegcurr.recipe import Recipe


def find_recipe(name: Path) -> Path:
    """Return ``name`` if it is a file; else the shipped recipe of that bare name; else raise RecipeError."""
    if name.is_file():
        return name
    shipped = {path.name: path for folder in _shipped_folders() for path in sorted(folder.glob("*.yaml"))}
    if name.parent == Path() and name.name in shipped:
        return shipped[name.name]
    raise RecipeError(f"{name} does not exist.{did_you_mean(name.name, list(shipped))} Shipped recipes: {', '.join(shipped)}.")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``a.b=value`` overrides (values are YAML), and check it.

    Raises:
        RecipeError: the file is not YAML, or a field is unknown, missing or wrong; every such field is named.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it holds no keys.")
    for override in overrides:
        _apply(tree, override)
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}:\n" + "\n".join(_explain(error))) from None


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.0.c=value`` in the parsed YAML; list positions count from 0."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r} is not of the form key.subkey=value.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is not YAML: {error}") from None
    node: Any = tree
    *parents, last = key.split(".")
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise RecipeError(f"--set {override!r}: the recipe has no place {key}.") from None


def _explain(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"] if not str(part).startswith("<"))
        if item["type"] == "extra_forbidden":
            lines.append(f"  {path}: unknown key.{did_you_mean(str(item['loc'][-1]), _siblings(item['loc']))}")
        elif item["type"] == "value_error":
            lines.append(f"  {path + ': ' if path else ''}{item['ctx']['error']}")
        else:
            lines.append(f"  {path}: {item['msg']}")
    return list(dict.fromkeys(lines))


def _siblings(location: Sequence[int | str]) -> list[str]:
    """The right keys at the place of a wrong one."""
    section: type[BaseModel] = Recipe
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            inner = _section_in(section.model_fields[part].annotation)
            section = inner or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _section_in(argument))), None)


def _shipped_folders() -> list[Path]:
    """``jpegcurr/recipes`` in an installed wheel; ``recipes`` beside the package in a checkout."""
    package = Path(__file__).parent
    return [folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir()]
