"""Training through a swap, and resumed runs that equal uninterrupted ones."""

import csv
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from samples import LOADERS, photograph, tiny_recipe, tiny_tree

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.errors import ImageError, RecipeError, Terminated, TrainingError, UsageError
from jpegcurr.files import _umask
from jpegcurr.recipe.schema import EmaSection, Recipe
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.augment import augment as step_module
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.transforms import centre_crop
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.load import load_run
from jpegcurr.training.run_log import describe_row
from jpegcurr.training.schedule import learning_rate
from jpegcurr.training.tracking import read_metrics
from jpegcurr.training.train import train

TIMED = {"seconds", "data_wait", "images_per_second"}


class _Killed(BaseException):
    pass


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "state.safetensors")


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_swaps_its_data_and_leaves_everything_behind(trained: Path, betons: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path)
    rows = read_metrics(trained)
    assert [row["data"] for row in rows] == ["clean", "clean", "q50", "q50"]
    assert [row["phase"] for row in rows] == [0, 0, 1, 1]
    for row, plan in zip(rows, plan_epochs(recipe), strict=True):
        assert row["steps"] == 3
        assert row["lr_first"] == learning_rate(recipe.schedule, plan, 0, 3)
        assert row["lr_last"] == learning_rate(recipe.schedule, plan, 2, 3)
        assert all(math.isfinite(value) for value in row.values() if not isinstance(value, str))
        for data in ("clean", "q50"):
            for prefix in ("", "ema_"):
                assert 0 <= float(row[f"val/{data}/{prefix}top1"]) <= float(row[f"val/{data}/{prefix}top5"]) == 100
    with (trained / "summary.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3"]
    head = json.loads((trained / "run.json").read_text())
    assert (head["loader"], head["classes"], head["data"]["train/q50"]["quality"]) == ("plain", 4, 50)
    assert {path.stat().st_mode & 0o777 for path in trained.rglob("*") if path.is_file()} == {0o666 & ~_umask()}
    described = {"recipe.yaml", "run.json", "metrics.jsonl", "summary.csv"}
    weights_too = {"config.json", "model.safetensors", "ema", "best", "state.safetensors", "checkpoints"}
    assert {path.name for path in trained.iterdir()} == described | weights_too


