"""The page's part on one picture, as HTML, and its numbers as plain values for JSON."""

import base64
from dataclasses import dataclass
from math import isfinite
from typing import Any

import cv2
import numpy as np

from jpegcurr.analysis.cam.results import Map
from jpegcurr.analysis.cam.similarity import METRICS, Metric
from jpegcurr.analysis.class_names import readable_name
from jpegcurr.analysis.demo.comparison import AMPLIFIED, ModelComparison, PictureComparison
from jpegcurr.analysis.html.page import template
from jpegcurr.encoding.jpeg.codec import EncodeSpec, Resize, encode_rgb, reencode
from jpegcurr.encoding.jpeg.limits import MOST_PIXELS
from jpegcurr.encoding.jpeg.pillow import Pixels

LONGEST_SHOWN = 1600  # pixels of a picture's longer side; a larger one is shown smaller
_SHOWN_QUALITY = 95  # of the error, and of pictures that a browser may not show as they are
_OPACITY = 0.75
_SIGNED = ("2166ac", "92c5de", "f7f7f7", "fdae61", "b35806")  # the page of ``cam`` has the same colours


@dataclass(frozen=True, slots=True)
class _Panel:
    """A map over its picture, as the address of a PNG, and the ends of its scale."""

    address: str
    low: float
    high: float


def picture_values(comparison: PictureComparison) -> dict[str, Any]:
    """Return all numbers of a comparison as plain values; None where a metric is undefined."""
    return {
        "file": comparison.file.name,
        "width": comparison.width,
        "height": comparison.height,
        "quality": comparison.quality,
        "source_bytes": len(comparison.source),
        "jpeg_bytes": len(comparison.jpeg),
        "source_kept_by_encode": comparison.kept,
        "error_rms": comparison.rms,
        "models": [_model_values(model) for model in comparison.models],
    }


def _model_values(comparison: ModelComparison) -> dict[str, Any]:
    run = comparison.model.run
    before, after = comparison.probabilities.tolist()
    return {
        "model": str(run.path),
        "weights": run.weights,
        "layer": comparison.model.layer,
        "explained": run.classes[comparison.target],
        "likeliest": [
            {"class": run.classes[label], "source": before[label], "jpeg": after[label], "change": after[label] - before[label]}
            for label in comparison.likeliest()
        ],
        "similarity": {name: value if isfinite(value) else None for name, value in comparison.similarity.items()},
        "maps": {"source": comparison.maps[0].tolist(), "jpeg": comparison.maps[1].tolist()},
    }


def render_picture(comparison: PictureComparison) -> str:
    """Return the comparison as HTML, with its pictures inside; names in it are escaped."""
    error = encode_rgb(comparison.error, _SHOWN_QUALITY, "444")
    scale = min(1.0, LONGEST_SHOWN / max(comparison.width, comparison.height))
    return template("jpegcurr.analysis", "demo.html.jinja").render(
        picture=comparison,
        amplified=AMPLIFIED,
        source=_shown(comparison.source),
        jpeg=_shown(comparison.jpeg),
        error=_shown(error),
        scale=scale,
        models=[_model_parts(model) for model in comparison.models],
    )


def _shown(data: bytes) -> str:
    """Return an image as the address of a JPEG: its own bytes, if it is a plain JPEG that is small enough."""
    # The limits of the user were kept when it was first read; this is a picture that was already decoded once.
    (shown,) = reencode(data, [EncodeSpec("source", resize=Resize("max", LONGEST_SHOWN))], MOST_PIXELS)
    return _address("jpeg", shown.data)


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _model_parts(comparison: ModelComparison) -> dict[str, Any]:
    """Return what the template shows of one model."""
    run = comparison.model.run
    before, after = comparison.probabilities
    first, second = (int(row.argmax()) for row in comparison.probabilities)
    rows = [
        {
            "name": readable_name(run.classes[label]),
            "title": run.classes[label],
            "before": float(before[label]),
            "after": float(after[label]),
            "change": _signed(100 * float(after[label] - before[label])),
            "first": label == first,
            "second": label == second,
        }
        for label in comparison.likeliest()
    ]
    return {
        "path": str(run.path),
        "weights": run.weights,
        "layer": comparison.model.layer,
        "names_known": run.names_known,
        "grid": comparison.maps.shape[1:],
        "target": readable_name(run.classes[comparison.target]),
        "changed": first != second,
        "second": readable_name(run.classes[second]),
        "rows": rows,
        "panels": _draw_maps(comparison),
        "dark": [not bool(cells.any()) for cells in comparison.maps],
        "metrics": [(metric.label, _metric_text(comparison.similarity[name], metric)) for name, metric in METRICS.items()],
    }


def _metric_text(value: float, metric: Metric) -> str:
    if not isfinite(value):
        return "undefined"
    return _signed(value, metric.digits) if metric.signed else f"{value:.{metric.digits}f}"


def _signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign, which zero does not have."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def _draw_maps(comparison: ModelComparison) -> list[_Panel]:
    """Draw both maps on one scale over their crops, and the second less the first on a scale of its own."""
    before, after = comparison.maps
    high, change = float(comparison.maps.max()), after - before
    most = float(np.abs(change).max())
    return [
        _Panel(_paint(before, high, comparison.views[0]), 0, high),
        _Panel(_paint(after, high, comparison.views[1]), 0, high),
        _Panel(_paint(change, most, comparison.views[1], signed=True), -most, most),
    ]


def _paint(cells: Map, end: float, view: Pixels, *, signed: bool = False) -> str:
    """Paint a map over a crop in grey, as the page of ``cam`` does: the lower a value, the less it covers.

    Cells are interpolated as numbers and coloured afterwards, so that no colour appears that the scale does not have.
    """
    size = view.shape[1], view.shape[0]
    shares = cells / end if end > 0 else np.zeros_like(cells)
    values = np.asarray(cv2.resize(shares, size, interpolation=cv2.INTER_LINEAR), np.float32)
    colours = _signed_colours(values) if signed else _viridis(values)
    cover = _OPACITY * np.clip(0.1 + 1.2 * np.abs(values), 0, 1)[..., None]
    grey = cv2.cvtColor(view, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    painted = np.rint((1 - cover) * grey + cover * colours).astype(np.uint8)
    _, png = cv2.imencode(".png", cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
    return _address("png", png.tobytes())


def _viridis(values: Map) -> Map:
    """Return the colours of values of 0 to 1, [h w], as RGB, float32 [h w 3]."""
    bgr = cv2.applyColorMap(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    return bgr[..., ::-1].astype(np.float32)


def _signed_colours(values: Map) -> Map:
    """Return the colours of values of -1 to 1, [h w]: from blue over white to orange, as RGB, float32 [h w 3]."""
    stops = np.array([list(bytes.fromhex(stop)) for stop in _SIGNED], np.float32)
    places = np.linspace(-1, 1, len(stops))
    return np.stack([np.interp(values, places, stops[:, channel]) for channel in range(3)], axis=-1).astype(np.float32)
