"""What a study costs and what it could find, before anyone spends a GPU-hour on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace
from itertools import count
from time import perf_counter
from typing import Any

import torch

from jpegcurr.encoding.beton.manifest import read_manifest
from jpegcurr.recipe.schema import Recipe, split_on_the_fly
from jpegcurr.runtime import Runtime
from jpegcurr.study.compare import WORTH_FINDING
from jpegcurr.study.config import Study
from jpegcurr.study.power import level_of, of_differences, seeds_needed, smallest_detectable
from jpegcurr.study.tasks import Task
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.datasets import count_images
from jpegcurr.training.loss import soft_targets
from jpegcurr.training.models.create import create_model
from jpegcurr.training.optim import create_optimizer

STEPS, SECONDS = 3, 3.0  # at least so many, and for so long
ON_CPU = 8 * 224**2  # pixels of a step on a CPU: larger ones are not faster there


def measure_speed(recipe: Recipe, classes: int, runtime: Runtime) -> float:
    """Images that a step of the model trains a second on this device at ``image.size``; reading and augmenting not counted."""
    images = recipe.micro()
    if runtime.device.type == "cpu":
        images = min(images, max(1, ON_CPU // recipe.image.size**2))
    model = runtime.place(create_model(recipe.model, classes, start=False)).train()
    prepared, optimizer = runtime.prepare(model), create_optimizer(model, recipe.optim)
    seen = torch.rand(images, 3, recipe.image.size, recipe.image.size, device=runtime.device)
    seen = seen.to(memory_format=torch.channels_last)
    targets = soft_targets(torch.zeros(images, dtype=torch.int64, device=runtime.device), classes, 0.1)

    def step() -> None:
        with runtime.autocast():
            loss = torch.nn.functional.cross_entropy(prepared(seen), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # waits for the device

    step()  # compiles, and chooses kernels
    started = perf_counter()
    for steps in count(1):
        step()
        if steps >= STEPS and perf_counter() - started >= SECONDS:
            return steps * images / (perf_counter() - started)
    raise AssertionError  # count has no end


FORWARD = 1 / 3  # of what training an image costs, a forward pass and a backward one of twice its work, is looking at it
DEVICES = (1, 8)


@dataclass(frozen=True, slots=True)
class Work:
    """What a task has to do: ``trained`` images, weighted by their size against ``image.size``, and ``seen`` ones, of val."""

    task: Task
    epochs: int
    images: int
    trained: float
    seen: int

    @property
    def cost(self) -> float:
        """In trained images of ``image.size``."""
        return self.trained + FORWARD * self.seen


@dataclass(frozen=True, slots=True)
class StudyCost:
    """A study's size, its hours, and its power.

    Attributes:
        arms, seeds, runs: how many.
        epochs, images: to train, shared ones counted once; ``apart`` is the epochs without a fork.
        seen: validation images to put through a model, raw and averaged weights.
        speed: images trained a second by one device, and ``speed_from`` where that is from.
        hours: by number of devices, one run on each at a time.
        spread: of top-1 over the seeds of one arm, points; ``detectable`` at 80 % power with these seeds, for a single
            comparison and after Holm's correction (None: one seed); ``seeds_wanted`` for 0.2 points, likewise.
    """

    arms: int
    seeds: int
    runs: int
    epochs: int
    apart: int
    images: int
    seen: int
    speed: float
    speed_from: str
    hours: dict[int, float]
    spread: float
    spread_from: str
    comparisons: int
    detectable: tuple[float, float] | None
    seeds_wanted: tuple[int | None, int | None]

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "worth_finding": WORTH_FINDING}


def estimate_study(
    study: Study, tasks: Sequence[Task], *, speed: float, speed_from: str, spread: float, spread_from: str
) -> StudyCost:
    """Count ``tasks`` up, at ``speed`` images a second and device; nothing is read but manifests."""
    works = count_work(study, tasks)
    seeds, level = len(study.seeds), level_of(study.comparisons)
    differences = of_differences(spread)
    levels = (level_of(1), level)
    return StudyCost(
        arms=len(study.arms),
        seeds=seeds,
        runs=sum(each.task.arm is not None for each in works),
        epochs=sum(each.epochs for each in works),
        apart=sum(each.task.last for each in works if each.task.arm),
        images=sum(each.images for each in works),
        seen=sum(each.seen for each in works),
        speed=speed,
        speed_from=speed_from,
        hours={devices: makespan(works, devices) / speed / 3600 for devices in DEVICES},
        spread=spread,
        spread_from=spread_from,
        comparisons=study.comparisons,
        detectable=_detectable(differences, seeds, levels) if seeds > 1 else None,
        seeds_wanted=(
            seeds_needed(WORTH_FINDING, differences, level=levels[0]),
            seeds_needed(WORTH_FINDING, differences, level=levels[1]),
        ),
    )


def measured_speed(study: Study, runtime: Runtime) -> tuple[float, str]:
    """Images a second that the control's model trains on this device, and a sentence about it."""
    recipe = study.recipes[study.plan.control]
    path, _ = split_on_the_fly(recipe.data[recipe.training_sets[0]].train)
    manifest = read_manifest(path) if path.is_file() else None
    speed = measure_speed(recipe, len(manifest.classes) if manifest else 1000, runtime)
    return speed, f"measured: {recipe.model.name} at {recipe.image.size} pixels, {runtime.reason}"


