"""Sentences of the report: the verdict on every view, the summary, warnings, and the provenance of the numbers."""

import shlex
from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING

from jpegcurr.analysis.cam.methods import OURS
from jpegcurr.analysis.cam.results import CamStudy, Rule
from jpegcurr.analysis.cam.similarity import Comparison, MetricSummary
from jpegcurr.analysis.class_names import readable_name
from jpegcurr.analysis.journal import given_words
from jpegcurr.analysis.stats import LEVEL, explain_no_class, precise_p, state_p
from jpegcurr.encoding.jpeg.codec import CONVERTED_QUALITY, CONVERTED_SUBSAMPLING
from jpegcurr.recipe.values import Stage
from jpegcurr.system import library_versions
from jpegcurr.text import join_words, sanitize

if TYPE_CHECKING:  # the model is built with these sentences
    from jpegcurr.analysis.report.model import ClassTest, PairedTest, RunRow, RunTests

TARGETS = {
    "reference": "each image's prediction in the first view, the same in all views",
    "label": "each image's label, the same in all views",
    "own": "each view's own prediction",
}
STAGES: dict[Stage, str] = {
    "before_crop": "re-encoded at full resolution before the crop, as jpegcurr encode stores them",
    "after_resize": "encoded after the resize, at the size the model receives, all from one decode",
}
BASELINES = {"same class": "another image of the same class", "half the list": "another image"}
CONVERTED = f"a JPEG of quality {CONVERTED_QUALITY}, {':'.join(CONVERTED_SUBSAMPLING)}"  # what ``source`` is for other files
# Why an image was chosen, as ``example_selection.changes`` ranks images; lost, gained and flipped name their views instead.
_REASONS: dict[Rule, str] = {
    "most changed": "most changed in any view",
    "median": "median by the largest change in any view",
    "least changed": "least changed in every view",
}
_NAMED = 3  # classes, files or views that a sentence lists before it counts the others
_PACKAGES = ("jpegcurr", "torch", "timm", "numpy", "pillow", "simplejpeg", "opencv-python-headless")


def verdict(names: Sequence[str], images: int, comparisons: Sequence[Comparison]) -> list[str]:
    """Return a sentence or two for every compared view; ``names`` are those of all views."""
    sentences = []
    for name, comparison in zip(names[1:], comparisons, strict=True):
        changed = f"{comparison.flips:,} of {images:,} {'prediction changes' if images == 1 else 'predictions change'}"
        sentences.append(f"{names[0]} to {name}: {changed}; {_maps(comparison, images)}.{_accuracy_sentence(comparison)}")
    return sentences or [f"One view of {count(images, 'image')}: nothing to compare. Give more --qualities or runs."]


def _maps(comparison: Comparison, images: int) -> str:
    """State the mean correlation of the maps and whose they are, that of the changed predictions, and the baseline."""
    pearson = comparison.metrics["pearson"]
    if not pearson.images:
        return "no image's maps have a correlation: they are constant"
    parts = [f"the maps of {_compared_images([pearson], images)} have a mean correlation of {number(pearson.mean)}"]
    if changed := pearson.flipped.images:
        parts.append(f"those of the {changed:,} with a changed prediction: {number(pearson.flipped.mean)}")
    baseline = BASELINES.get(comparison.baseline_of)
    unrelated = [f"maps of {baseline}: {number(pearson.baseline.mean)}"] if baseline else []
    extra = "; ".join([*parts[1:], *unrelated])
    return parts[0] + (f" ({extra})" if extra else "")


def _compared_images(metrics: Sequence[MetricSummary], images: int) -> str:
    """Return ``all 300 images``, or how many of them have maps that can be correlated, at least, in all of ``metrics``."""
    fewest = min(metric.images for metric in metrics)
    if fewest == images:
        return f"all {images:,} images" if images > 1 else "the one image"
    least = "at least " if len({metric.images for metric in metrics}) > 1 else ""
    return f"{least}{fewest:,} of the {images:,} images (where neither map is constant)"


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
    return [*sentences, _maps_sentence(rows, names[0], comparisons, len(study.names))]


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


