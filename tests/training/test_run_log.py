"""The log of a run, and its progress bar."""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from samples import tiny_recipe

from jpegcurr.cli import terminal
from jpegcurr.progress import Meter
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.runtime import Runtime, World, resolve_runtime
from jpegcurr.training.advice import rate_warning
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.models.create import create_model
from jpegcurr.training.run_log import _small_batch_warning, describe_change, describe_row, warn_of_loading
from jpegcurr.training.train import train

RECIPES = Path(__file__).parent.parent.parent / "recipes"
ROW = {"epoch": 3, "data": "q50", "lr_first": 1e-3, "lr_last": 5e-4, "train/loss": 2.5, "images_per_second": 1234.5}
ROW |= {"data_wait": 0.25, "seconds": 100.0, "replaced": 0, "skipped": 0}


def test_a_line_says_what_people_want_to_know() -> None:
    measured = ROW | {"mfu": 0.31, "val/q50/top1": 71.23, "val/q50/ema_top1": 72.0, "replaced": 2, "skipped": 1}
    line = describe_row(measured, 150, 3725)
    assert line.startswith("epoch   3/150  q50  lr 1.0e-03 to 5.0e-04  loss 2.500  1234 img/s, 25% waiting, mfu 31%")
    assert "  2 samples replaced  1 steps skipped  | q50 71.2 (ema 72.0)  | 1:02:05 left" in line


def test_a_changed_plan_says_its_length_only_where_that_changed(tmp_path: Path) -> None:
    before, shorter = (tiny_recipe(tmp_path, tmp_path, *more) for more in ((), ("curriculum.1.until_epoch=3",)))
    control = tiny_recipe(tmp_path, tmp_path, "curriculum.1.data=clean")
    assert describe_change(before, control, 16, 2).startswith("the plan has changed. From here on:\n  epoch   2  clean")
    assert describe_change(before, shorter, 16, 2).startswith("the plan has changed: 3 epochs instead of 4. From here on:")


@pytest.mark.parametrize(("wait", "seconds", "warned"), [(0.25, 100.0, True), (0.1, 100.0, False), (0.25, 5.0, False)])
def test_a_loader_that_is_the_limit_is_reported(
    caplog: pytest.LogCaptureFixture, wait: float, seconds: float, warned: bool
) -> None:
    warn_of_loading(ROW | {"data_wait": wait, "seconds": seconds}, SimpleNamespace(kind="plain"))  # type: ignore[arg-type]
    assert ("the loader is the limit" in caplog.text) == warned


@pytest.mark.parametrize(
    ("name", "overrides", "part"),
    [
        ("convnext_tiny", [], None),
        ("two_phase", ["batch.size=736", "batch.per_device=184"], None),  # the original experiment's
        ("small_data", [], None),
        ("convnext_tiny", ["schedule.lr=4e-2"], "10 times the rate that ConvNeXt was trained with"),
        ("convnext_tiny", ["batch.size=128"], "7.1e-04 would be the same"),
        ("two_phase", ["curriculum.1.lr=0.1"], "25 times"),
        ("convnext_base_22k_to_1k", ["schedule.lr=4e-2"], "2.8e-04 is usual"),  # not from scratch
        ("convnext_base_22k_to_1k", ["schedule.lr=4e-2", "model.freeze_until=30"], None),
        ("resnet50_standard", ["schedule.lr=9"], None),
    ],
)
def test_a_rate_far_above_what_is_known_to_work_is_warned_of(name: str, overrides: list[str], part: str | None) -> None:
    warning = rate_warning(load_recipe(RECIPES / f"{name}.yaml", overrides))
    assert (warning is None) == (part is None)
    assert part is None or part in str(warning)


@pytest.mark.parametrize(
    ("overrides", "ranks", "part"),
    [
        (["batch.per_device=16", "mix.mixup=0.8"], 2, "mixed in smaller groups"),
        (["batch.per_device=16", "model={name: test_resnet}"], 2, "normed in smaller groups"),
        (["batch.per_device=16", "mix={mixup: 0.8, chunk: 8}"], 2, None),
        (["batch.per_device=8", "mix.mixup=0.8"], 2, None),
        (["batch.per_device=16"], 4, None),
    ],
)
def test_smaller_groups_on_many_devices_are_warned_of(
    betons: Path, tmp_path: Path, overrides: list[str], ranks: int, part: str | None
) -> None:
    recipe = tiny_recipe(betons, tmp_path, *overrides)
    model = create_model(recipe.model, 4)
    runtime = replace(resolve_runtime("cpu"), world=World(0, ranks))
    warning = _small_batch_warning(SimpleNamespace(recipe=recipe, model=model, runtime=runtime))  # type: ignore[arg-type]
    assert (warning is None) == (part is None)
    assert part is None or part in str(warning)


def test_progress_is_reported_step_by_step(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    steps: list[tuple[int, int, float, float]] = []

    def follow(now: StepInfo) -> None:
        assert 0 <= now.waited <= 1
        assert now.images_per_second > 0
        steps.append((now.plan.epoch, now.step, now.learning_rate, now.mean_loss()))

    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]")
    rows = train(recipe, Path("run"), runtime=cpu, on_step=follow).rows
    assert [step[:2] for step in steps] == [(epoch, step) for epoch in range(4) for step in (1, 2, 3)]
    for row in rows:
        of_epoch = [step for step in steps if step[0] == row["epoch"]]
        assert (of_epoch[0][2], of_epoch[-1][2]) == (row["lr_first"], row["lr_last"])
        assert of_epoch[-1][3] == row["train/loss"]
        assert 0 <= float(row["data_wait"]) <= 1


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    console = Console(force_terminal=True, width=160, record=True, stderr=True)
    monkeypatch.setattr(terminal, "err", console)
    monkeypatch.setattr(terminal, "can_animate", lambda _console: True)
    return console.export_text


def test_the_bar_shows_loss_rate_speed_and_waiting(live: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    reads: list[int] = []

    def loss() -> float:
        reads.append(1)
        return 2.345

    plan = SimpleNamespace(epoch=7, data="q50", batch=64)
    with terminal.step_bar() as bar:
        for step in range(1, 11):
            bar.update(StepInfo(plan, step, 10, 1e-3, 5120.0, 0.02, loss))  # type: ignore[arg-type]
    shown = capsys.readouterr().err
    for part in ("epoch 7 (q50)", "10/10", "loss 2.345", "lr 1.0e-03", "5,120 img/s", "2% waiting"):
        assert part in shown
    assert len(reads) == 1, "read once a second, because every read waits for the device"


def test_a_pipe_gets_a_line_of_an_epoch_every_few_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(terminal, "Meter", partial(Meter, clock=lambda: now[0]))
    with terminal.step_bar() as bar:
        for epoch in (7, 8):
            plan = SimpleNamespace(epoch=epoch, data="q50", batch=64)
            for step in range(1, 21):
                now[0] += 2
                bar.update(StepInfo(plan, step, 20, 1e-3, 5120.0, 0.02, lambda: 0.0))  # type: ignore[arg-type]
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len([line for line in lines if line.startswith("epoch 7 (q50): ")]) < 10
    assert re.fullmatch(r"epoch 7 \(q50\): \d+ of 1,280 images, \d+ images/s, \d+ s left", lines[1])
    assert len(set(lines)) == len(lines)
    assert lines[-1].startswith("epoch 8 (q50): ")


def test_no_bar_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with terminal.step_bar(quiet=True) as bar:
        bar.update(StepInfo(SimpleNamespace(epoch=0, data=""), 1, 2, 0.1, 1.0, 0.0, lambda: 0.0))  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
