"""Studies of which some arms keep no average of their weights (``ema: null``)."""

import csv
import json
from pathlib import Path

import pytest
from studies import PHASES, arms, command, write_study

from jpegcurr.errors import RecipeError
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import load_study
from jpegcurr.study.results import read_results
from jpegcurr.study.tasks import list_tasks, list_unfinished

SHORT = PHASES.replace("until_epoch: 2", "until_epoch: 1").replace("until_epoch: 4", "until_epoch: 2")


def test_arms_without_an_average_are_compared_by_their_raw_weights(
    betons: Path, cpu: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    none = {"set": {"ema": None, "curriculum": [{"data": "q50", "until_epoch": 2}]}}
    both = {
        name: {"set": ["curriculum=" + SHORT.format("clean", data)]} for name, data in (("clean", "clean"), ("swap", "q50"))
    }
    val = {"clean": str(betons / "val-source.beton")}
    path = write_study(betons, seeds=[0], fork=None, arms={**both, "none": none}, evaluate=val)
    assert command(f"study {path} --out out --device cpu -q") == 0
    study, out = load_study(path), Path("out")
    assert not list_unfinished(study, list_tasks(study), out)
    assert sorted(file.name for file in out.glob("outcomes/none/*/*")) == ["raw-clean.npz"]
    results = read_results(study, out)
    assert results.columns == (("raw", "clean"), ("ema", "clean"))
    assert [row.arm for row in results.comparisons["raw", "clean"]] == ["swap", "none"]
    assert [row.arm for row in results.comparisons["ema", "clean"]] == ["swap"]
    assert results.cell("none", ("ema", "clean")) is None
    assert ">none<" in (out / "study.html").read_text()
    assert "none  " in capsys.readouterr().out
    with (out / "runs.csv").open() as file:
        assert [(row["arm"], row["weights"]) for row in csv.DictReader(file)] == [
            *[(arm, weights) for arm in ("clean", "swap") for weights in ("raw", "ema")],
            ("none", "raw"),
        ]
    assert len(json.loads((out / "study.json").read_text())["runs"]) == 5


def test_no_arm_with_an_average_leaves_one_kind_of_weights(betons: Path, cpu: Runtime) -> None:
    path = write_study(betons, base={"ema": None}, seeds=[0])
    results = read_results(load_study(path), Path("out"))
    assert {weights for weights, _ in results.columns} == {"raw"}


def test_a_primary_outcome_that_an_arm_lacks_is_refused_and_both_remedies_work(betons: Path) -> None:
    primary = {"data": "clean", "weights": "ema"}
    swap = {"ema": None, "curriculum": [{"data": "q50", "until_epoch": 4}]}

    def study(**changes: object) -> Path:
        return write_study(betons, **{"primary": primary, "fork": None, "arms": arms(swap={"set": swap}), **changes})

    with pytest.raises(RecipeError, match=r"line \d+: primary\.weights: ema, but arms\.swap keeps no average of its weights\."):
        load_study(study())
    load_study(study(primary={**primary, "weights": "raw"}))
    load_study(study(base={"ema": None}, arms=arms(swap={"set": swap}), primary={**primary, "weights": "raw"}))
    load_study(study(arms=arms(swap={"set": swap | {"ema": {"decay": 0.9999}}})))
