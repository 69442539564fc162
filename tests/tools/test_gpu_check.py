"""The GPU check, which keeps to its time and reports every step that failed or was left out."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from samples import TOOLS, tool_module

from jpegcurr.recipe.loading import find_recipe, load_recipe

LINGER = "import os, subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    handler = signal.getsignal(signal.SIGTERM)
    yield tool_module("gpu_check", monkeypatch)
    signal.signal(signal.SIGTERM, handler)


def read_summary() -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(Path("gpu-check/summary.json").read_text())
    return summary


def put_steps(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *steps: tuple[Any, ...]) -> None:
    monkeypatch.setattr(tool, "plan", lambda _folder, _device: [tool.Step(*step) for step in steps])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_every_step_reports_its_outcome_and_the_later_ones_run(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = "print('1 passed, 2 skipped, 7 deselected in 3.1s')"
    steps = [
        tool.Step("fails", 4, ["-S", "-c", "print('Some', 'words'); raise SystemExit('The reason.')"]),
        tool.Step("hangs", 1, ["-S", "-c", f"{LINGER}; sys.stdout.flush(); time.sleep(60)"]),
        tool.Step("no package", 1, ["-c", ""], ("no_such_package",)),
        tool.Step("no file", 1, ["-c", ""], files=("betons/x.beton",)),
        tool.Step("passes", 4, ["-S", "-c", program], read_metrics=tool.count_tests),
    ]
    monkeypatch.setattr(tool, "plan", lambda _folder, _device: steps)
    start = time.monotonic()
    assert tool.main(["--device", "cpu", "--minutes", "0.3"]) == 1
    assert time.monotonic() - start < 20
    summary = read_summary()
    assert [(step["name"], step["outcome"]) for step in summary["steps"]] == [
        ("fails", "failed"),
        ("hangs", "out of time"),
        ("no package", "left out"),
        ("no file", "left out"),
        ("passes", "passed"),
    ]
    whys = [step["why"] for step in summary["steps"]]
    assert (whys[0], whys[2:]) == (
        "exit code 1: The reason.",
        ["no_such_package is not installed", "x.beton does not exist", ""],
    )
    assert summary["steps"][-1]["figures"] == {"passed": 1, "skipped": 2, "deselected": 7}
    assert {"device", "torch", "machine", "versions", "commit", "command", "minutes"} < summary.keys()
    assert Path("gpu-check/fails.log").read_text() == "Some words\nThe reason.\n"
    assert not is_alive(int(Path("gpu-check/hangs.log").read_text())), "a step's child processes end with it"
    lines = capsys.readouterr().out.splitlines()
    assert " ".join(lines[-1].split()) == "passes passed 0 passed 1, skipped 2, deselected 7"
    assert lines[-4].startswith("hangs        out of time")


def test_steps_that_pass_or_are_left_out_are_no_failure(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    put_steps(tool, monkeypatch, ("passes", 1, ["-S", "-c", ""]), ("is left out", 1, [], ("no_such_package",)))
    assert tool.main(["--device", "cpu"]) == 0


def test_a_step_gets_the_time_that_earlier_ones_left_over(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = ["-S", "-c", ""]
    put_steps(tool, monkeypatch, ("first", 1, nothing), ("second", 3, nothing), ("third", 1, nothing))
    assert tool.main(["--device", "cpu", "--minutes", "10"]) == 0
    given = [int(line.split()[-2]) for line in capsys.readouterr().err.splitlines()]
    assert given[0] == 120
    assert 440 <= given[1] <= 450
    assert 580 <= given[2] <= 600


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_command_exists_and_accepts_its_options(tool: ModuleType, device: str) -> None:
    steps = {step.name: step for step in tool.plan(None, device)}
    shared = (TOOLS / "bench/common.py").read_text()
    for name in ("training", "levers", "loading"):
        script, *options = steps[name].command
        text = Path(script).read_text() + shared
        assert all(f'"{option}"' in text for option in options if option.startswith("--")), name
    assert Path(steps["photographs"].command[0]).is_file()
    assert any(word.endswith("test_train.py") for word in steps["tests"].command)
    command = steps["two phases"].command
    overrides = [value for option, value in pairwise(command) if option == "--set"]
    recipe = load_recipe(find_recipe(Path(command[command.index("--recipe") + 1])), overrides)
    assert [phase.data for phase in recipe.curriculum] == ["clean", "q50"]
    assert [name for name in steps if name not in {step.name for step in tool.plan(Path("folder"), device)}] == ["photographs"]


def test_the_metrics_are_those_of_the_last_epoch_and_the_last_benchmark(tool: ModuleType) -> None:
    Path("run").mkdir()
    rows = [{"epoch": epoch, "val/clean/top1": 70 + epoch, "val/q50/top1": 60, "images_per_second": 9.5} for epoch in (0, 1)]
    Path("run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tool.last_epoch(Path(), "") == {"val/clean/top1": 71, "val/q50/top1": 60, "images_per_second": 9.5}
    lines = [{"kind": "train", "figures": {"images_per_second": {"ours": speed}}} for speed in (1.5, 2.5)]
    Path("bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tool.speeds("images_per_second")(Path(), "") == {"ours": 2.5}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: torch finds no GPU here. To run the same steps on the CPU at a small size, use --device cpu."),
        (["nowhere", "--device", "cpu"], "error: nowhere has no folder train."),
        (["--device", "cpu", "--out", "."], "error: . exists and is not empty."),
    ],
)
def test_a_mistake_is_a_sentence_with_exit_code_2(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("here").touch()
    assert tool.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)
    assert os.listdir() == ["here"]


def test_without_torch_the_error_names_the_python_that_lacks_it(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tool, "find_spec", lambda _name: None)
    assert tool.main([]) == 2
    assert f"torch is not installed for {sys.executable}." in capsys.readouterr().err
