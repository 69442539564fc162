"""Crop rectangles for many images at once, computed from their sizes before anything is decoded."""

import math

import numpy as np
from numpy.typing import NDArray

from jpegcurr.recipe.schema import ImageSection
from jpegcurr.training.sample_rng import SampleRng

Sizes = NDArray[np.int64]
TRIES = 10
TOP, LEFT, HEIGHT, WIDTH, TO_HEIGHT, TO_WIDTH = range(6)
LONGEST = 64  # shorter sides: of longer images validation resizes only so much of the centre
PIXELS_AT_ONCE = 1 << 26  # 64 crops of 1024 pixels a side: 0.2 GB, and 0.8 GB as the model takes them


def images_at_once(size: int, most: int) -> int:
    """Return how many crops of ``size`` pixels a side to hold together: ``most``, or fewer if they are large."""
    return max(1, min(most, PIXELS_AT_ONCE // (size * size)))


def blocks_around(start: int, length: int, end: int) -> tuple[int, int]:
    """Return first and end of the pixels along a side of ``end`` that decide what a JPEG at 4:2:0 shows of a part of it.

    A block depends on its own pixels; a pixel on its block and, because chroma is interpolated, on the next sample of chroma,
    two pixels further. So the pixels from a multiple of 16 on, to another or to the image's edge, can be encoded in place of
    the whole. There are at least 16 unless the image has fewer: libjpeg does not interpolate rows of two samples or fewer.
    """
    first = max(min(start - 2, end - 16), 0) // 16 * 16
    return first, min((start + length + 17) // 16 * 16, end)


def validation_views(heights: Sizes, widths: Sizes, image: ImageSection) -> Sizes:
    """Return what validation shows of images, int64 [n 6]: top, left, height, width, and the size to which that is resized.

    The input is the centre of the result: torchvision's ``Resize`` and ``CenterCrop``, with their rounding. The size is 0 by 0
    where the box itself is the crop, for ``val_resize: box``. The box is the whole image, unless that is ``LONGEST`` times as
    long as wide: one row of 65,500 pixels would have to be resized to 4 billion.
    """
    if image.val_resize == "box":
        return as_views(centre_boxes(heights, widths, image))
    views = whole_views(heights, widths, image)
    if image.squashed:
        views[:, [TO_HEIGHT, TO_WIDTH]] = _shorter_side(image)
    return views


def whole_views(heights: Sizes, widths: Sizes, image: ImageSection) -> Sizes:
    """Return whole images resized until the shorter side is ``size / val_crop`` pixels, with their aspect ratio, int64 [n 6].

    Columns are those of ``validation_views``, whose crop by ``shorter_side`` is the centre of this.
    """
    boxes = np.stack([np.minimum(heights, LONGEST * widths), np.minimum(widths, LONGEST * heights)], axis=1)
    starts = (np.stack([heights, widths], axis=1) - boxes) // 2
    shorter = boxes.min(axis=1, keepdims=True)
    return np.concatenate([starts, boxes, (_shorter_side(image) * boxes / shorter).astype(np.int64)], axis=1)


def _shorter_side(image: ImageSection) -> int:
    return math.floor(image.size / image.val_share)


def as_views(boxes: Sizes) -> Sizes:
    """Return crops, int64 [n 4], as views, int64 [n 6]."""
    return np.pad(boxes, ((0, 0), (0, 2)))


def centre_start(resized: int, size: int) -> int:
    """Return where the centre ``size`` of ``resized`` pixels begins: torchvision's ``round((resized - size) / 2)``, to even.

    numba compiles this function and the next.
    """
    half = (resized - size) // 2
    return half + ((resized - size) & half & 1)


def columns_first(height: int, width: int, to_height: int, to_width: int) -> bool:
    """Return whether Pillow, from version 13 on, resizes columns before rows: where heights shrink by over twice as much.

    The pixels between the two passes are rounded and clipped, so with bicubic's overshoot the order changes up to 22 levels.
    """
    return height > to_height and height - to_height > 2 * (width - to_width)


def centre_boxes(heights: Sizes, widths: Sizes, image: ImageSection) -> Sizes:
    """Return the crops that validation takes by ``val_resize: box``, int64 [n 4]: top, left, height, width.

    These are the centre squares of ``val_crop`` times the shorter side, rounded down (FFCV's ``get_center_crop``), or the whole
    images for ``val_crop: squash``.
    """
    if image.squashed:
        return np.stack([np.zeros_like(heights), np.zeros_like(heights), heights, widths], axis=1)
    sides = np.maximum((image.val_share * np.minimum(heights, widths)).astype(np.int64), 1)
    return np.stack([(heights - sides) // 2, (widths - sides) // 2, sides, sides], axis=1)


def square_boxes(heights: Sizes, widths: Sizes) -> Sizes:
    """Return the largest centre squares, int64 [n 4]: top, left, height, width."""
    sides = np.minimum(heights, widths)
    return np.stack([(heights - sides) // 2, (widths - sides) // 2, sides, sides], axis=1)


def random_shifts(count: int, padding: int, rng: SampleRng, stream: int) -> Sizes:
    """Return where the crop of an image padded by ``padding`` begins in the image itself, int64 [n 2]: row and column.

    Each is uniform from ``-padding`` to ``padding``: torchvision's ``RandomCrop(size, padding)`` of an image of that size. Uses
    two streams of ``rng``, from ``stream`` on.
    """
    if not padding:
        return np.zeros((count, 2), np.int64)
    return np.stack([rng.integer(stream + axis, -padding, padding) for axis in range(2)], axis=1)


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
