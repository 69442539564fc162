"""Options that several commands share, and how they are parsed."""

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from jpegcurr.encoding.jpeg.codec import EncodeSpec, Filter, Resize, Subsampling, parse_quality
from jpegcurr.errors import UsageError


def parse_specs(
    qualities: Sequence[str], subsampling: Subsampling | None = None, resize: Resize | None = None
) -> list[EncodeSpec]:
    """Read qualities as they are typed, each once, in order; raises UsageError if ``subsampling`` would do nothing."""
    if not qualities:
        raise UsageError("Which quality? Give --quality 50, or --quality source for the original bytes, or both.")
    found = list(dict.fromkeys(parse_quality(text.strip()) for text in qualities))
    if subsampling is not None and found == ["source"]:
        raise UsageError(
            f"--subsampling {subsampling} does nothing at --quality source, which keeps the chroma. Leave it away, or give "
            "a quality of 1 to 100 too."
        )
    return [EncodeSpec(quality, subsampling or "420", resize) for quality in found]


def parse_resize(max_side: int | None, short_side: int | None, resize_filter: Filter | None) -> Resize | None:
    """Read --max-side, --short-side and --filter; raises UsageError where two of them contradict each other."""
    if max_side is not None and short_side is not None:
        raise UsageError("--max-side and --short-side both say how large images become. Give one of them.")
    pixels = max_side or short_side
    if pixels is None:
        if resize_filter is not None:
            raise UsageError(f"--filter {resize_filter} does nothing without --max-side or --short-side. Give one of them too.")
        return None
    return Resize("max" if max_side else "short", pixels, resize_filter or "bicubic")


def parse_max_failures(text: str) -> int | Fraction:
    """``"3"`` -> 3 images, ``"0.5%"`` -> that share of them, exactly; anything else raises UsageError."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        if percent and 0 <= Fraction(number) <= 100:
            return Fraction(number) / 100
        if not percent and int(number) >= 0:
            return int(number)
    except (ValueError, ZeroDivisionError):
        pass
    raise UsageError(f"--max-failures {text}: give a number of images, 0 or more, or a share of them, 0% to 100%.")


def parse_classes(given: Sequence[str]) -> tuple[str, ...]:
    """Read class names: ``A,B``, or a file with one a line; raises UsageError if a file holds none."""
    names: list[str] = []
    for each in given:
        if os.path.isfile(each):  # noqa: PTH113  # a Path would raise for a list longer than a file's name may be
            lines = [line.strip() for line in Path(each).read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()]
            names += filter(None, lines)
        else:
            names += filter(None, (name.strip() for name in each.split(",")))
    if given and not names:
        raise UsageError(f"--classes {given[0]} names no class. Give A,B,C or a file with one name a line.")
    return tuple(dict.fromkeys(names))
