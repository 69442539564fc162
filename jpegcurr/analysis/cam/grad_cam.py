"""What a layer gives and what the logit's gradient is there, for about the price of a forward pass; and Grad-CAM of it.

Up to the layer nothing is kept for a backward pass; from the layer on, gradients are taken of its output alone, not of the
weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from jpegcurr.analysis.layers import Layout, find_layer, read_layout, stages, stages_sentence, unwrapped
from jpegcurr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Captured:
    """One pass: ``activations`` and ``gradients`` of the layer [b c h w] in the model's precision, ``logits`` [b classes].

    ``targets``, int64 [b], are the classes whose logits the gradients are of.
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor


def grad_cam(
    model: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Raw Grad-CAM (Selvaraju et al. 2017): ReLU of the activations weighted by their mean gradients.

    Takes ``capture``'s arguments and raises what it raises.

    Returns:
        The maps [b h w] on the layer's own grid and the logits [b classes], float32.
    """
    found = capture(model, layer, images, targets)
    weights = found.gradients.float().mean(dim=(2, 3), keepdim=True)
    return (weights * found.activations.float()).sum(dim=1).relu(), found.logits.float()


def capture(model: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor | None = None) -> Captured:
    """Run the model once and differentiate what comes after ``layer``.

    It is in evaluation mode for the call and left as it was found, whatever happens. A compiled model is run as it was
    before; the gradient mode, inference mode and autocast of the caller make no difference beyond autocast's precision.

    Args:
        model: any network of which ``layer`` is a part that is called once. Its weights may be frozen, in half precision,
            or made in inference mode (such weights are copied for the call).
        layer: its name in ``model.named_modules()``.
        images: normalised, float [b 3 s s], square.
        targets: the class of each image, int64 [b]; the likeliest where None.

    Raises:
        UsageError: ``model`` has no such layer, or no map can be made of it.
    """
    model = unwrapped(model)
    module = find_layer(model, layer)
    kept: list[torch.Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: object) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise UsageError(f"--layer {layer} gives a {type(output).__name__}, no tensor. {stages_sentence(model)}")
        kept.append(output.detach().requires_grad_(True))
        torch.set_grad_enabled(True)  # until the end of no_grad below
        return kept[-1].clone()  # what comes next may work in place, as a ResNet's addition does

    handle = module.register_forward_hook(cut)
    try:
        with held_still(model), torch.inference_mode(False), torch.no_grad():
            logits = run(model, images)
            if len(kept) != 1:
                raise UsageError(f"--layer {layer} is called {len(kept)} times in one pass. {stages_sentence(model)}")
            layout = read_layout(model, layer, kept[0].shape, images.shape)
            chosen = (logits.argmax(dim=1) if targets is None else targets).detach()
            gradients = _gradients(logits.gather(1, chosen[:, None]).sum(), kept[0])
    finally:
        handle.remove()
    if gradients is None or _is_unread(layout, gradients):
        raise UsageError(_unread_sentence(layer, layout, model))
    return Captured(layout.nchw(kept[0].detach()), layout.nchw(gradients), logits.detach(), chosen)


@contextmanager
def held_still(model: nn.Module) -> Iterator[None]:
    """Have a model evaluate, learn nothing and run uncompiled; afterwards every part of it is as it was."""
    training = [part for part in model.modules() if part.training]
    learning = [each for each in model.parameters() if each.requires_grad and not each.is_inference()]
    try:
        for part in training:
            part.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True


def run(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The logits of ``images``, in the model's precision, with nothing that was made in inference mode.

    Such tensors cannot be kept for a backward pass, so they are copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    dtype = next((each.dtype for each in tensors if each.is_floating_point()), images.dtype)
    images = images.detach().to(dtype)
    images = images.clone() if images.is_inference() else images
    copies: dict[str, torch.Tensor] = {}
    if any(each.is_inference() for each in tensors):
        named = [*model.named_parameters(), *model.named_buffers()]
        copies = {name: each.detach().clone() for name, each in named if each.is_inference()}
    logits: torch.Tensor = functional_call(model, copies, (images,)) if copies else model(images)
    return logits


def _gradients(score: torch.Tensor, activations: torch.Tensor) -> torch.Tensor | None:
    """None where the score does not depend on the activations."""
    if not score.requires_grad:
        return None
    (gradients,) = torch.autograd.grad(score, activations, allow_unused=True)
    return gradients


def _is_unread(layout: Layout, gradients: torch.Tensor) -> bool:
    """Whether the class token alone is read after the layer. Elsewhere a gradient of zero may be a saturated model's."""
    return layout.kind == "NLC" and layout.extra > 0 and not bool(layout.nchw(gradients).any())


def _unread_sentence(layer: str, layout: Layout, model: nn.Module) -> str:
    if layout.kind == "NLC" and layout.extra:
        what = f"--layer {layer}: after it the model reads the class token alone, so its patches have no map."
        return (
            f"{what} Give what that block's attention reads, such as blocks.{len(stages(model)) - 1}.norm1, or a block before."
        )
    return f"--layer {layer}: no logit depends on what it gives. {stages_sentence(model)}"
