"""The networks between ResNet and ConvNeXt: the paper's numbers, the two ends' own logits, and every use of a model."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from timm.models.convnext import ConvNeXt

from jpegcurr.recipe.schema import ModelSection
from jpegcurr.training.flops import multiply_adds
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.fit import create_on_meta, without_memory
from jpegcurr.training.models.roadmap import RoadmapNet, checkpoint_filter_fn, to_convnext
from jpegcurr.training.models.roadmap_steps import STEPS

# Step, then for ResNet-50 and ResNet-200: published top-1 and G multiply-adds (arXiv 2201.03545, tables 10 and 11), and
# parameters in millions, counted with another program.
PAPER = """
0  76.13 4.09 25.557  78.20 15.01 64.674
1  78.82 4.09 25.557  81.14 15.01 64.674
2a 79.36 4.53 28.629  81.33 14.52 83.066
2b 79.51 4.42 28.622  81.59 14.38 83.058
3a 78.28 2.35 15.723  80.54 7.23  42.586
3b 80.50 5.27 33.761  81.85 16.76 96.527
4  80.64 4.64 25.851  82.64 15.68 83.700
5a 79.92 4.07 25.626  82.04 14.63 83.095
5b 80.35 4.10 25.721  82.32 14.70 83.369
5c 80.57 4.15 25.864  82.30 14.81 83.781
5d 80.57 4.21 26.054  82.27 14.95 84.330
5e 80.47 4.29 26.292  82.18 15.13 85.016
6a 80.62 4.15 25.864  82.19 14.81 83.781
6b 81.27 4.15 25.864  82.71 14.81 83.781
6c 81.41 4.15 25.797  83.17 14.81 83.600
6d 81.47 4.46 25.797  83.35 14.81 83.600
6e 81.97 4.49 28.589  83.60 15.35 88.591
"""
# The two cells whose published count is not their network's: that of 6d is 6e's, and 6e's is nobody's.
MISPRINTED = {"roadmap50_6d": 4.146, "roadmap50_6e": 4.456}
# The cells that the paper lacks: G multiply-adds and millions of parameters, counted with another program.
UNPUBLISHED = {
    "roadmap50_4_k5": (4.782, 26.28),
    "roadmap50_4_k7": (4.988, 26.91),
    "roadmap50_4_k9": (5.262, 27.76),
    "roadmap50_4_k11": (5.605, 28.82),
    "roadmap50_4_k7_narrow": (4.133, 22.29),
    "roadmap200_4_k5": (15.978, 84.86),
    "roadmap200_4_k7": (16.426, 86.59),
    "roadmap200_4_k9": (17.023, 88.90),
    "roadmap200_4_k11": (17.770, 91.79),
    "roadmap50_6e_k3": (4.370, None),
    "roadmap50_6e_middle_k3": (4.428, None),
    "roadmap50_6e_middle_k7": (4.771, None),
}
ROWS = {row.split()[0]: row.split()[1:] for row in PAPER.strip().splitlines()}
# What the second block of a stage does, in its order; the last function of the first rows follows the sum.
BLOCKS = {
    "1": "1x1 BatchNorm ReLU 3x3 BatchNorm ReLU 1x1 BatchNorm ReLU",
    "3a": "1x1 BatchNorm ReLU depthwise-3 BatchNorm ReLU 1x1 BatchNorm ReLU",
    "4_k7": "1x1 BatchNorm ReLU depthwise-7 BatchNorm ReLU 1x1 BatchNorm ReLU",
    "5c": "depthwise-7 BatchNorm ReLU 1x1 BatchNorm ReLU 1x1 BatchNorm ReLU",
    "6a": "depthwise-7 BatchNorm GELU 1x1 BatchNorm GELU 1x1 BatchNorm GELU",
    "6b": "depthwise-7 BatchNorm 1x1 BatchNorm GELU 1x1 BatchNorm",
    "6c": "depthwise-7 BatchNorm 1x1 GELU 1x1",
    "6d": "depthwise-7 LayerNorm 1x1 GELU 1x1",
    "6e": "depthwise-7 LayerNorm 1x1 GELU 1x1",
    "6e_middle_k7": "1x1 depthwise-7 LayerNorm GELU 1x1",
}


def cost(name: str) -> tuple[float, float]:
    """Return G multiply-adds at 224 pixels and millions of parameters."""
    model = create_on_meta(name)
    assert model is not None
    return multiply_adds(model, 224) / 1e9, sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize("step", ROWS)
def test_every_step_costs_and_scores_what_the_paper_says(step: str) -> None:
    numbers = [float(number) for number in ROWS[step]]
    results = (STEPS[step].resnet50, STEPS[step].resnet200)
    for result, family, (top1, giga, millions) in zip(results, (50, 200), (numbers[:3], numbers[3:]), strict=True):
        name = f"roadmap{family}_{step}"
        assert cost(name) == (pytest.approx(MISPRINTED.get(name, giga), abs=0.0055), pytest.approx(millions, abs=6e-4))
        assert result is not None
        assert result.top1 == top1


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_the_cells_that_the_paper_lacks_cost_what_was_counted(name: str) -> None:
    giga, millions = UNPUBLISHED[name]
    counted = cost(name)
    assert counted[0] == pytest.approx(giga, abs=0.0006)
    assert millions is None or counted[1] == pytest.approx(millions, abs=0.006)
    assert STEPS[name.partition("_")[2]].resnet50 is None


def test_the_narrow_arm_costs_what_a_kernel_moved_up_costs() -> None:
    for family, pixels, classes in (("roadmap50", 224, 1000), ("roadmap200", 224, 1000), ("roadmap38", 64, 10)):
        counts = []
        for step in ("5c", "4_k7_narrow"):
            with without_memory():
                counts.append(multiply_adds(timm.create_model(f"{family}_{step}", num_classes=classes), pixels))
        assert counts[1] == pytest.approx(counts[0], rel=0.02), family


@pytest.mark.parametrize("step", BLOCKS)
def test_blocks_have_the_papers_order(step: str) -> None:
    order: list[str] = []

    def note(module: torch.nn.Module, _inputs: object, out: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Conv2d):
            side = module.kernel_size[0]
            order.append(f"depthwise-{side}" if module.groups == len(out[0]) else f"{side}x{side}")
        elif isinstance(module, torch.nn.BatchNorm2d | torch.nn.LayerNorm | torch.nn.ReLU | torch.nn.GELU):
            order.append(type(module).__name__.replace("2d", ""))

    model = timm.create_model(f"roadmap38_{step}", num_classes=2).eval()
    for module in model.get_submodule("stages.1.blocks.1").modules():
        module.register_forward_hook(note)
    model(torch.zeros(1, 3, 32, 32))
    assert " ".join(order) == BLOCKS[step]


def random_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return weights and statistics, none of them as it is initialised, with which features keep their scale."""
    random = torch.Generator().manual_seed(0)
    weights = {}
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            weights[name] = tensor
            continue
        draw = torch.randn(tensor.shape, generator=random)
        scaled = draw * (2 / max(tensor[0].numel(), 1)) ** 0.5 if tensor.ndim > 1 else 1 + 0.2 * draw
        if name.endswith("var"):
            scaled = scaled.abs()
        elif name.endswith(("bias", "mean")):
            scaled = 0.2 * draw
        weights[name] = scaled
    return weights


