"""Networks of one's own: in memory, or ``module:factory`` or ``file.py:factory``, a function that returns an ``nn.Module``."""

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Mapping
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from jpegcurr.errors import RecipeError, UsageError, did_you_mean
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.training.models.finite import check_weights
from jpegcurr.training.models.pretrained import load_weights


def build_model(name: str, options: Mapping[str, Any] | None = None, *, needed: Mapping[str, str] | None = None) -> nn.Module:
    """Import the module, from the working directory too, and return what its factory returns, in evaluation mode.

    This runs the user's own code, as ``python -m`` would. Of ``options``, such as ``num_classes``, the factory is called with
    those that are among its parameters; ``needed`` are those that it must have, with the field of a recipe that asks for it.

    Raises:
        UsageError: the module cannot be imported, has no such function, or the function lacks a parameter, fails or returns
            something else.
    """
    where, _, attribute = name.rpartition(":")
    module = _import(name, where)
    factory: Any = getattr(module, attribute, None)
    if not callable(factory):
        names = [other for other in vars(module) if not other.startswith("_")]
        raise UsageError(f"{name}: {where} has no function {attribute!r}.{did_you_mean(attribute, names)}")
    arguments = {key: value for key, value in (options or {}).items() if _takes(factory, key)}
    for option, field in (needed or {}).items():
        if option not in arguments:
            raise UsageError(
                f"{field}: {name} has no parameter {option!r}, which would be given it. Add it, or omit the field."
            )
    try:
        model = factory(**arguments)
    except Exception as error:  # it is the user's code
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        called = f"with {given}" if given else "without arguments"
        raise UsageError(f"{name} failed: {_describe(error)}. It is called {called}.") from None
    if not isinstance(model, nn.Module):
        raise UsageError(f"{name} returns {type(model).__name__}, which is no torch.nn.Module. Return the network itself.")
    return model.eval()


def copy_network(model: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode of a network that may be in training, compiled, or on another device.

    Raises:
        UsageError: a part of it cannot be copied.
    """
    try:
        copy: nn.Module = deepcopy(unwrapped(model))
    except Exception as error:  # of the user's modules and hooks
        reason = " ".join(str(error).split())[:200]
        name = type(model).__name__
        raise UsageError(f"{name} cannot be copied ({reason}). Give a function that builds it, as module:factory.") from None
    return copy.eval()


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model that ``torch.compile`` was given, or ``model`` itself."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner


def create_own(section: ModelSection, classes: int, *, start: bool) -> nn.Module:
    """Create the user's own network for a recipe; the weights that it starts from are loaded unless ``start`` is False.

    Its factory gets those of ``num_classes``, ``drop_path_rate`` and ``pretrained`` that it has parameters for.

    Raises:
        UsageError: as ``build_model`` and ``load_weights`` do.
        RecipeError: the recipe sets something that is for timm's models alone, or the checkpoint does not fit.
    """
    for field, whose in {"head_init_scale": "models", "layer_scale": "ConvNeXts"}.items():
        if getattr(section, field) is not None:
            raise RecipeError(f"model.{field} is for timm's {whose}. Have {section.name} set it itself, and omit the field.")
    options = {"num_classes": classes, "drop_path_rate": section.drop_path, "pretrained": start and section.pretrained}
    needed = {"drop_path_rate": "model.drop_path"} if section.drop_path else {}
    needed |= {"pretrained": "model.pretrained"} if section.pretrained else {}
    model = build_model(section.name, options, needed=needed)
    if start and section.checkpoint is not None:
        weights = load_weights(section.checkpoint)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise RecipeError(f"model: {section.name!r} cannot start from {section.checkpoint}: {reason}") from None
        check_weights(model, f"model.checkpoint: {section.checkpoint}")
    return model.train()


def source_sha256(name: str) -> str | None:
    """Return the checksum of the file that defines a factory that was imported before; None if it is in none.

    It does not see what that file imports.
    """
    where = name.rpartition(":")[0]
    module = sys.modules.get(Path(where).stem if where.endswith(".py") else where)
    file = getattr(module, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else None


def _takes(factory: Any, option: str) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # of some callables that are not written in Python
        return False
    return option in parameters or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())


def _import(name: str, where: str) -> ModuleType:
    try:
        if where.endswith(".py"):
            return _import_file(Path(where))
        sys.path.insert(0, str(Path.cwd()))
        try:
            return importlib.import_module(where)
        finally:
            sys.path.remove(str(Path.cwd()))
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise UsageError(f"{name}: there is no module {error.name} here. Give file.py:function, or install it.") from None
        raise UsageError(f"{name} cannot be imported: {_describe(error)}.") from None
    except Exception as error:
        raise UsageError(f"{name} cannot be imported: {_describe(error)}.") from None


def _import_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageError(f"{file} does not exist. Give the file of a network as file.py:function.")
    spec = spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is no Python file. Give the file of a network as file.py:function.")
    module = module_from_spec(spec)
    sys.modules[file.stem] = module  # before it runs, as its dataclasses and pickles need
    sys.path.insert(0, str(file.resolve().parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module


def _describe(error: Exception) -> str:
    """Return an error with the line of the user's code that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
    reason = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {reason}{place}" if reason else f"{type(error).__name__}{place}"
