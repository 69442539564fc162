"""Models whose weights or outputs are no numbers: no table with an accuracy, but a sentence that names the file."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import tiny_recipe

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.channels.study import study_channels
from jpegcurr.analysis.evaluation.evaluate import evaluate_run
from jpegcurr.analysis.evaluation.sets import open_sets
from jpegcurr.analysis.prediction.predict import classify
from jpegcurr.cli import main
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.sources.labelled_files import find_labelled
from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.classifier import Run
from jpegcurr.training.models.load import load_run
from jpegcurr.training.train import train

NAN, INFINITE = float("nan"), float("inf")


def spoil(folder: Path, value: float, name: str = "head.fc.bias") -> Path:
    file = folder / "model.safetensors"
    weights = load_file(file)
    weights[name] = weights[name].clone()
    weights[name].view(-1)[0] = value
    save_file(weights, file)
    return file


@pytest.mark.parametrize("value", [NAN, INFINITE, -INFINITE])
@pytest.mark.parametrize("weights", ["raw", "ema", "best"])
def test_a_weight_that_is_no_number_is_refused_by_every_command(
    trained_copy: Path, betons: Path, photos: Path, value: float, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = spoil(trained_copy if weights == "raw" else trained_copy / weights, value)
    data, options = f"--data {betons}/val-source.beton", f"--weights {weights} --device cpu"
    for command in (
        f"evaluate {trained_copy} {data} --csv scores.csv {options}",
        f"predict {trained_copy} {photos}/val {options}",
        f"cam {trained_copy} {photos}/val -o report.html {options}",
        f"channels {trained_copy} {data} --csv channels.csv {options}",
    ):
        with pytest.raises(SystemExit) as left:
            main(shlex.split(command))
        error = capsys.readouterr().err
        assert left.value.code == 2, error
        assert f"{file} holds weights that are infinite or not a number (head.fc.bias)" in error
    assert list(Path().iterdir()) == []


def test_the_other_weights_of_such_a_run_can_still_be_used(trained_copy: Path, cpu: Runtime) -> None:
    spoil(trained_copy, NAN)
    with pytest.raises(UsageError, match=r"\(raw, ema, best: --weights NAME\)"):
        load_run(trained_copy, cpu)
    for weights in ("ema", "best"):
        assert load_run(trained_copy, cpu, weights).weights == weights  # type: ignore[arg-type]
    shutil.rmtree(trained_copy / "ema")
    with pytest.raises(UsageError, match=r"\(raw, best: --weights NAME\)"):
        load_run(trained_copy, cpu)
    shutil.rmtree(trained_copy / "best")
    with pytest.raises(UsageError, match=r"damaged\. Give other weights, or train it again\."):
        load_run(trained_copy, cpu)


def test_weights_that_overflow_are_refused_though_they_are_finite(trained_copy: Path, cpu: Runtime) -> None:
    file = trained_copy / "model.safetensors"
    save_file({name: tensor * 1e30 for name, tensor in load_file(file).items()}, file)
    with pytest.raises(JpegcurrError, match="its outputs for a grey image are infinite or not a number"):
        load_run(trained_copy, cpu)


def test_training_does_not_start_from_weights_that_are_no_numbers(
    trained_copy: Path, betons: Path, cpu: Runtime, tmp_path: Path
) -> None:
    spoil(trained_copy, NAN, "stem.0.weight")
    recipe = tiny_recipe(betons, tmp_path, f"model.checkpoint={trained_copy}")
    with pytest.raises(UsageError, match=r"model\.checkpoint: .* holds weights that are infinite or not a number"):
        train(recipe, Path("run"), runtime=cpu)
    assert not Path("run/run.json").exists()


@pytest.fixture
def run(trained: Path, cpu: Runtime) -> Run:
    """Load a run whose first output is no number for images that are brighter than others."""

    def overflow(_module: torch.nn.Module, inputs: tuple[torch.Tensor], outputs: torch.Tensor) -> torch.Tensor:
        means = inputs[0].mean(dim=(1, 2, 3))
        return torch.where((means > means.median())[:, None], outputs / 0, outputs)

    run = load_run(trained, cpu)
    run.model.register_forward_hook(overflow)
    return run


def judge(run: Run, betons: Path, photos: Path, cpu: Runtime) -> dict[str, Callable[[], object]]:
    beton = betons / "val-source.beton"
    specs = [EncodeSpec("source"), EncodeSpec(50)]
    return {
        "sample": lambda: list(evaluate_run(run, {"": beton}, cpu)),
        "val/": lambda: list(classify(run, find_labelled([photos / "val"]), cpu)),
        "train/": lambda: compare_cams([run], photos / "train", specs, cpu, layer="stages.1", limit=10),
        "image": lambda: study_channels(run, open_sets([run], {"": beton}), cpu, layers=["stages.1"]),
    }


@pytest.mark.parametrize("where", ["sample", "val/", "train/", "image"])
def test_outputs_that_are_no_numbers_name_the_model_and_the_image(
    run: Run, betons: Path, photos: Path, cpu: Runtime, where: str
) -> None:
    with pytest.raises(JpegcurrError, match=rf"{run.path}: its outputs for .*{where}.* are infinite or not a number"):
        judge(run, betons, photos, cpu)[where]()
