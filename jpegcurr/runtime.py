"""The runtime of a run: its device, its precision, and the processes that train together.

This is the only module that asks for CUDA. ``World`` and ``joined`` are about processes, ``Runtime`` and ``resolve_runtime``
about the device. What ``Runtime`` does on a GPU goes through ``torch.get_device_module``, so that all of it also runs on the
pretended GPU of the tests (tests/pretend).
"""

import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from jpegcurr.errors import PeerError, UsageError

# Longer than the encoding of any file that the other processes wait for. Over gloo, which all use once per step, the others
# notice at once when a process dies; torchrun ends those that wait over NCCL.
_PATIENCE = timedelta(hours=24)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class World:
    """This process among those that train together: ``rank`` of ``ranks``, ``local_rank`` of ``local_ranks`` on its machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that logs and writes."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum ``tensor`` over all processes, in place, and return it."""
        if self.ranks > 1:
            distributed.all_reduce(tensor)
        return tensor

    def total(self, number: int) -> int:
        """Return the sum of ``number`` over all processes."""
        return int(self.sum(torch.tensor(number))) if self.ranks > 1 else number

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is true in any process."""
        return bool(self.total(flag))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Return the ``tensor`` of every process, by rank; all are on the host and have one shape."""
        if self.ranks == 1:
            return [tensor]
        tensors = [torch.empty_like(tensor) for _ in range(self.ranks)]
        distributed.all_gather(tensors, tensor)
        return tensors

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others, which find the files that the main one created."""
        if not self.is_main:
            self.total(0)
        yield
        if self.is_main:
            self.total(0)


ALONE = World()


@contextmanager
def joined(backend: str = "gloo") -> Iterator[World]:
    """Join the processes that torchrun started, according to its environment variables, for the time of the block.

    Raises:
        UsageError: the environment names processes that cannot be reached.
        PeerError: another process has ended, or failed where this one waited for it.
    """
    world = _world_of_environment()
    if world.ranks == 1:
        yield world
        return
    try:
        distributed.init_process_group(backend, rank=world.rank, world_size=world.ranks, timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"RANK and WORLD_SIZE are set, but the other processes cannot be reached: {error}") from None
    try:
        yield world
        distributed.destroy_process_group()
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error):
            raise PeerError("Another process of this run has ended; its own message says why.") from error
        raise


def _world_of_environment() -> World:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    values = {name: os.environ.get(name, default) for name, default in alone.items()}
    try:
        return World(*(int(value) for value in values.values()))
    except ValueError:
        variables = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise UsageError(f"{variables}: torchrun sets these to numbers. Unset them to train with one process.") from None


def collective_backend() -> str:
    """Return the backend through which processes exchange tensors."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, the dtype of matrix work on it, and a sentence that gives the reason for both.

    Weights stay float32; with another ``dtype`` the forward pass runs under autocast. Images are channels_last. ``compile``
    says whether training compiles the model, ``world`` which processes train together, ``kernels`` whether blocks of ConvNeXt
    are trained by kernels of our own.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str
    compile: bool = False
    world: World = ALONE
    kernels: bool = False

    @property
    def on_cpu(self) -> bool:
        """Whether the device is the host itself."""
        return self.device.type == "cpu"

    @property
    def jpeg_on_device(self) -> bool:
        """Whether JPEGs on the fly after the resize are arithmetic on the device; on a CPU a codec on threads is faster."""
        return not self.on_cpu

    @property
    def eager_half(self) -> bool:
        """Whether training is in half precision on a GPU, kernel by kernel: not compiled."""
        return not self.on_cpu and self.dtype != torch.float32 and not self.compile

    @property
    def _backend(self) -> Any:
        """The module of torch that is about the device, ``torch.cuda``."""
        return torch.get_device_module(self.device)

    @property
    def name(self) -> str:
        """The GPU's name as its driver gives it, or ``cpu``."""
        return "cpu" if self.on_cpu else str(self._backend.get_device_name(self.device))

    def memory(self, *shape: int) -> torch.Tensor:
        """Return uint8 memory on the host, page-locked if batches are copied from it to a GPU."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=not self.on_cpu)

    def free_memory(self) -> int:
        """Return the bytes of a GPU that are free, or kept by torch for what comes."""
        kept = self._backend.memory_reserved(self.device) - self._backend.memory_allocated(self.device)
        return int(self._backend.mem_get_info(self.device)[0] + kept)

    def peak_memory(self, work: Callable[[], object]) -> int:
        """Return the most bytes of a GPU that ``work`` needs at a time, beside what is allocated already."""
        before = self._backend.memory_allocated(self.device)
        self._backend.reset_peak_memory_stats(self.device)
        work()
        return int(self._backend.max_memory_allocated(self.device) - before)

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Start a copy to the device and return it at once; do not change ``tensor`` afterwards. On a CPU, return it itself.

        The copy has a stream of its own, so it takes place while the device still computes on the batch before, and only work
        that is started after this call waits for it. Memory that is not page-locked is copied into such memory first, since
        the driver may wait for the device to copy from it. Either memory may be forgotten by the caller: torch uses page-locked
        memory again only after the copies from it.
        """
        if self.on_cpu:
            return tensor
        source = tensor if tensor.is_pinned() else tensor.pin_memory()
        copying, computing = _copy_stream(self.device), self._backend.current_stream(self.device)
        with self._backend.stream(copying):
            uploaded = source.to(self.device, non_blocking=True)
        computing.wait_stream(copying)
        uploaded.record_stream(computing)  # its memory belongs to the other stream, which must not use it again too early
        return uploaded

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of mixed precision; it does nothing for float32."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """Return the loss scaler that keeps float16 gradients from vanishing; it does nothing for other dtypes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return ``model`` as it is trained: compiled if ``compile`` is set, with gradients averaged over the processes.

        State and parameters stay those of ``model``, which evaluation and checkpoints use directly.
        """
        if self.compile:
            # A size of images gets a graph of its own: by default the second one makes a slower graph for any size.
            model = torch.compile(model, dynamic=False)  # type: ignore[assignment]
        if self.world.ranks > 1:
            devices = None if self.on_cpu else [self.device]
            model = torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        return model

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device in channels_last."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def rng_state(self) -> dict[str, torch.Tensor]:
        """Return the state of every torch generator that work on this device draws from, uint8."""
        states = {"cpu": torch.get_rng_state()}
        if not self.on_cpu:
            states[self.device.type] = self._backend.get_rng_state(self.device)
        return states

    def set_rng_state(self, states: dict[str, torch.Tensor]) -> None:
        """Restore the states that ``rng_state`` returned; a CPU ignores the state of CUDA."""
        torch.set_rng_state(states["cpu"])
        if not self.on_cpu and self.device.type in states:
            self._backend.set_rng_state(states[self.device.type], self.device)


@cache
def _copy_stream(device: torch.device) -> Any:
    """Return the stream of a GPU in which batches are copied to it."""
    return torch.get_device_module(device).Stream(device)


def resolve_runtime(
    device: str = "auto",
    *,
    precision: str = "auto",
    compile: bool | None = False,
    world: World = ALONE,
    kernels: bool = False,
) -> Runtime:
    """Choose ``cuda`` in bfloat16 if there is a GPU, else ``cpu`` in float32; ``device`` and ``precision`` override the choice.

    With more than one process, every process takes the GPU of its ``world.local_rank``. ``compile`` None, the choice of
    ``train`` and ``study``, compiles on a GPU if what that takes is there, and not on a CPU, nor with
    ``kernels``.

    With float32 on a GPU, the products of matrices and convolutions are TF32's, in this whole process: inputs with 10 bits of
    mantissa, sums in float32. The reason says so.

    Raises:
        UsageError: the device or the precision is unknown, CUDA is asked for and absent, or ``kernels`` are and cannot be had.
    """
    if precision not in ("auto", *_DTYPES):
        raise UsageError(f"--precision {precision!r} is not known. Give auto, {', '.join(_DTYPES)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        reason = "found" if device == "cuda" else "no CUDA device"
    else:
        reason = "asked for"
    kind = device.partition(":")[0]
    if kind == "cpu":
        threads = torch.get_num_threads()
        resolved, name = torch.device("cpu"), f"{threads} thread{'' if threads == 1 else 's'}"
        dtype = _DTYPES.get(precision, torch.float32)
    elif kind == "cuda":
        resolved = _resolve_cuda(device, world)
        name, dtype = torch.cuda.get_device_name(resolved), _DTYPES.get(precision) or _fast_dtype(resolved)
    else:
        raise UsageError(f"--device {device!r} is not known. Give auto, cpu, cuda or cuda:N.")
    facts = [str(dtype).removeprefix("torch.") + (" autocast" if dtype != torch.float32 else ""), name]
    if kind == "cuda" and dtype == torch.float32:
        torch.set_float32_matmul_precision("high")
        facts[0] += " with TF32 products"
    if kernels:
        _check_kernels(resolved, compile)
        compile, remark = False, "kernels of our own"
    else:
        compile, remark = _choose_compile(resolved, compile)
    facts += [remark] if remark else []
    facts += [f"one of {world.ranks} processes"] if world.ranks > 1 else []
    return Runtime(resolved, dtype, f"{kind.upper()}, {', '.join(facts)} ({reason})", compile, world, kernels)


def compile_arguments(compile: bool | None) -> list[str]:
    """Return the arguments of a command line that stand for ``compile``; none for None, the default."""
    return [] if compile is None else ["--compile" if compile else "--no-compile"]


def _choose_compile(device: torch.device, wanted: bool | None) -> tuple[bool, str]:
    """Return whether to compile on ``device``, and a remark on it, which is empty if nothing has to be said."""
    if wanted is not None or device.type == "cpu":
        return bool(wanted), "compiled" if wanted else ""
    obstacle = _obstacle_to_compiling(device)
    return obstacle is None, "compiled" if obstacle is None else f"not compiled: {obstacle}"


def _check_kernels(device: torch.device, compile: bool | None) -> None:
    if compile:
        raise UsageError("--kernels and --compile exclude each other: torch.compile makes kernels of its own. Omit one.")
    if device.type == "cpu":
        raise UsageError("--kernels: the kernels are for a GPU, and training is on the CPU. Omit --kernels.")
    if obstacle := _obstacle_to_compiling(device):
        raise UsageError(f"--kernels: {obstacle}, and the kernels are Triton's. Omit --kernels.")


def _obstacle_to_compiling(device: torch.device) -> str | None:
    """Return what is lacking to make kernels for a GPU: Triton, which also needs a C compiler; None if it is there."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if torch.cuda.get_device_capability(device) < (7, 0):
        return "the GPU is too old for Triton"
    if not (os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang")))):
        return "there is no C compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python.h is missing (python3-dev)"
    return None


def _resolve_cuda(device: str, world: World) -> torch.device:
    if not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch finds no CUDA device. Omit --device to use the CPU.")
    if device == "cuda":  # torch.cuda.set_device takes no device without an index
        device = f"cuda:{world.local_rank}"
    try:
        resolved = torch.device(device)
        torch.cuda.get_device_name(resolved)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices.") from None
    torch.cuda.set_device(resolved)
    torch.backends.cudnn.benchmark = True
    return resolved


def _fast_dtype(device: torch.device) -> torch.dtype:
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, in the form of ``CUDA_VISIBLE_DEVICES``; an empty list on a CPU."""
    if not torch.cuda.is_available():
        return []
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return names or [str(number) for number in range(torch.cuda.device_count())]


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Restore torch's number of threads after the block: ffcv changes it on import and at the start of an epoch."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Disable TF32 in the block: it uses 10 of float32's 23 mantissa bits, in a GPU's convolutions by torch's own default."""
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)