def test_it_learns(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Distinguish four photographs far better than by chance (25 %)."""
    ends = ["curriculum.0.until_epoch=8", "curriculum.1.until_epoch=12", "image.size=64", "image.scale=[0.5,1.0]"]
    metrics = train(tiny_recipe(betons, tmp_path, *ends), Path("run"), runtime=cpu)
    assert metrics.rows[-1]["val/clean/top1"] >= 75
    assert metrics.rows[-1]["val/q50/top1"] >= 75
    assert float(metrics.rows[-1]["train/loss"]) < float(metrics.rows[0]["train/loss"]) - 0.3


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_run_ends_in_the_same_weights_bit_for_bit(
    betons: Path, cpu: Runtime, trained: Path, tmp_path: Path, stop: int
) -> None:
    """Stop in the first phase, at the swap, and in the second phase."""
    recipe = tiny_recipe(betons, tmp_path)

    def interrupt(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (stop, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, Path("run"), runtime=cpu, on_step=interrupt)
    assert len(read_metrics(Path("run"))) == stop
    torch.manual_seed(123)  # whatever the new process has drawn
    train(recipe, Path("run"), runtime=cpu, resume=True)
    assert same(weights(Path("run")), weights(trained))
    for row, expected in zip(read_metrics(Path("run")), read_metrics(trained), strict=True):
        assert {k: v for k, v in row.items() if k not in TIMED} == {k: v for k, v in expected.items() if k not in TIMED}


@pytest.mark.parametrize(
    "options",
    [
        ["optim.name=lamb", "schedule.lr=0.02"],
        ["optim.name=nesterov", "schedule.lr=0.05", "optim.decay_all=true"],
        ["optim.layer_decay=0.7", "optim.loss=bce", "mix={mixup: 0.8, cutmix: 1.0}", "ema={half_life: 0.5}"],
        ["augment={policy: rand-m9-mstd0.5-inc1, erase: 0.25}", "curriculum.1.augment={color_jitter: 0.4}"],
    ],
    ids=["LAMB", "Nesterov", "layer decay, mixing, BCE", "augmentation"],
)
def test_a_resumed_run_ends_in_the_same_weights_whatever_the_recipe(
    betons: Path, cpu: Runtime, tmp_path: Path, options: list[str]
) -> None:
    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]", *options)
    train(recipe, Path("whole"), runtime=cpu)

    def interrupt(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (2, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, Path("run"), runtime=cpu, on_step=interrupt)
    train(recipe, Path("run"), runtime=cpu, resume=True)
    assert same(weights(Path("run")), weights(Path("whole")))
    assert not torch.equal(weights(Path("run"))["model.stem.0.weight"], weights(Path("run"))["ema.stem.0.weight"])


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("at", [(1, 2), (2, 1)], ids=["before the swap", "after the swap"])
def test_a_run_stopped_within_an_epoch_ends_in_the_same_weights_bit_for_bit(
    betons: Path, cpu: Runtime, tmp_path: Path, kind: str, at: tuple[int, int]
) -> None:
    options = (
        f"loader.kind={kind}",
        "loader.workers=1",
        "evaluate=[]",
        "mix={mixup: 0.8, chunk: 8}",
        "batch.order=quasi_random",
    )
    recipe = tiny_recipe(betons, tmp_path, *options)
    train(recipe, Path("whole"), runtime=cpu)
    done: list[tuple[int, int]] = []
    with pytest.raises(Terminated):
        train(
            recipe,
            Path("run"),
            runtime=cpu,
            on_step=lambda now: done.append((now.plan.epoch, now.step)),
            stop=lambda: done[-1] == at,
        )
    assert done[-1] == at
    torch.manual_seed(123)  # whatever the new process has drawn
    done.clear()
    train(recipe, Path("run"), runtime=cpu, resume=True, on_step=lambda now: done.append((now.plan.epoch, now.step)))
    assert done[0] == (at[0], at[1] + 1)
    assert same(weights(Path("run")), weights(Path("whole")))
    for row, expected in zip(read_metrics(Path("run")), read_metrics(Path("whole")), strict=True):
        assert {k: v for k, v in row.items() if k not in TIMED} == {k: v for k, v in expected.items() if k not in TIMED}


def test_what_is_augmented_belongs_to_the_sample(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Compare steps that are cut into different micro-batches."""
    short = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "evaluate=[]", "model.drop_path=0")
    augment = "augment={policy: rand-m9-mstd0.5-inc1, erase: 0.5}"

    def trained_with(name: str, *overrides: str) -> torch.Tensor:
        train(tiny_recipe(betons, tmp_path, *short, *overrides), Path(name), runtime=cpu)
        return torch.cat([parameter.flatten() for parameter in load_run(Path(name), cpu).model.parameters()])

    whole, halves = (trained_with(f"of {size}", augment, f"batch.per_device={size}") for size in (16, 8))
    plain = trained_with("plain", "batch.per_device=16")
    assert (whole - halves).abs().max() < 1e-3 * (whole - plain).abs().max()


def test_an_unknown_policy_is_reported_before_anything_is_created(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"curriculum\.1\.augment\.policy: 'randm9' is no policy"):
        train(tiny_recipe(betons, tmp_path, "curriculum.1.augment={policy: randm9}"), Path("run"), runtime=cpu)
    with pytest.raises(RecipeError, match="color_jitter does nothing beside a policy"):
        tiny_recipe(betons, tmp_path, "augment={policy: trivial, color_jitter: 0.4}")
    assert not Path("run").exists()


