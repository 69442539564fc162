#!/usr/bin/env python3
"""A recipe's own training step on batches that are on the device: images/s, time, memory, waits, and its longest kernels.

The step is that of ``jpegcurr train``: policy, erasing, mixing, the forward and backward pass in the runtime's precision, the
optimiser, the average of the weights. Only the loader is left out: two batches of FOLDER's images, cropped as the recipe has
it, are on the device before the clock starts, and each micro-batch is a whole optimiser step. Every combination of ``--micro``
and ``--variants`` gets a new model, and a line for every measurement as it comes:

    images/s     over the timed steps, in every round
    host         milliseconds that the host takes to start a step's work, on an idle device; if above ``device``, it limits
    device       milliseconds of a step in which a GPU computes or copies, by the profiler, without the gaps between kernels
    launches     kernels and copies of a step, by the profiler
    memory       the most that torch held of a GPU's memory
    waits        places where the host waits for a GPU within a step, by ``torch.cuda.set_sync_debug_mode``, which misses some

The last four are of GPUs alone. The variants: ``eager`` and ``compiled`` are as ``jpegcurr train`` has them with
``--no-compile`` and ``--compile``, ``kernels`` with ``--kernels``, on a GPU alone. ``plain`` is eager with LayerNorms and the
layer scale in float32, where autocast leaves them, ``cast`` with both in half precision. ``bare`` is eager without the policy
and erasing: what is left is the price of the network.

``--kernels N`` prints the N kernels (on a CPU, operators) that take the most time.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from clock import WARM_UP, Clock, wait_for
from common import Measurements, bench_parser, circumstances, positive, record
from gamma import cast_gammas
from images import make_data
from timm.layers import LayerNorm, LayerNorm2d
from torch.profiler import ProfilerActivity, profile

from jpegcurr.errors import JpegcurrError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import AugmentSection, Recipe
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.system import keep_freed_memory, library_versions
from jpegcurr.training.augment.augment import Augment
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import open_datasets
from jpegcurr.training.data.loaders import open_loaders
from jpegcurr.training.data.sampling import Batch
from jpegcurr.training.loop import StepInfo, train_epoch
from jpegcurr.training.state import EpochProgress, TrainState
from jpegcurr.training.train import create_state

BATCHES = 2  # on the device, taken in turns
PROFILED = 3  # steps
LIBRARIES = ("torch", "timm", "triton")


def recipe_on(recipe: Recipe, beton: Path, batch: int, *, epochs: int = 1, workers: int | None = None) -> Recipe:
    """Return ``recipe`` for ``epochs`` epochs on one beton, without evaluation, each step of one micro-batch of ``batch``.

    What its first phase says of size and augmentation holds.
    """
    first = recipe.curriculum[0]
    tree = recipe.model_dump(exclude_unset=True)
    tree |= {
        "data": {"images": {"train": str(beton), "quality": "source"}},
        "curriculum": [{"data": "images", "until_epoch": epochs, "size": first.size, "augment": first.augment}],
        "evaluate": [],
        "batch": {"size": batch, "per_device": batch},
        "schedule": {"lr": 1.0e-6, "warmup_epochs": 0},  # a rate changes nothing of what a step costs, unless the loss diverges
    }
    for section in ("targets", "tracking", "save"):
        tree.pop(section, None)
    if workers is not None:
        tree["loader"] = tree.get("loader", {}) | {"workers": workers}
    return Recipe.model_validate(tree)


class OnDevice:
    """A loader of batches that are on the device already, in turns."""

    replaced = 0

    def __init__(self, batches: Sequence[Batch], steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def at(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch."""
        for number in range(first, self.steps):
            yield self.batches[number % len(self.batches)]._replace(epoch=epoch, position=number)


@dataclass(frozen=True, slots=True)
class RecipeStep:
    """A recipe's step: the state that training has, and batches on its device."""

    state: TrainState
    batches: Sequence[Batch]

    def run(self, steps: int, after_step: Callable[[StepInfo], None]) -> None:
        """Take ``steps`` steps, as an epoch does; the state stays as they leave it."""
        state = replace(self.state, images=steps * self.state.recipe.batch.size)
        plan, progress = plan_epochs(state.recipe)[0], EpochProgress.at_start(0, state.runtime)
        train_epoch(state, OnDevice(self.batches, steps), plan, progress, after_step)