def _detectable(spread: float, seeds: int, levels: tuple[float, float]) -> tuple[float, float]:
    return smallest_detectable(spread, seeds, level=levels[0]), smallest_detectable(spread, seeds, level=levels[1])


def count_work(study: Study, tasks: Sequence[Task]) -> list[Work]:
    """What each task has to do, from the beginning."""
    images = {arm: count_images(recipe) for arm, recipe in study.recipes.items()}
    measured = _images_seen([split_on_the_fly(used)[0] for used in study.evaluate.values()])
    works = []
    for task in tasks:
        recipe = task.recipe(study)
        plans = plan_epochs(recipe)[task.first : task.last]
        counts = [images[task.trained_as] // plan.batch * plan.batch for plan in plans]
        trained = sum(
            count * ((plan.size or recipe.image.size) / recipe.image.size) ** 2
            for count, plan in zip(counts, plans, strict=True)
        )
        seen = len(plans) * _seen_an_epoch(recipe) + (measured if task.arm else 0)
        works.append(Work(task, len(plans), sum(counts), trained, 2 * seen))
    return works


def _seen_an_epoch(recipe: Recipe) -> int:
    return _images_seen([split_on_the_fly(val)[0] for name in recipe.evaluate if (val := recipe.data[name].val) is not None])


def _images_seen(paths: Sequence[Any]) -> int:
    """Of all sets together; a file that is not there yet is taken to be as large as the others."""
    known = [manifest.images for path in paths if path.is_file() and (manifest := read_manifest(path))]
    return round(sum(known) / len(known) * len(paths)) if known else 0


def makespan(works: Sequence[Work], devices: int) -> float:
    """The cost until the last task ends, where each free device takes the first that waits for nothing: trunks hold up arms."""
    free, ends = [0.0] * devices, dict[str, float]()
    heapify(free)
    waiting = list(works)
    names = {work.task.name for work in works}
    while waiting:
        now = free[0]
        ready = [each for each in waiting if each.task.after not in names or ends.get(str(each.task.after), now + 1) <= now]
        if not ready:  # this device waits until a trunk ends
            heapreplace(free, min(end for end in ends.values() if end > now))
            continue
        waiting.remove(ready[0])
        ends[ready[0].task.name] = now + ready[0].cost
        heapreplace(free, now + ready[0].cost)
    return max(ends.values(), default=0.0)
