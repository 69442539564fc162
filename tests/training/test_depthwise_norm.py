"""The kernels for ``--kernels``: against torch in Triton's interpreter, compiled for a GPU, and the models for them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import timm
import torch
from networks import network

from jpegcurr.errors import UsageError
from jpegcurr.runtime import Runtime
from jpegcurr.training.models.half_precision import kernel_blocks, prepare_for_training

triton = pytest.importorskip("triton")
TESTS = Path(__file__).parent.parent
ON_GPU = Runtime(torch.device("cuda:0"), torch.bfloat16, "as on a GPU", kernels=True)


def test_values_and_gradients_are_those_of_torch() -> None:
    """In a process of its own, since Triton decides on its import whether it interprets."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, TESTS / "kernel_errors.py"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    found = json.loads(printed.stdout)
    for shape, errors in found["shapes"].items():
        assert len(errors) == 6
        assert max(errors) < 1e-5, f"{shape}: result, images, weight, bias, norm's weight and bias: {errors}"
    assert found["empty"] == [[0, 3, 2, 2], [0, 3, 2, 2], [3, 1, 7, 7], [3], [3], [3]]
    assert max(found["conv_mlp"]) < 1e-5
    assert found["half"]["dtypes"] == ["torch.bfloat16"] * 2 + ["torch.float32"] * 4
    assert max(found["half"]["errors"]) < 0.02
    net = found["network"]
    assert net["same names"]
    assert net["as it was"]
    assert len(net["errors"]) > 40
    assert max(net["errors"].values()) < 1e-5
    assert 1e-4 < net["in bfloat16"] < 0.03, "computed in bfloat16, and close to float32"
    assert net["blocks"] == "4 of 4"
    assert net["frozen"] == []


def test_the_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter accepts more than Triton's compiler, which needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from jpegcurr.training.models import depthwise_norm as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # Triton 3.9 warns where it is not set
    half, single, number, channels = "*bf16", "*fp32", "i32", 768
    block_c, block_w = kernels._tile(channels, 14)
    tile = {"SIDE": 7, "BLOCK_W": block_w, "BLOCK_C": block_c}
    norm_types = [half, half, single, half, half, single, *[number] * 3]
    cases: tuple[tuple[Any, list[str], dict[str, int]], ...] = (
        (kernels._forward_kernel, [half, single, *[half] * 5, single, *[number] * 3, "fp32"], tile),
        (kernels._norm_backward_kernel, norm_types, {"BLOCK_P": block_w, "BLOCK_C": block_c}),
        (kernels._turned_kernel, [half, single, half, *[number] * 3], tile | {"BLOCK_C": 128}),
        (kernels._weight_kernel, [half, half, single, *[number] * 5], tile | {"BLOCK_TAPS": 8, "BLOCK_C": 64}),
    )
    for kernel, types, constants in cases:
        names = [name for name in kernel.arg_names if name not in constants]
        signature = dict(zip(names, types, strict=True)) | dict.fromkeys(constants, "constexpr")
        source = ASTSource(kernel, {name: signature[name] for name in kernel.arg_names}, constants)
        options = {"num_warps": kernels._warps(block_w * block_c) if constants["BLOCK_C"] == block_c else 4}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]
        assert "atom" not in compiled.asm["ptx"], "equal inputs give equal bits"


def test_blocks_that_are_not_alike_are_left_alone_and_counted() -> None:
    net = network()
    blocks = [block for stage in net.stages for block in stage.blocks]  # type: ignore[union-attr]
    blocks[0].conv_dw = torch.nn.Conv2d(blocks[0].conv_dw.in_channels, blocks[0].conv_dw.in_channels, 5, padding=2)
    blocks[1].norm = torch.nn.Identity()
    blocks[2].conv_dw.padding_mode = "circular"
    blocks[3].conv_dw.stride = (2, 2)
    blocks[4].conv_dw.bias = None
    assert kernel_blocks(net, ON_GPU) == f"{len(blocks) - 5} of {len(blocks)}"
    assert kernel_blocks(net, Runtime(torch.device("cpu"), torch.float32, "none")) is None


def test_a_model_without_such_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^--kernels: the model has no block that the kernels can .* Omit --kernels\.$"):
        kernel_blocks(timm.create_model("test_resnet"), ON_GPU)


def test_training_uses_them_and_an_error_leaves_the_model_as_it_was() -> None:
    net = network()
    prepared = prepare_for_training(net, ON_GPU)
    with mock.patch("jpegcurr.training.models.depthwise_norm.depthwise_norm", side_effect=MemoryError) as called:
        with pytest.raises(MemoryError), torch.autocast("cpu", torch.bfloat16):
            prepared(torch.randn(1, 3, 32, 32))
        assert called.call_count == 1
        assert net(torch.randn(1, 3, 32, 32)).shape == (1, 7)
