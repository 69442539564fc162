"""Errors of the kernels for ``--kernels``, run on a CPU by Triton's interpreter, against torch; printed as JSON.

A program of its own, since triton decides on its import whether it interprets: TRITON_INTERPRET=1 must be set before.
"""

import json
from collections.abc import Callable

import timm
import torch
from networks import network, pictures
from torch.nn.functional import conv2d, layer_norm

from jpegcurr.training.models import depthwise_norm as depthwise_norm_module
from jpegcurr.training.models.depthwise_norm import KernelForward, count_blocks, depthwise_norm
from jpegcurr.training.models.half_precision import HalfPrecisionForward

SHAPES = [(1, 5, 3, 9), (2, 9, 2, 3), (3, 3, 1, 1)]
SMALL = 1e-4  # what is smaller is rounding
Tensors = list[torch.Tensor]


def plain(images: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    weight, bias, scale, shift = parameters
    maps = conv2d(images, weight, bias, padding=3, groups=images.shape[1]).permute(0, 2, 3, 1)
    return layer_norm(maps, (images.shape[1],), scale, shift, 1e-6).permute(0, 3, 1, 2)


def ours(images: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
    return depthwise_norm(images, *parameters, 1e-6)  # type: ignore[call-arg, misc, unused-ignore]


def tensors(n: int, c: int, h: int, w: int) -> Tensors:
    torch.manual_seed(0)
    return [torch.randn(shape) for shape in ((n, c, h, w), (c, 1, 7, 7), (c,), (c,), (c,), (n, c, h, w))]


def derived(call: Callable[..., torch.Tensor], given: Tensors) -> Tensors:
    """Return the result for all but the last of ``given``, and their gradients for the last."""
    leaves = [tensor.clone().requires_grad_() for tensor in given[:-1]]
    result = call(*leaves)
    result.backward(given[-1].to(result.dtype))
    return [result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def errors(ones: Tensors, others: Tensors) -> list[float]:
    pairs = zip(ones, others, strict=True)
    return [float((one - other).abs().max() / other.abs().max().clamp(min=SMALL)) for one, other in pairs]


def gradients(net: torch.nn.Module, call: torch.nn.Module, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        output = call(pictures(1, 32)).float()
    output.logsumexp(1).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {"output": output.detach(), **found}


def of_network() -> dict[str, object]:
    net = network(depths=(1, 1, 1, 1)).train()  # the interpreter is slow
    before = {name: value.clone() for name, value in net.state_dict().items()}
    call, half = KernelForward(net), KernelForward(HalfPrecisionForward(net, torch.bfloat16))
    expected, found = gradients(net, net), gradients(net, call)
    again = gradients(net, net)
    net.stages.requires_grad_(False)  # type: ignore[operator, union-attr]
    rounded = gradients(net, half, torch.bfloat16)
    return {
        "errors": dict(zip(expected, errors(list(found.values()), list(expected.values())), strict=True)),
        "same names": list(found) == list(expected),
        "in bfloat16": sum(float((rounded[name] - expected[name]).norm() / expected[name].norm()) for name in rounded)
        / len(rounded),
        "as it was": all(torch.equal(again[name], expected[name]) for name in expected)
        and all(torch.equal(value, before[name]) for name, value in net.state_dict().items()),
        "blocks": count_blocks(net),
        "frozen": [name for name in rounded if name.startswith("stages")],
    }


def of_convolutional_mlp() -> list[float]:
    """Return the errors of a block whose LayerNorm keeps the channels first."""
    block = timm.models.convnext.ConvNeXtBlock(6, conv_mlp=True, ls_init_value=0.5)
    call, images = KernelForward(block), torch.randn(1, 6, 3, 4)
    with torch.no_grad():
        return errors([call(images)], [block(images)])


def of_half_precision() -> dict[str, object]:
    given = tensors(1, 5, 2, 3)
    given[0] = given[0].to(torch.bfloat16)
    found = derived(ours, given)
    exact = derived(plain, [tensor.float() for tensor in given])
    return {"dtypes": [str(tensor.dtype) for tensor in found], "errors": errors(found, exact)}


def main() -> None:
    shapes = {str(shape): errors(derived(ours, tensors(*shape)), derived(plain, tensors(*shape))) for shape in SHAPES}
    depthwise_norm_module._SHARES = 2  # as with many pixels: a program sums over several rows, or tiles
    shapes["few programs"] = errors(derived(ours, tensors(*SHAPES[0])), derived(plain, tensors(*SHAPES[0])))
    empty = [list(tensor.shape) for tensor in derived(ours, tensors(0, 3, 2, 2))]
    results = {"shapes": shapes, "empty": empty, "network": of_network(), "conv_mlp": of_convolutional_mlp()}
    print(json.dumps({**results, "half": of_half_precision()}))


if __name__ == "__main__":
    main()
