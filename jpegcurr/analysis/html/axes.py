"""Axes of charts: round ticks and their labels, and an estimate of the width of text."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from unicodedata import east_asian_width

FONT = 13  # pixels
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Axis:
    """Values from ``low`` to ``high`` on pixels from ``start`` to ``end``; ``ticks`` are values with their labels."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[tuple[float, str], ...]

    def at(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def number_axis(values: Sequence[float], *, start: float, end: float, about: int, ends_on_ticks: bool) -> Axis:
    """Return an axis that holds all ``values``, with ``about`` that many round ticks, at whole numbers if all values are whole.

    It begins and ends on ticks (``ends_on_ticks``) or at the outermost values. A single value is in its middle.
    """
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    whole = bool(values) and not ends_on_ticks and all(value == round(value) for value in values)
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-300):  # 0 too: a wide axis is better than one without ticks
        middle, margin = low, 1.0 if whole and abs(low) < 1e6 else max(0.05 * abs(low), 1e-6)
        low, high = middle - margin, middle + margin
    step = _round_step((high - low) / about, whole=whole)
    first, last = (floor(low / step), ceil(high / step)) if ends_on_ticks else (ceil(low / step), floor(high / step))
    places = [number * step for number in range(first, last + 1)]
    if ends_on_ticks:
        low, high = places[0], places[-1]
    return Axis(low, high, start, end, tuple((place, _label(place, step, max(-low, high))) for place in places))


def category_axis(names: Sequence[str], *, start: float, end: float) -> tuple[Axis, float]:
    """Return an axis of equal steps, each named in its middle, and the height of the names, which are tilted if too wide.

    Names of more than 30 characters are shortened, and of very many only every second, third, ... is shown.
    """
    short = [name if len(name) <= 30 else f"{name[:14]}...{name[-13:]}" for name in names]
    widest = max((text_width(name) for name in short), default=0.0)
    room = (end - start) / max(1, len(names))
    tilted = widest + 8 > room
    if tilted:  # they end under their ticks, and the leftmost must not leave the picture
        beyond = (0.87 * text_width(name) - room * place for place, name in enumerate(short))
        start = max(start, min(max(beyond), end / 2))
        room = (end - start) / len(names)
    every = max(1, ceil(1.3 * FONT / room)) if tilted else 1
    ticks = tuple((float(place), name) for place, name in enumerate(short) if place % every == 0)
    return Axis(-0.5, max(1, len(names)) - 0.5, start, end, ticks), 0.55 * widest + 18 if tilted else 22.0


def _round_step(step: float, *, whole: bool) -> float:
    """Round up to 1, 2, 2.5 or 5 times a power of ten; for ``whole`` numbers to at least 1, and not to 2.5."""
    power = 10.0 ** floor(log10(step))
    choices = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    rounded = next(choice * power for choice in choices if choice * power >= step * (1 - 1e-9))
    return max(1.0, rounded) if whole else rounded


def _label(value: float, step: float, largest: float) -> str:
    """Format with the decimals of the ``step``, or as powers of ten if these are many or the ``largest`` value is large."""
    if abs(value) < step / 2:
        return "0"
    if largest >= 1e6 or step < 1e-4:
        return f"{value:.{max(1, floor(log10(abs(value) / step)) + 3)}g}".replace("e+0", "e").replace("e-0", "e-")
    decimals = max(0, -floor(log10(step)))
    return f"{value:,.{decimals + (round(step * 10**decimals, 6) % 1 > 0)}f}"


def text_width(text: str, size: float = FONT) -> float:
    """Estimate the most pixels that ``text`` takes in the usual sans-serif fonts; there is no font here to measure it."""
    return size * sum(1.0 if east_asian_width(character) in "WF" else 0.62 for character in text)


def printable(text: str) -> str:
    """Replace characters that XML cannot hold, such as those of a file name that is not UTF-8."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
