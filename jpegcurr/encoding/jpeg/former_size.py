"""An earlier JPEG compression before a resize: single images do not show it, many that were resized alike do together.

A JPEG's blocks of 8 pixels lie 8 T / S pixels apart once its side of S pixels was resized to T. How bent the rows of pixels are
at each column, averaged over many images, shows where edges of blocks were. That mean is compared with those of such content at
common sides S, compressed there and resized: strips of the images themselves, simulated. Whatever repeats every 8 pixels is
the grid that the images have now, and is left out; so is what a resize alone would leave.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jpegcurr.encoding.jpeg.quantisation import ZIGZAG, libjpeg_tables

Floats = NDArray[np.float32]

LEAST_IMAGES = 250  # fewer do not tell
MOST_IMAGES = 4000  # more tell little more
SMALLEST_SIDE, LARGEST_SIDE = 64, 512  # of the images: shorter ones hold too few blocks, and of longer ones it takes long
# Sides to which data sets are often resized, and of common photographs.
# fmt: off
COMMON_SIDES = (
    72, 80, 84, 96, 100, 112, 120, 128, 144, 150, 160, 176, 180, 192, 200, 208, 224, 232, 240, 248, 256, 272, 288, 299, 300,
    304, 320, 333, 336, 340, 352, 360, 375, 380, 384, 400, 416, 427, 448, 456, 480, 500, 512, 528, 560, 576, 600, 640, 667,
    683, 720, 750, 768, 800, 896, 900, 960, 1000, 1024, 1080, 1200, 1280, 1440, 1536, 1600, 1920, 2048,
)
# fmt: on
_LARGEST_FACTOR = 4.0  # smaller copies keep nothing of the blocks
_FEW, _MANY = 250, 1500  # strips of 8 pixels by the side that are simulated: for every side, and for the likeliest
_FINALISTS = 6
_EDGE = 10  # pixels at both ends, where frames and the grid of now disturb
_SMOOTHING = 17  # pixels: photographs have more in the middle than at the edge
_QUALITY = 75  # of the simulated earlier compression: Pillow's default; the place of the edges is the same for others
_QUALITY_NOW = 95
# The least correlation, or so many of its errors if that is more, and how much above that of any other side: experiments/010.
_LEAST = 0.3
_LEAST_ERRORS = 4.5
_MARGIN = 0.08
_NEAR = 0.02  # sides that differ by so much have nearly the same blocks
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_MORE_FILTERS = (Image.Resampling.LANCZOS, Image.Resampling.NEAREST)  # of images that were only resized
_BLOCK = np.arange(8)
_SCALE = np.where(_BLOCK[:, None], 0.5, np.sqrt(1 / 8))
_DCT: Floats = (np.cos((2 * _BLOCK + 1) * _BLOCK[:, None] * np.pi / 16) * _SCALE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FormerSize:
    """What ``images`` images with a side of ``side`` pixels show of JPEG blocks from before they were resized to it.

    Of all sides that were tried, blocks at ``former`` pixels explain best what a resize alone does not, with a ``correlation``
    whose standard error, were there no blocks, is ``error``. ``others`` is the highest that any other side has.
    """

    side: int
    images: int
    former: int
    correlation: float
    others: float
    error: float

    @property
    def detected(self) -> bool:
        """Whether the images were JPEGs of ``former`` pixels: calibrated in experiments/010."""
        least = max(_LEAST, _LEAST_ERRORS * self.error)
        return self.correlation >= least and self.correlation - self.others >= _MARGIN


@dataclass(slots=True)
class BlockEdges:
    """Where images with a side of ``side`` pixels are bent, on average, along that side, and strips of their content."""

    side: int
    images: int = 0
    sums: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)
    strips: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, luma: NDArray[np.uint8]) -> None:
        """Add an image, [h w]: its rows if it is as wide as ``side``, and its columns if it is as high."""
        used = False
        for axis, lines in enumerate((luma, luma.T)):
            if lines.shape[1] == self.side and lines.shape[0] >= 8:
                self.sums[axis] = self.sums.get(axis, 0.0) + _bends(lines.astype(np.float32))
                self.counts[axis] = self.counts.get(axis, 0) + 1
                start = self.images * 37 % (lines.shape[0] - 7)
                self.strips.append(np.ascontiguousarray(lines[start : start + 8]))
                used = True
        self.images += used

    def find(self) -> FormerSize | None:
        """Return which former side explains the images best; None if there are too few of them, or no side to compare."""
        if self.images < LEAST_IMAGES or not SMALLEST_SIDE <= self.side <= LARGEST_SIDE:
            return None
        seen = [_without_known(self.sums[axis] / self.counts[axis]) for axis in sorted(self.sums)]
        blocks, resizes = self._explain(seen, _candidates(self.side), _FEW)
        finalists = {side for found in (blocks, resizes) for side in sorted(found, key=lambda side: -found[side])[:_FINALISTS]}
        blocks, _ = self._explain(seen, sorted(finalists), _MANY)
        if len(blocks) < 2:
            return None
        former = max(blocks, key=lambda side: blocks[side])
        others = max((value for side, value in blocks.items() if abs(side - former) > _NEAR * former), default=1.0)
        error = float(1 / np.sqrt(7 / 8 * sum(map(len, seen))))
        return FormerSize(self.side, self.images, former, blocks[former], others, error)

    def _explain(self, seen: Sequence[Floats], sides: Sequence[int], most: int) -> tuple[dict[int, float], dict[int, float]]:
        """Return how well sides explain what was seen: by blocks, less the likeliest resize alone, and by a resize alone."""
        chosen = self.strips[:: max(1, len(self.strips) // most)][:most]
        simulated = [(side, *pair) for side in sides for pair in self._simulate(side, chosen)]
        resizes: dict[int, float] = {}
        likeliest, highest, resize = 0, -1.0, np.zeros_like(seen[0])
        for side, resized, _ in simulated:
            found = _correlate(seen, resized)
            resizes[side] = max(resizes.get(side, -1.0), found)
            if found > highest:
                likeliest, highest, resize = side, found, resized
        blocks: dict[int, float] = {}
        for side, resized, compressed in simulated:
            near = abs(side - likeliest) <= _NEAR * likeliest
            if compressed is not None and (side == likeliest or not near):
                blocks[side] = max(blocks.get(side, -1.0), _correlate(seen, compressed, resized, resize))
        return blocks, resizes

    def _simulate(self, former: int, strips: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[Floats, Floats | None]]:
        """Yield what would be seen after a resize from ``former`` pixels: with no blocks before it, and with some."""
        for resampling in (*_FILTERS, *_MORE_FILTERS):
            weights, both = _resizing(former, self.side, resampling), resampling in _FILTERS
            resized, compressed = np.zeros((2, self.side - 2))
            for start in range(0, len(strips), _FEW):
                part = _widen(strips[start : start + _FEW], former, start)
                resized += _bends_after(part @ weights) * len(part)
                if both:
                    compressed += _bends_after(_compress(part, _QUALITY) @ weights) * len(part)
            yield _without_known(resized), _without_known(compressed) if both else None


def _bends_after(pixels: Floats) -> NDArray[np.float64]:
    """Return how bent strips [n 8 w] are that were resized, once they are JPEGs again."""
    return _bends(_compress(_round(pixels), _QUALITY_NOW))


def _candidates(side: int) -> list[int]:
    """Return the common sides above ``side`` whose blocks would not lie on its own grid."""
    return [former for former in COMMON_SIDES if side < former <= _LARGEST_FACTOR * side and former % side]


def _bends(lines: Floats) -> NDArray[np.float64]:
    """Return, for every inner column of [... w], the mean of how bent the lines are there, relative to both sides of it."""
    bent = np.abs(2 * lines[..., 1:-1] - lines[..., :-2] - lines[..., 2:])
    around = 5 + sum(np.roll(bent, shift, axis=-1) for shift in (-2, -1, 0, 1, 2))
    mean: NDArray[np.float64] = (bent / around).mean(axis=tuple(range(bent.ndim - 1)), dtype=np.float64)
    return mean


def _without_known(bends: NDArray[np.float64]) -> Floats:
    """Take off what changes slowly, the ends, and what repeats every 8 pixels, and return the rest with a spread of 1."""
    half = _SMOOTHING // 2
    smooth = np.convolve(np.pad(bends, half, mode="reflect"), np.ones(_SMOOTHING) / _SMOOTHING, "valid")
    rest = (bends - smooth)[_EDGE:-_EDGE]
    for phase in range(8):
        rest[phase::8] -= rest[phase::8].mean()
    scaled: Floats = (rest / max(rest.std(), 1e-12)).astype(np.float32)
    return scaled


def _correlate(seen: Sequence[Floats], expected: Floats, *known: Floats) -> float:
    """Return the mean correlation of what was seen along each axis with what is expected, less what ``known`` explains."""
    basis = np.linalg.qr(np.stack(known, axis=1))[0] if known else np.zeros((len(expected), 0), np.float32)

    def unexplained(one: Floats) -> Floats:
        rest: Floats = one - basis @ (basis.T @ one)
        return rest / max(float(np.linalg.norm(rest)), 1e-12)

    return float(np.mean([unexplained(one) @ unexplained(expected) for one in seen]))


def _widen(strips: Sequence[NDArray[np.uint8]], width: int, first: int) -> Floats:
    """Return the strips, float32 [n 8 w], continued by their mirror images to ``width`` pixels, each from another place."""
    stacked = np.stack(strips).astype(np.float32)
    both = np.concatenate([stacked, stacked[..., ::-1]], axis=-1)
    starts = (first + np.arange(len(both)))[:, None, None] * 29
    columns = (starts + np.arange(width)) % both.shape[-1]
    widened: Floats = np.take_along_axis(both, np.broadcast_to(columns, (len(both), 8, width)), axis=-1)
    return widened


def _compress(strips: Floats, quality: int) -> Floats:
    """Return strips [n 8 w] after a JPEG compression of ``quality``."""
    count, _, width = strips.shape
    padded = np.pad(strips, ((0, 0), (0, 0), (0, -width % 8)), mode="edge")
    blocks = padded.reshape(count, 8, -1, 8).transpose(0, 2, 1, 3) - 128
    steps = np.empty((8, 8), np.float32)
    steps[tuple(zip(*ZIGZAG, strict=True))] = libjpeg_tables(quality)[0]
    rounded = np.rint(_DCT @ blocks @ _DCT.T / steps) * steps
    pixels = _round((_DCT.T @ rounded @ _DCT + 128).astype(np.float32))
    result: Floats = pixels.transpose(0, 2, 1, 3).reshape(count, 8, -1)[..., :width]
    return result


def _round(pixels: Floats) -> Floats:
    return np.clip(np.rint(pixels), 0, 255).astype(np.float32)


def _resizing(former: int, side: int, resampling: Image.Resampling) -> Floats:
    """Return the weights [former side] by which Pillow resizes a line."""
    lines = Image.fromarray(np.eye(former, dtype=np.float32))
    return np.asarray(lines.resize((side, former), resampling), np.float32)
