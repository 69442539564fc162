"""The optimiser, from timm."""

import torch
from timm.optim import create_optimizer_v2

from jpegcurr.recipe import OptimSection


def create_optimizer(model: torch.nn.Module, optim: OptimSection) -> torch.optim.Optimizer:
    """AdamW in two groups: one-dimensional parameters and biases are not decayed. The rate is set at every step."""
    return create_optimizer_v2(model, "adamw", lr=0.0, weight_decay=optim.weight_decay, betas=optim.betas, eps=optim.eps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group ``rate``."""
    for group in optimizer.param_groups:
        group["lr"] = rate