def open_step(recipe: Recipe, beton: Path, micro: int, runtime: Runtime) -> RecipeStep:
    """Open a recipe's step with a new model, on the first images of a beton, which has ``BATCHES`` batches or more."""
    recipe = recipe_on(recipe, beton, micro)
    datasets = open_datasets(recipe)
    loaders = open_loaders(recipe, datasets, replace(runtime, compile=False))
    with closing(loaders.train.at(0)) as epoch:  # or its threads would go on decoding
        batches = [batch._replace(images=batch.images.clone()) for batch in islice(epoch, BATCHES)]
    state = create_state(recipe, runtime, datasets, start=True)
    return RecipeStep(state, batches)


def eager(step: RecipeStep) -> RecipeStep:
    """Return the step as it is."""
    return step


def plain(step: RecipeStep) -> RecipeStep:
    """Return the step with the model as autocast alone has it."""
    return replace(step, state=replace(step.state, prepared=step.state.runtime.prepare(step.state.model)))


def cast(step: RecipeStep) -> RecipeStep:
    """Return the step with ConvNeXt's layer scale cast, and with timm's fast LayerNorm."""
    cast_gammas(step.state.model)
    for module in step.state.model.modules():
        if isinstance(module, LayerNorm | LayerNorm2d):
            module._fast_norm = True
    return plain(step)


def bare(step: RecipeStep) -> RecipeStep:
    """Return the step without policy, colours and erasing."""
    state = step.state
    phases = [phase.model_copy(update={"augment": None}) for phase in state.recipe.curriculum]
    recipe = state.recipe.model_copy(update={"augment": AugmentSection(), "curriculum": phases})
    return replace(step, state=replace(state, recipe=recipe, augment=Augment(recipe, state.classes, state.normalise)))


VARIANTS = {"eager": eager, "compiled": eager, "kernels": eager, "plain": plain, "cast": cast, "bare": bare}


def time_round(step: RecipeStep, steps: int) -> float:
    """Return images/s of ``steps`` steps after the untimed ones."""
    clock = Clock(step.state.runtime, steps, step.state.recipe.batch.size)
    step.run(WARM_UP + steps, lambda _info: clock.tick(0.0))
    return clock.read().rate


def host_time(step: RecipeStep, steps: int) -> float:
    """Return the median of the milliseconds in which the host starts a step, each from an idle device."""
    times, started = list[float](), 0.0

    def after_step(_info: StepInfo) -> None:
        nonlocal started
        times.append(1e3 * (perf_counter() - started))
        wait_for(step.state.runtime)
        started = perf_counter()

    step.run(1 + steps, after_step)
    return median(times[1:])


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel, or on a CPU an operator: its milliseconds and launches in a step."""

    name: str
    milliseconds: float
    launches: float


def profile_step(step: RecipeStep) -> list[Kernel]:
    """Return the kernels of a step by time, from several steps that the profiler watches."""
    on_gpu = step.state.runtime.device.type == "cuda"
    profiler = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU], acc_events=True)

    def after_step(info: StepInfo) -> None:
        if info.step in (WARM_UP, WARM_UP + PROFILED):
            wait_for(step.state.runtime)
            (profiler.start if info.step == WARM_UP else profiler.stop)()

    step.run(WARM_UP + PROFILED, after_step)
    microseconds, launches = Counter[str](), Counter[str]()
    for event in profiler.key_averages():
        time = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        if event.is_user_annotation or (on_gpu and event.device_type == torch.autograd.DeviceType.CPU):
            continue  # an annotation spans kernels that are counted themselves
        if time > 0:
            microseconds[event.key] += time
            launches[event.key] += event.count
    return [Kernel(name, time / PROFILED / 1e3, launches[name] / PROFILED) for name, time in microseconds.most_common()]


def waits(step: RecipeStep) -> list[str]:
    """Return the places at which the host waits for the GPU in a step, one for every wait."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        def after_step(info: StepInfo) -> None:
            if info.step == WARM_UP:
                caught.clear()
                torch.cuda.set_sync_debug_mode("warn")
            elif info.step == WARM_UP + 1:
                torch.cuda.set_sync_debug_mode("default")

        try:
            step.run(WARM_UP + 1, after_step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(entry.filename).name}:{entry.lineno}" for entry in caught if "synchron" in str(entry.message)]


