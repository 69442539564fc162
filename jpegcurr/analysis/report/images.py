"""The pictures of the examples, small enough for a page: the first quality's, and what every other quality changes in it.

A picture and its JPEG differ by a few levels, which is what WebP itself changes at such sizes. So the difference is kept, not
the second picture: it can be shown amplified, and the second picture is the first one plus it.
"""

import base64
import io
from bisect import bisect_left
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jpegcurr.analysis.cam.results import Example
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.system import available_cpus

CLIPPED = 1e-3  # of a difference's values, at most; then the next larger range is taken
_TRIED = 16  # examples that stand for all where it is estimated what fits


@dataclass(frozen=True, slots=True)
class CompressionLevel:
    """How pictures are stored: WebP qualities of the first and of the differences (None: lossless), at 1/shrink of the size."""

    picture: int
    difference: int | None
    shrink: int = 1

    @property
    def told(self) -> str:
        """In words."""
        smooths = "fine colour" if (self.difference or 0) >= 80 else "what is fine: such errors look weaker than they are"
        exact = "exactly" if self.difference is None else f"at WebP quality {self.difference}, which smooths {smooths}"
        size = f" at 1/{self.shrink} of what the model sees" if self.shrink > 1 else ""
        return f"Pictures are WebP at quality {self.picture}{size}; what the other qualities change in them is kept {exact}"


# From the best to the smallest. Differences are mostly noise, which costs more than pictures do.
LADDER = (
    CompressionLevel(90, None),
    CompressionLevel(90, 90),
    CompressionLevel(90, 80),
    CompressionLevel(85, 70),
    CompressionLevel(80, 60),
    CompressionLevel(80, 45),
    CompressionLevel(75, 35),
    CompressionLevel(75, 25),
    CompressionLevel(70, 15),
    CompressionLevel(60, 5),
    CompressionLevel(75, 60, 2),
    CompressionLevel(70, 40, 2),
    CompressionLevel(60, 20, 2),
    CompressionLevel(50, 10, 4),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """What a quality changes: WebP, base64, of ``128 + 8 / strength * change``, clipped; ``strength`` is 1, 2, 4 or 8."""

    strength: int
    webp: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One example: the first quality's picture as WebP, base64, and the differences of the others, in their order."""

    webp: str
    differences: tuple[Difference, ...]

    @property
    def size(self) -> int:
        """Characters."""
        return len(self.webp) + sum(len(each.webp) for each in self.differences)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Those of all examples, and how they are stored; ``fits``: they take no more than was allowed."""

    rung: CompressionLevel
    pictures: tuple[Picture, ...]
    fits: bool


def embed_pictures(examples: Sequence[Example], qualities: Sequence[str], room: int) -> Pictures:
    """The best of ``LADDER`` with which the pictures take ``room`` characters at most; the last one if none does.

    What fits is estimated from 16 examples, then tried on all, so that the same examples always give the same.
    """
    step = -(-len(examples) // _TRIED) if examples else 1
    some = examples[::step]
    share = room * len(some) / max(1, len(examples))
    with ThreadPoolExecutor(available_cpus()) as pool:  # Pillow lets go of the interpreter while it encodes

        def embed(chosen: Sequence[Example], rung: CompressionLevel) -> tuple[Picture, ...]:
            return tuple(pool.map(lambda each: _embed(each, qualities, rung), chosen))

        start = bisect_left(LADDER, True, key=lambda rung: _size(embed(some, rung)) <= share)
        pictures: tuple[Picture, ...] = ()
        for rung in LADDER[min(start, len(LADDER) - 1) :]:
            pictures = embed(examples, rung)
            if _size(pictures) <= room:
                return Pictures(rung, pictures, fits=True)
    return Pictures(LADDER[-1], pictures, fits=False)


def distances(example: Example, qualities: Sequence[str]) -> list[list[float]]:
    """The root mean square differences of an example's own pictures, levels: of each quality's to each one's before it."""
    pictures = [example.pictures[quality].astype(np.float32).ravel() for quality in qualities]
    changes = [[second - first for first in pictures[:place]] for place, second in enumerate(pictures)]
    return [[float(np.sqrt(np.dot(change, change) / len(change))) for change in row] for row in changes]


def without_pictures(examples: Sequence[Example], qualities: Sequence[str]) -> Pictures:
    """Empty ones, to see how much room the rest of a page leaves."""
    nothing = tuple(Difference(8, "") for _ in qualities[1:])
    return Pictures(LADDER[0], tuple(Picture("", nothing) for _ in examples), fits=True)


def _size(pictures: Sequence[Picture]) -> int:
    return sum(each.size for each in pictures)


def _embed(example: Example, qualities: Sequence[str], rung: CompressionLevel) -> Picture:
    first, *others = (_shrunk(example.pictures[quality], rung.shrink) for quality in qualities)
    differences = (_difference(other.astype(np.int16) - first, rung.difference) for other in others)
    return Picture(_webp(first, rung.picture), tuple(differences))


def _difference(change: np.ndarray, quality: int | None) -> Difference:
    """``change`` int16 [h w 3]. Lossless ones are not amplified: nothing is lost, and the range is -128 to 127."""
    strength = 8 if quality is None else _strength(change)
    levels = np.clip(np.rint(128 + change * (8 / strength)), 0, 255).astype(np.uint8)
    return Difference(strength, _webp(levels, quality))


def _strength(change: np.ndarray) -> int:
    reach = np.abs(change)
    return next((each for each in (1, 2) if float((reach * 8 > 127 * each).mean()) <= CLIPPED), 4)


def _shrunk(pixels: Pixels, by: int) -> Pixels:
    smaller: Pixels = np.asarray(Image.fromarray(pixels).reduce(by)) if by > 1 else pixels
    return smaller


def _webp(pixels: Pixels, quality: int | None) -> str:
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if quality is None:
        image.save(file, "WEBP", lossless=True, quality=30, method=2)  # quality is effort here
    else:
        image.save(file, "WEBP", quality=quality, method=4)
    return base64.b64encode(file.getvalue()).decode("ascii")
