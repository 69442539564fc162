"""The networks between ResNet and ConvNeXt: the paper's numbers, the two ends' own logits, and every use of a model."""

import json
import shlex
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from samples import tiny_recipe
from timm.models.convnext import ConvNeXt

from jpegcurr.analysis.cam.compare import compare_cams
from jpegcurr.analysis.layers import stages
from jpegcurr.cli import main
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.errors import RecipeError
from jpegcurr.recipe.schema import ModelSection, OptimSection
from jpegcurr.runtime import Runtime
from jpegcurr.study.config import load_study
from jpegcurr.training.flops import multiply_adds, training_flops
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.fit import create_on_meta, without_memory
from jpegcurr.training.models.load import load_run
from jpegcurr.training.models.roadmap import RoadmapNet, checkpoint_filter_fn, to_convnext
from jpegcurr.training.models.roadmap_steps import STEPS
from jpegcurr.training.optim import layer_ids, parameter_groups
from jpegcurr.training.train import train

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
    "roadmap200_4_k7": (16.426, 86.59),
    "roadmap200_4_k7_narrow": (14.727, 77.63),
    "roadmap50_6e_k3": (4.370, None),
    "roadmap50_6e_middle_k3": (4.428, None),
    "roadmap50_6e_middle_k7": (4.771, None),
}
ROWS = {row.split()[0]: row.split()[1:] for row in PAPER.strip().splitlines()}
SAME_CONVOLUTIONS = ("1", "6a", "6b", "6c", "6d")  # as the step before them
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


