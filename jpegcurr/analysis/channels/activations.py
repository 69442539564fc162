"""What the channels of layers give in every image of a batch, and what a model makes of it without some of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jpegcurr.analysis.cam.grad_cam import held_still
from jpegcurr.analysis.layers import Layout, find_layer, read_layout, stages, stages_sentence
from jpegcurr.errors import UsageError

DEAD = 1e-3  # of the root mean square of a layer's activations in an image
CELLS = 1 << 25  # of a layer's output that go on through the model at once, for many masks: 128 MiB in float32

Columns = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class LayerSummary:
    """One layer's channels in b images, each [b c] on the host. Tokens before those of the patches are left out.

    Attributes:
        layout: where the channels stand in what the layer gives.
        mean, high, low: over the places of the layer's grid, float64.
        dead: whether the channel is nowhere farther from 0 than a thousandth of the root mean square of all the layer's
            activations in that image, bool. After a ReLU that is a channel that is zero everywhere (or next to it). Where
            activations are signed, one that is negative everywhere is not dead: it says something.
    """

    layout: Layout
    mean: Columns
    high: Columns
    low: Columns
    dead: NDArray[np.bool_]


def pick_layers(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """``layers``, each once; all stages that timm names if there are none. Raises UsageError for one that is not there."""
    picked = list(dict.fromkeys(layers)) or stages(model)
    if not picked:
        raise UsageError("timm names no stages of this model. Name the layers to look at: --layer NAME, repeatable.")
    for layer in picked:
        find_layer(model, layer)
    return picked


@contextmanager
def watched(model: nn.Module, layers: Sequence[str]) -> Iterator[Callable[[torch.Tensor], Mapping[str, LayerSummary]]]:
    """Yield a function that puts normalised images, float [b 3 s s], through the model and returns what each layer gave.

    Within the block the model evaluates and learns nothing; afterwards it is as it was found, whatever happens. The function
    raises UsageError for a layer that is not called once a pass, or in whose output no channels can be told.
    """
    kept: dict[str, list[LayerSummary]] = {layer: [] for layer in layers}
    layouts: dict[str, Layout] = {}
    shape: list[int] = []

    def keep(layer: str, _module: nn.Module, _inputs: object, output: object) -> None:
        if layer not in layouts:
            layouts[layer] = channel_layout(model, layer, output, shape)
        assert isinstance(output, torch.Tensor)  # noqa: S101  (what has a layout is one)
        kept[layer].append(_summary(layouts[layer], output))  # now: what comes next may work in place

    def look(images: torch.Tensor) -> Mapping[str, LayerSummary]:
        shape[:] = images.shape
        for each in kept.values():
            each.clear()
        model(images)
        for layer, each in kept.items():
            if len(each) != 1:
                raise UsageError(f"--layer {layer} is called {len(each)} times in one pass. {stages_sentence(model)}")
        return {layer: each[0] for layer, each in kept.items()}

    with held_still(model), torch.inference_mode(), ExitStack() as hooks:
        for layer in layers:
            hooks.callback(find_layer(model, layer).register_forward_hook(partial(keep, layer)).remove)
        yield look


def channel_layout(model: nn.Module, layer: str, output: object, images: Sequence[int]) -> Layout:
    """Where the channels stand in what ``layer`` gave for images of that shape; raises UsageError if it cannot be told."""
    if not isinstance(output, torch.Tensor):
        raise UsageError(f"--layer {layer} gives a {type(output).__name__}, no tensor. {stages_sentence(model)}")
    try:
        return read_layout(model, layer, output.shape, images)
    except UsageError:
        raise UsageError(
            f"--layer {layer} gives {list(output.shape)}, in which no channels can be told: that needs "
            f"[batch channels h w], [batch h w channels] or the tokens of all patches. {stages_sentence(model)}"
        ) from None


def masked_logits(model: nn.Module, layer: str, layout: Layout, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """The logits [m b classes] of ``images`` [b 3 s s] with the channels of ``layer`` multiplied by each of ``masks`` [m c].

    What comes before the layer is computed once for many masks: the layer's output is repeated, once a mask, and what follows
    sees a larger batch. Where that is impossible, as within a residual block, the model is run once a mask. The caller sees
    to evaluation mode and gradients.
    """
    cells = len(images) * masks.shape[1] * layout.grid[0] * layout.grid[1]
    parts = torch.split(masks, max(1, CELLS // cells))
    return torch.cat([_logits_together(model, layer, layout, images, part) for part in parts])


def _logits_together(model: nn.Module, layer: str, layout: Layout, images: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    with _multiplied(model, layer, layout, masks):
        try:
            logits: torch.Tensor = model(images)
        except RuntimeError:  # batches of different sizes met
            if len(masks) == 1:
                raise
            logits = images.new_empty(0)
    if len(logits) == len(masks) * len(images):
        return logits.reshape(len(masks), len(images), -1)
    return torch.cat([_logits_together(model, layer, layout, images, mask) for mask in torch.split(masks, 1)])


@contextmanager
def _multiplied(model: nn.Module, layer: str, layout: Layout, masks: torch.Tensor) -> Iterator[None]:
    """Have ``layer`` give [m*b ...]: its output [b ...] multiplied by each of ``masks`` [m c], mask by mask."""

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


def _host(values: torch.Tensor) -> Columns:
    columns: Columns = values.double().cpu().numpy()
    return columns
