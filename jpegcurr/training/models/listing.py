"""Listings of pretrained classifiers, timm's and those that ConvNeXt's authors published, and of the roadmap's networks.

Accuracies are those of the tables in the authors' README (facebookresearch/ConvNeXt). Parameters and multiply-adds are counted,
not stored: they agree with those tables but for the 22k ConvNeXt-B at 384 pixels, whose 47.0 G there are 45.1.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import timm
from timm.data import infer_imagenet_subset
from timm.models import PretrainedCfg

import jpegcurr.training.models.isotropic
import jpegcurr.training.models.roadmap  # noqa: F401 (both register their models with timm)
from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.training.flops import multiply_adds
from jpegcurr.training.models.fit import create_on_meta, without_memory
from jpegcurr.training.models.published import LEGACY, all_names
from jpegcurr.training.models.roadmap_steps import published, roadmap_names

COUNTED = 40  # a listing counts up to so many architectures: a quarter of a second each, on the meta device

# Top-1 in per cent, by timm's name of the weights, at the size in timm's configuration of them. Those for the 21,841 classes of
# ImageNet-22k have no published one.
TOP1: dict[str, float] = {
    "convnext_tiny.fb_in1k": 82.1,
    "convnext_small.fb_in1k": 83.1,
    "convnext_base.fb_in1k": 83.8,
    "convnext_large.fb_in1k": 84.3,
    "convnext_tiny.fb_in22k_ft_in1k": 82.9,
    "convnext_small.fb_in22k_ft_in1k": 84.6,
    "convnext_base.fb_in22k_ft_in1k": 85.8,
    "convnext_large.fb_in22k_ft_in1k": 86.6,
    "convnext_xlarge.fb_in22k_ft_in1k": 87.0,
    "convnext_tiny.fb_in22k_ft_in1k_384": 84.1,
    "convnext_small.fb_in22k_ft_in1k_384": 85.8,
    "convnext_base.fb_in22k_ft_in1k_384": 86.8,
    "convnext_large.fb_in22k_ft_in1k_384": 87.5,
    "convnext_xlarge.fb_in22k_ft_in1k_384": 87.8,
    "convnext_isotropic_small.fb_in1k": 78.7,
    "convnext_isotropic_base.fb_in1k": 82.0,
    "convnext_isotropic_large.fb_in1k": 82.6,
}
# Weights that the authors published and timm does not have: timm's architecture, pixels a side, and top-1, by the name of the
# file (https://dl.fbaipublicfiles.com/convnext/NAME.pth).
NOT_IN_TIMM: dict[str, tuple[str, int, float]] = {
    "convnext_base_1k_384": ("convnext_base", 384, 85.1),
    "convnext_large_1k_384": ("convnext_large", 384, 85.5),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """One set of pretrained weights.

    Attributes:
        name: timm's, or the file's if timm does not have it.
        legacy: the name that timm 0.6 had for it.
        size: the input's side length in pixels.
        top1: published accuracy on ImageNet-1k in per cent; None if it is not in our table.
        parameters: of the model with a thousand classes; None if not counted.
        multiply_adds: of convolutions and linear layers for one image of this size; None if not counted.
        classes: outputs.
        in_timm: whether timm has it; if not, it is a file to give to ``--checkpoint``.
    """

    name: str
    legacy: str | None
    size: int
    top1: float | None
    parameters: int | None
    multiply_adds: int | None
    classes: int
    in_timm: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ListedStep:
    """One network of the roadmap from ResNet to ConvNeXt, which has no weights.

    Attributes:
        name: the model's.
        step: what it changes.
        size: the input's side length in pixels.
        top1: published accuracy on ImageNet-1k in per cent; None if there is none.
        deviation: of it, over three seeds; None if it was not published.
        parameters: with a thousand classes.
        multiply_adds: of convolutions and linear layers for one image of this size.
    """

    name: str
    step: str
    size: int
    top1: float | None
    deviation: float | None
    parameters: int
    multiply_adds: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        return asdict(self)


def list_roadmap(pattern: str) -> list[ListedStep]:
    """List the roadmap's networks whose name matches ``pattern``, in its order; see ``list_named`` for patterns.

    Raises:
        UsageError: no name matches.
    """
    names = roadmap_names()
    matching = {name: names[name] for name in names if fnmatchcase(name, _wildcard(pattern))}
    if not matching:
        raise UsageError(f"The roadmap has no network like {pattern!r}.{did_you_mean(pattern, ['roadmap', *names])}")
    listed = []
    for name, (family, step) in matching.items():
        result = published(family, step)
        top1, deviation = (result.top1, result.deviation) if result else (None, None)
        with without_memory():
            model = timm.create_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        products = multiply_adds(model, family.pixels)
        listed.append(ListedStep(name, step.label, family.pixels, top1, deviation, parameters, products))
    return listed


def list_named(pattern: str, *, count: int = COUNTED) -> list[Listed]:
    """List the pretrained classifiers whose name, or legacy name, matches ``pattern``, sorted by name.

    A pattern without wildcards matches any part of a name. At most ``count`` architectures are counted.

    Raises:
        UsageError: no name matches.
    """
    legacy = {name: old for old, name in LEGACY.items()}
    wildcard = _wildcard(pattern)
    names = [
        name
        for name in timm.list_models(pretrained=True)
        if fnmatchcase(name.lower(), wildcard) or fnmatchcase(legacy.get(name, ""), wildcard)
    ]
    configs = {name: timm.get_pretrained_cfg(name) for name in names}
    usable = {name: config for name, config in configs.items() if config is not None and _is_usable(config)}
    others = {name: facts for name, facts in NOT_IN_TIMM.items() if fnmatchcase(name, wildcard)}
    if not usable and not others:
        raise UsageError(f"timm has no weights like {pattern!r} that classify.{did_you_mean(pattern, all_names())}")
    sizes = {name: (name.partition(".")[0], config.input_size[-1]) for name, config in usable.items()}
    counts = _count({*sizes.values(), *((name, size) for name, size, _ in others.values())}, count)
    listed = []
    for name, config in usable.items():
        parameters, products = counts.get(sizes[name], (None, None))
        size, top1 = sizes[name][1], TOP1.get(name)
        listed.append(Listed(name, legacy.get(name), size, top1, parameters, products, config.num_classes))
    for name, (architecture, size, top1) in others.items():
        parameters, products = counts.get((architecture, size), (None, None))
        listed.append(Listed(name, None, size, top1, parameters, products, 1000, in_timm=False))
    return sorted(listed, key=lambda model: model.name)


def _wildcard(pattern: str) -> str:
    return pattern.lower() if any(mark in pattern for mark in "*?[") else f"*{pattern.lower()}*"


def _is_usable(config: PretrainedCfg) -> bool:
    """Return whether ``load_named`` accepts the model: it classifies, and takes square crops."""
    _, height, width = config.input_size
    square = height == width and config.crop_mode != "border" and 0 < config.crop_pct <= 1
    return square and bool(config.label_names or infer_imagenet_subset(config.to_dict()))


def _count(models: Iterable[tuple[str, int]], most: int) -> dict[tuple[str, int], tuple[int, int | None]]:
    """Return parameters and multiply-adds of architectures at sizes in pixels, unless there are more than ``most``.

    Both are of a thousand classes, and no memory is allocated for weights. What takes no image of that size is not counted.
    """
    by_name: dict[str, set[int]] = {}
    for name, size in models:
        by_name.setdefault(name, set()).add(size)
    counts: dict[tuple[str, int], tuple[int, int | None]] = {}
    for name, sizes in by_name.items() if len(by_name) <= most else ():
        model = create_on_meta(name, num_classes=1000)
        if model is None:
            continue
        parameters = sum(parameter.numel() for parameter in model.parameters())
        for size in sizes:
            try:
                counts[name, size] = (parameters, multiply_adds(model, size))
            except Exception:  # whatever a layer raises for a size that it cannot take, or on the meta device
                counts[name, size] = (parameters, None)
    return counts
