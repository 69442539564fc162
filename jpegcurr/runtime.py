"""Where and in which precision to compute: the only place that asks for CUDA."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from jpegcurr.errors import PeerError, UsageError

# Longer than the making of any file that the others wait for. A process that dies is seen at once by those who wait for it over
# gloo, as all do once a step; who waits over NCCL is ended by torchrun.
_PATIENCE = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class World:
    """This process is number ``rank`` of ``ranks``, and ``local_rank`` of the ``local_ranks`` on its machine."""

    rank: int = 0
    ranks: int = 1
    local_rank: int = 0
    local_ranks: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that speaks and writes."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of every process's ``tensor``, in its place."""
        if self.ranks > 1:
            distributed.all_reduce(tensor)
        return tensor

    def total(self, number: int) -> int:
        """The sum of every process's ``number``."""
        return int(self.sum(torch.tensor(number))) if self.ranks > 1 else number

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any of them."""
        return bool(self.total(flag))

    def gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """Every process's ``tensor`` (on the host, of one shape), by rank."""
        if self.ranks == 1:
            return [tensor]
        every = [torch.empty_like(tensor) for _ in range(self.ranks)]
        distributed.all_gather(every, tensor)
        return every

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process runs the block, then the others do: what it makes, they find."""
        if not self.is_main:
            self.total(0)
        yield
        if self.is_main:
            self.total(0)


ALONE = World()


@contextmanager
def joined(backend: str = "gloo") -> Iterator[World]:
    """Join the processes that torchrun started, as its environment says, for the time of the block.

    Raises:
        UsageError: the environment names processes that cannot be reached.
        PeerError: another of them has ended, or failed where this one waited for it.
    """
    world = _from_environment()
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


def _from_environment() -> World:
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    said = {name: os.environ.get(name, number) for name, number in alone.items()}
    try:
        return World(*(int(number) for number in said.values()))
    except ValueError:
        named = ", ".join(f"{name}={number!r}" for name, number in said.items())
        raise UsageError(f"{named}: these are torchrun's, and numbers. Unset them to train alone.") from None


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, the dtype of matrix work on it, and the sentence that says why.

    Weights stay float32; with another ``dtype`` the forward pass runs under autocast. Images are channels_last. ``compile``
    says whether training compiles the model; ``world`` which processes train together.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str
    compile: bool = False
    world: World = ALONE

    @property
    def name(self) -> str:
        """The GPU's, as its driver says; else ``cpu``."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    def memory(self, *shape: int) -> torch.Tensor:
        """Uint8 memory on the host, page-locked where batches go from there to a GPU."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """To the device, without waiting for it; ``tensor`` must not change afterwards (on a CPU it is what is returned)."""
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where ``dtype`` is not float32; does nothing otherwise."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def scaler(self) -> torch.amp.GradScaler:
        """What keeps float16's gradients from vanishing; does nothing for the other dtypes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def prepare(self, model: torch.nn.Module) -> torch.nn.Module:
        """The same model as it is trained: compiled if asked for, gradients averaged over the processes if there are several.

        State and parameters stay those of ``model``; evaluation and checkpoints never see what is around it.
        """
        if self.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if self.world.ranks > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            model = torch.nn.parallel.DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
        return model

    def place(self, model: torch.nn.Module) -> torch.nn.Module:
        """Move a model to the device in channels_last."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def rng_state(self) -> dict[str, torch.Tensor]:
        """The state of every torch generator that this device's work draws from, uint8."""
        states = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(self.device)
        return states

    def set_rng_state(self, states: dict[str, torch.Tensor]) -> None:
        """Put ``rng_state`` back; a CUDA state is left aside on a CPU."""
        torch.set_rng_state(states["cpu"])
        if self.device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"], self.device)


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Undo what ffcv does to torch's threads: one when it is imported, as many as its own when an epoch begins."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def whole_float32() -> Iterator[None]:
    """Convolutions on a GPU with all the bits of float32; by default torch lets them have 10 of 23 (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` would name them; none on a CPU."""
    if not torch.cuda.is_available():
        return []
    named = [each for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def collective_backend() -> str:
    """How processes that train together exchange tensors."""
    return "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"


def resolve_runtime(device: str = "auto", *, precision: str = "auto", compile: bool = False, world: World = ALONE) -> Runtime:
    """Pick ``cuda`` in bfloat16 where there is a GPU, else ``cpu`` in float32; ``device`` and ``precision`` name one outright.

    Of several processes, each takes the GPU of its ``world.local_rank``.

    Raises:
        UsageError: the device or the precision is unknown, or CUDA is asked for and absent.
    """
    if precision not in ("auto", *_DTYPES):
        raise UsageError(f"--precision {precision!r} is not known. Give auto, {', '.join(_DTYPES)}.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        why = "found" if device == "cuda" else "no CUDA device"
    else:
        why = "asked for"
    kind = device.partition(":")[0]
    if kind == "cpu":
        threads = torch.get_num_threads()
        chosen, where = torch.device("cpu"), f"{threads} thread{'' if threads == 1 else 's'}"
        dtype = _DTYPES.get(precision, torch.float32)
    elif kind == "cuda":
        chosen = _cuda(device, world)
        where, dtype = torch.cuda.get_device_name(chosen), _DTYPES.get(precision) or _fast_dtype(chosen)
    else:
        raise UsageError(f"--device {device!r} is not known. Give auto, cpu, cuda or cuda:N.")
    how = [str(dtype).removeprefix("torch.") + (" autocast" if dtype != torch.float32 else ""), where]
    how += ["compiled"] if compile else []
    how += [f"one of {world.ranks} processes"] if world.ranks > 1 else []
    return Runtime(chosen, dtype, f"{kind.upper()}, {', '.join(how)} ({why})", compile, world)


def _cuda(device: str, world: World) -> torch.device:
    if not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch finds no CUDA device. Leave --device out to train on the CPU.")
    if world.ranks > 1 and device == "cuda":
        device = f"cuda:{world.local_rank}"
    try:
        chosen = torch.device(device)
        torch.cuda.get_device_name(chosen)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices.") from None
    torch.cuda.set_device(chosen)
    torch.backends.cudnn.benchmark = True
    return chosen


def _fast_dtype(device: torch.device) -> torch.dtype:
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
