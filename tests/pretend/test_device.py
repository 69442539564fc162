"""Faults that a CPU does not show, planted: the pretended GPU finds each sort. And its autocast is CUDA's."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import torch
from pretend.backend import NAME, Stream
from pretend.device import DeviceMixError, PretendedGpu
from pretend.training import pretended_gpu, pretended_runtime, waits_in_steps
from samples import tiny_recipe

from jpegcurr.runtime import Runtime
from jpegcurr.training import loop
from jpegcurr.training.augment import augment, policies
from jpegcurr.training.train import train

DEVICE = f"{NAME}:0"


def run(betons: Path, folder: Path) -> PretendedGpu:
    """Train one step of one micro-batch."""
    short = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "evaluate=[]", "batch.per_device=48")
    recipe = tiny_recipe(
        betons, folder, *short, "batch.size=48", "mix.mixup=0.8", "augment.policy=rand-m9", "model.name=test_vit"
    )
    with pretended_gpu() as gpu:
        train(recipe, folder / "run", runtime=pretended_runtime())
    return gpu


WAITING: dict[str, Callable[[torch.Tensor], object]] = {
    "item()": lambda numbers: float(numbers.sum()),
    "nonzero()": lambda numbers: numbers.nonzero(),
    "equal()": lambda numbers: torch.equal(numbers, numbers),
    "unique()": lambda numbers: numbers.unique(),
    "masked_select()": lambda numbers: numbers.masked_select(numbers > 2),
    "tolist()": lambda numbers: numbers.tolist(),
    "an index that is a mask": lambda numbers: numbers[numbers > 2],
    "an index on the host": lambda numbers: numbers[torch.tensor([1, 0])],
    "a copy to the host of 16 bytes": lambda numbers: numbers.cpu(),
    "a copy to the device of 4 bytes without non_blocking": lambda numbers: torch.tensor([1.0], device=numbers.device),
    "a copy to the device of 262144 bytes that are not page-locked": lambda numbers: torch.zeros(1 << 16).to(
        numbers.device, non_blocking=True
    ),
}


def test_every_wait_is_named_with_its_file_and_line() -> None:
    with PretendedGpu() as gpu:
        numbers = torch.arange(4.0).to(DEVICE, non_blocking=True)
        for wait in WAITING.values():
            wait(numbers)
        assert bool(numbers[0] < 1)
    *named, _ = gpu.waits
    assert [wait.what for wait in named] == list(WAITING)
    first = next(
        number for number, line in enumerate(Path(__file__).read_text().splitlines(), 1) if "float(numbers.sum())" in line
    )
    assert named[0].place == f"tests/pretend/test_device.py:{first}"


def test_what_a_gpu_does_by_itself_is_no_wait() -> None:
    with PretendedGpu() as gpu:
        numbers = torch.arange(6.0, device=DEVICE).view(2, 3)
        numbers[:, 0] = 5
        numbers[numbers.long()[0, :1] % 2] *= 2 * numbers.mean()
        (numbers + torch.tensor(2.0)).topk(2).indices.sum()
        torch.from_numpy(np.arange(4)).to(DEVICE, non_blocking=True)
    assert gpu.waits == []
    assert gpu.faults == []


def test_tensors_of_two_devices_are_refused() -> None:
    with PretendedGpu(), pytest.raises(DeviceMixError, match=r"add at tests/pretend/test_device.py:\d+: Expected all tensors"):
        torch.ones(3, device=DEVICE) + torch.ones(3)


def upload_early(runtime: Runtime, memory: torch.Tensor) -> None:
    runtime.upload(memory)
    memory.fill_(1)


def read_early(runtime: Runtime, memory: torch.Tensor) -> None:
    with runtime._backend.stream(Stream()):
        uploaded = memory.to(DEVICE, non_blocking=True)
    uploaded.sum()


def forget_record(runtime: Runtime, memory: torch.Tensor) -> None:
    stream = Stream()
    with runtime._backend.stream(stream):
        uploaded = memory.to(DEVICE, non_blocking=True)
    Stream.current.wait_stream(stream)
    uploaded.sum()


def download_blindly(runtime: Runtime, memory: torch.Tensor) -> None:
    runtime.upload(memory).to("cpu", non_blocking=True)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (upload_early, "page-locked memory was changed while it was copied"),
        (read_early, "memory of another stream is used before that stream has made it"),
        (forget_record, "memory of another stream is used without record_stream"),
        (download_blindly, "a copy to the host that nobody waits for"),
    ],
)
def test_races_are_found(fault: Callable[..., None], complaint: str) -> None:
    runtime = pretended_runtime()
    with PretendedGpu() as gpu:
        memory = runtime.memory(2, 3).zero_()
        runtime.upload(memory).sum()
        assert float(runtime.upload(memory).sum()) == 0
        assert gpu.faults == []
        fault(runtime, memory)
    assert [text.partition(": ")[2] for text in gpu.faults] == [complaint]


def look_at_the_loss(patch: Any) -> None:
    real = loop.update
    patch(loop, "update", lambda *args: (args[3].item(), real(*args)))


def index_on_the_host(patch: Any) -> None:
    real = policies._apply

    def planted(images: torch.Tensor, *rest: Any) -> None:
        images[torch.from_numpy(np.arange(2))] += 0
        real(images, *rest)

    patch(policies, "_apply", planted)


@pytest.mark.parametrize(
    ("fault", "phase", "what"), [(look_at_the_loss, "update", "item()"), (index_on_the_host, "policy", "an index on the host")]
)
def test_a_wait_in_a_step_is_found(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[..., None], phase: str, what: str
) -> None:
    fault(monkeypatch.setattr)
    gpu = run(betons, tmp_path)
    assert (phase, what) in [wait[:2] for wait in waits_in_steps(gpu)]


def test_targets_on_the_host_and_a_buffer_that_is_used_again_are_found(
    betons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = augment.mix
    with monkeypatch.context() as patch:
        patch.setattr(augment, "mix", lambda images, targets, *rest: real(images, targets.cpu(), *rest))
        with pytest.raises(DeviceMixError):
            run(betons, tmp_path)
    kept: dict[tuple[int, ...], torch.Tensor] = {}
    memory = Runtime.memory
    monkeypatch.setattr(Runtime, "memory", lambda runtime, *shape: kept.setdefault(shape, memory(runtime, *shape)))
    short = ("curriculum=[{data: clean, until_epoch: 1}]", "schedule.warmup_epochs=0", "evaluate=[]", "model.name=test_vit")
    with pretended_gpu() as gpu:
        train(tiny_recipe(betons, tmp_path, *short), tmp_path / "other", runtime=pretended_runtime())
    assert any("page-locked memory was changed" in fault for fault in gpu.faults)


# The same operations on torch's fake CUDA tensors, which go through CUDA's own autocast. Only forward, since what is to be
# differentiated asks the driver, and in a process in which no other device is known.
NETWORK = """
import timm, torch
from unittest import mock
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

