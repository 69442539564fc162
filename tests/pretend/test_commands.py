"""What is done with a trained network, on the pretended GPU: the numbers of a CPU, and no fault. And a study."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from pretend.training import pretended_gpu, pretended_runtime, waits_in_steps
from safetensors.torch import load_file
from studies import write_study

import jpegcurr
from jpegcurr.analysis.channels.study import ChannelStudy, study_channels
from jpegcurr.analysis.evaluation.sets import expand_qualities, open_sets
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import load_study
from jpegcurr.study.run import run_task
from jpegcurr.study.tasks import list_tasks
from jpegcurr.system import StopRequest
from jpegcurr.training.models.load import load_run

Result = TypeVar("Result")


def on_both(call: Callable[[Runtime], Result], cpu: Runtime) -> tuple[Result, Result]:
    """Return what ``call`` of a runtime returns on the CPU and on the pretended GPU."""
    expected = call(cpu)
    with pretended_gpu() as gpu:
        found = call(pretended_runtime())
    assert gpu.operations
    assert gpu.faults == []
    return expected, found


def test_evaluate(trained: Path, betons: Path, cpu: Runtime) -> None:
    beton = betons / "val-source.beton"
    one, other = on_both(lambda runtime: jpegcurr.evaluate(trained, beton, ["source", 10], runtime=runtime), cpu)
    assert [result.scores for result in one] == [result.scores for result in other]


def test_predict(trained: Path, photos: Path, cpu: Runtime) -> None:
    files = sorted((photos / "val").glob("*/*.jpg"))
    one, other = on_both(lambda runtime: list(jpegcurr.predict_images(trained, files, runtime)), cpu)
    assert one == other


def test_cam(trained: Path, photos: Path, cpu: Runtime) -> None:
    one, other = on_both(
        lambda runtime: jpegcurr.compare_cams(trained, photos / "val", ["source", 20], runtime, limit=6, pictures=2), cpu
    )
    assert one.baseline.keys() == other.baseline.keys()
    assert all(np.array_equal(one.baseline[name], other.baseline[name], equal_nan=True) for name in one.baseline)
    assert len(other.examples) == 2


def test_channels(trained: Path, betons: Path, cpu: Runtime) -> None:
    def study(runtime: Runtime) -> ChannelStudy:
        run = load_run(trained, runtime)
        datasets = open_sets([run], expand_qualities([betons / "val-source.beton"], ["source", 10]))
        return study_channels(run, datasets, runtime, layers=["stages.1", "stages.3"])

    one, other = on_both(study, cpu)
    for first, second in zip(one.layers, other.layers, strict=True):
        assert all(np.array_equal(own.mean, its.mean) for own, its in zip(first.channels, second.channels, strict=True))


def test_an_arm_of_a_study_from_its_trunk_on(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    study = load_study(write_study(betons, seeds=[0], base={"batch": {"size": 48, "per_device": 24}}))
    tasks = [task for task in list_tasks(study) if task.arm != "clean"]
    for task in tasks:
        run_task(study, task, tmp_path / "cpu", cpu, lambda _info: None, StopRequest())
    with pretended_gpu() as gpu:
        for task in tasks:
            run_task(study, task, tmp_path / "gpu", pretended_runtime(), lambda _info: None, StopRequest())
    assert waits_in_steps(gpu) == gpu.faults == []
    one, other = (load_file(tmp_path / name / "runs/swap/seed-0/model.safetensors") for name in ("cpu", "gpu"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    cpus, gpus = ({path.name for path in (tmp_path / name / "outcomes").rglob("*.*")} for name in ("cpu", "gpu"))
    assert cpus == gpus != set()
