"""Models to analyse, by one door: a run, a model of timm's or of a hub by its name, or a network of one's own."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import timm
import torch
from pydantic import ValidationError
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from timm.models import PretrainedCfg

from jpegcurr.errors import JpegcurrError, UsageError, did_you_mean
from jpegcurr.recipe.loading import load_resolved
from jpegcurr.recipe.schema import HUBS, ImageSection, Recipe, ValResize, is_factory
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.classes import Classes
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.exported import load_exported, load_own_config, load_own_weights
from jpegcurr.training.models.factory import build_model, create_own, source_sha256
from jpegcurr.training.models.finite import check_outputs, check_weights, count_outputs
from jpegcurr.training.models.fit import create_on_meta, describe_misfit
from jpegcurr.training.models.normalisation import describe_mismatch, normaliser, stated_normaliser
from jpegcurr.training.models.pretrained import count_classes, load_weights
from jpegcurr.training.run_head import RunHead, read_head

log = logging.getLogger("jpegcurr")

_SIZES = ("tiny", "small", "base", "large", "xlarge")
_TAGS = {"_in22ft1k": "fb_in22k_ft_in1k", "_384_in22ft1k": "fb_in22k_ft_in1k_384", "_in22k": "fb_in22k"}
# Names that timm 0.6 had for pretrained ConvNeXts; timm itself still accepts them, with a warning.
LEGACY = {f"convnext_{size}{old}": f"convnext_{size}.{tag}" for old, tag in _TAGS.items() for size in _SIZES}
BATCH = 64  # images at a time, for models that were not trained here

Create = Callable[..., Any]
Weights = Literal["raw", "ema", "best"]


class Classifier(Protocol):
    """A model and its preprocessing: a ``Run``, or a ``LoadedModel``."""

    @property
    def path(self) -> Path:
        """The run's folder, or the model's name as it was given."""

    @property
    def weights(self) -> str:
        """The kind of a run's weights, or ``own`` for any other model."""

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
        """True if ``classes`` are names, not only the numbers of the outputs."""

    @property
    def class_list(self) -> Classes:
        """The classes as data sets are matched with them."""

    @property
    def image(self) -> ImageSection:
        """The crop, size and interpolation of the model's inputs."""

    @property
    def loader(self) -> str:
        """The kind of loader that the model was trained with (see ``choose_kind``); ``auto`` if it was not trained here."""

    @property
    def batch(self) -> int:
        """The number of images that are given to the model at a time."""


@dataclass(frozen=True, slots=True)
class Run:
    """A trained model in evaluation mode on the runtime's device, with its recipe, normalisation and class names.

    ``loader`` is the kind of loader that it was trained with. ``names_known`` is False for a run that
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

    @property
    def batch(self) -> int:
        """The number of images of a micro-batch of its training."""
        return self.recipe.micro()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is no run, in evaluation mode on the runtime's device: timm's, a hub's, or one's own.

    ``path`` is its name as it was given. Its preprocessing is what timm's configuration of it says, or the settings, with the
    pixels of timm's transform.
    """

    path: Path
    model: torch.nn.Module
    normalise: Normaliser
    classes: tuple[str, ...]
    image: ImageSection
    names_known: bool = True
    weights: str = "own"
    loader: str = "auto"
    batch: int = BATCH

    @property
    def class_list(self) -> Classes:
        """The classes as data sets are matched with them."""
        return Classes(self.classes, self.names_known, owner=str(self.path))


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """Options for models that are no runs; None where the model itself states the value.

    Attributes:
        checkpoint: a file of weights for timm's model, instead of those that timm downloads.
        mean, std: of the inputs by channel, on the scale 0 to 1.
        size: the side length of the inputs in pixels.
        class_names: a file with the name of one output a line.
        factory: ``module:function`` of a run that was trained on a network of one's own. A run names it too, but files alone,
            which may be anyone's, start no code.
    """

    checkpoint: Path | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    size: int | None = None
    class_names: Path | None = None
    factory: str | None = None

    def describe(self) -> str:
        """Return the options for models that are no runs, as they are typed; empty if none is set."""
        names = [name for name in self.__slots__ if name != "factory" and getattr(self, name) is not None]
        return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def load_classifiers(
    names: Sequence[Path | str], runtime: Runtime, weights: Weights = "raw", settings: ModelSettings = ModelSettings()
) -> list[Classifier]:
    """Load several models, of any kinds, as ``load_classifier`` does; ``settings`` are for those that are no runs.

    Raises:
        UsageError: as ``load_classifier`` does; or ``settings`` has a checkpoint, and there is more than one model for it.
    """
    others = [name for name in names if not Path(name).exists()]
    if settings.checkpoint is not None and len(others) != 1:
        raise UsageError(f"--checkpoint {settings.checkpoint} is for one model, but {len(others)} models are no runs.")
    if not others and (described := settings.describe()):
        raise UsageError(f"{described}: a run states all of this itself, and every model given is a run. Omit it.")
    return [
        load_classifier(
            Path(name), runtime, weights, settings=ModelSettings(factory=settings.factory) if Path(name).exists() else settings
        )
        for name in names
    ]