class Log(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            print(func._schema.name.removeprefix("aten::"), str(out.dtype))
        return out

net = timm.models.convnext.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), num_classes=10, ls_init_value=1e-6)

def forward(device, log):
    for part in net.modules():
        for name, weight in part._parameters.items():
            new = None if weight is None else torch.nn.Parameter(torch.empty(weight.shape, device=device))
            part._parameters[name] = new
    images, targets = torch.zeros(2, 3, 64, 64, device=device), torch.zeros(2, 10, device=device)
    with log, torch.autocast(device, torch.bfloat16):
        return torch.nn.functional.cross_entropy(net(images), targets)
"""
ON_CUDA = """
known = mock.patch("torch.cuda.is_available", lambda: True), mock.patch("torch.cuda.is_bf16_supported", lambda *_, **__: True)
with FakeTensorMode(), known[0], known[1]:
    forward("cuda", Log())
"""


def test_autocast_is_that_of_cuda() -> None:
    done = subprocess.run([forked.PYTHON, "-c", NETWORK + ON_CUDA], capture_output=True, text=True, check=True)
    here: dict[str, Any] = {}
    exec(NETWORK, here)  # noqa: S102
    with PretendedGpu(values=False) as gpu, torch.no_grad():
        here["forward"](NAME, gpu.named("forward"))
    ours = [(one.name, str(one.outputs[0].dtype)) for one in gpu.operations if one.phase == "forward"]
    cuda = [tuple(line.split()) for line in done.stdout.splitlines()]
    names = {name for name, _ in ours} & {name for name, _ in cuda}
    assert {"convolution", "addmm", "gelu", "_to_copy", "_log_softmax", "mean"} <= names
    assert [one for one in ours if one[0] in names] == [one for one in cuda if one[0] in names]
    assert {name for name, _ in ours} - names == {"native_layer_norm"}, "which gives three tensors"
