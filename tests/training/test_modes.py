"""Evaluation leaves every part of a network in the mode that it was in."""

import numpy as np
import pytest
import torch
from torch import nn

from jpegcurr.runtime import Runtime
from jpegcurr.training.data.sampling import Batch
from jpegcurr.training.metrics import Normaliser, evaluate_batches

BATCH = Batch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), np.array([0, 1]), 0, 0)


class Merging(nn.Linear):
    """A layer with a state that follows its mode, as adapters have that merge their weights for evaluation."""

    merged = False

    def train(self, mode: bool = True) -> "Merging":
        """Set the mode and the state."""
        self.merged = not mode
        return super().train(mode)


class Wrapper(nn.Module):
    """Another network around the same parts."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the inner network's output."""
        return self.inner(images)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), Merging(48, 2), nn.Dropout())


@pytest.mark.parametrize("modes", [(False,) * 5, (True, True, False, True, True), (False, False, False, True, False)])
@pytest.mark.parametrize("fails", [False, True])
def test_every_part_is_in_its_own_mode_again(modes: tuple[bool, ...], fails: bool, cpu: Runtime) -> None:
    model, normalise = network(), Normaliser((0.5,) * 3, (0.5,) * 3)
    wrapper = Wrapper(model)  # in training mode, as new modules are
    for part, mode in zip(model.modules(), modes, strict=True):
        part.training = mode
    batches = evaluate_batches([(model, normalise), (wrapper, normalise)], [BATCH, BATCH], cpu)
    next(batches)
    assert not any(part.training for part in wrapper.modules())
    assert model[2].merged
    if fails:
        batches.close()
    else:
        assert len(list(batches)) == 1
    assert tuple(part.training for part in model.modules()) == modes
    assert wrapper.training
    assert not model[2].merged, "the wrapper is in training mode again"
