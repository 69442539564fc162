"""The GPU check: it starts nothing where a package lacks, keeps to its time, and keeps what a killed step has measured."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from samples import TOOLS, jpeg, photograph, tool_module

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.recipe.loading import find_recipe, load_recipe

LINGER = "import os, subprocess, sys, time; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
MEASURED = 'open(sys.argv[2], \'w\').write(\'{"name": "speed", "value": 3, "unit": "images/s"}\\n{"na\')'


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    handler = signal.getsignal(signal.SIGTERM)
    yield tool_module("gpu_check", monkeypatch)
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def ready(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The check on a machine that lacks nothing."""
    monkeypatch.setattr(tool, "lacking", lambda *, photographs: [])
    return tool


def read_summary() -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(Path("gpu-check/summary.json").read_text())
    return summary


def put_steps(tool: ModuleType, monkeypatch: pytest.MonkeyPatch, *steps: Any) -> None:
    monkeypatch.setattr(tool, "plan", lambda _folder, _device: list(steps))


def step(name: str, share: int, program: str, **others: Any) -> Any:
    from gpu.steps import Step

    return Step(name, share, ["-S", "-c", program], **{"lines": False, **others})


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_every_step_reports_its_outcome_and_the_later_ones_run(
    ready: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpu.steps import count_tests

    put_steps(
        ready,
        monkeypatch,
        step("fails", 4, "print('Some', 'words'); raise SystemExit('The reason.')"),
        step("hangs", 1, f"{LINGER}; {MEASURED}; sys.stdout.flush(); time.sleep(60)", lines=True),
        step("no file", 1, "", files=("betons/x.beton",)),
        step("passes", 4, "print('1 passed, 2 skipped, 7 deselected in 3.1s')", read_metrics=count_tests),
    )
    start = time.monotonic()
    assert ready.main(["--device", "cpu", "--minutes", "0.3"]) == 1
    assert time.monotonic() - start < 20
    summary = read_summary()
    assert [(one["name"], one["outcome"], one["why"].partition(" after")[0]) for one in summary["steps"]] == [
        ("fails", "failed", "exit code 1: The reason."),
        ("hangs", "out of time", "killed"),
        ("no file", "left out", "x.beton does not exist"),
        ("passes", "passed", ""),
    ]
    assert summary["steps"][1]["figures"] == {"speed (images/s)": 3}, "what a killed step had measured is kept"
    assert summary["steps"][3]["figures"] == {"passed": 1, "skipped": 2, "deselected": 7}
    assert {"device", "torch", "machine", "versions", "commit", "command", "minutes"} < summary.keys()
    assert Path("gpu-check/fails.log").read_text() == "Some words\nThe reason.\n"
    assert not is_alive(int(Path("gpu-check/hangs.log").read_text())), "a step's child processes end with it"
    printed = capsys.readouterr().out
    assert "  Some words\n  The reason.\nfails: failed" in printed, "output is on the screen as it comes"
    assert "    speed (images/s)" in printed


def test_a_summary_is_there_after_every_step(ready: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    look = "import json, os; assert [one['name'] for one in json.load(open(os.environ['SUMMARY']))['steps']] == ['first']"
    monkeypatch.setenv("SUMMARY", str(Path("gpu-check/summary.json").resolve()))
    put_steps(ready, monkeypatch, step("first", 1, ""), step("second", 1, look))
    assert ready.main(["--device", "cpu"]) == 0


def test_a_step_gets_the_time_that_earlier_ones_left_over(
    ready: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_steps(ready, monkeypatch, step("first", 1, ""), step("second", 3, ""), step("third", 1, ""))
    assert ready.main(["--device", "cpu", "--minutes", "10"]) == 0
    given = [int(line.split()[-2]) for line in capsys.readouterr().err.splitlines()]
    assert given[0] == 120
    assert 430 <= given[1] <= 450
    assert 560 <= given[2] <= 600


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_command_exists_and_accepts_its_options(tool: ModuleType, device: str) -> None:
    steps = {one.name: one for one in tool.plan(None, device)}
    shared = (TOOLS / "bench/common.py").read_text()
    for one in steps.values():
        script, *options = one.command
        if script.endswith(".py"):
            text = Path(script).read_text() + shared
            assert all(f'"{option}"' in text for option in options if option.startswith("--")), one.name
            overrides = [value for option, value in pairwise(options) if option == "--set"]
            if "--recipe" in options:
                load_recipe(find_recipe(options[options.index("--recipe") + 1]), overrides)
    assert any(word.endswith("test_train.py") for word in steps["tests"].command)
    assert sum(one.share for one in steps.values()) <= 720, "the shares are seconds of twelve minutes"
    assert steps.keys() - {one.name for one in tool.plan(Path("folder"), device)} == {"photographs"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: torch finds no GPU here. To run the same steps on the CPU at a small size, use --device cpu."),
        (["nowhere", "--device", "cpu"], "error: nowhere is no folder."),
        (["--device", "cpu", "--out", "."], "error: . exists and is not empty."),
        (["--pack", "here"], "error: here exists."),
    ],
)
def test_a_mistake_is_a_sentence_with_exit_code_2(
    ready: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("here").touch()
    assert ready.main(arguments) == 2
    assert capsys.readouterr().err.startswith(message)
    assert os.listdir() == ["here"]


def test_where_packages_lack_it_names_all_of_them_and_starts_nothing(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpu import needs

    there = needs.find_spec
    monkeypatch.setattr(needs, "find_spec", lambda name: None if name in ("torch", "simplejpeg") else there(name))
    monkeypatch.setattr(needs, "version", lambda name: {"timm": "1.0.22"}.get(name, "99"))
    put_steps(tool, monkeypatch, step("runs", 1, ""))
    assert tool.main(["--device", "cpu"]) == 1
    error = capsys.readouterr().err
    assert f"error: {sys.executable}, Python " in error
    assert "\n  torch>=" in error
    assert "\n  simplejpeg>=" in error
    assert "\n  timm 1.0.22 is installed, and 1." in error
    assert error.count("is installed, and") == 1
    assert os.listdir() == []


@pytest.mark.parametrize(("text", "parts"), [("2.11.0+cu130", (2, 11, 0)), ("1.8", (1, 8, 0)), ("3.0rc1", (3, 0, 0))])
def test_versions_are_compared_by_their_numbers(tool: ModuleType, text: str, parts: tuple[int, ...]) -> None:
    from gpu.needs import numbers

    assert numbers(text) == parts


def jpegs(folder: Path, count: int) -> None:
    (folder / "cat").mkdir(parents=True)
    for number in range(count):
        (folder / "cat" / f"{number}.jpg").write_bytes(jpeg(photograph("cat").resize((40, 30))))


def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the wheels of two packages, one of them without a network."""
    from gpu import pack

    monkeypatch.setattr(pack, "resolve", lambda have, python: ["timm==1.0.31"])
    monkeypatch.setattr(pack, "download", lambda pinned, wheels, python: (wheels / "timm-1.0.31.whl").write_bytes(bytes(1000)))


def test_a_pack_has_wheels_images_and_how_to_start(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    without_network(monkeypatch)
    jpegs(Path("photos"), 3)
    assert tool.main(["--pack", "pack", "--images", "photos"]) == 0
    names = sorted(str(path.relative_to("pack")) for path in Path("pack").rglob("*") if path.is_file())
    assert names == ["images/cat/0.jpg", "images/cat/1.jpg", "images/cat/2.jpg", "start.sh", "wheels/timm-1.0.31.whl"]
    subprocess.run(["bash", "-n", "pack/start.sh"], check=True)


def test_a_pack_without_images_has_the_photographs_that_packages_ship(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_network(monkeypatch)
    assert tool.main(["--pack", "pack"]) == 0
    files = list(Path("pack/images").rglob("*.jpg"))
    assert len({file.parent for file in files}) >= 10, "classes"
    assert f"{len(files)} images" in capsys.readouterr().out
    sizes = []
    for file in files[::10]:
        with Image.open(file) as image:
            sizes.append(max(image.size))
    assert min(sizes) >= 300, "of native size, not small ones"
    monkeypatch.setattr(tool, "find_spec", lambda name: None)
    assert tool.main(["--pack", "other"]) == 1
    assert "skimage and sklearn have the photographs and are not installed. Give --images." in capsys.readouterr().err


def test_a_pack_above_the_limit_is_refused_and_leaves_nothing(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpu import pack

    without_network(monkeypatch)
    monkeypatch.setattr(pack, "LIMIT", 2000)
    jpegs(Path("photos"), 3)
    assert tool.main(["--pack", "pack", "--images", "photos"]) == 1
    assert "MB are more than" in capsys.readouterr().err
    assert os.listdir() == ["photos"]
    assert tool.main(["--pack", "pack", "--images", "nowhere"]) == 1
    assert "nowhere has no JPEGs" in capsys.readouterr().err


def test_the_packages_that_the_machine_has_are_not_resolved(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from gpu import pack

    given = list[str]()

    def run(command: list[str], _complaint: str) -> str:
        given.extend(Path(command[4]).read_text().split("\n"))
        given.extend(Path(command[6]).read_text().split("\n"))
        return "timm==1.0.31\n# by\nrich==15.0.0 ; python_version > '3'\n"

    monkeypatch.setattr(pack, "run", run)
    monkeypatch.setattr(pack, "find_uv", lambda: "uv")
    assert pack.resolve(["torch", "pytest"], "3.12") == ["timm==1.0.31", "rich==15.0.0"]
    assert "torch ; sys_platform == 'never'" in given
    assert any(line.startswith("simplejpeg>=") for line in given)
    assert "pytest" not in given


def test_images_of_its_own_and_their_betons(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = tool_module("gpu/photographs.py", monkeypatch)
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", {"cat": "skimage/data/chelsea.png", "coins": "skimage/data/coins.png"})
    monkeypatch.setattr(photographs, "GREY", {})
    assert photographs.write_photographs(Path("images")) == 20
    with Image.open("images/cat/3.jpg") as image:
        assert (image.size, image.mode) == ((451, 300), "RGB")
    monkeypatch.syspath_prepend(str(TOOLS / "bench"))
    betons = tool_module("gpu/betons.py", monkeypatch)
    monkeypatch.setattr(sys, "argv", ["betons.py", "images", "betons", "--count", "24"])
    betons.main()
    assert [len(Beton(Path(f"betons/train-{quality}.beton"))) for quality in ("source", "q50")] == [24, 24]
