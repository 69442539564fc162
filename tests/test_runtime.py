"""The branches of runtime.py that only a GPU takes, through torch's own Python, with the answers of the driver given."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import pytest
import torch

from jpegcurr.errors import UsageError
from jpegcurr.runtime import World, resolve_runtime, whole_float32


@pytest.fixture
def gpus() -> Iterator[list[int]]:
    """Two GPUs; yields the numbers of those that were made current."""
    current: list[int] = []
    answers: dict[str, Any] = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 2,
        "torch.cuda.get_device_name": lambda _device=None: "NVIDIA H200",
        "torch.cuda.get_device_capability": lambda _device=None: (9, 0),
        "torch.cuda.is_bf16_supported": lambda **_: True,
        "torch.cuda.device.__init__": lambda *_: None,
        "torch.cuda.device.__enter__": lambda *_: None,
        "torch.cuda.device.__exit__": lambda *_: None,
        "torch._C._cuda_setDevice": current.append,
        "torch.cuda._check_stray_context": lambda _device: None,
        "jpegcurr.runtime.find_spec": lambda _name: object(),
        "jpegcurr.runtime.shutil.which": lambda name: f"/usr/bin/{name}",
        "jpegcurr.runtime.Path.is_file": lambda _path: True,
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer, create=True))
        stack.enter_context(mock.patch.dict("os.environ", {"CC": ""}))
        benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
        yield current
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


@pytest.mark.parametrize(
    ("device", "world", "number"),
    [("auto", World(), 0), ("cuda", World(), 0), ("cuda:1", World(), 1), ("auto", World(1, 2, 1, 2), 1)],
    ids=["auto", "cuda", "cuda:1", "the second of two processes"],
)
def test_a_device_has_an_index_and_becomes_the_current_one(gpus: list[int], device: str, world: World, number: int) -> None:
    """torch.cuda.set_device refuses a device without an index, so that every command died on a machine with one GPU."""
    runtime = resolve_runtime(device, world=world)
    assert gpus == [number]
    assert runtime.device == torch.device("cuda", number)
    assert runtime.dtype == torch.bfloat16
    assert not runtime.compile


def test_training_is_compiled_on_a_gpu_unless_something_is_missing(gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_runtime("auto", compile=None).reason == "CUDA, bfloat16 autocast, NVIDIA H200, compiled (found)"
    assert not resolve_runtime("auto", compile=False).compile
    assert not resolve_runtime("cpu", compile=None).compile
    for name, answer, why in (
        ("torch.cuda.get_device_capability", lambda _device: (6, 1), "the GPU is too old for Triton"),
        ("jpegcurr.runtime.find_spec", lambda _name: None, "triton is not installed"),
        ("jpegcurr.runtime.shutil.which", lambda _name: None, "there is no C compiler"),
        ("jpegcurr.runtime.Path.is_file", lambda _path: False, "Python.h is missing"),
    ):
        with mock.patch(name, answer):
            runtime = resolve_runtime("auto", compile=None)
            assert not runtime.compile
            assert f"not compiled: {why}" in runtime.reason
            assert resolve_runtime("auto", compile=True).compile, "whoever asks for it gets it, or torch's own error"


def test_kernels_are_for_a_gpu_with_triton_and_not_for_compiled_models(gpus: list[int]) -> None:
    runtime = resolve_runtime("auto", compile=None, kernels=True)
    assert (runtime.kernels, runtime.compile) == (True, False)
    assert runtime.reason == "CUDA, bfloat16 autocast, NVIDIA H200, kernels of our own (found)"
    with pytest.raises(UsageError, match="--kernels and --compile exclude each other"):
        resolve_runtime("auto", compile=True, kernels=True)
    with pytest.raises(UsageError, match="--kernels: the kernels are for a GPU, and training is on the CPU"):
        resolve_runtime("cpu", kernels=True)
    with (
        mock.patch("jpegcurr.runtime.find_spec", return_value=None),
        pytest.raises(UsageError, match="--kernels: triton is not installed, and the kernels are Triton's"),
    ):
        resolve_runtime("auto", kernels=True)


def test_float32_on_a_gpu_has_tf32_products_and_says_so(gpus: list[int]) -> None:
    """mfu divides by the peak of TF32. Maps and channels, which compare small differences, do without it."""
    resolve_runtime("cuda")
    assert torch.get_float32_matmul_precision() == "highest"
    assert "float32 with TF32 products" in resolve_runtime("cuda", precision="float32").reason
    assert torch.get_float32_matmul_precision() == "high"
    with whole_float32():
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.backends.cudnn.allow_tf32
    assert torch.get_float32_matmul_precision() == "high"


def test_a_gpu_that_is_not_there_is_an_error(gpus: list[int]) -> None:
    refusal = mock.Mock(side_effect=AssertionError("Invalid device id"))
    with (
        mock.patch("torch.cuda.get_device_name", refusal),
        pytest.raises(UsageError, match="--device cuda:7: there are 2 CUDA devices"),
    ):
        resolve_runtime("cuda:7")
    assert not gpus


def test_a_compiled_model_has_a_graph_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    options: list[dict[str, Any]] = []
    monkeypatch.setattr(torch, "compile", lambda model, **given: options.append(given) or model)
    resolve_runtime("cpu", compile=True).prepare(torch.nn.Linear(2, 2))
    assert options == [{"dynamic": False}]
