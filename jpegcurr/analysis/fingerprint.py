"""Facts that decide the numbers of a pass over images, by names for people: what a resumed pass compares with its journal.

A fact is short enough to be shown, or a digest, which is only compared. What facts cannot see: pixels that were changed in a
beton after it was written (``jpegcurr inspect --verify`` finds them), and code that a network's own modules import.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jpegcurr.encoding.jpeg.codec import LIBRARIES
from jpegcurr.encoding.sources.base import file_changed_at
from jpegcurr.encoding.sources.labelled_files import LabelledFiles
from jpegcurr.runtime import Runtime
from jpegcurr.system import library_versions, source_commit
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.description import describe_model

Facts = dict[str, Any]

_LIBRARIES = tuple(dict.fromkeys(("jpegcurr", *LIBRARIES, "torch", "torchvision", "timm", "numba", "ffcv", "grad-cam")))
_INSTALLED = ("torch", "timm", "torchvision", "jpegcurr")  # packages of networks whose versions are facts


def machine_facts(runtime: Runtime) -> Facts:
    """Return what computes: device, precision and threads, the processor's instructions, processes, versions of libraries."""
    versions = {f"version of {name}": version for name, version in library_versions(_LIBRARIES).items()}
    instructions = torch.backends.cpu.get_cpu_capability()
    processes = f"{runtime.world.rank} of {runtime.world.ranks}"
    machine = {"device": runtime.reason, "instructions of the processor": instructions, "process": processes}
    return {**machine, **versions, "commit of jpegcurr": source_commit()}


def model_facts(runs: Sequence[Classifier]) -> Facts:
    """Return what the models are: weights, preprocessing, layers and their code, classes, images at a time."""
    facts: Facts = {"models": [f"{run.path} ({run.weights})" for run in runs]}
    for run in runs:
        described = describe_model(run)
        facts |= {
            f"weights of {run.path}": described.sha256,
            f"preprocessing of {run.path}": digest([described.as_dict(), run.image.model_dump(mode="json")]),
            f"layers of {run.path}": digest([str(run.model), *_hash_code(run.model)]),
            f"classes of {run.path}": digest([run.classes, run.names_known, repr(run.class_list.targets)]),
            f"images at a time of {run.path}": run.batch,
        }
    return facts


def _hash_code(model: nn.Module) -> list[str]:
    """Return the hashes of the files that define the network's modules, except of packages whose versions are facts."""
    names = {type(module).__module__ for module in model.modules()}
    own = sorted(name for name in names if name.partition(".")[0] not in _INSTALLED)
    files = [file for name in own if (file := getattr(sys.modules.get(name), "__file__", None)) and Path(file).is_file()]
    return [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]


def file_facts(labelled: LabelledFiles, folder: str) -> Facts:
    """Return what the image files are: names, sizes and classes."""
    rows = ((os.fsencode(file).hex(), _size(file), name) for file, name in zip(labelled.files, labelled.classes, strict=True))
    return {f"images or labels of {folder}": digest(rows)}


def find_changed_file(files: Iterable[Path], since: int) -> str:
    """Return which file has changed since a time in nanoseconds, ``a/1.jpg has changed``; an empty string if none has."""
    return first_change(((str(file), file_changed_at(str(file))) for file in files), since)


def first_change(files: Iterable[tuple[str, int | None]], since: int) -> str:
    """Return which of (name, time of its last change) has changed after ``since``, as ``find_changed_file`` does."""
    changed = (name for name, time in files if time is not None and time > since)
    return next((f"{name} has changed" for name in changed), "")


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def digest(rows: Iterable[Any]) -> str:
    """Return the SHA-256 of rows of anything that JSON can hold, in hexadecimal."""
    hashed = hashlib.sha256()
    for row in rows:
        hashed.update(json.dumps(row).encode() + b"\n")
    return hashed.hexdigest()
