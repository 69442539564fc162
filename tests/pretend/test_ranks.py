"""Several processes on the pretended GPU: a CPU's weights, half precision, and a resume by another number of processes."""

from pathlib import Path

import pytest
import torch
from pretend.device import DeviceMixError
from pretend.ranks import together, train_on_cpus, train_together
from pretend.training import pretended_gpu
from safetensors.torch import load_file
from samples import tiny_recipe
from torch import distributed

from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import World
from jpegcurr.training.tracking import read_metrics

# As in tests/training/test_processes.py: an eps that keeps rounding differences small.
MIXED = ("mix={mixup: 0.8, cutmix: 1.0}", "optim.eps=1e-3")
ONE_EPOCH = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "evaluate=[]")
NO_PATH_DROPPED = "model.drop_path=0"  # each process drops its own


def recipe_of(betons: Path, folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(betons, folder, *MIXED, *ONE_EPOCH, *overrides)


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a checkpoint, but for the states of generators."""
    return {name: tensor for name, tensor in load_file(run / "state.safetensors").items() if not name.startswith("rng.")}


def distance(first: Path, second: Path) -> float:
    """Return the largest difference of two weights, or of two averages of them."""
    one, other = state_of(first), state_of(second)
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one if name.startswith(("model.", "ema.")))


def test_an_exchange_is_of_tensors_on_one_device() -> None:
    def work(world: World) -> None:
        with pretended_gpu() as gpu:
            mine = torch.full((2, 3), float(world.rank), device="pretend:0")
            everyones = [torch.empty_like(mine) for _ in range(world.ranks)]
            distributed.all_gather(everyones, mine)
            world.sum(mine)
            with pytest.raises(DeviceMixError, match=r"allgather_ at tests/pretend/test_ranks\.py"):
                distributed.all_gather([torch.empty(2, 3) for _ in range(world.ranks)], mine)
            assert gpu.waits == gpu.faults == []
            assert [[float(number) for number in (*each[0, :1], mine[1, 2])] for each in everyones] == [[0, 3], [1, 3], [2, 3]]

    together(3, work)


def test_a_process_that_fails_is_reported() -> None:
    def work(world: World) -> None:
        world.total(0)  # both are there: one that ends at once can end while the other still connects
        assert world.rank, "the first of us"

    with pytest.raises(AssertionError, match="the first of us"):
        together(2, work)


@pytest.mark.parametrize("ranks", [2, 3])
def test_processes_on_gpus_have_the_weights_of_as_many_on_cpus(betons: Path, tmp_path: Path, ranks: int) -> None:
    """To the bit: gloo adds the same numbers in the same order. Each process's dropped paths and its evaluation too."""
    batch, augment = f"batch={{size: 12, per_device: {12 // ranks}}}", "augment={policy: rand-m9, erase: 0.25}"
    recipe = recipe_of(betons, tmp_path, batch, augment, "evaluate=[clean]")
    train_on_cpus(ranks, recipe, tmp_path / "cpu")
    train_together(ranks, recipe, tmp_path / "gpu")
    one, other = state_of(tmp_path / "cpu"), state_of(tmp_path / "gpu")
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    (expected,), (row,) = (read_metrics(tmp_path / name) for name in ("cpu", "gpu"))
    assert {name: value for name, value in row.items() if "top" in name} == {
        name: value for name, value in expected.items() if "top" in name
    }


def test_half_precision_of_two_processes_is_that_of_one(betons: Path, tmp_path: Path) -> None:
    """Not compiled, so by ``HalfPrecisionForward`` within DDP.

    A weight moves by 4e-3 at most. Both have the same micro-batches, so only sums in float32 are rounded otherwise.
    """
    recipe = recipe_of(betons, tmp_path, "batch={size: 24, per_device: 6}", NO_PATH_DROPPED)
    train_together(1, recipe, tmp_path / "one", torch.bfloat16)
    train_together(2, recipe, tmp_path / "two", torch.bfloat16)
    train_on_cpus(2, recipe, tmp_path / "float32")
    assert distance(tmp_path / "one", tmp_path / "two") <= 1e-5
    assert 1e-5 < distance(tmp_path / "two", tmp_path / "float32") < 1e-3


def test_three_processes_continue_a_run_of_two(betons: Path, tmp_path: Path) -> None:
    """Stopped within an epoch: the curve and the weights of one process that never stopped."""
    phases = "curriculum=[{data: clean, until_epoch: 1}, {data: q50, until_epoch: 2}]"
    recipe = recipe_of(betons, tmp_path, phases, "batch={size: 24, per_device: 4}", NO_PATH_DROPPED)
    train_on_cpus(1, recipe, tmp_path / "one")
    train_together(2, recipe, tmp_path / "run", stop=1)
    train_together(3, recipe, tmp_path / "run", resume=True)
    rows, expected = (read_metrics(tmp_path / name) for name in ("run", "one"))
    assert [row["train/loss"] for row in rows] == pytest.approx([row["train/loss"] for row in expected], abs=2e-5)
    assert [row["steps"] for row in rows] == [2, 2]
    assert distance(tmp_path / "one", tmp_path / "run") < 1e-4
