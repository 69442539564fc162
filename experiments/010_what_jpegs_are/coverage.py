"""Share of samples whose intervals cover what the whole set has, from the table of a preview of the whole set.

    python coverage.py all.csv 200

draws samples of 200 of its images by the seeds 0 to 199, as ``jpegcurr preview --sample 200 --seed N`` does.
"""

import csv
import sys
from pathlib import Path

import numpy as np

from jpegcurr.analysis.preview.curve import estimate_curve
from jpegcurr.analysis.preview.distortion import Distortion
from jpegcurr.analysis.preview.measure import ImageMeasure, QualityMeasure
from jpegcurr.analysis.preview.picture_set import Picture
from jpegcurr.encoding.sources.base import FolderStore, Item, order_by_hash

SEEDS = 200
METRICS = ("bits_per_pixel", "psnr", "ssim")


def read_table(path: Path) -> list[ImageMeasure]:
    """Read the images of a table that ``jpegcurr preview --csv`` wrote, all of which could be read."""
    rows: dict[str, list[dict[str, str]]] = {}
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["image"], []).append(row)
    measures = []
    for name, jpegs in rows.items():
        size, width, height = (int(jpegs[0][column]) for column in ("file_bytes", "width", "height"))
        qualities = tuple(
            QualityMeasure(int(row["bytes"]), Distortion(float(row["psnr"]), float(row["ssim"]))) for row in jpegs
        )
        measures.append(
            ImageMeasure(Picture(name, FolderStore(Path()), Item(name, 0, size)), size, width, height, False, qualities)
        )
    return measures


def main() -> None:
    """Print, by quality, the share of covering intervals and the mean half width of that of the bytes."""
    path, size = Path(sys.argv[1]), int(sys.argv[2])
    with path.open(encoding="utf-8") as file:
        qualities = list(dict.fromkeys(row["quality"] for row in csv.DictReader(file)))
    measures = read_table(path)
    names = [measure.picture.name.encode() for measure in measures]
    total = sum(measure.size for measure in measures)
    truth = estimate_curve(qualities, measures, len(measures), total, 0)
    covered, widths = np.zeros((len(qualities), 1 + len(METRICS))), np.zeros(len(qualities))
    for seed in range(SEEDS):
        sample = [measures[place] for place in order_by_hash(names, seed)[:size]]
        for row, (point, whole) in enumerate(
            zip(estimate_curve(qualities, sample, len(measures), total, seed), truth, strict=True)
        ):
            within = [point.total.low <= whole.total.estimate <= point.total.high]
            for metric in METRICS:
                mean = getattr(point, metric)
                within.append(mean.low <= getattr(whole, metric).mean <= mean.high)
            covered[row] += within
            widths[row] += (point.total.high - point.total.low) / whole.total.estimate / 2
    print("quality, covered: bytes", *METRICS, "; half width of the bytes")
    for quality, shares, width in list(zip(qualities, covered / SEEDS, widths / SEEDS, strict=True))[1:]:
        print(quality, *(f"{share:.3f}" for share in shares), f"; {100 * width:.2f} %")


if __name__ == "__main__":
    main()
