"""The house's words: names are nouns of the field, and docstrings are sentences that are read once."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import jpegcurr

PACKAGE = Path(jpegcurr.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Words that say nothing of the thing that they name.
EMPTY = {"each", "found", "made", "said", "told", "several", "seen", "look", "looked", "figure", "figures"}
# Ways to begin a function's docstring without its verb.
NO_VERBS = {
    "What",
    "Whether",
    "How",
    "Which",
    "Where",
    "Who",
    "The",
    "A",
    "An",
    "All",
    "Of",
    "By",
    "In",
    "From",
    "As",
    "None",
    "Every",
    "Each",
}
PHRASES = re.compile(
    r"leave (it|them|one|some) away|leave --?[\w-]+ away|left away|held against|[Gg]o(es)? on with|gone on with|"
    r"[Ww]hat is made of|[Ww]hat makes of|[Hh]old (it|them|two|each|every) .{0,40}against|begun anew|stands? against"
)


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a file gives to something, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


def is_property(node: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def complaints(path: Path) -> list[str]:
    """Return a line for every name or sentence of a file that breaks the rules."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    lines = [f"{line}: the name {name!r}" for line, name in names(tree) if set(name.lower().strip("_").split("_")) & EMPTY]
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not is_property(node) and (doc := ast.get_docstring(node)):
            first = doc.split(maxsplit=1)[0].strip(".,:;")
            if first in NO_VERBS:
                lines.append(f"{node.lineno}: {node.name}() begins with {first!r}, not with a verb")
        elif isinstance(node, ast.Module) and (doc := ast.get_docstring(node)):
            first = doc.split(maxsplit=1)[0].strip(".,:;")
            if first in {"What", "Whether", "How", "Which", "Where", "Who"}:
                lines.append(f"1: the module begins with {first!r}, not with a noun")
    lines += [f"{number}: {match[0]!r}" for number, line in enumerate(text.splitlines(), 1) for match in PHRASES.finditer(line)]
    return lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_names_and_docstrings_say_what_they_mean(path: Path) -> None:
    assert complaints(path) == []