@torch.inference_mode()
def assert_equal_logits(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = theirs.double().eval()(images.double())
    assert expected.std() > 0.01
    assert (ours.double().eval()(images.double()) - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_the_first_step_is_torchvisions_resnet_50_and_timms() -> None:
    theirs = torchvision.models.resnet50()
    theirs.load_state_dict(random_weights(theirs))
    ours = timm.create_model("roadmap50_0")
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
    assert_equal_logits(ours, theirs)
    with without_memory():
        assert timm.create_model("resnet50").state_dict().keys() == theirs.state_dict().keys()


def test_the_last_step_is_timms_convnext() -> None:
    theirs = ConvNeXt(depths=(2, 2, 6, 2), dims=(40, 80, 160, 320), num_classes=7)
    theirs.load_state_dict(random_weights(theirs))
    torch.save(theirs.state_dict(), "convnext.pth")
    ours = create_model(ModelSection(name="roadmap38_6e", checkpoint=Path("convnext.pth")), 7)
    assert isinstance(ours, RoadmapNet)
    twin = to_convnext(ours)
    assert twin is not None
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in twin.state_dict().items())
    assert_equal_logits(ours, theirs)


def test_convnext_tiny_and_base_have_the_tensors_of_the_last_step() -> None:
    for name, theirs in (("roadmap50_6e", "convnext_tiny"), ("roadmap200_6e", "convnext_base")):
        with without_memory():
            ours, weights = timm.create_model(name), timm.create_model(theirs).state_dict()
        renamed = checkpoint_filter_fn(weights, ours)
        assert {key: tensor.shape for key, tensor in renamed.items()} == {k: t.shape for k, t in ours.state_dict().items()}
