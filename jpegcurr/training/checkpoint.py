"""Everything that a run needs to go on as if it had never stopped, in one safetensors file and without a pickle."""

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
_KEPT, _ANY_KEPT = "epoch-{:04}.safetensors", "epoch-*.safetensors"


def save_state(path: Path, trainer: TrainState, position: EpochProgress) -> None:
    """Write the state at ``position`` to ``path``, atomically. Every process calls it, and the first writes."""
    world = trainer.runtime.world
    generators = {name: world.gather(value) for name, value in trainer.runtime.rng_state().items()}
    replaced = world.total(position.replaced)
    if not world.is_main:
        return
    tensors = {f"model.{name}": value for name, value in trainer.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in trainer.ema.module.state_dict().items()}
    for number, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    tensors |= {f"rng.{rank}.{name}": value for name, states in generators.items() for rank, value in enumerate(states)}
    tensors["position.loss"] = position.loss
    whole = {name: value.detach().contiguous() for name, value in tensors.items()}
    groups = trainer.optimizer.param_groups
    steps = [float(group["step"]) if "step" in group else None for group in groups]  # LAMB counts them there
    counts = {name: getattr(position, name) for name in _COUNTS} | {"replaced": replaced}
    scaler = trainer.scaler.state_dict()
    header = {"schema_version": SCHEMA_VERSION, "group_steps": steps, "ranks": world.ranks, "scaler": scaler, **counts}
    with staged(path) as partial:
        save_file(whole, partial, {"jpegcurr": json.dumps(header)})


def epochs_begun(path: Path) -> int:
    """How many epochs a saved state is after the beginning of; raises UsageError if it is no state of ours."""
    header = _read_header(path)
    return int(header["epoch"]) + bool(header["step"])


def epochs_done(path: Path) -> int:
    """How many epochs a saved state is after the end of; raises UsageError if it is no state of ours."""
    return int(_read_header(path)["epoch"])


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            header: dict[str, Any] = json.loads(file.metadata()["jpegcurr"])
        if header["schema_version"] != SCHEMA_VERSION:
            raise UsageError(f"{path} was written by another version of jpegcurr (schema {header['schema_version']}).")
        return {name: header[name] for name in (*_COUNTS, "group_steps", "ranks", "scaler")}
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be resumed from: {error}.{_way_out(path)}") from None


def _way_out(path: Path) -> str:
    kept = [each for each in sorted((path.parent / "checkpoints").glob(_ANY_KEPT)) if path.exists() and not each.samefile(path)]
    return f" An earlier state may still be whole: move {kept[-1]} over it, and --resume goes on from there." if kept else ""


def load_state(path: Path, trainer: TrainState) -> EpochProgress:
    """Put the saved state into ``trainer`` and return where to go on.

    Raises:
        UsageError: the file is no state of ours, or of another model.
    """
    header = _read_header(path)
    groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "rng": {}, "position": {}}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no dict)
                group, _, name = key.partition(".")
                groups[group][name] = file.get_tensor(key)
        trainer.model.load_state_dict(groups["model"])
        trainer.ema.module.load_state_dict(groups["ema"])
        loss = groups["position"]["loss"].to(trainer.runtime.device)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be resumed from: {error}.{_way_out(path)}") from None
    _load_moments(trainer.optimizer, groups["optimizer"])
    for group, step in zip(trainer.optimizer.param_groups, header["group_steps"], strict=True):
        if step is not None:
            group["step"] = torch.tensor(step)
    if header["scaler"] and trainer.scaler.is_enabled():
        trainer.scaler.load_state_dict(header["scaler"])
    world = trainer.runtime.world
    if header["ranks"] != world.ranks:
        log.warning(
            "saved by %d processes, going on with %d: what stochastic depth drops is drawn anew", header["ranks"], world.ranks
        )
    mine = f"{world.rank}."
    if generators := {name.removeprefix(mine): state for name, state in groups["rng"].items() if name.startswith(mine)}:
        trainer.runtime.set_rng_state(generators)
    position = EpochProgress(loss=loss, **{name: header[name] for name in _COUNTS})
    position.replaced *= world.is_main
    return position


def keep_state(path: Path, epoch: int, last: int) -> None:
    """Keep the state at ``path``, which is of the end of ``epoch``, in ``checkpoints/`` beside it, and ``last`` such in all.

    They are links where the file system has links, so that the newest takes no room of its own. To go back to one, move it:
    what is copied over a link is copied into the other as well.
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


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Rates and decays are the recipe's; only the moments come from the file."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():  # laid out in memory like their parameter, channels_last
        for name, tensor in moments.items():
            if tensor.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(tensor)
