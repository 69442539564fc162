"""Bytes of the images that are evaluated: as they are stored, or as ``encode`` would store them at a quality."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.codec import EncodeSpec, encode_rgb, reencode
from jpegcurr.encoding.jpeg.limits import MOST_PIXELS
from jpegcurr.encoding.workers import map_in_order, open_executor
from jpegcurr.errors import ImageError
from jpegcurr.recipe.values import OnTheFlyJpeg
from jpegcurr.runtime import World
from jpegcurr.training.data.datasets import Dataset
from jpegcurr.training.data.loaders import loading_workers

CHUNK = 16  # images
AHEAD = 4  # chunks for every thread
BYTES = ("bytes", "bytes_per_image", "bits_per_pixel")  # the columns of tables


@dataclass(frozen=True, slots=True)
class JpegBytes:
    """The ``total`` bytes of ``images`` images of ``pixels`` pixels, whole images at their stored size, without any index."""

    images: int
    total: int
    pixels: int

    @property
    def mean(self) -> float:
        """Bytes an image."""
        return self.total / self.images

    @property
    def bits_per_pixel(self) -> float:
        """Bits a pixel, over all images together."""
        return 8 * self.total / self.pixels

    def __add__(self, other: "JpegBytes") -> "JpegBytes":
        return JpegBytes(self.images + other.images, self.total + other.total, self.pixels + other.pixels)

    def over(self, world: World) -> "JpegBytes":
        """Return the sum over the processes of ``world``, which must all call this."""
        return JpegBytes(*world.sum(torch.tensor([self.images, self.total, self.pixels])).tolist())

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON and CSV."""
        return dict(zip(BYTES, (self.total, self.mean, self.bits_per_pixel), strict=True))


NOTHING = JpegBytes(0, 0, 0)
Measured = Mapping[tuple[Path, int], JpegBytes]  # by beton and quality


def measure_sets(datasets: Sequence[Any], world: World, progress: Callable[[int, int], None] | None = None) -> Measured:
    """Measure every beton's images at the qualities at which whole ones are encoded on the fly; see ``measure_bytes``.

    ``progress`` is called with the number of images done and of all.
    """
    wanted: dict[Path, tuple[Dataset, list[int]]] = {}
    for dataset in datasets:
        if isinstance(dataset, Dataset) and (quality := whole_quality(dataset.on_the_fly)) is not None:
            wanted.setdefault(dataset.path, (dataset, []))[1].append(quality)
    total, done = sum(len(range(world.rank, len(dataset), world.ranks)) for dataset, _ in wanted.values()), 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(done, total)

    return {
        (path, quality): jpegs
        for path, (dataset, qualities) in wanted.items()
        for quality, jpegs in measure_bytes(dataset.beton, list(dict.fromkeys(qualities)), world, count).items()
    }


def bytes_of(dataset: Any, read: JpegBytes | None, measured: Measured) -> JpegBytes | None:
    """Return the bytes of a set's images as they are evaluated, from those that were ``read`` or ``measured``.

    None where no file has them, because they are encoded after the resize or at several qualities, or they were not measured.
    """
    quality = whole_quality(dataset.on_the_fly)
    if dataset.on_the_fly is not None and quality is None:
        return None
    if not isinstance(dataset, Dataset):
        return read
    return stored_bytes(dataset.beton) if quality is None else measured.get((dataset.path, quality))


def whole_quality(on_the_fly: OnTheFlyJpeg | None) -> int | None:
    """Return the quality at which whole images are encoded on the fly; None if they are not, or not at one quality."""
    if on_the_fly is None or on_the_fly.stage != "before_crop":
        return None
    return on_the_fly.quality if isinstance(on_the_fly.quality, int) else None


def stored_bytes(beton: Beton) -> JpegBytes:
    """Return the bytes of a beton's samples as they are stored, from its index."""
    return JpegBytes(len(beton), int(beton.sizes.sum()), _pixels(beton))


def measure_bytes(
    beton: Beton, qualities: Sequence[int], world: World, on_images: Callable[[int], None] | None = None
) -> dict[int, JpegBytes]:
    """Return the bytes of the JPEGs that ``encode`` would write of a beton's images at ``qualities``, 4:2:0.

    Every image is decoded once and encoded at every quality, by several threads and the processes of ``world`` together; all of
    them must call this. ``on_images`` is called with the number of images that this process has done since.

    Raises:
        ImageError: an image does not decode.
        BetonError: the file was changed since it was opened.
    """
    specs = [EncodeSpec(quality) for quality in qualities]
    mine = range(world.rank, len(beton), world.ranks)
    chunks = [mine[start : start + CHUNK] for start in range(0, len(mine), CHUNK)]
    totals = np.zeros(len(specs), np.int64)
    with open_executor(loading_workers(world.local_ranks)) as (executor, workers):
        for sizes, chunk in zip(
            map_in_order(partial(_encoded_sizes, beton, specs), chunks, executor, AHEAD * workers), chunks, strict=True
        ):
            totals += sizes
            if on_images is not None:
                on_images(len(chunk))
    summed = world.sum(torch.from_numpy(totals)).tolist()
    return {quality: JpegBytes(len(beton), total, _pixels(beton)) for quality, total in zip(qualities, summed, strict=True)}


def _encoded_sizes(beton: Beton, specs: Sequence[EncodeSpec], indices: Sequence[int]) -> np.ndarray:
    """Return the summed bytes of samples at every one of ``specs``, int64 [specs]."""
    totals = np.zeros(len(specs), np.int64)
    for index in indices:
        payload = beton.payload(index)
        try:
            if beton.modes[index] == MODE_JPEG:
                totals += [len(encoded.data) for encoded in reencode(payload, specs, MOST_PIXELS)]
            else:
                shape = int(beton.heights[index]), int(beton.widths[index]), 3
                pixels = np.frombuffer(payload, np.uint8).reshape(shape)
                totals += [len(encode_rgb(pixels, int(spec.quality))) for spec in specs]
        except (ImageError, ValueError) as error:
            raise ImageError(f"sample {index} of {beton.path}: {error}. Encode the file again.") from None
    return totals


def _pixels(beton: Beton) -> int:
    return int((beton.widths.astype(np.int64) * beton.heights).sum())
