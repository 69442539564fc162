"""The report's first sentences, from studies whose answer is planted."""

from dataclasses import replace

import numpy as np
import pytest
from cam_samples import cam_study

from jpegcurr.analysis.cam.results import CamStudy
from jpegcurr.analysis.report.model import Report, build_report

IMAGES = 400
QUALITIES = ("source", "q90", "q50", "q10")


def planted(wrong: dict[int, int]) -> CamStudy:
    """Two runs at four qualities that are right on 300 images of 400, less the first ``wrong[view]`` of these."""
    study = cam_study(IMAGES, 4, qualities=QUALITIES, classes=("a", "b", "c"))
    columns = []
    for view, before in enumerate(study.columns):
        right = np.arange(IMAGES) < 300
        right[: wrong.get(view, 0)] = False
        columns.append(replace(before, predicted=np.where(right, study.truth, (study.truth + 1) % 3).astype(np.int32)))
    return replace(study, columns=tuple(columns))


def summary(study: CamStudy) -> tuple[str, ...]:
    return build_report(study).summary


def test_few_views_are_described_one_by_one() -> None:
    for qualities in (("source", "q50", "q10"), ("source",)):
        report: Report = build_report(cam_study(runs=("run",), qualities=qualities))
        assert report.summary == report.verdict
        assert len(report.verdict) == max(1, len(qualities) - 1)


def test_runs_that_do_the_same_do_not_differ() -> None:
    two_phase, other, against, maps = summary(planted({}))
    assert two_phase == (
        "two_phase: 75.0 % of 400 labelled images right at source; no detectable difference at q90, q50 and q10 (the largest "
        "is +0.0 points at q90; a single test would show 2.0 points or more)."
    )
    assert other.startswith("restart_only: 75.0 %")
    assert against.startswith("restart_only compared with two_phase at the same quality: no detectable difference at ")
    assert "source, q90, q50 and q10" in against
    assert maps.startswith(
        "Mean correlation of the maps of 399 of the 400 images (where neither map is constant), changed predictions or not, "
        "with those in two_phase, source: two_phase 0."
    )
    assert "restart_only 0." in maps
    assert "(maps of another image of the same class: 0." in maps


def test_the_summary_names_the_cost_of_a_quality_and_of_a_run() -> None:
    first, second, against, _ = summary(planted({3: 40, 7: 80}))  # both lose at quality 10, the second more
    assert "no detectable difference at q90 and q50 (" in first
    assert (
        "at q10 10.0 points lower (65.0 %; McNemar's p = 8.2e-12 after Holm's correction)." in first
    )  # 9 tests left, 0.5 ** 40
    assert "at q10 20.0 points lower (55.0 %; " in second
    assert "no detectable difference at source, q90 and q50 (" in against
    assert "at q10 10.0 points lower (55.0 %; " in against, "against the first run at quality 10, not at source"
    _, _, gained, _ = summary(planted({2: 30}))
    assert "at q50 7.5 points higher (75.0 %; " in gained


@pytest.mark.parametrize(("lost", "is_different"), [(7, False), (12, True)])
def test_the_tests_are_corrected_for_how_many_there_are(lost: int, is_different: bool) -> None:
    """Seven images lost and none gained is p = 0.016 by itself, and nothing among ten such tests."""
    report = build_report(planted({3: lost}))
    assert report.compared[2][1].p_value < 0.05
    assert ("points lower" in report.summary[0]) == is_different


def test_without_labels_only_maps_are_described() -> None:
    (maps,) = summary(cam_study(labelled=False))
    assert maps.startswith("Mean correlation of the maps")
    assert "(maps of another image: " in maps


@pytest.mark.parametrize(
    ("runs", "qualities", "view"),
    [
        (("a",), ("source",), 0),
        (("a", "b"), ("source",), 1),
        (("a",), ("source", "q90", "q50", "q10"), 2),
        (("a", "b"), ("source", "q90", "q30"), 2),
        (("a",), ("q50", "q10"), 1),
    ],
)
def test_the_page_opens_at_quality_50_or_the_last(runs: tuple[str, ...], qualities: tuple[str, ...], view: int) -> None:
    assert build_report(cam_study(runs=runs, qualities=qualities)).opening == view


def test_classes_are_told_apart_or_it_says_why_they_cannot_be() -> None:
    few = build_report(cam_study())
    assert few.class_verdict.startswith("No class is told apart from two_phase, source: with at most ")
    assert "even one that is lost entirely has p = " in few.class_verdict
    lost = build_report(planted({3: 200}))
    assert lost.class_verdict.startswith("Told apart from two_phase, source, by McNemar's test within the class after Holm's")
    assert "for 21 comparisons of a class: " in lost.class_verdict, "3 classes in 7 views"
    for name in "abc":
        assert f"{name} at two_phase, q10 (-" in lost.class_verdict
    assert "two_phase, q50" not in lost.class_verdict
    many = build_report(planted({1: 1}))
    assert many.class_verdict == (
        "No class is told apart from two_phase, source: the smallest p among 21 comparisons of a class (McNemar's test, Holm's "
        "correction) is 1."
    )
    assert build_report(cam_study(labelled=False)).class_verdict == ""


def test_an_image_is_shown_for_reasons_that_name_its_views() -> None:
    study = planted({2: 40, 3: 40})
    example = replace(study.examples[0], index=0, rules=("most changed", "lost", "random"))
    (row,) = build_report(replace(study, examples=(example,))).examples
    assert row.reasons == ("most changed in any view", "lost at two_phase, q50; two_phase, q10", "random")
