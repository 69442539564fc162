"""Processes that train one model together: the same curve, one log, and a common end."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from forked import PYTHON
from processes import Group
from safetensors.torch import load_file
from samples import tiny_recipe
from torch import distributed

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import UsageError
from jpegcurr.recipe.loading import dump_recipe
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import ALONE, Runtime, World, joined
from jpegcurr.training.tracking import read_metrics
from jpegcurr.training.train import train

# Stochastic depth drops different paths in every process, so it is disabled; AdamW's eps keeps rounding differences small.
OPTIONS = (
    "model.drop_path=0",
    "optim.eps=1e-3",
    "batch.per_device=4",
    "mix={mixup: 0.8, cutmix: 1.0}",
    "augment={policy: rand-m9-mstd0.5-inc1, erase: 0.25}",
    "curriculum.1.batch=24",
)


def arguments(recipe: Recipe, *options: str) -> list[str]:
    """Return the arguments of a command that trains ``recipe``."""
    Path("tiny.yaml").write_text(dump_recipe(recipe))
    return ["train", "--recipe", "tiny.yaml", "--device", "cpu", *options]


def errors(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith("error")]


@pytest.fixture(scope="module")
def pair(betons: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run with two processes, and return its folder."""
    folder = tmp_path_factory.mktemp("pair")
    (folder / "tiny.yaml").write_text(dump_recipe(tiny_recipe(betons, folder, *OPTIONS)))
    torchrun = [
        PYTHON,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "jpegcurr",
        "train",
    ]
    command = [*torchrun, "--recipe", str(folder / "tiny.yaml"), "--device", "cpu", "--out", str(folder / "run")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert process.returncode == 0, process.stderr
    assert sum(line.startswith("phase") for line in process.stderr.splitlines()) == 2, "one log"
    assert "2 devices x 2 micro-batches x 4" in process.stderr
    return folder / "run"


def test_two_processes_give_the_curve_of_one(pair: Path, betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    train(tiny_recipe(betons, tmp_path, *OPTIONS), Path("run"), runtime=cpu)
    both = zip(read_metrics(pair), read_metrics(Path("run")), strict=True)
    for row, expected in both:
        assert row["steps"] == expected["steps"]
        assert row["train/loss"] == pytest.approx(expected["train/loss"], abs=2e-5)
        for data in ("clean", "q50"):
            assert row[f"val/{data}/loss"] == pytest.approx(expected[f"val/{data}/loss"], abs=1e-4)
            assert row[f"val/{data}/top1"] == expected[f"val/{data}/top1"], "every image counted once"
    first, second = (load_file(folder / "model.safetensors") for folder in (pair, Path("run")))
    assert max(float((first[key] - second[key]).abs().max()) for key in first) < 1e-4


def test_sigterm_saves_a_checkpoint_and_the_resumed_pair_has_the_same_weights(pair: Path, betons: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path, *OPTIONS)
    running = Group(arguments(recipe, "--out", "run", "--save-every", "1"))
    deadline = time.monotonic() + 120
    while not Path("run/state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    running.terminate()
    assert running.ended() == [143, 143], running.output
    (line,) = errors(running.output)
    assert "To resume: torchrun --nproc-per-node 2 -m jpegcurr train" in line
    resumed = Group(arguments(recipe, "--out", "run", "--resume"))
    assert resumed.ended() == [0, 0], resumed.output
    assert sum(line.startswith("resuming") for line in resumed.output) == 1
    states = [load_file(folder / "state.safetensors") for folder in (pair, Path("run"))]
    assert {key.split(".")[1] for key in states[0] if key.startswith("rng")} == {"0", "1"}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_one_process_may_resume_a_run_of_two(
    pair: Path, betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(pair, "run")
    Path("run/checkpoints/epoch-0001.safetensors").replace("run/state.safetensors")
    train(tiny_recipe(betons, tmp_path, *OPTIONS), Path("run"), runtime=cpu, resume=True)
    assert "the checkpoint is of 2 processes, and 1 resume it: stochastic depth drops other paths" in caplog.messages
    for row, expected in zip(read_metrics(Path("run")), read_metrics(pair), strict=True):
        assert row["train/loss"] == pytest.approx(expected["train/loss"], abs=2e-5)


def test_a_process_that_fails_ends_the_others_with_one_message(betons: Path, tmp_path: Path) -> None:
    data = bytearray((betons / "train-q50.beton").read_bytes())
    beton = Beton(betons / "train-q50.beton")
    data[int(beton.pointers[5]) : int(beton.pointers[5]) + int(beton.sizes[5])] = bytes(int(beton.sizes[5]))
    (tmp_path / "bad.beton").write_bytes(data)
    recipe = tiny_recipe(
        betons,
        tmp_path,
        f"data.q50={{train: {tmp_path}/bad.beton}}",
        "curriculum=[{data: q50, until_epoch: 1}]",
        "evaluate=[]",
        "schedule.warmup_epochs=0",
    )
    failing = Group(arguments(recipe, "--out", "run"))
    assert failing.ended() == [1, 1], failing.output
    assert any("sample 5 of" in line for line in errors(failing.output)), failing.output
    others = [line for line in errors(failing.output) if "sample 5 of" not in line]
    assert others in ([], ["error: Another process of this run has ended; its own message says why."])
    assert not any("Traceback" in line for line in failing.output), failing.output


def test_a_mistake_is_reported_once(betons: Path, tmp_path: Path) -> None:
    failing = Group(arguments(tiny_recipe(betons, tmp_path), "--set", "batch.sizze=3"))
    assert failing.ended() == [2, 1], failing.output
    assert len(errors(failing.output)) == 1
    assert sum("unknown key" in line for line in failing.output) == 1
    failing = Group(["train", "--reciep", "tiny.yaml"])
    assert failing.ended() == [2, 2], failing.output
    assert len(errors(failing.output)) == 1, failing.output


def test_gradients_are_exchanged_once_a_step(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count the exchanges of a group of one; they do not depend on the number of micro-batches."""
    exchanged = 0

    def count(_state: object, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        nonlocal exchanged
        exchanged += bucket.is_last()
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    def prepare(_runtime: Runtime, model: torch.nn.Module) -> torch.nn.Module:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)
        wrapped.register_comm_hook(None, count)
        return wrapped

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        monkeypatch.setattr(Runtime, "prepare", prepare)
        rows = train(tiny_recipe(betons, tmp_path, "batch.per_device=4", "evaluate=[]"), Path("run"), runtime=cpu).rows
    finally:
        distributed.destroy_process_group()
    assert exchanged == sum(int(row["steps"]) for row in rows) == 12


def test_a_single_process_exchanges_nothing() -> None:
    with joined() as world:
        assert world == ALONE
    tensor = torch.ones(2)
    assert world.sum(tensor) is tensor
    assert world.gather(tensor) == [tensor]
    assert world.any(True)
    assert not world.any(False)
    with world.main_process_first():
        assert world.total(3) == 3


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"RANK": "one"}, "torchrun sets these"), ({"RANK": "1", "WORLD_SIZE": "2"}, "cannot be reached: .*MASTER")],
)
def test_an_environment_that_torchrun_did_not_set_is_an_error(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], message: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message), joined():
        pass


@pytest.mark.parametrize(("size", "ranks", "micro"), [(16, 1, 8), (16, 2, 8), (16, 4, 4), (24, 3, 8)])
def test_the_micro_batch_fits_a_device_and_divides_the_step(
    betons: Path, tmp_path: Path, size: int, ranks: int, micro: int
) -> None:
    assert tiny_recipe(betons, tmp_path, f"batch.size={size}").micro(ranks) == micro


def test_a_step_that_cannot_be_divided_is_an_error(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch\.size 16 is not a multiple of batch\.per_device 8 on each of 3 devices"):
        tiny_recipe(betons, tmp_path).micro(3)
    world = World(0, 17)
    with pytest.raises(ValueError, match="17 devices"):
        tiny_recipe(betons, tmp_path).micro(world.ranks)


def test_run_json_says_how_many_processes_ran(pair: Path) -> None:
    assert "one of 2 processes" in json.loads((pair / "run.json").read_text())["runtime"]
