"""One YAML file is one run: read, checked whole, and every default written down.

Errors name every wrong field with its line and dotted path, all at once, and the nearest right name for an unknown key.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jpegcurr.errors import RecipeError, did_you_mean
from jpegcurr.recipe.schema import Recipe

Checked = TypeVar("Checked", bound=BaseModel)


def find_recipe(name: Path) -> Path:
    """Return ``name`` if it is a file; else the shipped recipe of that bare name; else raise RecipeError."""
    return _find(name, "*.yaml", "recipes")


def find_study(name: Path) -> Path:
    """The same for a study."""
    return _find(name, "studies/*.yaml", "studies")


def _find(name: Path, pattern: str, what: str) -> Path:
    if name.is_file():
        return name
    shipped = {path.name: path for folder in _shipped_folders() for path in sorted(folder.glob(pattern))}
    if name.parent == Path() and name.name in shipped:
        return shipped[name.name]
    raise RecipeError(f"{name} does not exist.{did_you_mean(name.name, list(shipped))} Shipped {what}: {', '.join(shipped)}.")


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``a.b=value`` overrides (values are YAML), and check it.

    Raises:
        RecipeError: the file is not YAML, or a field is unknown, missing or wrong; every such field is named.
    """
    return load_checked(path, Recipe, overrides)


def load_checked(path: Path, model: type[Checked], overrides: Sequence[str] = ()) -> Checked:
    """The same for a YAML file of any ``model``."""
    tree, lines = _read(path, overrides)
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}:\n" + "\n".join(_explain(error, model, tree, lines))) from None


def in_its_line(message: str, path: Path, overrides: Sequence[str] = ()) -> str:
    """``message`` after the file and line of the place that it begins with, if that stands in the file."""
    _, lines = _read(path, overrides)
    line = _numbered(message, lines)
    return f"{path}, {line}{message}" if line else message


def _read(path: Path, overrides: Sequence[str]) -> "tuple[dict[str, Any], dict[Place, int]]":
    """What a file says with the overrides, and in which line each place stands (0: overridden). Raises RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
        tree, lines = yaml.safe_load(text), dict(_lines(yaml.compose(text, yaml.SafeLoader)))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it holds no keys.")
    for override in overrides:
        _apply(tree, override)
        changed = tuple(override.partition("=")[0].split("."))
        lines = {place: line for place, line in lines.items() if place[: len(changed)] != changed} | {changed: 0}
    return tree, lines


def dump_recipe(recipe: Recipe) -> str:
    """YAML with every default filled in; ``load_recipe`` gives the same recipe back."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


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


Place = tuple[str, ...]


def _lines(node: yaml.Node | None, place: Place = ()) -> Iterator[tuple[Place, int]]:
    """In which line each place of a YAML stands, the first being 1; raises YAMLError for a key that is there twice."""
    inner: list[tuple[object, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        inner = [(number, value, value) for number, value in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        inner = [(key.value, key, value) for key, value in node.value]
        for number, (name, start, _) in enumerate(inner):
            if name in [each for each, *_ in inner[:number]]:
                raise yaml.MarkedYAMLError(
                    problem=f"{'.'.join((*place, str(name)))} is there twice", problem_mark=start.start_mark
                )
    for name, start, value in inner:
        yield (*place, str(name)), start.start_mark.line + 1
        yield from _lines(value, (*place, str(name)))


def _explain(error: ValidationError, model: type[BaseModel], tree: dict[str, Any], lines: Mapping[Place, int]) -> list[str]:
    """A line for every place of the YAML that is wrong."""
    said: dict[str, list[str]] = {}
    items = error.errors(include_url=False)
    for item in items:
        within = any(other["loc"][: len(item["loc"])] == item["loc"] != other["loc"] for other in items)
        if item["type"] != "too_short" or not within:  # pydantic counts the elements that are right
            said.setdefault(_place(item, tree), []).append(_message(item, model))
    explained = (f"{place}{_joined(list(dict.fromkeys(messages)))}" for place, messages in said.items())
    return [f"  {_numbered(line, lines)}{line}" for line in explained]


def _numbered(explained: str, lines: Mapping[Place, int]) -> str:
    """``line 7: `` before what begins with a place of the file; nothing before one that was overridden, which is line 0."""
    place = tuple(explained.split(maxsplit=1)[0].rstrip(":").split("."))
    line = next((lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in lines), 0)
    return f"line {line}: " if line else ""


def _joined(messages: Sequence[str]) -> str:
    """Where a value could be one of several things, each complains."""
    return ", or ".join([messages[0], *(each.removeprefix("Input should be ") for each in messages[1:])])


def _place(item: ErrorDetails, tree: Any) -> str:
    """``a.b.0: ``, as it would be written after --set; without the names that pydantic gives to the members of a union."""
    parts = []
    for part in item["loc"]:
        there = part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree))
        if there:
            tree = tree[part]
            parts.append(str(part))
    if item["type"] == "missing":
        parts.append(str(item["loc"][-1]))
    return ".".join(parts) + ": " if parts else ""


def _message(item: ErrorDetails, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key.{did_you_mean(str(item['loc'][-1]), _siblings(item['loc'], model))}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "union_tag_invalid":
        kinds = item["ctx"]["expected_tags"].replace("'", "").replace(", ", " or ")
        return f"is {item['ctx']['tag']} and should be {kinds}"
    return item["msg"]


def _siblings(location: Sequence[int | str], section: type[BaseModel]) -> list[str]:
    """The right keys at the place of a wrong one in ``section``."""
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            inner = _section_in(section.model_fields[part].annotation)
            section = inner or section
    return [each.alias or name for name, each in section.model_fields.items()]


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for argument in get_args(annotation) if (found := _section_in(argument))), None)


def _shipped_folders() -> list[Path]:
    """``jpegcurr/recipes`` in an installed wheel; ``recipes`` beside the package in a checkout."""
    package = Path(__file__).parent.parent
    return [folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir()]
