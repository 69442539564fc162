"""The images of a forward pass that fit into the memory of a GPU: what ``batch.per_device: auto`` stands for there.

More images at a time are faster, and the result is the same by definition: mixing is by chunks, which keep their images and
their draws, and a step is the sum of its micro-batches. Batch norm alone depends on what is computed together, so networks that
have it keep the usual number.
"""

import torch

from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.half_precision import HalfPrecisionForward

_SHARE = 0.8  # of the free memory: kernels differ in what they need beside their tensors
_COPIES = 3  # of the weights: what an optimiser and the average keep
_AUGMENTING = 64  # bytes a pixel and channel that augmentation needs, at most
_MEASURED = (8, 16)  # images: what a pass needs grows evenly with them


def fit_per_device(recipe: Recipe, runtime: Runtime, classes: int) -> tuple[Recipe, str | None]:
    """Return ``recipe`` with a number in place of ``batch.per_device: auto``, and a sentence on it; itself if it has a number.

    On a GPU, a model of random weights is trained on a few empty images, and the memory that takes is extrapolated.
    """
    if recipe.batch.per_device != "auto":
        return recipe, None
    ranks, usual = runtime.world.ranks, recipe.micro(runtime.world.ranks)
    fitted = usual
    if runtime.on_cpu:
        reason = "the usual number on a CPU"
    elif usual % recipe.mix.chunk and (recipe.mix.mixup or recipe.mix.cutmix):
        reason = "a chunk of mixing"
    else:
        model = runtime.place(create_model(recipe.model, classes, start=False)).train()
        if any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in model.modules()):
            reason = "the network has batch norm, whose statistics are those of a forward pass"
        else:
            free, (fixed, per_image) = _SHARE * runtime.free_memory(), _memory_of(model, recipe, runtime)
            while recipe.allows(2 * fitted, ranks) and fixed + 2 * fitted * per_image <= free:
                fitted *= 2
            reason = (
                f"{(fixed + fitted * per_image) / 1e9:.1f} of {free / _SHARE / 1e9:.1f} GB of the device's memory, by estimate"
            )
    fitted = min(int(other) for other in runtime.world.gather(torch.tensor(fitted)))
    batch = recipe.batch.model_copy(update={"per_device": fitted})
    return recipe.model_copy(update={"batch": batch}), f"batch.per_device: auto is {fitted} images ({reason})"


def _memory_of(model: torch.nn.Module, recipe: Recipe, runtime: Runtime) -> tuple[float, float]:
    """Return the bytes that training needs beside the model: whatever the number of images, and for each of them."""
    size = max(recipe.image.size, *(phase.size or 0 for phase in recipe.curriculum))
    forward = HalfPrecisionForward(model, runtime.dtype) if runtime.dtype != torch.float32 else model

    def train_on(count: int) -> None:
        images = torch.zeros(count, 3, size, size, device=runtime.device).contiguous(memory_format=torch.channels_last)
        with runtime.autocast():
            loss = forward(images).float().sum()
        loss.backward()
        model.zero_grad(set_to_none=True)

    few, more = (runtime.peak_memory(lambda count=count: train_on(count)) for count in _MEASURED)  # type: ignore[misc]
    per_image = (more - few) / (_MEASURED[1] - _MEASURED[0])
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return max(few - _MEASURED[0] * per_image, 0) + _COPIES * weights, per_image + _AUGMENTING * 3 * size**2
