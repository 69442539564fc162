"""A study whose data was encoded anew between its runs: what was trained or measured on other images is refused by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from studies import write_study

from jpegcurr.analysis.evaluation.per_image import Outcomes
from jpegcurr.errors import UsageError
from jpegcurr.study.config import load_study
from jpegcurr.study.measure import check_data, outcome_path, save_outcomes
from jpegcurr.training.data.datasets import open_dataset
from jpegcurr.training.data.identity import identify

OUT = Path("out")
HOW = {"loader": "plain", "computed": "cpu"}


def write_head(facts: dict[str, object]) -> None:
    """Write the description of a run of an arm, as far as it tells what the run was trained on."""
    folder = OUT / "runs/clean/seed-0"
    folder.mkdir(parents=True)
    data = {"train/clean": facts}
    (folder / "run.json").write_text(json.dumps({"id": "x", "data": data, "runtime": "cpu", "loader": "plain"}))


def check(betons: Path) -> None:
    check_data(load_study(write_study(betons, seeds=[0])), ["clean", "swap"], OUT)


def relabelled(facts: dict[str, object]) -> dict[str, object]:
    return facts | {"labels_sha256": "0" * 64}


def resized(facts: dict[str, object]) -> dict[str, object]:
    return facts | {"max_side": 64, "filter": "bicubic"}


def replaced(facts: dict[str, object]) -> dict[str, object]:
    return facts | {"content_sha256": "0" * 64}


@pytest.mark.parametrize(
    ("change", "message"),
    [(relabelled, "other labels"), (resized, "max_side was 64, is None"), (replaced, "other image files of the same names")],
)
def test_arms_of_other_data_are_refused(
    betons: Path, change: Callable[[dict[str, object]], dict[str, object]], message: str
) -> None:
    write_head(change(identify(open_dataset(betons / "train-source.beton"))))
    with pytest.raises(UsageError, match=rf"train-source\.beton is not the data that .*seed-0 was trained on: {message}"):
        check(betons)


def test_arms_of_the_same_data_or_of_a_version_that_did_not_record_it_continue(betons: Path) -> None:
    facts = identify(open_dataset(betons / "train-source.beton"))
    write_head({name: facts[name] for name in ("path", "images", "quality", "at_load", "keys_sha256")})
    check(betons)


def test_outcomes_of_other_labels_are_refused_by_file(betons: Path) -> None:
    labels = open_dataset(betons / "val-source.beton").labels
    path = outcome_path(OUT, "swap", 0, "raw", "clean")
    path.parent.mkdir(parents=True)
    for measured in (labels, np.roll(labels, 1)):
        count = len(measured)
        outcomes = Outcomes(measured, measured, np.ones(count), np.ones(count, np.bool_), np.zeros(count))
        save_outcomes(path, outcomes, {"data": "", "quality": "source", "at_load": None, "keys": None, **HOW})
        if measured is labels:
            check(betons)
    with pytest.raises(UsageError, match=r"raw-clean\.npz was measured on other labels than .*val-source\.beton has now"):
        check(betons)
