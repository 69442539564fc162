"""Loops of one's own over the public API, and the examples of ``recipes/own_loop``."""

import logging
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from samples import LOADERS, tiny_recipe, write_beton, image
from torch.nn.functional import cross_entropy

import jpegcurr
from jpegcurr.errors import BetonError, UsageError
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.iteration import TrainLoader
from jpegcurr.training.train import train

EXAMPLES = Path(__file__).parent.parent / "recipes" / "own_loop"
# Everything between the loader and the model that a recipe may ask for.
WHOLE = (
    "augment={policy: rand-m9-mstd0.5-inc1, erase: 0.25}",
    "curriculum.1.augment={color_jitter: 0.4}",
    "curriculum.1.batch=24",
    "mix={mixup: 0.8, cutmix: 1.0, chunk: 4}",
    "optim.loss=bce",
    "optim.bce_threshold=0.2",
    "evaluate=[]",
)


class _Killed(BaseException):
    pass


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def files(betons: Path) -> dict[int, str]:
    return {0: str(betons / "train-source.beton"), 1: str(betons / "train-q50.beton")}


def own_loop(recipe: Recipe, runtime: Runtime) -> torch.nn.Module:
    """Train as the README's section "From Python" does."""
    loaders = jpegcurr.open_loaders(recipe, runtime=runtime)
    torch.manual_seed(recipe.seed)
    model = runtime.place(jpegcurr.create_model(recipe.model, len(loaders.classes)))
    augment, loss_of = jpegcurr.Augment.from_recipe(recipe), jpegcurr.recipe_loss(recipe)
    optimizer = jpegcurr.create_optimizer(model, recipe.optim)
    schedule = jpegcurr.create_schedule(optimizer, recipe, loaders.train.images)
    model.train()
    for epoch in range(recipe.epochs):
        loaders.train.set_epoch(epoch)
        micro_batches = loaders.train.batches_per_step
        for number, batch in enumerate(loaders.train, 1):
            inputs, targets = augment(batch)
            (loss_of(model(inputs), targets) / micro_batches).backward()
            if number % micro_batches == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return model


def test_a_loop_of_ones_own_ends_in_the_weights_of_train_bit_for_bit(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    recipe = tiny_recipe(betons, tmp_path, *WHOLE)
    train(recipe, "run", runtime=cpu)
    assert same(own_loop(recipe, cpu).state_dict(), load_file("run/model.safetensors"))
