"""Models to analyse, by one door: a run, a model of timm's or of a hub by its name, or a network of one's own."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config

from jpegcurr.errors import JpegcurrError, UsageError
from jpegcurr.recipe.loading import load_resolved
from jpegcurr.recipe.schema import Recipe
from jpegcurr.recipe.values import HUBS, is_factory
from jpegcurr.runtime import Runtime, resolve_runtime
from jpegcurr.training.data.classes import read_class_names
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.classifier import Channels, Classifier, LoadedModel, ModelSettings, Run, Weights
from jpegcurr.training.models.exported import load_exported, load_own_config, load_own_weights
from jpegcurr.training.models.factory import build_model, copy_network, create_own, source_sha256, unwrapped
from jpegcurr.training.models.finite import check_outputs, check_weights, count_outputs
from jpegcurr.training.models.fit import create_on_meta, describe_misfit
from jpegcurr.training.models.normalisation import describe_mismatch, normaliser, stated_normaliser
from jpegcurr.training.models.pretrained import count_classes, load_weights
from jpegcurr.training.models.published import LEGACY, check_name, describe_failure, image_section, named_classes
from jpegcurr.training.run_head import RunHead, read_head

log = logging.getLogger("jpegcurr")

Create = Callable[..., Any]
_NO_SETTINGS = ModelSettings()
# Whatever ``load_model`` takes, and whatever takes one model or more.
Model = str | Path | torch.nn.Module | Classifier
Models = Model | Sequence[Model] | Mapping[str, Model]


def load_model(
    model: Model,
    runtime: Runtime | None = None,
    *,
    weights: Weights = "raw",
    checkpoint: str | Path | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
    size: int | None = None,
    classes: str | Path | Sequence[str] | None = None,
    factory: str | None = None,
    name: str | None = None,
) -> Classifier:
    """Load a model of any kind, or take a network that is in memory; ``evaluate`` and ``compare_cams`` do so by themselves.

    Args:
        model: the folder of a run; timm's name, ``hf-hub:NAME`` or ``local-dir:FOLDER``; ``module:factory``; or an
            ``nn.Module``, of which a copy is taken, so that it stays as it is and may be trained on. A loaded one is returned.
        runtime: the device to put it on; by default a GPU if there is one.
        weights: of a run: ``raw``, ``ema`` (averaged) or ``best``.
        checkpoint: a file of weights for timm's model, instead of those that timm downloads.
        mean: of the inputs by channel, on the scale 0 to 1; needed for a network that does not state it, as timm's do in
            ``pretrained_cfg``.
        std: their deviation by channel, likewise.
        size: their side length in pixels, likewise.
        classes: the names of the outputs, or a file with one a line; without them labels are numbers.
        factory: ``module:function`` of a run that was trained on a network of one's own.
        name: of an ``nn.Module`` in tables and reports; its class by default.

    Raises UsageError if ``model`` is nothing of this, or an argument is missing or makes no sense for it.
    """
    file = Path(checkpoint) if checkpoint is not None else None
    names = Path(classes) if isinstance(classes, str | Path) else tuple(classes) if classes is not None else None
    settings = ModelSettings(file, mean, std, size, names, factory)
    if not isinstance(model, str | Path) and (weights != "raw" or factory is not None):
        raise UsageError("weights and factory are for the folder of a run, and this is a network already. Omit them.")
    if isinstance(model, torch.nn.Module):
        return _load_own(name or type(unwrapped(model)).__name__, copy_network(model), runtime or resolve_runtime(), settings)
    if not (isinstance(model, str | Path) or hasattr(model, "normalise")):  # a state dict, say
        raise UsageError(f"{type(model).__name__} is no model. Give a run's folder, a name, module:factory, or an nn.Module.")
    own = model if isinstance(model, str | Path) else model.path
    if name is not None:
        raise UsageError(f"The name {name!r} is for a network in memory; {own} has a name already. Omit it.")
    if isinstance(model, str | Path):
        return load_classifier(Path(model), runtime or resolve_runtime(), weights, settings=settings)
    if described := settings.describe():
        raise UsageError(f"{described}: {own} is loaded already and states this itself. Omit it.")
    return model


def load_models(models: Models, runtime: Runtime | None = None) -> list[Classifier]:
    """Load one or more models as ``load_model`` does; a mapping gives networks their names.

    Raises UsageError as ``load_model`` does, and if there is none, or two different ones have the same name.
    """
    runtime = runtime or resolve_runtime()
    if isinstance(models, Mapping):
        loaded = [load_model(model, runtime, name=name) for name, model in models.items()]
    elif isinstance(models, Sequence) and not isinstance(models, str):
        loaded = [load_model(model, runtime) for model in models]
    else:
        loaded = [load_model(models, runtime)]
    if not loaded:
        raise UsageError("There is no model. Give a run, a name, or a network.")
    own = Counter(model.path for model in {id(model): model for model in loaded}.values() if isinstance(model, LoadedModel))
    if own and (most := own.most_common(1)[0])[1] > 1:
        names = "{'before': first, 'after': second}, or load_model(..., name='after')"
        raise UsageError(f"{most[1]} models are called {most[0]}. Give them names: {names}.")
    return loaded


def load_classifiers(
    names: Sequence[Path | str], runtime: Runtime, weights: Weights = "raw", settings: ModelSettings = _NO_SETTINGS
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
    settings: ModelSettings = _NO_SETTINGS,
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
        return _load_own(str(name), build_model(str(name)), runtime, settings)
    return load_named(str(name), runtime, settings=settings, create=create)


def load_run(path: str | Path, runtime: Runtime | None = None, weights: Weights = "raw", *, factory: str | None = None) -> Run:
    """Load the ``weights`` of a run's folder, as ``jpegcurr train`` writes it; ``factory`` as in ``ModelSettings``.

    ``runtime`` is by default a GPU if there is one.

    Raises:
        UsageError: the folder does not exist, is no run, has no checkpoint yet, or has one that cannot be used: its files are
            damaged or do not belong together, or its weights or outputs are not finite numbers; or its network is the user's
            own, and ``factory`` does not name it.
        RecipeError: its recipe cannot be read.
    """
    path, runtime = Path(path), runtime or resolve_runtime()
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
    name: str, runtime: Runtime, *, settings: ModelSettings = _NO_SETTINGS, create: Create = timm.create_model
) -> LoadedModel:
    """Load timm's pretrained model ``name``, which may be a legacy name; see ``load_classifier``."""
    current, checkpoint = LEGACY.get(name, name), settings.checkpoint
    check_name(name, current, checkpoint)
    classes = named_classes(timm.get_pretrained_cfg(current))
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
        raise JpegcurrError(describe_failure(name, checkpoint, misfit or error)) from None
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


