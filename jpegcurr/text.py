"""Text for people: names that are safe to show, sizes, durations and lists in words.

A name of a file or a class comes from whoever made the data. It may hold characters that steer a terminal, turn the text around
it, or are invisible. ``sanitize`` replaces them wherever text is shown: the terminal and the templates of pages call it, so
their callers need not. ``escape_json`` and ``files.csv_writer`` write them so that a program reads the same name back.
"""

import re
from collections.abc import Sequence
from pathlib import Path

# Control characters, line and paragraph separators, bidirectional controls and invisible format characters. Zero-width joiners
# are left alone: Persian words and emoji need them.
UNSAFE = (
    "\\x00-\\x1f\\x7f-\\x9f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb"
    "\\U000e0000-\\U000e007f"
)
_UNSAFE = re.compile(f"[{UNSAFE}\\ud800-\\udfff]")  # a lone surrogate is a byte that is not UTF-8, or not text at all
_UNSAFE_IN_JSON = re.compile(f"(?!\n){_UNSAFE.pattern}")


def sanitize(text: str | Path) -> str:
    """Return ``text`` as one line that is safe to show: every character that could do harm becomes a replacement character."""
    return _UNSAFE.sub("\N{REPLACEMENT CHARACTER}", str(text))


def sanitize_lines(text: str, indent: str = "") -> str:
    """Return text of several lines that is safe to show; ``indent`` goes before all but the first, unless a space is there.

    With an ``indent``, a name with a line break in it cannot look like a message of its own.
    """
    first, *others = (sanitize(line) for line in text.split("\n"))
    return "\n".join([first, *(line if line.startswith(" ") else indent + line for line in others)])


def escape_json(text: str) -> str:
    """Return JSON that means the same as the JSON ``text``, with the characters that ``sanitize`` replaces as ``\\u001b``."""
    return _UNSAFE_IN_JSON.sub(lambda match: _utf16_escapes(match[0]), text)


def _utf16_escapes(character: str) -> str:
    data = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[start : start + 2].hex()}" for start in range(0, len(data), 2))


def megabytes(count: int) -> str:
    """Return ``count`` bytes in megabytes: ``1234567`` -> ``1.2 MB``."""
    return f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """Return a duration in words: ``3725`` -> ``1 h 02 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "a second"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def join_words(names: Sequence[str]) -> str:
    """Return ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