def test_a_run_that_was_killed_resumes_after_the_step_that_was_saved(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Stop as by ``kill -9``, which loses everything after the last save."""
    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]", "batch.size=8")
    train(recipe, Path("whole"), runtime=cpu)

    def killed(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (1, 6):
            raise _Killed

    with pytest.raises(_Killed):
        train(recipe, Path("run"), runtime=cpu, save_every=4, on_step=killed)
    done: list[tuple[int, int]] = []
    train(recipe, Path("run"), runtime=cpu, resume=True, on_step=lambda now: done.append((now.plan.epoch, now.step)))
    assert done[0] == (1, 5)
    assert same(weights(Path("run")), weights(Path("whole")))


def test_the_plan_of_an_epoch_under_way_may_not_change(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("run"), runtime=cpu, stop=lambda: True)
    other = tiny_recipe(betons, tmp_path, "evaluate=[]", "curriculum=[{data: q50, until_epoch: 4}]")
    with pytest.raises(RecipeError, match="epoch 0 of run is trained already, and curriculum was clean, is q50 in epoch 0"):
        train(other, Path("run"), runtime=cpu, resume=True)


def test_steps_that_are_not_finite_are_left_out_where_it_is_asked_for(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = step_module.mix

    def spoilt(images: torch.Tensor, targets: torch.Tensor, *key: Any) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, softer = plain(images, targets, *key)
        return (mixed * math.nan if key[-2:] == (1, 2) else mixed), softer  # one micro-batch of two in the second step

    monkeypatch.setattr(step_module, "mix", spoilt)
    recipe = tiny_recipe(betons, tmp_path, "evaluate=[]", "optim.on_nan=skip", "optim.clip_grad=1")
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        rows = train(recipe, Path("run"), runtime=cpu).rows
    assert [row["skipped"] for row in rows] == [0, 1, 0, 0]
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    assert any("  1 steps skipped" in line for line in caplog.messages)
    with pytest.raises(TrainingError, match=r"The loss of epoch 1 is nan.*on_nan=skip"):
        train(tiny_recipe(betons, tmp_path, "evaluate=[]"), Path("other"), runtime=cpu)


def test_an_epoch_of_nothing_but_skipped_steps_ends_the_run(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_module, "mix", lambda images, targets, *_key: (images * math.nan, targets))
    with pytest.raises(TrainingError, match=r"all were skipped.* There is no checkpoint yet: start again"):
        train(tiny_recipe(betons, tmp_path, "optim.on_nan=skip"), Path("run"), runtime=cpu)


@pytest.mark.parametrize(("section", "steps", "kept"), [({"half_life": 2}, 5, 0.5), ({"decay": 0.9}, 5, 0.9**10)])
def test_the_average_forgets_as_fast_as_asked(section: dict[str, float], steps: int, kept: float) -> None:
    """Compare the share that is kept over two epochs of five steps."""
    assert EmaSection.model_validate(section).per_step(steps) ** 10 == pytest.approx(kept)
    assert EmaSection().per_step(steps) == 0.9999
    with pytest.raises(ValueError, match="omit one of them"):
        EmaSection(decay=0.9, half_life=1)


def test_a_row_written_before_its_state_is_written_again(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Resume as after a power cut between the writes of the two files."""
    short = tiny_recipe(betons, tmp_path, "curriculum=[{data: clean, until_epoch: 2}]", "schedule.horizon=phase")
    train(short, Path("run"), runtime=cpu)
    lines = Path("run/metrics.jsonl").read_text()
    Path("run/metrics.jsonl").write_text(lines + lines.splitlines()[-1].replace('"epoch": 1', '"epoch": 2') + "\n")
    longer = tiny_recipe(betons, tmp_path, "schedule.horizon=phase")
    train(longer, Path("run"), runtime=cpu, resume=True)
    assert [row["epoch"] for row in read_metrics(Path("run"))] == [0, 1, 2, 3]


def test_a_finished_run_can_go_on_into_a_new_phase_as_in_the_original_experiment(
    betons: Path, cpu: Runtime, tmp_path: Path
) -> None:
    phase = "schedule.horizon=phase"
    train(tiny_recipe(betons, tmp_path, "curriculum=[{data: clean, until_epoch: 2}]", phase), Path("run"), runtime=cpu)
    train(tiny_recipe(betons, tmp_path, phase), Path("run"), runtime=cpu, resume=True)
    train(tiny_recipe(betons, tmp_path, phase), Path("whole"), runtime=cpu)
    assert same(weights(Path("run")), weights(Path("whole")))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "schedule.lr=1e-4",
            r"resume with that one \(--recipe\), or start a new run\.\n  schedule\.lr was 0\.002, is 0\.0001$",
        ),
        ("model.name=convnext_atto", r"  model\.name was test_convnext, is convnext_atto$"),
        ("seed=1", r"  seed was 0, is 1$"),
        ("curriculum.0.until_epoch=1", "epoch 1 of .* is trained already, and curriculum was clean, is q50"),
        ("curriculum.1.until_epoch=9", r"on a cosine to epoch 4, which would now end at epoch 9\. .* set schedule\.horizon=4:"),
    ],
)
def test_a_resume_that_would_not_continue_the_run_is_refused(
    betons: Path, cpu: Runtime, trained: Path, tmp_path: Path, override: str, message: str
) -> None:
    before = {path: path.read_bytes() for path in trained.iterdir() if path.is_file()}
    with pytest.raises(RecipeError, match=message):
        train(tiny_recipe(betons, tmp_path, override), trained, runtime=cpu, resume=True)
    assert before == {path: path.read_bytes() for path in trained.iterdir() if path.is_file()}


