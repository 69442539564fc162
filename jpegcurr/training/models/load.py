"""Trained models to analyse: a run, or one of timm's pretrained models by its name; and a listing of those."""

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
from jpegcurr.recipe.loading import load_recorded
from jpegcurr.recipe.schema import ImageSection, Recipe, ValResize
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.create import normaliser
from jpegcurr.training.models.pretrained import count_classes, load_weights
from jpegcurr.training.run_folder import class_names_known

_SIZES = ("tiny", "small", "base", "large", "xlarge")
_TAGS = {"_in22ft1k": "fb_in22k_ft_in1k", "_384_in22ft1k": "fb_in22k_ft_in1k_384", "_in22k": "fb_in22k"}
# Names that timm 0.6 had for pretrained ConvNeXts; timm itself still accepts them, with a warning.
LEGACY = {f"convnext_{size}{old}": f"convnext_{size}.{tag}" for old, tag in _TAGS.items() for size in _SIZES}
COUNTED = 40  # a listing counts parameters of up to so many architectures: a tenth of a second each, on the meta device

Create = Callable[..., Any]
Weights = Literal["raw", "ema", "best"]


class Classifier(Protocol):
    """A model and its preprocessing: a ``Run``, or a ``NamedModel``."""

    @property
    def path(self) -> Path:
        """The run's folder, or the model's name."""

    @property
    def model(self) -> torch.nn.Module:
        """The network, in evaluation mode, on the runtime's device."""

    @property
    def normalise(self) -> Normaliser:
        """The normalisation of the model's inputs."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the outputs."""

    @property
    def names_known(self) -> bool:
        """Whether ``classes`` are names, not only the numbers of the outputs."""

    @property
    def image(self) -> ImageSection:
        """The crop, size and interpolation of the model's inputs."""


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model in evaluation mode on the runtime's device, with its recipe, normalisation and class names.

    ``loader`` is the kind of loader that it was trained with, ``ffcv`` or ``plain``. ``names_known`` is False for a run that
    was trained on a beton without a manifest: ``classes`` are then the numbers of the outputs.
    """

    path: Path
    weights: Weights
    recipe: Recipe
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    loader: str
    names_known: bool = True

    @property
    def class_list(self) -> Classes:
        """The classes as data sets are matched with them."""
        return Classes(self.classes, self.names_known, owner=str(self.path))

    @property
    def image(self) -> ImageSection:
        """The crop, size and interpolation that the run was trained with."""
        return self.recipe.image


@dataclass(frozen=True, slots=True)
class NamedModel:
    """A pretrained model in evaluation mode on the runtime's device, with the preprocessing of timm's configuration.

    Crops are made as for a ``Run``, with the pixels of timm's transform, to within one level of 255.
    """

    path: Path
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    image: ImageSection
    names_known: bool = True


def load_classifier(
    run: Path, runtime: Runtime, weights: Weights = "raw", *, checkpoint: Path | None = None, create: Create = timm.create_model
) -> Classifier:
    """Load the run in the folder ``run``, or timm's pretrained model of that name if there is no such folder.

    ``checkpoint`` is a file of weights for timm's model, instead of those that timm downloads; ``create`` is for tests.

    Raises:
        UsageError: ``run`` is neither a run nor a name that timm has weights for; the message has the nearest name.
        JpegcurrError: the weights cannot be downloaded or loaded.
    """
    if run.exists():
        if checkpoint is not None:
            raise UsageError(f"--checkpoint is for a model of timm's; the run {run} has its own weights. Omit it.")
        return load_run(run, runtime, weights)
    if weights != "raw":
        raise UsageError(f"--weights {weights} is for runs, and there is no folder {run}. Omit it.")
    return load_named(str(run), runtime, checkpoint=checkpoint, create=create)


def load_run(path: Path, runtime: Runtime, weights: Weights = "raw") -> Run:
    """Load the ``weights`` of a run's folder, as ``jpegcurr train`` writes it.

    Raises:
        UsageError: the folder does not exist, is no run, or has no checkpoint yet.
    """
    folder = path if weights == "raw" else path / weights
    if not (path / "recipe.yaml").is_file():
        problem = "is not a run folder (it has no recipe.yaml)" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {problem}. Give the --out folder of a `jpegcurr train`.")
    if not (folder / "model.safetensors").is_file():
        raise UsageError(f"{folder} holds no checkpoint yet: the first one is written after the first epoch.")
    try:
        classes = tuple(json.loads((folder / "config.json").read_text(encoding="utf-8"))["label_names"])
        known = class_names_known(path)
        loader = str(json.loads((path / "run.json").read_text(encoding="utf-8"))["loader"])
        model: torch.nn.Module = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise UsageError(f"{folder} holds a checkpoint that cannot be read: {error}") from None
    normalise = normaliser(model).to(runtime.device)
    recipe = load_recorded(path / "recipe.yaml")
    return Run(path, weights, recipe, runtime.place(model).eval(), normalise, classes, loader, known)


def load_named(
    name: str, runtime: Runtime, *, checkpoint: Path | None = None, create: Create = timm.create_model
) -> NamedModel:
    """Load timm's pretrained model ``name``, which may be a legacy name; see ``load_classifier``."""
    current = LEGACY.get(name, name)
    _check_name(name, current, checkpoint)
    classes = _named_classes(timm.get_pretrained_cfg(current))
    options: dict[str, Any] = {}
    known = True
    if checkpoint is not None:
        state = load_weights(checkpoint)
        count = count_classes(state) or len(classes)
        options = {"num_classes": count, "pretrained_cfg_overlay": {"state_dict": state, "num_classes": count}}
        known = len(classes) == count
        classes = classes if known else tuple(map(str, range(count)))
    if not classes:
        raise UsageError(f"{name} does not classify: its weights have no classes. `jpegcurr models` lists the models that do.")
    try:
        model: torch.nn.Module = create(current, pretrained=True, **options)
    except Exception as error:  # the errors of a failed download have no common class
        raise JpegcurrError(_describe_failure(name, checkpoint, error)) from None
    config = resolve_model_data_config(model)
    image = _image_section(name, config)
    normalise = Normaliser(config["mean"], config["std"]).to(runtime.device)
    return NamedModel(Path(current), runtime.place(model).eval(), normalise, classes, image, known)


