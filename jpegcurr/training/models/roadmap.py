"""The networks between ResNet and ConvNeXt (Liu et al. 2022, arXiv 2201.03545, section 2): one network that can be all of them.

Every block of the roadmap is three convolutions, of which one is spatial and two have one pixel; what changes on the way is
which of the three is the spatial one, how wide each is, and what stands between them. ``roadmap_steps.py`` lists the steps.
Importing this module registers their networks with timm: ``roadmap50_0`` is ResNet-50, ``roadmap50_6e`` is ConvNeXt-T,
``roadmap200_6e`` is ConvNeXt-B, and ``roadmap38_*`` are small ones. Weights of torchvision's and timm's ResNets start those of
the first steps, and weights of ConvNeXts those of the last.

All are initialised as ConvNeXt is, with truncated normal weights of deviation 0.02, so that no step of the roadmap is a step of
the initialisation as well. That is our choice: the published accuracies may be of other initial weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import DropPath, LayerNorm2d, NormMlpClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXt
from torch import nn

from jpegcurr.training.models.key_maps import KeyMap, StateDict, map_by
from jpegcurr.training.models.roadmap_steps import STEPS, Design, Family, Step, roadmap_names

_STAGES = 4
_LAYER_SCALE = 1e-6
# Names by which the weights of the two ends of the roadmap are recognised.
_CONVNEXT_BLOCK, _RESNET_BLOCK = "stages.0.blocks.0.conv_dw.weight", "layer1.0.conv1.weight"


class RoadmapNet(nn.Module):
    """A network of the roadmap, with the interface of timm's models: ``stem``, four ``stages`` of ``blocks``, ``head``.

    Args:
        design: the choices that the steps of the roadmap change.
        depths: blocks of each stage.
        width: the width w of the first stage; stage i has d = w * 2^i.
        in_chans: channels of an image.
        num_classes: outputs; 0 leaves out the classifier.
        global_pool: how the last features are pooled.
        ls_init_value: initial layer scale, for the last step alone; None is the authors' 1e-6, 0 disables it.
        head_init_scale: factor on the classifier's initial weights.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 in the first.

    Raises:
        TypeError: ``ls_init_value`` is given for a step that has no layer scale.
    """

    def __init__(
        self,
        design: Design,
        depths: tuple[int, ...],
        width: int,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        ls_init_value: float | None = None,
        head_init_scale: float = 1.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if ls_init_value is not None and not design.separate:
            raise TypeError("ls_init_value: of the roadmap's steps only 6e has a layer scale")
        self.design, self.depths = design, tuple(depths)
        self.num_classes, self.in_chans = num_classes, in_chans
        self.stem = _stem(design, in_chans, width)
        scale = _LAYER_SCALE if ls_init_value is None else ls_init_value
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        stages, channels = [], width
        for stage, depth in enumerate(depths):
            dim = width * 2**stage
            stages.append(Stage(design, channels, dim, 1 if stage == 0 else 2, [next(rates) for _ in range(depth)], scale))
            channels = dim if design.inverted else 4 * dim
        self.stages = nn.Sequential(*stages)
        self.feature_info = [
            {"num_chs": channels >> (_STAGES - 1 - stage), "reduction": 4 * 2**stage, "module": f"stages.{stage}"}
            for stage in range(_STAGES)
        ]
        self.num_features = self.head_hidden_size = channels
        norm = LayerNorm2d if design.separate else nn.Identity
        self.head = NormMlpClassifierHead(channels, num_classes, pool_type=global_pool, drop_rate=drop_rate, norm_layer=norm)
        self.apply(_initialise)
        if num_classes:
            with torch.no_grad():
                for parameter in self.head.fc.parameters():
                    parameter.mul_(head_init_scale)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last stage's features [b c h/32 w/32] of images [b 3 h w]."""
        features: torch.Tensor = self.stages(self.stem(x))
        return features

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool features; return logits [b classes], or the pooled features [b c] if ``pre_logits``."""
        out: torch.Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [b classes] of images [b 3 h w]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the linear layer by one for ``num_classes``."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns of parameter names by layer: the stem, the blocks, and, as the rest, the head."""
        return {
            "stem": r"^stem",
            "blocks": r"^stages\.(\d+)"
            if coarse
            else [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)],
        }


