"""Values that pydantic refuses, in words: what was given, and what it should be."""

import re
from collections.abc import Sequence

_SHOULD = "Input should be "
_LONGEST = 60  # characters of a value that are shown
_PLAIN = {
    r"a valid integer(, .*)?": "a whole number",
    r"a valid number(, .*)?": "a number",
    r"a valid boolean(, .*)?": "true or false",
    r"a valid string": "text",
    r"a valid (tuple|list)": "a list",
    r"a valid dictionary( or .*)?": "a map",
    r"greater than or equal to (\S+)": r"at least \1",
    r"less than or equal to (\S+)": r"at most \1",
}


def describe_wrong(messages: Sequence[str], value: object) -> str:
    """Join pydantic's messages about one value, one for each type that it may have, into one sentence that shows the value."""
    first, *others = [_plain(message) for message in messages]
    text = ", or ".join([first, *(message.removeprefix(_SHOULD) for message in others)])
    return f"is {_show(value)} and should be {text.removeprefix(_SHOULD)}" if text.startswith(_SHOULD) else text


def _plain(message: str) -> str:
    if message.startswith(_SHOULD):
        for pattern, words in _PLAIN.items():
            if match := re.fullmatch(_SHOULD + pattern, message):
                return _SHOULD + match.expand(words)
    return message


def _show(value: object) -> str:
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
