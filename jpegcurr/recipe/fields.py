"""The fields of a recipe as a list for people and programs: place, values, default and meaning, all taken from ``schema``."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.recipe import other_words
from jpegcurr.recipe.schema import Recipe
from jpegcurr.text import join_words

# A place of a field within a list or a map of names: NAME is that of a data set, N the number of a phase, counted from 0.
_PLACEHOLDERS = {"data": "NAME", "curriculum": "N"}
_AS_OTHERS = ("curriculum.N.augment", "data.NAME.val")  # whose own fields are those of augment, and of data.NAME.train
_UNLIMITED = 1e9  # a maximum that only keeps a number finite is not worth a word
_BOUNDS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a recipe.

    Attributes:
        place: the dotted path, as ``--set`` takes it: ``optim.weight_decay``, ``curriculum.N.lr``.
        required: whether a recipe has to state it.
        default: the plain value if it is not stated; None if it is required, or if the default is null.
        values: what it may be, in words.
        bounds: limits of its number, by their names in JSON Schema; empty for other values and for more than one number.
        meaning: what it decides, in sentences.
    """

    place: str
    required: bool
    default: Any
    values: str
    bounds: Mapping[str, float]
    meaning: str

    @property
    def section(self) -> str:
        """The first part of the place."""
        return self.place.partition(".")[0]

    @property
    def default_text(self) -> str:
        """The default as YAML; empty for a required field."""
        return "" if self.required else _flow(self.default)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        return {**asdict(self), "section": self.section}


@cache
def all_fields() -> tuple[Field, ...]:
    """Return every field, in the order of the schema."""
    root = Recipe.model_json_schema()
    return tuple(_walk(Recipe, "", root, root["$defs"]))


@cache
def section_meanings() -> dict[str, str]:
    """Return what every section is about, by its name; a field without fields of its own is no section."""
    meanings = {}
    for name, info in Recipe.model_fields.items():
        if section := _section_of(info.annotation):
            meanings[name] = _prose(_summary(section))
    return meanings


def is_field(place: str) -> bool:
    """Return whether a recipe has this field; NAME and N stand for themselves."""
    return any(field.place == place for field in all_fields())


def find_fields(place: str) -> list[Field]:
    """Return the fields of a section, at a place, or of a name that fields of any section have; raise UsageError if none.

    ``curriculum.1.lr`` and ``data.clean.train`` are the places of ``curriculum.N.lr`` and ``data.NAME.train``.
    """
    wanted = place.strip(".").split(".")
    exact = [field for field in all_fields() if _matches(field.place.split("."), wanted)]
    named = [field for field in all_fields() if field.place.rpartition(".")[2] == place]
    if matching := exact or named:
        return matching
    clause = explain_word(wanted)
    known = [*section_meanings(), *dict.fromkeys(name for field in all_fields() for name in (field.place, _leaf(field.place)))]
    hint = f": {clause}." if clause else f".{did_you_mean(place, known, most=3)} `jpegcurr recipe` lists all."
    raise UsageError(f"A recipe has no section or field {place!r}{hint}")


def explain_word(location: Sequence[str]) -> str:
    """Return where a recipe has what an unknown key at ``location`` names, as a clause; an empty string if that is not known.

    ``other_words`` knows it, or it is the name of a field of other sections.
    """
    word = location[-1].lower().replace("-", "_")
    tables = [other_words.ANYWHERE]
    if location[0] == "curriculum" and len(location) > 1:
        tables.insert(0, other_words.IN_PHASE)
    if location[0] == "data" and len(location) > 2:
        tables.insert(0, other_words.IN_DATA)
    if clause := next((clause for table in tables for clause, words in table.items() if word in words.split()), ""):
        return _with_names(clause, location)
    others = [field.place for field in all_fields() if _leaf(field.place) == word]
    return f"{word} is {join_words(others)}" if others and len(others) <= 3 else ""


def _with_names(clause: str, location: Sequence[str]) -> str:
    """Return a clause with the phase or the data set of ``location`` in place of N or NAME, if it lies in one."""
    section = location[0]
    if section in _PLACEHOLDERS and len(location) > 2:
        return clause.replace(f"{section}.{_PLACEHOLDERS[section]}", f"{section}.{location[1]}")
    return clause


def _leaf(place: str) -> str:
    return place.rpartition(".")[2]


