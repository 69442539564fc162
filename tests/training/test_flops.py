"""Operations of training on an image, against published counts, and the share of a device's peak."""

import pytest
import timm
import torch

import jpegcurr.training.models.isotropic  # noqa: F401 (registers its models with timm)
from jpegcurr.training.flops import Utilisation, mfu, multiply_adds, peak_flops, training_flops


def model_of(name: str, **options: object) -> torch.nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options)


@pytest.mark.parametrize(
    ("name", "giga"),
    [("convnext_tiny", 26.07), ("convnext_small", 51.04), ("convnext_base", 90.72), ("convnext_large", 204.1)],
)
def test_convnexts_cost_what_was_counted_by_hand(name: str, giga: float) -> None:
    assert training_flops(model_of(name), 224) / 1e9 == pytest.approx(giga, rel=3e-4)


def test_resnets_cost_three_times_their_published_forward_less_the_gradient_of_the_image() -> None:
    """4.089 G multiply-adds, as torchvision counts them; the stem has 7 x 7 x 3 weights for 64 channels of 112 x 112."""
    stem = 2 * 112 * 112 * 64 * 7 * 7 * 3
    assert training_flops(model_of("resnet50"), 224) == pytest.approx(6 * 4.089e9 - stem, rel=1e-3)


def test_groups_count_by_their_size_and_depthwise_convolutions_not_at_all() -> None:
    def conv(groups: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.Conv2d(8, 8, 3, padding=1, groups=groups))

    stem = 2 * 2 * 8 * 3 * 16
    assert training_flops(conv(8), 4) == stem
    assert training_flops(conv(4), 4) == stem + 3 * 2 * 8 * 2 * 9 * 16
    assert training_flops(conv(1), 4) == stem + 3 * 2 * 8 * 8 * 9 * 16


@pytest.mark.parametrize(
    ("name", "size", "giga"),
    [
        ("convnext_tiny", 224, 4.456),
        ("convnext_tiny", 384, 13.09),
        ("convnext_base", 384, 45.12),  # 47.0 in the authors' table of 22k models, 45.0 in that of 1k
        ("convnext_large", 384, 100.98),
        ("convnext_isotropic_small", 224, 4.286),
        ("resnet50", 224, 4.089),
    ],
)
def test_the_forward_pass_costs_what_papers_call_flops(name: str, size: int, giga: float) -> None:
    assert multiply_adds(model_of(name), size) / 1e9 == pytest.approx(giga, abs=0.005)


def test_linear_layers_count_however_they_are_called() -> None:
    """BEiT gives the weight of its attention to ``linear`` itself; its blocks are those of ViT."""
    vit, beit = (training_flops(model_of(f"{name}_base_patch16_224"), 224) for name in ("vit", "beit"))
    assert beit == pytest.approx(vit, rel=1e-3)


def test_frozen_weights_cost_no_gradient() -> None:
    model = model_of("test_convnext")
    whole = training_flops(model, 64)
    model.requires_grad_(False)
    forward = training_flops(model, 64)
    model.get_classifier().requires_grad_(True)
    head = 2 * model.get_classifier().weight.numel()
    assert whole > 2.9 * forward
    assert training_flops(model, 64) == forward + head


def test_a_larger_image_costs_as_much_more_as_it_has_pixels() -> None:
    model = model_of("test_convnext", num_classes=0)
    assert training_flops(model, 128) == 4 * training_flops(model, 64)


def test_the_model_is_neither_run_nor_changed() -> None:
    model = timm.create_model("resnet18", num_classes=4).eval()  # its batch norms count their batches
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = torch.get_rng_state()
    with torch.no_grad():
        training_flops(model, 32)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.grad is None and tensor.requires_grad for tensor in model.parameters())
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    ("name", "dtype", "peak"),
    [
        ("NVIDIA H200", torch.bfloat16, 989e12),
        ("NVIDIA H100 80GB HBM3", torch.float16, 989e12),
        ("NVIDIA H100 PCIe", torch.bfloat16, 756e12),
        ("NVIDIA A100-SXM4-80GB", torch.bfloat16, 312e12),
        ("NVIDIA A100 80GB PCIe", torch.float32, 156e12),
        ("NVIDIA L40S", torch.bfloat16, 362e12),
        ("NVIDIA L4", torch.bfloat16, 121e12),
        ("NVIDIA GeForce RTX 4090", torch.bfloat16, 165e12),
        ("NVIDIA GeForce RTX 3090", torch.bfloat16, 71e12),
        ("NVIDIA RTX A6000", torch.bfloat16, 155e12),
        ("Tesla V100-SXM2-16GB", torch.float16, 125e12),
        ("Tesla T4", torch.float16, 65e12),
        ("Tesla T4", torch.bfloat16, None),
        ("Tesla V100-SXM2-16GB", torch.float32, None),
        ("NVIDIA H200", torch.float64, None),
        ("NVIDIA H200 NVL", torch.bfloat16, None),
        ("NVIDIA H200 MIG 1g.18gb", torch.bfloat16, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", torch.bfloat16, None),
        ("NVIDIA L40", torch.bfloat16, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", torch.bfloat16, None),
        ("AMD Instinct MI300X", torch.bfloat16, None),
    ],
)
def test_peaks_are_the_vendors_and_of_that_very_device(name: str, dtype: torch.dtype, peak: float | None) -> None:
    assert peak_flops(name, dtype) == peak


def test_utilisation_is_a_share_of_the_peak() -> None:
    assert mfu(26.07e9, 5000, 989e12) == pytest.approx(0.1318, rel=1e-3)
    model = model_of("convnext_tiny")
    share = Utilisation(model, 989e12)
    assert share.at(5000, 224) is None, "not counted"
    for size in (224, 64):
        share.count(size)
    assert share.at(5000, 224) == pytest.approx(0.1318, rel=1e-3)
    assert share.at(5000, 64) < 0.02
    model.stages.requires_grad_(False)
    share.count(224)
    assert share.at(5000, 224) < 0.1, "frozen weights have no gradients to be computed"
    unknown = Utilisation(model, None)
    unknown.count(224)
    assert unknown.at(5000, 224) is None


def test_a_network_that_cannot_be_counted_has_no_utilisation_and_trains(caplog: pytest.LogCaptureFixture) -> None:
    """As with timm's fast norm on the meta device, which ended a run on a known GPU when its first epoch was to be saved."""

    class Odd(torch.nn.Linear):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images.flatten(1)) * float(images.sum())

    share = Utilisation(Odd(3 * 32 * 32, 4), 989e12)
    for _ in range(2):
        share.count(32)
    assert share.at(5000, 32) is None
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "mfu is not known: the operations of the network cannot be counted"
    ]
