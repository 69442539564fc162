"""Pretrained weights, and a comparison of the models with the paper's."""

from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from samples import tiny_recipe
from torch.nn.functional import conv2d, gelu, layer_norm, linear

from jpegcurr.errors import RecipeError, UsageError
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.runtime import Runtime
from jpegcurr.training.loop import StepInfo
from jpegcurr.training.models.create import create_model
from jpegcurr.training.models.pretrained import count_classes, load_weights
from jpegcurr.training.train import train

StateDict = dict[str, torch.Tensor]
DIMS, DEPTHS = (40, 80, 160, 320), (2, 2, 6, 2)


def authors_weights(classes: int, seed: int = 0) -> StateDict:
    """Return random weights of a ConvNeXt-Atto by the names of the authors' ``models/convnext.py``."""
    random = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random) / max(1, shape[-1] * shape[-2] if len(shape) > 2 else 1) ** 0.5 / 5

    weights: StateDict = OrderedDict()

    def put(name: str, *shape: int) -> None:
        weights[f"{name}.weight"] = 1 + weight(*shape) if len(shape) == 1 else weight(*shape)
        weights[f"{name}.bias"] = weight(shape[0])

    put("downsample_layers.0.0", DIMS[0], 3, 4, 4)
    put("downsample_layers.0.1", DIMS[0])
    for stage in range(1, 4):
        put(f"downsample_layers.{stage}.0", DIMS[stage - 1])
        put(f"downsample_layers.{stage}.1", DIMS[stage], DIMS[stage - 1], 2, 2)
    for stage, (dim, depth) in enumerate(zip(DIMS, DEPTHS, strict=True)):
        for block in range(depth):
            name = f"stages.{stage}.{block}"
            weights[f"{name}.gamma"] = weight(dim)
            put(f"{name}.dwconv", dim, 1, 7, 7)
            put(f"{name}.norm", dim)
            put(f"{name}.pwconv1", 4 * dim, dim)
            put(f"{name}.pwconv2", dim, 4 * dim)
    put("norm", DIMS[-1])
    put("head", classes, DIMS[-1])
    return weights


def authors_forward(weights: StateDict, x: torch.Tensor) -> torch.Tensor:
    """Compute the authors' ConvNeXt, from their paper's figure 4 and ``models/convnext.py``."""

    def of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights[f"{name}.weight"], weights[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:  # over the channels
        x = x.permute(0, 2, 3, 1)
        return layer_norm(x, x.shape[-1:], *of(name), eps=1e-6).permute(0, 3, 1, 2)

    for stage, depth in enumerate(DEPTHS):
        before = f"downsample_layers.{stage}"
        if stage == 0:
            x = norm(conv2d(x, *of(f"{before}.0"), stride=4), f"{before}.1")
        else:
            x = conv2d(norm(x, f"{before}.0"), *of(f"{before}.1"), stride=2)
        for block in range(depth):
            name = f"stages.{stage}.{block}"
            y = norm(conv2d(x, *of(f"{name}.dwconv"), padding=3, groups=x.shape[1]), f"{name}.norm").permute(0, 2, 3, 1)
            y = linear(gelu(linear(y, *of(f"{name}.pwconv1"))), *of(f"{name}.pwconv2")) * weights[f"{name}.gamma"]
            x = x + y.permute(0, 3, 1, 2)
    return linear(layer_norm(x.mean((2, 3)), x.shape[1:2], *of("norm"), eps=1e-6), *of("head"))


@pytest.fixture
def published() -> Path:
    """Write a checkpoint as the authors' program does: weights, and a Namespace of its options."""
    path = Path("convnext.pth")
    torch.save({"model": authors_weights(10), "epoch": 299, "args": Namespace(model="convnext_atto", lr=4e-3)}, path)
    return path


def test_the_authors_checkpoint_computes_what_theirs_does(published: Path) -> None:
    model = create_model(ModelSection(name="convnext_atto", checkpoint=published), 10).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = authors_forward(authors_weights(10), images)
    assert (model(images) - expected).abs().max() < 2e-5 * expected.abs().max()


def test_a_head_for_other_classes_is_re_initialised(published: Path) -> None:
    section = ModelSection(name="convnext_atto", checkpoint=published, head_init_scale=0.001)
    model = create_model(section, 7)
    assert model.head.fc.weight.shape == (7, DIMS[-1])
    assert 0 < model.head.fc.weight.abs().max() < 1e-4
    assert torch.equal(model.stem[0].weight, authors_weights(10)["downsample_layers.0.0.weight"])


def test_head_init_scale_reaches_every_model_and_only_a_new_head() -> None:
    published = timm.create_model("test_efficientnet", num_classes=5)
    torch.save(published.state_dict(), "five.pth")
    section = ModelSection(name="test_efficientnet", checkpoint=Path("five.pth"), head_init_scale=0.001)
    new, kept = create_model(section, 7), create_model(section, 5)
    assert 0 < new.classifier.weight.abs().max() < 0.001, "timm's starts at 0.38"
    assert torch.equal(kept.classifier.weight, published.classifier.weight)
    torch.manual_seed(0)
    timms = timm.create_model("test_convnext", num_classes=4, head_init_scale=0.01)
    torch.manual_seed(0)
    ours = create_model(ModelSection(name="test_convnext", head_init_scale=0.01), 4)
    assert torch.equal(ours.head.fc.weight, timms.head.fc.weight)


def test_files_of_timm_and_runs_are_started_from(trained: Path) -> None:
    model = timm.create_model("test_convnext", num_classes=4)
    torch.save(model.state_dict(), "timm.pth")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, "wrapped.pth")
    save_file(model.state_dict(), "timm.safetensors")
    for file in ("timm.pth", "wrapped.pth", "timm.safetensors"):
        again = create_model(ModelSection(name="test_convnext", checkpoint=Path(file)), 4)
        assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items()), file
    run = timm.create_model(f"local-dir:{trained}", pretrained=True).state_dict()
    again = create_model(ModelSection(name="test_convnext", checkpoint=trained), 4)
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in run.items())


