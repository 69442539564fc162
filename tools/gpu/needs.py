"""The packages that the GPU check needs: jpegcurr's own, in the versions of pyproject.toml, and those of its steps."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The names under which packages are imported, where they are others than those under which they are installed.
MODULES = {
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
TESTS = ("hypothesis", "pytest", "scikit-image", "torchvision")
PHOTOGRAPHS = ("scikit-image", "scikit-learn")  # which the check's own images come from


def requirements() -> list[str]:
    """Return jpegcurr's own, such as ``timm>=1.0.31``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [str(line) for line in project["dependencies"]]


def split_requirement(line: str) -> tuple[str, str]:
    """Return name and lower bound of ``name>=1.2``; the bound is empty if there is none."""
    name, bound = re.fullmatch(r"([A-Za-z0-9_.-]+?)(?:>=([0-9.]+))?", line.strip()).groups()  # type: ignore[union-attr]
    return name, bound or ""


def missing(lines: Sequence[str]) -> Iterator[str]:
    """Yield a phrase for every requirement that this Python does not meet."""
    owners = packages_distributions()
    for name, bound in map(split_requirement, lines):
        module = MODULES.get(name, name.replace("-", "_"))
        if find_spec(module) is None:
            yield f"{name}{f'>={bound}' if bound else ''} is not installed"
            continue
        installed = installed_version(name, owners.get(module, []))
        if bound and installed and numbers(installed) < numbers(bound):
            yield f"{name} {installed} is installed, and {bound} or newer is needed"


def installed_version(name: str, owners: Sequence[str]) -> str:
    """Return the version of a package, or of one that has its module (``opencv-python``); empty if it is not known."""
    for distribution in (name, *owners):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return ""


def numbers(text: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, three of them: (2, 11, 0) of ``2.11.0+cu130``."""
    parts = [int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0])]
    return tuple([*parts, 0, 0, 0][:3])


def lacking(*, photographs: bool) -> list[str]:
    """Return what this Python lacks for the check; ``photographs`` says that it makes its own images.

    libturbojpeg and numba count too: without them the compiled loader, which training takes, is not measured.
    """
    lines = [*requirements(), *TESTS, *(PHOTOGRAPHS if photographs else ())]
    phrases = list(dict.fromkeys(missing(lines)))
    if not phrases:
        phrases += lacking_library()
    return phrases


def lacking_library() -> list[str]:
    """Return a phrase if libturbojpeg cannot be loaded, with the ways to get it."""
    from jpegcurr.training.data.turbojpeg import load_library

    try:
        load_library()
    except OSError as error:
        return [str(error)]
    return []
