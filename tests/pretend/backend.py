"""``torch.pretend``: the module that torch asks about the pretended device, with its streams.

PrivateUse1 is torch's place for devices that it does not know. ``_setup_privateuseone_for_python_backend``, by which such a
device can be written in Python, is experimental: where a version of torch lacks it, ``missing`` says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

NAME = "pretend"


class Stream:
    """A queue of work. ``count`` is what was started in it, ``known`` how much of others' is done before its next work."""

    current: "ClassVar[Stream]"

    def __init__(self, _device: object = None) -> None:
        self.count, self.known = 0, dict[Stream, int]()

    def wait_stream(self, other: "Stream") -> None:
        """Let what is started from now on come after all that was started in ``other``, and after what that comes after."""
        for stream, count in ((other, other.count), *other.known.items()):
            self.known[stream] = max(self.known.get(stream, 0), count)

    def comes_after(self, other: "Stream", count: int) -> bool:
        """Return whether the first ``count`` works in ``other`` are done before what is started here next."""
        return other is self or self.known.get(other, 0) >= count


Stream.current = COMPUTING = Stream()


class Backend:
    """What torch and jpegcurr ask of ``torch.cuda``."""

    Stream = Stream

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def get_device_name(self, _device: object = None) -> str:
        return "NVIDIA H200"  # one of known peak, so that mfu is computed too

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, _seed: int) -> None:
        """Do nothing: the device draws from the generator of the CPU, so that its numbers are those of a CPU."""

    def get_rng_state(self, _device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, _state: torch.Tensor, _device: object = None) -> None:
        """Do nothing, likewise."""

    def memory_reserved(self, _device: object = None) -> int:
        return self.memory_allocated()

    def memory_allocated(self, _device: object = None) -> int:
        """Return what was allocated since the mode was entered, as if nothing were ever freed."""
        from pretend.device import PretendedGpu

        return PretendedGpu.entered().allocated

    max_memory_allocated = memory_allocated

    def reset_peak_memory_stats(self, _device: object = None) -> None:
        """Do nothing: what is allocated only grows."""

    def mem_get_info(self, _device: object = None) -> tuple[int, int]:
        from pretend.device import PretendedGpu

        return PretendedGpu.entered().memory, PretendedGpu.entered().memory

    def current_stream(self, _device: object = None) -> Stream:
        return Stream.current

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, Stream.current = Stream.current, stream
        try:
            yield
        finally:
            Stream.current = before


def missing() -> str | None:
    """Return what this version of torch lacks for a device in Python; None if it is there."""
    from torch.utils import backend_registration

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"torch {torch.__version__} has no device in Python (torch.utils.backend_registration)"
    return None


def register() -> None:
    """Make the device known to torch, for the rest of this process."""
    from torch.utils import backend_registration

    setup: Any = backend_registration._setup_privateuseone_for_python_backend
    setup(NAME, Backend())
