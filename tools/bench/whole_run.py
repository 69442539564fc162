#!/usr/bin/env python3
"""What surrounds training: evaluation, saving, a stop and a resume, and a process group of one.

The run is of a recipe on two betons, as ``jpegcurr train`` does it: two epochs of a few steps, once whole, and once stopped
within the second epoch and resumed. Printed are the images/s of an evaluation of the raw and the averaged weights, the seconds
and size of a checkpoint, and the largest difference between the weights of both runs: 0 on a CPU; on a GPU kernels may add
in another order. The process group is NCCL's on a GPU and gloo's on a CPU: a sum, and a step under
DistributedDataParallel, whose gradients must be those without it.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from clock import wait_for
from common import Measurements, bench_parser, circumstances, positive
from safetensors.torch import load_file
from step import recipe_on
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from jpegcurr.errors import JpegcurrError, Terminated
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime, collective_backend, resolve_runtime
from jpegcurr.training.checkpoint import save_state
from jpegcurr.training.data.datasets import open_datasets
from jpegcurr.training.data.loaders import open_loaders
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.metrics import score
from jpegcurr.training.models.create import create_model
from jpegcurr.training.run_folder import STATE
from jpegcurr.training.state import EpochProgress
from jpegcurr.training.train import create_state, train

EPOCHS = 2


def with_validation(recipe: Recipe, train_beton: Path, val_beton: Path, batch: int) -> Recipe:
    """Return the recipe of ``EPOCHS`` epochs on one beton, evaluated on the other."""
    tree = recipe_on(recipe, train_beton, batch, epochs=EPOCHS).model_dump(exclude_unset=True)
    tree["data"]["images"]["val"] = str(val_beton)
    return Recipe.model_validate(tree | {"evaluate": ["images"]})


def train_whole(recipe: Recipe, folder: Path, runtime: Runtime, measurements: Measurements) -> None:
    """Train without a stop, and report the speed of the last epoch."""
    row = train(recipe, folder, runtime=runtime).rows[-1]
    measurements.add("training, images/s of the last epoch", float(row["images_per_second"]), "images/s")


def train_in_two(recipe: Recipe, folder: Path, runtime: Runtime, measurements: Measurements) -> None:
    """Train, stop after the first step of the second epoch, and resume."""
    stop = False

    def after_step(info: StepInfo) -> None:
        nonlocal stop
        stop = info.plan.epoch == 1

    try:
        train(recipe, folder, runtime=runtime, on_step=after_step, stop=lambda: stop)
    except Terminated:
        print(f"stopped within epoch 1, as intended: {folder / STATE}", flush=True)
    else:
        raise SystemExit("The run was not stopped: the beton has too few images for two steps an epoch.")
    started = perf_counter()
    train(recipe, folder, runtime=runtime, resume=True)
    measurements.add("resume, to the end", perf_counter() - started, "s")


def largest_difference(first: Path, second: Path) -> float:
    """Return the largest difference between the weights of two runs."""
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def measure_parts(recipe: Recipe, folder: Path, runtime: Runtime, measurements: Measurements) -> None:
    """Measure an evaluation of raw and averaged weights, and a checkpoint."""
    datasets = open_datasets(recipe)
    loaders, state = open_loaders(recipe, datasets, runtime), create_state(recipe, runtime, datasets, start=True)
    loader = next(iter(loaders.val.values()))
    models = list(state.models.values())
    for turn in range(2):
        started = perf_counter()
        scores = score(models, state.normalise, loader, runtime)
        rate = scores[0].images / (perf_counter() - started)
        if turn:
            measurements.add(f"evaluation of {len(models)} models", rate, "images/s")
    state.optimizer.zero_grad()
    started = perf_counter()
    save_state(folder / "state.safetensors", state, EpochProgress.at_start(0, runtime))
    measurements.add("a checkpoint, before the optimiser has moments", perf_counter() - started, "s")


def group_of_one(recipe: Recipe, folder: Path, runtime: Runtime, measurements: Measurements) -> None:
    """Form a process group of this process alone, sum over it, and compare gradients with and without it."""
    backend = collective_backend()
    distributed.init_process_group(backend, init_method=(folder / "group").as_uri(), rank=0, world_size=1)
    try:
        numbers = torch.arange(4.0, device=runtime.device)
        distributed.all_reduce(numbers)
        if numbers.tolist() != [0, 1, 2, 3]:
            raise SystemExit(f"{backend}: a sum over one process changed the numbers: {numbers.tolist()}.")
        torch.manual_seed(0)
        model = runtime.place(create_model(recipe.model, 10)).eval()  # no drop path: both passes are the same
        images = torch.rand(8, 3, recipe.image.size, recipe.image.size, device=runtime.device)
        alone = gradients(model, model, images, runtime)
        devices = [runtime.device] if runtime.device.type == "cuda" else None
        wrapped = DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        apart = max(float((a - b).abs().max()) for a, b in zip(alone, gradients(wrapped, model, images, runtime), strict=True))
        largest = max(float(gradient.abs().max()) for gradient in alone)
        measurements.add(f"{backend} group of one, largest difference of gradients", apart / largest, "of the largest")
        if apart > 0.02 * largest:
            raise SystemExit(f"{backend}: the gradients of DistributedDataParallel differ by {apart:.3g} of {largest:.3g}.")
    finally:
        distributed.destroy_process_group()


def gradients(called: torch.nn.Module, model: torch.nn.Module, images: torch.Tensor, runtime: Runtime) -> list[torch.Tensor]:
    """Return copies of the model's gradients of a sum over its outputs."""
    model.zero_grad(set_to_none=True)
    with runtime.autocast():
        loss = called(images).float().square().mean()
    loss.backward()
    wait_for(runtime)
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def main() -> None:
    """Do everything in order, and print each measurement as it comes."""
    parser = bench_parser(__doc__)
    parser.add_argument("train", type=Path, help="beton to train on")
    parser.add_argument("val", type=Path, help="beton to evaluate on")
    parser.add_argument("--recipe", default="two_phase", help="a file, or a shipped recipe's name (two_phase)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    parser.add_argument("--batch", type=positive, default=128, help="images a step (128)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    arguments = parser.parse_args()
    measurements = Measurements(arguments.lines)
    try:
        runtime = resolve_runtime(arguments.device)
        print(runtime.reason, flush=True)
        recipe = load_recipe(arguments.recipe, arguments.set)
        recipe = with_validation(recipe, arguments.train.resolve(), arguments.val.resolve(), arguments.batch)
        with TemporaryDirectory(prefix="bench-run-") as name:
            folder = Path(name)
            group_of_one(recipe, folder, runtime, measurements)
            measure_parts(recipe, folder, runtime, measurements)
            train_whole(recipe, folder / "whole", runtime, measurements)
            train_in_two(recipe, folder / "resumed", runtime, measurements)
            checkpoint = (folder / "whole" / STATE).stat().st_size / 1e6
            measurements.add("a checkpoint with the optimiser's moments", checkpoint, "MB")
            apart = largest_difference(folder / "whole", folder / "resumed")
            measurements.add("stopped and resumed, largest difference of weights", apart, "")
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    if apart and runtime.device.type == "cpu":
        raise SystemExit("On a CPU a resumed run must end in the same weights.")
    print("\n".join(f"{name}: {value}" for name, value in circumstances().items()))


if __name__ == "__main__":
    main()
