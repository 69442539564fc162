"""What the page's script is given: views, classes, the examples' maps and predictions, as JSON that is safe in HTML."""

import base64
import json
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from jpegcurr.analysis.cam.results import CamStudy, ClassRow, Example, Map
from jpegcurr.analysis.class_names import full_name
from jpegcurr.analysis.report.images import Picture, Pictures, distances
from jpegcurr.analysis.report.views import arms, opening_view, qualities, view_names
from jpegcurr.text import sanitize

MAP_ROOM = 1_500_000  # characters that the maps may take on a page
_LEVELS = 65535
_UNSAFE = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def page_data(study: CamStudy, rows: Sequence[ClassRow], pictures: Pictures) -> dict[str, Any]:
    """Everything that the script draws and sorts; classes are places in its ``classes``."""
    names = _Numbered()
    coarse = map_pooling(study)
    several = arms(study)
    examples = [
        _example(study, example, picture, coarse, names)
        for example, picture in zip(study.examples, pictures.pictures, strict=True)
    ]
    sides = [-(-side // coarse) for side in study.grid]
    return {
        "views": [sanitize(name) for name in view_names(study)],
        "arms": [
            {"name": sanitize(arm.name), "views": [arm.views.get(quality, -1) for quality in qualities(study)]}
            for arm in several
        ],
        "qualities": list(qualities(study)),
        "opening": opening_view(study),
        "grid": sides,
        "own": study.explains == "own",
        "classes": list(names),
        "examples": examples,
        "rows": [class_row(row) for row in rows],
    }


def class_row(row: ClassRow) -> dict[str, Any]:
    """One class as the script and the template take it."""
    pearson = [round(value, 4) if isfinite(value) else None for value in row.pearson]
    return {
        "name": sanitize(full_name(row.name)),
        "images": row.images,
        "right": list(row.right),
        "flips": list(row.flips),
        "pearson": pearson,
    }


def to_script(data: Any) -> str:
    """``data`` as JSON in which nothing can end a script element or begin a comment."""
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_UNSAFE)


def map_pooling(study: CamStudy) -> int:
    """Of so many cells a side the page keeps the mean: 1, or more where all maps would take more than ``MAP_ROOM``."""
    rows, columns = study.grid
    maps = len(study.examples) * len(study.views)
    factor = 1
    while maps * -(-rows // factor) * -(-columns // factor) * 8 / 3 > MAP_ROOM and factor < max(rows, columns):
        factor += 1
    return factor


def pooled(cam: Map, factor: int) -> Map:
    """The means over blocks of ``factor`` cells a side [h w] -> [h/factor w/factor], rounded up: the last may be smaller."""
    if factor == 1:
        return cam
    places = [np.arange(0, side, factor) for side in cam.shape]
    sums = np.add.reduceat(np.add.reduceat(cam, places[0], axis=0), places[1], axis=1)
    sizes = [np.diff(np.append(start, side)) for start, side in zip(places, cam.shape, strict=True)]
    means: Map = (sums / np.outer(*sizes)).astype(np.float32)
    return means


class _Numbered(dict[str, int]):
    """Names in the order in which they were first asked for."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def _example(study: CamStudy, example: Example, picture: Picture, coarse: int, names: _Numbered) -> dict[str, Any]:
    truth = int(study.truth[example.index])
    return {
        "name": sanitize(study.names[example.index]),
        "truth": names[sanitize(full_name(study.classes[truth]))] if truth >= 0 else -1,
        "rules": list(example.rules),
        "changes": [[each.strength, each.webp] for each in picture.differences],
        "rms": [[round(value, 3) for value in row] for row in distances(example, qualities(study))],
        "seen": [
            {
                "top": [[names[sanitize(full_name(name))], round(share, 5)] for name, share in seen.top],
                "target": names[sanitize(full_name(seen.target))],
                "logit": round(seen.logit, 4) if isfinite(seen.logit) else None,
                **_packed(pooled(seen.cam, coarse)),
            }
            for seen in example.seen
        ],
    }


def _packed(cam: Map) -> dict[str, Any]:
    """A map as 16-bit levels, base64, of its largest value: a number is off by a hundred-thousandth of that."""
    peak = float(f"{float(cam.max()):.7g}")
    if not (isfinite(peak) and peak > 0):  # as the script takes it, dark
        cam, peak = np.zeros_like(cam), 0.0
    levels = np.clip(np.rint(cam.astype(np.float64) / (peak or 1.0) * _LEVELS), 0, _LEVELS)
    return {"peak": peak, "cam": base64.b64encode(levels.astype("<u2").tobytes()).decode("ascii")}
