"""One HTML page that works offline: verdict, figures, and every image's maps on a shared scale."""

import base64
import io
import json
import shlex
import sys
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from jpegcurr.analysis.cam import CamImage, CamStudy, CamView
from jpegcurr.analysis.methods import OURS
from jpegcurr.analysis.similarity import Comparison, compare_views, similarity
from jpegcurr.encoding.manifest import library_versions
from jpegcurr.encoding.pictures import Pixels
from jpegcurr.files import write_json, write_text

SCHEMA_VERSION = 2

_EXPLAINED = {
    "clean": "each image's prediction in the first view, the same in all views",
    "label": "each image's label, the same in all views",
    "own": "each view's own prediction",
}
_NULLS = {"same class": "another image of the same class", "half the list": "another image"}


def write_report(study: CamStudy, path: Path) -> list[Comparison]:
    """Write the page to ``path`` and its figures to the same name with ``.json``; return the comparisons."""
    comparisons = compare_views(study)
    figures = _figures(study, comparisons)
    templates = Environment(loader=PackageLoader("jpegcurr.analysis"), autoescape=True, undefined=StrictUndefined)
    page = templates.get_template("report.html.jinja").render(
        study=study,
        names=[view_name(view, study) for view in study.views],
        verdict=figures["verdict"],
        warnings=_warnings(study),
        comparisons=comparisons,
        anchors=_anchors(comparisons),
        images=[_drawn(image) for image in _most_changed_first(study)],
        provenance=figures["provenance"],
    )
    write_json(path.with_suffix(".json"), figures)
    write_text(path, page)
    return comparisons


def _anchors(comparisons: list[Comparison]) -> list[dict[str, Any]]:
    """The rows that figures are read against: what hardly any change gives, and what maps of two images give."""
    if not comparisons:
        return []
    figures, null = comparisons[0].figures, _NULLS.get(comparisons[0].null_of)
    rows = {"the same images at quality 95": {name: each.ceiling for name, each in figures.items()}}
    rows |= {null: {name: each.null for name, each in figures.items()}} if null else {}
    return [{"name": name, "figures": row} for name, row in rows.items() if any(each.images for each in row.values())]


def view_name(view: CamView, study: CamStudy) -> str:
    """The quality, and the run where there are several."""
    runs = list(dict.fromkeys(each.run for each in study.views))
    if len(runs) == 1:
        return view.quality
    short = len({run.name for run in runs}) == len(runs)
    return f"{view.run.name if short else view.run}, {view.quality}"


def verdict(study: CamStudy, comparisons: list[Comparison]) -> list[str]:
    """What the figures say, a sentence or two for every compared view."""
    sentences = []
    reference = view_name(study.views[0], study)
    for view, each in zip(study.views[1:], comparisons, strict=True):
        alike, unrelated = _number(each.mean["pearson"]), _number(each.null["pearson"])
        null = _NULLS.get(each.null_of, "another image")
        maps = f"their maps correlate {alike} (maps of {null}: {unrelated})"
        changed = f"{each.flips} of {_count(study.images, 'prediction')} change"
        sentences.append(f"{reference} to {view_name(view, study)}: {changed}; {maps}.{_accuracy_sentence(each)}")
    if not sentences:
        sentences.append(f"One view of {_count(study.images, 'image')}: nothing to compare. Give more --qualities or runs.")
    return sentences


def _accuracy_sentence(each: Comparison) -> str:
    if not each.labelled:
        return ""
    before, after = (100 * right / each.labelled for right in (each.right_reference, each.right))
    said = f" Accuracy {before:.1f} % to {after:.1f} % on the same {each.labelled} labelled images"
    if each.p_value >= 0.05 and each.detectable >= 100:
        return f"{said}: too few to show any difference."
    if each.p_value >= 0.05:
        return (
            f"{said}: no detectable difference (lost {each.lost}, gained {each.gained}; a difference of "
            f"{each.detectable:.1f} points or more would show)."
        )
    return f"{said} (lost {each.lost}, gained {each.gained}; McNemar's p = {each.p_value:.2g})."


