"""Windows: the part of an image that is encoded where a sample is an annotated box, in whole pixels, with padding.

The rules are those of shihtzu-717/Classifier, a second-stage classifier behind a detector: a box is clipped to the image and
truncated to pixels, padded, and then clipped to the image or moved back inside. Two of its faults are not repeated: a window
that is larger than the image starts at 0, not at a negative row, and ``fix`` and ``fix2`` give exactly their size where half a
pixel is missing on both sides (the odd pixel goes to the right or the bottom).
"""

from dataclasses import dataclass
from math import floor, isfinite
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from jpegcurr.errors import ImageError, UsageError, did_you_mean

BoxFormat = Literal["yolo", "coco", "voc"]
BoxLabel = Literal["folder", "box"]
PadMode = Literal["pixel", "bbox", "image", "fix", "fix2"]
Window = tuple[int, int, int, int]  # left, top, right, bottom, in pixels; the last two lie just outside

_MODES: tuple[PadMode, ...] = get_args(PadMode)
_WHOLE = ("pixel", "fix", "fix2")
_LARGEST = {"pixel": 65500.0, "fix": 65500.0, "fix2": 65500.0, "bbox": 100.0, "image": 1.0}
# Six decimals, as YOLO files have them, are off by less than a millionth of the image's side, which must not cost a pixel.
_TOLERANCE = 1e-6
_COLUMNS = 6  # of BoxTable


