"""Recipes from YAML files: shipped names, ``--set`` overrides, and errors with line numbers.

An error lists all wrong fields at once, each with its line and dotted path, and for an unknown key the nearest right name.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from jpegcurr.errors import RecipeError, did_you_mean
from jpegcurr.json_files import read_bounded
from jpegcurr.recipe.fields import explain_word, is_field
from jpegcurr.recipe.former import fill_former
from jpegcurr.recipe.other_words import OF_SECTION
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.wrong_values import describe_wrong

Model = TypeVar("Model", bound=BaseModel)
FieldPath = tuple[str, ...]

# Limits of a file, far above any recipe: the longest that jpegcurr writes, of a thousand phases, has 400 kB and 60,000 nodes.
MOST_BYTES = 1 << 19
MOST_NODES = 100_000  # an alias counts as often as it is used
MOST_CHARACTERS = 4096  # of a key or a value
MOST_DIGITS = 64
DEPTH = 50  # lists and maps within one another
_MOST_EXPLAINED = 50  # wrong fields in one message
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def find_recipe(name: str | Path, beside: Path = Path()) -> Path:
    """Return the file of a recipe that is given by its path or, if it is a shipped one, by its bare name.

    The suffix ``.yaml`` may be omitted: ``small_data``. A file of one's own comes before a shipped recipe. ``beside`` is the
    folder that a relative path is tried in before the current one.

    Raises:
        RecipeError: there is no such file; the message names the nearest shipped recipes.
    """
    return _find(Path(name), shipped_recipes(), "recipe", beside)


def find_study(name: str | Path) -> Path:
    """Return the file of a study by its path or, if it is a shipped one, by its bare name, as ``find_recipe`` does."""
    return _find(Path(name), shipped_studies(), "study", Path())


def shipped_recipes() -> dict[str, Path]:
    """Return the files of the shipped recipes by name, such as ``small_data``, in alphabetical order."""
    return _shipped("*.yaml")


def shipped_studies() -> dict[str, Path]:
    """Return the files of the shipped studies by name, in alphabetical order."""
    return _shipped("studies/*.yaml")


def _shipped(pattern: str) -> dict[str, Path]:
    return {path.stem: path for folder in _shipped_folders() for path in sorted(folder.glob(pattern))}


def _find(name: Path, shipped: Mapping[str, Path], kind: str, beside: Path) -> Path:
    for path in (folder / f"{name}{suffix}" for folder in (beside, Path()) for suffix in ("", ".yaml", ".yml")):
        if _is_file(path):
            return path
    bare = name.name.removesuffix(".yaml")
    if name.parent == Path() and bare in shipped:
        return shipped[bare]
    if _is_file(name / "recipe.yaml"):
        raise RecipeError(f"{name} is the folder of a run. Give the file of its recipe: {name / 'recipe.yaml'}.")
    every = "`jpegcurr recipe --list` lists those." if kind == "recipe" else f"Shipped: {', '.join(shipped)}."
    hint = did_you_mean(bare, shipped, most=3) or f" {every}"
    raise RecipeError(f"{name} does not exist, neither as a file nor as a shipped {kind}.{hint}")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # a Path would raise for a name that no file can have


def _shipped_folders() -> list[Path]:
    """Return ``jpegcurr/recipes`` in an installed wheel, ``recipes`` beside the package in a checkout."""
    package = Path(__file__).parent.parent
    return [folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir()]


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a YAML recipe, apply ``a.b=value`` overrides (values are YAML), and check it.

    ``path`` is a file, or the name of a shipped recipe: see ``find_recipe``.

    Raises:
        RecipeError: there is no such file and no shipped recipe of that name, the file is not YAML, or a field is unknown,
            missing or wrong; the message names every such field.
    """
    if isinstance(overrides, str):  # whose characters would be taken for overrides
        overrides = (overrides,)
    return load_checked(find_recipe(path), Recipe, overrides)