def test_a_run_stopped_before_its_first_checkpoint_may_be_started_over(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path, "curriculum=[{data: clean, until_epoch: 2}]")

    def interrupt(at: StepInfo) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, Path("run"), runtime=cpu, on_step=interrupt)
    assert len(train(recipe, Path("run"), runtime=cpu).rows) == 2


def test_a_resume_on_other_data_is_refused(betons: Path, cpu: Runtime, trained: Path, tmp_path: Path) -> None:
    other = f"data.q50={{train: {betons}/train-source.beton, val: {betons}/val-source.beton}}"
    with pytest.raises(UsageError, match=r"train/q50 .*train-source\.beton\) is not the data"):
        train(tiny_recipe(betons, tmp_path, other), trained, runtime=cpu, resume=True)


def test_a_run_of_version_0_1_resumes_though_its_head_has_former_names(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    def recipe() -> Recipe:
        whole = "data.q50.train={beton: BETONS/train-source.beton, quality: 50, stage: before_crop}"
        crop = "data.q50.val={beton: BETONS/val-source.beton, quality: 20, stage: after_resize}"
        options = (whole, crop, "data.q50.quality=source")
        return tiny_recipe(betons, tmp_path, *(option.replace("BETONS", str(betons)) for option in options))

    train(recipe(), Path("run"), runtime=cpu, until=1)
    head = json.loads(Path("run/run.json").read_text())
    for key, stage, where in (("train/q50", "before_crop", "stored"), ("val/q50", "after_resize", "view")):
        at_load = head["data"][key]["at_load"]
        assert at_load.pop("stage") == stage
        at_load["where"] = where
    Path("run/run.json").write_text(json.dumps(head))
    assert len(train(recipe(), Path("run"), runtime=cpu, resume=True).rows) == 4
    assert "where" not in Path("run/run.json").read_text()
    head["data"]["train/q50"]["at_load"]["where"] = "view"
    Path("run/run.json").write_text(json.dumps(head))
    with pytest.raises(UsageError, match=r"train/q50 .* is not the data"):
        train(recipe(), Path("run"), runtime=cpu, resume=True)


def test_a_damaged_head_is_named(betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path) -> None:
    (trained_copy / "run.json").write_text('{"id": 1}')
    with pytest.raises(UsageError, match=r"run\.json cannot be read as a run's description"):
        train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)


def test_a_data_set_may_be_called_anything(betons: Path, cpu: Runtime) -> None:
    files = {split: f"{betons}/{split}-q50.beton" for split in ("train", "val")}
    phases = [{"data": "a.b/c", "until_epoch": 2}]
    recipe = Recipe.model_validate(tiny_tree(betons) | {"data": {"a.b/c": files}, "curriculum": phases, "evaluate": ["a.b/c"]})
    row, _ = train(recipe, Path("run"), runtime=cpu).rows
    assert "  | a.b/c " in describe_row(row, 2)


def test_resume_needs_a_run_and_a_new_run_needs_a_new_folder(betons: Path, cpu: Runtime, trained: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path)
    with pytest.raises(UsageError, match="--resume: nothing holds no run"):
        train(recipe, Path("nothing"), runtime=cpu, resume=True)
    assert not Path("nothing").exists()
    with pytest.raises(UsageError, match=r"exists\. Resume that run with --resume"):
        train(recipe, trained, runtime=cpu)
    Path("mine").mkdir()
    Path("mine/thesis.txt").touch()
    with pytest.raises(UsageError, match="mine exists and is not a run"):
        train(recipe, Path("mine"), runtime=cpu)