def _maps_sentence(rows: Sequence["RunRow"], reference: str, comparisons: Sequence[Comparison], images: int) -> str:
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
    whose = _compared_images([comparison.metrics["pearson"] for comparison in comparisons], images)
    means = "; ".join(part for part in parts if part)
    return (
        f"Mean correlation of the maps of {whose}, changed predictions or not, with those in {reference}: {means}{unrelated}."
    )


def class_verdict(tests: Sequence["ClassTest"], classes: Sequence[str], reference: str) -> str:
    """Name the classes that are told apart from the first view, or say why none is; empty without ``tests``."""
    if not tests:
        return ""
    apart = sorted((test for test in tests if test.p_value < LEVEL), key=lambda test: test.p_value)
    if not apart:
        why = explain_no_class([test.change for test in tests], [test.p_value for test in tests])
        return f"No class is told apart from {reference}: {why}."
    named = [
        f"{sanitize(readable_name(classes[test.change.label])).split(',')[0]} at {test.view} ({test.change.difference:+.1f} "
        f"points, {state_p(precise_p(test.p_value))})"
        for test in apart
    ]
    return (
        f"Told apart from {reference}, by McNemar's test within the class after Holm's correction for {len(tests):,} "
        f"comparisons of a class: {_listed(named)}."
    )


def reason(rule: Rule, views: Sequence[str]) -> str:
    """Say why an image is shown: ``lost at q20 and q10``; ``views`` are those in which it is lost, gained or flipped."""
    return f"{rule} at {_listed(views)}" if views else _REASONS.get(rule, rule)


def describe_converted(study: CamStudy) -> str:
    """Say how many images are JPEGs made in place of their files at ``source``, and which; empty if none is."""
    names = [sanitize(study.names[image]) for image in study.converted.nonzero()[0].tolist()]
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are each"
    return (
        f"At source, {len(names):,} of {count(len(study.names), 'image')} {verb} {CONVERTED}, made of the file as jpegcurr "
        f"encode stores it: the file is no upright JPEG in RGB or grey ({_listed(names)})."
    )


def describe_stage(study: CamStudy) -> str:
    """Say that the crops were encoded, not the whole images; empty if the whole images were."""
    if study.stage == "before_crop":
        return ""
    return (
        "Qualities are encoded after the resize, at the size the model receives, which degrades images more than a stored file."
    )


def _listed(names: Sequence[str]) -> str:
    """Join at most a few names, and count the others; names that have commas are separated by semicolons."""
    few = [*names[:_NAMED], *([f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else [])]
    return "; ".join(few) if any("," in name for name in few) else join_words(few)


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
    if stage := describe_stage(study):
        sentences.append(stage)
    if converted := describe_converted(study):
        sentences.append(converted)
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
        "Qualities": f"{', '.join(qualities)}: {STAGES[study.stage]}"
        + (f"; source is {_source(study)}" if "source" in qualities else ""),
        "Encoder": "OpenCV's libjpeg, 4:2:0; the same entropy-coded data as Pillow's save(quality=...)",
        "Decoder": "libjpeg's accurate DCT; the same pixels as Pillow",
        "Inputs": "; ".join(dict.fromkeys(study.preprocessing)),
        "Baseline": f"maps of {baseline}, both in {reference}" if baseline else "none: too few images",
        "Intervals": "95 %: means by the bootstrap over images, accuracies by Wilson's score, their differences by Tango's",
        "Seed": f"{study.seed}, for the random images and the noise of faithfulness metrics",
        "Computed on": study.runtime,
        "Command": shlex.join(map(sanitize, given_words())),
        "Versions": ", ".join(f"{name} {version}" for name, version in library_versions(_PACKAGES).items()),
    }


def _source(study: CamStudy) -> str:
    converted = int(study.converted.sum())
    return f"the file itself, but {CONVERTED}, for {converted:,} of {len(study.names):,}" if converted else "the file itself"


def number(value: float) -> str:
    """Return two decimals, or ``undefined``."""
    return f"{value:.2f}" if isfinite(value) else "undefined"


def count(things: int, name: str) -> str:
    """Return ``1 image``, ``2 images``."""
    return f"{things:,} {name}{'' if things == 1 else 's'}"