def _matches(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether a field's place is, or begins with, what is wanted; a placeholder is whatever stands for it."""
    if len(wanted) > len(parts):
        return False
    pairs = zip(parts, wanted, strict=False)
    return all(part == want or part == "NAME" or (part == "N" and want.isdecimal()) for part, want in pairs)


def _walk(model: type[BaseModel], prefix: str, schema: Mapping[str, Any], types: Mapping[str, Any]) -> Iterator[Field]:
    """Yield the fields of a section and of the sections within it."""
    meanings = _meanings(model)
    for name, info in model.model_fields.items():
        place, inner = prefix + name, _section_of(info.annotation)
        shape = schema["properties"][name]
        whole = not _is_section(info)  # it may also be one value, or null
        if inner is None or whole:
            meaning = meanings[name] or (_prose(_summary(inner)) if inner is not None else _prose(_summary(model)))
            yield Field(place, info.is_required(), _default(info, shape), _values(shape, types), _bounds(shape), meaning)
        if inner is not None and place not in _AS_OTHERS:
            start = f"{place}.{_PLACEHOLDERS[name]}." if name in _PLACEHOLDERS and not prefix else f"{place}."
            yield from _walk(inner, start, types[inner.__name__], types)


def _is_section(info: FieldInfo) -> bool:
    """Return whether the only value that a field takes is a section, or a list or map of them."""
    kinds = [get_origin(info.annotation) or info.annotation]
    arguments = [argument for argument in get_args(info.annotation) if argument is not Ellipsis]
    named = kinds[0] in (dict, tuple) and _section_of(arguments[-1]) is not None
    return named or (isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel))


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section within an annotation; None for a plain value, or a ramp, which is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return None if annotation.__name__ == "Ramp" else annotation
    return next((section for argument in get_args(annotation) if (section := _section_of(argument))), None)


def _doc(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "")


def _summary(model: type[BaseModel]) -> str:
    return _doc(model).partition("Attributes:")[0]


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return the paragraphs of ``Attributes`` by field; empty for a field without one."""
    attributes = _doc(model).partition("Attributes:\n")[2]
    meanings = dict.fromkeys(model.model_fields, "")
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*?)(?=^    \w|\Z)", attributes, re.MULTILINE | re.DOTALL):
        meanings |= dict.fromkeys(names.split(", "), _prose(text))
    return meanings


def _prose(text: str) -> str:
    """Return a docstring's text as one paragraph in YAML's words."""
    return re.sub(r"\bNone\b", "null", " ".join(text.replace("``", "`").split()))


def _default(info: FieldInfo, shape: Mapping[str, Any]) -> Any:
    """Return the plain default of a field, such as a list for a tuple."""
    default = shape.get("default", info.get_default())
    return None if info.is_required() else default


def _flow(value: Any) -> str:
    return str(yaml.safe_dump(value, default_flow_style=True, width=1000)).removesuffix("\n").removesuffix("\n...")


def _bounds(shape: Mapping[str, Any]) -> dict[str, float]:
    numbers = [part for part in (shape, *shape.get("anyOf", ())) if part.get("type") in ("integer", "number")]
    return {name: numbers[0][name] for name in _BOUNDS if name in numbers[0]} if len(numbers) == 1 else {}


def _values(shape: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    """Return in words what a JSON schema allows."""
    if choices := [_values(part, types) for key in ("anyOf", "oneOf") for part in shape.get(key, ())]:
        others = " or ".join(choice for choice in choices if choice != "null")
        return f"{others}, or null" if "null" in choices else others
    if "$ref" in shape:
        properties = types[shape["$ref"].rpartition("/")[2]]["properties"]
        return f"{{{', '.join(properties)}}}"
    if "enum" in shape or "const" in shape:
        return " or ".join(map(str, shape.get("enum", [shape.get("const")])))
    kind = shape.get("type")
    if kind == "array":
        parts = [_values(part, types) for part in shape.get("prefixItems", ())]
        return f"list of {len(parts)} x {parts[0]}" if parts else f"list of {_values(shape['items'], types)}"
    if kind == "object":
        return f"{{name: {_values(shape['additionalProperties'], types)}}}"
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'} {_range(shape)}".rstrip()
    words = {"null": "null", "boolean": "true or false", "string": "path" if shape.get("format") == "path" else "text"}
    return words[str(kind)]


def _range(shape: Mapping[str, Any]) -> str:
    low, above, high, below = (shape.get(name) for name in _BOUNDS)
    if low is not None and high is not None and high < _UNLIMITED:
        return f"{low:g} to {high:,.10g}"
    starts = f"from {low:g}" if low is not None else f"above {above:g}" if above is not None else ""
    ends = f"to {high:,.10g}" if high is not None and high < _UNLIMITED else f"below {below:,.10g}" if below is not None else ""
    return " and ".join(filter(None, (starts, ends)))
