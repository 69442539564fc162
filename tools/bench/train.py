#!/usr/bin/env python3
"""Images/s of training: ours, a loop like that of timm's train.py, and the model's own limit; and the gain of every lever.

The contenders train the same model from random weights, in the same precision, channels_last, on the same images (read whole,
random-resized crops, mirrored), with AdamW, label smoothing and an average of the weights (EMA). They take turns, A B C, A B C,
after a warm-up round, which fills the page cache, compiles code and starts timm's worker processes, which stay alive. A round
is one epoch of --steps steps and a few untimed ones before them; on a GPU the clock waits for the device before it starts and
stops. Run nothing else on the machine, and give images that fit into memory: as many as the steps need are copied from FOLDER
to a temporary folder (below TMPDIR), some of them repeatedly if FOLDER has too few.

``ours`` is ``jpegcurr train`` itself, a new run in every round, on a beton that holds the bytes of the files; its last step is
timed, but not the checkpoint after it. ``timm`` reads the files by ``create_dataset`` and ``create_loader`` with its prefetcher
and as many worker processes as we have threads. timm's wheel does not contain train.py, so this file repeats its loop with
timm's public parts: like train.py it reads the loss after every step, but it has no learning rate schedule and no log. With
``--compile`` all contenders are compiled, and timm is also measured without, which is train.py's default. ``synthetic`` is the
lower bound of a step: ours on one batch that is on the device before the clock starts, without anything around it. "data wait"
is the share of the time that the host spends waiting for batches; a GPU may be busy meanwhile.

``--recipe`` makes all three take a recipe's own step: its policy, erasing, mixing and drop path, at its size and by its filter.
``synthetic`` then augments and mixes two batches of the images over and over; timm mixes in its collation, as train.py does.
Every measurement is printed as it comes.

``--levers`` measures the synthetic step without a recipe again, with one change at a time. ``gamma's dtype`` casts ConvNeXt's
layer scale, which in float32 turns all later activations into float32 under autocast; ``fast norm`` is timm's, which keeps a
layer norm in autocast's dtype. MFU is the share of the GPU's peak for dense layers that is used (``jpegcurr.training.flops``).
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from clock import WARM_UP, Clock, Lap
from common import Measurements, bench_parser, circumstances, positive, record
from gamma import cast_gammas
from images import Data, make_data
from step import BATCHES, RecipeStep, open_step, recipe_on
from timm.data import FastCollateMixup, create_dataset, create_loader, resolve_model_data_config
from timm.layers import set_fast_norm
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch.nn.functional import cross_entropy

from jpegcurr.errors import JpegcurrError
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import AugmentSection, ModelSection, OptimSection, Recipe
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.system import keep_freed_memory, library_versions
from jpegcurr.training.augment.policies import parse_section_policy
from jpegcurr.training.flops import mfu, peak_flops, training_flops
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.names import check_model
from jpegcurr.training.models.normalisation import normaliser
from jpegcurr.training.optim import create_optimizer, parameter_groups, set_learning_rate
from jpegcurr.training.train import train

OURS, TIMM, TIMM_EAGER, SYNTHETIC = "ours", "timm", "timm, not compiled", "synthetic"
BASE = "base"
LEARNING_RATE, WEIGHT_DECAY, SMOOTHING, EMA_DECAY = 1e-3, 0.05, 0.1, 0.9998
LIBRARIES = ("torch", "torchvision", "timm", "numba")
# Required ratios to the model's own limit and to timm on a CPU, and to timm on a GPU; images/s of one model on an H200.
OF_LIMIT, OF_TIMM, OF_TIMM_ON_GPU = 0.95, 1.0, 1.3
H200_RATE, H200_MODEL, H200_SIZE = 5000, "convnext_tiny", 224


@dataclass(frozen=True, slots=True)
class Options:
    """The options that all contenders share; ``recipe``, if any, says the rest of what a step does."""

    model: str
    size: int
    batch: int
    steps: int
    workers: int
    interpolation: str
    policy: str | None
    loader: str
    recipe: Recipe | None = None

    @property
    def images(self) -> int:
        """Return the number of images in a round."""
        return self.batch * (WARM_UP + self.steps)


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to train; ``run`` trains for one round."""

    name: str
    run: Callable[[], Lap]


