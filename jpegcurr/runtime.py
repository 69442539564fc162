"""Where and in which precision to compute: the only place that asks for CUDA."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

from jpegcurr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device, the dtype of matrix work on it, and the sentence that says why.

    Weights stay float32; with ``dtype`` bfloat16 the forward pass runs under autocast. Images are channels_last.
    """

    device: torch.device
    dtype: torch.dtype
    reason: str

    def memory(self, *shape: int) -> torch.Tensor:
        """Uint8 memory on the host, page-locked where batches go from there to a GPU."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """To the device, without waiting for it; ``tensor`` must not change afterwards (on a CPU it is what is returned)."""
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where ``dtype`` is not float32; does nothing otherwise."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

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


def resolve_runtime(device: str = "auto") -> Runtime:
    """Pick ``cuda`` in bfloat16 where there is a GPU, else ``cpu`` in float32; ``device`` names one outright.

    Raises:
        UsageError: the device is unknown, or CUDA is asked for and absent.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        why = "found" if device == "cuda" else "no CUDA device"
    else:
        why = "asked for"
    kind = device.partition(":")[0]
    if kind == "cpu":
        threads = torch.get_num_threads()
        return Runtime(torch.device("cpu"), torch.float32, f"CPU, float32, {threads} threads ({why})")
    if kind != "cuda":
        raise UsageError(f"--device {device!r} is not known. Give auto, cpu, cuda or cuda:N.")
    if not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch finds no CUDA device. Leave --device out to train on the CPU.")
    try:
        chosen = torch.device(device)
        name = torch.cuda.get_device_name(chosen)
    except (RuntimeError, AssertionError):
        raise UsageError(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices.") from None
    torch.backends.cudnn.benchmark = True
    with torch.cuda.device(chosen):
        dtype = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return Runtime(chosen, dtype, f"{name}, {str(dtype).removeprefix('torch.')} autocast ({why})")
