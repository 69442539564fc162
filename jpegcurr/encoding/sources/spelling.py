"""Class names that look alike or like a value that is missing: what a table or a folder means is often one class, or none."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from jpegcurr.encoding.sources.base import Source
from jpegcurr.text import join_words, sanitize

_MOST_NAMED = 3
# As pandas and R write a value that is missing. "none" in small letters is left out: it names classes, as of defects.
_MISSING = frozenset({"nan", "NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None"})


def describe_spellings(where: str, sources: Sequence[Source]) -> str:
    """Return a sentence on classes of ``sources`` that differ in spelling alone; "" if none do."""
    names = {source.classes[label] for source in sources for label in np.unique(source.items.labels)}
    alike = defaultdict(list)
    for name in sorted(names):
        alike[_key(name)].append(name)
    groups = [group for group in alike.values() if len(group) > 1]
    if not groups:
        return ""
    more = [f"{len(groups) - _MOST_NAMED:,} more groups do too"] if len(groups) > _MOST_NAMED else []
    named = "; ".join([*map(_describe, groups[:_MOST_NAMED]), *more])
    return f"{where}: {named}. They are classes of their own: if they mean one, spell them alike"


def describe_missing(where: str, sources: Sequence[Source]) -> str:
    """Return a sentence on classes of ``sources`` that are named as programs write a missing value; "" if there are none."""
    images: dict[str, int] = defaultdict(int)
    for source in sources:
        for label, count in enumerate(np.bincount(source.items.labels, minlength=len(source.classes)).tolist()):
            if count and source.classes[label] in _MISSING:
                images[source.classes[label]] += count
    if not images:
        return ""
    named = join_words([f"{name!r} ({count:,} image{'s' if count > 1 else ''})" for name, count in images.items()])
    return f"{where}: {named} is taken for a class, and may be a missing label. Remove these images if it is"


def describe_similar(strangers: Sequence[str], classes: Iterable[str]) -> str:
    """Return `` 'cat' and 'Cat' differ in capitals alone.`` if a stranger differs so from one of the classes; else ""."""
    known = {_key(name): name for name in classes}
    pair = next(([name, known[key]] for name in strangers if (key := _key(name)) in known), None)
    return "" if pair is None else f" {_describe(pair)}."


def _key(name: str) -> str:
    """Return what is left of a name without capitals, zeros in front, separators, and variants of Unicode's characters."""
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", unicodedata.normalize("NFKC", name).strip()).casefold().lstrip("0")


def _describe(names: Sequence[str]) -> str:
    """Return in what names of one ``_key`` differ, in a clause."""
    if len({unicodedata.normalize("NFC", name) for name in names}) == 1:
        difference, show = "Unicode's form (macOS writes accents as characters of their own)", ascii
    elif len({name.casefold() for name in names}) == 1:
        difference, show = "capitals", repr
    elif len({name.lstrip("0") for name in names}) == 1:
        difference, show = "zeros in front", repr
    else:
        difference, show = "spaces, separators, capitals, zeros in front or variants of characters", repr
    return f"{join_words([show(sanitize(name)) for name in names])} differ only in {difference}"
