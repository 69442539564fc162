"""Layers of a timm model by name, and the layout of their outputs: which axis holds the channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from jpegcurr.errors import UsageError, did_you_mean

Kind = Literal["NCHW", "NHWC", "NLC"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a layer's output [b ...].

    Attributes:
        kind: the order of the axes: [b c h w], [b h w c], or [b tokens c].
        grid: (h, w).
        extra: the number of tokens before those of the patches, such as a class token.
    """

    kind: Kind
    grid: tuple[int, int]
    extra: int = 0

    def nchw(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the output, or its gradient, as a view [b c h w]."""
        if self.kind == "NHWC":
            return tensor.permute(0, 3, 1, 2)
        if self.kind == "NLC":
            return tensor[:, self.extra :].transpose(1, 2).reshape(len(tensor), -1, *self.grid)
        return tensor


def stages(model: nn.Module) -> list[str]:
    """Return the names of the feature stages from timm's ``feature_info``; the last is the default to explain."""
    return [str(stage["module"]) for stage in _feature_info(model)]


def find_layer(model: nn.Module, layer: str) -> nn.Module:
    """Return the module called ``layer``; raises UsageError with the stages that timm names."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if layer in modules and layer:
        return modules[layer]
    raise UsageError(f"--layer {layer!r}: the model has no such layer.{did_you_mean(layer, modules)} {stages_sentence(model)}")


def stages_sentence(model: nn.Module) -> str:
    """Return a sentence that lists the stages, for errors about a layer."""
    names = stages(model)
    return f"Its stages: {', '.join(names)}." if names else "timm names no stages of this model."


def read_layout(model: nn.Module, layer: str, shape: Sequence[int], images: Sequence[int]) -> Layout:
    """Return the layout of the output of ``layer`` for square images, found by the number of channels and the square grid.

    The number of channels is taken from the layer itself (a convolution, a norm, a linear layer) or from timm's
    ``feature_info`` for its stage. [b n c] is read as patches, row by row, if timm gives their number.

    Args:
        model: the whole model.
        layer: a name in it.
        shape: the shape of the layer's output.
        images: the shape of the model's input, [b 3 s s].

    Raises:
        UsageError: the output has no grid, or the axis of the channels is ambiguous.
    """
    if shape[0] == images[0]:
        grids = _grids(shape)
        if len(shape) == 4 and not _is_transformer(model):
            kind = _kind(model, layer, {kind: shape[1 if kind == "NCHW" else 3] for kind in grids}, shape, images)
            if kind:
                return Layout(kind, grids[kind])
        tokens = _token_layout(model, shape, images) if len(shape) == 3 else None
        if tokens:
            return tokens
    raise UsageError(
        f"--layer {layer} returns {list(shape)}, which cannot be read as a map: Grad-CAM needs [batch channels h w], "
        f"[batch h w channels] or the tokens of all patches. {stages_sentence(model)}"
    )


def _grids(shape: Sequence[int]) -> dict[Kind, tuple[int, int]]:
    """Return the layouts in which the grid of a square image is square."""
    grids: dict[Kind, tuple[int, int]] = {}
    if len(shape) == 4 and shape[2] == shape[3]:
        grids["NCHW"] = (shape[2], shape[3])
    if len(shape) == 4 and shape[1] == shape[2]:
        grids["NHWC"] = (shape[1], shape[2])
    return grids


def _kind(model: nn.Module, layer: str, channels: dict[Kind, int], shape: Sequence[int], images: Sequence[int]) -> Kind | None:
    own = _own_channels(find_layer(model, layer))
    if own:
        fitting = [kind for kind, count in channels.items() if count == own[1]]
        return own[0] if own[0] in fitting else _only(fitting)
    stage = _stage(model, layer)
    if stage is None:
        return _only(list(channels))
    fitting = [kind for kind, count in channels.items() if count == stage["num_chs"]]
    if layer == stage["module"]:
        output_format: Any = getattr(model, "output_fmt", None) or "NCHW"
        usual: Kind = getattr(output_format, "value", output_format)
        return usual if usual in fitting else _only(fitting or list(channels))
    if fitting:
        return _only(fitting)
    # Within a stage a layer may have other channels than the stage's output, but its grid, or that of its first block.
    side = images[-1] / stage["reduction"]
    on_grid = abs(shape[2] - side) < 1 or abs(shape[2] - 2 * side) < 2
    return _only(list(channels)) if on_grid else None


def _only(kinds: Sequence[Kind]) -> Kind | None:
    return kinds[0] if len(kinds) == 1 else None


def _own_channels(module: nn.Module) -> tuple[Kind, int] | None:
    """Return the layout and the number of channels of a layer's output, as its type implies them; None for other types."""
    if isinstance(module, nn.modules.conv._ConvNd):
        return "NCHW", module.out_channels
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "NCHW", module.num_features
    if isinstance(module, nn.GroupNorm):
        return "NCHW", module.num_channels
    if isinstance(module, nn.LayerNorm):  # timm's LayerNorm2d is one, over the channels of NCHW
        return "NCHW" if "2d" in type(module).__name__ else "NHWC", module.normalized_shape[-1]
    if isinstance(module, nn.Linear):
        return "NHWC", module.out_features
    return None


def _feature_info(model: nn.Module) -> list[dict[str, Any]]:
    return list(getattr(model, "feature_info", None) or [])


def _stage(model: nn.Module, layer: str) -> dict[str, Any] | None:
    """Return timm's entry for the stage that is ``layer`` or contains it."""
    return next((stage for stage in _feature_info(model) if f"{layer}.".startswith(f"{stage['module']}.")), None)


def _is_transformer(model: nn.Module) -> bool:
    """Return whether the model is a plain transformer, where outputs with four axes are attention (tokens by tokens a head)."""
    return hasattr(model, "num_prefix_tokens") and hasattr(model, "patch_embed")


def _token_layout(model: nn.Module, shape: Sequence[int], images: Sequence[int]) -> Layout | None:
    if not _is_transformer(model):
        return None
    embed: Any = model.patch_embed
    extra = int(getattr(model, "num_prefix_tokens", 0))
    sized = hasattr(embed, "dynamic_feat_size")
    grid = embed.dynamic_feat_size(tuple(images[-2:])) if sized else getattr(embed, "grid_size", None)
    if grid is None:
        return None
    cells = grid[0] * grid[1]  # some models add the class token only in their last blocks
    before = next((before for before in (extra, 0) if shape[1] == before + cells), None)
    return None if before is None else Layout("NLC", (int(grid[0]), int(grid[1])), before)
