"""Training on the pretended GPU: its runtime, the names of the phases of a step, and one step of a network of full size."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import timm
import torch
from pretend.backend import NAME
from pretend.costs import Operation
from pretend.device import PretendedGpu, Wait
from timm.utils import ModelEmaV3

from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training import loop, train
from jpegcurr.training.augment import augment
from jpegcurr.training.curriculum import plan_epochs
from jpegcurr.training.data.sampling import Batch
from jpegcurr.training.flops import Utilisation
from jpegcurr.training.loss import recipe_loss
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.half_precision import prepare_for_training
from jpegcurr.training.models.normalisation import normaliser
from jpegcurr.training.optim import create_optimizer
from jpegcurr.training.state import EpochProgress, TrainState

# What is named, and the name: within a step, the functions that a step consists of.
_PHASES = (
    (Runtime, "upload", "upload"),
    (loop, "backward", "step"),
    (loop, "update", "update"),
    (train, "score", "evaluation"),
)
_WITHIN_STEP = (
    (augment, "augment", "policy"),
    (augment, "erase", "erase"),
    (augment, "mix", "mix"),
    (augment, "soft_targets", "mix"),
    (Normaliser, "forward", "normalise"),
    (timm.models.convnext.ConvNeXt, "forward", "forward"),
    (torch.Tensor, "backward", "backward"),
)
_WITHIN_UPDATE = ((torch.optim.AdamW, "step", "optimizer"), (ModelEmaV3, "update", "ema"))
IN_STEP = frozenset(["upload", "step", "update", *(phase for *_, phase in (*_WITHIN_STEP, *_WITHIN_UPDATE))])


def pretended_runtime(dtype: torch.dtype = torch.float32) -> Runtime:
    """Return the runtime of the pretended GPU, not compiled."""
    return Runtime(torch.device(NAME, 0), dtype, "a pretended GPU")


@contextmanager
def pretended_gpu(*, values: bool = True) -> Iterator[PretendedGpu]:
    """Enter a pretended GPU that knows the phases of training by name."""
    with PretendedGpu(values=values) as gpu:
        for owner, attribute, phase in _PHASES:
            gpu.name(owner, attribute, phase)
        for owner, attribute, phase in _WITHIN_STEP:
            gpu.name(owner, attribute, phase, within="step")
        for owner, attribute, phase in _WITHIN_UPDATE:
            gpu.name(owner, attribute, phase, within="update")
        yield gpu


def waits_in_steps(gpu: PretendedGpu) -> list[Wait]:
    """Return the waits within steps, but for the tables that are uploaded once in a process."""
    once = "jpegcurr/training/augment/erasing.py"  # the table of normal numbers
    return [wait for wait in gpu.waits if wait.phase in IN_STEP and not wait.place.startswith(once)]


def full_size_step(micro: int, size: int = 224, model: str = "convnext_tiny") -> tuple[PretendedGpu, list[Operation]]:
    """Return the operations of the second step of a run in bfloat16, one micro-batch a step: shapes alone."""
    recipe = Recipe.model_validate(
        {
            "model": {"name": model, "drop_path": 0.1},
            "data": {"clean": {"train": "x.beton", "quality": "source"}},
            "curriculum": [{"data": "clean", "until_epoch": 2}],
            "image": {"size": size},
            "schedule": {"warmup_epochs": 1},
            "augment": {"policy": "rand-m9-mstd0.5-inc1", "erase": 0.25},
            "mix": {"mixup": 0.8, "cutmix": 1.0},
            "batch": {"size": micro, "per_device": micro},
        }
    )
    marks: list[int] = []
    with pretended_gpu(values=False) as gpu:
        runtime = pretended_runtime(torch.bfloat16)
        net = runtime.place(create_model(recipe.model, 1000))
        normalise = normaliser(net, recipe.image).to(runtime.device)
        state = TrainState(
            recipe,
            runtime,
            1000,
            images=2 * micro,
            model=net,
            prepared=prepare_for_training(net, runtime),
            augment=augment.Augment(recipe, 1000, normalise),
            loss_of=recipe_loss(recipe),
            ema=ModelEmaV3(net),
            optimizer=create_optimizer(net, recipe.optim),
            scaler=runtime.scaler(),
            utilisation=Utilisation(net, None),
        )
        loader, plan = _MadeLoader(runtime, micro, size), plan_epochs(recipe)[0]
        progress = EpochProgress.at_start(0, runtime)
        loop.train_epoch(state, loader, plan, progress, lambda _info: marks.append(len(gpu.operations)))
    return gpu, gpu.operations[marks[0] : marks[1]]


def launches(operations: list[Operation]) -> Counter[str]:
    """Return the number of launches of each phase."""
    counts = Counter[str]()
    for operation in operations:
        counts[operation.phase] += operation.launches
    return counts


class _MadeLoader:
    """Two batches of images that nobody decoded."""

    replaced = 0

    def __init__(self, runtime: Runtime, micro: int, size: int) -> None:
        self._runtime, self._micro, self._size = runtime, micro, size

    def __len__(self) -> int:
        return 2

    def at(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        order = np.random.default_rng(epoch).permutation(1281167)[: 2 * self._micro].reshape(2, self._micro)
        for position, numbers in enumerate(order[first:], start=first):
            images = self._runtime.memory(self._micro, self._size, self._size, 3).permute(0, 3, 1, 2)
            labels = torch.from_numpy(numbers % 1000)
            yield Batch(self._runtime.upload(images), self._runtime.upload(labels), numbers, epoch, position, None)
