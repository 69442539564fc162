"""The roadmap from ResNet to ConvNeXt, step by step: what changes, and what it scored (Liu et al. 2022, arXiv 2201.03545).

Every step changes one thing in the design of the step before it; ``roadmap.py`` builds the network of any of them. Top-1 on
ImageNet-1k, 224 pixels, is that of the paper's tables 10 and 11: 300 epochs in batches of 4,096, without an average of the
weights; for ResNet-50 the mean and standard deviation of three seeds. The last rows are not the paper's: they are the cells
that a question about large kernels needs. This module needs neither torch nor timm, so that names are checked quickly.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

Size = Literal["resnet", "ratio", "wide", "narrow"]
Activation = Literal["relu", "gelu"]
Norm = Literal["batch", "layer"]


@dataclass(frozen=True, slots=True)
class Design:
    """The choices that make a network of the roadmap; the defaults are ResNet v1.5.

    Attributes:
        size: depths and width, by their name in ``Family.sizes``.
        patchify: the stem is one convolution of 4 pixels, strided by 4, in place of 7 pixels by 2 and pooling by 2.
        depthwise: the spatial convolution of a block has one filter per channel.
        inverted: the middle of a block is four times as wide as its ends, where a bottleneck's is a quarter as wide.
        spatial_first: the spatial convolution comes before the two of one pixel, on a block's own channels, not between them.
        kernel: the side of the spatial convolution.
        activation: the function; it follows every norm, the last one after the sum with the shortcut.
        one_activation: there is only one, between the two convolutions of one pixel.
        one_norm: only the spatial convolution is followed by a norm (and the stem and shortcuts, as before).
        norm: over a batch, or over the channels of every pixel.
        separate: between stages a norm and a convolution of 2 pixels halve the side; norms follow the stem and the pooling;
            convolutions have biases, and blocks a layer scale.
    """

    size: Size = "resnet"
    patchify: bool = False
    depthwise: bool = False
    inverted: bool = False
    spatial_first: bool = False
    kernel: int = 3
    activation: Activation = "relu"
    one_activation: bool = False
    one_norm: bool = False
    norm: Norm = "batch"
    separate: bool = False


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Published top-1 in per cent, and its standard deviation over three seeds; None where it was not published."""

    top1: float
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the roadmap.

    Attributes:
        label: what it changes, in words.
        design: of its network.
        resnet50: published accuracy in the regime of ResNet-50; None if it is not in the paper.
        resnet200: of ResNet-200.
    """

    label: str
    design: Design
    resnet50: Accuracy | None = None
    resnet200: Accuracy | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Networks of one regime.

    Attributes:
        prefix: of their names in timm.
        pixels: the side of an image, for which their cost is stated.
        sizes: blocks of each of the four stages and the width of the first, w; stage i has d = w * 2^i.
    """

    prefix: str
    pixels: int
    sizes: dict[Size, tuple[tuple[int, int, int, int], int]]


