"""Files that a stranger could have written: JSON and YAML that is none, is of another shape, or is far too much."""

import json
from collections.abc import Callable
from typing import Any

import pytest

# Contents that no model accepts, whatever file they are in.
JSON = {
    "nothing": b"",
    "a list": b"[]",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"3",
    "an empty map": b"{}",
    "half": b'{"id": "x"',
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "deep lists": b"[" * 200_000,
    "deep maps": b'{"a":' * 200_000,
    "deep in a field": b'{"data": ' + b"[" * 500 + b"]" * 500 + b"}",
    "6000 digits": b'{"images": ' + b"9" * 6000 + b"}",
    "a million lists": b"[" + b"[]," * 3_000_000 + b"[]]",
}
YAML = {
    "nothing": "",
    "a list": "[]",
    "a number": "3",
    "NUL": "\0",
    "deep lists": "[" * 100_000,
    "deep blocks": "- " * 3000 + "x",
    "deep and closed": "[" * 90 + "]" * 90,
    "6000 digits": "seed: " + "9" * 6000,
    "6000 digits of base 60": "seed: " + ":".join(["1"] * 3000),
    "a long text": "model: " + "x" * 10_000,
    "a large file": "# " + "x" * 600_000,
    "many wrong keys": "{" + ",".join(f"k{number}: 1" for number in range(2000)) + "}",
    "an alias of itself": "model: &a [*a]",
    "a key that is a list": "? [a]\n: 1",
    "a boolean that is none": "seed: !!bool maybe",
    "a time that is none": "seed: !!timestamp x",
    "an object": "!!python/object/apply:os.system [false]",
}


def multiplied(kind: Callable[[str], str], levels: int = 12) -> str:
    """Return YAML whose aliases stand for 9 to the power of ``levels`` values; ``kind`` makes a value of a list of aliases."""
    lines = ["a0: &a0 {x: 1}"]
    return "\n".join([*lines, *(f"a{n}: &a{n} " + kind(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, levels))])


YAML["aliases that multiply"] = multiplied(lambda aliases: f"[{aliases}]")
YAML["merges that multiply"] = multiplied(lambda aliases: f"{{<<: [{aliases}]}}")
YAML["aliases that are deep"] = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 300))])


def each(contents: dict[str, Any]) -> list[Any]:
    return [pytest.param(content, id=name) for name, content in contents.items()]


def changed(text: str | bytes, **fields: Any) -> bytes:
    """Return JSON with some fields replaced; ``a__b`` is field b of a."""
    tree = json.loads(text)
    for path, value in fields.items():
        *parents, last = path.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[last] = value
    return json.dumps(tree).encode()