def load_arm(path: Path, overrides: Sequence[str]) -> tuple[Recipe, frozenset[str]]:
    """Read the base recipe of a study with an arm's ``overrides``, and omit the data sets that only other arms use.

    Returns the recipe and the names of the data sets that were omitted.

    Raises:
        RecipeError: as ``load_recipe`` does.
    """
    tree, lines = _read(path, overrides)
    data = tree.get("data")
    if not isinstance(data, dict):
        return _validate(path, Recipe, tree, lines), frozenset()
    used = _used_sets(tree)
    kept = {name: section for name, section in data.items() if name in used}
    omitted = frozenset(data.keys() - kept.keys()) if kept else frozenset()  # without any, the recipe's own error is better
    if omitted:
        tree = tree | {"data": kept}
    return _validate(path, Recipe, tree, lines), omitted


def _used_sets(tree: Mapping[str, Any]) -> set[Any]:
    """Return the names in ``curriculum`` and ``evaluate`` of a recipe that is not checked yet."""
    phases, evaluate = tree.get("curriculum"), tree.get("evaluate")
    data = [phase.get("data") for phase in phases if isinstance(phase, dict)] if isinstance(phases, list) else []
    lists = [
        *(list(names) if isinstance(names, dict) else [names] for names in data),
        evaluate if isinstance(evaluate, list) else [],
    ]
    return {name for names in lists for name in names if isinstance(name, str)}


def load_resolved(path: Path) -> Recipe:
    """Read the ``recipe.yaml`` of a run, which states every field; one that an earlier version wrote has those of ``former``.

    Raises:
        RecipeError: as ``load_recipe`` does.
    """
    tree, lines = _read(path, ())
    return _validate(path, Recipe, fill_former(tree), lines)


def read_tree(path: Path) -> dict[str, Any]:
    """Return the plain values of a YAML recipe as they stand in the file; raise RecipeError if it is not YAML."""
    return _read(path, ())[0]


def load_checked(path: Path, model: type[Model], overrides: Sequence[str] = ()) -> Model:
    """Read a YAML file as any ``model``, in the same way and with the same errors as ``load_recipe``."""
    tree, lines = _read(path, overrides)
    return _validate(path, model, tree, lines)


def _validate(path: Path, model: type[Model], tree: dict[str, Any], lines: Mapping[FieldPath, int]) -> Model:
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
        tree, node = parse_yaml(read_bounded(path, MOST_BYTES).decode())
        lines = dict(_find_lines(node))
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} is not a recipe: it has no keys.")
    for override in overrides:
        _apply(tree, override)
        changed = tuple(override.partition("=")[0].split("."))
        lines = {field: line for field, line in lines.items() if field[: len(changed)] != changed} | {changed: 0}
    return tree, lines


def parse_yaml(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the value of a YAML document and its node; None and None for an empty one.

    Before a value is made, the size of the document is checked, with every alias counted as often as it is used: ten lines of
    aliases of aliases stand for more nodes than a memory holds.

    Raises:
        ValueError, YAMLError: it is not YAML, or not within the limits of this module.
    """
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, None
        _measure(node, {})
        return loader.construct_document(node), node
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} deep") from None
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:  # PyYAML's own, for `!!bool maybe` and the like
        raise ValueError(f"a value does not fit its type ({error!r})") from None
    finally:
        loader.dispose()


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Return the number of nodes of ``node``, itself included, and how deep they are nested; raise YAMLError beyond a limit.

    ``known`` holds both of other nodes by identity, and zeros for those that are not finished.
    """
    count, height = known.get(id(node), (1, 1))
    if not count:
        raise yaml.MarkedYAMLError(problem="an alias contains itself", problem_mark=node.start_mark)
    problem = ""
    if isinstance(node, yaml.ScalarNode):
        most = MOST_DIGITS if node.tag in _NUMBERS else MOST_CHARACTERS
        if len(node.value) > most:
            problem = f"a value of {len(node.value)} characters, where {most} are allowed"
    elif id(node) not in known and depth < DEPTH:
        known[id(node)] = 0, 0
        for inner in chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value:
            more, below = _measure(inner, known, depth + 1)
            count, height = min(count + more, MOST_NODES + 1), max(height, below + 1)
    known[id(node)] = count, height
    if depth + height > DEPTH:
        problem = f"it is nested more than {DEPTH} deep"
    if count > MOST_NODES:
        problem = f"more than {MOST_NODES} values, where an alias counts as often as it is used"
    if problem:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return count, height


def _find_lines(node: yaml.Node | None, parent: FieldPath = ()) -> Iterator[tuple[FieldPath, int]]:
    """Yield every field below ``node`` with its line, counted from 1; raise YAMLError for a key that occurs twice."""
    children: list[tuple[object, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.SequenceNode):
        children = [(number, value, value) for number, value in enumerate(node.value)]
    elif isinstance(node, yaml.MappingNode):
        children = [(key.value, key, value) for key, value in node.value]
        names: set[str] = set()
        for name, start, _ in children:
            if str(name) in names:
                problem = f"the key {'.'.join((*parent, str(name)))} occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=start.start_mark)
            names.add(str(name))
    for name, start, value in children:
        yield (*parent, str(name)), start.start_mark.line + 1
        yield from _find_lines(value, (*parent, str(name)))


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set ``a.b.0.c=value`` in the parsed YAML; list positions count from 0."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {override!r} is not of the form key.subkey=value.")
    try:
        value, _ = parse_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        raise RecipeError(f"--set {override!r}: the value is not YAML: {error}") from None
    node: Any = tree
    *parents, last = key.split(".")
    try:
        for part in parents:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}  # also where the file has null, such as ``ema: null``
            node = node[int(part)] if isinstance(node, list) else node[part]
        if isinstance(node, list):
            node[int(last)] = value
        else:
            node[last] = value
    except (ValueError, IndexError, TypeError, AttributeError):
        raise RecipeError(f"--set {override!r}: the recipe has no field {key}.") from None


