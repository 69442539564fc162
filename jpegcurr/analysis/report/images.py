"""Pictures of the examples, small enough for a page: the first quality's, and every other quality's difference from it.

A picture and its JPEG differ by a few levels, about as much as WebP changes at such sizes. So the difference is stored, not the
second picture: it can be shown amplified, and the second picture is the first plus the difference.
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

CLIPPED = 1e-3  # the largest share of a difference's values that may be clipped before the next larger range is used
_SAMPLE = 16  # examples from which the size of all is estimated


@dataclass(frozen=True, slots=True)
class CompressionLevel:
    """WebP qualities of the first picture and of the differences (None: lossless), both at 1/``shrink`` of the size."""

    picture: int
    difference: int | None
    shrink: int = 1

    @property
    def description(self) -> str:
        """The level as a sentence without its full stop."""
        smooths = "fine colour" if (self.difference or 0) >= 80 else "fine detail: small errors look weaker than they are"
        exact = "exactly" if self.difference is None else f"at WebP quality {self.difference}, which smooths {smooths}"
        size = f" at 1/{self.shrink} of what the model sees" if self.shrink > 1 else ""
        return f"Pictures are WebP at quality {self.picture}{size}; their differences at the other qualities are stored {exact}"


# From the best to the smallest. Differences are mostly noise, which takes more bytes than pictures do.
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
    """The change by a quality: WebP, base64, of ``128 + 8 / strength * change``, clipped; ``strength`` is 1, 2, 4 or 8."""

    strength: int
    webp: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One example: the first quality's picture as WebP, base64, and the differences of the other qualities, in order."""

    webp: str
    differences: tuple[Difference, ...]

    @property
    def size(self) -> int:
        """The number of characters."""
        return len(self.webp) + sum(len(difference.webp) for difference in self.differences)


@dataclass(frozen=True, slots=True)
class Pictures:
    """The pictures of all examples and their level; ``fits`` is True if they take no more room than allowed."""

    level: CompressionLevel
    pictures: tuple[Picture, ...]
    fits: bool


def embed_pictures(examples: Sequence[Example], qualities: Sequence[str], room: int) -> Pictures:
    """Return the pictures at the best level of ``LADDER`` at which they take at most ``room`` characters, else at the last one.

    The level is estimated from 16 examples and then tried on all, so the same examples always give the same pictures.
    """
    step = -(-len(examples) // _SAMPLE) if examples else 1
    sample = examples[::step]
    share = room * len(sample) / max(1, len(examples))
    with ThreadPoolExecutor(available_cpus()) as pool:  # Pillow releases the interpreter lock while it encodes

        def embed(chosen: Sequence[Example], level: CompressionLevel) -> tuple[Picture, ...]:
            return tuple(pool.map(lambda example: _embed(example, qualities, level), chosen))

        start = bisect_left(LADDER, True, key=lambda level: _size(embed(sample, level)) <= share)
        pictures: tuple[Picture, ...] = ()
        for level in LADDER[min(start, len(LADDER) - 1) :]:
            pictures = embed(examples, level)
            if _size(pictures) <= room:
                return Pictures(level, pictures, fits=True)
    return Pictures(LADDER[-1], pictures, fits=False)


def distances(example: Example, qualities: Sequence[str]) -> list[list[float]]:
    """Return the root mean square difference, in levels, of each quality's picture from each earlier quality's."""
    pictures = [example.pictures[quality].astype(np.float32).ravel() for quality in qualities]
    changes = [[second - first for first in pictures[:place]] for place, second in enumerate(pictures)]
    return [[float(np.sqrt(np.dot(change, change) / len(change))) for change in row] for row in changes]


def without_pictures(examples: Sequence[Example], qualities: Sequence[str]) -> Pictures:
    """Return empty pictures, to measure how much room the rest of a page leaves."""
    empty = tuple(Difference(8, "") for _ in qualities[1:])
    return Pictures(LADDER[0], tuple(Picture("", empty) for _ in examples), fits=True)


def _size(pictures: Sequence[Picture]) -> int:
    return sum(picture.size for picture in pictures)


def _embed(example: Example, qualities: Sequence[str], level: CompressionLevel) -> Picture:
    first, *others = (_shrunk(example.pictures[quality], level.shrink) for quality in qualities)
    differences = (_difference(other.astype(np.int16) - first, level.difference) for other in others)
    return Picture(_webp(first, level.picture), tuple(differences))


def _difference(change: np.ndarray, quality: int | None) -> Difference:
    """Store ``change``, int16 [h w 3]. A lossless one needs no amplification; its range is -128 to 127."""
    strength = 8 if quality is None else _strength(change)
    levels = np.clip(np.rint(128 + change * (8 / strength)), 0, 255).astype(np.uint8)
    return Difference(strength, _webp(levels, quality))


def _strength(change: np.ndarray) -> int:
    reach = np.abs(change)
    return next((strength for strength in (1, 2) if float((reach * 8 > 127 * strength).mean()) <= CLIPPED), 4)


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
