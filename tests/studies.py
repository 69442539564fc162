"""Small studies, and a watcher that records their progress."""

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
from jpegcurr.study.run import TaskResult, run_all
from jpegcurr.study.tasks import Task, list_tasks, list_unfinished
from jpegcurr.system import StopRequest

PHASES = "[{{data: {0}, until_epoch: 2}}, {{data: {1}, until_epoch: 4}}]"


def write_study(betons: Path, **changes: Any) -> Path:
    """Write a study of two arms that fork after two of four epochs, and two seeds.

    ``changes`` replace keys of the study, and those in ``base`` keys of its recipe.
    """
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
    """A watcher that records."""

    def __init__(self) -> None:
        self.started_tasks: list[str] = []
        self.results: list[TaskResult] = []

    def started(self, task: Task) -> None:
        self.started_tasks.append(task.name)

    def reached(self, task: Task, epochs: float) -> None:
        assert task.first <= epochs <= task.last

    def ended(self, result: TaskResult) -> None:
        self.results.append(result)


def run(path: Path, out: Path, cpu: Runtime, requested: Callable[[], bool] = lambda: False) -> tuple[Notes, list[TaskResult]]:
    study, notes = load_study(path), Notes()
    unfinished = list_unfinished(study, list_tasks(study), out)
    stop = StopRequest()
    stop.requested = requested
    return notes, run_all(study, unfinished, out, cpu, notes, stop, lambda: None)


def command(arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(shlex.split(arguments))
    return int(left.value.code or 0)
