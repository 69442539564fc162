"""The fit of weights to a model, by names and shapes: what differs first, and which models of timm's they do fit."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import timm
import torch
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from jpegcurr.training.models.key_maps import StateDict
from jpegcurr.training.models.pretrained import count_classes

_SHOWN = 2  # tensors, and names of models, in one message; and one more that the model lacks
_ON_TRIAL = 4  # parameters that a model may create and drop
_INITIALISE = frozenset(
    ("add_", "clamp_", "div_", "erfinv_", "fill_", "mul_", "normal_", "sub_", "trunc_normal_", "uniform_", "zero_")
)


class _Uninitialised(TorchFunctionMode):
    """Leaves out the in-place operations that initialise tensors of the meta device, which have no values.

    torch would compute their shapes and strides, in Python: four fifths of the time that it takes to create a ConvNeXt.
    """

    def __torch_function__(
        self, function: Any, _types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if name in _INITIALISE and arguments and isinstance(arguments[0], torch.Tensor) and arguments[0].is_meta:
            return arguments[0]
        return function(*arguments, **(options or {}))


@contextmanager
def without_memory() -> Iterator[None]:
    """Create tensors in this block on torch's meta device: with shapes and types, without values."""
    with torch.device("meta"), _Uninitialised():
        yield


def create_on_meta(name: str, **options: Any) -> torch.nn.Module | None:
    """Create timm's model ``name`` without memory for its weights; None if it cannot be created so."""
    with without_memory(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a deprecated name: whoever creates the model in earnest gets it
        try:
            model: torch.nn.Module = timm.create_model(name, **options)
        except Exception:  # whatever a model's constructor raises for options that it does not know
            return None
    return model


def describe_misfit(weights: StateDict, model: torch.nn.Module, *, classifier: bool = False) -> str:
    """Return one or two sentences on the tensors of ``model`` that ``weights`` do not have, or in another shape.

    They end with the models that do fit. Dimensions of length 1 do not count, and the classifier does only if ``classifier`` is
    set, and then by its presence. An empty string is returned if all fits.
    """
    needed, further = _differences(weights, model)
    if not needed and not further:
        lacking = sorted(classifier_names(model) - weights.keys()) if classifier else []
        return f"it has no classifier ({lacking[0]}). Give weights that have one." if lacking else ""
    shown = [*needed[:_SHOWN], *further[:1]]
    total = len(needed) + len(further)
    more = f", and so on: {total} tensors in all" if total > len(shown) else ""
    return f"{', '.join(shown)}{more}. {_describe_fitting(find_models(weights))}"


def find_models(weights: StateDict) -> list[str]:
    """Return the names of timm's models whose tensors have the names and shapes of ``weights``, shortest first.

    All models are tried, without memory for their weights; each is given up after a few parameters of other shapes, so that it
    takes a few seconds.
    """
    wanted = {name: _sides(tensor) for name, tensor in weights.items()}
    shapes, classes = set(wanted.values()), count_classes(weights) or 0  # 0 is a model without a classifier
    fitting = []
    for name in timm.list_models():
        with _stop_at_other_shapes(shapes):
            model = create_on_meta(name, num_classes=classes)
        if model is not None and {key: _sides(tensor) for key, tensor in model.state_dict().items()} == wanted:
            fitting.append(name)
    return sorted(fitting, key=lambda name: (len(name), name))


@contextmanager
def _stop_at_other_shapes(shapes: set[tuple[int, ...]]) -> Iterator[None]:
    """Have the creation of a model fail in this block when it has had several parameters of other shapes than ``shapes``.

    A few are allowed, because some models create layers on trial.
    """
    others = count(1)

    def stop(_module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and _sides(parameter) not in shapes and next(others) > _ON_TRIAL:
            raise ValueError(name)

    hook = register_module_parameter_registration_hook(stop)
    try:
        yield
    finally:
        hook.remove()


def classifier_parameters(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    """Return the parameters of a timm model's classifier."""
    timm_model: Any = model
    heads = timm_model.get_classifier()
    modules = heads if isinstance(heads, list | tuple) else [heads]  # distilled models have two
    return [parameter for module in modules for parameter in module.parameters()]


def classifier_names(model: torch.nn.Module) -> set[str]:
    """Return the names of the parameters of a timm model's classifier."""
    own = {id(parameter) for parameter in classifier_parameters(model)}
    return {name for name, parameter in model.named_parameters() if id(parameter) in own}


def _differences(weights: StateDict, model: torch.nn.Module) -> tuple[list[str], list[str]]:
    """Return what is wrong with each tensor that ``model`` needs, in its order, and with each further one of the file."""
    own, classifier = model.state_dict(), classifier_names(model)
    needed = []
    for name, tensor in own.items():
        if name in classifier:
            continue
        if name not in weights:
            needed.append(f"{name} is missing")
        elif _sides(weights[name]) != _sides(tensor):
            needed.append(f"{name} is {list(weights[name].shape)} where the model has {list(tensor.shape)}")
    return needed, [f"{name[:100]} is not in the model" for name in weights if name not in own]


def _describe_fitting(names: list[str]) -> str:
    if not names:
        return "No model of timm's has tensors of these names and shapes."
    shown = ", ".join(map(repr, names[:_SHOWN]))
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"The weights fit {shown}{more}: give that name."


def _sides(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(side for side in tensor.shape if side != 1)
