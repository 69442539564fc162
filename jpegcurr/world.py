"""The processes that train together: torchrun's, or this one alone.

What they tell each other about the run itself (who saves, whether to stop) goes over gloo between the hosts, so that it waits
for no GPU; gradients and losses go the way of their device, which on GPUs is NCCL.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
    def is_first(self) -> bool:
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
    def first_alone(self) -> Iterator[None]:
        """The first process runs the block, then the others do: what it makes, they find."""
        if not self.is_first:
            self.total(0)
        yield
        if self.is_first:
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
