"""Where to crop: rectangles for many images at once, from their sizes alone and before anything is decoded."""

import numpy as np
from numpy.typing import NDArray

from jpegcurr.recipe.schema import ImageSection
from jpegcurr.training.sample_rng import SampleRng

Sizes = NDArray[np.int64]
TRIES = 10
TOP, LEFT, HEIGHT, WIDTH = range(4)


def centre_boxes(heights: Sizes, widths: Sizes, image: ImageSection) -> Sizes:
    """The centre squares of ``val_crop`` times the shorter side, rounded down (FFCV's ``get_center_crop``); all, if squashed.

    Int64 [n 4]: top, left, height, width.
    """
    if image.val_crop == "squash":
        return np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], axis=1)
    sides = np.maximum((image.val_crop * np.minimum(heights, widths)).astype(np.int64), 1)
    return np.stack([(heights - sides) // 2, (widths - sides) // 2, sides, sides], axis=1)


def random_boxes(heights: Sizes, widths: Sizes, image: ImageSection, rng: SampleRng, stream: int) -> Sizes:
    """torchvision's ``RandomResizedCrop.get_params`` for all images at once, int64 [n 4]: top, left, height, width.

    Ten times an area (``image.scale`` of the image's) and an aspect ratio (``image.ratio``, log-uniform) are drawn, and the
    first rectangle that fits is placed anywhere; else it is the largest in the centre with an allowed ratio. Takes 40
    streams of ``draws`` from ``stream`` on.
    """
    boxes = _fallback_boxes(heights, widths, image.ratio)
    open_ = np.arange(len(heights))
    for first in range(stream, stream + 4 * TRIES, 4):
        tried = _tried_boxes(heights[open_], widths[open_], image, rng.take(open_), first)
        fits = (tried[:, HEIGHT] > 0) & (tried[:, WIDTH] > 0)
        fits &= (tried[:, HEIGHT] <= heights[open_]) & (tried[:, WIDTH] <= widths[open_])
        boxes[open_[fits]] = tried[fits]
        open_ = open_[~fits]
        if not len(open_):
            break
    return boxes


def _tried_boxes(heights: Sizes, widths: Sizes, image: ImageSection, rng: SampleRng, stream: int) -> Sizes:
    low, high = image.scale
    areas = heights * widths * (low + (high - low) * rng.uniform(stream))
    low, high = np.log(image.ratio)
    aspects = np.exp(low + (high - low) * rng.uniform(stream + 1))
    wide = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    high_ = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    tops = rng.integer(stream + 2, 0, heights - high_)
    lefts = rng.integer(stream + 3, 0, widths - wide)
    return np.stack([tops, lefts, high_, wide], axis=1)


def _fallback_boxes(heights: Sizes, widths: Sizes, ratio: tuple[float, float]) -> Sizes:
    aspects = widths / heights
    high = np.where(aspects < ratio[0], np.rint(widths / ratio[0]).astype(np.int64), heights)
    wide = np.where(aspects > ratio[1], np.rint(heights * ratio[1]).astype(np.int64), widths)
    high, wide = np.clip(high, 1, heights), np.clip(wide, 1, widths)
    return np.stack([(heights - high) // 2, (widths - wide) // 2, high, wide], axis=1)
