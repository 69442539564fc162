"""The sentences of the report: what the figures say, what to be careful with, and where it all comes from."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from jpegcurr.analysis.cam.methods import OURS
from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.cam.similarity import Comparison
from jpegcurr.analysis.report.views import RunRow, arms, qualities, view_names
from jpegcurr.analysis.stats import LEVEL, Paired, compare_paired, holm
from jpegcurr.system import library_versions
from jpegcurr.text import join_words, sanitize

EXPLAINED = {
    "reference": "each image's prediction in the first view, the same in all views",
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
        names = "; ".join(f"{sanitize(name)}: {reason}" for name, reason in study.skipped[:5])
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
    """What was done with what, by name; the checkpoints' hashes are apart (``RunRow.sha256``)."""
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
        "Command": shlex.join(["jpegcurr", *(sanitize(each) for each in sys.argv[1:])]),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }


def runs_told(study: CamStudy) -> list[tuple[str, str, str, str]]:
    """Of every arm its name, folder, weights and the hash of the file that those are from."""
    return [(sanitize(arm.name), sanitize(arm.run), arm.weights, arm.sha256) for arm in arms(study)]


def number(value: float) -> str:
    """Two digits, or ``undefined``."""
    return f"{value:.2f}" if isfinite(value) else "undefined"


def count(things: int, name: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{things} {name}{'' if things == 1 else 's'}"


FEW = 2  # compared views of one run, for which the verdict itself is short enough


@dataclass(frozen=True, slots=True)
class _Test:
    """Two views on the labelled images: ``at`` is the quality, ``after`` the second one's accuracy, percent."""

    at: str
    pair: Paired
    after: float


def summary(study: CamStudy, comparisons: Sequence[Comparison]) -> list[str]:
    """The verdict where few views are compared; else a sentence for each run, one for each pair of runs, one for the maps.

    Accuracies are tested as in the verdict, but each run against itself at the first quality, and runs against the first run
    at the same quality; p-values are corrected by Holm's method for all these tests.
    """
    several = arms(study)
    if len(several) == 1 and len(comparisons) <= FEW:
        return verdict(study, comparisons)
    sentences = []
    labelled = study.truth >= 0
    if labelled.any():
        reference = study.views[0].quality
        groups = {arm.name: _against(study, arm, arm, reference) for arm in several if reference in arm.views}
        rivals = {arm.name: _against(study, arm, several[0]) for arm in several[1:]}
        tests = [test for group in (*groups.values(), *rivals.values()) for test in group]
        corrected = iter(holm([test.pair.p_value for test in tests]).tolist())
        for arm in several:
            if group := groups.get(arm.name):
                begun = 100 * float(study.right(arm.views[reference])[labelled].mean())
                said = f"{arm.name}: {begun:.1f} % of {int(labelled.sum()):,} labelled images right at {reference}"
                sentences.append(f"{said}; {_differences(group, [next(corrected) for _ in group])}.")
        for name, group in rivals.items():
            if group:
                found = _differences(group, [next(corrected) for _ in group])
                sentences.append(f"{name} against {several[0].name}, each time at the same quality: {found}.")
    return [*sentences, _maps(study, comparisons, several)]


def _against(study: CamStudy, arm: RunRow, other: RunRow, quality: str | None = None) -> list[_Test]:
    """``arm`` at every quality against ``other`` at ``quality``, or at the same quality where None."""
    labelled = study.truth >= 0
    tests = []
    for at, view in arm.views.items():
        against = other.views.get(quality or at)
        if against is not None and against != view:
            before, after = (study.right(each)[labelled] for each in (against, view))
            tests.append(_Test(at, compare_paired(before, after), 100 * float(after.mean())))
    return tests


def _differences(tests: Sequence[_Test], p_values: Sequence[float]) -> str:
    """``no detectable difference at q90 and q50; at q10 1.0 points lower (54.8 %, p = 0.016, ...)``."""
    same = [test for test, p_value in zip(tests, p_values, strict=True) if p_value >= LEVEL]
    parts = []
    if same:
        widest = max(same, key=lambda test: abs(test.pair.difference))
        least = max(test.pair.detectable for test in same)
        shows = f"by itself each would show from {least:.1f} points on" if least < 100 else "too few images to show any"
        largest = f"the largest is {widest.pair.difference + 0:+.1f} points at {widest.at}" if len(same) > 1 else ""
        alone = f"{widest.pair.difference + 0:+.1f} points" if len(same) == 1 else ""
        parts.append(f"no detectable difference at {join_words([test.at for test in same])} ({largest or alone}; {shows})")
    for test, p_value in zip(tests, p_values, strict=True):
        if p_value < LEVEL:
            way = "higher" if test.pair.difference > 0 else "lower"
            found = f"{abs(test.pair.difference):.1f} points {way}"
            parts.append(f"at {test.at} {found} ({test.after:.1f} %; McNemar's p = {p_value:.2g} after Holm's correction)")
    return "; ".join(parts)


def _maps(study: CamStudy, comparisons: Sequence[Comparison], several: Sequence[RunRow]) -> str:
    """Every run's mean correlations with the first view's maps, and what two images' maps have."""
    alike = [None, *(each.mean["pearson"] for each in comparisons)]
    told = []
    for arm in several:
        places = [(quality, alike[view]) for quality, view in arm.views.items() if view]
        figures = ", ".join(f"{number(value)} at {quality}" for quality, value in places if value is not None)
        told.append(f"{arm.name} {figures}" if len(several) > 1 else figures)
    null = comparisons[0]
    unrelated = f" (maps of {NULLS[null.null_of]}: {number(null.null['pearson'])})" if null.null_of in NULLS else ""
    return f"Maps correlate with those of {view_names(study)[0]}: {'; '.join(each for each in told if each)}{unrelated}."
