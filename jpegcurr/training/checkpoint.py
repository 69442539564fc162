"""Checkpoints: the whole state of a run in one safetensors file, without a pickle, so that it resumes as if never stopped."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jpegcurr.errors import UsageError
from jpegcurr.files import staged
from jpegcurr.json_files import describe, parse_json
from jpegcurr.training.state import EpochProgress, TrainState

log = logging.getLogger("jpegcurr")

SCHEMA_VERSION = 3
_COUNTS = ("epoch", "step", "seconds", "waited", "replaced", "skipped")
_GROUPS = {"raw": "model", "ema": "ema"}  # the names of weights in a checkpoint
_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_KEPT, _ANY_KEPT = "epoch-{:04}.safetensors", "epoch-*.safetensors"


class _Version(BaseModel):
    """The fields that the headers of all versions have."""

    schema_version: int


class _Header(_Version):
    """The numbers of a checkpoint: where the run is, and what its optimiser and its loss scaler count."""

    epoch: _Count
    step: _Count
    seconds: _Seconds
    waited: _Seconds
    replaced: _Count
    skipped: _Count
    group_steps: tuple[float | None, ...]
    ranks: Annotated[int, Field(ge=1)]
    scaler: dict[str, int | float]


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
        _load_groups(state, groups, header)
        loss = groups["position"]["loss"].reshape(()).to(state.runtime.device)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _unreadable(path, str(error)) from None
    world = state.runtime.world
    if header.ranks != world.ranks:
        log.warning(
            "the checkpoint is of %d processes, and %d resume it: stochastic depth drops other paths", header.ranks, world.ranks
        )
    progress = EpochProgress(loss=loss, **header.model_dump(include=set(_COUNTS)))
    progress.replaced *= world.is_main
    return progress


def _load_groups(state: TrainState, groups: Mapping[str, dict[str, torch.Tensor]], header: _Header) -> None:
    """Load the tensors of a checkpoint by group; raise an error of torch's or Python's if they do not fit."""
    for weights, model in state.models.items():
        model.load_state_dict(groups[_GROUPS[weights]])
    _load_moments(state.optimizer, groups["optimizer"])
    for group, step in zip(state.optimizer.param_groups, header.group_steps, strict=True):
        if step is not None:
            group["step"] = torch.tensor(step)
    if header.scaler and state.scaler.is_enabled():
        state.scaler.load_state_dict(header.scaler)
    mine = f"{state.runtime.world.rank}."
    if generators := {name.removeprefix(mine): value for name, value in groups["rng"].items() if name.startswith(mine)}:
        state.runtime.set_rng_state(generators)


def epochs_started(path: Path) -> int:
    """Return the number of epochs that a checkpoint has started; raise UsageError if it is no checkpoint of ours."""
    header = _read_header(path)
    return header.epoch + bool(header.step)


def epochs_done(path: Path) -> int:
    """Return the number of epochs that a checkpoint has completed; raise UsageError if it is no checkpoint of ours."""
    return _read_header(path).epoch


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
    wanted = {_KEPT.format(number) for number in range(max(epoch - last + 1, 0), epoch + 1)}
    for other in folder.glob(_ANY_KEPT):
        if other.name not in wanted:
            other.unlink()


def _read_header(path: Path) -> _Header:
    try:
        with safe_open(path, "pt") as file:
            header = parse_json((file.metadata() or {})["jpegcurr"].encode())
        version = _Version.model_validate(header).schema_version
        if version != SCHEMA_VERSION:
            raise UsageError(
                f"{path} was written by another version of jpegcurr (schema {version}). Resume it with that version, or start "
                f"a new run from its weights: --set model.checkpoint={path.parent} --out OTHER."
            )
        return _Header.model_validate(header)
    except (SafetensorError, OSError, KeyError) as error:
        raise _unreadable(path, str(error)) from None
    except ValueError as error:
        raise _unreadable(path, describe(error)) from None


def _unreadable(path: Path, reason: str) -> UsageError:
    return UsageError(f"{path} cannot be resumed from: {reason}.{_earlier_state(path)}")


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
    parameters = dict(enumerate(parameter for group in optimizer.param_groups for parameter in group["params"]))
    for position, moments in state.items():
        if any(tensor.numel() != 1 and tensor.shape != parameters[position].shape for tensor in moments.values()):
            raise ValueError(f"the moments of parameter {position} have another shape")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():  # in the memory layout of their parameter, channels_last
        for name, tensor in moments.items():
            if tensor.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(tensor)
            else:  # a copy too, or the file would stay mapped, and Windows would refuse to replace it
                moments[name] = tensor.clone()
