"""Kept checkpoints: going back to one, and training a finished run for longer."""

import json
import logging
import math
import os
import time
from pathlib import Path

import pytest
import timm
import torch
from processes import Group
from safetensors.torch import load_file
from samples import tiny_recipe

from jpegcurr.errors import RecipeError, Terminated, UsageError
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.load import load_run
from jpegcurr.training.tracking import read_metrics
from jpegcurr.training.train import train

STATE = Path("run/state.safetensors")


def kept() -> list[str]:
    return sorted(path.name for path in Path("run/checkpoints").iterdir())


def test_the_last_states_are_kept_and_the_newest_takes_no_room(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny_recipe(betons, tmp_path, "save.last=2"), Path("run"), runtime=cpu)
    assert kept() == ["epoch-0002.safetensors", "epoch-0003.safetensors"]
    assert STATE.samefile("run/checkpoints/epoch-0003.safetensors")
    train(
        tiny_recipe(betons, tmp_path, "save.last=1", "schedule.horizon=4", "curriculum.1.until_epoch=5"),
        Path("run"),
        runtime=cpu,
        resume=True,
    )
    assert kept() == ["epoch-0004.safetensors"]


def test_one_can_go_back_to_a_kept_state_and_comes_to_the_same_end(
    betons: Path, cpu: Runtime, trained_copy: Path, trained: Path, tmp_path: Path
) -> None:
    (trained_copy / "checkpoints/epoch-0001.safetensors").replace(trained_copy / "state.safetensors")
    train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    first, second = (load_file(folder / "state.safetensors") for folder in (trained, trained_copy))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["epoch"] for row in read_metrics(trained_copy)] == [0, 1, 2, 3]


@pytest.mark.parametrize("wait", [0.0, 0.05, 0.2, 0.5])
def test_a_run_that_is_killed_resumes_to_the_same_weights(
    betons: Path, cpu: Runtime, trained: Path, tmp_path: Path, wait: float
) -> None:
    """Kill the run by SIGKILL at any moment after its first checkpoint."""
    recipe = tiny_recipe(betons, tmp_path)
    Path("tiny.yaml").write_text(dump_recipe(recipe))
    words = ["train", "--recipe", "tiny.yaml", "--device", "cpu", "--out", "run", "--save-every", "1"]
    running, deadline = Group(words, ranks=1), time.monotonic() + 60
    while not STATE.exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(wait)
    running.kill()
    (code,) = running.ended()
    assert code == -9 or (code == 0 and wait), running.output
    train(recipe, Path("run"), runtime=cpu, resume=True)
    first, second = (load_file(folder / "state.safetensors") for folder in (trained, Path("run")))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [row["epoch"] for row in read_metrics(Path("run"))] == [0, 1, 2, 3]


def test_a_torn_state_names_the_one_before(betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path) -> None:
    state = trained_copy / "state.safetensors"
    state.unlink()
    os.link(trained_copy / "checkpoints/epoch-0003.safetensors", state)  # both are torn, as the killed run left them
    state.write_bytes(state.read_bytes()[:10000])
    with pytest.raises(UsageError, match=r"cannot be resumed from: .* move .*epoch-0002\.safetensors over it"):
        train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)


