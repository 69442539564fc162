"""Text for people: printable names, sizes, durations and lists in words."""

import os
from collections.abc import Sequence
from pathlib import Path


def sanitize(text: str | Path) -> str:
    """Return ``text`` in a printable form: bytes that are not UTF-8 and control characters become replacement characters."""
    decoded = os.fsencode(text).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in decoded)


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
