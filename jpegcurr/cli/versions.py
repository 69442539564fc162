"""The versions of everything that decides a result, for reports of errors and for papers: ``jpegcurr --versions``."""

import json
import platform
import re
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import jpegcurr
from jpegcurr.cli.terminal import out
from jpegcurr.system import library_versions

# By distribution, required ones first. Their metadata is read; none of them is imported but Pillow.
LIBRARIES = (
    *("torch", "torchvision", "timm", "numpy", "scipy", "opencv-python-headless", "pillow", "simplejpeg", "safetensors"),
    *("pydantic", "typer", "ffcv", "numba", "tensorboard", "wandb", "grad-cam", "distributed", "datasets", "onnx", "submitit"),
)


def read_versions() -> dict[str, str]:
    """Return versions by name: jpegcurr, Python, the platform, libraries, and the libjpeg-turbo within those that decode."""
    versions = {
        "jpegcurr": jpegcurr.__version__,
        "Python": platform.python_version(),
        "platform": platform.platform(),
        **library_versions(LIBRARIES),
        "libjpeg-turbo of pillow": _turbo_of_pillow(),
        "libjpeg-turbo of simplejpeg": _turbo_of_simplejpeg(),
    }
    return {name: "not installed" if version == "absent" else version for name, version in versions.items()}


def print_versions(*, as_json: bool) -> None:
    """Print a line for every version."""
    versions = read_versions()
    if as_json:
        out.print_json(json.dumps(versions))
        return
    width = max(map(len, versions))
    for name, version in versions.items():
        out.print(f"{name:{width}}  {version}", markup=False)


def _turbo_of_pillow() -> str:
    from PIL import features  # takes time that --help does not have

    return features.version("libjpeg_turbo") or "not libjpeg-turbo"


def _turbo_of_simplejpeg() -> str:
    """Return the version that the extension module states in its code; its functions do not tell."""
    spec = find_spec("simplejpeg")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("_jpeg*.so")):
            with suppress(OSError):
                if match := re.search(rb"libjpeg-turbo version ([\d.]+)", path.read_bytes()):
                    return match[1].decode()
    return "unknown"