@dataclass(frozen=True, slots=True)
class Lever:
    """A change of the base, which has the defaults of ``jpegcurr train``; ``batch`` is a factor of the batch size."""

    name: str
    memory: torch.memory_format = torch.channels_last
    compile: bool = False
    fused: bool = False
    cast_gamma: bool = False
    fast_norm: bool = False
    batch: float = 1.0


class Step:
    """A training step, with its model, optimiser, loss and EMA."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        runtime: Runtime,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> None:
        self.model, self.prepared = model.train(), runtime.prepare(model)
        self.optimizer, self.runtime, self.loss = optimizer, runtime, loss
        self.ema, self.steps = ModelEmaV3(model, decay=EMA_DECAY), 0

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Train on normalised images and their labels; return the loss."""
        with self.runtime.autocast():
            loss = self.loss(self.prepared(images), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.ema.update(self.model, step=self.steps)
        return loss.detach()


def our_recipe(data: Data, options: Options) -> Recipe:
    """Return a recipe of one epoch without evaluation."""
    if options.recipe is not None:
        recipe = recipe_on(options.recipe, data.beton, options.batch, workers=options.workers)
        return recipe.model_copy(update={"loader": recipe.loader.model_copy(update={"kind": options.loader})})
    return Recipe.model_validate(
        {
            "model": {"name": options.model},
            "data": {"images": {"train": str(data.beton), "quality": "source"}},
            "curriculum": [{"data": "images", "until_epoch": 1}],
            "image": {"size": options.size, "interpolation": options.interpolation},
            "augment": {"policy": options.policy},
            "batch": {"size": options.batch, "per_device": options.batch},
            "schedule": {"lr": LEARNING_RATE, "warmup_epochs": 0},
            "optim": {"weight_decay": WEIGHT_DECAY, "label_smoothing": SMOOTHING},
            "ema": {"decay": EMA_DECAY},
            "loader": {"kind": options.loader, "workers": options.workers},
        }
    )


def train_ours(recipe: Recipe, options: Options, runtime: Runtime) -> Lap:
    """Train a new run as ``jpegcurr train`` does; return its lap."""
    clock = Clock(runtime, options.steps, options.batch)
    with TemporaryDirectory(prefix="bench-train-") as folder:
        train(recipe, Path(folder) / "run", runtime=runtime, on_step=lambda progress: clock.tick(seconds_waited(progress)))
    return clock.read()


def seconds_waited(progress: StepInfo) -> float:
    """Return the seconds that the epoch has waited for data so far."""
    return progress.waited * progress.step * progress.plan.batch / progress.images_per_second


def open_timm(data: Data, options: Options, runtime: Runtime) -> Callable[[], Lap]:
    """Return a function that trains as train.py does with ``--opt adamw --model-ema --channels-last --amp --pin-mem``."""
    recipe = options.recipe
    paths = {"drop_path_rate": recipe.model.drop_path} if recipe is not None and recipe.model.drop_path else {}
    model = runtime.place(timm.create_model(options.model, num_classes=data.classes, **paths))
    optimizer = create_optimizer_v2(model, "adamw", lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    mixing = recipe is not None and bool(recipe.mix.mixup or recipe.mix.cutmix)
    smoothing = SMOOTHING if recipe is None else recipe.optim.label_smoothing
    step = Step(model, optimizer, runtime, SoftTargetCrossEntropy() if mixing else LabelSmoothingCrossEntropy(smoothing))
    return partial(timm_epoch, open_timm_loader(model, data, options, runtime), step, options)


def open_timm_loader(model: torch.nn.Module, data: Data, options: Options, runtime: Runtime) -> Any:
    """Open timm's loader with spawned workers: forks would inherit the locks that this process's threads hold."""
    config = resolve_model_data_config(model)
    recipe, extra = options.recipe, dict[str, Any]()
    if recipe is not None:
        mix = recipe.mix
        extra = {"re_prob": recipe.augment.erase, "re_mode": recipe.augment.erase_fill}
        if mix.mixup or mix.cutmix:
            extra["collate_fn"] = FastCollateMixup(
                mixup_alpha=mix.mixup,
                cutmix_alpha=mix.cutmix,
                prob=mix.prob,
                switch_prob=mix.switch_prob,
                label_smoothing=recipe.optim.label_smoothing,
                num_classes=data.classes,
            )
    loader = create_loader(
        create_dataset("", root=str(data.folder), split="train", search_split=False, is_training=True),
        input_size=(3, options.size, options.size),
        batch_size=options.batch,
        is_training=True,
        color_jitter=None,
        auto_augment=options.policy,
        interpolation=options.interpolation,
        mean=config["mean"],
        std=config["std"],
        num_workers=options.workers,
        pin_memory=runtime.device.type == "cuda",
        device=runtime.device,
        **extra,
    )
    for transform in loader.dataset.transform.transforms:
        for op in getattr(transform, "ops", ()):
            if op.name == "PosterizeIncreasing":
                op.level_fn = partial(at_least_one_bit, op.level_fn)
    if options.workers:
        loader.loader.multiprocessing_context = "spawn"
    return loader


def at_least_one_bit(timms_level: Callable[..., tuple[int]], level: float, parameters: Any) -> tuple[int]:
    """Return the bits that timm's posterize keeps at ``level``, at least 1: at times it asks for 0, which Pillow 13 refuses."""
    return (max(1, *timms_level(level, parameters)),)


def timm_epoch(loader: Any, step: Step, options: Options) -> Lap:
    """Train for one round, like timm's ``train_one_epoch``."""
    clock, waited, requested = Clock(step.runtime, options.steps, options.batch), 0.0, time.perf_counter()
    for images, labels in loader:
        waited += time.perf_counter() - requested
        step(images.contiguous(memory_format=torch.channels_last), labels).item()
        clock.tick(waited)
        requested = time.perf_counter()
    return clock.read()


def open_synthetic(data: Data, options: Options, runtime: Runtime) -> Callable[[], Lap]:
    """Return a function that trains our model, optimiser and loss on one batch like those of our loaders.

    With a recipe it is the recipe's step, on batches of the images, augmented and mixed anew in every step.
    """
    if options.recipe is not None:
        return partial(recipe_epoch, open_step(options.recipe, data.beton, options.batch, runtime), options)
    model = runtime.place(create_model(ModelSection(name=options.model), data.classes))
    optimizer = create_optimizer(model, OptimSection(weight_decay=WEIGHT_DECAY))
    set_learning_rate(optimizer, LEARNING_RATE)
    step = Step(model, optimizer, runtime, partial(cross_entropy, label_smoothing=SMOOTHING))
    return partial(synthetic_epoch, step, *random_batch(options, options.batch, data.classes, runtime), options.steps)


def random_batch(options: Options, batch: int, classes: int, runtime: Runtime) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, uint8 [b 3 h w] in channels_last, and labels, int64 [b], on the device."""
    images = torch.randint(0, 256, (batch, options.size, options.size, 3), dtype=torch.uint8, device=runtime.device)
    return images.permute(0, 3, 1, 2), torch.randint(0, classes, (batch,), device=runtime.device)


def synthetic_epoch(step: Step, images: torch.Tensor, labels: torch.Tensor, steps: int) -> Lap:
    """Train for one round on the same batch."""
    normalise = normaliser(step.model).to(images.device)
    clock = Clock(step.runtime, steps, len(images))
    for _ in range(WARM_UP + steps):
        step(normalise(images), labels)
        clock.tick(0.0)
    return clock.read()


def recipe_epoch(step: RecipeStep, options: Options) -> Lap:
    """Train for one round on the batches of a recipe's step."""
    clock = Clock(step.state.runtime, options.steps, options.batch)
    step.run(WARM_UP + options.steps, lambda _info: clock.tick(0.0))
    return clock.read()


def open_contenders(data: Data, options: Options, runtime: Runtime, only: Sequence[str] = ()) -> list[Contender]:
    """Return all contenders, or those that are named in ``only``; timm also eager if the others are compiled."""
    opening: dict[str, Callable[[], Callable[[], Lap]]] = {
        OURS: lambda: partial(train_ours, our_recipe(data, options), options, runtime),
        TIMM: lambda: open_timm(data, options, runtime),
        SYNTHETIC: lambda: open_synthetic(data, options, runtime),
    }
    if runtime.compile:
        opening[TIMM_EAGER] = lambda: open_timm(data, options, replace(runtime, compile=False))
    return [Contender(name, open_one()) for name, open_one in opening.items() if not only or name in only]


def choose_levers(options: Options, runtime: Runtime) -> list[Lever]:
    """Return the levers that have an effect in the runtime's precision."""
    levers = [
        Lever(BASE),
        Lever("contiguous instead of channels_last", memory=torch.contiguous_format),
        Lever("compiled", compile=True),
        Lever("fused AdamW", fused=True),
    ]
    if runtime.dtype != torch.float32:
        levers += [Lever("gamma's dtype", cast_gamma=True), Lever("fast norm", fast_norm=True)]
        levers += [Lever("compiled, fused, gamma and fast norm", compile=True, fused=True, cast_gamma=True, fast_norm=True)]
    else:
        print("gamma's dtype and fast norm are skipped: in float32 they change nothing.")
        levers += [Lever("compiled and fused", compile=True, fused=True)]
    halves = [Lever(f"batch {options.batch // 2}", batch=0.5)] if options.batch > 1 else []
    return [*levers, *halves, Lever(f"batch {2 * options.batch}", batch=2)]


def open_lever(lever: Lever, options: Options, runtime: Runtime, classes: int) -> Callable[[], Lap]:
    """Return a function that trains for one round of synthetic steps with the lever's change."""
    set_fast_norm(lever.fast_norm)  # a norm reads it when it is constructed
    try:
        model = timm.create_model(options.model, num_classes=classes)
    finally:
        set_fast_norm(False)
    if lever.cast_gamma:
        cast_gammas(model)
    model = model.to(runtime.device).to(memory_format=lever.memory)
    section = OptimSection(weight_decay=WEIGHT_DECAY)
    fused = {"fused": True} if lever.fused else {}
    optimizer = create_optimizer_v2(parameter_groups(model, section), "adamw", lr=LEARNING_RATE, **fused)
    step = Step(model, optimizer, replace(runtime, compile=lever.compile), partial(cross_entropy, label_smoothing=SMOOTHING))
    images, labels = random_batch(options, int(lever.batch * options.batch), classes, runtime)
    return partial(synthetic_epoch, step, images.contiguous(memory_format=lever.memory), labels, options.steps)


def open_levers(options: Options, runtime: Runtime, classes: int) -> list[Contender]:
    """Return the levers that can run here, each after a warm-up round."""
    contenders = []
    for lever in choose_levers(options, runtime):
        print(f"warm-up: {lever.name}", file=sys.stderr)
        try:
            run = open_lever(lever, options, runtime, classes)
            run()
        except RuntimeError as error:  # out of memory, or no compiler
            print(f"{lever.name} is skipped: {' '.join(str(error).split())[:200]}")
            continue
        contenders.append(Contender(lever.name, run))
    return contenders


def measure(
    contenders: Sequence[Contender], runs: int, *, warm_up: bool = True, measurements: Measurements | None = None
) -> dict[str, list[Lap]]:
    """Return the laps of ``runs`` rounds by contender, after a warm-up round unless ``warm_up`` is false.

    Each is printed as it comes.
    """
    measurements = measurements or Measurements()
    laps: dict[str, list[Lap]] = {contender.name: [] for contender in contenders}
    for turn in range(0 if warm_up else 1, runs + 1):
        print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)
        for contender in contenders:
            lap = contender.run()
            if turn:
                laps[contender.name].append(lap)
                measurements.add(contender.name, lap.rate, "images/s", turn)
                if lap.waited:
                    measurements.add(f"{contender.name}, data wait", 100 * lap.waited, "%", turn)
    return laps


def median_rate(laps: Sequence[Lap]) -> float:
    """Return the median of images/s."""
    return statistics.median(lap.rate for lap in laps)


def median_wait(laps: Sequence[Lap]) -> float:
    """Return the median share of time that was spent waiting for data."""
    return statistics.median(lap.waited for lap in laps)


def table(laps: Mapping[str, Sequence[Lap]], head: str, limit: str, flops: float, peak: float | None) -> list[str]:
    """Return a line for each contender, compared with the contender ``limit``; ``flops`` are those of one image."""
    waits = any(median_wait(rounds) for rounds in laps.values())
    titles = f"{f'of {limit}':>14}{'data wait' if waits else '':>11}{'MFU' if peak else '':>7}"
    lines = [f"{head:<38}{'median':>8}{'min':>8}{'max':>8}{titles}".rstrip()]
    for name, rounds in laps.items():
        rates, median = [lap.rate for lap in rounds], median_rate(rounds)
        share, wait = f"{median / median_rate(laps[limit]):>14.3f}", f"{median_wait(rounds):.1%}" if waits else ""
        used = f"{mfu(flops, median, peak):.1%}" if peak else ""
        lines.append(f"{name:<38}{median:>8.1f}{min(rates):>8.1f}{max(rates):>8.1f}{share}{wait:>11}{used:>7}".rstrip())
    return lines


def targets(laps: Mapping[str, Sequence[Lap]], options: Options, runtime: Runtime) -> list[tuple[str, float, float | None]]:
    """Return (name, metric, required minimum or None)."""
    if not laps.keys() >= {OURS, TIMM, SYNTHETIC}:
        return []  # of --only
    mine, on_gpu = median_rate(laps[OURS]), runtime.device.type == "cuda"
    script = TIMM_EAGER if TIMM_EAGER in laps else TIMM
    rows: list[tuple[str, float, float | None]] = [
        (f"{OURS} of {SYNTHETIC}", mine / median_rate(laps[SYNTHETIC]), None if on_gpu else OF_LIMIT),
        (f"{OURS} against {script}", mine / median_rate(laps[script]), OF_TIMM_ON_GPU if on_gpu else OF_TIMM),
    ]
    if script != TIMM:
        rows.append((f"{OURS} against {TIMM}, compiled as well", mine / median_rate(laps[TIMM]), None))
    if on_gpu and "H200" in runtime.name and (options.model, options.size) == (H200_MODEL, H200_SIZE):
        rows.append((f"{OURS}: images/s", mine, H200_RATE))
    return rows


def describe(options: Options, runtime: Runtime, runs: int) -> str:
    """Return a line with the model, the options and the number of rounds."""
    model = f"{options.model} at {options.size}, batch {options.batch}, {runtime.reason}"
    policy = f", {options.policy}" if options.policy else ""
    if options.recipe is not None:
        mix = options.recipe.mix
        policy += f", erasing {options.recipe.augment.erase:g}, mixup {mix.mixup:g}, cutmix {mix.cutmix:g}"
    loading = f"{options.interpolation}{policy}, {options.workers} workers"
    return f"{model}; {loading}; {options.steps} steps after {WARM_UP}, {runs} runs after one warm-up"


def parse() -> Any:
    """Parse the command line; exit with code 2 if it is wrong."""
    parser = bench_parser(__doc__, folder=True, workers=2, runs=5)
    parser.add_argument("--recipe", help="a file, or a shipped recipe's name: all contenders take its step (none)")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    parser.add_argument(
        "--only", action="append", default=[], choices=(OURS, TIMM, SYNTHETIC), help="a contender; may be repeated (all)"
    )
    parser.add_argument("--model", help="timm's name (convnext_atto, or the recipe's)")
    parser.add_argument("--size", type=positive, help="pixels a side, 32 or more (128, or the recipe's)")
    parser.add_argument("--batch", type=positive, default=128, help="images a step (128)")
    parser.add_argument("--steps", type=positive, default=20, help="timed steps a round (20)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of the model (auto)")
    parser.add_argument("--compile", action="store_true", help="compile all models with torch.compile")
    parser.add_argument("--interpolation", choices=("bicubic", "bilinear"), help="filter of crops (bicubic, or the recipe's)")
    parser.add_argument("--policy", help="RandAugment for ours and timm, such as rand-m9-mstd0.5-inc1 (none)")
    parser.add_argument("--loader", choices=("auto", "ffcv", "plain"), default="auto", help="jpegcurr's loader (auto)")
    parser.add_argument("--levers", action="store_true", help="measure the synthetic step with every lever too")
    arguments = parser.parse_args()
    if arguments.recipe is None:
        defaults = {"model": "convnext_atto", "size": 128, "interpolation": "bicubic"}
        for name, value in defaults.items():
            setattr(arguments, name, getattr(arguments, name) or value)
        if arguments.set:
            parser.error("--set changes a recipe: give --recipe")
        if arguments.size < 32:
            parser.error("--size is 32 or more")
    elif arguments.model or arguments.size or arguments.interpolation or arguments.policy:
        parser.error("with --recipe, the recipe has these: give --set model.name=..., image.size=..., and so on")
    if arguments.policy and not arguments.policy.startswith("rand-"):
        parser.error("--policy must be one that timm has too, such as rand-m9-mstd0.5-inc1")
    return arguments


def choose_options(arguments: Any) -> Options:
    """Return the options of the command line, completed by the recipe if there is one."""
    names = ("model", "size", "batch", "steps", "workers", "interpolation", "policy", "loader")
    options = {name: getattr(arguments, name) for name in names}
    if arguments.recipe is not None:
        recipe = recipe_on(load_recipe(arguments.recipe, arguments.set), Path("images.beton"), arguments.batch)
        first, image = recipe.curriculum[0], recipe.image
        recipe = recipe.model_copy(update={"augment": first.augment or recipe.augment})
        if recipe.model.name is None:
            raise SystemExit("--recipe: timm's loop needs a model of timm's, by model.name.")
        options |= {"model": recipe.model.name, "size": first.size or image.size, "interpolation": image.interpolation}
        options |= {"policy": recipe.augment.policy, "recipe": recipe}
    return Options(**options)


def main() -> None:
    """Measure all contenders, and the levers if requested, and print them."""
    arguments = parse()
    keep_freed_memory()  # as jpegcurr's commands do
    torch._dynamo.config.recompile_limit = 1000  # every round of ours compiles a new model
    try:
        options, measurements = choose_options(arguments), Measurements(arguments.lines)
        runtime = resolve_runtime(arguments.device, precision=arguments.precision, compile=arguments.compile)
        check_model(ModelSection(name=options.model), start=True)
        parse_section_policy(AugmentSection(policy=options.policy), options.interpolation)
        with TemporaryDirectory(prefix="bench-train-") as folder:
            data = make_data(arguments.folder, Path(folder), max(options.images, BATCHES * options.batch))
            contenders = open_contenders(data, options, runtime, arguments.only)
            laps = measure(contenders, arguments.runs, measurements=measurements)
        levers = {}
        if arguments.levers:
            contenders = open_levers(options, runtime, data.classes)
            levers = measure(contenders, arguments.runs, warm_up=False, measurements=measurements)
    except JpegcurrError as error:
        raise SystemExit(str(error)) from None
    flops = training_flops(create_model(ModelSection(name=options.model), data.classes), options.size)
    peak, target_rows = peak_flops(runtime.name, runtime.dtype), targets(laps, options, runtime)
    limit = SYNTHETIC if SYNTHETIC in laps else next(iter(laps))
    lines = [*table(laps, "images/s", limit, flops, peak), ""]
    for name, value, least in target_rows:
        wanted = f"   required: {least}{'' if value >= least else ', missed'}" if least else ""
        lines.append(f"{name:<38}{value:>8.2f}{wanted}")
    if levers:
        lines += ["", *table(levers, "images/s of the synthetic step", BASE, flops, peak)]
    counts = describe(options, runtime, arguments.runs)
    costs = f"{flops / 1e9:.2f} GFLOP an image" + (f", peak {peak / 1e12:.0f} TFLOP/s" if peak else "")
    versions = ", ".join(f"{name} {version}" for name, version in library_versions(LIBRARIES).items())
    print("\n".join([*lines, "", counts, costs, *(f"{name}: {value}" for name, value in circumstances().items()), versions]))
    metrics = {
        "counts": counts,
        "training_versions": versions,
        "gflop_per_image": round(flops / 1e9, 3),
        "peak_tflops": peak and peak / 1e12,
        "images_per_second": {name: round(median_rate(rounds), 1) for name, rounds in laps.items()},
        "data_wait": {name: round(median_wait(rounds), 4) for name, rounds in laps.items()},
        "mfu": {name: round(mfu(flops, median_rate(rounds), peak), 4) for name, rounds in laps.items()} if peak else None,
        "asked": {name: round(value, 3) for name, value, _ in target_rows},
        "levers": {name: round(median_rate(rounds), 1) for name, rounds in levers.items()},
    }
    record(arguments.json, "train", metrics)


if __name__ == "__main__":
    main()
