"""ConvNeXt without stages: the isotropic models of Liu et al. 2022 (arXiv 2201.03545), section 3.3, which timm has not.

As in a ViT, patches of 16 pixels become a grid that keeps its size and width through all blocks: 14 by 14 at 224 pixels. Blocks
and head are timm's own. To import this module is to register the models with timm.
"""

import re
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import NormMlpClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXtBlock
from torch import nn

PATCH = 16  # pixels a side
_AUTHORS = "https://dl.fbaipublicfiles.com/convnext/convnext_iso_{}_1k_224_ema.pth"
_TIMMS_NAMES = ((r"^head\.", "head.fc."), (r"^norm\.", "head.norm."), (r"\.dwconv\.", ".conv_dw."), (r"\.pwconv", ".mlp.fc"))


class IsotropicConvNeXt(nn.Module):
    """``depth`` ConvNeXt blocks of ``dim`` channels on one grid, with what timm's models have.

    ``ls_init_value`` is what layer scale begins with; None or 0: there is none. ``drop_path_rate`` is the last block's; the
    first has none, and it rises in a line.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depth: int = 18,
        dim: int = 384,
        ls_init_value: float | None = None,
        head_init_scale: float = 1.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.num_features, self.head_hidden_size = num_classes, in_chans, dim, dim
        self.stem = nn.Conv2d(in_chans, dim, PATCH, PATCH)
        rates = [drop_path_rate * block / max(depth - 1, 1) for block in range(depth)]
        blocks = [ConvNeXtBlock(dim, ls_init_value=ls_init_value or None, drop_path=rate) for rate in rates]
        self.blocks = nn.Sequential(*blocks)
        self.feature_info = [{"num_chs": dim, "reduction": PATCH, "module": f"blocks.{block}"} for block in range(depth)]
        self.head = NormMlpClassifierHead(dim, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.apply(_begin)
        with torch.no_grad():
            for parameter in self.head.fc.parameters():
                parameter.mul_(head_init_scale)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images [b 3 h w] -> the last block's [b dim h/16 w/16]."""
        features: torch.Tensor = self.blocks(self.stem(x))
        return features

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """What ``forward_features`` gave, pooled -> [b dim] normalised, if ``pre_logits``, or logits [b classes]."""
        out: torch.Tensor = self.head(x, pre_logits=pre_logits)
        return out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [b 3 h w] -> logits [b classes]."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Begin the linear layer anew."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Which parameters are of one layer, as timm asks: the stem's, each block's, and (none of these) the head's."""
        return {"stem": r"^stem", "blocks": r"^blocks" if coarse else r"^blocks\.(\d+)"}


def checkpoint_filter_fn(weights: dict[str, Any], _model: nn.Module) -> dict[str, Any]:
    """Weights by the names that they have here, from those or from the authors' (``models/convnext_isotropic.py``)."""
    weights = weights.get("model", weights)
    return weights if "head.norm.weight" in weights else {_timms_name(name): each for name, each in weights.items()}


def _timms_name(name: str) -> str:
    for authors, timms in _TIMMS_NAMES:
        name = re.sub(authors, timms, name)
    return name


def _begin(module: nn.Module) -> None:
    """The authors' initial weights; norms begin as they are."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _config(size: str) -> dict[str, Any]:
    return {
        "url": _AUTHORS.format(size),
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (224 // PATCH, 224 // PATCH),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem",
        "classifier": "head.fc",
        "license": "mit",
    }


_SIZES = ("small", "base", "large")
default_cfgs = generate_default_cfgs({f"convnext_isotropic_{size}.fb_in1k": _config(size) for size in _SIZES})  # timm reads it


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> IsotropicConvNeXt:
    model: IsotropicConvNeXt = build_model_with_cfg(
        IsotropicConvNeXt,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"flatten_sequential": True},
        **options,
    )
    return model


@register_model
def convnext_isotropic_small(pretrained: bool = False, **options: Any) -> IsotropicConvNeXt:
    """22 M parameters, 4.3 G multiply-adds an image of 224 pixels; published: 78.7 % top-1."""
    return _create("convnext_isotropic_small", pretrained, {"depth": 18, "dim": 384, **options})


@register_model
def convnext_isotropic_base(pretrained: bool = False, **options: Any) -> IsotropicConvNeXt:
    """87 M parameters, 16.9 G multiply-adds an image of 224 pixels; published: 82.0 % top-1."""
    return _create("convnext_isotropic_base", pretrained, {"depth": 18, "dim": 768, **options})


@register_model
def convnext_isotropic_large(pretrained: bool = False, **options: Any) -> IsotropicConvNeXt:
    """306 M parameters, 59.7 G multiply-adds an image of 224 pixels; published: 82.6 % top-1. With layer scale."""
    return _create("convnext_isotropic_large", pretrained, {"depth": 36, "dim": 1024, "ls_init_value": 1e-6, **options})
