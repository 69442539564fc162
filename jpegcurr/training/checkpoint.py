"""Everything that a run needs to go on as if it had never stopped, in one safetensors file and without a pickle."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from jpegcurr.errors import UsageError
from jpegcurr.files import staged
from jpegcurr.runtime import Runtime

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Trainee:
    """What training changes: raw weights, their moving average, the optimiser's moments, the generators."""

    model: torch.nn.Module
    ema: torch.nn.Module
    optimizer: torch.optim.Optimizer
    runtime: Runtime


def save_state(path: Path, trainee: Trainee, epoch: int) -> None:
    """Write the state before ``epoch`` to ``path``, atomically."""
    tensors = {f"model.{name}": value for name, value in trainee.model.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in trainee.ema.state_dict().items()}
    for number, moments in trainee.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
    tensors |= {f"rng.{name}": value for name, value in trainee.runtime.rng_state().items()}
    whole = {name: value.detach().contiguous() for name, value in tensors.items()}
    with staged(path) as partial:
        save_file(whole, partial, {"jpegcurr": json.dumps({"schema_version": SCHEMA_VERSION, "epoch": epoch})})


def saved_epoch(path: Path) -> int:
    """Return the epoch that a saved state goes on with; raises UsageError if it is no state of ours."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["jpegcurr"])
        if header["schema_version"] != SCHEMA_VERSION:
            raise UsageError(f"{path} was written by another version of jpegcurr (schema {header['schema_version']}).")
        epoch: int = header["epoch"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be resumed from: {error}") from None
    return epoch


def load_state(path: Path, trainee: Trainee) -> int:
    """Put the saved state into ``trainee`` and return the epoch to go on with.

    Raises:
        UsageError: the file is no state of ours, or of another model.
    """
    epoch = saved_epoch(path)
    groups: dict[str, dict[str, torch.Tensor]] = {"model": {}, "ema": {}, "optimizer": {}, "rng": {}}
    try:
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  (safe_open is no dict)
                group, _, name = key.partition(".")
                groups[group][name] = file.get_tensor(key)
        trainee.model.load_state_dict(groups["model"])
        trainee.ema.load_state_dict(groups["ema"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be resumed from: {error}") from None
    _load_moments(trainee.optimizer, groups["optimizer"])
    trainee.runtime.set_rng_state(groups["rng"])
    return epoch


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
