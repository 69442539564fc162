"""Precisions other than float32, and compilation, as far as a CPU supports them."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from samples import tiny_recipe
from torch._dynamo.exc import TorchDynamoException

from jpegcurr.errors import NotFiniteError, TrainingError, UsageError
from jpegcurr.runtime import resolve_runtime
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.models.create import create_model
from jpegcurr.training.train import train

SHORT = ("evaluate=[]", "optim.clip_grad=1.0", "model.drop_path=0")


def losses(name: str, betons: Path, folder: Path, *overrides: str, **options: object) -> list[float]:
    recipe = tiny_recipe(betons, folder, *SHORT, *overrides)
    rows = train(recipe, Path(name), runtime=resolve_runtime("cpu", **options)).rows  # type: ignore[arg-type]
    return [float(row["train/loss"]) for row in rows]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_follows_float32(betons: Path, tmp_path: Path, precision: str) -> None:
    expected = losses("whole", betons, tmp_path)
    assert losses("half", betons, tmp_path, precision=precision) == pytest.approx(expected, abs=0.1)
    weights = load_file("half/model.safetensors")
    assert all(weight.dtype == torch.float32 for weight in weights.values())
    whole = load_file("whole/model.safetensors")
    assert any(not torch.equal(weights[name], whole[name]) for name in weights)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_gradients_are_clipped_in_every_precision(betons: Path, tmp_path: Path, precision: str) -> None:
    """Plain SGD moves the weights by its rate times the gradient norm, which is clipped to the maximum here."""
    torch.manual_seed(0)
    plain = (
        "optim={name: sgd, momentum: 0, weight_decay: 0, clip_grad: 1.0e-3}",
        "schedule={lr: 1, min_lr: 1, warmup_epochs: 0}",
    )
    recipe = tiny_recipe(betons, tmp_path, *SHORT[:1], *plain, "curriculum=[{data: clean, until_epoch: 1}]")
    before = create_model(recipe.model, 4).state_dict()
    train(recipe, Path("run"), runtime=resolve_runtime("cpu", precision=precision))
    after = load_file("run/model.safetensors")
    moved = math.sqrt(sum(float((after[name] - weight).square().sum()) for name, weight in before.items()))
    assert 1e-3 < moved <= 3 * 1e-3 * 1.01


def test_float16_resumes_with_its_loss_scale(betons: Path, tmp_path: Path) -> None:
    recipe, runtime = tiny_recipe(betons, tmp_path, *SHORT), resolve_runtime("cpu", precision="float16")
    train(recipe, Path("whole"), runtime=runtime)

    def interrupt(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (2, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, Path("run"), runtime=runtime, on_step=interrupt)
    train(recipe, Path("run"), runtime=runtime, resume=True)
    first, second = load_file("whole/state.safetensors"), load_file("run/state.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    with safe_open("run/state.safetensors", "pt") as file:
        assert '"scaler": {"scale": ' in file.metadata()["jpegcurr"]


def test_a_step_that_overflows_float16_is_skipped_and_counted(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start with a scale that is too large and is halved at every step that overflows."""
    large = torch.amp.GradScaler("cpu", init_scale=2.0**21)
    monkeypatch.setattr("jpegcurr.runtime.Runtime.scaler", lambda _: large)
    recipe = tiny_recipe(betons, tmp_path, *SHORT, "batch.size=8", "curriculum.1.until_epoch=8")
    rows = train(recipe, Path("run"), runtime=resolve_runtime("cpu", precision="float16")).rows
    assert 0 < int(rows[0]["skipped"]) <= 48
    assert rows[-1]["skipped"] == 0
    assert all(math.isfinite(float(row["train/loss"])) for row in rows)
    assert large.get_scale() < 2.0**21


def test_a_loss_that_is_not_a_number_ends_a_float16_run_too(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jpegcurr.training.augment.augment.mix", lambda images, targets, *_key: (images * math.nan, targets))
    with pytest.raises(NotFiniteError, match="The loss of epoch 0 is nan"):
        losses("run", betons, tmp_path, precision="float16")


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_learns_the_same_and_writes_the_same_files(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trace the model as for a GPU but run it with torch's own operations, because the test is about our code around it."""
    compiled: list[torch.nn.Module] = []
    real = torch.compile

    def compile(model: torch.nn.Module, *, dynamic: bool) -> torch.nn.Module:
        compiled.append(model)
        return real(model, backend="aot_eager", dynamic=dynamic)  # type: ignore[return-value]

    monkeypatch.setattr(torch, "compile", compile)
    short = ("curriculum.0.until_epoch=1", "curriculum.1.until_epoch=2", "schedule.warmup_epochs=0")
    expected = losses("plain", betons, tmp_path, *short)
    assert not compiled
    assert losses("compiled", betons, tmp_path, *short, compile=True) == pytest.approx(expected, abs=1e-4)
    assert len(compiled) == 1
    names = [set(load_file(f"{name}/state.safetensors")) for name in ("plain", "compiled")]
    assert names[0] == names[1]


def test_a_model_that_does_not_compile_trains_without(betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(inputs: torch.Tensor) -> torch.Tensor:
        raise TorchDynamoException("Triton found no GPU\n\nSet TORCHDYNAMO_VERBOSE=1")

    monkeypatch.setattr(torch, "compile", lambda _model, **_options: compiled)
    with pytest.raises(TrainingError, match=r"^torch\.compile failed: Triton found no GPU Train without it: --no-compile\.$"):
        losses("run", betons, tmp_path, compile=True)


def test_an_unknown_precision_is_an_error() -> None:
    with pytest.raises(UsageError, match="--precision 'fp8' is not known"):
        resolve_runtime("cpu", precision="fp8")


@pytest.mark.gpu
@pytest.mark.parametrize("options", [{"compile": True}, {"precision": "float16"}, {"precision": "float32"}], ids=str)
def test_a_gpu_trains_compiled_and_in_every_precision(betons: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    ends = ("curriculum.0.until_epoch=4", "curriculum.1.until_epoch=8", "schedule.warmup_epochs=0")
    expected = train(tiny_recipe(betons, tmp_path, *SHORT, *ends), Path("cpu"), runtime=resolve_runtime("cpu")).rows
    rows = train(tiny_recipe(betons, tmp_path, *SHORT, *ends), Path("gpu"), runtime=resolve_runtime("cuda", **options)).rows
    assert float(rows[0]["train/loss"]) == pytest.approx(float(expected[0]["train/loss"]), abs=0.05)
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert 0 < float(rows[-1].get("mfu", 1e-9)) < 1