def _warnings(study: CamStudy) -> list[str]:
    found = []
    if study.skipped:
        names = "; ".join(f"{name}: {reason}" for name, reason in study.skipped[:5])
        found.append(f"{_count(study.skipped, 'file')} could not be read, and left out ({names}).")
    if study.found > len(study.images) + len(study.skipped):
        found.append(f"{len(study.images)} evenly spaced images of {study.found} are shown and counted (--limit).")
    dark = sum(1 for image in study.images for seen in image.seen if seen.cam.max() <= 0)
    if dark:
        found.append(f"{dark} maps are zero everywhere: nothing in them speaks for the class explained.")
    grid = study.images[0].seen[0].cam.shape
    if grid[0] * grid[1] < 25:
        found.append(
            f"The grid has only {grid[0]}x{grid[1]} cells: correlations over so few are coarse. An earlier --layer has more."
        )
    return found


def _most_changed_first(study: CamStudy) -> list[CamImage]:
    """Flipped predictions first, then the lowest correlation with the reference map."""

    def change(image: CamImage) -> tuple[bool, float]:
        first, others = image.seen[0], image.seen[1:]
        flipped = any(each.top[0][0] != first.top[0][0] for each in others)
        alike = [value for each in others if isfinite(value := similarity(first.cam, each.cam).pearson)]
        return not flipped, min(alike, default=1.0)

    return sorted(study.images, key=change)


def _drawn(image: CamImage) -> dict[str, Any]:
    """What the template needs of one image; pictures as data URIs, maps as short numbers."""
    return {
        "name": image.name,
        "truth": image.truth,
        "target": image.target,
        "flipped": any(seen.top[0][0] != image.seen[0].top[0][0] for seen in image.seen),
        "pictures": {quality: _data_uri(pixels) for quality, pixels in image.pictures.items()},
        "seen": [
            {
                "top": [{"name": name, "percent": f"{100 * share:.1f}"} for name, share in seen.top],
                "logit": f"{seen.logit:+.2f}",
                "pearson": _number(similarity(image.seen[0].cam, seen.cam).pearson),
                "cam": json.dumps([[float(f"{cell:.4g}") for cell in row] for row in seen.cam.tolist()]),
            }
            for seen in image.seen
        ],
    }


def _data_uri(pixels: Pixels) -> str:
    """WebP at quality 90: the page's pictures differ a little from the pixels that the model saw."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=90)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _provenance(study: CamStudy) -> dict[str, str]:
    packages = ("jpegcurr", "torch", "timm", "pillow", "simplejpeg", "opencv-python-headless")
    return {
        "Runs": ", ".join(dict.fromkeys(f"{view.run} ({view.weights} weights)" for view in study.views)),
        "Method": f"{'Grad-CAM' if study.method == OURS else study.method}, raw, at layer {study.layer}",
        "Class explained": _EXPLAINED[study.explains],
        "Qualities": "re-encoded at full resolution before the crop, as jpegcurr encode stores them; source is the file itself",
        "Decoder": "libjpeg's accurate DCT",
        "Computed on": study.runtime,
        "Command": shlex.join(["jpegcurr", *sys.argv[1:]]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(packages).items()),
    }


def _figures(study: CamStudy, comparisons: list[Comparison]) -> dict[str, Any]:
    """All that the page says, for machines; raw maps included."""
    return {
        "schema_version": SCHEMA_VERSION,
        "layer": study.layer,
        "views": [{"run": str(view.run), "weights": view.weights, "quality": view.quality} for view in study.views],
        "verdict": verdict(study, comparisons),
        "comparisons": [_finite(asdict(each)) for each in comparisons],
        "skipped": [{"file": name, "reason": reason} for name, reason in study.skipped],
        "provenance": _provenance(study),
        "images": [
            {
                "name": image.name,
                "truth": image.truth,
                "target": image.target,
                "seen": [
                    {"top": [list(pair) for pair in seen.top], "logit": seen.logit, "cam": seen.cam.tolist()}
                    for seen in image.seen
                ],
            }
            for image in study.images
        ],
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is undefined is null."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not isfinite(value) else value


def _number(value: float) -> str:
    return f"{value:.2f}" if isfinite(value) else "undefined"


def _count(things: tuple[object, ...], name: str) -> str:
    return f"{len(things)} {name}{'' if len(things) == 1 else 's'}"
