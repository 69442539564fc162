"""Recipes from YAML files: shipped names, ``--set`` overrides, and errors with line numbers.

An error lists all wrong fields at once, each with its line and dotted path, and for an unknown key the nearest right name.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jpegcurr.errors import RecipeError, did_you_mean
from jpegcurr.recipe.schema import Recipe

Model = TypeVar("Model", bound=BaseModel)
FieldPath = tuple[str, ...]


def find_recipe(name: Path) -> Path:
    """Return ``name`` if it is a file, else the path of the shipped recipe of that name; raise RecipeError if there is none."""
    return _find(name, "*.yaml", "recipes")


def find_study(name: Path) -> Path:
    """Return ``name`` if it is a file, else the path of the shipped study of that name; raise RecipeError if there is none."""
    return _find(name, "studies/*.yaml", "studies")


def _find(name: Path, pattern: str, kind: str) -> Path:
    if name.is_file():
        return name
    shipped = {path.name: path for folder in _shipped_folders() for path in sorted(folder.glob(pattern))}
    if name.parent == Path() and name.name in shipped:
        return shipped[name.name]
    raise RecipeError(f"{name} does not exist.{did_you_mean(name.name, list(shipped))} Shipped {kind}: {', '.join(shipped)}.")


def _shipped_folders() -> list[Path]:
    """Return ``jpegcurr/recipes`` in an installed wheel, ``recipes`` beside the package in a checkout."""
    package = Path(__file__).parent.parent
    return [folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir()]


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``a.b=value`` overrides (values are YAML), and check it.

    Raises:
        RecipeError: the file is not YAML, or a field is unknown, missing or wrong; the message names every such field.
    """
    return load_checked(path, Recipe, overrides)


def load_checked(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file as any ``model``, in the same way and with the same errors as ``load_recipe``."""
    return _check(path, model, *_read(path, overrides))


def load_recorded(path: Path) -> Recipe:
    """Read the resolved recipe that a run recorded in its folder, as that run understood it; errors as ``load_recipe``."""
    tree, lines = _read(path, ())
    return _check(path, Recipe, complete_recorded(tree), lines)


def complete_recorded(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded recipe with the fields that its version did not have, set to what that version did.

    Recipes are recorded with every field, so one that lacks a field is older than the field: its default today is no answer.
    """
    image = tree.get("image") or {}
    return tree | {"image": {"val_resize": "box"} | image} if isinstance(image, dict) else tree


def _check(path: Path, model: type[Model], tree: dict[str, Any], lines: Mapping[FieldPath, int]) -> Model:
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{path}:\n" + "\n".join(_explain(error, model, tree, lines))) from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, every default included; ``load_recipe`` reads it as the same recipe."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def add_line_number(message: str, path: Path, overrides: Sequence[str] = ()) -> str:
    """Put the file and the line before a ``message`` that begins with a field of the file; return any other unchanged."""
    _, lines = _read(path, overrides)
    line = _line_prefix(message, lines)
    return f"{path}, {line}{message}" if line else message


def _read(path: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[FieldPath, int]]:
    """Return the parsed file with the overrides applied, and the line of every field (0 if overridden); raise RecipeError."""
    try:
        text = path.read_text(encoding="utf-8")
        tree, lines = yaml.safe_load(text), dict(_find_lines(yaml.compose(text, yaml.SafeLoader)))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it has no keys.")
    for override in overrides:
        _apply(tree, override)
        changed = tuple(override.partition("=")[0].split("."))
        lines = {field: line for field, line in lines.items() if field[: len(changed)] != changed} | {changed: 0}
    return tree, lines


def _find_lines(node: yaml.Node | None, parent: FieldPath = ()) -> Iterator[tuple[FieldPath, int]]:
    """Yield every field below ``node`` with its line, counted from 1; raise YAMLError for a key that occurs twice."""
    children: list[tuple[object, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        children = [(number, value, value) for number, value in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value]
        for number, (name, start, _) in enumerate(children):
            if name in [other for other, *_ in children[:number]]:
                problem = f"the key {'.'.join((*parent, str(name)))} occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=start.start_mark)
    for name, start, value in children:
        yield (*parent, str(name)), start.start_mark.line + 1
        yield from _find_lines(value, (*parent, str(name)))


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
        raise RecipeError(f"--set {override!r}: the recipe has no field {key}.") from None


def _explain(error: ValidationError, model: type[BaseModel], tree: dict[str, Any], lines: Mapping[FieldPath, int]) -> list[str]:
    """Return a line of text for every wrong field of the file."""
    messages: dict[str, list[str]] = {}
    items = error.errors(include_url=False)
    for item in items:
        has_inner = any(other["loc"][: len(item["loc"])] == item["loc"] != other["loc"] for other in items)
        if item["type"] != "too_short" or not has_inner:  # pydantic counts only the valid elements
            messages.setdefault(_field_prefix(item, tree), []).append(_describe(item, model))
    explanations = (f"{field}{_join_alternatives(list(dict.fromkeys(texts)))}" for field, texts in messages.items())
    return [f"  {_line_prefix(text, lines)}{text}" for text in explanations]


def _line_prefix(message: str, lines: Mapping[FieldPath, int]) -> str:
    """Return ``line 7: `` if ``message`` begins with a field of the file, and nothing if that field was overridden (line 0)."""
    field = tuple(message.split(maxsplit=1)[0].rstrip(":").split("."))
    line = next((lines[field[:end]] for end in range(len(field), 0, -1) if field[:end] in lines), 0)
    return f"line {line}: " if line else ""


def _field_prefix(item: ErrorDetails, tree: Any) -> str:
    """Return ``a.b.0: ``, as --set would write it, without the names that pydantic gives to the members of a union."""
    parts = []
    for part in item["loc"]:
        if part in tree if isinstance(tree, dict) else isinstance(tree, list) and part in range(len(tree)):
            tree = tree[part]
            parts.append(str(part))
    if item["type"] == "missing":
        parts.append(str(item["loc"][-1]))
    return ".".join(parts) + ": " if parts else ""


def _describe(item: ErrorDetails, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        return f"unknown key.{did_you_mean(str(item['loc'][-1]), _sibling_keys(item['loc'], model))}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "union_tag_invalid":
        kinds = item["ctx"]["expected_tags"].replace("'", "").replace(", ", " or ")
        return f"is {item['ctx']['tag']} and should be {kinds}"
    return item["msg"]


def _join_alternatives(messages: Sequence[str]) -> str:
    """Join pydantic's messages about one value, one for each type that it may have, into one sentence."""
    return ", or ".join([messages[0], *(message.removeprefix("Input should be ") for message in messages[1:])])


def _sibling_keys(location: Sequence[int | str], section: type[BaseModel]) -> list[str]:
    """Return the valid keys at the place of an unknown one in ``section``."""
    for part in location[:-1]:
        if isinstance(part, str) and part in section.model_fields:
            section = _find_section(section.model_fields[part].annotation) or section
    return [field.alias or name for name, field in section.model_fields.items()]


def _find_section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((section for argument in get_args(annotation) if (section := _find_section(argument))), None)