@dataclass(frozen=True, slots=True)
class Pad:
    """A padding: its ``mode``, and its ``size`` in pixels (pixel, fix, fix2) or as a share of the box (bbox) or the image."""

    mode: PadMode
    size: float

    def __str__(self) -> str:
        return f"{self.mode}:{self.size:.10g}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``pixel:100``; raise UsageError for anything else."""
        name, _, number = text.partition(":")
        mode = next((mode for mode in _MODES if mode == name.strip().lower()), None)
        examples = "Give pixel:100, bbox:0.1, image:0.1, fix:224 or fix2:384."
        if mode is None:
            raise UsageError(f"--pad {text}: there is no such padding. {examples}{did_you_mean(name.strip().lower(), _MODES)}")
        try:
            size = float(number)
        except ValueError:
            size = 0.0
        whole = mode in _WHOLE
        if not 0 < size <= _LARGEST[mode] or (whole and size != int(size)):
            kind = "a whole number of pixels" if whole else f"a share of the {'box' if mode == 'bbox' else 'image'}'s sides"
            raise UsageError(f"--pad {text}: the size is {kind}, above 0 and at most {_LARGEST[mode]:g}. {examples}")
        return cls(mode, size)

    def margins(self, box: tuple[int, int], image: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the pixels added left and right, and above and below, of a ``box`` in an ``image`` (width, height)."""
        if self.mode == "fix":
            return _reach(int(self.size), box[0]), _reach(int(self.size), box[1])
        if self.mode == "fix2":
            side = max(int(self.size), *box)
            return _reach(side, box[0]), _reach(side, box[1])
        sides = {"pixel": (1, 1), "bbox": box, "image": image}[self.mode]
        across, down = (_truncate(self.size * side) for side in sides)
        return (across, across), (down, down)


def _reach(size: int, side: int) -> tuple[int, int]:
    """Return what must be added before and behind ``side`` pixels for ``size`` of them; nothing if there are more."""
    missing = max(0, size - side)
    return missing // 2, missing - missing // 2


def _truncate(value: float) -> int:
    return floor(value + 1e-9)  # 0.29 * 100 is 28.999999999999996


@dataclass(frozen=True, slots=True)
class WindowRule:
    """The rule from boxes to windows.

    ``relative`` says that boxes are shares of the image's sides, as in YOLO's files, and not pixels. With ``keep_inside``, a
    padded window that leaves the image is moved back inside, so that it keeps its size, and otherwise it is clipped.
    """

    relative: bool
    pad: Pad | None = None
    keep_inside: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """One annotated box, as its file states it: edges, in pixels or shares of the image (``WindowRule.relative``).

    ``stated`` is the size (width, height) that the annotation gives the image, zeros if none.
    """

    edges: tuple[float, float, float, float]
    stated: tuple[int, int]
    rule: WindowRule

    @property
    def as_row(self) -> list[float] | None:
        """The edges as they stand in the items; None if one is not a finite number, which JSON cannot hold."""
        return list(self.edges) if all(map(isfinite, self.edges)) else None

    def window(self, width: int, height: int) -> Window:
        """Return the part of an upright image of ``width`` and ``height`` that this box stands for.

        Raises:
            ImageError: the box is not four finite numbers, has no area or no pixel, lies outside the image, or is of an image
                of another size.
        """
        left, top, right, bottom = self.edges
        if not all(map(isfinite, self.edges)):
            raise ImageError("its box is not four finite numbers")
        if right <= left or bottom <= top:
            raise ImageError("its box has no area")
        if all(self.stated) and self.stated != (width, height):
            was, now = (f"{size[0]}x{size[1]}" for size in (self.stated, (width, height)))
            raise ImageError(f"its box is of an image of {was} pixels, and the upright image has {now}")
        if self.rule.relative:
            left, top, right, bottom = left * width, top * height, right * width, bottom * height
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise ImageError("its box lies outside the image")
        across = _whole(left, width), _whole(right, width)
        down = _whole(top, height), _whole(bottom, height)
        if across[0] == across[1] or down[0] == down[1]:
            raise ImageError(f"its box covers no whole pixel of the {width}x{height} of the image")
        if self.rule.pad is not None:
            size = across[1] - across[0], down[1] - down[0]
            margins = self.rule.pad.margins(size, (width, height))
            across = _place(across, margins[0], width, keep_inside=self.rule.keep_inside)
            down = _place(down, margins[1], height, keep_inside=self.rule.keep_inside)
        return across[0], down[0], across[1], down[1]


def _whole(edge: float, side: int) -> int:
    """Clip an edge to the image and truncate it to a whole pixel."""
    return min(floor(min(max(edge, 0.0), side) + _TOLERANCE * side), side)


def _place(span: tuple[int, int], margins: tuple[int, int], side: int, *, keep_inside: bool) -> tuple[int, int]:
    """Widen a span by its margins, and clip it to 0 to ``side`` or move it there; the whole side if it is longer."""
    start, end = span[0] - margins[0], span[1] + margins[1]
    if not keep_inside:
        return max(start, 0), min(end, side)
    length = min(end - start, side)
    start = min(max(start, 0), side - length)
    return start, start + length


class BoxTable:
    """The boxes of a listing, in columns: edges and the size of the image that they are of, float64 [n 6]."""

    def __init__(self, numbers: NDArray[np.float64], rule: WindowRule) -> None:
        self.numbers, self.rule = numbers.reshape(-1, _COLUMNS), rule

    def __getitem__(self, index: int) -> Box:
        left, top, right, bottom, width, height = self.numbers[index].tolist()
        return Box((left, top, right, bottom), (int(width), int(height)), self.rule)

    def take(self, indices: NDArray[np.int64]) -> "BoxTable":
        """Return the boxes at ``indices``, in that order."""
        return BoxTable(self.numbers[indices], self.rule)


@dataclass(frozen=True, slots=True)
class BoxOptions:
    """The options by which boxes are read.

    ``format`` is that of the annotations; ``pad`` is a ``Pad`` as text; ``classes`` are those whose boxes are kept, all if
    empty; ``label`` says which class a sample has, its folder's or its box's, and is None where only one of them is possible.
    """

    format: BoxFormat
    pad: str | None = None
    keep_inside: bool = False
    classes: tuple[str, ...] = ()
    label: BoxLabel | None = None

    def rule(self) -> WindowRule:
        """Return the rule from these boxes to windows; raise UsageError for options that contradict each other."""
        if self.keep_inside and self.pad is None:
            raise UsageError("--keep-inside does nothing without --pad: a box alone never leaves the image. Give --pad too.")
        return WindowRule(self.format == "yolo", Pad.parse(self.pad) if self.pad is not None else None, self.keep_inside)