class _Harm:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harmed"),))  # type: ignore[return-value]


def test_a_pickle_that_would_do_something_is_refused() -> None:
    torch.save({"model": {}, "args": _Harm()}, "harm.pth")
    with pytest.raises(UsageError, match=r"harm\.pth cannot be read as weights"):
        load_weights(Path("harm.pth"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize("data", [b"", b"text", b"\x80\x04N.", b"PK\x03\x04"])
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_holds_no_weights_is_reported(data: bytes, name: str) -> None:
    Path(name).write_bytes(data)
    with pytest.raises(UsageError, match=r"a\.(pth|safetensors) (cannot be read as weights|holds something other)"):
        load_weights(Path(name))


def test_a_missing_checkpoint_and_one_of_another_model_are_reported(published: Path, cpu: Runtime, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.pth does not exist"):
        create_model(ModelSection(name="convnext_atto", checkpoint=Path("gone.pth")), 10)
    Path("gone").mkdir()
    with pytest.raises(UsageError, match=r"gone/model\.safetensors does not exist"):  # before the missing betons are reported
        train(tiny_recipe(Path("nowhere"), tmp_path, "model.checkpoint=gone"), Path("run"), runtime=cpu)
    message = (
        r"'convnext_femto' cannot start from convnext\.pth: stem\.0\.weight is \[40, 3, 4, 4\] where the model has "
        r"\[48, 3, 4, 4\], .* \d+ tensors in all\. The weights fit 'convnext_atto': give that name\.$"
    )
    with pytest.raises(RecipeError, match=message):
        create_model(ModelSection(name="convnext_femto", checkpoint=published), 10)
    torch.save({"fc.weight": torch.zeros(3, 8), "trunk.weight": torch.zeros(8, 8)}, "other.pth")
    message = r"'test_resnet' cannot start from other\.pth: conv1.* is missing, .*trunk\.weight is not in the model.* No model "
    with pytest.raises(RecipeError, match=message):
        create_model(ModelSection(name="test_resnet", checkpoint=Path("other.pth")), 10)
    with pytest.raises(RecipeError, match="timm cannot create 'resnet18' with these settings"):
        create_model(ModelSection(name="resnet18", layer_scale=1e-6), 10)


def test_classes_are_counted_by_the_usual_names() -> None:
    assert count_classes(authors_weights(12)) == 12
    assert count_classes(timm.create_model("test_convnext", num_classes=5).state_dict()) == 5
    assert count_classes({"stem.weight": torch.zeros(3, 3)}) is None


def test_layer_scale_begins_where_it_is_asked_to() -> None:
    for value, expected in ((None, 1e-6), (0.1, 0.1)):
        gamma = create_model(ModelSection(name="convnext_atto", layer_scale=value), 10).stages[0].blocks[0].gamma
        assert torch.allclose(gamma, torch.tensor(expected))


def test_a_run_starts_from_a_checkpoint_and_resumes_without_it(betons: Path, cpu: Runtime, tmp_path: Path) -> None:
    model = timm.create_model("test_convnext", num_classes=9)
    torch.save(model.state_dict(), "start.pth")
    still = (
        "model.checkpoint=start.pth",
        "evaluate=[]",
        "curriculum=[{data: clean, until_epoch: 1}, {data: q50, until_epoch: 2}]",
    )
    rates = ("schedule.lr=1e-9", "schedule.min_lr=0", "schedule.warmup_epochs=0", "optim.weight_decay=0")
    recipe = tiny_recipe(betons, tmp_path, *still, *rates)

    def stop(at: StepInfo) -> None:
        if (at.plan.epoch, at.step) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, Path("run"), runtime=cpu, on_step=stop)
    Path("start.pth").unlink()
    train(recipe, Path("run"), runtime=cpu, resume=True)
    ended = load_weights(Path("run"))
    assert torch.allclose(ended["stem.0.weight"], model.state_dict()["stem.0.weight"], atol=1e-6)
    assert count_classes(ended) == 4


# Parameters, and multiply-adds of convolutions and linear layers at 224 pixels, from the authors' README and their program.
@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("convnext_tiny", 28_589_128, 4.456),
        ("convnext_small", 50_223_688, 8.684),
        ("convnext_base", 88_591_464, 15.355),
        ("convnext_large", 197_767_336, 34.361),
        ("convnext_xlarge", 350_196_968, None),
    ],
)
def test_models_are_as_large_as_the_paper_says(name: str, parameters: int, gmacs: float | None) -> None:
    counted = 0

    def count(module: torch.nn.Module, _arguments: object, out: torch.Tensor) -> None:
        nonlocal counted
        counted += out.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        model(torch.empty(1, 3, 224, 224))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert gmacs is None or counted / 1e9 == pytest.approx(gmacs, abs=0.0005)
