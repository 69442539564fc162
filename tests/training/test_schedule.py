"""The learning rate at every step, against the published programs; and the plan of a run."""

import subprocess
import sys
from decimal import Decimal
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import tiny_recipe, tiny_tree

from jpegcurr.errors import BetonError, RecipeError, UsageError
from jpegcurr.recipe.loading import find_recipe, load_recipe
from jpegcurr.recipe.schema import Recipe, ScheduleSection, StepDecay
from jpegcurr.training.curriculum import EpochPlan, plan_epochs
from jpegcurr.training.schedule import learning_rate, plan_run, planned_epochs


def rates(schedule: ScheduleSection, epochs: int, steps: int) -> list[float]:
    """Return the rate of every step of a run of one phase."""
    plans = [EpochPlan(epoch, 0, (("clean", 1.0),), 0.0, epochs, lr=schedule.lr) for epoch in range(epochs)]
    return [learning_rate(schedule, plan, step, steps) for plan in plans for step in range(steps)]


# The rates of the original experiment at the start of an epoch, as ConvNeXt's own code computes them (lr 4e-3, 20 epochs of
# warm-up), for a run that ends at epoch 100, and for one resumed there with another end.
@pytest.mark.parametrize(
    ("horizon", "epoch", "rate"),
    [
        (100, 99, "2.5e-6"),
        (150, 99, "1.337e-3"),
        (150, 100, "1.2915e-3"),
        (150, 110, "8.647e-4"),
        (150, 120, "5.039e-4"),
        (150, 130, "2.300e-4"),
        (150, 149, "1.6e-6"),
        (130, 99, "7.35e-4"),
        (130, 100, "6.911e-4"),
        (130, 110, "3.184e-4"),
        (130, 120, "8.20e-5"),
    ],
)
def test_the_schedule_is_the_official_one(horizon: int, epoch: int, rate: str) -> None:
    """Compare to half a unit of the last digit given."""
    plan = EpochPlan(epoch, 0, (("clean", 1.0),), 0.0, horizon, lr=4e-3)
    unit = 10.0 ** int(Decimal(rate).as_tuple().exponent)
    assert learning_rate(ScheduleSection(), plan, 0, 312) == pytest.approx(float(rate), abs=0.51 * unit)


@pytest.mark.parametrize(("epochs", "warmup", "steps"), [(30, 4, 7), (100, 20, 312), (150, 20, 312), (3, 0, 5)])
def test_the_schedule_equals_the_official_array_at_every_step(epochs: int, warmup: int, steps: int) -> None:
    """Compare with ``np.linspace`` and the cosine of ConvNeXt's ``utils.cosine_scheduler``."""
    rest = epochs * steps - warmup * steps
    official = [
        *np.linspace(0, 4e-3, warmup * steps),
        *(1e-6 + 0.5 * (4e-3 - 1e-6) * (1 + cos(pi * i / rest)) for i in range(rest)),
    ]
    ours = rates(ScheduleSection(lr=4e-3, min_lr=1e-6, warmup_epochs=warmup), epochs, steps)
    assert ours == pytest.approx(official, abs=1e-12)
    assert ours[-1] > 1e-6


def test_warm_up_begins_at_nothing_and_its_peak_comes_twice() -> None:
    ours = rates(ScheduleSection(warmup_epochs=2), 4, 5)
    assert ours[0] == 0
    assert ours[9] == ours[10] == 4e-3 > ours[11]


def test_steps_of_decay_are_those_of_torch() -> None:
    """Divide the rate by ten every 30 epochs, as is standard for ResNet-50."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    torchs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    ours = rates(ScheduleSection(lr=0.1, min_lr=0.0, warmup_epochs=0, decay=StepDecay(every=30)), 90, 2)
    for epoch in range(90):
        assert ours[2 * epoch] == ours[2 * epoch + 1] == pytest.approx(torchs.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        torchs.step()


def test_decay_ends_at_the_smallest_rate() -> None:
    ours = rates(ScheduleSection(lr=1.0, min_lr=0.02, warmup_epochs=0, decay=StepDecay(every=1)), 4, 1)
    assert ours == pytest.approx([1.0, 0.1, 0.02, 0.02])


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # SequentialLR's own, in torch 2.8
def test_a_rate_per_epoch_is_that_of_torchvisions_reference() -> None:
    """Warm up linearly from a hundredth, then decay by a cosine to 0; both change once an epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40 - 5, eta_min=0.0)
    torchs = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], milestones=[5])
    ours = rates(ScheduleSection(lr=0.5, min_lr=0.0, warmup_epochs=5, start_factor=0.01, per="epoch"), 40, 3)
    for epoch in range(40):
        assert ours[3 * epoch : 3 * epoch + 3] == [ours[3 * epoch]] * 3
        assert ours[3 * epoch] == pytest.approx(torchs.get_last_lr()[0], rel=1e-9, abs=1e-12)
        optimizer.step()
        torchs.step()


