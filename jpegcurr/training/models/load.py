"""timm's pretrained models, by name, where a run could stand; and the names that they had before timm 0.9."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol

import timm
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from timm.models import PretrainedCfg

from jpegcurr.errors import JpegcurrError, UsageError, did_you_mean
from jpegcurr.recipe.loading import load_recipe
from jpegcurr.recipe.schema import ImageSection, Recipe
from jpegcurr.runtime import Runtime
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.create import Weights, normaliser
from jpegcurr.training.models.pretrained import count_classes, load_weights

_SIZES = ("tiny", "small", "base", "large", "xlarge")
_TAGS = {"_in22ft1k": "fb_in22k_ft_in1k", "_384_in22ft1k": "fb_in22k_ft_in1k_384", "_in22k": "fb_in22k"}
# The ConvNeXts that timm 0.6 had beside the plain ones, and that timm still maps by itself, with a warning.
LEGACY = {f"convnext_{size}{old}": f"convnext_{size}.{tag}" for old, tag in _TAGS.items() for size in _SIZES}
COUNTED = 40  # architectures whose parameters are counted for a listing: a tenth of a second each, on no device

Create = Callable[..., Any]


class Classifier(Protocol):
    """A model and how it sees: a ``Run``, or a ``NamedModel``."""

    @property
    def path(self) -> Path:
        """The run's folder, or the model's name."""

    @property
    def model(self) -> torch.nn.Module:
        """In evaluation mode, on the runtime's device."""

    @property
    def normalise(self) -> Normaliser:
        """What the model's inputs go through first."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs."""

    @property
    def image(self) -> ImageSection:
        """The view of an image."""


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model in evaluation mode on the runtime's device, and what it needs to see images as it was trained to.

    ``loader`` is the kind that it was trained with, ``ffcv`` or ``plain``.
    """

    path: Path
    weights: Weights
    recipe: Recipe
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    loader: str

    @property
    def image(self) -> ImageSection:
        """The view of an image."""
        return self.recipe.image


def load_run(path: Path, runtime: Runtime, weights: Weights = "raw") -> Run:
    """Load a run folder that ``jpegcurr train`` made.

    Raises:
        UsageError: the folder is missing, is no run, or has no checkpoint yet.
    """
    folder = path if weights == "raw" else path / weights
    if not (path / "recipe.yaml").is_file():
        what = "is not a run folder (it has no recipe.yaml)" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {what}. Give the folder that `jpegcurr train --out` made.")
    if not (folder / "model.safetensors").is_file():
        raise UsageError(f"{folder} holds no checkpoint yet: the first one is written after the first epoch.")
    try:
        classes = tuple(json.loads((folder / "config.json").read_text(encoding="utf-8"))["label_names"])
        loader = str(json.loads((path / "run.json").read_text(encoding="utf-8"))["loader"])
        model: torch.nn.Module = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{folder} holds a checkpoint that cannot be read: {error}") from None
    normalise = normaliser(model).to(runtime.device)
    recipe = load_recipe(path / "recipe.yaml")
    return Run(path, weights, recipe, runtime.place(model).eval(), normalise, classes, loader)


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A pretrained model in evaluation mode, and how timm says that it sees images; it does what a ``Run`` does.

    Crops are those of a ``Run``: the square that timm's transform takes, to within a pixel.
    """

    path: Path
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    image: ImageSection


@dataclass(frozen=True, slots=True)
class Listed:
    """A name of timm's: ``size`` in pixels a side, ``parameters`` None where they were not counted."""

    name: str
    legacy: str | None
    parameters: int | None
    size: int
    classes: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, for JSON."""
        return asdict(self)


def load_classifier(
    run: Path, runtime: Runtime, weights: Weights = "raw", *, checkpoint: Path | None = None, create: Create = timm.create_model
) -> Classifier:
    """Load the run that ``run`` is the folder of, or else timm's model of that name.

    ``checkpoint`` is a file of weights for the latter, in place of those that timm downloads; ``create`` is for tests.

    Raises:
        UsageError: neither a run nor a name that timm has weights for; the sentence has the nearest name.
        JpegcurrError: the weights cannot be had.
    """
    if run.exists():
        if checkpoint is not None:
            raise UsageError(f"--checkpoint is for a model of timm's; {run} has its own. Leave it away.")
        return load_run(run, runtime, weights)
    if weights != "raw":
        raise UsageError(f"--weights {weights} is for runs, and {run} is not a folder that is there. Leave it away.")
    return load_named(str(run), runtime, checkpoint=checkpoint, create=create)


def load_named(
    name: str, runtime: Runtime, *, checkpoint: Path | None = None, create: Create = timm.create_model
) -> NamedModel:
    """Load timm's model ``name``, which may be a legacy one; see ``load_classifier``."""
    current = LEGACY.get(name, name)
    _check_name(name, current, checkpoint)
    classes = _named_classes(timm.get_pretrained_cfg(current))
    options: dict[str, Any] = {}
    if checkpoint is not None:
        state = load_weights(checkpoint)
        count = count_classes(state) or len(classes)
        options = {"num_classes": count, "pretrained_cfg_overlay": {"state_dict": state, "num_classes": count}}
        classes = classes if len(classes) == count else tuple(map(str, range(count)))
    if not classes:
        raise UsageError(f"{name} does not classify: its weights are without classes. `jpegcurr models` lists those with.")
    try:
        model: torch.nn.Module = create(current, pretrained=True, **options)
    except Exception as error:  # what a download ends with differs by library and has no common class
        raise JpegcurrError(_not_had(name, checkpoint, error)) from None
    config = resolve_model_data_config(model)
    image = _image(name, config)
    normalise = Normaliser(config["mean"], config["std"]).to(runtime.device)
    return NamedModel(Path(current), runtime.place(model).eval(), normalise, classes, image)