def _explain(error: ValidationError, model: type[BaseModel], tree: dict[str, Any], lines: Mapping[FieldPath, int]) -> list[str]:
    """Return a line of text for every wrong field of the file."""
    messages: dict[str, list[str]] = {}
    values: dict[str, object] = {}
    items = error.errors(include_url=False)
    for item in items[:_MOST_EXPLAINED]:
        has_inner = any(other["loc"][: len(item["loc"])] == item["loc"] != other["loc"] for other in items)
        if item["type"] != "too_short" or not has_inner:  # pydantic counts only the valid elements
            field = _field_prefix(item, tree)
            messages.setdefault(field, []).append(_describe(item, model))
            values.setdefault(field, item["input"])
    explanations = (f"{field}{describe_wrong(list(dict.fromkeys(texts)), values[field])}" for field, texts in messages.items())
    more = [f"  and {len(items) - _MOST_EXPLAINED} more"] if len(items) > _MOST_EXPLAINED else []
    return [f"  {_line_prefix(text, lines)}{text}" for text in explanations] + more


def _line_prefix(message: str, lines: Mapping[FieldPath, int]) -> str:
    """Return ``line 7: `` if ``message`` begins with a field of the file, and nothing if that field was overridden (line 0)."""
    named = (field for field in lines if message.startswith(f"{'.'.join(field)}:"))  # a name may have spaces and dots
    field = max(named, key=len, default=tuple(message.split(maxsplit=1)[0].rstrip(":").split(".")))
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
    if model is Recipe and (clause := _explain_place(item)):
        return clause
    if item["type"] == "extra_forbidden":
        return f"unknown key.{did_you_mean(str(item['loc'][-1]), _sibling_keys(item['loc'], model))}"
    if item["type"] == "value_error":
        return str(item["ctx"]["error"])
    if item["type"] == "union_tag_invalid":
        kinds = item["ctx"]["expected_tags"].replace("'", "").replace(", ", " or ")
        return f"is {item['ctx']['tag']} and should be {kinds}"
    return item["msg"]


def _explain_place(item: ErrorDetails) -> str:
    """Return where a recipe has what an unknown key names, or a value that is given for a whole section; empty if unknown."""
    location = [str(part) for part in item["loc"]]
    if item["type"] == "extra_forbidden":
        inner = [str(key) for key in item["input"]] if isinstance(item["input"], dict) else []
        near = get_close_matches(location[-1], Recipe.model_fields, n=1)
        if any(is_field(f"{section}.{key}") for section in near for key in inner):  # a section whose name is misspelt
            return ""
        places = [*([*location, key] for key in inner), location]
        clause = next(filter(None, map(explain_word, places)), "")
        return f"unknown key: {clause}" if clause else ""
    if item["type"] in ("model_type", "dict_type", "tuple_type") and len(location) == 1 and location[0] in OF_SECTION:
        return f"is a {'list' if item['type'] == 'tuple_type' else 'map of fields'}: {OF_SECTION[location[0]]}"
    return ""


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