@pytest.mark.parametrize("damage", [b"", b"junk" * 100])
def test_a_damaged_state_is_reported_by_name(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path, damage: bytes
) -> None:
    (trained_copy / "state.safetensors").write_bytes(damage)
    with pytest.raises(UsageError, match=r"state\.safetensors cannot be resumed from"):
        train(tiny_recipe(betons, tmp_path), trained_copy, runtime=cpu, resume=True)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_checkpoint_whole(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train with an absurd rate from the second epoch on; neither the weights nor the row of the first are lost."""

    def explode(at: StepInfo) -> None:
        if at.plan.epoch == 1:
            monkeypatch.setattr("jpegcurr.training.loop.learning_rate", lambda *_: 1e30)

    with pytest.raises(
        TrainingError, match=r"loss of epoch 1 is (nan|inf).*schedule\.lr.* run/state\.safetensors is from before it"
    ):
        train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu, on_step=explode)
    assert [row["epoch"] for row in read_metrics(Path("run"))] == [0]
    assert all(torch.isfinite(value).all() for value in weights(Path("run")).values())
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "here")
    train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu, resume=True)
    assert [row["epoch"] for row in read_metrics(Path("run"))] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device")]
)
def test_a_full_disk_keeps_the_checkpoint_before(
    betons: Path, cpu: Runtime, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(_tensors: object, path: Path, _metadata: object) -> None:
        path.write_bytes(b"half")
        raise error

    def fill(at: StepInfo) -> None:
        if at.plan.epoch == 2:
            monkeypatch.setattr("jpegcurr.training.checkpoint.save_file", full)

    with pytest.raises(TrainingError, match=r"run: epoch 2 could not be saved: .*No space left"):
        train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu, on_step=fill)
    assert not list(Path("run").glob(".*"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "here")
    train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu, resume=True)
    assert same(weights(Path("run")), weights(trained))


def test_weights_that_the_last_step_spoilt_are_not_saved(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spoil the update after the last loss of an epoch, when all losses have been finite."""

    def explode(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (1, 2):
            monkeypatch.setattr("jpegcurr.training.loop.learning_rate", lambda *_: float("inf"))

    with pytest.raises(TrainingError, match=r"weights' norm after step 3 of epoch 1 is (nan|inf)"):
        train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu, on_step=explode)
    assert all(torch.isfinite(value).all() for value in weights(Path("run")).values())


def test_a_moment_that_is_not_finite_is_not_saved_within_an_epoch(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (1, 1):
            monkeypatch.setattr("jpegcurr.training.loop.learning_rate", lambda *_: float("inf"))

    with pytest.raises(TrainingError, match=r"after step 2 of epoch 1 is (nan|inf).* run/state\.safetensors is from before it"):
        train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu, on_step=explode, save_every=1)
    assert all(torch.isfinite(value).all() for value in weights(Path("run")).values())


def test_a_step_that_is_left_out_leaves_running_statistics_as_they_were(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = step_module.mix

    def spoilt(images: torch.Tensor, targets: torch.Tensor, *key: Any) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, softer = plain(images, targets, *key)
        return (mixed * math.nan if key[-2:] == (0, 2) else mixed), softer

    monkeypatch.setattr(step_module, "mix", spoilt)
    recipe = tiny_recipe(betons, tmp_path, "model={name: test_resnet}", "optim.on_nan=skip")
    rows = train(recipe, Path("run"), runtime=cpu).rows
    assert [row["skipped"] for row in rows] == [1, 0, 0, 0]
    assert all(math.isfinite(float(row[f"val/clean/{kind}loss"])) for row in rows for kind in ("", "ema_"))


@pytest.mark.parametrize("folder", ["", "ema"])
def test_timm_loads_what_a_run_leaves(trained: Path, cpu: Runtime, folder: str) -> None:
    theirs = timm.create_model(f"local-dir:{trained / folder}", pretrained=True).eval()
    ours = load_run(trained, cpu, "ema" if folder else "raw")
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(theirs(images), ours.model(images), atol=1e-5)
    assert theirs.pretrained_cfg["input_size"] == (3, 32, 32)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(theirs), normalize=False)
    image = photograph("coffee").crop((0, 0, 61, 90))
    assert torch.equal(transform(image), centre_crop(np.asarray(image), ours.image))
    assert ours.classes == ("astronaut", "cat", "coffee", "grass")
    plain = timm.create_model("test_convnext", num_classes=4, checkpoint_path=trained / folder / "model.safetensors")
    assert same(plain.state_dict(), {key: value.contiguous() for key, value in theirs.state_dict().items()})


def test_raw_and_averaged_weights_differ(trained: Path) -> None:
    state = weights(trained)
    names = [key.removeprefix("model.") for key in state if key.startswith("model.")]
    assert any(not torch.equal(state[f"model.{name}"], state[f"ema.{name}"]) for name in names)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: shutil.rmtree(run), "does not exist"),
        (lambda run: (run / "recipe.yaml").unlink(), "is not a run folder"),
        (lambda run: (run / "model.safetensors").unlink(), "holds no checkpoint yet"),
        (lambda run: (run / "model.safetensors").write_bytes(b"junk" * 10), "cannot be read"),
        (lambda run: (run / "config.json").write_text("{}"), "cannot be read"),
    ],
)
def test_what_is_no_run_is_reported(trained_copy: Path, cpu: Runtime, spoil, message: str) -> None:
    spoil(trained_copy)
    with pytest.raises(UsageError, match=message):
        load_run(trained_copy, cpu)