def _check_name(name: str, current: str, checkpoint: Path | None) -> None:
    advice = "Give the --out folder of a `jpegcurr train`, or a name that `jpegcurr models` lists."
    if not timm.is_model(current):
        hint = did_you_mean(name, _all_names())
        raise UsageError(f"{name} does not exist, and timm has no model of that name.{hint or ' ' + advice}")
    tag = current.partition(".")[2]
    if checkpoint is None and not timm.is_model_pretrained(current):
        hint = did_you_mean(name, timm.list_models(pretrained=True))
        raise UsageError(f"timm has no weights for {name}.{hint or ' Give a file of weights: --checkpoint FILE.'}")
    if tag and timm.get_pretrained_cfg(current, allow_unregistered=True) is None:
        raise UsageError(f"timm has no weights named {tag!r} of {current.partition('.')[0]}. {advice}")


def _all_names() -> list[str]:
    return [*LEGACY, *timm.list_models(), *timm.list_models(pretrained=True)]


def _describe_failure(name: str, checkpoint: Path | None, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    if checkpoint is not None:
        return f"{checkpoint} cannot be loaded into {name}: {reason}"
    return (
        f"The weights of {name} are not on this machine and could not be downloaded ({reason}). "
        "Without a network, give a file of weights: --checkpoint FILE."
    )


def _named_classes(config: PretrainedCfg | None) -> tuple[str, ...]:
    """Return the class names of pretrained weights, timm's or WordNet's; none if they do not classify, such as CLIP's."""
    if config is None:
        return ()
    if config.label_names:
        return tuple(config.label_names)
    subset = infer_imagenet_subset(config.to_dict())
    return imagenet_classes(subset) if subset else ()


def _image_section(name: str, config: dict[str, Any]) -> ImageSection:
    """Return the preprocessing in timm's ``config``; raise UsageError if we cannot do it."""
    _, height, width = config["input_size"]
    way: ValResize = "squash" if config["crop_mode"] == "squash" else "shorter_side"
    if height != width or config["crop_mode"] == "border":
        raise UsageError(f"{name} takes inputs that are not square or have a border, which is not supported.")
    try:
        view = {"val_crop": config["crop_pct"], "val_resize": way}
        return ImageSection.model_validate({"size": height, "interpolation": config["interpolation"], **view})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"{name} needs preprocessing that is not supported: {first['loc'][0]} {first['input']}.") from None


@dataclass(frozen=True, slots=True)
class Listed:
    """One of timm's pretrained models: ``size`` is the input's side length in pixels; ``parameters`` is None if not counted."""

    name: str
    legacy: str | None
    parameters: int | None
    size: int
    classes: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, for JSON."""
        return asdict(self)


def list_named(pattern: str, *, count: int = COUNTED) -> list[Listed]:
    """List timm's pretrained classifiers whose name, or legacy name, matches ``pattern``, sorted.

    A pattern without wildcards matches any part of a name. Parameters are counted for at most ``count`` architectures.

    Raises:
        UsageError: no name matches.
    """
    legacy = {name: old for old, name in LEGACY.items()}
    wildcard = pattern.lower() if any(mark in pattern for mark in "*?[") else f"*{pattern.lower()}*"
    names = [
        name
        for name in timm.list_models(pretrained=True)
        if fnmatchcase(name.lower(), wildcard) or fnmatchcase(legacy.get(name, ""), wildcard)
    ]
    configs = {name: timm.get_pretrained_cfg(name) for name in names}
    usable = {name: config for name, config in configs.items() if config is not None and _is_usable(config)}
    if not usable:
        raise UsageError(f"timm has no weights like {pattern!r} that classify.{did_you_mean(pattern, _all_names())}")
    architectures = dict.fromkeys(name.partition(".")[0] for name in usable)
    parameters = _count_parameters(list(architectures)) if len(architectures) <= count else {}
    return [
        Listed(name, legacy.get(name), parameters.get(name.partition(".")[0]), config.input_size[-1], config.num_classes)
        for name, config in usable.items()
    ]


def _is_usable(config: PretrainedCfg) -> bool:
    """Return whether ``load_named`` accepts the model: it classifies, and takes square crops."""
    _, height, width = config.input_size
    square = height == width and config.crop_mode != "border" and 0 < config.crop_pct <= 1
    return square and bool(config.label_names or infer_imagenet_subset(config.to_dict()))


def _count_parameters(architectures: Sequence[str]) -> dict[str, int]:
    """Return the number of parameters of ``architectures`` with a thousand classes; no memory is allocated for them."""
    with torch.device("meta"):
        models = ((name, timm.create_model(name, num_classes=1000)) for name in architectures)
        return {name: sum(parameter.numel() for parameter in model.parameters()) for name, model in models}


def imagenet_classes(subset: str) -> tuple[str, ...]:
    """Return the WordNet numbers of timm's subset (``imagenet-1k``, ``imagenet-22k``, ...), in the order of the outputs."""
    return tuple(ImageNetInfo(subset).label_names())
