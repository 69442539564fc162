"""An earlier JPEG compression before a resize: single images do not show it, many that were resized alike do together.

A JPEG's blocks of 8 pixels lie 8 T / S pixels apart once its side of S pixels was resized to T. How bent the rows of pixels are
at each column, averaged over many images, shows where edges of blocks were. That mean is compared with those of such content at
common sides S, compressed there and resized: strips of the images themselves, simulated. Whatever repeats every 8 pixels is
the grid that the images have now, and is left out; so is what a resize alone would leave.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jpegcurr.encoding.jpeg.quantisation import ZIGZAG, libjpeg_tables

Floats = NDArray[np.float32]
_Resize = tuple[int, Image.Resampling]  # from which side, and how

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
_POWERS = 3  # of the place, by which the grid of now may change along the side
_QUALITY = 75  # of the simulated earlier compression: Pillow's default; the place of the edges is the same for others
_QUALITY_NOW = 95
# The least correlation, or so many of its errors if that is more; calibrated in experiments/010.
_LEAST = 0.3
_LEAST_ERRORS = 4.5
_CLEAR = 0.8  # correlation with a resize alone that leaves no doubt from which side it was
_ALIKE = 0.1  # below the highest correlation
_RESIZES = 6  # of the likeliest, each of which is taken off
_NEIGHBOURS = 0.97  # correlation of neighbouring pixels in photographs
_FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
_ALL_FILTERS = (*_FILTERS, Image.Resampling.LANCZOS, Image.Resampling.BOX, Image.Resampling.NEAREST)
_NEAR = 0.02  # correlation
_BLOCK = np.arange(8)
_SCALE = np.where(_BLOCK[:, None], 0.5, np.sqrt(1 / 8))
_DCT: Floats = (np.cos((2 * _BLOCK + 1) * _BLOCK[:, None] * np.pi / 16) * _SCALE).astype(np.float32)


@dataclass(frozen=True, slots=True)
class FormerSize:
    """Traces in ``images`` images with a side of ``side`` pixels of JPEG blocks from before they were resized to it.

    Of all sides that were tried, blocks at ``former`` pixels explain best what any likely resize leaves unexplained, with a
    ``correlation`` whose standard error, were there no blocks, is ``error``. ``alike`` are other sides that explain it nearly
    as well. Resizes alone have the correlation ``resize_alone`` at most; ``resized_from`` are the sides that come so near.
    """

    side: int
    images: int
    former: int
    correlation: float
    error: float
    alike: tuple[int, ...]
    resized_from: tuple[int, ...]
    resize_alone: float

    @property
    def detected(self) -> bool:
        """True if the images were JPEGs of ``former`` pixels or of a side in ``alike``, as experiments/010 calibrated it."""
        from_elsewhere = self.resize_alone >= _CLEAR and self.former not in self.resized_from
        return not from_elsewhere and self.correlation >= max(_LEAST, _LEAST_ERRORS * self.error)


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
        profiles = [_without_known(self.sums[axis] / self.counts[axis]) for axis in sorted(self.sums)]
        sides = _candidates(self.side)
        resizes = {(side, kind): _resized(side, self.side, kind) for side in sides for kind in _ALL_FILTERS}
        fits = {key: _correlate(profiles, resize) for key, resize in resizes.items()}
        likely = sorted(fits, key=lambda key: -fits[key])[:_RESIZES]
        blocks = self._explain(profiles, sides, resizes, likely, _FEW)
        blocks = self._explain(profiles, sorted(blocks, key=lambda side: -blocks[side])[:_FINALISTS], resizes, likely, _MANY)
        if len(blocks) < 2:
            return None
        former, *others = sorted(blocks, key=lambda side: -blocks[side])
        resize_alone = fits[likely[0]]
        return FormerSize(
            self.side,
            self.images,
            former,
            blocks[former],
            error=float(1 / np.sqrt(sum(len(one) - 8 * _POWERS for one in profiles))),
            alike=tuple(side for side in others if blocks[side] > blocks[former] - _ALIKE),
            resized_from=tuple(sorted({side for (side, _), fit in fits.items() if fit > resize_alone - _NEAR})),
            resize_alone=resize_alone,
        )

    def _explain(
        self,
        profiles: Sequence[Floats],
        sides: Sequence[int],
        resizes: Mapping[_Resize, Floats],
        likely: Sequence[_Resize],
        most: int,
    ) -> dict[int, float]:
        """Return how well blocks at each side explain profiles, less their own resize and the worst of the likely ones."""
        chosen = self.strips[:: max(1, len(self.strips) // most)][:most]
        best: dict[int, float] = {}
        for side in sides:
            for kind in _FILTERS:
                blocks, own = self._simulate(side, kind, chosen), resizes[side, kind]
                fit = min(_correlate(profiles, blocks, own, resizes[other]) for other in likely)
                best[side] = max(best.get(side, -1.0), fit)
        return best

    def _simulate(self, former: int, kind: Image.Resampling, strips: Sequence[NDArray[np.uint8]]) -> Floats:
        """Return what would be seen of strips that were JPEGs at ``former`` pixels."""
        weights, bends = _resizing(former, self.side, kind), np.zeros(self.side - 2)
        for start in range(0, len(strips), _FEW):
            part = _compress(_widen(strips[start : start + _FEW], former, start), _QUALITY)
            bends += _bends(_compress(_round(part @ weights), _QUALITY_NOW)) * len(part)
        return _without_known(bends)


def _resized(former: int, side: int, kind: Image.Resampling) -> Floats:
    """Return what would be seen after a resize alone: pixels that average more of the former ones are less bent."""
    weights = _resizing(former, side, kind).astype(np.float64).T
    bends = 2 * weights[1:-1] - weights[:-2] - weights[2:]
    distance = np.abs(np.subtract.outer(np.arange(former), np.arange(former)))
    spread = np.sqrt(np.einsum("uj,uj->u", bends @ _NEIGHBOURS**distance, bends))
    return _without_known(spread / sum(np.roll(spread, shift) for shift in (-2, -1, 0, 1, 2)))


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
    """Take off what changes slowly, the ends, and what repeats every 8 pixels, and return the rest with a spread of 1.

    The grid of now is stronger where images have more detail, in the middle, so what repeats may change with the place.
    """
    half = _SMOOTHING // 2
    smooth = np.convolve(np.pad(bends, half, mode="reflect"), np.ones(_SMOOTHING) / _SMOOTHING, "valid")
    rest = (bends - smooth)[_EDGE:-_EDGE]
    place = np.linspace(-1, 1, len(rest))
    for phase in range(8):
        powers = np.stack([place[phase::8] ** power for power in range(_POWERS)], axis=1)
        rest[phase::8] -= powers @ np.linalg.lstsq(powers, rest[phase::8], rcond=None)[0]
    scaled: Floats = (rest / max(rest.std(), 1e-12)).astype(np.float32)
    return scaled


def _correlate(profiles: Sequence[Floats], expected: Floats, *known: Floats) -> float:
    """Return the mean correlation of what was seen along each axis with what is expected, less what ``known`` explains."""
    basis = np.linalg.qr(np.stack(known, axis=1))[0] if known else np.zeros((len(expected), 0), np.float32)

    def unexplained(one: Floats) -> Floats:
        rest: Floats = one - basis @ (basis.T @ one)
        return rest / max(float(np.linalg.norm(rest)), 1e-12)

    return float(np.mean([unexplained(one) @ unexplained(expected) for one in profiles]))


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