def _check_name(name: str, current: str, checkpoint: Path | None) -> None:
    way = "Give the folder that `jpegcurr train --out` made, or a name that `jpegcurr models` lists."
    if not timm.is_model(current):
        hint = did_you_mean(name, _every_name())
        raise UsageError(f"{name} does not exist, and timm has no model of that name.{hint or ' ' + way}")
    tag = current.partition(".")[2]
    if checkpoint is None and not timm.is_model_pretrained(current):
        hint = did_you_mean(name, timm.list_models(pretrained=True))
        raise UsageError(f"timm has no weights for {name}.{hint or ' Give a file of them: --checkpoint FILE.'}")
    if tag and timm.get_pretrained_cfg(current, allow_unregistered=True) is None:
        raise UsageError(f"timm has no weights named {tag!r} of {current.partition('.')[0]}. {way}")


def _every_name() -> list[str]:
    return [*LEGACY, *timm.list_models(), *timm.list_models(pretrained=True)]


def _not_had(name: str, checkpoint: Path | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if checkpoint is not None:
        return f"{checkpoint} cannot be loaded into {name}: {reason}"
    return (
        f"The weights of {name} are not on this machine and could not be downloaded ({reason}). "
        "Where there is no network, give a file of them: --checkpoint FILE."
    )


def _named_classes(config: PretrainedCfg | None) -> tuple[str, ...]:
    """The classes of weights, by timm's own names or WordNet's; empty for those that do not classify, such as CLIP's."""
    if config is None:
        return ()
    if config.label_names:
        return tuple(config.label_names)
    subset = infer_imagenet_subset(config.to_dict())
    return imagenet_classes(subset) if subset else ()


def _image(name: str, config: dict[str, Any]) -> ImageSection:
    """The view that timm's ``config`` describes."""
    _, height, width = config["input_size"]
    crop: float | Literal["squash"] = "squash" if config["crop_mode"] == "squash" else config["crop_pct"]
    if height != width or config["crop_mode"] == "border":
        raise UsageError(f"{name} sees images of another shape than squares, or with a border: not done here.")
    try:
        return ImageSection.model_validate({"size": height, "interpolation": config["interpolation"], "val_crop": crop})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{name} sees images in a way not done here: {first['loc'][0]} {first['input']}.") from None


def list_named(pattern: str, *, count: int = COUNTED) -> list[Listed]:
    """timm's weights that classify and whose name, or legacy name, fits ``pattern`` (``*`` at both ends without any), sorted.

    Parameters are counted if there are ``count`` architectures at most.

    Raises:
        UsageError: there are none.
    """
    every = timm.list_models(pretrained=True)
    known = {name: old for old, name in LEGACY.items()}
    fits = pattern.lower() if any(mark in pattern for mark in "*?[") else f"*{pattern.lower()}*"
    names = [name for name in every if fnmatchcase(name.lower(), fits) or fnmatchcase(known.get(name, ""), fits)]
    configs = {name: timm.get_pretrained_cfg(name) for name in names}
    classed = {name: config for name, config in configs.items() if config is not None and _is_usable(config)}
    if not classed:
        raise UsageError(f"timm has no weights like {pattern!r} that classify.{did_you_mean(pattern, _every_name())}")
    architectures = dict.fromkeys(name.partition(".")[0] for name in classed)
    sizes = _count_parameters(list(architectures)) if len(architectures) <= count else {}
    return [
        Listed(name, known.get(name), sizes.get(name.partition(".")[0]), config.input_size[-1], config.num_classes)
        for name, config in classed.items()
    ]


def _is_usable(config: PretrainedCfg) -> bool:
    """Whether ``load_named`` takes it: it classifies, and sees squares cut out of images."""
    _, height, width = config.input_size
    seen = height == width and config.crop_mode != "border" and 0 < config.crop_pct <= 1
    return seen and bool(config.label_names or infer_imagenet_subset(config.to_dict()))


def _count_parameters(architectures: Sequence[str]) -> dict[str, int]:
    """With a thousand classes, for every one of ``architectures``; made without memory."""
    with torch.device("meta"):
        made = ((name, timm.create_model(name, num_classes=1000)) for name in architectures)
        return {name: sum(each.numel() for each in model.parameters()) for name, model in made}


def imagenet_classes(subset: str) -> tuple[str, ...]:
    """WordNet's numbers of one of timm's subsets (``imagenet-1k``, ``imagenet-22k``, ...), in the order of the outputs."""
    return tuple(ImageNetInfo(subset).label_names())
