"""Sentences of the report: the verdict on every view, the summary, warnings, and the provenance of the numbers."""

import shlex
import sys
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from jpegcurr.analysis.cam.methods import OURS
from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.cam.similarity import Comparison
from jpegcurr.analysis.stats import LEVEL, precise_p, state_p
from jpegcurr.system import library_versions
from jpegcurr.text import join_words, sanitize

if TYPE_CHECKING:  # the model is built with these sentences
    from jpegcurr.analysis.report.model import PairedTest, RunRow, RunTests

TARGETS = {
    "reference": "each image's prediction in the first view, the same in all views",
    "label": "each image's label, the same in all views",
    "own": "each view's own prediction",
}
BASELINES = {"same class": "another image of the same class", "half the list": "another image"}
_PACKAGES = ("jpegcurr", "torch", "timm", "numpy", "pillow", "simplejpeg", "opencv-python-headless")


def verdict(names: Sequence[str], images: int, comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence or two for every compared view; ``names`` are those of all views."""
    sentences = []
    for name, comparison in zip(names[1:], comparisons, strict=True):
        pearson = comparison.metrics["pearson"]
        baseline = BASELINES.get(comparison.baseline_of, "another image")
        maps = f"the maps correlate {number(pearson.mean)} (maps of {baseline}: {number(pearson.baseline.mean)})"
        changed = f"{comparison.flips} of {count(images, 'prediction')} change"
        sentences.append(f"{names[0]} to {name}: {changed}; {maps}.{_accuracy_sentence(comparison)}")
    return sentences or [f"One view of {count(images, 'image')}: nothing to compare. Give more --qualities or runs."]


def _accuracy_sentence(comparison: Comparison) -> str:
    if not (comparison.labelled and comparison.paired):
        return ""
    before, after = (100 * right / comparison.labelled for right in (comparison.right_reference, comparison.right))
    change = f" Accuracy {before:.1f} % to {after:.1f} % on the same {comparison.labelled} labelled images"
    difference = comparison.paired
    interval = f"{difference.difference:+.1f} points, 95 % {difference.low:+.1f} to {difference.high:+.1f}"
    if comparison.p_value < LEVEL:
        p_value = f"McNemar's {state_p(precise_p(comparison.p_value))}"
        return f"{change} ({interval}; lost {comparison.lost}, gained {comparison.gained}; {p_value})."
    if comparison.detectable >= 100:
        return f"{change}: too few to show any difference."
    return (
        f"{change}: no detectable difference ({interval}; lost {comparison.lost}, gained {comparison.gained}; a difference of "
        f"{comparison.detectable:.1f} points or more would show)."
    )


def summary(
    study: CamStudy,
    rows: Sequence["RunRow"],
    names: Sequence[str],
    comparisons: Sequence[Comparison],
    tests: Sequence["RunTests"],
) -> list[str]:
    """Return a sentence for each run, one for each run and the first one, and one for the maps.

    Accuracies are tested as in the verdict, but each run against itself at the first quality, and runs against the first run
    at the same quality; p-values are corrected by Holm's method for all these tests. ``tests`` are none without labels.
    """
    reference, labelled = study.views[0].quality, int(study.labelled.sum())
    sentences = [
        f"{test.run.name}: {test.accuracy:.1f} % of {labelled:,} labelled images right at {reference}; "
        f"{_differences(test.against_itself)}."
        for test in tests
        if test.against_itself
    ]
    sentences += [
        f"{test.run.name} compared with {rows[0].name} at the same quality: {_differences(test.against_first)}."
        for test in tests
        if test.against_first
    ]
    return [*sentences, _maps_sentence(rows, names[0], comparisons)]


def _differences(tests: Sequence["PairedTest"]) -> str:
    """``no detectable difference at q90 and q50 (...); at q10 1.0 points lower (54.8 %; McNemar's p = 0.016 ...)``."""
    same = [test for test in tests if test.p_value >= LEVEL]
    parts = []
    if same:
        widest = max(same, key=lambda test: abs(test.paired.difference))
        least = max(test.paired.detectable for test in same)
        difference = f"{widest.paired.difference + 0:+.1f} points"
        largest = f"the largest is {difference} at {widest.quality}" if len(same) > 1 else difference
        power = f"a single test would show {least:.1f} points or more" if least < 100 else "too few images to show any"
        parts.append(f"no detectable difference at {join_words([test.quality for test in same])} ({largest}; {power})")
    for test in tests:
        if test.p_value < LEVEL:
            direction = "higher" if test.paired.difference > 0 else "lower"
            difference = f"{abs(test.paired.difference):.1f} points {direction}"
            p_value = f"McNemar's {state_p(precise_p(test.p_value))} after Holm's correction"
            parts.append(f"at {test.quality} {difference} ({test.accuracy:.1f} %; {p_value})")
    return "; ".join(parts)


def _maps_sentence(rows: Sequence["RunRow"], reference: str, comparisons: Sequence[Comparison]) -> str:
    """State every run's mean correlations with the first view's maps, and the baseline."""
    parts = []
    for row in rows:
        correlations = ", ".join(
            f"{number(comparisons[view - 1].metrics['pearson'].mean)} at {quality}"
            for quality, view in row.views.items()
            if view
        )
        parts.append(f"{row.name} {correlations}" if len(rows) > 1 else correlations)
    first = comparisons[0]
    baseline = BASELINES.get(first.baseline_of)
    unrelated = f" (maps of {baseline}: {number(first.metrics['pearson'].baseline.mean)})" if baseline else ""
    return f"Mean correlation of the maps with those of {reference}: {'; '.join(part for part in parts if part)}{unrelated}."


def warnings(study: CamStudy) -> list[str]:
    """Return reasons for caution with the numbers: unread files, a limit, dark maps, a coarse grid."""
    sentences = []
    if study.skipped:
        names = "; ".join(f"{sanitize(name)}: {reason}" for name, reason in study.skipped[:5])
        more = "; ..." if len(study.skipped) > 5 else ""
        verb = "is" if len(study.skipped) == 1 else "are"
        sentences.append(f"{count(len(study.skipped), 'file')} could not be read and {verb} left out ({names}{more}).")
    if study.available > len(study.names) + len(study.skipped):
        sentences.append(f"{len(study.names)} evenly spaced images of {study.available} are compared (--limit).")
    if study.unknown:
        sentences.append(study.unknown)
    dark = sum(int(columns.dark.sum()) for columns in study.columns)
    if dark:
        maps = f"{dark:,} of {len(study.views) * len(study.names):,} maps are zero everywhere"
        sentences.append(f"{maps}: the layer has nothing in favour of the class explained.")
    rows, columns = study.grid
    if rows * columns < 25:
        sentences.append(
            f"The grid has only {rows}x{columns} cells: correlations over so few are coarse. An earlier --layer has more."
        )
    return sentences


def provenance(study: CamStudy, qualities: Sequence[str], reference: str) -> dict[str, str]:
    """Return how the numbers were computed, by name; ``reference`` is the first view's. The runs are apart (``RunRow``)."""
    labelled = int(study.labelled.sum())
    baseline = BASELINES.get(study.baseline_of)
    return {
        "Images": f"{len(study.names)} of {study.available}, {labelled} of them of a known class",
        "Shown": f"{len(study.examples)}, chosen by rule: most, median and least changed (by the lowest Pearson correlation of "
        "any view's map with the first view's), lost, gained or flipped, random",
        "Method": f"{'Grad-CAM' if study.method == OURS else study.method}, raw, before any scaling",
        "Layer": study.layer,
        "Grid": f"{study.grid[0]}x{study.grid[1]} cells",
        "Class explained": TARGETS[study.target_rule],
        "Qualities": f"{', '.join(qualities)}: re-encoded at full resolution before the crop, as jpegcurr encode stores "
        "them; source is the file itself",
        "Encoder": "OpenCV's libjpeg, 4:2:0; the same entropy-coded data as Pillow's save(quality=...)",
        "Decoder": "libjpeg's accurate DCT; the same pixels as Pillow",
        "Inputs": "; ".join(dict.fromkeys(study.preprocessing)),
        "Baseline": f"maps of {baseline}, both in {reference}" if baseline else "none: too few images",
        "Intervals": "95 %: means by the bootstrap over images, accuracies by Wilson's score, their differences by Tango's",
        "Seed": f"{study.seed}, for the random images and the noise of faithfulness metrics",
        "Computed on": study.runtime,
        "Command": shlex.join(["jpegcurr", *(sanitize(argument) for argument in sys.argv[1:])]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }


def number(value: float) -> str:
    """Return two decimals, or ``undefined``."""
    return f"{value:.2f}" if isfinite(value) else "undefined"


def count(things: int, name: str) -> str:
    """Return ``1 image``, ``2 images``."""
    return f"{things} {name}{'' if things == 1 else 's'}"