def test_accumulated_gradients_are_those_of_the_whole_batch(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    one = ["curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "model.drop_path=0", "optim.eps=1e-3"]
    for micro in (4, 16):
        train(tiny_recipe(betons, tmp_path, *one, f"batch.per_device={micro}"), Path(f"m{micro}"), runtime=cpu)
    first, second = weights(Path("m4")), weights(Path("m16"))
    assert max(float((first[key] - second[key]).abs().max()) for key in first if key.startswith("model.")) < 1e-4


def test_clipped_gradients_move_the_weights_less(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    """Use an eps far above the clipped gradients, so that AdamW's steps shrink with them."""
    one = ["curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "optim.eps=1", "optim.weight_decay=0"]
    torch.manual_seed(0)
    start = create_model(tiny_recipe(betons, tmp_path).model, 4).state_dict()
    moved = []
    for clip in ("null", "1e-6"):
        train(tiny_recipe(betons, tmp_path, *one, f"optim.clip_grad={clip}"), Path(f"c{clip}"), runtime=cpu)
        end = weights(Path(f"c{clip}"))
        moved.append(max(float((end[f"model.{name}"] - value).abs().max()) for name, value in start.items()))
    assert moved[1] < moved[0] / 1000


def test_the_log_says_what_is_used_and_where_the_swap_is(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        train(tiny_recipe(betons, tmp_path), Path("run"), runtime=cpu)
    messages = caplog.messages
    assert any("CPU, float32" in line for line in messages)
    assert "loader: plain (asked for)" in messages
    swaps = [line for line in messages if line.startswith("phase")]
    assert swaps[0].startswith("phase 0: start with clean")
    assert swaps[1].startswith("phase 1: swap to q50")
    assert swaps[1].endswith("epochs 2 to 3")
    assert sum(line.startswith("epoch ") for line in messages) == 4


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_follows(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_recipe(betons, tmp_path, "tracking=[tensorboard]"), Path("run"), runtime=cpu)
    events = EventAccumulator("run/tensorboard").Reload()
    logged = [event.value for event in events.Scalars("val/q50/top1")]
    assert logged == pytest.approx([float(row["val/q50/top1"]) for row in read_metrics(Path("run"))])


@pytest.mark.filterwarnings("ignore")
def test_wandb_follows_offline(betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tiny_recipe(betons, tmp_path, "tracking=[wandb]"), Path("run"), runtime=cpu)
    run_id = json.loads(Path("run/run.json").read_text())["id"]
    (log,) = Path("run/wandb").glob("offline-run-*/*.wandb")
    assert run_id in log.name
    assert b"val/q50/ema_top1" in log.read_bytes()


def test_a_tracker_that_is_not_installed_is_named(
    betons: Path, cpu: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jpegcurr.training.tracking.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"wandb is not installed\. Run (uv )?pip install -U wandb, or omit it: set tr"):
        train(tiny_recipe(betons, tmp_path, "tracking=[wandb]"), Path("run"), runtime=cpu)
    assert not Path("run").exists()


def test_devices_are_resolved_with_a_reason() -> None:
    cpu = resolve_runtime("cpu")
    assert (cpu.device.type, cpu.dtype) == ("cpu", torch.float32)
    assert "asked for" in cpu.reason
    with pytest.raises(UsageError, match="'tpu' is not known"):
        resolve_runtime("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_cuda_device_that_is_not_there_is_reported() -> None:
    with pytest.raises(UsageError, match="finds no CUDA device"):
        resolve_runtime("cuda")
    assert "no CUDA device" in resolve_runtime("auto").reason


@pytest.mark.gpu
@pytest.mark.parametrize("kind", LOADERS)
def test_a_gpu_trains_in_bfloat16_and_resumes(betons: Path, tmp_path: Path, kind: str) -> None:
    runtime = resolve_runtime("cuda")
    assert runtime.dtype == torch.bfloat16
    recipe = tiny_recipe(betons, tmp_path, f"loader.kind={kind}", "curriculum.0.until_epoch=8", "curriculum.1.until_epoch=12")

    def interrupt(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (9, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, Path("run"), runtime=runtime, on_step=interrupt)
    metrics = train(recipe, Path("run"), runtime=runtime, resume=True)
    assert [row["epoch"] for row in metrics.rows] == list(range(12))
    assert float(metrics.rows[-1]["train/loss"]) < float(metrics.rows[0]["train/loss"])


SCHEDULES = {
    "a swap": (),
    "a mixture that ramps": (
        "curriculum=[{data: clean, until_epoch: 1}, {data: {clean: 1, q50: {start: 0, end: 2}}, until_epoch: 4, size: 48}]",
    ),
    "qualities at load": (
        "data.q50.train={beton: BETONS/train-source.beton, quality: {start: 90, end: 10}}",
        "data.q50.val={beton: BETONS/val-source.beton, quality: 20, where: view}",
        "data.q50.quality=source",
    ),
    "in windows": ("batch.order=quasi_random", "loader.os_cache=false"),
}


@pytest.mark.ffcv
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_stopped_with_one_loader_and_resumed_with_the_other_ends_in_the_same_weights(
    betons: Path, cpu: Runtime, tmp_path: Path, schedule: str
) -> None:
    """Use bicubic images, which are the same to the last bit in both loaders; evaluation must agree, too."""
    options = [option.replace("BETONS", str(betons)) for option in ("image.interpolation=bicubic", *SCHEDULES[schedule])]

    def recipe(kind: str, workers: int) -> Recipe:
        return tiny_recipe(betons, tmp_path, *options, f"loader.kind={kind}", f"loader.workers={workers}")

    def interrupt(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (2, 1):
            raise KeyboardInterrupt

    whole = train(recipe("plain", 0), Path("whole"), runtime=cpu)
    with pytest.raises(KeyboardInterrupt):
        train(recipe("ffcv", 2), Path("run"), runtime=cpu, on_step=interrupt)
    metrics = train(recipe("plain", 2), Path("run"), runtime=cpu, resume=True)
    assert same(weights(Path("run")), weights(Path("whole")))
    for row, expected in zip(metrics.rows, whole.rows, strict=True):
        assert {k: v for k, v in row.items() if k not in TIMED} == {k: v for k, v in expected.items() if k not in TIMED}


def test_the_log_names_mixtures_and_what_is_done_at_load(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = [option.replace("BETONS", str(betons)) for option in SCHEDULES["qualities at load"]]
    mixture = "curriculum=[{data: {clean: 3, q50: 1}, until_epoch: 2, size: 48}]"
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        train(
            tiny_recipe(betons, tmp_path, *options, mixture, "evaluate=[]", "schedule.warmup_epochs=0"),
            Path("run"),
            runtime=cpu,
        )
    source = betons / "train-source.beton"
    files = f"{source}; {source}, quality 90 to 10 over the phase, on the fly, before the crop"
    assert f"phase 0: start with 75% clean + 25% q50 ({files}) at 48 pixels, epochs 0 to 1" in caplog.messages
    head = json.loads(Path("run/run.json").read_text())
    assert head["data"]["train/q50"]["at_load"] == {"quality": {"start": 90.0, "end": 10.0}, "stage": "before_crop"}
    assert head["data"]["train/clean"]["at_load"] is None


def test_the_log_says_where_a_ramp_leads(betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        train(tiny_recipe(betons, tmp_path, *SCHEDULES["a mixture that ramps"], "evaluate=[]"), Path("run"), runtime=cpu)
    clean, half = (betons / f"train-{name}.beton" for name in ("source", "q50"))
    ramp = "clean, ramping to 33.3% clean + 66.7% q50"
    assert f"phase 1: continue with {ramp} ({clean}; {half}) at 48 pixels, epochs 1 to 3" in caplog.messages


def test_a_resume_with_another_quality_at_load_is_refused(betons: Path, cpu: Runtime, trained: Path, tmp_path: Path) -> None:
    treated = f"data.clean.train={{beton: {betons}/train-source.beton, quality: 50}}"
    with pytest.raises(UsageError, match=r"train/clean .* is not the data"):
        train(tiny_recipe(betons, tmp_path, treated), trained, runtime=cpu, resume=True)


def test_samples_that_do_not_decode_are_replaced_and_the_log_counts_them(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bad.beton"
    data = bytearray((betons / "train-q50.beton").read_bytes())
    beton = Beton(betons / "train-q50.beton")
    for index in (5, 11):
        start = int(beton.pointers[index])
        data[start : start + int(beton.sizes[index])] = bytes(int(beton.sizes[index]))
    path.write_bytes(data)
    options = [
        f"data.q50={{train: {path}}}",
        "curriculum=[{data: q50, until_epoch: 1}]",
        "evaluate=[]",
        "schedule.warmup_epochs=0",
    ]
    with pytest.raises(ImageError, match=r"^sample (5|11) of .*bad\.beton: .*on_error=skip"):
        train(tiny_recipe(betons, tmp_path, *options), Path("raised"), runtime=cpu)
    with caplog.at_level(logging.INFO, logger="jpegcurr"):
        metrics = train(tiny_recipe(betons, tmp_path, *options, "loader.on_error=skip"), Path("run"), runtime=cpu)
    assert metrics.rows[0]["replaced"] == 2
    assert "2 samples replaced" in caplog.text


def make_older(run: Path) -> None:
    """Make the folder one of a version without ``image.val_resize``, which validated by the box."""
    path = run / "recipe.yaml"
    recorded = path.read_text()
    path.write_text(recorded.replace("  val_resize: shorter_side\n", ""))
    assert path.read_text() != recorded


def test_a_run_from_before_val_resize_validates_as_it_did(
    betons: Path, cpu: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It resumes with the command that started it, twice, and its numbers are those of a run that says ``box``."""
    caplog.set_level(logging.INFO)
    recipe = tiny_recipe(betons, tmp_path)
    train(recipe, Path("run"), runtime=cpu, until=1)
    make_older(Path("run"))
    assert load_run(Path("run"), cpu).image.val_resize == "box"
    for until in (2, 4):
        caplog.clear()
        metrics = train(recipe, Path("run"), runtime=cpu, resume=True, until=until)
        assert "keeps what it was started with: image.val_resize=box" in caplog.text
    by_box = train(tiny_recipe(betons, tmp_path, "image.val_resize=box"), Path("box"), runtime=cpu)
    today = train(recipe, Path("today"), runtime=cpu)
    columns = [f"val/{data}/{column}" for data in ("clean", "q50") for column in ("loss", "ema_loss")]
    assert [metrics.rows[3][column] for column in columns] == [by_box.rows[3][column] for column in columns]
    assert all(metrics.rows[3][column] != today.rows[3][column] for column in columns)
    assert metrics.rows[3]["train/loss"] == today.rows[3]["train/loss"], "training is the same"


def test_a_run_does_not_resume_with_another_way_of_validation(
    betons: Path, cpu: Runtime, trained_copy: Path, tmp_path: Path
) -> None:
    make_older(trained_copy)
    with pytest.raises(RecipeError, match=r"image\.val_resize was box, is shorter_side$"):
        train(tiny_recipe(betons, tmp_path, "image.val_resize=shorter_side"), trained_copy, runtime=cpu, resume=True)
    train(tiny_recipe(betons, tmp_path, "image.val_resize=box"), trained_copy, runtime=cpu, resume=True)