def _roadmap() -> dict[str, Step]:
    """Return the steps by their number: 2a to 6e are the paper's sections 2.2 to 2.6."""
    resnet = Design()
    ratio = replace(resnet, size="ratio")
    patchify = replace(ratio, patchify=True)
    depthwise = replace(patchify, depthwise=True)
    wide = replace(depthwise, size="wide")
    inverted = replace(wide, inverted=True)
    moved_up = replace(inverted, spatial_first=True)
    kernel_7 = replace(moved_up, kernel=7)
    gelu = replace(kernel_7, activation="gelu")
    one_activation = replace(gelu, one_activation=True)
    one_norm = replace(one_activation, one_norm=True)
    layer_norm = replace(one_norm, norm="layer")
    convnext = replace(layer_norm, separate=True)
    paper: list[tuple[str, str, Design, Accuracy, Accuracy]] = [
        ("0", "ResNet v1.5, original recipe", resnet, Accuracy(76.13), Accuracy(78.20)),
        ("1", "modern recipe", resnet, Accuracy(78.82, 0.07), Accuracy(81.14)),
        ("2a", "stage ratio", ratio, Accuracy(79.36, 0.07), Accuracy(81.33)),
        ("2b", "patchify stem", patchify, Accuracy(79.51, 0.18), Accuracy(81.59)),
        ("3a", "depthwise convolution", depthwise, Accuracy(78.28, 0.08), Accuracy(80.54)),
        ("3b", "width", wide, Accuracy(80.50, 0.02), Accuracy(81.85)),
        ("4", "inverted bottleneck", inverted, Accuracy(80.64, 0.03), Accuracy(82.64)),
        ("5a", "depthwise moved up, kernel 3", moved_up, Accuracy(79.92, 0.08), Accuracy(82.04)),
        ("5b", "kernel 5", replace(moved_up, kernel=5), Accuracy(80.35, 0.08), Accuracy(82.32)),
        ("5c", "kernel 7", kernel_7, Accuracy(80.57, 0.14), Accuracy(82.30)),
        ("5d", "kernel 9, not adopted", replace(moved_up, kernel=9), Accuracy(80.57), Accuracy(82.27)),
        ("5e", "kernel 11, not adopted", replace(moved_up, kernel=11), Accuracy(80.47), Accuracy(82.18)),
        ("6a", "GELU", gelu, Accuracy(80.62, 0.14), Accuracy(82.19)),
        ("6b", "one activation", one_activation, Accuracy(81.27, 0.06), Accuracy(82.71)),
        ("6c", "one norm", one_norm, Accuracy(81.41, 0.09), Accuracy(83.17)),
        ("6d", "LayerNorm", layer_norm, Accuracy(81.47, 0.09), Accuracy(83.35)),
        ("6e", "separate downsampling: ConvNeXt", convnext, Accuracy(81.97, 0.06), Accuracy(83.60)),
    ]
    steps = {number: Step(label, design, small, large) for number, label, design, small, large in paper}
    # What a large kernel does where the depthwise convolution stays in the middle, on four times the channels; "narrow" costs
    # what 5c does. Then the same with everything else as in ConvNeXt.
    for kernel in (5, 7, 9, 11):
        steps[f"4_k{kernel}"] = Step(f"4 with kernel {kernel}, not moved up", replace(inverted, kernel=kernel))
    steps["4_k7_narrow"] = Step("4_k7 at the cost of 5c", replace(inverted, kernel=7, size="narrow"))
    unmoved = replace(convnext, spatial_first=False)
    steps["6e_k3"] = Step("6e with kernel 3", replace(convnext, kernel=3))
    steps["6e_middle_k3"] = Step("6e with kernel 3, not moved up", replace(unmoved, kernel=3))
    steps["6e_middle_k7"] = Step("6e, not moved up", unmoved)
    return steps


STEPS = _roadmap()
# The third is ours: what two processor cores can train, with twelve blocks before and after the change of the stage ratio.
FAMILIES = (
    Family(
        "roadmap50",
        224,
        {
            "resnet": ((3, 4, 6, 3), 64),
            "ratio": ((3, 3, 9, 3), 64),
            "wide": ((3, 3, 9, 3), 96),
            "narrow": ((3, 3, 9, 3), 87),
        },
    ),
    Family(
        "roadmap200",
        224,
        {
            "resnet": ((3, 24, 36, 3), 64),
            "ratio": ((3, 3, 27, 3), 84),
            "wide": ((3, 3, 27, 3), 128),
            "narrow": ((3, 3, 27, 3), 121),
        },
    ),
    Family(
        "roadmap38",
        64,
        {
            "resnet": ((2, 3, 5, 2), 27),
            "ratio": ((2, 2, 6, 2), 27),
            "wide": ((2, 2, 6, 2), 40),
            "narrow": ((2, 2, 6, 2), 34),
        },
    ),
)


def roadmap_names() -> dict[str, tuple[Family, Step]]:
    """Return every network's name in timm, ``roadmap50_5c``, with its family and step."""
    return {f"{family.prefix}_{number}": (family, step) for family in FAMILIES for number, step in STEPS.items()}


def published(family: Family, step: Step) -> Accuracy | None:
    """Return the accuracy that the paper has for a step in the regime of a family; None if it has none."""
    results: dict[str, Any] = {"roadmap50": step.resnet50, "roadmap200": step.resnet200}
    return results.get(family.prefix)
