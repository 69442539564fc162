"""Activations of a network's channels in a batch of images, and the network's logits with some channels set to zero."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jpegcurr.analysis.cam.grad_cam import held_still
from jpegcurr.analysis.layers import Layout, find_layer, read_layout, stages, stages_sentence
from jpegcurr.errors import UsageError
from jpegcurr.training.models.finite import require_finite

DEAD = 1e-3  # of the root mean square of a layer's activations in an image
CELLS = 1 << 25  # of a layer's output that go through the rest of the model at once, for many masks: 128 MiB in float32

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LayerSummary:
    """One layer's channels in b images, each [b c] on the host. Tokens before those of the patches are not counted.

    Attributes:
        layout: the layout of the layer's output.
        mean, high, low: over the positions of the layer's grid, float64.
        dead: whether the channel is nowhere farther from 0 than a thousandth of the root mean square of all the layer's
            activations in that image, bool. After a ReLU such a channel is zero everywhere, or nearly so. Where activations are
            signed, a channel that is negative everywhere is not dead: it carries information.
    """

    layout: Layout
    mean: Floats
    high: Floats
    low: Floats
    dead: NDArray[np.bool_]


def pick_layers(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Return ``layers`` without repetitions, or all stages that timm names if empty; raises UsageError for a missing layer."""
    picked = list(dict.fromkeys(layers)) or stages(model)
    if not picked:
        raise UsageError("timm names no stages of this model. Name the layers to follow: --layer NAME, repeatable.")
    for layer in picked:
        find_layer(model, layer)
    return picked


@contextmanager
def watch_layers(
    model: nn.Module, layers: Sequence[str], source: Path | str = "the model"
) -> Iterator[Callable[[torch.Tensor], Mapping[str, LayerSummary]]]:
    """Yield a function that runs the model on normalised images, float [b 3 s s], and summarises the output of each layer.

    Within the block the model is in evaluation mode without gradients; afterwards its state is restored in any case. The
    function raises UsageError for a layer that is not called exactly once in a pass, or whose output has no channel axis, and
    JpegcurrError, which names ``source``, for outputs of the model that are not finite.
    """
    summaries: dict[str, list[LayerSummary]] = {layer: [] for layer in layers}
    layouts: dict[str, Layout] = {}
    shape: list[int] = []

    def keep(layer: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if layer not in layouts:
            layouts[layer] = channel_layout(model, layer, output, shape)
        assert isinstance(output, torch.Tensor)  # noqa: S101  (only tensors have a layout)
        summaries[layer].append(_summary(layouts[layer], output))  # at once: the next layer may work in place

    def summarise(images: torch.Tensor) -> Mapping[str, LayerSummary]:
        shape[:] = images.shape
        for calls in summaries.values():
            calls.clear()
        require_finite(model(images), source, [f"image {number} of a batch" for number in range(len(images))])
        for layer, calls in summaries.items():
            if len(calls) != 1:
                raise UsageError(
                    f"--layer {layer} is called {len(calls)} times in one pass, so it has no single output. "
                    f"{stages_sentence(model)}"
                )
        return {layer: calls[0] for layer, calls in summaries.items()}

    with held_still(model), torch.inference_mode(), ExitStack() as hooks:
        for layer in layers:
            hooks.callback(find_layer(model, layer).register_forward_hook(partial(keep, layer)).remove)
        yield summarise


def channel_layout(model: nn.Module, layer: str, output: object, images: Sequence[int]) -> Layout:
    """Return the layout of the ``output`` of ``layer`` for images of that shape; raises UsageError if it is ambiguous."""
    if not isinstance(output, torch.Tensor):
        raise UsageError(f"--layer {layer} returns a {type(output).__name__}, not a tensor. {stages_sentence(model)}")
    try:
        return read_layout(model, layer, output.shape, images)
    except UsageError:
        raise UsageError(
            f"--layer {layer} returns {list(output.shape)}, whose channel axis is not known: it must return "
            f"[batch channels h w], [batch h w channels] or the tokens of all patches. {stages_sentence(model)}"
        ) from None


def masked_logits(model: nn.Module, layer: str, layout: Layout, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Return the logits [m b classes] of ``images`` [b 3 s s] with ``layer``'s channels multiplied by each of ``masks`` [m c].

    The part before the layer is computed once for many masks: the layer's output is repeated for each mask, and the part after
    it gets a larger batch. Where that is impossible, as within a residual block, the model runs once for each mask. The caller
    sets evaluation mode and disables gradients.
    """
    cells = len(images) * masks.shape[1] * layout.grid[0] * layout.grid[1]
    parts = torch.split(masks, max(1, CELLS // cells))
    return torch.cat([_logits_together(model, layer, layout, images, part) for part in parts])


def _logits_together(model: nn.Module, layer: str, layout: Layout, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    with _multiplied(model, layer, layout, masks):
        try:
            logits: torch.Tensor = model(images)
        except RuntimeError:  # batches of different sizes met, in a residual block
            if len(masks) == 1:
                raise
            logits = images.new_empty(0)
    if len(logits) == len(masks) * len(images):
        return logits.reshape(len(masks), len(images), -1)
    return torch.cat([_logits_together(model, layer, layout, images, mask) for mask in torch.split(masks, 1)])


@contextmanager
def _multiplied(model: nn.Module, layer: str, layout: Layout, masks: torch.Tensor) -> Iterator[None]:
    """Make ``layer`` return [m*b ...] within the block: its output [b ...] multiplied by each of ``masks`` [m c]."""

    def multiply(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        shape = [len(masks), *[1] * output.dim()]
        shape[2 if layout.kind == "NCHW" else -1] = masks.shape[1]
        return (output * masks.to(output.dtype).view(shape)).flatten(0, 1)

    handle = find_layer(model, layer).register_forward_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


def _summary(layout: Layout, output: torch.Tensor) -> LayerSummary:
    values = layout.nchw(output).flatten(2).float()
    high, low = values.amax(dim=2), values.amin(dim=2)
    scale = values.square().mean(dim=(1, 2)).sqrt()
    dead = torch.maximum(high.abs(), low.abs()) <= DEAD * scale[:, None]
    return LayerSummary(layout, _host(values.mean(dim=2)), _host(high), _host(low), dead.cpu().numpy())


def _host(values: torch.Tensor) -> Floats:
    host: Floats = values.double().cpu().numpy()
    return host
