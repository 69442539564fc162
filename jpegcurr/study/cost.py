"""The cost of a study, and the smallest difference it could find, estimated before anything is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from jpegcurr.encoding.beton.manifest import read_manifest
from jpegcurr.files import json_values
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import split_on_the_fly
from jpegcurr.runtime import Runtime
from jpegcurr.study.compare import TARGET_DIFFERENCE
from jpegcurr.study.config import Study
from jpegcurr.study.power import corrected_level, difference_spread, seeds_needed, smallest_detectable
from jpegcurr.study.tasks import Task
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import count_images
from jpegcurr.training.loss import soft_targets
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.half_precision import prepare_for_training
from jpegcurr.training.optim import create_optimizer

DEVICES = (1, 8)
FORWARD_COST = 1 / 3  # of a training step, whose backward pass does twice the work of its forward pass
MIN_STEPS, MIN_SECONDS = 3, 3.0  # of the measurement of speed
CPU_PIXELS = 8 * 224**2  # of a measured step on a CPU, where larger steps are not faster


@dataclass(frozen=True, slots=True)
class StudyCost:
    """The size, the hours and the power of a study.

    Attributes:
        arms, seeds, runs: their numbers.
        epochs, images: to train, those of trunks counted once per seed.
        apart: the epochs that the same runs would take without a fork.
        val_images: validation images to evaluate, once for every kind of weights (``Recipe.weights``); 0 if unknown.
        speed: images that one device trains per second; ``speed_from`` says where the number is from.
        hours: by number of devices, with one run at a time on each.
        spread: standard deviation of top-1 over the seeds of one arm, in points; ``spread_from`` says where it is from.
        comparisons: the number of arms that are compared with the control.
        detectable: the difference that these seeds find with 80 % power, for a single comparison and after Holm's correction;
            None for one seed.
        seeds_wanted: the number of seeds that 0.2 points would take, likewise; None for more than a million.
    """

    arms: int
    seeds: int
    runs: int
    epochs: int
    apart: int
    images: int
    val_images: int
    speed: float
    speed_from: str
    hours: dict[int, float]
    spread: float
    spread_from: str
    comparisons: int
    detectable: tuple[float, float] | None
    seeds_wanted: tuple[int | None, int | None]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        names = {"val_images": "seen"}  # the key of earlier versions
        plain = {names.get(name, name): getattr(self, name) for name in self.__slots__}
        values: dict[str, Any] = json_values({**plain, "worth_finding": TARGET_DIFFERENCE})
        return values


def estimate_study(
    study: Study,
    tasks: Sequence[Task],
    *,
    speed: float,
    speed_from: str,
    spread: float,
    spread_from: str,
    images: int | None = None,
    val_images: int | None = None,
) -> StudyCost:
    """Add up the cost of ``tasks`` at ``speed`` images per second and device, and compute the power; read manifests alone.

    ``images`` and ``val_images`` are the numbers of images in a training and in a validation set, where none is encoded yet.
    """
    works = count_work(study, tasks, images, val_images)
    seeds = len(study.seeds)
    differences = difference_spread(spread)
    levels = (corrected_level(1), corrected_level(study.comparisons))
    return StudyCost(
        arms=len(study.arms),
        seeds=seeds,
        runs=sum(work.task.arm is not None for work in works),
        epochs=sum(work.epochs for work in works),
        apart=sum(work.task.last for work in works if work.task.arm),
        images=sum(work.images for work in works),
        val_images=sum(work.val_images for work in works),
        speed=speed,
        speed_from=speed_from,
        hours={devices: compute_makespan(works, devices) / speed / 3600 for devices in DEVICES},
        spread=spread,
        spread_from=spread_from,
        comparisons=study.comparisons,
        detectable=_detectable(differences, seeds, levels) if seeds > 1 else None,
        seeds_wanted=(
            seeds_needed(TARGET_DIFFERENCE, differences, level=levels[0]),
            seeds_needed(TARGET_DIFFERENCE, differences, level=levels[1]),
        ),
    )


def _detectable(spread: float, seeds: int, levels: tuple[float, float]) -> tuple[float, float]:
    return smallest_detectable(spread, seeds, level=levels[0]), smallest_detectable(spread, seeds, level=levels[1])


@dataclass(frozen=True, slots=True)
class Work:
    """The work of a task.

    Attributes:
        epochs, images: to train.
        weighted: the same images, each weighted by its pixels relative to ``image.size``.
        val_images: to evaluate.
    """

    task: Task
    epochs: int
    images: int
    weighted: float
    val_images: int

    @property
    def cost(self) -> float:
        """The cost in trained images of ``image.size``."""
        return self.weighted + FORWARD_COST * self.val_images


def count_work(study: Study, tasks: Sequence[Task], planned: int | None = None, planned_val: int | None = None) -> list[Work]:
    """Return the work of each task from its beginning; ``planned`` are images of a training and a validation set."""
    images = {arm: count_images(recipe, planned) for arm, recipe in study.recipes.items()}
    matrix = _count_val_images([split_on_the_fly(source)[0] for source in study.evaluate.values()], planned_val)
    works = []
    for task in tasks:
        recipe = task.recipe(study)
        plans = plan_epochs(recipe)[task.first : task.last]
        counts = [images[task.trained_as] // plan.batch * plan.batch for plan in plans]
        weighted = sum(
            images_of_epoch * ((plan.size or recipe.image.size) / recipe.image.size) ** 2
            for images_of_epoch, plan in zip(counts, plans, strict=True)
        )
        val_images = len(plans) * _val_images_per_epoch(recipe, planned_val) + (matrix if task.arm else 0)
        works.append(Work(task, len(plans), sum(counts), weighted, len(recipe.weights) * val_images))
    return works


def _val_images_per_epoch(recipe: Recipe, planned: int | None) -> int:
    paths = [split_on_the_fly(val)[0] for name in recipe.evaluate if (val := recipe.data[name].val) is not None]
    return _count_val_images(paths, planned)


def _count_val_images(paths: Sequence[Path], planned: int | None) -> int:
    """Return the number of images in all files: the ``planned`` one, or a missing file counts as the mean of the others."""
    if planned is not None:
        return planned * len(paths)
    sizes = [manifest.images for path in paths if path.is_file() and (manifest := read_manifest(path))]
    return round(sum(sizes) / len(sizes) * len(paths)) if sizes else 0


def compute_makespan(works: Sequence[Work], devices: int) -> float:
    """Return the cost until the last task ends, if each free device takes the first task whose trunk is done."""
    free, ends = [0.0] * devices, dict[str, float]()
    heapify(free)
    waiting = list(works)
    names = {work.task.name for work in works}
    while waiting:
        now = free[0]
        ready = [work for work in waiting if work.task.after not in names or ends.get(str(work.task.after), now + 1) <= now]
        if not ready:  # this device waits until a trunk ends
            heapreplace(free, min(end for end in ends.values() if end > now))
            continue
        waiting.remove(ready[0])
        ends[ready[0].task.name] = now + ready[0].cost
        heapreplace(free, now + ready[0].cost)
    return max(ends.values(), default=0.0)


def measure_control_speed(study: Study, runtime: Runtime) -> tuple[float, str]:
    """Return the images that the control's model trains per second on this device, and a description of the measurement."""
    recipe = study.recipes[study.config.control]
    path, _ = split_on_the_fly(recipe.data[recipe.training_sets[0]].train)
    manifest = read_manifest(path) if path.is_file() else None
    outputs = recipe.targets.outputs if recipe.targets else None
    speed = measure_speed(recipe, len(outputs or (manifest.classes if manifest else range(1000))), runtime)
    return speed, f"measured: {recipe.model.name} at {recipe.image.size} pixels, {runtime.reason}"


def measure_speed(recipe: Recipe, classes: int, runtime: Runtime) -> float:
    """Return the images of ``image.size`` that steps of the model train per second, without loading and augmentation."""
    images = recipe.micro()
    if runtime.device.type == "cpu":
        images = min(images, max(1, CPU_PIXELS // recipe.image.size**2))
    model = runtime.place(create_model(recipe.model, classes, start=False)).train()
    prepared, optimizer = prepare_for_training(model, runtime), create_optimizer(model, recipe.optim)
    inputs = torch.rand(images, 3, recipe.image.size, recipe.image.size, device=runtime.device)
    inputs = inputs.to(memory_format=torch.channels_last)
    targets = soft_targets(torch.zeros(images, dtype=torch.int64, device=runtime.device), classes, 0.1)

    def step() -> None:
        with runtime.autocast():
            loss = torch.nn.functional.cross_entropy(prepared(inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device

    step()  # compiles, and chooses kernels
    started = perf_counter()
    for steps in count(1):
        step()
        if steps >= MIN_STEPS and perf_counter() - started >= MIN_SECONDS:
            return steps * images / (perf_counter() - started)
    raise AssertionError  # count has no end