def parameters(model: torch.nn.Module) -> float:
    """Return their number in millions."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize("step", ROWS)
def test_every_step_costs_and_scores_what_the_paper_says(step: str) -> None:
    numbers = [float(number) for number in ROWS[step]]
    results = (STEPS[step].resnet50, STEPS[step].resnet200)
    for result, family, (top1, giga, millions) in zip(results, (50, 200), (numbers[:3], numbers[3:]), strict=True):
        name = f"roadmap{family}_{step}"
        model = create_on_meta(name)
        assert model is not None
        assert parameters(model) == pytest.approx(millions, abs=6e-4)
        if step not in SAME_CONVOLUTIONS or family == 50:  # which saves seconds
            assert multiply_adds(model, 224) / 1e9 == pytest.approx(MISPRINTED.get(name, giga), abs=0.005)
        assert result is not None
        assert result.top1 == top1


@pytest.mark.parametrize("name", UNPUBLISHED)
def test_the_cells_that_the_paper_lacks_cost_what_was_counted(name: str) -> None:
    giga, millions = UNPUBLISHED[name]
    model = create_on_meta(name)
    assert model is not None
    assert multiply_adds(model, 224) / 1e9 == pytest.approx(giga, abs=0.0006)
    assert millions is None or parameters(model) == pytest.approx(millions, abs=0.006)
    assert STEPS[name.partition("_")[2]].resnet50 is None


def test_the_narrow_arm_costs_what_a_kernel_moved_up_costs() -> None:
    """Those of ResNet-50's and ResNet-200's size are in the tables above: 4.133 beside 4.146, 14.727 beside 14.807."""
    counts = []
    for step in ("5c", "4_k7_narrow"):
        with without_memory():
            counts.append(multiply_adds(timm.create_model(f"roadmap38_{step}", num_classes=10), 64))
    assert counts[1] == pytest.approx(counts[0], rel=0.02)


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


def small(step: str, **options: object) -> RoadmapNet:
    """Return a network of five blocks."""
    return RoadmapNet(STEPS[step].design, (1, 1, 2, 1), 4, num_classes=5, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", BLOCKS)
def test_every_parameter_learns(step: str) -> None:
    torch.manual_seed(0)
    options = {"ls_init_value": 0.5} if step.startswith("6e") else {}
    model = small(step, drop_path_rate=0.1, **options).train()
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4)  # the deepest gradients are tiny, for weights begin at 0.02
    images = torch.randn(32, 3, 32, 32)
    torch.nn.functional.cross_entropy(model(images), torch.arange(32) % 5).backward()
    optimizer.step()
    assert not [name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])]


def test_it_begins_as_convnext_does() -> None:
    model = timm.create_model("roadmap38_6e", drop_path_rate=0.11, head_init_scale=0.5, num_classes=50)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            wanted = 0.01 if name == "head.fc" else 0.02
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.1), name
            assert not module.bias.any(), name
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0.01 * block for block in range(12)], abs=1e-6)
    assert torch.equal(model.stages[0].blocks[0].gamma, torch.full((40,), 1e-6))
    with pytest.raises(RecipeError, match=r"'roadmap38_5c' with these settings: .*only 6e has a layer scale"):
        create_model(ModelSection(name="roadmap38_5c", layer_scale=0.1), 5)


def test_it_has_what_timms_models_have() -> None:
    for step, channels in (("2a", 4 * 27 * 8), ("6c", 40 * 8)):
        model = timm.create_model(f"roadmap38_{step}", num_classes=5, in_chans=1).eval()
        images = torch.randn(2, 1, 64, 96)
        features = model.forward_features(images)
        assert features.shape == (2, channels, 2, 3)
        assert model.forward_head(features, pre_logits=True).shape == (2, model.num_features) == (2, channels)
        assert torch.equal(model.forward_head(features), model(images))
        assert model.get_submodule(model.pretrained_cfg["first_conv"]).weight.shape[1] == 1
        assert model.get_submodule(model.pretrained_cfg["classifier"]) is model.get_classifier()
        model.reset_classifier(3)
        assert model(images).shape == (2, model.num_classes) == (2, 3)
        backbone = timm.create_model(f"roadmap38_{step}", features_only=True, out_indices=(0, 3))
        levels = backbone(torch.randn(1, 3, 64, 64))
        assert [tuple(level.shape) for level in levels] == [(1, channels // 8, 16, 16), (1, channels, 2, 2)]
        assert backbone.feature_info.reduction() == [4, 32]


def test_layers_decay_as_convnexts_do() -> None:
    models = [create_on_meta(name) for name in ("roadmap50_6e", "convnext_tiny", "roadmap50_5c")]
    ours, theirs, middle = (layer_ids(model, [name for name, _ in model.named_parameters()]) for model in models if model)
    assert ours["stages.2.blocks.8.conv1.weight"] == theirs["stages.2.blocks.8.conv_dw.weight"] == 5
    assert sorted(ours.values()) == sorted(theirs.values())
    assert (middle["stem.0.weight"], middle["stages.1.blocks.0.shortcut.0.weight"], middle["head.fc.weight"]) == (0, 2, 13)
    groups = parameter_groups(small("5c"), OptimSection(layer_decay=0.5))
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert (scales["stem.0.weight"], scales["head.fc.weight"]) == (0.5**13, 1)


def test_a_run_is_trained_loaded_and_explained(betons: Path, photos: Path, cpu: Runtime, tmp_path: Path) -> None:
    one = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "optim.layer_decay=0.8", "ema=null")
    recipe = tiny_recipe(betons, tmp_path, "model.name=roadmap38_4_k7_narrow", "evaluate=[clean]", *one)
    train(recipe, Path("run"), runtime=cpu)
    run = load_run(Path("run"), cpu)
    again = timm.create_model("local-dir:run", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    assert torch.allclose(again(images), run.model(images), atol=1e-5)  # the run's model is channels_last
    assert training_flops(run.model, 64) > 2 * multiply_adds(run.model, 64)
    assert stages(run.model) == [f"stages.{stage}" for stage in range(4)]
    study = compare_cams([run], photos / "val", [EncodeSpec("source")], cpu, limit=2)
    assert study.layer == "stages.3"
    with pytest.raises(SystemExit) as left:
        main(shlex.split("channels run --device cpu --qualities source,50 --quiet"))
    assert not left.value.code


def test_the_last_step_is_exported_as_convnext_and_others_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for step in ("6e", "5c"):
        torch.save(timm.create_model(f"roadmap38_{step}", num_classes=3).state_dict(), f"{step}.pth")
    codes = []
    for step, target in (("6e", "torchvision"), ("5c", "torchvision")):
        with pytest.raises(SystemExit) as left:
            main(shlex.split(f"export roadmap38_{step} --checkpoint {step}.pth --to {target} -o {step}-{target}.pth"))
        codes.append(left.value.code or 0)
    printed = capsys.readouterr()
    assert codes == [0, 2], printed.err
    assert "roadmap38_5c is another network" in " ".join(printed.err.split())
    block = torchvision.models.convnext.CNBlockConfig
    setting = [block(40, 80, 2), block(80, 160, 2), block(160, 320, 6), block(320, None, 2)]
    theirs = torchvision.models.convnext.ConvNeXt(setting, num_classes=3)
    theirs.load_state_dict(torch.load("6e-torchvision.pth", weights_only=True))
    ours = timm.create_model("roadmap38_6e", num_classes=3)
    ours.load_state_dict(torch.load("6e.pth", weights_only=True))
    assert_equal_logits(ours, theirs)


def test_models_prints_the_roadmap(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["roadmap50_5*"], ["roadmap50_4_k7", "--json"], ["roadmap5_1"]):
        with pytest.raises(SystemExit):
            main(["models", *arguments])
    printed = capsys.readouterr()
    table, _, document = printed.out.partition("[\n")
    assert [line.split()[0] for line in table.splitlines()[1:-1]] == [f"roadmap50_5{letter}" for letter in "abcde"]
    assert "roadmap50_5c  kernel 7                         224    80.57 (0.14)       25.86          4.146" in table
    middle, narrow = json.loads(f"[{document}")
    assert (middle["top1"], middle["step"], middle["multiply_adds"]) == (None, "4 with kernel 7, not moved up", 4_987_610_112)
    assert narrow["name"] == "roadmap50_4_k7_narrow"
    assert "Did you mean 'roadmap50_1'?" in printed.err


def test_the_shipped_studies_differ_in_the_network_alone(betons: Path) -> None:
    Path("betons").symlink_to(betons)
    whole, kernels = (load_study(Path(f"{name}_study.yaml")) for name in ("roadmap", "kernel"))
    paper = [step for step in ROWS if step != "0"]
    assert [recipe.model.name for recipe in whole.recipes.values()] == [f"roadmap50_{step}" for step in paper]
    assert list(whole.recipes) == [f"step_{step}" for step in paper]
    designs = {arm: STEPS[recipe.model.name.partition("_")[2]].design for arm, recipe in kernels.recipes.items()}
    assert {arm: (design.spatial_first, design.kernel, design.size) for arm, design in designs.items()} == {
        "up_k7": (True, 7, "wide"),
        "up_k3": (True, 3, "wide"),
        "middle_k3": (False, 3, "wide"),
        "middle_k7": (False, 7, "wide"),
        "middle_k7_narrow": (False, 7, "narrow"),
    }
    for study in (whole, kernels):
        recipes = list(study.recipes.values())
        others = [recipe.model_copy(update={"model": recipes[0].model}) for recipe in recipes]
        assert all(recipe == recipes[0] for recipe in others)
        assert {recipe.model.drop_path for recipe in recipes} == {0.1}