def load_classifier(
    name: Path,
    runtime: Runtime,
    weights: Weights = "raw",
    *,
    settings: ModelSettings = ModelSettings(),
    create: Create = timm.create_model,
) -> Classifier:
    """Load a model: a run's folder; ``hf-hub:``, ``local-dir:`` or timm's own name; or ``module:factory``, code of one's own.

    A folder of that name is a run. ``create`` is for tests.

    Raises:
        UsageError: ``name`` is none of these, the message has the nearest name; or its weights do not fit or are no numbers;
            or ``settings`` are missing or make no sense for it.
        JpegcurrError: the weights cannot be downloaded.
    """
    if name.exists():
        if described := settings.describe():
            raise UsageError(f"{described}: the run {name} states this itself. Omit it.")
        return load_run(name, runtime, weights, factory=settings.factory)
    if weights != "raw":
        raise UsageError(f"--weights {weights} is for runs, and there is no folder {name}. Omit it.")
    if str(name).startswith(HUBS):
        return _load_from_hub(str(name), runtime, settings, create)
    if is_factory(str(name)):
        return _load_own(str(name), runtime, settings)
    return load_named(str(name), runtime, settings=settings, create=create)


def load_run(path: Path, runtime: Runtime, weights: Weights = "raw", *, factory: str | None = None) -> Run:
    """Load the ``weights`` of a run's folder, as ``jpegcurr train`` writes it; ``factory`` as in ``ModelSettings``.

    Raises:
        UsageError: the folder does not exist, is no run, has no checkpoint yet, or has one that cannot be used: its files are
            damaged or do not belong together, or its weights or outputs are not finite numbers; or its network is the user's
            own, and ``factory`` does not name it.
        RecipeError: its recipe cannot be read.
    """
    folder = path if weights == "raw" else path / weights
    if not (path / "recipe.yaml").is_file():
        problem = "is not a run folder (it has no recipe.yaml)" if path.is_dir() else "does not exist"
        raise UsageError(f"{path} {problem}. Give the --out folder of a `jpegcurr train`.")
    recipe = load_resolved(path / "recipe.yaml")
    if weights == "ema" and recipe.ema is None:
        raise UsageError(f"{path} keeps no average of its weights (ema: null in its recipe). Use --weights raw.")
    if not (folder / "model.safetensors").is_file():
        raise UsageError(f"{folder} holds no checkpoint yet: the first one is written after the first epoch.")
    head = read_head(path, "Copy the run's folder again.")
    if recipe.model.factory is not None:
        model, classes, normalise = _load_own_run(folder, recipe, head, factory)
    else:
        model, classes = load_exported(folder)
        normalise = normaliser(model)
    normalise = normalise.to(runtime.device)
    model = runtime.place(model).eval()
    check_outputs(model, normalise, recipe.image.size, len(classes), folder)
    return Run(path, weights, recipe, model, normalise, classes, head.loader, head.names_known)


