"""JSON files that may be anyone's: read within bounds of size, depth and number, and checked by a pydantic model.

``json.loads`` alone trusts its input: brackets nested a hundred thousand deep end in a RecursionError, a number of many digits
in a ValueError that names no file, and a list where a map is expected in whatever the caller does with it next. The files that
jpegcurr reads back come through here, and each has a model beside the code that knows it. Models ignore unknown fields: a file
may be of a later version, or have fields of another program (timm's ``config.json`` has many).
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.text import sanitize

Model = TypeVar("Model", bound=BaseModel)

# Limits, far above what jpegcurr writes: a million class names are 20 MB and a million values.
MOST_BYTES = 64 << 20
MOST_VALUES = 1 << 22  # each takes about 70 bytes of memory
MOST_LINE_BYTES = 1 << 20
MOST_DIGITS = 100
DEPTH = 50  # lists and maps within one another
_LONGEST_REASON = 200  # characters


def read_json(path: Path, model: type[Model], *, complaint: str, remedy: str, error: type[JpegcurrError] = UsageError) -> Model:
    """Read a JSON file as a ``model``.

    Args:
        path: the file.
        model: its fields; others are ignored unless the model keeps them.
        complaint: the error's verb and object: ``cannot be read as a study's``.
        remedy: a sentence that says the way out.
        error: the class of the error.

    Raises:
        JpegcurrError, of the class ``error``: the file is missing, too large, too deep, no JSON, or not as ``model`` says. The
            message is ``PATH COMPLAINT (REASON). REMEDY``.
    """
    return model.model_validate(read_json_map(path, model, complaint=complaint, remedy=remedy, error=error))


def read_json_map(
    path: Path, model: type[BaseModel], *, complaint: str, remedy: str, error: type[JpegcurrError] = UsageError
) -> dict[str, Any]:
    """Read a JSON file that ``model`` accepts, as it stands there, to be written again; as ``read_json`` in all else."""
    try:
        content: dict[str, Any] = parse_json(read_bounded(path))
        model.model_validate(content)
        return content
    except ValueError as problem:
        raise error(f"{path} {complaint} ({describe(problem)}). {remedy}") from None


def read_json_lines(
    path: Path, row: TypeAdapter[Any], *, complaint: str, remedy: str, error: type[JpegcurrError] = UsageError
) -> Iterator[dict[str, Any]]:
    """Yield every line of a file of JSON lines, as it stands there, if ``row`` accepts it without converting anything.

    The other arguments and the errors are those of ``read_json``, and errors name the line.
    """
    number = 0
    try:
        if not path.is_file():
            raise ValueError("it is missing, or not a file")
        with path.open("rb") as file:
            while line := file.readline(MOST_LINE_BYTES + 1):
                number += 1
                yield parse_line(line, row)
    except (ValueError, OSError) as problem:
        where = f"line {number}: " if number else ""
        raise error(f"{path} {complaint} ({where}{describe(problem)}). {remedy}") from None


def parse_line(line: bytes, row: TypeAdapter[Any]) -> dict[str, Any]:
    """Parse one JSON line; raise ValueError, see ``describe``, if it is too long, no JSON, or not as ``row`` says."""
    if len(line) > MOST_LINE_BYTES:
        raise ValueError(f"it is longer than {MOST_LINE_BYTES:,} bytes")
    value: dict[str, Any] = parse_json(line)
    row.validate_python(value, strict=True)
    return value


def read_bounded(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a file; raise ValueError if it is missing, no file, cannot be read, or larger than ``most`` bytes."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            raise ValueError("it is missing, or not a file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(data) > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    return data


def parse_json(data: bytes) -> Any:
    """Parse JSON within the limits of this module; raise ValueError, see ``describe``, for anything else."""
    if sum(map(data.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    try:
        value = json.loads(data, parse_int=_parse_int)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} deep") from None
    _check_depth(value)
    return value


def parse_fields(data: bytes, fields: Collection[str]) -> Any:
    """Parse JSON of any size, keeping only these fields of every map, so that its memory does not grow with the others.

    Raises ValueError, see ``describe``, for what is no JSON, or nested deeper than the parser can go.
    """

    def keep(content: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in content.items() if name in fields}

    try:
        return json.loads(data, parse_int=_parse_int, object_hook=keep)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def describe(problem: Exception) -> str:
    """Return the reason of an error that a function of this module raised, in one short printable line."""
    text = str(problem)
    if isinstance(problem, ValidationError):
        first = problem.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        text = f"{field}: {first['msg']}" if field else first["msg"]
    elif isinstance(problem, UnicodeDecodeError):
        text = "it is not UTF-8"
    elif isinstance(problem, json.JSONDecodeError):
        text = f"it is not JSON: {problem.msg}, line {problem.lineno} column {problem.colno}"
    elif isinstance(problem, OSError):
        text = problem.strerror or text
    return sanitize(text.encode("utf-8", "replace").decode())[:_LONGEST_REASON]


def _parse_int(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {DEPTH} deep")
