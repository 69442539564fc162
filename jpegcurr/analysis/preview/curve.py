"""Rate and distortion of a set at JPEG qualities, estimated from a sample of its images, and the bytes of the whole set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isinf, nan, sqrt

import numpy as np
from numpy.typing import NDArray

from jpegcurr.analysis.preview.measure import Failure, ImageMeasure
from jpegcurr.analysis.stats import MeanCI, estimate_means


@dataclass(frozen=True, slots=True)
class SetBytes:
    """The bytes of a set's JPEGs at one quality, with the ends of the 95 % interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RatePoint:
    """A set at one quality: means over images with their 95 % intervals, and the bytes of all its images.

    Attributes:
        bits_per_pixel: 8 x bytes / pixels of an image.
        psnr: in dB, of the images in which a pixel differs; ``identical`` are the others, whose PSNR is infinite.
        ssim: of the images that have one; ``without_ssim`` are too small for it.
        total: the bytes of the whole set.
    """

    quality: str
    bits_per_pixel: MeanCI
    psnr: MeanCI
    ssim: MeanCI
    identical: int
    without_ssim: int
    total: SetBytes


def estimate_curve(
    qualities: Sequence[str], sample: Sequence[ImageMeasure | Failure], images: int, source_bytes: int | None, seed: int
) -> tuple[RatePoint, ...]:
    """Estimate every quality of a set of ``images`` images, whose files have ``source_bytes``, from a random sample of it.

    Intervals are percentile bootstraps over images (``estimate_means``), narrowed by sqrt(1 - sampled / images) because the
    sample is drawn without replacement: the interval of a set that was measured whole has no width. An image that cannot be
    read counts as 0 bytes in the total and nowhere else. The total is a ratio estimate (Cochran, Sampling Techniques, chapter
    6): the sample's share of its files' bytes, times those of the set, as large files make large JPEGs. Where the bytes of the
    set are unknown, it is the mean times the number of images.
    """
    measured = [one for one in sample if isinstance(one, ImageMeasure)]
    narrowed = sqrt(1 - len(sample) / images)
    points = []
    for number, quality in enumerate(qualities):
        psnr = np.array([one.qualities[number].distortion.psnr for one in measured])
        ssim = np.array([one.qualities[number].distortion.ssim for one in measured])
        rate = np.array([one.bits_per_pixel(number) for one in measured])
        mean_rate, mean_psnr, mean_ssim = _narrow(_means(np.stack([rate, psnr, ssim], axis=1), seed), narrowed)
        identical, without_ssim = sum(map(isinf, psnr)), int(np.isnan(ssim).sum())
        total = _estimate_total(sample, number, images, source_bytes, narrowed, seed)
        points.append(RatePoint(quality, mean_rate, mean_psnr, mean_ssim, identical, without_ssim, total))
    return tuple(points)


def _means(values: NDArray[np.float64], seed: int) -> list[MeanCI]:
    return estimate_means(values, seed=seed) if len(values) else [MeanCI(nan, nan, nan, 0)] * values.shape[1]


def _narrow(means: Sequence[MeanCI], factor: float) -> list[MeanCI]:
    """Return means whose intervals are ``factor`` times as wide; without any width, also those of one image."""
    if factor == 0:
        return [replace(mean, low=mean.mean, high=mean.mean) for mean in means]
    return [
        replace(mean, low=mean.mean + factor * (mean.low - mean.mean), high=mean.mean + factor * (mean.high - mean.mean))
        for mean in means
    ]


def _estimate_total(
    sample: Sequence[ImageMeasure | Failure], number: int, images: int, source_bytes: int | None, narrowed: float, seed: int
) -> SetBytes:
    sizes = np.array([one.qualities[number].size if isinstance(one, ImageMeasure) else 0 for one in sample], np.float64)
    files = np.array([max(0, one.size) for one in sample], np.float64)
    share = float(sizes.sum() / files.sum()) if source_bytes is not None and files.any() else 0.0
    rest = _narrow(_means((sizes - share * files)[:, None], seed), narrowed)[0]  # its mean is 0 unless the share is
    base = share * (source_bytes or 0)
    return SetBytes(base + images * rest.mean, base + images * rest.low, base + images * rest.high)
