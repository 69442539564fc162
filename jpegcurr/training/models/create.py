"""Models from timm: creating them, starting them from weights, and exporting them in timm's layout.

A run folder and its ``ema`` folder each hold ``config.json`` and ``model.safetensors``, so that
``timm.create_model("local-dir:RUN", pretrained=True)`` loads them without jpegcurr (an isotropic ConvNeXt or a network of the
roadmap needs ``import jpegcurr.training.models.isotropic`` or ``roadmap`` first, which registers it with timm). A network of
one's own is loaded by jpegcurr alone, or by ``load_state_dict``.
"""

import json
import logging
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import jpegcurr.training.models.isotropic
import jpegcurr.training.models.roadmap  # noqa: F401 (both register their models with timm)
from jpegcurr.errors import RecipeError
from jpegcurr.files import move_into_place
from jpegcurr.recipe.schema import ImageSection, ModelSection
from jpegcurr.text import join_words
from jpegcurr.training.models.factory import create_own
from jpegcurr.training.models.finite import check_weights
from jpegcurr.training.models.fit import classifier_names, classifier_parameters, create_on_meta, describe_misfit
from jpegcurr.training.models.key_maps import StateDict
from jpegcurr.training.models.names import check_model
from jpegcurr.training.models.normalisation import normaliser
from jpegcurr.training.models.pretrained import count_classes, load_weights

log = logging.getLogger("jpegcurr")


def create_model(section: ModelSection, classes: int, *, start: bool = True) -> torch.nn.Module:
    """Create a model with ``classes`` outputs; load the weights that it starts from unless ``start`` is False.

    Raises:
        RecipeError: timm does not know the name, or cannot create it with these settings or start it from these weights.
        UsageError: ``section.checkpoint`` does not exist, or holds no weights, or weights that are not finite; or the function
            of a network of one's own fails.
    """
    check_model(section, start=start)
    if section.factory is not None:
        return create_own(section, classes, start=start)
    options: dict[str, Any] = {"num_classes": classes, "drop_path_rate": section.drop_path}
    if section.layer_scale is not None:
        options["ls_init_value"] = section.layer_scale
    if start and section.checkpoint is not None:
        return _start_from(section.checkpoint, section, options)
    pretrained = start and section.pretrained
    try:
        model = _create(section, options, pretrained=pretrained)
    except (RuntimeError, OSError, KeyError) as error:
        if not pretrained:
            raise
        raise RecipeError(f"model: {section.name!r} cannot start from timm's weights: {_reason(error)}") from None
    if section.head_init_scale is not None and not (pretrained and _published_classes(model) == classes):
        _scale_classifier(model, section.head_init_scale)
    return model


def _start_from(checkpoint: Path, section: ModelSection, options: dict[str, Any]) -> torch.nn.Module:
    """Create a model and fill it with the weights of a file, which need no classifier, or may have one for other classes."""
    reference = create_on_meta(section.name, **options)
    weights = load_weights(checkpoint, reference)
    count = count_classes(weights)
    try:
        try:
            model = _fill(section, options, weights, count or options["num_classes"])
        except RuntimeError:
            if count is not None:
                raise
            model = _fill(section, options, weights, 0)  # the file has no classifier, or none of a usual name
    except (RuntimeError, OSError, KeyError) as error:
        misfit = describe_misfit(weights, reference) if reference is not None else ""
        problem = f"model: {section.name!r} cannot start from {checkpoint}"
        raise RecipeError(f"{problem}: {misfit or _reason(error)}") from None
    check_weights(model, f"model.checkpoint: {checkpoint}")
    _check_loaded(model, weights, section)
    if section.head_init_scale is not None and not _has_classifier(weights, model):
        _scale_classifier(model, section.head_init_scale)
    return model


def _published_classes(model: torch.nn.Module) -> int | None:
    """Return the number of classes of the weights that timm publishes under the model's name."""
    configuration: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return configuration.get("num_classes")


def _has_classifier(weights: StateDict, model: torch.nn.Module) -> bool:
    """Return whether the model's classifier is that of ``weights``, under whatever name they have it."""
    known = {_fingerprint(tensor) for tensor in weights.values()}
    matrices = [tensor for tensor in classifier_parameters(model) if tensor.ndim > 1]  # biases may all be 0
    return bool(matrices) and all(_fingerprint(matrix) in known for matrix in matrices)


