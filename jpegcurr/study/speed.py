"""How fast a recipe's model trains here: a few steps on made-up images."""

from itertools import count
from time import perf_counter

import torch

from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.mixup import soft_targets
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
