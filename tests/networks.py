"""Untrained networks, and random images for them."""

import timm
import torch

# The module of a network of one's own, ``nets.py:build``, which a command imports: its maps have 5x5 cells.
FACTORY = """import timm
import torch


def build():
    torch.manual_seed(0)
    model = timm.create_model("test_convnext", num_classes=7)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model
"""


def network(name: str = "test_convnext", **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model: torch.nn.Module = timm.create_model(name, num_classes=7, **options)
    for parameter in model.parameters():  # the initial layer scale of 1e-6 would hide the effect of the blocks
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def pictures(count: int = 2, side: int = 96) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
