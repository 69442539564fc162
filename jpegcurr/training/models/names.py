"""Names that a recipe may give a model and its weights, checked without importing timm, which takes seconds."""

import re
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from jpegcurr.errors import RecipeError, UsageError, did_you_mean
from jpegcurr.recipe.schema import ModelSection
from jpegcurr.recipe.values import HUBS
from jpegcurr.training.models.roadmap_steps import roadmap_names

_MODEL = re.compile(r"^@register_model\b.*?^def (\w+)", re.MULTILINE | re.DOTALL)
_DEPRECATIONS = re.compile(r"^register_model_deprecations\(__name__, \{(.*?)^\}\)", re.MULTILINE | re.DOTALL)
_OLD_NAME = re.compile(r"""["'](\w+)["']\s*:""")


def check_model(section: ModelSection, *, start: bool) -> None:
    """Raise RecipeError for an unknown model name, and UsageError for a missing checkpoint to ``start`` from.

    A pretrained tag (``name.tag``) is not checked, nor are names of hubs and of networks of one's own. Models that a program
    registered with timm count too.
    """
    if start and section.checkpoint is not None:
        find_weights(section.checkpoint)
    if section.name.startswith(HUBS) or section.factory is not None:
        return
    architecture = section.name.partition(".")[0]
    if architecture not in model_names() | deprecated_names() and not _is_registered(architecture):
        hint = did_you_mean(section.name, sorted(model_names()))
        raise RecipeError(f"model.name: timm has no model {section.name!r}.{hint}")


def find_weights(path: Path) -> Path:
    """Return ``path`` if it is a file, or the weights of the run if it is a run's folder; raise UsageError if there is none."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"model.checkpoint: {file} does not exist. Give a file of weights, or the folder of a run.")
    return file


@cache
def model_names() -> frozenset[str]:
    """Return the names of timm's architectures, read from the source files that register them, and ours."""
    return frozenset(name for text in _sources() for name in _MODEL.findall(text)) | roadmap_names().keys()


@cache
def deprecated_names() -> frozenset[str]:
    """Return the old names that timm still accepts, with a warning or an error of its own."""
    return frozenset(name for text in _sources() for names in _DEPRECATIONS.findall(text) for name in _OLD_NAME.findall(names))


def _sources() -> Iterable[str]:
    timm = find_spec("timm")
    folders = timm.submodule_search_locations if timm else None
    paths = sorted(path for folder in folders or () for path in Path(folder, "models").glob("*.py"))
    for path in (*paths, Path(__file__).parent / "isotropic.py"):
        yield path.read_text(encoding="utf-8")


def _is_registered(architecture: str) -> bool:
    timm = sys.modules.get("timm")
    return timm is not None and timm.is_model(architecture)
