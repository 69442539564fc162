"""The forward pass in half precision that is not compiled, by autocast on a CPU, against autocast alone and against float32."""

import timm
import torch

from jpegcurr.training.models.half_precision import HalfPrecisionForward

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def gradients(net: torch.nn.Module, call: torch.nn.Module, dtype: torch.dtype | None) -> dict[str, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        output = call(IMAGES).float()
    output.logsumexp(1).sum().backward()
    return {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}


def error(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    squares = [(float((found[name] - exact[name]).square().sum()), float(exact[name].square().sum())) for name in exact]
    return (sum(one for one, _ in squares) / sum(other for _, other in squares)) ** 0.5


def test_gradients_are_those_of_autocast_and_nothing_stays_changed() -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_convnext", num_classes=4, ls_init_value=0.5).train()
    before = net(IMAGES)
    call = HalfPrecisionForward(net, torch.bfloat16)
    exact, plain = gradients(net, net, None), gradients(net, net, torch.bfloat16)
    found = gradients(net, call, torch.bfloat16)
    assert found.keys() == exact.keys()
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert 0 < error(found, exact) < 1.5 * error(plain, exact) < 0.05
    assert any(not torch.equal(found[name], plain[name]) for name in found)
    assert torch.equal(net(IMAGES), before)
    assert not any(getattr(module, "_fast_norm", False) for module in net.modules())


def test_frozen_parameters_get_no_gradients_and_other_networks_are_as_they_are() -> None:
    net = timm.create_model("test_convnext", num_classes=4)
    net.stages.requires_grad_(False)
    found = gradients(net, HalfPrecisionForward(net, torch.bfloat16), torch.bfloat16)
    assert found
    assert not any(name.startswith("stages") for name in found)
    plain = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 4, bias=False))
    expected = gradients(plain, plain, torch.bfloat16)["1.weight"].clone()
    assert torch.equal(gradients(plain, HalfPrecisionForward(plain, torch.bfloat16), torch.bfloat16)["1.weight"], expected)
