"""Grad-CAM, and a layer's activations and gradients for little more than the cost of a forward pass.

Up to the layer nothing is stored for a backward pass; from the layer on, gradients are computed for its output alone, not for
the weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.func import functional_call

from jpegcurr.analysis.layers import Layout, find_layer, read_layout, stages, stages_sentence
from jpegcurr.errors import UsageError
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.factory import unwrapped


@dataclass(frozen=True, slots=True)
class Captured:
    """The result of one pass.

    Attributes:
        activations, gradients: the layer's output and the target logit's gradient there, [b c h w], in the model's precision.
        logits: [b classes].
        targets: the class of each image whose logit is differentiated, int64 [b].
    """

    activations: torch.Tensor
    gradients: torch.Tensor
    logits: torch.Tensor
    targets: torch.Tensor


def grad_cam(
    model: nn.Module | Classifier, layer: str, images: torch.Tensor, targets: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute raw Grad-CAM maps (Selvaraju et al. 2017) of a batch in any network, which is left as it was.

    Args:
        model: the network, or one that ``load_model`` has loaded.
        layer: a name in its ``named_modules()``, called once in a pass.
        images: float [n 3 s s], square and normalised, on the model's device; for a loaded model also uint8, which it
            normalises.
        targets: the class of each image to explain, int64 [n]; the likeliest if None.

    Returns:
        The maps, float32 [n h w], not below 0, on the layer's own grid and not scaled by image.

    Raises:
        UsageError: ``images`` is no such batch, there is no such layer, or its output gives no map.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise UsageError(f"Images of shape {list(images.shape)} are no batch of square ones. Give float [n 3 s s].")
    if not isinstance(model, nn.Module):
        if not images.is_floating_point():
            images = model.normalise(images)
        model = model.model
    elif not images.is_floating_point():
        raise UsageError(f"Images of {images.dtype} are not normalised. Give float [n 3 s s], as the network takes it.")
    return maps_and_logits(model, layer, images, targets)[0]


def maps_and_logits(
    model: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute raw Grad-CAM (Selvaraju et al. 2017): ReLU of the activations weighted by their mean gradients.

    The arguments and errors are those of ``capture``.

    Returns:
        The maps [b h w] on the layer's own grid and the logits [b classes], float32.
    """
    captured = capture(model, layer, images, targets)
    weights = captured.gradients.float().mean(dim=(2, 3), keepdim=True)
    return (weights * captured.activations.float()).sum(dim=1).relu(), captured.logits.float()


def capture(model: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor | None = None) -> Captured:
    """Run the model once and differentiate the target logits with respect to the output of ``layer``.

    The model is in evaluation mode for the call, and restored afterwards even after an error. A compiled model runs uncompiled;
    the caller's gradient mode, inference mode and autocast make no difference beyond autocast's precision.

    Args:
        model: any network that calls ``layer`` once. Its weights may be frozen, in half precision, or created in inference
            mode (such weights are copied for the call).
        layer: its name in ``model.named_modules()``.
        images: normalised, float [b 3 s s], square.
        targets: the class of each image, int64 [b]; the likeliest if None.

    Raises:
        UsageError: ``model`` has no such layer, or the layer's output gives no map.
    """
    model = unwrapped(model)
    module = find_layer(model, layer)
    outputs: list[torch.Tensor] = []

    def cut(_module: nn.Module, _inputs: object, output: object) -> torch.Tensor:
        if not isinstance(output, torch.Tensor):
            raise UsageError(f"--layer {layer} returns a {type(output).__name__}, not a tensor. {stages_sentence(model)}")
        outputs.append(output.detach().requires_grad_(True))
        torch.set_grad_enabled(True)  # until the end of no_grad below
        return outputs[-1].clone()  # the next layer may work in place, as a ResNet's addition does

    handle = module.register_forward_hook(cut)
    try:
        with held_still(model), torch.inference_mode(False), torch.no_grad():
            logits = run(model, images)
            if len(outputs) != 1:
                raise UsageError(f"--layer {layer} is called {len(outputs)} times in one pass. {stages_sentence(model)}")
            layout = read_layout(model, layer, outputs[0].shape, images.shape)
            chosen = (logits.argmax(dim=1) if targets is None else targets).detach()
            gradients = _gradients(logits.gather(1, chosen[:, None]).sum(), outputs[0])
    finally:
        handle.remove()
    if gradients is None or _is_unread(layout, gradients):
        raise UsageError(_unread_sentence(layer, layout, model))
    return Captured(layout.nchw(outputs[0].detach()), layout.nchw(gradients), logits.detach(), chosen)


@contextmanager
def held_still(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode, frozen and uncompiled; restore every part of it afterwards."""
    training = [part for part in model.modules() if part.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad and not parameter.is_inference()]
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
    """Return the logits of ``images`` in the model's precision.

    Tensors created in inference mode cannot be stored for a backward pass, so they are copied.
    """
    tensors = [*model.parameters(), *model.buffers()]
    dtype = next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), images.dtype)
    images = images.detach().to(dtype)
    images = images.clone() if images.is_inference() else images
    copies: dict[str, torch.Tensor] = {}
    if any(tensor.is_inference() for tensor in tensors):
        named = [*model.named_parameters(), *model.named_buffers()]
        copies = {name: tensor.detach().clone() for name, tensor in named if tensor.is_inference()}
    logits: torch.Tensor = functional_call(model, copies, (images,)) if copies else model(images)
    return logits


def _gradients(score: torch.Tensor, activations: torch.Tensor) -> torch.Tensor | None:
    """Return the gradients of the activations, None if the score does not depend on them."""
    if not score.requires_grad:
        return None
    (gradients,) = torch.autograd.grad(score, activations, allow_unused=True)
    return gradients


def _is_unread(layout: Layout, gradients: torch.Tensor) -> bool:
    """Check whether the rest of the model reads only the class token. Elsewhere zero gradients may be a saturated model's."""
    return layout.kind == "NLC" and layout.extra > 0 and not bool(layout.nchw(gradients).any())


def _unread_sentence(layer: str, layout: Layout, model: nn.Module) -> str:
    if layout.kind == "NLC" and layout.extra:
        return (
            f"--layer {layer}: after it the model reads the class token alone, so its patches have no map. Give the input "
            f"of that block's attention, such as blocks.{len(stages(model)) - 1}.norm1, or an earlier block."
        )
    return f"--layer {layer}: no logit depends on its output. {stages_sentence(model)}"
