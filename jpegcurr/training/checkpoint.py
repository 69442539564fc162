"""Checkpoints: the whole state of a run in one safetensors file, without a pickle, so that it resumes as if never stopped."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jpegcurr.errors import UsageError
from jpegcurr.files import staged
from jpegcurr.training.state import EpochProgress, TrainState

log = logging.getLogger("jpegcurr")

SCHEMA_VERSION = 3
_COUNTS = ("epoch", "step", "seconds", "waited", "replaced", "skipped")
_GROUPS = {"raw": "model", "ema": "ema"}  # the names of weights in a checkpoint
_KEPT, _ANY_KEPT = "epoch-{:04}.safetensors", "epoch-*.safetensors"


def save_state(path: Path, state: TrainState, progress: EpochProgress) -> None:
    """Write ``state`` and ``progress`` to ``path``, atomically. Every process calls it, and the first writes."""
    world = state.runtime.world
    generators = {name: world.gather(value) for name, value in state.runtime.rng_state().items()}
    replaced = world.total(progress.replaced)
    if not world.is_main:
        return
    groups = {_GROUPS[weights]: model for weights, model in state.models.items()}
    tensors = {f"{group}.{name}": value for group, model in groups.items() for name, value in model.state_dict().items()}
    for number, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    tensors |= {f"rng.{rank}.{name}": value for name, states in generators.items() for rank, value in enumerate(states)}
    tensors["position.loss"] = progress.loss
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    # LAMB counts its steps in its groups.
    steps = [float(group["step"]) if "step" in group else None for group in state.optimizer.param_groups]
    counts = {name: getattr(progress, name) for name in _COUNTS} | {"replaced": replaced}
    scaler = state.scaler.state_dict()
    header = {"schema_version": SCHEMA_VERSION, "group_steps": steps, "ranks": world.ranks, "scaler": scaler, **counts}
    with staged(path) as partial:
        save_file(contiguous, partial, {"jpegcurr": json.dumps(header)})


def load_state(path: Path, state: TrainState) -> EpochProgress:
    """Load a checkpoint into ``state``, and return the progress to resume from.

    Raises:
        UsageError: the file is no checkpoint of ours, or is of another model.
    """
    header = _read_header(path)
    groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "rng": {}, "position": {}}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no dict)
                group, _, name = key.partition(".")
                groups[group][name] = file.get_tensor(key)
        for weights, model in state.models.items():
            model.load_state_dict(groups[_GROUPS[weights]])
        loss = groups["position"]["loss"].to(state.runtime.device)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be resumed from: {error}.{_earlier_state(path)}") from None
    _load_moments(state.optimizer, groups["optimizer"])
    for group, step in zip(state.optimizer.param_groups, header["group_steps"], strict=True):
        if step is not None:
            group["step"] = torch.tensor(step)
    if header["scaler"] and state.scaler.is_enabled():
        state.scaler.load_state_dict(header["scaler"])
    world = state.runtime.world
    if header["ranks"] != world.ranks:
        log.warning(
            "the checkpoint is of %d processes, and %d resume it: stochastic depth drops other paths",
            header["ranks"],
            world.ranks,
        )
    mine = f"{world.rank}."
    if generators := {name.removeprefix(mine): value for name, value in groups["rng"].items() if name.startswith(mine)}:
        state.runtime.set_rng_state(generators)
    progress = EpochProgress(loss=loss, **{name: header[name] for name in _COUNTS})
    progress.replaced *= world.is_main
    return progress


def epochs_started(path: Path) -> int:
    """Return the number of epochs that a checkpoint has started; raise UsageError if it is no checkpoint of ours."""
    header = _read_header(path)
    return int(header["epoch"]) + bool(header["step"])


def epochs_done(path: Path) -> int:
    """Return the number of epochs that a checkpoint has completed; raise UsageError if it is no checkpoint of ours."""
    return int(_read_header(path)["epoch"])


def keep_state(path: Path, epoch: int, last: int) -> None:
    """Keep the checkpoint at ``path``, of the end of ``epoch``, in ``checkpoints/`` beside it; delete all but ``last``.

    They are hard links where the file system has them, so the newest takes no space of its own. To go back to one, move it over
    ``path``: copying over a link would overwrite the other name too.
    """
    folder = path.parent / "checkpoints"
    if last:
        folder.mkdir(exist_ok=True)
        kept = folder / _KEPT.format(epoch)
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)
        except OSError:
            with staged(kept) as partial:
                shutil.copyfile(path, partial)
    wanted = {_KEPT.format(number) for number in range(epoch - last + 1, epoch + 1)}
    for other in folder.glob(_ANY_KEPT):
        if other.name not in wanted:
            other.unlink()


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["jpegcurr"])
        if header["schema_version"] != SCHEMA_VERSION:
            raise UsageError(f"{path} was written by another version of jpegcurr (schema {header['schema_version']}).")
        return {name: header[name] for name in (*_COUNTS, "group_steps", "ranks", "scaler")}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be resumed from: {error}.{_earlier_state(path)}") from None


def _earlier_state(path: Path) -> str:
    """Return a sentence on the newest kept checkpoint that is another file than ``path``; empty if there is none."""
    candidates = sorted((path.parent / "checkpoints").glob(_ANY_KEPT))
    kept = [candidate for candidate in candidates if path.exists() and not candidate.samefile(path)]
    return f" An earlier checkpoint may be intact: move {kept[-1]} over it, and use --resume again." if kept else ""


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Load the optimiser's moments; rates and weight decays are the recipe's, not the file's."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():  # in the memory layout of their parameter, channels_last
        for name, tensor in moments.items():
            if tensor.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(tensor)
