"""A model as an ONNX file, which programs without torch run; torch writes it with the packages onnx and onnxscript."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.files import staged
from jpegcurr.system import install_command
from jpegcurr.training.models.classifier import Classifier

_PACKAGES = ("onnx", "onnxscript")
_LARGEST = 2**31 - 2**22  # bytes of weights: a protobuf message is smaller than 2 GB, and the graph needs some


def check_packages() -> None:
    """Raise UsageError, with the command that installs them, if a package is missing."""
    if any(find_spec(package) is None for package in _PACKAGES):
        raise UsageError(f"--to onnx needs the packages {' and '.join(_PACKAGES)}. Run {install_command(' '.join(_PACKAGES))}.")


def write_onnx(classifier: Classifier, path: Path, *, head: bool = True) -> None:
    """Write the model of ``classifier`` as one ONNX file: ``images`` [b 3 size size], float32, to ``logits`` [b classes].

    The batch may be of any size. Images are normalised as in training; the file's metadata has ``mean`` and ``std`` (on the 0
    to 1 scale), ``size`` in pixels, ``interpolation``, ``val_crop``, ``val_resize`` and ``classes``, as JSON. Without ``head``
    the output is ``features`` [b channels], what the linear layer gets.

    Raises:
        UsageError: a package is missing, or the weights are larger than such a file may be.
        JpegcurrError: torch cannot express the model in ONNX.
    """
    check_packages()
    if sum(tensor.numel() * tensor.element_size() for tensor in classifier.model.state_dict().values()) > _LARGEST:
        raise UsageError(f"{classifier.path} has more than 2 GB of weights, which one ONNX file cannot hold.")
    size = classifier.image.size
    model: Any = deepcopy(classifier.model).cpu().to(memory_format=torch.contiguous_format).eval()
    if not head:
        model.reset_classifier(0)
    with staged(path) as partial, _quiet():
        try:
            program: Any = torch.onnx.export(
                model,
                (torch.zeros(2, 3, size, size),),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["logits" if head else "features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        except Exception as error:  # whatever torch's exporter raises for an operation that it cannot express
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise JpegcurrError(f"torch cannot write {classifier.path} as ONNX: {reason}") from None
        program.model.metadata_props.update(_describe(classifier, head=head))
        program.save(partial)


def _describe(classifier: Classifier, *, head: bool) -> dict[str, str]:
    image, normalise = classifier.image, classifier.normalise
    facts = {
        "mean": list(normalise.levels),
        "std": list(normalise.deviations),
        "size": image.size,
        "interpolation": image.interpolation,
        "val_crop": image.val_share,
        "val_resize": "squash" if image.squashed else image.val_resize,
        "classes": list(classifier.classes) if head else [],
    }
    return {name: json.dumps(value) for name, value in facts.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice to programmers off the terminal."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
