"""Distortion of an image by its JPEG: PSNR and SSIM, equal to scikit-image's.

Both are of uint8 RGB with a data range of 255, as ``skimage.metrics.peak_signal_noise_ratio(a, b)`` and
``structural_similarity(a, b, channel_axis=-1)`` have them. PSNR is of the mean square over all pixels and channels. SSIM
(Wang et al., IEEE Trans. Image Process. 13:600, 2004) has a uniform window of 7 x 7 and sample covariances, and is the mean
over the windows that lie inside the image and over the three channels.
"""

from dataclasses import dataclass
from math import inf, log10, nan

import cv2
import numpy as np

from jpegcurr.encoding.jpeg.pillow import Pixels

WINDOW = 7  # pixels a side, of SSIM
_AREA = WINDOW * WINDOW
_STRIP = 1 << 16  # pixels whose sums are held at a time, some 10 MB, however large the image is
# K1 and K2 of the paper, times 255, squared; then times what turns means and covariances into sums of whole numbers.
_LUMINANCE = (0.01 * 255) ** 2 * _AREA * _AREA
_CONTRAST = (0.03 * 255) ** 2 * _AREA * (_AREA - 1)


@dataclass(frozen=True, slots=True)
class Distortion:
    """PSNR in dB, infinite for equal pixels, and SSIM, at most 1; nan for an image with a side of fewer than 7 pixels."""

    psnr: float
    ssim: float


def measure_distortion(reference: Pixels, shown: Pixels) -> Distortion:
    """Compare two images of one size, uint8 [h w 3].

    Raises:
        ValueError: their sizes differ.
    """
    if reference.shape != shown.shape:
        raise ValueError(f"images of {reference.shape} and {shown.shape} cannot be compared")
    squares = float(cv2.norm(reference, shown, cv2.NORM_L2SQR))
    if not squares:
        return Distortion(inf, nan if min(reference.shape[:2]) < WINDOW else 1.0)
    return Distortion(10 * log10(255**2 * reference.size / squares), _structural_similarity(reference, shown))


def _structural_similarity(reference: Pixels, shown: Pixels) -> float:
    height, width, channels = map(int, reference.shape)
    down, across = height - WINDOW + 1, width - WINDOW + 1  # windows
    if min(down, across) < 1:
        return nan
    rows, total = max(4 * WINDOW, _STRIP // width), 0.0
    for top in range(0, down, rows):
        end = min(top + rows, down) + WINDOW - 1
        total += float(_window_similarities(reference[top:end], shown[top:end]).sum())
    return total / (down * across * channels)


def _window_similarities(a: Pixels, b: Pixels) -> np.ndarray:
    """Return the SSIM of every window and channel, float64 [h-6 w-6 3].

    A window's sums, and the products of them below, are whole numbers under 2**31, so only the last line rounds.
    """
    sum_a, sum_b = _window_sums(a), _window_sums(b)
    square_a, square_b = np.multiply(a, a, dtype=np.uint16), np.multiply(b, b, dtype=np.uint16)
    sum_squares = _window_sums(np.add(square_a, square_b, dtype=np.int32))
    sum_products = _window_sums(np.multiply(a, b, dtype=np.uint16))
    means = sum_a * sum_b
    mean_squares = sum_a * sum_a + sum_b * sum_b
    upper = (2 * means + _LUMINANCE) * (2 * (_AREA * sum_products - means) + _CONTRAST)
    lower = (mean_squares + _LUMINANCE) * (_AREA * sum_squares - mean_squares + _CONTRAST)
    similarities: np.ndarray = upper / lower
    return similarities


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Return the sum of every window that lies inside, int32 [h-6 w-6 3]."""
    sums = cv2.boxFilter(values, cv2.CV_32S, (WINDOW, WINDOW), normalize=False, borderType=cv2.BORDER_CONSTANT)
    half = WINDOW // 2
    return np.asarray(sums)[half:-half, half:-half]
