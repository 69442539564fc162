"""Text for people: names that are safe to print, sizes, durations and lists in words."""

import os
from collections.abc import Sequence
from pathlib import Path


def sanitize(text: str | Path) -> str:
    """Return ``text`` as it can be printed: bytes that are not UTF-8 and control characters become replacement characters."""
    whole = os.fsencode(text).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in whole)


def megabytes(count: int) -> str:
    """``1234567`` -> ``1.2 MB``."""
    return f"{count / 1e6:,.1f} MB"


def duration(seconds: float) -> str:
    """``3725`` -> ``1 h 02 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "a second"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes >= 60 else f"{minutes} min"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