def test_the_swap_of_two_phase_is_a_warm_restart() -> None:
    recipe = load_recipe(find_recipe(Path("two_phase.yaml")))
    plans = plan_epochs(recipe)
    assert learning_rate(recipe.schedule, plans[99], 311, 312) == pytest.approx(1.000016e-6, rel=1e-5)
    assert learning_rate(recipe.schedule, plans[100], 0, 312) == pytest.approx(1.2915e-3, rel=1e-4)


def test_a_phase_may_have_a_peak_of_its_own() -> None:
    tree = tiny_tree(Path())
    phases = [{"data": "clean", "until_epoch": 2}, {"data": "q50", "until_epoch": 4, "lr": 1e-4}]
    recipe = Recipe.model_validate(tree | {"curriculum": phases, "schedule": {"lr": 1e-3, "warmup_epochs": 0}})
    plans = plan_epochs(recipe)
    assert [plan.lr for plan in plans] == [1e-3, 1e-3, 1e-4, 1e-4]
    before, after = (learning_rate(recipe.schedule, plans[epoch], 0, 6) for epoch in (1, 2))
    share = (1 + cos(pi * 2 / 4)) / 2
    assert after == pytest.approx(1e-6 + (1e-4 - 1e-6) * share)
    assert after < before


def test_a_plan_has_every_epoch_of_the_run(betons: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path, "curriculum.1.size=64")
    planned, _ = plan_run(recipe)
    assert planned == planned_epochs(recipe, 48)
    assert [(epoch.plan.data, epoch.size, epoch.steps, epoch.images) for epoch in planned[1:3]] == [
        ("clean", 32, 3, 48),
        ("q50", 64, 3, 48),
    ]
    assert not (tmp_path / "runs").exists()


def test_a_plan_needs_no_beton_where_the_number_of_images_is_given(betons: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(Path("nowhere"), tmp_path)
    with pytest.raises(BetonError, match=r"nowhere/train-source.beton does not exist. .* plan without it: --images N"):
        plan_run(recipe)
    planned, remarks = plan_run(recipe, 50)
    assert (planned, remarks) == (planned_epochs(recipe, 50), plan_run(recipe, 50)[1])
    assert {(epoch.steps, epoch.left_out) for epoch in planned} == {(3, 2)}
    assert plan_run(tiny_recipe(betons, tmp_path), 48) == plan_run(tiny_recipe(betons, tmp_path))
    with pytest.raises(RecipeError, match="an epoch would have no step"):
        plan_run(recipe, 15)


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("model.name=convnext_tinny", RecipeError, "Did you mean 'convnext_tiny'"),
        ("augment.policy=rand-x9", RecipeError, r"augment\.policy: "),
        ("tracking=[wandb]", UsageError, "wandb is not installed"),
        ("batch.size=64", RecipeError, "an epoch would have no step"),
        ("data.clean={train: none.beton, val: none.beton}", BetonError, "none.beton"),
    ],
)
def test_a_plan_is_refused_as_the_run_would_be(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr("jpegcurr.training.tracking.find_spec", lambda _name: None)
    with pytest.raises(error, match=message):
        plan_run(tiny_recipe(betons, tmp_path, override))


def test_a_plan_needs_neither_torch_nor_timm() -> None:
    modules = "checks curriculum run_folder sample_rng schedule models.names data.datasets data.sampling"
    code = f"""
import sys
{"".join(f"import jpegcurr.training.{module};" for module in modules.split())}
from pathlib import Path
from jpegcurr.recipe.loading import find_recipe, load_recipe
jpegcurr.training.checks.check_recipe(load_recipe(find_recipe(Path("convnext_tiny.yaml"))))
print([name for name in ("torch", "torchvision", "timm") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
