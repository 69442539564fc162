"""The optimiser, from timm, and which of its parameters are decayed and how fast each may move."""

import re
from collections.abc import Iterable
from math import ceil
from typing import Any

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

from jpegcurr.recipe.schema import OptimSection

_TIMMS = {"adamw": "adamw", "sgd": "momentum", "nesterov": "nesterov", "lamb": "lamb"}  # timm's "sgd" is Nesterov's
_CONVNEXT = re.compile(r"stages\.(\d+)\.(?:blocks\.(\d+)\.|downsample\.)")


def create_optimizer(model: torch.nn.Module, optim: OptimSection) -> torch.optim.Optimizer:
    """One group for every pair of decay and layer scale. The rate is set at every step."""
    options: dict[str, Any] = {"momentum": optim.momentum if optim.momentum is not None else 0.9}
    if optim.name in ("adamw", "lamb"):
        options = {"betas": optim.betas or (0.9, 0.999), "eps": optim.eps or {"adamw": 1e-8, "lamb": 1e-6}[optim.name]}
    if optim.name == "lamb":
        options["max_grad_norm"] = None if optim.clip_grad is not None else 1.0  # clipped before it, if the recipe says so
    groups = parameter_groups(model, optim)
    return create_optimizer_v2(groups, _TIMMS[optim.name], lr=0.0, weight_decay=optim.weight_decay, **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group ``rate``, times its layer's scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def parameter_groups(model: torch.nn.Module, optim: OptimSection) -> list[dict[str, Any]]:
    """Groups of the parameters that learn: ``params``, ``names``, ``weight_decay`` and ``lr_scale``."""
    parameters = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    layers = layer_ids(model, [name for name, _ in parameters]) if optim.layer_decay else {}
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
    """Weights of convolutions and linear layers are; biases, norms, layer scale (``gamma``) and GRN, of any shape, are not."""
    return parameter.ndim > 1 and not name.endswith((".bias", "gamma")) and ".grn." not in name


def layer_ids(model: torch.nn.Module, names: Iterable[str]) -> dict[str, int]:
    """The layer of every parameter, the stem's being 0 and the head's the largest.

    For a ConvNeXt those of the authors (``optim_factory.get_num_layer_for_convnext``): the third stage counts one for every
    three blocks, each other stage one, the head one; that is 14 for S to XL (the third stage has 27 blocks), and 8 for T, which
    the authors refuse. For other models timm's, one for every block.
    """
    depths = [len(stage.blocks) for stage in getattr(model, "stages", []) if hasattr(stage, "blocks")]
    if len(depths) == 4 and hasattr(model, "stem"):
        return {name: _convnext_layer(name, 3 + ceil(depths[2] / 3)) for name in names}
    timms: Any = model
    grouped = group_parameters(model, timms.group_matcher(coarse=False), reverse=True)
    return {name: int(grouped[name]) for name in names}


def _convnext_layer(name: str, fourth: int) -> int:
    """``fourth`` is the layer of the fourth stage."""
    if name.startswith("stem."):
        return 0
    found = _CONVNEXT.match(name)
    if found is None:
        return fourth + 1
    stage, block = int(found[1]), int(found[2] or 0)
    return (1, 2, 3 + block // 3, fourth)[stage]
