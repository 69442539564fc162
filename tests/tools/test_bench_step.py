"""The benchmarks of a recipe's own step and of what surrounds it, as the GPU check runs them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from samples import tool_module

from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import resolve_runtime

SMALL = ["--recipe", "two_phase", "--set", "model.name=test_convnext", "--set", "image.size=32", "--device", "cpu"]


def test_a_recipes_step_is_measured_line_by_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tool_module("bench/step.py", monkeypatch)
    options = "--micro 4 --variants eager bare --steps 2 --runs 2 --kernels 3 --lines lines.jsonl --json out.jsonl"
    monkeypatch.setattr(sys, "argv", ["step.py", str(photos), *SMALL, *options.split()])
    bench.main()
    lines = [json.loads(line) for line in Path("lines.jsonl").read_text().splitlines()]
    names = [line["name"].removeprefix("4 images, ") for line in lines]
    metrics = ["", "", ", host", ", device", ", launches"]
    expected = [f"{variant}{metric}" for variant in ("eager", "bare") for metric in (", the first steps", *metrics)]
    assert names == expected
    assert all(line["value"] > 0 for line in lines)
    results = json.loads(Path("out.jsonl").read_text())["figures"]
    launches = {variant: results[f"4 images, {variant}"]["launches"] for variant in ("eager", "bare")}
    assert launches["bare"] < launches["eager"], "without the policy there is less to do"
    assert "aten::" in capsys.readouterr().out


def test_the_step_is_the_recipes_own(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tool_module("bench/step.py", monkeypatch)
    recipe = load_recipe("two_phase", ["model.name=test_convnext", "image.size=32"])
    data = bench.make_data(photos, tmp_path, 8)
    step = bench.open_step(recipe, data.beton, 4, resolve_runtime("cpu"))
    state = step.state
    assert (state.recipe.augment, state.recipe.mix, state.recipe.optim) == (recipe.augment, recipe.mix, recipe.optim)
    assert state.ema is not None
    images = step.batches[0].images.clone()
    before = [parameter.clone() for parameter in state.model.parameters()]
    taken = list[int]()
    step.run(3, lambda info: taken.append(info.step))
    assert taken == [1, 2, 3]
    assert any(not torch.equal(*pair) for pair in zip(before, state.model.parameters(), strict=True))
    assert torch.equal(step.batches[0].images, images), "every step augments the same batch anew"
    assert bench.VARIANTS["cast"](step).state.model.stages[0].blocks[0].norm._fast_norm


def test_evaluation_saving_resuming_and_a_group_of_one(
    betons: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = tool_module("bench/whole_run.py", monkeypatch)
    files = [str(betons / f"{split}-source.beton") for split in ("train", "val")]
    monkeypatch.setattr(sys, "argv", ["whole_run.py", *files, *SMALL, "--batch", "16", "--lines", "lines.jsonl"])
    bench.main()
    values = {line["name"]: line["value"] for line in map(json.loads, Path("lines.jsonl").read_text().splitlines())}
    assert values["stopped and resumed, largest difference of weights"] == 0
    assert values["gloo group of one, largest difference of gradients"] < 1e-5
    assert values["evaluation of 2 models"] > 0
    assert "stopped within epoch 1, as intended" in capsys.readouterr().out
    assert not torch.distributed.is_initialized()


def test_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tool_module("bench/ceilings.py", monkeypatch)
    runtime = resolve_runtime("cpu")
    monkeypatch.setattr(bench, "ROUNDS", 1)
    assert bench.bandwidth(runtime, 1) > 0
    assert bench.products(runtime, 16) > 0
    assert bench.launch(runtime) > 0