def _load_own_run(
    folder: Path, recipe: Recipe, head: RunHead, factory: str | None
) -> tuple[torch.nn.Module, tuple[str, ...], Normaliser]:
    """Load a run of the user's own network: the network, the names of its outputs, and the normalisation of its inputs."""
    name = recipe.model.name
    if factory != name:
        raise UsageError(
            f"{folder} holds weights of a network that is code of your own, {name}. Give --factory {name} to run it: a "
            "run's files alone, which may be anyone's, start no code."
        )
    described = load_own_config(folder)
    model = create_own(recipe.model, len(described.label_names), start=False)
    if head.factory_sha256 not in (None, source_sha256(name)):
        log.warning("%s: the code of %s has changed since it was trained, so that its outputs may differ", folder, name)
    load_own_weights(model, folder, name)
    inputs = described.pretrained_cfg
    return model, described.label_names, Normaliser(inputs.mean, inputs.std)


def load_named(
    name: str, runtime: Runtime, *, settings: ModelSettings = ModelSettings(), create: Create = timm.create_model
) -> LoadedModel:
    """Load timm's pretrained model ``name``, which may be a legacy name; see ``load_classifier``."""
    current, checkpoint = LEGACY.get(name, name), settings.checkpoint
    _check_name(name, current, checkpoint)
    classes = _named_classes(timm.get_pretrained_cfg(current))
    options: dict[str, Any] = {}
    if checkpoint is not None:
        reference = create_on_meta(current)
        state = load_weights(checkpoint, reference)
        count = count_classes(state) or len(classes)
        options = {"num_classes": count, "pretrained_cfg_overlay": {"state_dict": state, "num_classes": count}}
        classes = classes if len(classes) == count else ()
    elif not classes and settings.class_names is None:
        raise UsageError(f"{name} does not classify: its weights have no classes. `jpegcurr models` lists the models that do.")
    try:
        model: torch.nn.Module = create(current, pretrained=True, **options)
    except Exception as error:  # the errors of a failed download have no common class
        misfit = describe_misfit(state, reference, classifier=True) if checkpoint is not None and reference is not None else ""
        raise JpegcurrError(_describe_failure(name, checkpoint, misfit or error)) from None
    return _finish(current, model, classes, runtime, settings, checkpoint or f"timm's file for {name}")


def _load_from_hub(name: str, runtime: Runtime, settings: ModelSettings, create: Create) -> LoadedModel:
    """Load a model by timm's ``hf-hub:NAME`` or ``local-dir:FOLDER``; its class names are those of its ``config.json``."""
    if settings.checkpoint is not None:
        raise UsageError(f"--checkpoint is for timm's own names; {name} has its own weights. Omit it.")
    try:
        model: torch.nn.Module = create(name, pretrained=True)
    except Exception as error:  # of the network, of timm and of whatever the folder holds
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise JpegcurrError(f"{name} cannot be loaded: {reason}. Check the name, the network and your access.") from None
    config = getattr(model, "pretrained_cfg", None) or {}
    return _finish(name, model, tuple(config.get("label_names") or ()), runtime, settings, name)


def _load_own(name: str, runtime: Runtime, settings: ModelSettings) -> LoadedModel:
    """Load a network that a function of the user's returns; what it does not state must be among ``settings``."""
    if settings.checkpoint is not None:
        raise UsageError(f"--checkpoint is for timm's names. Let the function of {name} load its weights, and omit it.")
    model = build_model(name)
    stated = isinstance(getattr(model, "pretrained_cfg", None), dict)
    lacking = [option for option in ("mean", "std", "size") if getattr(settings, option) is None]
    if lacking and not stated:
        raise UsageError(
            f"{name} does not state how its inputs are made (it has no pretrained_cfg, as timm's models do). Give "
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224, with the values that it was trained with."
        )
    config = getattr(model, "pretrained_cfg", None) or {}
    return _finish(name, model, tuple(config.get("label_names") or ()), runtime, settings, name)


