"""The sentences of the report: what the figures say, what to be careful with, and where it all comes from."""

import shlex
import sys
from collections.abc import Sequence
from math import isfinite

from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.prediction.contact_sheet import shown
from jpegcurr.analysis.cam.methods import OURS
from jpegcurr.analysis.report.views import arms, qualities, view_names
from jpegcurr.analysis.cam.similarity import Comparison
from jpegcurr.encoding.beton.manifest import library_versions

EXPLAINED = {
    "clean": "each image's prediction in the first view, the same in all views",
    "label": "each image's label, the same in all views",
    "own": "each view's own prediction",
}
NULLS = {"same class": "another image of the same class", "half the list": "another image"}
FAITHFUL = {
    "road": "road: the explained class's probability without the least relevant pixels less that without the most relevant, "
    "over 2; higher is better",
    "confidence_change": "confidence change: of that probability when the image is multiplied by its map",
}
_PACKAGES = ("jpegcurr", "torch", "timm", "numpy", "pillow", "simplejpeg", "opencv-python-headless")


def verdict(study: CamStudy, comparisons: Sequence[Comparison]) -> list[str]:
    """What the figures say, a sentence or two for every compared view."""
    names = view_names(study)
    sentences = []
    for name, each in zip(names[1:], comparisons, strict=True):
        alike, unrelated = number(each.mean["pearson"]), number(each.null["pearson"])
        null = NULLS.get(each.null_of, "another image")
        maps = f"their maps correlate {alike} (maps of {null}: {unrelated})"
        changed = f"{each.flips} of {count(len(study.names), 'prediction')} change"
        sentences.append(f"{names[0]} to {name}: {changed}; {maps}.{_accuracy_sentence(each)}")
    if not sentences:
        images = count(len(study.names), "image")
        sentences.append(f"One view of {images}: nothing to compare. Give more --qualities or runs.")
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


def warnings(study: CamStudy) -> list[str]:
    """What a reader should know before believing the figures."""
    found = []
    if study.skipped:
        names = "; ".join(f"{shown(name)}: {reason}" for name, reason in study.skipped[:5])
        more = "; ..." if len(study.skipped) > 5 else ""
        found.append(f"{count(len(study.skipped), 'file')} could not be read, and left out ({names}{more}).")
    if study.found > len(study.names) + len(study.skipped):
        found.append(f"{len(study.names)} evenly spaced images of {study.found} are counted (--limit).")
    dark = sum(int(columns.dark.sum()) for columns in study.columns)
    if dark:
        maps = f"{dark:,} of {len(study.views) * len(study.names):,} maps are zero everywhere"
        found.append(f"{maps}: nothing in them speaks for the class explained.")
    rows, columns = study.grid
    if rows * columns < 25:
        found.append(
            f"The grid has only {rows}x{columns} cells: correlations over so few are coarse. An earlier --layer has more."
        )
    return found


def provenance(study: CamStudy) -> dict[str, str]:
    """What was done with what, by name; the checkpoints' hashes are apart (``Arm.sha256``)."""
    labelled = int((study.truth >= 0).sum())
    null = NULLS.get(study.null_of)
    return {
        "Images": f"{len(study.names)} of {study.found}, {labelled} of them labelled by their folder",
        "Shown": f"{len(study.examples)}, chosen by rule: most, median and least changed (by the lowest Pearson correlation of "
        "any view's map with the first view's), lost, gained or flipped, random",
        "Method": f"{'Grad-CAM' if study.method == OURS else study.method}, raw, before any scaling",
        "Layer": study.layer,
        "Grid": f"{study.grid[0]}x{study.grid[1]} cells",
        "Class explained": EXPLAINED[study.explains],
        "Qualities": f"{', '.join(qualities(study))}: re-encoded at full resolution before the crop, as jpegcurr encode stores "
        "them; source is the file itself",
        "Encoder": "OpenCV's libjpeg, 4:2:0, the entropy-coded data of Pillow's save(quality=...)",
        "Decoder": "libjpeg's accurate DCT, Pillow's pixels",
        "Null": f"maps of {null}, both in {view_names(study)[0]}" if null else "none: too few images",
        "Intervals": "95 %: of means by the bootstrap over images, of accuracies Wilson's",
        "Seed": f"{study.seed}, of the random images, and of what a faithfulness figure draws",
        "Computed on": study.runtime,
        "Command": shlex.join(["jpegcurr", *(shown(each) for each in sys.argv[1:])]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }


def runs_told(study: CamStudy) -> list[tuple[str, str, str, str]]:
    """Of every arm its name, folder, weights and the hash of the file that those are from."""
    return [(shown(arm.name), shown(arm.run), arm.weights, arm.sha256) for arm in arms(study)]


def number(value: float) -> str:
    """Two digits, or ``undefined``."""
    return f"{value:.2f}" if isfinite(value) else "undefined"


def count(things: int, name: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{things} {name}{'' if things == 1 else 's'}"
