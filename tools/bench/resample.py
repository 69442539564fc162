#!/usr/bin/env python3
"""Milliseconds per crop of the resize, by our compiled code and by OpenCV, Pillow and torch, in turns in one thread.

The crops are random-resized ones of photographs, as in training, and the libraries are called as the plain loader calls them.
"Levels apart" is the largest difference between the two, of 255. For "area" it covers only crops that grow on neither side,
because both loaders resize the others with OpenCV.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from common import bench_parser, circumstances, positive, record

from jpegcurr.encoding.jpeg.codec import decode_rgb
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import Interpolation
from jpegcurr.training.data.crops import HEIGHT, LEFT, TOP, WIDTH, random_boxes
from jpegcurr.training.data.decode_kernel import FILTERS
from jpegcurr.training.data.resample_kernel import resample
from jpegcurr.training.data.transforms import resize
from jpegcurr.training.sample_rng import SampleRng

Resize = Callable[[Pixels, tuple[int, int, int, int]], Pixels]


def crops_of(folder: Path, limit: int, size: int) -> list[tuple[Pixels, tuple[int, int, int, int]]]:
    """Return decoded images with the top, left, height and width of a crop of each."""
    images = [decode_rgb(source.store.read(item)) for source in open_sources(folder, limit=limit) for item in source.items]
    heights, widths = (np.array([image.shape[axis] for image in images]) for axis in (0, 1))
    boxes = random_boxes(heights, widths, ImageSection(size=size), SampleRng(0, 0, np.arange(len(images))), 0)
    return [(image, tuple(box[[TOP, LEFT, HEIGHT, WIDTH]].tolist())) for image, box in zip(images, boxes, strict=True)]


def compiled(size: int, interpolation: Interpolation) -> Resize:
    """Return a call of ``resample`` that allocates its output, as the libraries do."""

    def call(image: Pixels, box: tuple[int, int, int, int]) -> Pixels:
        out = np.empty((size, size, 3), np.uint8)
        resample(image, *box, out, FILTERS[interpolation])
        return out

    return call


def library(size: int, interpolation: Interpolation, image: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """Resize as the plain loader does: OpenCV's area, torch's bilinear, Pillow's bicubic."""
    top, left, height, width = box
    return resize(image[top : top + height, left : left + width], size, interpolation)


def measure(contender: Resize, crops: Sequence[tuple[Pixels, tuple[int, int, int, int]]]) -> float:
    """Return the milliseconds per crop."""
    start = time.perf_counter()
    for image, box in crops:
        contender(image, box)
    return 1000 * (time.perf_counter() - start) / len(crops)


def main() -> None:
    """Measure all filters and print a table."""
    parser = bench_parser(__doc__, folder=True, runs=5)
    parser.add_argument("--size", type=positive, default=224, help="side of the result in pixels (224)")
    parser.add_argument("--limit", type=positive, default=200, help="number of images (200)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    crops = crops_of(arguments.folder, arguments.limit, arguments.size)
    libraries: dict[Interpolation, str] = {"area": "OpenCV", "bilinear": "torch", "bicubic": "Pillow"}
    contenders: dict[tuple[Interpolation, str], Resize] = {}
    for interpolation, name in libraries.items():
        contenders[interpolation, "compiled"] = compiled(arguments.size, interpolation)
        contenders[interpolation, name] = partial(library, arguments.size, interpolation)
    times: dict[tuple[Interpolation, str], list[float]] = {key: [] for key in contenders}
    for turn, (key, contender) in product(range(arguments.runs + 1), contenders.items()):
        times[key].append(measure(contender, crops))
        if not turn:  # the warm-up, in which numba compiles
            times[key].clear()
    medians = {key: statistics.median(runs) for key, runs in times.items()}
    print(f"{'filter':<10}{'compiled ms':>12}{'library':>9}{'ms':>8}{'ratio':>7}{'levels apart':>14}")
    results = {}
    for interpolation, name in libraries.items():
        ours, theirs = (contenders[interpolation, key] for key in ("compiled", name))
        comparable = [crop for crop in crops if interpolation != "area" or min(crop[1][2:]) >= arguments.size]
        apart = max((int(np.abs(ours(*crop).astype(int) - theirs(*crop)).max()) for crop in comparable), default=0)
        mine, other = medians[interpolation, "compiled"], medians[interpolation, name]
        print(f"{interpolation:<10}{mine:>12.3f}{name:>9}{other:>8.3f}{other / mine:>7.1f}{apart:>14}")
        results[interpolation] = {"compiled_ms": round(mine, 3), f"{name}_ms": round(other, 3), "levels_apart": apart}
    counts = f"{len(crops)} crops to {arguments.size} pixels, {arguments.runs} runs after one warm-up"
    print("\n".join([counts, *(f"{name}: {value}" for name, value in circumstances().items())]))
    record(arguments.json, "resample", {"counts": counts, **results})


if __name__ == "__main__":
    main()
