"""What a study says about planted outcomes: in its verdict, on its page and in its files."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import write_study

from jpegcurr.study.compare import ArmComparison, compare_arms
from jpegcurr.study.config import load_study
from jpegcurr.study.page import write_page
from jpegcurr.study.results import Results, RunResult, write_results
from jpegcurr.training.metrics import Scores

COLUMNS = (("raw", "clean"), ("ema", "clean"))


def planted(betons: Path, compared: list[ArmComparison]) -> Results:
    study = load_study(write_study(betons))
    return Results(study, COLUMNS, (), dict.fromkeys(COLUMNS, compared), 4, {})


def arms_that_differ(gained: int, *, seeds: int) -> list[ArmComparison]:
    """Compare an arm that is right on ``gained`` images of 400 more with each seed."""
    control = {seed: np.random.default_rng(seed).random(400) < 0.5 for seed in range(seeds)}
    swap = {seed: flags | (np.cumsum(~flags) <= gained) for seed, flags in control.items()}
    return compare_arms({"clean": control, "swap": swap}, "clean")


@pytest.mark.parametrize("gained", [0, 2], ids=["the same answers", "two more each"])
def test_a_spread_that_was_raised_is_marked_everywhere(betons: Path, gained: int) -> None:
    """Two seeds with the same difference have no spread: verdict, page and JSON say which one was taken."""
    results = planted(betons, arms_that_differ(gained, seeds=2))
    write_results(results, Path("out"))
    write_page(results, Path("out/study.html"))
    known, page = json.loads(Path("out/study.json").read_text()), Path("out/study.html").read_text()
    assert [row["spread_floored"] for row in known["against_control"]] == [True, True]
    assert known["against_control"][0]["spread"] == pytest.approx(100 / 400 / np.sqrt(2))
    least = "for a spread of 0.18 points, that of two seeds one image apart, because the observed one is smaller"
    assert f"; interval and p are {least}" in known["verdict"][1]
    mark = "<abbr[^>]*>†</abbr>"
    for pattern in (rf"±0\.18{mark}, 2 seeds", rf"(<td>[\d.]+{mark}</td>){{3}}", "† The seeds spread", "swap †: "):
        assert re.search(pattern, page), pattern


def test_a_spread_that_was_observed_is_not_marked(betons: Path) -> None:
    random = np.random.default_rng(0)
    flags = {arm: {seed: random.random(400) < 0.5 for seed in range(3)} for arm in ("clean", "swap")}
    for compared in (compare_arms(flags, "clean"), arms_that_differ(2, seeds=1)):
        results = planted(betons, compared)
        write_page(results, Path("study.html"))
        assert "†" not in Path("study.html").read_text()
        assert not any("two seeds one image apart" in sentence for sentence in results.verdict)


def test_equal_arms_are_drawn_with_an_interval_over_images(betons: Path) -> None:
    """The bar of an arm that answers all 400 images as the control does has the width of the score interval."""
    (same,) = compared = arms_that_differ(0, seeds=1)
    write_page(planted(betons, compared), Path("study.html"))
    page = Path("study.html").read_text()
    assert f"{same.image_low:+.2f} to {same.image_high:+.2f}" == "-0.95 to +0.95"
    assert "<td>-0.95 to +0.95</td>" in page
    (start, end) = re.search(r'<path d="M([\d.]+) [\d.]+H([\d.]+)v16', page).groups()
    assert float(end) - float(start) > 100, "pixels of 520"


def test_the_runs_are_written_without_digits_of_rounding(betons: Path) -> None:
    scores = dict.fromkeys(COLUMNS, Scores(3925, 92.80000000000001, 100.0, 0.1 + 0.2))
    finished = RunResult("clean", 0, 4, scores, dict.fromkeys(COLUMNS, 100 / 3), 1.23456789, 0.0, [])
    write_results(replace(planted(betons, []), runs=(finished,)), Path("out"))
    with Path("out/runs.csv").open() as file:
        row = next(csv.DictReader(file))
    assert [row[name] for name in ("top1", "top5", "loss", "ece")] == ["92.8", "100.0", "0.3", "33.33333333"]
    known = json.loads(Path("out/study.json").read_text())
    assert (known["runs"][0]["top1"], known["matrix"][0]["mean"]) == (92.8, 92.8)
