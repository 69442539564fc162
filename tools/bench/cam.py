#!/usr/bin/env python3
"""Images/s of Grad-CAM: ours, pytorch-grad-cam's, and a bare forward pass, which is the bound.

All contenders receive the same batch of random images, which is on the device before the clock starts, and the same model with
random weights, in evaluation mode, float32 and channels_last, and explain the same class of each image at the same layer. They
take turns, A B C, A B C, after one warm-up round. A round is --batches batches, and ends when the last result is in
the host's memory: our raw maps on the layer's grid, pytorch-grad-cam's scaled to 0..1 and enlarged to the images' size, the
forward pass's logits. Run nothing else on the machine.

"levels apart" is the largest difference, of 255, between pytorch-grad-cam's maps and ours, scaled and enlarged by its function.
"""

import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import bench_parser, circumstances, positive, record

from jpegcurr.analysis.cam.grad_cam import maps_and_logits
from jpegcurr.analysis.layers import find_layer, stages
from jpegcurr.errors import JpegcurrError
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.runtime import Runtime, resolve_runtime, whole_float32
from jpegcurr.system import library_versions
from jpegcurr.training.models.create import create_model

OURS, THEIRS, FORWARD = "ours", "pytorch-grad-cam", "a bare forward pass"
# The least ratio of our median images/s to another contender's.
TARGETS = {f"{OURS} against {THEIRS}": (THEIRS, 3.0), f"{OURS} of {FORWARD}": (FORWARD, 0.9)}
CLASSES = 1000
LIBRARIES = ("torch", "torchvision", "timm", "grad-cam")

Explain = Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True)
class Options:
    """The options that all contenders share; ``layer`` None is the last stage."""

    model: str
    size: int
    batch: int
    batches: int
    layer: str | None


def open_contenders(options: Options, runtime: Runtime) -> tuple[dict[str, Explain], str]:
    """Return a function for every contender that runs one batch, result in host memory, and the layer."""
    torch.manual_seed(0)
    model = runtime.place(create_model(ModelSection(name=options.model), CLASSES)).eval()
    layer = options.layer or stages(model)[-1]
    images = torch.randn(options.batch, 3, options.size, options.size).to(runtime.device, memory_format=torch.channels_last)
    classes = torch.arange(options.batch, device=runtime.device) % CLASSES

    def ours() -> np.ndarray:
        maps: np.ndarray = maps_and_logits(model, layer, images, classes)[0].cpu().numpy()
        return maps

    def forward() -> np.ndarray:
        with torch.no_grad():
            logits: np.ndarray = model(images).cpu().numpy()
        return logits

    return {OURS: ours, THEIRS: _theirs(model, layer, images, classes), FORWARD: forward}, layer


def _theirs(model: torch.nn.Module, layer: str, images: torch.Tensor, classes: torch.Tensor) -> Explain:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's dependencies warn
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    targets = [ClassifierOutputTarget(label) for label in classes.tolist()]

    def explain() -> np.ndarray:
        with GradCAM(model=model, target_layers=[find_layer(model, layer)]) as cam:  # its hooks would slow down the others
            maps: np.ndarray = cam(images, targets=targets)
        model.zero_grad()  # GradCAM computes gradients of the weights too
        return maps

    return explain


def measure(contenders: Mapping[str, Explain], options: Options, runs: int) -> dict[str, list[float]]:
    """Return the images/s of ``runs`` rounds by contender, after a warm-up round."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(runs + 1):
        print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)
        for name, explain in contenders.items():
            start = time.perf_counter()
            for _ in range(options.batches):
                explain()
            rate = options.batches * options.batch / (time.perf_counter() - start)
            rates[name] += [rate] if turn else []
    return rates


def levels_apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference, of 255, after our maps are scaled and enlarged like theirs."""
    from pytorch_grad_cam.utils.image import scale_cam_image

    scaled = scale_cam_image(scale_cam_image(ours, theirs.shape[:0:-1]))
    return float(255 * np.abs(scaled - theirs).max())


def table(rates: Mapping[str, Sequence[float]]) -> list[str]:
    """Return a line for each contender."""
    lines = [f"{'images/s':<38}{'median':>8}{'min':>8}{'max':>8}{f'of {FORWARD}':>24}"]
    limit = statistics.median(rates[FORWARD])
    for name, rounds in rates.items():
        median = statistics.median(rounds)
        lines.append(f"{name:<38}{median:>8.1f}{min(rounds):>8.1f}{max(rounds):>8.1f}{median / limit:>24.3f}")
    return lines


def parse() -> Any:
    """Parse the command line."""
    parser = bench_parser(__doc__, runs=5)
    parser.add_argument("--model", default="convnext_tiny", help="timm's name (convnext_tiny)")
    parser.add_argument("--size", type=positive, default=224, help="pixels a side (224)")
    parser.add_argument("--batch", type=positive, default=16, help="images a batch (16)")
    parser.add_argument("--batches", type=positive, default=2, help="batches a round (2)")
    parser.add_argument("--layer", help="layer whose maps are computed (the last stage)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    return parser.parse_args()


def main() -> None:
    """Measure all contenders and print their rates and ratios."""
    arguments = parse()
    options = Options(arguments.model, arguments.size, arguments.batch, arguments.batches, arguments.layer)
    try:
        runtime = resolve_runtime(arguments.device, precision="float32")
        with whole_float32():  # as in jpegcurr cam
            contenders, layer = open_contenders(options, runtime)
            apart = levels_apart(contenders[OURS](), contenders[THEIRS]())
            rates = measure(contenders, options, arguments.runs)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    except ImportError as error:
        raise SystemExit(f"{error}: pip install grad-cam") from None
    medians = {name: statistics.median(rounds) for name, rounds in rates.items()}
    ratios = {name: medians[OURS] / medians[other] for name, (other, _) in TARGETS.items()}
    lines = [*table(rates), ""]
    for name, (_, least) in TARGETS.items():
        missed = "" if ratios[name] >= least else ", missed"
        lines.append(f"{name:<38}{ratios[name]:>8.2f}   required: {least}{missed}")
    lines += [f"{'levels apart':<38}{apart:>8.2f}", ""]
    setup = f"{options.model} at {options.size}, batch {options.batch}, layer {layer}, {runtime.reason}"
    counts = f"{setup}; {options.batches} batches a round, {arguments.runs} runs after one warm-up"
    versions = ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items())
    print("\n".join([*lines, counts, *(f"{name}: {value}" for name, value in circumstances().items()), versions]))
    results = {
        "counts": counts,
        "cam_versions": versions,
        "images_per_second": {name: round(median, 1) for name, median in medians.items()},
        "asked": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "levels_apart": round(apart, 3),
    }
    record(arguments.json, "cam", results)


if __name__ == "__main__":
    main()
