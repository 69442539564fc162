"""Models from timm: creating them, starting them from weights, and exporting them in timm's layout.

A run folder and its ``ema`` folder each hold ``config.json`` and ``model.safetensors``, so that
``timm.create_model("local-dir:RUN", pretrained=True)`` loads them without jpegcurr (an isotropic ConvNeXt needs
``import jpegcurr.training.models.isotropic`` first, which registers it with timm).
"""

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from timm.models import save_for_hf

import jpegcurr.training.models.isotropic  # noqa: F401 (registers its models with timm)
from jpegcurr.errors import RecipeError
from jpegcurr.files import move_into_place
from jpegcurr.recipe.schema import ImageSection, ModelSection
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.finite import check_weights
from jpegcurr.training.models.names import check_model
from jpegcurr.training.models.pretrained import StateDict, count_classes, load_weights


def create_model(section: ModelSection, classes: int, *, start: bool = True) -> torch.nn.Module:
    """Create a timm model with ``classes`` outputs; load the weights that it starts from unless ``start`` is False.

    Raises:
        RecipeError: timm does not know the name, or cannot create it with these settings or start it from these weights.
        UsageError: ``section.checkpoint`` does not exist, or holds no weights, or weights that are not finite.
    """
    check_model(section, start=start)
    options: dict[str, Any] = {"drop_path_rate": section.drop_path}
    if section.head_init_scale is not None:
        options["head_init_scale"] = section.head_init_scale
    if section.layer_scale is not None:
        options["ls_init_value"] = section.layer_scale
    if start and section.checkpoint is not None:
        weights = load_weights(section.checkpoint)
        options["pretrained_cfg_overlay"] = {"state_dict": weights, "num_classes": count_classes(weights) or classes}
    pretrained = start and (section.pretrained or section.checkpoint is not None)
    try:
        model: torch.nn.Module = timm.create_model(section.name, pretrained=pretrained, num_classes=classes, **options)
    except TypeError as error:
        raise RecipeError(f"model: timm cannot create {section.name!r} with these settings: {error}") from None
    except (RuntimeError, OSError, KeyError) as error:
        if not pretrained:
            raise
        weights_name = section.checkpoint or "timm's weights"
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"model: {section.name!r} cannot start from {weights_name}: {reason}") from None
    if start and section.checkpoint is not None:
        check_weights(model, f"model.checkpoint: {section.checkpoint}")
        _check_loaded(model, weights, section)
    return model


def _check_loaded(model: torch.nn.Module, weights: StateDict, section: ModelSection) -> None:
    """Raise RecipeError unless the model has the checkpoint's weights, apart from the classifier's.

    Where the number of classes differs, timm skips every tensor that does not fit, and does not say so.
    """
    known = {_fingerprint(tensor) for tensor in weights.values()}
    timm_model: Any = model
    classifier = {id(parameter) for parameter in timm_model.get_classifier().parameters()}
    parameters = {name: parameter for name, parameter in model.named_parameters() if id(parameter) not in classifier}
    missing = [name for name, parameter in parameters.items() if _fingerprint(parameter) not in known]
    if len(missing) > 0.1 * len(parameters):  # a few may be resized, such as a transformer's position embedding
        raise RecipeError(
            f"model: {section.checkpoint} does not hold the weights that {section.name!r} needs: {len(missing)} tensors, such "
            f"as {missing[0]}, are not in it. Set model.name to the model that the weights are of."
        )


def _fingerprint(tensor: torch.Tensor) -> tuple[int, str]:
    """Return the number of elements and their sum, which renaming and reshaping do not change."""
    return tensor.numel(), f"{float(tensor.detach().double().sum()):.9g}"


def normaliser(model: torch.nn.Module) -> Normaliser:
    """Return the normalisation of ``model``: the mean and the standard deviation in timm's configuration of it."""
    config = timm.data.resolve_model_data_config(model)
    return Normaliser(config["mean"], config["std"])


def export_model(model: torch.nn.Module, folder: Path, classes: tuple[str, ...], image: ImageSection) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    config = timm.data.resolve_model_data_config(model)
    data_config = {
        "input_size": (3, image.size, image.size),
        "crop_pct": image.val_share,
        "crop_mode": "squash" if image.squashed else "center",
        # timm has no area filter; antialiased bilinear is the nearest that it has
        "interpolation": "bilinear" if image.interpolation == "area" else image.interpolation,
        "mean": config["mean"],
        "std": config["std"],
    }
    whole = deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # safetensors refuses channels_last
    labels = {"label_names": list(classes)}
    with TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
        save_for_hf(whole, temporary, model_config=labels, safe_serialization=True, data_config=data_config)
        for name in ("config.json", "model.safetensors"):
            move_into_place(Path(temporary, name), folder / name)
