"""Processes that train together on the pretended GPU, one GPU each: forks of a test's process, which has torch imported."""

import faulthandler
import os
import shutil
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from pretend.training import pretended_gpu, pretended_runtime, waits_in_steps
from processes import free_port

from jpegcurr.errors import Terminated
from jpegcurr.recipe.schema import Recipe
from jpegcurr.runtime import Runtime, World, joined
from jpegcurr.training import checkpoint
from jpegcurr.training import train as training
from jpegcurr.training.models.half_precision import HalfPrecisionForward
from jpegcurr.training.state import EpochProgress, TrainState

SECONDS = 40  # after which a process that waits for another ends, and says where it is


class Hung(AssertionError):
    """A process waited for SECONDS, and its traceback."""


def together(ranks: int, work: Callable[[World], None]) -> None:
    """Call ``work`` in ``ranks`` processes with torchrun's variables; fail with the traceback of those in which it fails.

    The process that calls this must not have computed gradients: torch refuses to in forks of one that has.
    """
    torch.set_num_threads(1)
    variables = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    running = {}
    for rank in range(ranks):
        child = os.fork()
        if not child:
            os.environ.update({name: str(value) for name, value in (variables | {"RANK": rank, "LOCAL_RANK": rank}).items()})
            os._exit(_work(work, rank))
        running[child] = rank
    codes = {rank: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child, rank in running.items()}
    failures = [Path(f"failure{rank}.txt").read_text() for rank in range(ranks)]
    if any(failure.startswith("Timeout") for failure in failures):
        raise Hung("\n".join([str(codes), *failures]))
    assert codes == dict.fromkeys(range(ranks), 0), "\n".join([str(codes), *failures])


def _work(work: Callable[[World], None], rank: int) -> int:
    with Path(f"failure{rank}.txt").open("w") as failure:
        faulthandler.dump_traceback_later(SECONDS, exit=True, file=failure)
        try:
            with joined() as world:
                work(world)
        except BaseException:
            failure.write(traceback.format_exc())
            return 1
        return 0


def train_together(
    ranks: int, recipe: Recipe, out: Path, dtype: torch.dtype = torch.float32, *, stop: int | None = None, resume: bool = False
) -> None:
    """Train in ``ranks`` processes, each on a pretended GPU; stop after ``stop`` steps if that is given.

    In each process: whenever a checkpoint is due, all have the same weights, bit for bit; gradients are exchanged once a step;
    nothing races; no step waits but the second, before which DDP's processes agree on the order of gradients.
    """

    def work(world: World) -> None:
        waits = []
        training.save_state = _saving_equal_weights  # type: ignore[assignment]
        with pretended_gpu() as gpu:
            with suppress(Terminated):
                training.train(
                    recipe,
                    out,
                    runtime=replace(pretended_runtime(dtype), world=world),
                    resume=resume,
                    on_step=lambda _info: waits.append(waits_in_steps(gpu)),
                    stop=lambda: len(waits) == stop,
                )
            exchanges = [one for one in gpu.operations if one.name == "c10d::allreduce_" and one.phase == "backward"]
        assert gpu.faults == []
        if ranks == 1:
            assert exchanges == waits[-1] == []
            return
        assert len(exchanges) == len(waits) > 0
        assert {tensor.dtype for one in exchanges for tensor in one.inputs} == {torch.float32}
        assert waits[0] == []
        assert [[wait.what.partition(" of ")[0] for wait in now] for now in waits[1:2]] in ([], [["a copy to the host"] * 2])
        assert all(now == waits[1] for now in waits[2:])

    together(ranks, work)


def train_on_cpus(ranks: int, recipe: Recipe, out: Path) -> None:
    """Train in ``ranks`` processes on the CPU.

    Once in some fifteen times these forks have hung, on a busy machine; it is not known why, perhaps torch's own threads were
    forked in the middle of something. They are what others are compared with, so they may try again.
    """

    def work(world: World) -> None:
        training.train(recipe, out, runtime=Runtime(torch.device("cpu"), torch.float32, "a CPU", world=world))

    try:
        together(ranks, work)
    except Hung:
        shutil.rmtree(out, ignore_errors=True)
        together(ranks, work)


def _saving_equal_weights(path: Path, state: TrainState, progress: EpochProgress) -> None:
    """Save a checkpoint of weights that all processes have; what DDP wraps is what half precision takes."""
    wrapped = getattr(state.prepared, "module", state.prepared)
    assert isinstance(wrapped, HalfPrecisionForward) == (state.runtime.dtype != torch.float32)
    tensors = [tensor.detach().reshape(-1).cpu() for model in state.models.values() for tensor in model.parameters()]
    mine = torch.cat(tensors)
    assert bool(mine.isfinite().all())
    assert all(torch.equal(mine, other) for other in state.runtime.world.gather(mine))
    checkpoint.save_state(path, state, progress)