class Stage(nn.Module):
    """Blocks of one width; unless it is the first, it halves the side: by its first block, or before that by ``downsample``."""

    def __init__(self, design: Design, channels: int, dim: int, stride: int, drop_paths: list[float], scale: float) -> None:
        super().__init__()
        self.downsample: nn.Module = nn.Identity()
        if design.separate and stride > 1:
            self.downsample = nn.Sequential(_norm(design)(channels), nn.Conv2d(channels, dim, stride, stride))
            channels, stride = dim, 1
        blocks = []
        for drop_path in drop_paths:
            block = Block(design, channels, dim, stride, drop_path, scale)
            blocks.append(block)
            channels, stride = block.channels, 1
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [b c' h/stride w/stride] of features [b c h w]."""
        features: torch.Tensor = self.blocks(self.downsample(x))
        return features


class Block(nn.Module):
    """Three convolutions, one of them spatial, around which a shortcut leads.

    Widths, from ``channels`` at the input, where * is the spatial convolution, which has the stride:

    - bottleneck (ResNet): 1x1 to d, * to d, 1x1 to 4d;
    - inverted: 1x1 to 4d, * to 4d, 1x1 to d;
    - inverted and spatial first (ConvNeXt): * on the input's channels, 1x1 to 4d, 1x1 to d.
    """

    def __init__(self, design: Design, channels: int, dim: int, stride: int, drop_path: float, scale: float) -> None:
        super().__init__()
        if design.spatial_first:
            widths = (channels, channels, 4 * dim, dim)
        else:
            widths = (channels, 4 * dim, 4 * dim, dim) if design.inverted else (channels, dim, dim, 4 * dim)
        spatial = 1 if design.spatial_first else 2
        self.channels = widths[-1]

        def layer(number: int) -> tuple[nn.Module, nn.Module, nn.Module]:
            """Return a convolution, and the norm and the activation that follow it."""
            inputs, outputs, is_spatial = widths[number - 1], widths[number], number == spatial
            side, by, groups = (design.kernel, stride, inputs if design.depthwise else 1) if is_spatial else (1, 1, 1)
            conv = nn.Conv2d(inputs, outputs, side, by, side // 2, groups=groups, bias=design.separate)
            normed = is_spatial or not design.one_norm
            active = number == 2 or not design.one_activation  # after the second comes the last of one pixel
            norm = _norm(design)(outputs) if normed else nn.Identity()
            return conv, norm, _activation(design) if active else nn.Identity()

        self.conv1, self.norm1, self.act1 = layer(1)
        self.conv2, self.norm2, self.act2 = layer(2)
        self.conv3, self.norm3, self.act3 = layer(3)
        self.gamma = nn.Parameter(torch.full((self.channels,), scale)) if design.separate and scale else None
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != self.channels:
            by_one_pixel = nn.Conv2d(channels, self.channels, 1, stride, bias=design.separate)
            self.shortcut = nn.Sequential(by_one_pixel, _norm(design)(self.channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [b c' h/stride w/stride] of features [b c h w]."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.act2(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.gamma is not None:
            y = y * self.gamma.view(1, -1, 1, 1)
        out: torch.Tensor = self.act3(self.shortcut(x) + self.drop_path(y))
        return out


def _stem(design: Design, in_chans: int, width: int) -> nn.Sequential:
    """Return what reduces an image's side to a quarter."""
    active = nn.Identity() if design.one_activation else _activation(design)
    if design.patchify:
        conv = nn.Conv2d(in_chans, width, 4, 4, bias=design.separate)
        return nn.Sequential(conv, _norm(design)(width), active)
    conv = nn.Conv2d(in_chans, width, 7, 2, 3, bias=False)
    return nn.Sequential(conv, _norm(design)(width), active, nn.MaxPool2d(3, 2, 1))


def _norm(design: Design) -> Callable[[int], nn.Module]:
    return nn.BatchNorm2d if design.norm == "batch" else partial(LayerNorm2d, eps=1e-6)


def _activation(design: Design) -> nn.Module:
    return nn.ReLU() if design.activation == "relu" else nn.GELU()


def _initialise(module: nn.Module) -> None:
    """Initialise weights as ConvNeXt's authors do; norms keep torch's defaults."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _convnext_names() -> KeyMap:
    """Return the map between the names of timm's ConvNeXt and ours."""
    block = "stages.{}.blocks.{}."
    inner = [("conv_dw", "conv1"), ("norm", "norm1"), ("mlp.fc1", "conv2"), ("mlp.fc2", "conv3"), ("gamma", "gamma")]
    rules = [(block + timms, block + ours) for timms, ours in inner]
    rules += [(name, name) for name in ("stem", "stages.{}.downsample", "head")]
    return map_by(rules, _CONVNEXT_BLOCK)


def _resnet_names() -> KeyMap:
    """Return the map between the names of torchvision's and timm's ResNets and ours."""
    rules = [("conv1", "stem.0"), ("bn1", "stem.1"), ("fc", "head.fc")]
    for stage in range(_STAGES):
        theirs, ours = f"layer{stage + 1}.{{}}.", f"stages.{stage}.blocks.{{}}."
        rules += [
            (f"{theirs}{kind}{n}", f"{ours}{name}{n}") for n in (1, 2, 3) for kind, name in (("conv", "conv"), ("bn", "norm"))
        ]
        rules.append((f"{theirs}downsample", f"{ours}shortcut"))
    return map_by(rules, _RESNET_BLOCK)


_CONVNEXT, _RESNET = _convnext_names(), _resnet_names()


def checkpoint_filter_fn(weights: dict[str, Any], model: nn.Module) -> StateDict:
    """Rename weights of a ResNet or a ConvNeXt, of timm's names, to ours; return ours as they are."""
    if _CONVNEXT_BLOCK in weights:
        weights = _CONVNEXT.from_timm(weights)
    elif _RESNET_BLOCK in weights:
        weights = _RESNET.from_timm(weights)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return {name: _reshape(tensor, shapes.get(name, tensor.shape)) for name, tensor in weights.items()}


def to_convnext(model: RoadmapNet) -> ConvNeXt | None:
    """Return timm's ConvNeXt with the weights of ``model``, on the CPU; None if it is no network of step 6e."""
    if model.design != STEPS["6e"].design:
        return None
    weights = _CONVNEXT.to_timm(model.state_dict())
    dims = tuple(stage["num_chs"] for stage in model.feature_info)
    scale = 1.0 if "stages.0.blocks.0.gamma" in weights else None
    twin = ConvNeXt(num_classes=model.num_classes, depths=model.depths, dims=dims, ls_init_value=scale)
    shapes = {name: tensor.shape for name, tensor in twin.state_dict().items()}
    twin.load_state_dict({name: tensor.cpu().reshape(shapes[name]) for name, tensor in weights.items()})
    return twin.eval()


def _reshape(tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Return a linear layer's weight as that of a convolution of one pixel; anything else as it is."""
    return tensor.reshape(shape) if tensor.ndim < len(shape) and tensor.numel() == shape.numel() else tensor


def _config(family: Family) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, family.pixels, family.pixels),
        "pool_size": (family.pixels // 32, family.pixels // 32),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0",
        "classifier": "head.fc",
    }


default_cfgs = generate_default_cfgs({name: _config(family) for name, (family, _) in roadmap_names().items()})  # timm reads it


def _register(name: str, family: Family, step: Step) -> None:
    """Register with timm the function that creates the network ``name``."""

    def create(pretrained: bool = False, **options: Any) -> RoadmapNet:
        depths, width = family.sizes[step.design.size]
        sized = {"design": step.design, "depths": depths, "width": width, **options}
        features = {"out_indices": tuple(range(_STAGES)), "flatten_sequential": True}
        model: RoadmapNet = build_model_with_cfg(
            RoadmapNet, name, pretrained, pretrained_filter_fn=checkpoint_filter_fn, feature_cfg=features, **sized
        )
        return model

    create.__name__ = create.__qualname__ = name
    register_model(create)


for _name, (_family, _step) in roadmap_names().items():
    _register(_name, _family, _step)
