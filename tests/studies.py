"""Small studies, and a watcher that remembers what it is told."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from samples import tiny_tree

from jpegcurr.cli import main
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import load_study
from jpegcurr.study.run import Ended, Stop, run_all
from jpegcurr.study.tasks import Task, left_to_do, list_tasks

PHASES = "[{{data: {0}, until_epoch: 2}}, {{data: {1}, until_epoch: 4}}]"


def write_study(betons: Path, **changes: Any) -> Path:
    """Two arms that fork after two of four epochs, two seeds; ``changes`` of its keys, and of the recipe's in ``base``."""
    base = {**tiny_tree(betons), **changes.pop("base", {})}
    Path("base.yaml").write_text(json.dumps(base))
    val = str(betons / "val-source.beton")
    tree = {
        "recipe": "base.yaml",
        "control": "clean",
        "primary": {"data": "clean", "weights": "raw"},
        "seeds": [0, 1],
        "fork": {"epoch": 2},
        "evaluate": {"clean": val, "q25": {"beton": val, "quality": 25}},
        "arms": {
            "clean": {"set": {"curriculum": yaml.safe_load(PHASES.format("clean", "clean"))}},
            "swap": {"set": ["curriculum=" + PHASES.format("clean", "q50")]},
        },
        **changes,
    }
    path = Path("small.yaml")
    path.write_text(yaml.safe_dump({key: value for key, value in tree.items() if value is not None}, sort_keys=False))
    return path


def arms(**more: Any) -> dict[str, Any]:
    return {
        "clean": {"set": ["curriculum=" + PHASES.format("clean", "clean")]},
        "swap": {"set": ["curriculum=" + PHASES.format("clean", "q50")]},
        **more,
    }


class Notes:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.over: list[Ended] = []

    def started(self, task: Task) -> None:
        self.begun.append(task.name)

    def reached(self, task: Task, epochs: float) -> None:
        assert task.first <= epochs <= task.last

    def ended(self, ended: Ended) -> None:
        self.over.append(ended)


def run(path: Path, out: Path, cpu: Runtime, asked: Callable[[], bool] = lambda: False) -> tuple[Notes, list[Ended]]:
    study, notes = load_study(path), Notes()
    left = left_to_do(study, list_tasks(study), out)
    return notes, run_all(study, left, out, cpu, notes, Stop(asked, lambda: None), lambda: None)


def command(arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(shlex.split(arguments))
    return int(left.value.code or 0)
