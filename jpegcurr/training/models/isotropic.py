"""ConvNeXt without stages: the isotropic models of Liu et al. 2022 (arXiv 2201.03545), section 3.3, which timm lacks.

As in a ViT, patches of 16 pixels become a grid that keeps its size and width through all blocks: 14 by 14 at 224 pixels. Blocks
and head are timm's own. Importing this module registers the models with timm. Accuracies here are the published ones.
"""

from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import NormMlpClassifierHead
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.convnext import ConvNeXtBlock
from torch import nn

from jpegcurr.training.models.key_maps import to_timm

PATCH = 16  # pixels a side
_AUTHORS = "https://dl.fbaipublicfiles.com/convnext/convnext_iso_{}_1k_224_ema.pth"


class IsotropicConvNeXt(nn.Module):
    """``depth`` ConvNeXt blocks of ``dim`` channels on one grid, with the interface of timm's models.

    ``ls_init_value`` is the initial layer scale; None or 0 disables it. ``drop_path_rate`` is the stochastic depth of the
    last block; it rises linearly from 0 in the first.
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
        self.apply(_initialise)
        with torch.no_grad():
            for parameter in self.head.fc.parameters():
                parameter.mul_(head_init_scale)

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last block's features [b dim h/16 w/16] of images [b 3 h w]."""
        features: torch.Tensor = self.blocks(self.stem(x))
        return features

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Pool features; return logits [b classes], or the normalised features [b dim] if ``pre_logits``."""
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
        """Return timm's patterns of parameter names by layer: the stem, every block, and, as the rest, the head."""
        return {"stem": r"^stem", "blocks": r"^blocks" if coarse else r"^blocks\.(\d+)"}


def checkpoint_filter_fn(weights: dict[str, Any], _model: nn.Module) -> dict[str, Any]:
    """Rename weights from the authors' names (``models/convnext_isotropic.py``) to ours; return ours as they are."""
    return to_timm(weights.get("model", weights))


def _initialise(module: nn.Module) -> None:
    """Initialise weights as the authors do; norms keep torch's defaults."""
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
default_cfgs = generate_default_cfgs(
    {f"convnext_isotropic_{size}.fb_in1k": _config(size) for size in _SIZES}
)  # timm reads this name


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
    """Create the small model: 22 M parameters, 4.3 G multiply-adds at 224 pixels; 78.7 % top-1."""
    return _create("convnext_isotropic_small", pretrained, {"depth": 18, "dim": 384, **options})


@register_model
def convnext_isotropic_base(pretrained: bool = False, **options: Any) -> IsotropicConvNeXt:
    """Create the base model: 87 M parameters, 16.9 G multiply-adds at 224 pixels; 82.0 % top-1."""
    return _create("convnext_isotropic_base", pretrained, {"depth": 18, "dim": 768, **options})


@register_model
def convnext_isotropic_large(pretrained: bool = False, **options: Any) -> IsotropicConvNeXt:
    """Create the large model, with layer scale: 306 M parameters, 59.7 G multiply-adds at 224 pixels; 82.6 % top-1."""
    return _create("convnext_isotropic_large", pretrained, {"depth": 36, "dim": 1024, "ls_init_value": 1e-6, **options})
