"""Readable names of ImageNet's classes, whose own names are WordNet's numbers."""

import re
from collections.abc import Sequence
from functools import cache

from timm.data import ImageNetInfo

_WORDNET = re.compile(r"n\d{8}")


@cache
def _wordnet() -> ImageNetInfo:
    return ImageNetInfo()


def readable_name(name: str) -> str:
    """Return the readable name, ``n01440764`` -> ``tench, Tinca tinca``; any other name is returned as it is."""
    if not _WORDNET.fullmatch(name):
        return name
    try:
        return str(_wordnet().label_name_to_description(name))
    except KeyError:
        return name


def full_name(name: str) -> str:
    """Return the class's own name and the readable one, if they differ: ``n01440764 tench, Tinca tinca``."""
    readable = readable_name(name)
    return name if readable == name else f"{name} {readable}"


def find_class(name: str, classes: Sequence[str]) -> list[int]:
    """Return the label of the class called ``name``; else those that have it among their readable names, such as ``tench``."""
    if name in classes:
        return [classes.index(name)]
    return [
        label
        for label, of_class in enumerate(classes)
        if name in (whole := readable_name(of_class)).split(", ") or name == whole
    ]


def have_readable_names(names: Sequence[str]) -> bool:
    """Return whether any class has a readable name that differs from its own."""
    return any(readable_name(name) != name for name in names)
