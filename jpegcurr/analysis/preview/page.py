"""The page of a preview: pictures with a divider, the curve of rate and distortion, and the bytes of the set, in one file."""

import base64
import logging
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jpegcurr.analysis.html.line_chart import Series, page_chart
from jpegcurr.analysis.html.page import hash_script, source, template
from jpegcurr.analysis.preview.measure import ImageMeasure
from jpegcurr.analysis.preview.pictures import PagePicture
from jpegcurr.analysis.preview.results import AMPLIFIED, Preview, provenance, summarise
from jpegcurr.files import write_text
from jpegcurr.text import megabytes

log = logging.getLogger("jpegcurr")

LARGEST = 10_000_000  # bytes of a page
LISTED = 50  # images that could not be read
_SPARE = 50_000  # for what windows add to the text


def write_page(preview: Preview, path: Path) -> None:
    """Write the page to ``path``, whole or not at all."""
    text = render(preview)
    write_text(path, text)
    if (size := len(text.encode("utf-8"))) > LARGEST:
        log.warning("%s has %s, which opens slowly; fewer --images or --qualities make it smaller", path, megabytes(size))


def room_for_pictures(preview: Preview, measures: Sequence[ImageMeasure]) -> int:
    """Return the characters that the files of pictures of these images may take for the page to be smaller than ``LARGEST``."""
    empty = tuple(PagePicture(measure, (0, 0, 1, 1), b"", (b"",) * len(preview.specs[1:])) for measure in measures)
    return LARGEST - _SPARE - len(render(replace(preview, pictures=empty)).encode("utf-8"))


def render(preview: Preview) -> str:
    """Return the page: it needs no network and no other file, and without its script it shows all pictures side by side."""
    script = source("preview.js")
    page: str = template("jpegcurr.analysis", "preview.html.jinja").render(
        preview=preview,
        qualities=preview.qualities[1:],
        summary=summarise(preview),
        provenance=provenance(preview),
        charts=draw_charts(preview),
        pictures=[_picture(picture, preview.qualities) for picture in preview.pictures],
        listed=LISTED,
        amplified=AMPLIFIED,
        style=source("page.css") + source("preview.css"),
        script=script,
        script_hash=hash_script(script),
    )
    return page


def draw_charts(preview: Preview) -> dict[str, Markup]:
    """Return the charts of PSNR and of SSIM over bits a pixel, by metric; none that would have fewer than two points."""
    charts = {}
    for metric, label in (("psnr", "PSNR, dB"), ("ssim", "SSIM")):
        points = [(point, getattr(point, metric)) for point in preview.points[1:]]
        points = sorted((pair for pair in points if isfinite(pair[1].mean)), key=lambda pair: pair[0].bits_per_pixel.mean)
        if len(points) > 1:
            rates = [point.bits_per_pixel.mean for point, _ in points]
            y, low, high = ([getattr(mean, part) for _, mean in points] for part in ("mean", "low", "high"))
            marks = [(rate, point.quality) for rate, (point, _) in zip(rates, points, strict=True)]
            series = [Series("", y, low, high, rates)]
            charts[metric] = page_chart(series, marks=marks, x_label="bits a pixel", y_label=label)
    return charts


def _picture(picture: PagePicture, qualities: Sequence[str]) -> dict[str, Any]:
    """Return a picture as the template takes it; its first shot is the source."""
    measure = picture.measure
    width, height = picture.size
    rows = list(zip(qualities, measure.qualities, map(measure.bits_per_pixel, range(len(qualities))), strict=True))
    shots = [("source", _uri(picture.source_type, picture.source))]
    shots += [(quality, _uri("image/jpeg", data)) for quality, data in zip(qualities[1:], picture.jpegs, strict=True)]
    return {
        "name": measure.picture.name,
        "measure": measure,
        "window": picture.window,
        "width": width,
        "height": height,
        "rows": rows if measure.converted else rows[1:],
        "shots": shots,
        "source_bits": 8 * measure.size / (measure.width * measure.height),
    }


def _uri(kind: str, data: bytes) -> Markup:
    return Markup("data:{};base64,{}").format(kind, base64.b64encode(data).decode("ascii"))
