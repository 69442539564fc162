"""Crop rectangles for many images at once, computed from their sizes before anything is decoded."""

import numpy as np
from numpy.typing import NDArray

from jpegcurr.recipe.schema import ImageSection
from jpegcurr.training.sample_rng import SampleRng

Sizes = NDArray[np.int64]
TRIES = 10
TOP, LEFT, HEIGHT, WIDTH = range(4)
PIXELS_AT_ONCE = 1 << 26  # 64 crops of 1024 pixels a side: 0.2 GB, and 0.8 GB as the model takes them


def images_at_once(size: int, most: int) -> int:
    """Return how many crops of ``size`` pixels a side to hold together: ``most``, or fewer if they are large."""
    return max(1, min(most, PIXELS_AT_ONCE // (size * size)))


def centre_boxes(heights: Sizes, widths: Sizes, image: ImageSection) -> Sizes:
    """Return the crops that validation takes, int64 [n 4]: top, left, height, width.

    These are the centre squares of ``val_crop`` times the shorter side, rounded down (FFCV's ``get_center_crop``), or the whole
    images for ``val_crop: squash``.
    """
    if image.val_crop == "squash":
        return np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], axis=1)
    sides = np.maximum((image.val_crop * np.minimum(heights, widths)).astype(np.int64), 1)
    return np.stack([(heights - sides) // 2, (widths - sides) // 2, sides, sides], axis=1)


def random_boxes(heights: Sizes, widths: Sizes, image: ImageSection, rng: SampleRng, stream: int) -> Sizes:
    """Return torchvision's ``RandomResizedCrop.get_params`` for all images at once, int64 [n 4]: top, left, height, width.

    Up to ten times an area (``image.scale`` of the image's) and an aspect ratio (``image.ratio``, log-uniform) are drawn, and
    the first rectangle that fits is placed at random. If none fits, the crop is the largest centred one with an allowed ratio.
    Uses 40 streams of ``rng``, from ``stream`` on.
    """
    boxes = _fallback_boxes(heights, widths, image.ratio)
    pending = np.arange(len(heights))
    for first in range(stream, stream + 4 * TRIES, 4):
        candidates = _draw_boxes(heights[pending], widths[pending], image, rng.take(pending), first)
        fits = (candidates[:, HEIGHT] > 0) & (candidates[:, WIDTH] > 0)
        fits &= (candidates[:, HEIGHT] <= heights[pending]) & (candidates[:, WIDTH] <= widths[pending])
        boxes[pending[fits]] = candidates[fits]
        pending = pending[~fits]
        if not len(pending):
            break
    return boxes


def _draw_boxes(heights: Sizes, widths: Sizes, image: ImageSection, rng: SampleRng, stream: int) -> Sizes:
    low, high = image.scale
    areas = heights * widths * (low + (high - low) * rng.uniform(stream))
    low, high = np.log(image.ratio)
    aspects = np.exp(low + (high - low) * rng.uniform(stream + 1))
    box_widths = np.rint(np.sqrt(areas * aspects)).astype(np.int64)
    box_heights = np.rint(np.sqrt(areas / aspects)).astype(np.int64)
    tops = rng.integer(stream + 2, 0, heights - box_heights)
    lefts = rng.integer(stream + 3, 0, widths - box_widths)
    return np.stack([tops, lefts, box_heights, box_widths], axis=1)


def _fallback_boxes(heights: Sizes, widths: Sizes, ratio: tuple[float, float]) -> Sizes:
    aspects = widths / heights
    box_heights = np.where(aspects < ratio[0], np.rint(widths / ratio[0]).astype(np.int64), heights)
    box_widths = np.where(aspects > ratio[1], np.rint(heights * ratio[1]).astype(np.int64), widths)
    box_heights, box_widths = np.clip(box_heights, 1, heights), np.clip(box_widths, 1, widths)
    return np.stack([(heights - box_heights) // 2, (widths - box_widths) // 2, box_heights, box_widths], axis=1)
