"""The report's first sentences: what each run loses by quality, and whether runs differ at one and the same quality."""

from collections.abc import Sequence
from dataclasses import dataclass

from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.report.views import Arm, arms, view_names
from jpegcurr.analysis.report.text import NULLS, number, verdict
from jpegcurr.analysis.cam.similarity import Comparison
from jpegcurr.analysis.stats import LEVEL, Paired, compare_paired, holm, listed

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


def _against(study: CamStudy, arm: Arm, other: Arm, quality: str | None = None) -> list[_Test]:
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
        parts.append(f"no detectable difference at {listed([test.at for test in same])} ({largest or alone}; {shows})")
    for test, p_value in zip(tests, p_values, strict=True):
        if p_value < LEVEL:
            way = "higher" if test.pair.difference > 0 else "lower"
            found = f"{abs(test.pair.difference):.1f} points {way}"
            parts.append(f"at {test.at} {found} ({test.after:.1f} %; McNemar's p = {p_value:.2g} after Holm's correction)")
    return "; ".join(parts)


def _maps(study: CamStudy, comparisons: Sequence[Comparison], several: Sequence[Arm]) -> str:
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