def _scale_classifier(model: torch.nn.Module, factor: float) -> None:
    """Multiply the weights and biases of a new classifier, of any model of timm's.

    timm has an argument for it in ConvNeXts alone, and EfficientNet's new classifier is so large that training starts at
    several times the loss of guessing.
    """
    with torch.no_grad():
        for parameter in classifier_parameters(model):
            parameter.mul_(factor)


def _fill(section: ModelSection, options: dict[str, Any], weights: StateDict, classes: int) -> torch.nn.Module:
    """Create a model with ``weights``, which are of ``classes``; if the model has others, timm leaves the classifier new."""
    overlay = {"state_dict": dict(weights), "num_classes": classes}
    return _create(section, options | {"pretrained_cfg_overlay": overlay}, pretrained=True)


def _create(section: ModelSection, options: dict[str, Any], *, pretrained: bool) -> torch.nn.Module:
    try:
        model: torch.nn.Module = timm.create_model(section.name, pretrained=pretrained, **options)
    except TypeError as error:
        raise RecipeError(f"model: timm cannot create {section.name!r} with these settings: {error}") from None
    return model


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _check_loaded(model: torch.nn.Module, weights: StateDict, section: ModelSection) -> None:
    """Raise RecipeError unless the model has the checkpoint's weights, apart from the classifier's; warn of a few that are new.

    Where the number of classes differs, timm skips every tensor that does not fit, and does not say so. A few may be resized,
    such as a transformer's position embedding. A file may have names that only timm's own loader of the model knows.
    """
    known = {_fingerprint(tensor) for tensor in weights.values()}
    classifier = classifier_names(model)
    parameters = {name: parameter for name, parameter in model.named_parameters() if name not in classifier}
    missing = [name for name, parameter in parameters.items() if _fingerprint(parameter) not in known]
    by_name = sum(name in weights for name in parameters) > 0.5 * len(parameters)
    absent = [name for name in missing if name not in weights] if by_name else []
    if len(missing) > 0.1 * len(parameters) or len(absent) > 0.02 * len(parameters):
        misfit = describe_misfit(weights, model) or f"{len(missing)} of {len(parameters)} tensors are not in it."
        raise RecipeError(f"model: {section.name!r} cannot start from {section.checkpoint}: {misfit}")
    if missing:
        log.warning(
            "model.checkpoint: %s does not hold %s as %s has it: resized, or untrained",
            section.checkpoint,
            join_words(missing),
            section.name,
        )


def _fingerprint(tensor: torch.Tensor) -> tuple[int, str]:
    """Return the number of elements and their sum, which renaming and reshaping do not change."""
    return tensor.numel(), f"{float(tensor.detach().double().sum()):.9g}"


def export_model(
    model: torch.nn.Module, folder: Path, classes: tuple[str, ...], image: ImageSection, factory: str | None = None
) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, each whole or not at all.

    Of a network of one's own, made by ``factory``, timm knows nothing: its configuration names this function.
    """
    folder.mkdir(parents=True, exist_ok=True)
    inputs = normaliser(model, image)
    data_config = {
        "input_size": (3, image.size, image.size),
        "crop_pct": image.val_share,
        "crop_mode": "squash" if image.squashed else "center",
        # timm has no area filter; antialiased bilinear is the nearest that it has
        "interpolation": "bilinear" if image.interpolation == "area" else image.interpolation,
        "mean": inputs.levels,
        "std": inputs.deviations,
    }
    if not all(tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in model.state_dict().values()):
        model = deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # safetensors refuses channels_last
    labels = {"label_names": list(classes)}
    with TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
        if factory is not None:
            described = {"architecture": factory, "num_classes": len(classes), **labels, "pretrained_cfg": data_config}
            Path(temporary, "config.json").write_text(json.dumps(described, indent=2), encoding="utf-8")
            tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}  # tied ones share their memory
            save_file(tensors, Path(temporary, "model.safetensors"))
        else:
            save_for_hf(model, temporary, model_config=labels, safe_serialization=True, data_config=data_config)
            _remove_doubled_argument(Path(temporary, "config.json"))
        for name in ("config.json", "model.safetensors"):
            move_into_place(Path(temporary, name), folder / name)


def _remove_doubled_argument(path: Path) -> None:
    """Remove ``num_classes`` from the arguments of the model in ``config.json``, which states it at its top too.

    timm takes it from there, and ``transformers`` refuses a configuration that has it twice.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
