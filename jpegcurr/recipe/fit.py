"""Values that a recipe may omit because they follow from the run: its rate, its warm-up and the speed of its average.

A resolved recipe states them, and a resumed run keeps those that it began with.
"""

from dataclasses import dataclass
from math import sqrt

LONGEST_WARMUP = 20  # epochs: ConvNeXt's for its 300
LONGEST_HALF_LIFE = 22.0  # epochs: ConvNeXt's decay of 0.9999 at 312 steps an epoch
_SHARE = 10  # warm-up and half-life are a tenth of the epochs


@dataclass(frozen=True, slots=True)
class KnownRate:
    """A peak rate that is known to work for batches of ``batch`` images; ``linear`` or by the root of the batch for others."""

    rate: float
    batch: int
    linear: bool = False

    def at(self, batch: int) -> float:
        """Return the equivalent rate for batches of ``batch`` images."""
        ratio = batch / self.batch
        return self.rate * (ratio if self.linear else sqrt(ratio))


# Adam's rate scales with the root of the batch (Malladi et al., "On the SDEs and scaling rules for adaptive gradient
# algorithms", 2022), as LAMB's does (You et al., 2020); that of SGD linearly (Goyal et al., 2017).
CONVNEXT_RATE = KnownRate(4e-3, 4096)
TUNING_RATE = KnownRate(1e-4, 64)  # of recipes/finetune.yaml: three times the published 5e-5 for 512, scaled
_LAMB_RATE = KnownRate(5e-3, 2048)  # Wightman et al., "ResNet strikes back", 2021
_SGD_RATE = KnownRate(0.1, 256, linear=True)
_SGD_TUNING_RATE = KnownRate(0.01, 256, linear=True)  # Kornblith et al., "Do better ImageNet models transfer better?", 2019


def fit_rate(optimizer: str, batch: int, trained: bool) -> float:
    """Return a peak rate for an ``optim.name`` and batches of ``batch`` images, to two digits.

    ``trained`` is whether the weights are trained already, in which case the rate is a fine-tuning one.
    """
    known = {
        "adamw": TUNING_RATE if trained else CONVNEXT_RATE,
        "lamb": _LAMB_RATE,
        "sgd": _SGD_TUNING_RATE if trained else _SGD_RATE,
        "nesterov": _SGD_TUNING_RATE if trained else _SGD_RATE,
    }
    return float(f"{known[optimizer].at(batch):.1e}")


def fit_warmup(epochs: int) -> int:
    """Return the length of the warm-up of a run of ``epochs``: a tenth, at least one epoch of several, at most ConvNeXt's."""
    return min(max(epochs // _SHARE, 1), LONGEST_WARMUP, epochs - 1)


def fit_half_life(epochs: int) -> float:
    """Return the half-life of the average of the weights, in epochs: a tenth of the run, at most ConvNeXt's.

    Counted in epochs it fits any number of images, and 0.1 % of the average are still initial weights when the run ends.
    """
    return min(epochs / _SHARE, LONGEST_HALF_LIFE)
