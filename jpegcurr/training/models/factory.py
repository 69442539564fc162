"""Networks of one's own: in memory, or ``module:factory`` or ``file.py:factory``, a function that returns an ``nn.Module``."""

import importlib
import sys
import traceback
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from jpegcurr.errors import UsageError, did_you_mean


def is_factory(name: str) -> bool:
    """Return whether ``name`` has the form ``module:factory`` or ``file.py:factory``; hubs' names have another prefix."""
    where, colon, attribute = name.rpartition(":")
    return bool(colon) and attribute.isidentifier() and "/" not in attribute and not where.endswith("hub") and bool(where)


def build_model(name: str) -> torch.nn.Module:
    """Import the module, from the working directory too, and return what its factory returns, in evaluation mode.

    This runs the user's own code, as ``python -m`` would.

    Raises:
        UsageError: the module cannot be imported, has no such function, or the function fails or returns something else.
    """
    where, _, attribute = name.rpartition(":")
    module = _import(name, where)
    factory: Any = getattr(module, attribute, None)
    if not callable(factory):
        names = [other for other in vars(module) if not other.startswith("_")]
        raise UsageError(f"{name}: {where} has no function {attribute!r}.{did_you_mean(attribute, names)}")
    try:
        model = factory()
    except Exception as error:  # it is the user's code
        raise UsageError(f"{name} failed: {_describe(error)}. It is called without arguments.") from None
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{name} returns {type(model).__name__}, which is no torch.nn.Module. Return the network itself.")
    return model.eval()


def copy_network(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy in evaluation mode of a network that may be in training, compiled, or on another device.

    Raises:
        UsageError: a part of it cannot be copied.
    """
    try:
        copy: torch.nn.Module = deepcopy(unwrapped(model))
    except Exception as error:  # of the user's modules and hooks
        reason = " ".join(str(error).split())[:200]
        name = type(model).__name__
        raise UsageError(f"{name} cannot be copied ({reason}). Give a function that builds it, as module:factory.") from None
    return copy.eval()


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model that ``torch.compile`` was given, or ``model`` itself."""
    inner: torch.nn.Module = getattr(model, "_orig_mod", model)
    return inner


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
