"""Everything that a preview says, as one frozen object, in sentences, and as JSON and CSV."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isnan
from pathlib import Path
from typing import Any

from jpegcurr.analysis.preview.curve import RatePoint
from jpegcurr.analysis.preview.measure import Failure, ImageMeasure
from jpegcurr.analysis.preview.pictures import PagePicture
from jpegcurr.analysis.stats import RESAMPLES
from jpegcurr.encoding.jpeg.codec import LIBRARIES, EncodeSpec
from jpegcurr.files import csv_writer, json_values
from jpegcurr.system import library_versions
from jpegcurr.text import join_words, sanitize

SCHEMA_VERSION = 1
FEW = 30  # images, below which a percentile bootstrap is narrower than it should be
AMPLIFIED = 8  # times the error, on the page
CSV_COLUMNS = ("image", "width", "height", "file_bytes", "quality", "bytes", "bits_per_pixel", "psnr", "ssim", "shown", "error")


@dataclass(frozen=True, slots=True)
class Preview:
    """A set of images at JPEG qualities.

    Attributes:
        where: the set in words; ``images`` is its number of images, and ``source_bytes`` those of their files, None if unknown.
        specs: the encodings, ``source`` first.
        seed: of the order in which images are drawn, of which ``measured`` and ``failures`` together are the first.
        named: True if the images were named one by one, so that all of them are measured and shown.
        measured: the images that could be read, in that order; ``failures`` are those that could not.
        points: the set at every encoding, in the order of ``specs``.
        side: pixels a side from which on a picture is a window; ``pictures`` are those of the page.
    """

    where: str
    images: int
    source_bytes: int | None
    specs: tuple[EncodeSpec, ...]
    seed: int
    named: bool
    measured: tuple[ImageMeasure, ...]
    failures: tuple[Failure, ...]
    points: tuple[RatePoint, ...]
    side: int
    pictures: tuple[PagePicture, ...]

    @property
    def qualities(self) -> tuple[str, ...]:
        """The names of the encodings, ``source`` first, then numbers."""
        return tuple(str(spec.quality) for spec in self.specs)

    @property
    def sampled(self) -> int:
        """The number of images that were drawn, with those that could not be read."""
        return len(self.measured) + len(self.failures)

    @property
    def converted(self) -> int:
        """The number of measured images whose own bytes cannot be the quality ``source``."""
        return sum(measure.converted for measure in self.measured)

    @property
    def windowed(self) -> int:
        """The number of pictures that are windows."""
        return sum(picture.window is not None for picture in self.pictures)

    @property
    def file_bytes(self) -> float:
        """The bytes of the set's files: those of the listing, or the sample's mean times the number of images."""
        if self.source_bytes is not None:
            return self.source_bytes
        sizes = [measure.size for measure in self.measured] + [max(0, failure.size) for failure in self.failures]
        return self.images * sum(sizes) / self.sampled

    @property
    def unit(self) -> tuple[str, int]:
        """The unit of sizes of the whole set, and its bytes."""
        return ("MB", 1_000_000) if self.file_bytes >= 10_000_000 else ("kB", 1000)

    @property
    def rows(self) -> tuple[RatePoint, ...]:
        """The points that a table shows: ``source`` only where encode would store other bytes than the files'."""
        return self.points if self.converted else self.points[1:]

    def as_dict(self) -> dict[str, Any]:
        """Return everything that the page says, as plain values for JSON: None for what is undefined or infinite."""
        resize = self.specs[0].resize
        values = {
            "schema_version": SCHEMA_VERSION,
            "where": self.where,
            "images": self.images,
            "source_bytes": self.source_bytes,
            "qualities": list(self.qualities),
            "subsampling": self.specs[-1].subsampling,
            "resize": asdict(resize) if resize else None,
            "seed": self.seed,
            "sampled": self.sampled,
            "converted": self.converted,
            "summary": summarise(self),
            "curve": [_point_values(point, self.file_bytes) for point in self.points],
            "window": self.side,
            "pictures": [
                {
                    **_measure_values(picture.measure, self.qualities),
                    "window": list(picture.window) if picture.window else None,
                }
                for picture in self.pictures
            ],
            "unread": [{"image": failure.picture.place, "reason": failure.reason} for failure in self.failures],
            "provenance": provenance(self),
        }
        plain: dict[str, Any] = json_values(values)
        return plain


def _point_values(point: RatePoint, source_bytes: float) -> dict[str, Any]:
    means = {name: asdict(getattr(point, name)) for name in ("bits_per_pixel", "psnr", "ssim")}
    total = {name: None if isnan(value) else round(value) for name, value in asdict(point.total).items()}
    share = point.total.estimate / source_bytes if source_bytes else None
    counts = {"identical": point.identical, "without_ssim": point.without_ssim}
    return {"quality": point.quality, **means, **counts, "set_bytes": total, "share_of_source": share}


def _measure_values(measure: ImageMeasure, qualities: tuple[str, ...]) -> dict[str, Any]:
    rows = [
        {
            "quality": quality,
            "bytes": one.size,
            "bits_per_pixel": measure.bits_per_pixel(number),
            "psnr": one.distortion.psnr,
            "ssim": one.distortion.ssim,
            "identical": one.identical,
        }
        for number, (quality, one) in enumerate(zip(qualities, measure.qualities, strict=True))
    ]
    size = {"width": measure.width, "height": measure.height, "bytes": measure.size, "converted": measure.converted}
    return {"image": measure.picture.name, **size, "qualities": rows}