def measure(step: RecipeStep, name: str, arguments: Any, measurements: Measurements) -> dict[str, Any]:
    """Measure one variant, and print a line for every measurement."""
    runtime, results = step.state.runtime, dict[str, Any]()

    def add(metric: str, value: float, unit: str, turn: int | None = None) -> None:
        measurements.add(f"{name}, {metric}" if metric else name, value, unit, turn)
        results[metric or "images_per_second"] = round(value, 3)

    started = perf_counter()
    time_round(step, 1)
    add("the first steps", perf_counter() - started, "s")
    if runtime.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runtime.device)
    rates = [0.0] * arguments.runs
    for turn in range(arguments.runs):
        rates[turn] = time_round(step, arguments.steps)
        add("", rates[turn], "images/s", turn + 1)
    results["images_per_second"] = round(median(rates), 1)
    if runtime.device.type == "cuda":
        add("memory", torch.cuda.max_memory_allocated(runtime.device) / 1e9, "GB")
    add("host", host_time(step, arguments.steps), "ms")
    if runtime.device.type == "cuda":
        places = waits(step)
        add("waits", len(places), f"in a step {sorted(set(places)) if places else ''}".rstrip())
    if runtime.device.type == "cuda" or arguments.kernels:
        kernels = profile_step(step)
        add("device", sum(kernel.milliseconds for kernel in kernels), "ms")
        add("launches", sum(kernel.launches for kernel in kernels), "in a step")
        print_kernels(kernels[: arguments.kernels])
        results["kernels"] = [[kernel.name, round(kernel.milliseconds, 4), kernel.launches] for kernel in kernels[:25]]
    return results


def print_kernels(kernels: Sequence[Kernel]) -> None:
    """Print a table of kernels, cut to the width of a terminal."""
    for kernel in kernels:
        print(f"  {kernel.milliseconds:>9.3f} ms {kernel.launches:>7.1f} x  {kernel.name[:90]}", flush=True)


def main() -> None:
    """Measure every variant at every size of a micro-batch."""
    parser = bench_parser(__doc__, folder=True, runs=3)
    parser.add_argument("--recipe", default="two_phase", help="a file, or a shipped recipe's name (two_phase)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    parser.add_argument("--micro", type=positive, nargs="+", default=[128, 512], help="images of a micro-batch (128 512)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["eager", "compiled"], help="(eager compiled)")
    parser.add_argument("--steps", type=positive, default=20, help="timed steps a round (20)")
    parser.add_argument("--kernels", type=positive, default=0, metavar="N", help="print the N longest kernels (none)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    arguments = parser.parse_args()
    keep_freed_memory()  # as jpegcurr's commands do
    torch._dynamo.config.recompile_limit = 1000  # every variant compiles a new model
    measurements, results = Measurements(arguments.lines), dict[str, Any]()
    try:
        recipe = load_recipe(arguments.recipe, arguments.set)
        runtime = resolve_runtime(arguments.device)
        with TemporaryDirectory(prefix="bench-step-") as folder:
            data = make_data(arguments.folder, Path(folder), BATCHES * max(arguments.micro))
            for micro in arguments.micro:
                for variant in arguments.variants:
                    name = f"{micro} images, {variant}"
                    here = resolve_runtime(arguments.device, compile=variant == "compiled", kernels=variant == "kernels")
                    try:
                        step = VARIANTS[variant](open_step(recipe, data.beton, micro, here))
                        results[name] = measure(step, name, arguments, measurements)
                    except RuntimeError as error:  # out of memory, or no compiler
                        print(f"{name} is skipped: {' '.join(str(error).split())[:300]}", flush=True)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    if not results:
        raise SystemExit("No variant could be measured.")
    model, size = recipe.model.name, recipe.curriculum[0].size or recipe.image.size
    rounds = f"{arguments.runs} x {arguments.steps} steps"
    counts = f"{arguments.recipe}: {model} at {size}, {data.classes} classes, {runtime.reason}, {rounds}"
    versions = ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items())
    print("\n".join([counts, *(f"{name}: {value}" for name, value in circumstances().items()), versions]))
    record(arguments.json, "step", {"counts": counts, "training_versions": versions, **results})


if __name__ == "__main__":
    main()
