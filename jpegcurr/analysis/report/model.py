"""The model of a report: one frozen object with everything that the page, the JSON file and the CSV files say."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jpegcurr.analysis.cam.results import CamStudy, CamView, ClassRow, Example, Rule
from jpegcurr.analysis.cam.similarity import METRICS, Comparison, by_class, compare_views
from jpegcurr.analysis.report import text
from jpegcurr.analysis.stats import (
    ClassChange,
    MeanCI,
    Paired,
    accuracy_interval,
    compare_classes,
    compare_paired,
    estimate_means,
    holm,
)
from jpegcurr.files import short_names
from jpegcurr.text import sanitize

FEW = 2  # compared views of one run, up to which the verdict itself is short enough as a summary


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run with one set of weights: its name, and its view at each quality, by the quality's name."""

    name: str
    run: Path
    weights: str
    sha256: str
    views: dict[str, int]


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The share of labelled images that are right, percent, with its 95 % interval (Wilson's)."""

    percent: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One view: a run at a quality.

    Attributes:
        name: the quality, and the run's name if there is more than one run.
        right: the number of labelled images that are right; ``accuracy`` is None without labelled images.
        flips: the number of images whose likeliest class differs from that in the first view.
        dark: the number of maps that are zero everywhere.
        faithfulness: the means of the optional metrics, by the names of their columns.
        comparison: the comparison with the first view; None for the first view itself.
    """

    view: CamView
    name: str
    right: int
    accuracy: Accuracy | None
    flips: int
    dark: int
    faithfulness: dict[str, MeanCI]
    comparison: Comparison | None


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A test of a run at a quality against another view, with the run's accuracy, percent, and Holm's corrected p-value."""

    quality: str
    accuracy: float
    paired: Paired
    p_value: float


@dataclass(frozen=True, slots=True)
class RunTests:
    """The tests of one run: against itself at the first quality, where it has ``accuracy``, and against the first run."""

    run: RunRow
    accuracy: float
    against_itself: tuple[PairedTest, ...]
    against_first: tuple[PairedTest, ...]


@dataclass(frozen=True, slots=True)
class ClassTest:
    """A test of one class in the view ``view`` against the first view, with Holm's p-value, corrected for all these tests."""

    view: str
    change: ClassChange
    p_value: float


@dataclass(frozen=True, slots=True, eq=False)
class ExampleRow:
    """One image that is shown: its name and its class, None where unknown.

    ``reasons`` say why it was chosen, over all views; ``converted`` that its view at ``source`` is not the file itself.
    """

    name: str
    truth: str | None
    example: Example
    reasons: tuple[str, ...]
    converted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """Everything that the page says; the files beside it add the columns of ``study``.

    Attributes:
        study: the study reported.
        rows: the runs, in the order of their views. A run that is given twice has two rows.
        qualities: every quality once, in order: the columns.
        views: every view, in order.
        matrix: for each of ``rows`` and each of ``qualities`` the view, None where there is none.
        opening: the number of the view that the page shows first beside the reference.
        labelled: the number of images whose class is known.
        anchors: means to compare a view's means with, by name: those of the ceiling (hardly any change) and of the baseline
            (two images).
        faithfulness: the names of the optional metrics' columns.
        classes: every class that has images.
        class_verdict: a sentence on the classes that are told apart from the first view; empty if none is compared.
        examples: the images that are shown.
        summary: the first sentences of the page: the verdict, or fewer sentences where that is long.
        verdict: a sentence or two for every compared view.
        warnings: reasons for caution with the numbers.
        provenance: how the numbers were computed, by name.
    """

    study: CamStudy
    rows: tuple[RunRow, ...]
    qualities: tuple[str, ...]
    views: tuple[ViewRow, ...]
    matrix: tuple[tuple[ViewRow | None, ...], ...]
    opening: int
    labelled: int
    anchors: dict[str, dict[str, MeanCI]]
    faithfulness: tuple[str, ...]
    classes: tuple[ClassRow, ...]
    class_verdict: str
    examples: tuple[ExampleRow, ...]
    summary: tuple[str, ...]
    verdict: tuple[str, ...]
    warnings: tuple[str, ...]
    provenance: dict[str, str]

    @property
    def images(self) -> int:
        """The number of images compared."""
        return len(self.study.names)

    @property
    def compared(self) -> tuple[tuple[str, Comparison], ...]:
        """The name and the comparison of every view but the first."""
        return tuple((view.name, view.comparison) for view in self.views if view.comparison)


def build_report(study: CamStudy) -> Report:
    """Compare, test and describe the views of a study, each of them once."""
    rows = run_rows(study)
    qualities = tuple(dict.fromkeys(view.quality for view in study.views))
    names = view_names(rows)
    comparisons = compare_views(study)
    views = tuple(_view_rows(study, names, comparisons))
    is_short = len(rows) == 1 and len(comparisons) <= FEW
    verdict = text.verdict(names, len(study.names), comparisons)
    tests = [] if is_short else _tests(study, rows, views)
    return Report(
        study=study,
        rows=rows,
        qualities=qualities,
        views=views,
        matrix=tuple(
            tuple(views[row.views[quality]] if quality in row.views else None for quality in qualities) for row in rows
        ),
        opening=_opening_view(rows, len(views)),
        labelled=int(study.labelled.sum()),
        anchors=_anchors(comparisons),
        faithfulness=tuple(dict.fromkeys(name for columns in study.columns for name in columns.faithfulness)),
        classes=tuple(by_class(study)),
        class_verdict=text.class_verdict(_class_tests(study, names), study.classes, names[0]),
        examples=tuple(_example_row(study, example, names) for example in study.examples),
        summary=tuple(verdict if is_short else text.summary(study, rows, names, comparisons, tests)),
        verdict=tuple(verdict),
        warnings=tuple(text.warnings(study)),
        provenance=text.provenance(study, qualities, names[0]),
    )


def run_rows(study: CamStudy) -> tuple[RunRow, ...]:
    """Return the runs in the order of their views, named apart; a run that is given twice has two rows."""
    groups: list[tuple[CamView, dict[str, int]]] = []
    for index, view in enumerate(study.views):
        same_run = (
            views
            for first, views in groups
            if (first.run, first.weights) == (view.run, view.weights) and view.quality not in views
        )
        views_of_run = next(same_run, None)
        if views_of_run is None:
            views_of_run = {}
            groups.append((view, views_of_run))
        views_of_run[view.quality] = index
    names = _run_names([view for view, _ in groups])
    return tuple(
        RunRow(name, view.run, view.weights, view.sha256, views) for name, (view, views) in zip(names, groups, strict=True)
    )


def view_names(rows: Sequence[RunRow]) -> tuple[str, ...]:
    """Return the name of every view: the quality, and the run's name if there is more than one run."""
    names = {
        view: quality if len(rows) == 1 else f"{row.name}, {quality}" for row in rows for quality, view in row.views.items()
    }
    return tuple(names[view] for view in range(len(names)))


def _run_names(views: Sequence[CamView]) -> list[str]:
    """Name each run by its folder, with parents where two are alike, weights where those differ, and a number if need be."""
    short = short_names(view.run for view in views)
    differ = len({view.weights for view in views}) > 1
    counts: dict[str, int] = {}
    names = []
    for view in views:
        name = sanitize(f"{short[view.run]} ({view.weights})" if differ else short[view.run])
        counts[name] = counts.get(name, 0) + 1
        names.append(name if counts[name] == 1 else f"{name} #{counts[name]}")
    return names


def _opening_view(rows: Sequence[RunRow], views: int) -> int:
    """Return the first run's view at quality 50, or at its last quality; the reference only if it is the one view."""
    if views == 1:
        return 0
    others = {quality: view for quality, view in rows[0].views.items() if view}
    return others.get("q50", max(others.values(), default=1))


def _view_rows(study: CamStudy, names: Sequence[str], comparisons: Sequence[Comparison]) -> Iterator[ViewRow]:
    labelled = int(study.labelled.sum())
    for index, (view, columns, comparison) in enumerate(zip(study.views, study.columns, (None, *comparisons), strict=True)):
        right = int(study.right(index).sum())
        yield ViewRow(
            view=view,
            name=names[index],
            right=right,
            accuracy=Accuracy(100 * right / labelled, *accuracy_interval(right, labelled)) if labelled else None,
            flips=int(study.flipped(index).sum()),
            dark=int(columns.dark.sum()),
            faithfulness={
                name: estimate_means(values[:, None].astype(np.float64))[0] for name, values in columns.faithfulness.items()
            },
            comparison=comparison,
        )


def _anchors(comparisons: Sequence[Comparison]) -> dict[str, dict[str, MeanCI]]:
    if not comparisons:
        return {}
    metrics, baseline = comparisons[0].metrics, text.BASELINES.get(comparisons[0].baseline_of)
    anchors = {"the same images at quality 95": {name: metrics[name].ceiling for name in METRICS}}
    if baseline:
        anchors[baseline] = {name: metrics[name].baseline for name in METRICS}
    return {name: means for name, means in anchors.items() if any(mean.images for mean in means.values())}


def _tests(study: CamStudy, rows: Sequence[RunRow], views: Sequence[ViewRow]) -> list[RunTests]:
    """Test each run at every other quality against itself at the first, and against the first run at the same quality.

    Holm's correction is over all these tests. The list is empty if no image is labelled.
    """
    if not study.labelled.any():
        return []
    reference, first = study.views[0].quality, rows[0]
    itself = [
        [(row.views[reference], view) for quality, view in row.views.items() if quality != reference]
        if reference in row.views
        else []
        for row in rows
    ]
    others = [
        [(first.views[quality], view) for quality, view in row.views.items() if quality in first.views]
        if row is not first
        else []
        for row in rows
    ]
    paired = {pair: _paired(study, views, *pair) for pairs in (*itself, *others) for pair in pairs}
    corrected = dict(zip(paired, holm([test.p_value for test in paired.values()]).tolist(), strict=True))

    def tests(pairs: Iterable[tuple[int, int]]) -> tuple[PairedTest, ...]:
        return tuple(
            PairedTest(study.views[pair[1]].quality, _percent(views[pair[1]]), paired[pair], corrected[pair]) for pair in pairs
        )

    return [
        RunTests(
            run=row,
            accuracy=_percent(views[row.views[reference]]) if reference in row.views else float("nan"),
            against_itself=tests(own),
            against_first=tests(other),
        )
        for row, own, other in zip(rows, itself, others, strict=True)
    ]


def _paired(study: CamStudy, views: Sequence[ViewRow], before: int, after: int) -> Paired:
    """Return the test of two views on the labelled images; that against the first view is in its comparison already."""
    comparison = views[after].comparison
    if before == 0 and comparison and comparison.paired:
        return comparison.paired
    labelled = study.labelled
    return compare_paired(study.right(before)[labelled], study.right(after)[labelled])


def _class_tests(study: CamStudy, names: Sequence[str]) -> list[ClassTest]:
    """Test every class in every view against the first view; the list is empty if no image is labelled."""
    labelled = study.labelled
    if not labelled.any():
        return []
    truth, before = study.truth[labelled].astype(np.int64), study.right(0)[labelled]
    tests = [
        (names[view], change)
        for view in range(1, len(names))
        for change in compare_classes(truth, before, study.right(view)[labelled])
    ]
    corrected = holm([change.p_value for _, change in tests]).tolist()
    return [ClassTest(view, change, p_value) for (view, change), p_value in zip(tests, corrected, strict=True)]


def _percent(view: ViewRow) -> float:
    return view.accuracy.percent if view.accuracy else float("nan")


def _example_row(study: CamStudy, example: Example, names: Sequence[str]) -> ExampleRow:
    truth = int(study.truth[example.index])
    return ExampleRow(
        name=sanitize(study.names[example.index]),
        truth=study.classes[truth] if truth >= 0 else None,
        example=example,
        reasons=tuple(text.reason(rule, _views_of(study, example, rule, names)) for rule in example.rules),
        converted=bool(study.converted[example.index]),
    )


def _views_of(study: CamStudy, example: Example, rule: Rule, names: Sequence[str]) -> list[str]:
    """Return the names of the views in which the image is lost, gained or flipped; none for the other rules."""
    if rule not in ("lost", "gained", "flipped"):
        return []
    flags = [study.flipped(view) if rule == "flipped" else study.right(view) != study.right(0) for view in range(len(names))]
    return [name for name, of_view in zip(names, flags, strict=True) if of_view[example.index]]
