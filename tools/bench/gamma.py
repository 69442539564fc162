"""ConvNeXt's layer scale in the dtype of the activations: in float32 it makes all later activations float32 under autocast."""

import torch
from timm.models.convnext import ConvNeXtBlock


class CastingBlock(ConvNeXtBlock):
    """timm's block with gamma cast to the dtype of the activations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what timm's block does."""
        shortcut = x
        x = self.conv_dw(x)
        last = not self.use_conv_mlp  # whether the MLP has the channels last
        x = self.mlp(self.norm(x.permute(0, 2, 3, 1) if last else x))
        x = x.permute(0, 3, 1, 2) if last else x
        if self.gamma is not None:
            x = x.mul(self.gamma.to(x.dtype).reshape(1, -1, 1, 1))
        return self.drop_path(x) + self.shortcut(shortcut)


def cast_gammas(model: torch.nn.Module) -> None:
    """Replace a ConvNeXt's blocks by ``CastingBlock``; other models have none."""
    for block in model.modules():
        if type(block) is ConvNeXtBlock:
            block.__class__ = CastingBlock