def _load_own(name: str, model: torch.nn.Module, runtime: Runtime, settings: ModelSettings) -> LoadedModel:
    """Take a network of the user's; what it does not state must be among ``settings``."""
    if settings.checkpoint is not None:
        raise UsageError(f"--checkpoint is for timm's names. Load the weights of {name} where it is built, and omit it.")
    stated = isinstance(getattr(model, "pretrained_cfg", None), dict)
    lacking = [option for option in ("mean", "std", "size") if getattr(settings, option) is None]
    if lacking and not stated:
        raise UsageError(
            f"{name} does not state how its inputs are made (it has no pretrained_cfg, as timm's models do). Give "
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --size 224, with the values that it was trained with; in Python, "
            "load_model(network, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=224)."
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
    image = image_section(name, config)
    check_weights(model, source)
    normalise = Normaliser(tuple(config["mean"]), tuple(config["std"]))
    if mismatch := describe_mismatch(str(source), _stated_by_weights(model, settings), normalise, "--mean {mean} --std {std}"):
        log.warning(mismatch)
    normalise = normalise.to(runtime.device)
    model = runtime.place(model).eval()
    outputs = count_outputs(model, normalise, image.size, name)
    names = classes if settings.class_names is None else read_class_names(settings.class_names)
    if settings.class_names is not None and len(names) != outputs:
        where = settings.class_names if isinstance(settings.class_names, Path) else "--class-names"
        raise UsageError(f"{where} names {len(names)} classes, but {name} has {outputs} outputs. Give one name for each.")
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
