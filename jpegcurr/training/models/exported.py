"""A model as a run leaves it, ``config.json`` and ``model.safetensors`` in timm's layout, which may be anyone's.

timm's own reader of such a folder trusts it: it passes every argument on, among them the path of another checkpoint, and
creates whatever size they say. Here the numbers are limited, and the model is created without memory first (on torch's meta
device) and compared with the file of weights, so that nothing is allocated that the file does not hold.
"""

from itertools import count
from math import prod
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_parameter_registration_hook

from jpegcurr.encoding.sources.class_labels import MOST_CLASSES
from jpegcurr.errors import UsageError
from jpegcurr.json_files import read_json
from jpegcurr.recipe.values import LARGEST_SIDE
from jpegcurr.training.models.finite import check_weights
from jpegcurr.training.models.fit import without_memory
from jpegcurr.training.run_head import ExportedClasses

_ADVICE = "Copy the run's folder again."
_MOST_BUFFERS = 1 << 28  # elements of buffers that are computed and not in the file
_LARGEST_NUMBER = 1e6

# The arguments of timm.create_model that are not the model's own, and those that its builder takes besides.
_RESERVED = frozenset(
    ("model_name", "cache_dir", "checkpoint_path", "scriptable", "exportable", "no_jit", "features_only", "feature_cfg")
)

_Text = Annotated[str, Field(max_length=4096)]
_Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
_Finite = Annotated[float, Field(ge=-_LARGEST_NUMBER, le=_LARGEST_NUMBER)]
_Deviation = Annotated[float, Field(gt=0, le=_LARGEST_NUMBER)]
_Scalar = bool | int | _Finite | _Text | None
_Argument = _Scalar | list[_Scalar | list[_Scalar]]


class _Preprocessing(BaseModel):
    """The fields that are read of timm's ``pretrained_cfg``: the normalisation, and the shape of inputs, channels first."""

    input_size: tuple[Annotated[int, Field(ge=3, le=3)], _Side, _Side] = (3, 224, 224)
    mean: tuple[_Finite, _Finite, _Finite]
    std: tuple[_Deviation, _Deviation, _Deviation]


class OwnConfig(ExportedClasses):
    """The fields that are read of the ``config.json`` of a network of one's own."""

    pretrained_cfg: _Preprocessing


class _Config(OwnConfig):
    """The fields that are read of ``config.json``. ``model_args`` are arguments of timm's function that creates the model."""

    model_config = ConfigDict(protected_namespaces=())

    architecture: Annotated[str, Field(pattern=r"^\w+$", max_length=200)]  # with a prefix, timm would ask its hub
    num_classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)]
    model_args: dict[str, _Argument] = Field(default_factory=dict)


def load_exported(folder: Path) -> tuple[torch.nn.Module, tuple[str, ...]]:
    """Load the model in ``folder``, on the CPU, and the names of its classes.

    Raises:
        UsageError: a file is missing or damaged, the two do not belong together, or the weights are not finite numbers.
    """
    path = folder / "config.json"
    config = read_json(path, _Config, complaint="cannot be read as the description of a model", remedy=_ADVICE)
    if len(config.label_names) != config.num_classes:
        raise UsageError(f"{path} names {len(config.label_names)} classes of {config.num_classes}. {_ADVICE}")
    file = folder / "model.safetensors"
    try:
        with safe_open(file, "pt") as tensors:
            shapes = {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        _check_arguments(config, shapes, path)
        _check_shapes(_create_without_memory(config, len(shapes), path), shapes, folder)
        model = _create(config, path)
        model.load_state_dict(load_file(file))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UsageError(f"{folder} holds a checkpoint that cannot be read: {str(error)[:200]}. {_ADVICE}") from None
    check_weights(model, file)
    return model, config.label_names


def load_own_config(folder: Path) -> OwnConfig:
    """Read the ``config.json`` of a network of one's own; raise UsageError if it is none."""
    complaint = "cannot be read as the description of a model"
    return read_json(folder / "config.json", OwnConfig, complaint=complaint, remedy=_ADVICE)


def load_own_weights(model: torch.nn.Module, folder: Path, name: str) -> None:
    """Fill the network that the user's function ``name`` returned with the weights in ``folder``.

    Raises:
        UsageError: there are none, or they are of another network, or not finite numbers.
    """
    file = folder / "model.safetensors"
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{file} does not hold the weights of the network that {name} returns now: {reason}") from None
    check_weights(model, file)


def _check_arguments(config: _Config, shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Check that no argument is one of ``create_model``'s own, and that no whole number is larger than what the file holds."""
    own = sorted(name for name in config.model_args if name in _RESERVED or name.startswith("pretrained"))
    if own:
        raise UsageError(f"{path}: model_args cannot have {own[0]!r}. {_ADVICE}")
    if config.model_args.get("in_chans", 3) != 3:
        raise UsageError(f"{path}: the model takes images of {config.model_args['in_chans']} channels, where 3 are needed.")
    largest = max(LARGEST_SIDE, len(shapes), *(side for shape in shapes.values() for side in shape))
    for name, value in config.model_args.items():
        numbers = [number for number in _flatten(value) if isinstance(number, int) and abs(number) > largest]
        if numbers:
            raise UsageError(f"{path}: model_args.{name} {numbers[0]} does not belong to the weights beside it. {_ADVICE}")


def _flatten(value: Any) -> list[Any]:
    return [inner for item in value for inner in _flatten(item)] if isinstance(value, list) else [value]


def _create(config: _Config, path: Path) -> torch.nn.Module:
    """Create the model untrained; raise UsageError if timm cannot."""
    arguments: dict[str, Any] = {**config.model_args, "num_classes": config.num_classes}
    overlay = config.pretrained_cfg.model_dump() | {"num_classes": config.num_classes}
    try:
        model: torch.nn.Module = timm.create_model(config.architecture, pretrained_cfg_overlay=overlay, **arguments)
    except Exception as error:  # whatever a model's constructor raises for arguments that it does not know or cannot use
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path}: timm cannot create {config.architecture[:50]!r} as it says ({reason}). {_ADVICE}") from None
    return model


def _create_without_memory(config: _Config, tensors: int, path: Path) -> torch.nn.Module:
    """Create the model on the meta device; give up as soon as it has more parameters than a file of ``tensors`` can hold."""
    created, most = count(1), 2 * tensors + 100  # some are created twice, such as the head's

    def limit(_module: torch.nn.Module, name: str, _parameter: torch.nn.Parameter) -> None:
        if next(created) > most:
            raise ValueError(f"at {name} it has more parameters than the {tensors} in model.safetensors")

    hook = register_module_parameter_registration_hook(limit)
    try:
        with without_memory():
            return _create(config, path)
    finally:
        hook.remove()


def _check_shapes(model: torch.nn.Module, shapes: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Check that the file holds the tensors of ``model``, all of them and no others, and that the rest of it is small."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in {**own, **shapes}:
        if own.get(name) != shapes.get(name):
            needed, present = (list(of[name]) if name in of else "none" for of in (own, shapes))
            raise UsageError(
                f"{folder}: model.safetensors does not hold the weights of the model in config.json: {name[:100]} should be "
                f"{needed} and is {present}. {_ADVICE}"
            )
    if sum(buffer.numel() for buffer in model.buffers()) > _MOST_BUFFERS + sum(map(prod, shapes.values())):
        raise UsageError(f"{folder}: the model in config.json takes much more memory than its weights. {_ADVICE}")