def test_without_links_states_are_copied(betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    train(tiny_recipe(betons, tmp_path, "save.last=1", "evaluate=[]"), Path("run"), runtime=cpu)
    assert kept() == ["epoch-0003.safetensors"]
    assert Path("run/checkpoints/epoch-0003.safetensors").read_bytes() == STATE.read_bytes()
    assert not Path("run/best").exists(), "nothing was measured"


@pytest.mark.parametrize(("column", "best"), [("val/q50/ema_loss", min), ("val/clean/top1", max)])
def test_the_best_epoch_is_the_one_of_the_column_asked_for(
    betons: Path, cpu: Runtime, tmp_path: Path, column: str, best
) -> None:
    train(tiny_recipe(betons, tmp_path, f"save.best={column}"), Path("run"), runtime=cpu)
    values = [row[column] for row in read_metrics(Path("run"))]
    best_json = json.loads(Path("run/best/best.json").read_text())
    assert best_json == {"epoch": values.index(best(values)), "column": column, "value": best(values)}
    weights = load_run(Path("run"), cpu, "best").model.state_dict()
    theirs = timm.create_model("local-dir:run/best", pretrained=True).state_dict()
    assert all(torch.equal(weights[name], theirs[name]) for name in theirs)


def test_the_best_of_a_future_that_was_given_up_is_forgotten(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path
) -> None:
    best = trained_copy / "best/best.json"
    best.write_text(json.dumps({"epoch": 3, "column": "val/clean/top1", "value": 101.0}))
    (trained_copy / "checkpoints/epoch-0001.safetensors").replace(trained_copy / "state.safetensors")
    train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    best_json = json.loads(best.read_text())
    assert best_json["value"] == read_metrics(trained_copy)[best_json["epoch"]]["val/clean/top1"]


def test_a_state_torn_within_an_epoch_names_the_newest_that_is_kept(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    recipe, done = tiny_recipe(betons, tmp_path, "evaluate=[]"), list[tuple[int, int]]()
    with pytest.raises(Terminated):
        train(
            recipe,
            Path("run"),
            runtime=cpu,
            on_step=lambda now: done.append((now.plan.epoch, now.step)),
            stop=lambda: done[-1] == (2, 1),
        )
    STATE.write_bytes(STATE.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"move .*epoch-0001\.safetensors over it"):
        train(recipe, Path("run"), runtime=cpu, resume=True)


def test_a_finished_run_is_trained_for_longer_and_its_new_rates_are_reported(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Continue a finished run with a new phase and a cosine of its own, as in the original experiment."""
    longer = "curriculum=[{data: clean, until_epoch: 2}, {data: q50, until_epoch: 4}, {data: q50, until_epoch: 8}]"
    for horizon in ("whole", "phase"):  # the cosine of the epochs trained went to epoch 4, over both phases
        with pytest.raises(RecipeError, match=r"To train for longer, set schedule\.horizon=4: later epochs"):
            train(tiny_recipe(betons, tmp_path, longer, f"schedule.horizon={horizon}"), trained_copy, runtime=cpu, resume=True)
    train(tiny_recipe(betons, tmp_path, longer, "schedule.horizon=4"), trained_copy, runtime=cpu, resume=True)
    rates = [row["lr_first"] for row in read_metrics(trained_copy)]
    assert len(rates) == 8
    assert rates[4] > rates[3]
    train(tiny_recipe(betons, tmp_path, "curriculum=[{data: clean, until_epoch: 2}]"), Path("run"), runtime=cpu)
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        train(tiny_recipe(betons, tmp_path, "schedule.horizon=phase"), Path("run"), runtime=cpu, resume=True)
    (change,) = [line for line in caplog.messages if line.startswith("the plan has changed")]
    first, *lines = change.splitlines()
    assert first == "the plan has changed: 4 epochs instead of 2. From here on:"
    assert [line.split("  lr ")[0] for line in lines] == ["  epoch   2  q50", "  epoch   3  q50"]
    rate = 1e-6 + (2e-3 - 1e-6) / 2 * (1 + math.cos(math.pi / 3))  # a third of the way from epoch 1 to 4
    assert f"lr {rate:.3e} to" in lines[0]
    assert read_metrics(Path("run"))[2]["lr_first"] == pytest.approx(rate)


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"epoch": 0, "column": 1, "value": "x"}', '{"epoch": ' + "9" * 6000])
def test_a_best_epoch_that_cannot_be_read_is_measured_again(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path, content: str
) -> None:
    (trained_copy / "checkpoints/epoch-0002.safetensors").replace(trained_copy / "state.safetensors")
    (trained_copy / "best/best.json").write_text(content)
    train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)
    assert json.loads((trained_copy / "best/best.json").read_text())["epoch"] == 3
