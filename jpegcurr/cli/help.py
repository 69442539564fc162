"""The layout of ``--help``: plain names of arguments, and limits of numbers in words."""

import re
from typing import Any

from typer.core import TyperCommand

WIDEST = 120  # columns; longer lines are hard to read

_UNBROKEN = "\u2011"  # a hyphen at which no line is broken
_RANGE = re.compile(r"(?:(\S+)<=)?\bx(?:>=([^\s\]]+)|<=([^\s\]]+))+")


class Command(TyperCommand):
    """A command whose help names an argument as ``MODEL`` and not as ``{MODEL}`` or ``MODEL <path>``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line; only what may be omitted is in brackets."""
        return [_bare(piece) for piece in super().collect_usage_pieces(ctx)]

    def get_help(self, ctx: Any) -> str:
        """Return the whole help; its lines do not break at hyphens."""
        return super().get_help(ctx).replace(_UNBROKEN, "-")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options."""
        records: dict[str, list[tuple[str, str]]] = {"argument": [], "option": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                name, text = record
                name = re.sub(r" <\S+>$", "", name) if parameter.param_type_name == "argument" else name
                records[parameter.param_type_name].append((name, _in_words(text).replace("-", _UNBROKEN)))
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            if records[kind]:
                with formatter.section(title):
                    formatter.write_dl(records[kind])


def _bare(piece: str) -> str:
    """Return an argument of the usage line without braces: ``{MODEL}...`` -> ``MODEL...``, but not ``MODEL......``."""
    match = re.fullmatch(r"\{(.*)\}((?:\.\.\.)?)", piece)
    return piece if match is None else match[1] if "..." in match[1] else match[1] + match[2]


def _in_words(text: str) -> str:
    """Return the help of a parameter with its limits in words: ``x>=1`` -> ``at least 1``, ``0<=x<=9`` -> ``0 to 9``."""
    return _RANGE.sub(_range_in_words, text)


def _range_in_words(match: re.Match[str]) -> str:
    low, least, high = match.groups()
    if least is not None:
        return f"at least {least}"
    return f"{low} to {high}" if low is not None else f"at most {high}"