def _finish(
    name: str,
    model: torch.nn.Module,
    classes: tuple[str, ...],
    runtime: Runtime,
    settings: ModelSettings,
    source: Path | str,
) -> LoadedModel:
    """Check the weights and outputs of a model, and return it with its preprocessing and the names of its outputs."""
    config = {**resolve_model_data_config(model), **_stated_settings(settings)}
    image = _image_section(name, config)
    check_weights(model, source)
    normalise = Normaliser(tuple(config["mean"]), tuple(config["std"]))
    if mismatch := describe_mismatch(str(source), _stated_by_weights(model, settings), normalise, "--mean {mean} --std {std}"):
        log.warning(mismatch)
    normalise = normalise.to(runtime.device)
    model = runtime.place(model).eval()
    outputs = count_outputs(model, normalise, image.size, name)
    names = read_class_names(settings.class_names) if settings.class_names is not None else classes
    if settings.class_names is not None and len(names) != outputs:
        raise UsageError(
            f"{settings.class_names} names {len(names)} classes, but {name} has {outputs} outputs. Give a name a line."
        )
    known = len(names) == outputs
    return LoadedModel(
        Path(name), model, normalise, names if known else tuple(map(str, range(outputs))), image, names_known=known
    )


def _stated_by_weights(model: torch.nn.Module, settings: ModelSettings) -> Normaliser | None:
    """Return the normalisation that the weights state: the checkpoint, or else the model's own configuration; None if none."""
    if settings.checkpoint is not None:
        return stated_normaliser(settings.checkpoint)
    config = getattr(model, "pretrained_cfg", None)
    return normaliser(model) if isinstance(config, dict) and config.get("mean") else None


def _stated_settings(settings: ModelSettings) -> dict[str, Any]:
    """Return what ``settings`` say, by the names of timm's data configuration."""
    stated: dict[str, Any] = {name: value for name in ("mean", "std") if (value := getattr(settings, name)) is not None}
    return stated | ({"input_size": (3, settings.size, settings.size)} if settings.size is not None else {})


def read_class_names(file: Path) -> tuple[str, ...]:
    """Return the lines of a file of class names; raises UsageError if it cannot be read, or names a class twice."""
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip())
    except (OSError, ValueError) as error:
        raise UsageError(f"--class-names {file} cannot be read: {error}. Give a text file with one name a line.") from None
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise UsageError(f"--class-names {file} has {twice!r} twice. Every output needs a name of its own.")
    return names


def _check_name(name: str, current: str, checkpoint: Path | None) -> None:
    advice = "Give the --out folder of a `jpegcurr train`, or a name that `jpegcurr models` lists."
    if not timm.is_model(current):
        hint = did_you_mean(name, all_names())
        raise UsageError(f"{name} does not exist, and timm has no model of that name.{hint or ' ' + advice}")
    tag = current.partition(".")[2]
    if checkpoint is None and not timm.is_model_pretrained(current):
        hint = did_you_mean(name, timm.list_models(pretrained=True))
        raise UsageError(f"timm has no weights for {name}.{hint or ' Give a file of weights: --checkpoint FILE.'}")
    if tag and timm.get_pretrained_cfg(current, allow_unregistered=True) is None:
        raise UsageError(f"timm has no weights named {tag!r} of {current.partition('.')[0]}. {advice}")


def all_names() -> list[str]:
    """Return the names of timm's models, of its weights, and the legacy ones."""
    return [*LEGACY, *timm.list_models(), *timm.list_models(pretrained=True)]


def _describe_failure(name: str, checkpoint: Path | None, error: Exception | str) -> str:
    reason = " ".join(str(error).split())[:600]
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


def imagenet_classes(subset: str) -> tuple[str, ...]:
    """Return the WordNet numbers of timm's subset (``imagenet-1k``, ``imagenet-22k``, ...), in the order of the outputs."""
    return tuple(ImageNetInfo(subset).label_names())
