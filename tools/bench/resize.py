#!/usr/bin/env python3
"""The gain of decoding at a smaller scale before a resize, and its cost in exactness.

Every JPEG of a folder is reduced by several factors, with a full decode and with the decode that jpegcurr chooses, turn by turn
in one thread. The table has the time of decode and resize, the speed-up, and the PSNR between the two results. For comparison,
it also has the PSNR of quality 95 against the full decode: any further encoding costs at least that much.
"""

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import bench_parser, circumstances, positive, record

from jpegcurr.encoding.jpeg import codec
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Resize, decode_rgb, reencode
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.errors import ImageError

FACTORS = (3, 4, 6, 8, 12, 24)


@dataclass(frozen=True, slots=True)
class Row:
    """The results for one factor: milliseconds per image, and decibels against the full decode."""

    factor: int
    images: int
    full_ms: float
    scaled_ms: float
    psnr_median: float
    psnr_min: float
    psnr_q95: float


def measure(jpegs: Sequence[bytes], factor: int, name: str) -> Row | None:
    """Measure both ways, image by image; return None if no image is large enough to be decoded at a smaller scale."""
    times: dict[float, list[float]] = {math.inf: [], codec.HEADROOM: []}
    apart, q95 = [], []
    for data in jpegs:
        pixels: dict[float, Any] = {}
        opened = codec._open(data)
        resize = Resize("short", max(16, min(opened.width, opened.height) // factor), name)  # type: ignore[arg-type]
        size = resize.target(opened.width, opened.height)
        usual = codec.HEADROOM
        if codec._decode_scale(opened, size) == 1 or not opened.plain:
            continue
        for headroom in times:
            codec.HEADROOM = headroom
            start = time.perf_counter()
            pixels[headroom] = codec._resize(opened, resize, size)[0]
            times[headroom].append(time.perf_counter() - start)
            codec.HEADROOM = usual
        apart.append(psnr(pixels[math.inf], pixels[usual]))
        (encoded,) = reencode(_png(pixels[math.inf]), [EncodeSpec(95)])
        q95.append(psnr(pixels[math.inf][:, :, ::-1], decode_rgb(encoded.data)))
    if not apart:
        return None
    full, scaled = (1e3 * sum(seconds) / len(seconds) for seconds in times.values())
    return Row(factor, len(apart), full, scaled, statistics.median(apart), min(apart), statistics.median(q95))


def _png(bgr: np.ndarray) -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", bgr)[1])


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of 8-bit images in decibels."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else 99.0


def main() -> None:
    """Measure all factors and print a table."""
    parser = bench_parser(__doc__, folder=True)
    parser.add_argument("--filter", default="bicubic", help="filter of the resize (bicubic)")
    parser.add_argument("--limit", type=positive, default=200, help="number of images (200)")
    arguments = parser.parse_args()
    jpegs = []
    try:
        for source in open_sources(arguments.folder, limit=arguments.limit):
            jpegs += [source.store.read(item) for item in source.items]
    except ImageError as error:
        raise SystemExit(str(error)) from None
    print(f"{'factor':>6}{'images':>8}{'full ms':>9}{'ours ms':>9}{'ratio':>7}{'PSNR dB, median':>17}{'min':>7}{'q95':>7}")
    rows = [row for factor in FACTORS if (row := measure(jpegs, factor, arguments.filter))]
    for row in rows:
        print(
            f"{row.factor:>6}{row.images:>8}{row.full_ms:>9.2f}{row.scaled_ms:>9.2f}{row.full_ms / row.scaled_ms:>7.2f}"
            f"{row.psnr_median:>17.1f}{row.psnr_min:>7.1f}{row.psnr_q95:>7.1f}"
        )
    print("\n".join(f"{name}: {value}" for name, value in circumstances().items()))
    fields = Row.__dataclass_fields__
    results = [{name: round(getattr(row, name), 2) for name in fields} for row in rows]
    record(arguments.json, "resize", {"filter": arguments.filter, "rows": results})


if __name__ == "__main__":
    main()