def write_csv(preview: Preview, path: Path) -> None:
    """Write a row for every measured image and encoding, then one for every image that could not be read."""
    with csv_writer(path) as table:
        table.writerow(CSV_COLUMNS)
        table.writerows(_csv_rows(preview))


def _csv_rows(preview: Preview) -> Iterator[list[Any]]:
    shown = {id(picture.measure) for picture in preview.pictures}
    for measure in preview.measured:
        for number, (quality, one) in enumerate(zip(preview.qualities, measure.qualities, strict=True)):
            head = [measure.picture.name, measure.width, measure.height, measure.size, quality, one.size]
            metrics = [measure.bits_per_pixel(number), one.distortion.psnr, one.distortion.ssim]
            yield [*head, *("" if isnan(value) else value for value in metrics), int(id(measure) in shown), ""]
    for failure in preview.failures:
        size = failure.size if failure.size >= 0 else ""
        yield [failure.picture.name, "", "", size, *[""] * 5, 0, failure.reason]


def summarise(preview: Preview) -> list[str]:
    """Return what was measured, how it was chosen and what is shown, in sentences."""
    return list(
        filter(
            None, (_describe_set(preview), _describe_sample(preview), _describe_identical(preview), _describe_shown(preview))
        )
    )


def _describe_set(preview: Preview) -> str:
    images, name = _count(preview.images, "image"), sanitize(preview.where)
    unit, unit_bytes = preview.unit
    known = preview.source_bytes is not None
    size = f"{preview.file_bytes / unit_bytes:,.1f} {unit}" if known else "of sizes that are not listed"
    text = f"{name}: {images}, {size}."
    if preview.converted:
        resized = "or larger than it is to be" if preview.specs[0].resize else ""
        which = (
            f"{_count(preview.converted, 'measured image')} {'is' if preview.converted == 1 else 'are'} no plain JPEG {resized}"
        )
        text += f" {which.rstrip()}: the quality source, as encode stores it, is then a JPEG of 95, 4:4:4."
    return text


def _describe_sample(preview: Preview) -> str:
    unread = len(preview.failures)
    lost = f" {_count(unread, 'image')} could not be read: encode leaves them out, so they add no bytes." if unread else ""
    if preview.sampled == preview.images:
        return f"Every image was measured, so no number is an estimate.{lost}"
    few = f" Of fewer than {FEW} images, intervals are too narrow." if preview.sampled < FEW else ""
    return (
        f"Means and sizes are estimated from {preview.sampled:,} of them, the first in the order that seed {preview.seed} "
        f"gives, with 95 % intervals.{few}{lost}"
    )


def _describe_identical(preview: Preview) -> str:
    """Say at which qualities an image is left out of the mean PSNR, as it has an infinite one."""
    left_out = [f"{_count(point.identical, 'image')} at {point.quality}" for point in preview.points[1:] if point.identical]
    return (
        f"No pixel differs in {join_words(left_out)}: left out of the mean PSNR, which is infinite there." if left_out else ""
    )


def _describe_shown(preview: Preview) -> str:
    count = len(preview.pictures)
    if not count:
        return ""
    rule = "as named" if preview.named else f"the first readable in the order that seed {preview.seed} gives"
    text = f"{_count(count, 'picture')} on the page: {rule}."
    if preview.windowed:
        text += (
            f" {preview.windowed} of more than {preview.side} pixels a side {'shows' if preview.windowed == 1 else 'show'} a "
            "window of that size in the middle, at full resolution; every number is of the whole image."
        )
    return text


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def provenance(preview: Preview) -> dict[str, str]:
    """Return how the numbers and pictures came about, by name."""
    resize, subsampling = preview.specs[0].resize, preview.specs[-1].subsampling
    kept = "that of the source" if subsampling == "keep" else ":".join(subsampling)
    resized = (
        f"images whose {'longer' if resize.side == 'max' else 'shorter'} side exceeds {resize.pixels} pixels are shrunk to it "
        f"first ({resize.filter}); what they are compared with is the shrunk image"
        if resize
        else "none"
    )
    return {
        "Encoder": f"OpenCV's libjpeg, chroma {kept}; the entropy-coded data of Pillow's save(quality=...)",
        "Resize": resized,
        "Source": "the file's own pixels, upright, in RGB, without its colour profile and transparency",
        "PSNR": "of all pixels and the three channels together, peak 255, scikit-image's; the mean is over the images in which "
        "a pixel differs",
        "SSIM": "scikit-image's with channel_axis=-1: RGB, uniform window of 7 x 7, mean over the channels; none below 7 "
        "pixels a side",
        "Bits a pixel": "8 x bytes of the JPEG / pixels, mean over images",
        "Intervals": f"95 %, percentile bootstrap over images ({RESAMPLES:,} draws), narrowed by sqrt(1 - sampled / images)",
        "Whole set": "the sample's share of its files' bytes, times those of all files"
        if preview.source_bytes is not None
        else "the sample's mean, times the number of images",
        "Order": f"BLAKE2b of (seed {preview.seed}, name)" if not preview.named else "as named",
        "Pictures": "the JPEGs' own bytes. Of windows, JPEGs of the same blocks, whose outermost pixels may differ. "
        "Their source, and that of files that are no plain JPEG, is WebP without loss. Metadata and colour profiles are gone",
        "Error": f"128 + {AMPLIFIED} x (JPEG - source) of every channel, clipped to 0 to 255, of the pixels as this browser "
        "decodes them",
        "Command": shlex.join(["jpegcurr", *(sanitize(argument) for argument in sys.argv[1:])]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items()),
    }
