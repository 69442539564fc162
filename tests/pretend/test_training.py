"""All of training on the pretended GPU: the numbers of a CPU, no waiting within a step, precision, layouts, and launches."""

from pathlib import Path

import pytest
import torch
from pretend.training import IN_STEP, pretended_gpu, pretended_runtime, waits_in_steps
from safetensors.torch import load_file
from samples import COMPILED, tiny_recipe

from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.train import train

# Everything that a step can consist of.
WHOLE = ("augment={policy: rand-m9-mstd0.5-inc1, erase: 0.25}", "mix={mixup: 0.8, cutmix: 1.0}", "optim.clip_grad=1.0")
ONE_EPOCH = ("curriculum=[{data: clean, until_epoch: 1}]", "evaluate=[clean]", "schedule.warmup_epochs=0")


def recipe_of(betons: Path, folder: Path, *overrides: str) -> Recipe:
    swap = "curriculum=[{data: clean, until_epoch: 1}, {data: q50, until_epoch: 2}]"
    return tiny_recipe(betons, folder, *WHOLE, swap, "schedule.warmup_epochs=0", *overrides)


def differences(first: Path, second: Path) -> list[str]:
    """Return the names of the tensors that differ in two checkpoints, apart from the state of the device's own generator."""
    one, other = (load_file(run / "state.safetensors") for run in (first, second))
    names = {name for name in one.keys() | other.keys() if not name.endswith(".pretend")}
    return [name for name in sorted(names) if name not in one or name not in other or not torch.equal(one[name], other[name])]


@pytest.mark.parametrize("kind", [COMPILED, "plain"])
def test_a_run_on_the_gpu_has_the_weights_of_a_run_on_the_cpu(betons: Path, cpu: Runtime, tmp_path: Path, kind: str) -> None:
    """Two phases, evaluation, checkpoints and a resume within an epoch."""
    recipe = recipe_of(betons, tmp_path, f"loader.kind={kind}")
    train(recipe, tmp_path / "cpu", runtime=cpu)

    def interrupt(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (1, 1):
            raise KeyboardInterrupt

    with pretended_gpu() as gpu:
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "gpu", runtime=pretended_runtime(), on_step=interrupt, save_every=1)
        metrics = train(recipe, tmp_path / "gpu", runtime=pretended_runtime(), resume=True)
    assert differences(tmp_path / "cpu", tmp_path / "gpu") == []
    assert waits_in_steps(gpu) == []
    assert gpu.faults == []
    assert IN_STEP <= {operation.phase for operation in gpu.operations}
    assert 0 < float(metrics.rows[-1]["mfu"]) < 1
