"""The optimiser, from timm: its parameter groups, with weight decay and a scale of the rate by layer, and its scheduler."""

import re
from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from math import ceil
from typing import Any, Literal

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2
from torch.optim.lr_scheduler import LambdaLR

from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import OptimSection, Recipe
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.schedule import learning_rate

Numbering = Literal["authors", "contiguous"]

_TIMM_NAMES = {"adamw": "adamw", "sgd": "momentum", "nesterov": "nesterov", "lamb": "lamb"}  # timm's "sgd" is Nesterov's
_AUTHORS_FOURTH = 12  # the layer of ConvNeXt's fourth stage in its authors' code
_CONVNEXT = re.compile(r"stages\.(\d+)\.(?:blocks\.(\d+)\.|downsample\.)")


def create_optimizer(model: torch.nn.Module, optim: OptimSection) -> torch.optim.Optimizer:
    """Create the optimiser, with a group for every pair of weight decay and layer scale. Its rate is 0 until a step sets it."""
    options: dict[str, Any] = {"momentum": optim.momentum if optim.momentum is not None else 0.9}
    if optim.name in ("adamw", "lamb"):
        options = {"betas": optim.betas or (0.9, 0.999), "eps": optim.eps or {"adamw": 1e-8, "lamb": 1e-6}[optim.name]}
    if optim.name == "lamb":
        options["max_grad_norm"] = (
            None if optim.clip_grad is not None else 1.0
        )  # with clip_grad, gradients are clipped beforehand
    groups = parameter_groups(model, optim)
    return create_optimizer_v2(groups, _TIMM_NAMES[optim.name], lr=0.0, weight_decay=optim.weight_decay, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of every parameter group to ``rate`` times its layer's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def create_schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, images: int) -> LambdaLR:
    """Return the learning rates of ``recipe`` on ``images`` training images as a scheduler of torch's, called at every step.

    ``optimizer`` is that of ``create_optimizer``. After the last step of the recipe the rate stays.

    Raises:
        RecipeError: an epoch would have no step.
    """
    plans = plan_epochs(recipe)
    if any(plan.batch > images for plan in plans):
        raise RecipeError(
            f"batch.size: steps of {max(plan.batch for plan in plans)} images cannot be taken from {images} images."
        )
    ends = list(accumulate(images // plan.batch for plan in plans))

    def rate(step: int) -> float:
        step = min(step, ends[-1] - 1)
        plan = plans[bisect_right(ends, step)]
        steps = images // plan.batch
        return learning_rate(recipe.schedule, plan, step - (ends[plan.epoch] - steps), steps)

    set_learning_rate(optimizer, 1.0)  # what the scheduler multiplies
    return LambdaLR(optimizer, rate)


def parameter_groups(model: torch.nn.Module, optim: OptimSection) -> list[dict[str, Any]]:
    """Return groups of the parameters that are trained: ``params``, ``names``, ``weight_decay`` and ``lr_scale``."""
    parameters = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    layers = layer_ids(model, [name for name, _ in parameters], optim.layer_ids) if optim.layer_decay else {}
    last = max(layers.values(), default=0)
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in parameters:
        decayed, layer = optim.decay_all or is_decayed(name, parameter), layers.get(name, last)
        group = groups.setdefault(
            (decayed, layer),
            {
                "params": [],
                "names": [],
                "weight_decay": optim.weight_decay if decayed else 0.0,
                "lr_scale": (optim.layer_decay or 1.0) ** (last - layer),
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Return whether weight decay applies to a parameter: not to biases, norms, layer scale (``gamma``) and GRN."""
    return parameter.ndim > 1 and not name.endswith((".bias", "gamma")) and ".grn." not in name


def layer_ids(model: torch.nn.Module, names: Iterable[str], numbering: Numbering = "authors") -> dict[str, int]:
    """Return the layer number of every parameter: 0 for the stem, and the largest for the head.

    A ConvNeXt's layers are counted as by its authors (``optim_factory.get_num_layer_for_convnext``): one for every three blocks
    of the third stage, one for every other stage, one for the head. The fourth stage is 12 whatever the depth: S to XL, whose
    third stage has 27 blocks, have all of 0 to 13; T, with 9, has none of 6 to 11. The authors' program refuses T, whose
    published fine-tuning has a layer decay nevertheless. ``contiguous`` leaves no number out, which is 8 layers for T. Other
    models have timm's layers, one for every block.
    """
    depths = [len(stage.blocks) for stage in getattr(model, "stages", []) if hasattr(stage, "blocks")]
    if len(depths) == 4 and hasattr(model, "stem"):
        fourth = _AUTHORS_FOURTH if numbering == "authors" else 3 + ceil(depths[2] / 3)
        return {name: _convnext_layer(name, fourth) for name in names}
    timm_model: Any = model
    if not hasattr(model, "group_matcher"):
        raise RecipeError(
            "optim.layer_decay: the network does not say in which order its layers are (it has no group_matcher, as "
            "timm's models do). Add one, or omit layer_decay."
        )
    grouped = group_parameters(model, timm_model.group_matcher(coarse=False), reverse=True)
    return {name: int(grouped[name]) for name in names}


def _convnext_layer(name: str, fourth: int) -> int:
    """Return a parameter's layer number; ``fourth`` is that of the fourth stage."""
    if name.startswith("stem."):
        return 0
    match = _CONVNEXT.match(name)
    if match is None:
        return fourth + 1
    stage, block = int(match[1]), int(match[2] or 0)
    return (1, 2, 3 + block // 3, fourth)[stage]
