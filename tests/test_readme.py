"""The README's commands are run as written (training with small numbers added), and what it names is there."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from samples import SMALL, tiny_tree, tool_module

from jpegcurr.cli import main
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.train import train

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if line.startswith("jpegcurr ")]


def test_every_command_of_the_readme_runs_in_order_as_written(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(photos, "data/imagenet")
    assert len(COMMANDS) == 10
    for command in COMMANDS:
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command)[1:] + (shlex.split(SMALL) if " train " in command else []))
        assert not left.value.code, f"{command}: {capsys.readouterr().err}"
    assert {path.name for path in Path().glob("*.html")} == {"report.html", "both.html", "sheet.html"}


def test_the_schedules_of_the_readme_train(betons: Path, cpu: Runtime) -> None:
    """Every data set and phase of it, in a few epochs of 32 pixels."""
    (block,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    tree = yaml.safe_load(block)
    assert {"clean", "q50"} < tree["data"].keys()
    ends = [2, 5, 7]
    phases = [{**phase, "until_epoch": end, "size": 32} for phase, end in zip(tree["curriculum"], ends, strict=True)]
    others = [{"data": name, "until_epoch": ends[-1] + 2 + 2 * number} for number, name in enumerate(tree["data"])]
    shutil.copytree(betons, "betons")
    small = {**tiny_tree(betons), **tree, "evaluate": ["clean", "q50"], "curriculum": [*phases, *others]}
    Path("schedules.yaml").write_text(json.dumps(small))
    metrics = train(load_recipe(Path("schedules.yaml")), Path("run"), runtime=cpu)
    assert [row["data"] for row in metrics.rows[4:8]] == ["50% clean + 50% q50", "q50", "q50", "clean"]
    assert [row["data"] for row in metrics.rows[8::2]] == list(tree["data"])


def test_the_file_tree_of_the_readme_is_the_package() -> None:
    tree = re.search(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)
    assert tree is not None
    named = set(re.findall(r"^ +([a-z_]+\.py) ", tree.group(1), re.MULTILINE))
    there = {path.name for path in (ROOT / "jpegcurr").rglob("*.py")} - {"__init__.py", "__main__.py"}
    assert named == there


def test_files_that_the_readme_names_are_there() -> None:
    for name in re.findall(r"\]\(([^):]+)\)", README) + re.findall(r"`(tools/[\w.]+)", README):
        assert (ROOT / name).is_file(), name
    for name in ("tools/demo", "tools/test", ".ci/run"):
        assert os.access(ROOT / name, os.X_OK)


def test_the_demo_cuts_training_and_validation_from_disjoint_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = tool_module("demo_data.py", monkeypatch)
    random = np.random.default_rng(0)
    width, height = 640, 427
    for tile in [(row, column) for row in range(4) for column in range(4)]:
        for _ in range(50):
            left, top, right, bottom = demo.random_square((width, height), tile, random)
            assert tile[1] * 160 <= left < right <= (tile[1] + 1) * 160
            assert tile[0] * 106 <= top < bottom <= (tile[0] + 1) * 106
    assert sorted(demo.VALIDATION_COLUMN) == [0, 1, 2, 3]


@pytest.mark.skipif(not (ROOT / ".venv/.complete").is_file(), reason="tools/test has not made the environment")
def test_the_demo_runs_and_a_second_time_goes_on() -> None:
    """The command as written, with a smaller network and fewer epochs added."""
    small = (
        "--set model.name=test_convnext --set image.size=32 --set curriculum.0.until_epoch=1 "
        "--set curriculum.1.until_epoch=2 --set schedule.warmup_epochs=0 --set loader.kind=plain --set loader.workers=0"
    )
    command = [str(ROOT / "tools/demo"), str(Path("demo").resolve()), *shlex.split(small)]
    for again in (False, True):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.rstrip().removesuffix("\x1b[0m").endswith("demo/report.html")
        assert ("resuming at epoch 2 of 2" in done.stderr) == again
        assert ("jpegcurr encode" in done.stderr) == (not again)
        assert ("phase 1: swap to q50" in done.stderr) == (not again)
    assert len(list(Path("demo/data/imagenet/train").iterdir())) == 16
