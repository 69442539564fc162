"""timm models in, timm-layout checkpoints out.

A run folder and its ``ema`` folder each hold ``config.json`` and ``model.safetensors``, so that
``timm.create_model("local-dir:RUN", pretrained=True)`` loads them without jpegcurr (an isotropic ConvNeXt after
``import jpegcurr.training.models.isotropic``, which makes it known to timm).
"""

from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import timm
import torch
from timm.models import save_for_hf

import jpegcurr.training.models.isotropic  # noqa: F401 (registers its models with timm)
from jpegcurr.errors import RecipeError, did_you_mean
from jpegcurr.files import move_into_place
from jpegcurr.recipe.schema import ImageSection, ModelSection
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.pretrained import StateDict, count_classes, find_weights, load_weights

Weights = Literal["raw", "ema", "best"]


def create_model(section: ModelSection, classes: int, *, start: bool = True) -> torch.nn.Module:
    """Make a timm model with ``classes`` outputs, with the weights that it is to start from unless ``start`` is False.

    Raises:
        RecipeError: timm does not know the name, or cannot make or start it so.
        UsageError: ``section.checkpoint`` is not there or holds no weights.
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
    begun = start and (section.pretrained or section.checkpoint is not None)
    try:
        model: torch.nn.Module = timm.create_model(section.name, pretrained=begun, num_classes=classes, **options)
    except TypeError as error:
        raise RecipeError(f"model: timm cannot make {section.name!r} with these settings: {error}") from None
    except (RuntimeError, OSError, KeyError) as error:
        if not begun:
            raise
        which = section.checkpoint or "timm's weights"
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"model: {section.name!r} cannot start from {which}: {reason}") from None
    if start and section.checkpoint is not None:
        _check_taken(model, weights, section)
    return model


def _check_taken(model: torch.nn.Module, weights: StateDict, section: ModelSection) -> None:
    """timm leaves out what does not fit, if the number of classes differs too: only the classifier may be begun anew."""
    known = {_fingerprint(each) for each in weights.values()}
    timms: Any = model
    anew = {id(each) for each in timms.get_classifier().parameters()}
    parameters = {name: each for name, each in model.named_parameters() if id(each) not in anew}
    begun = [name for name, each in parameters.items() if _fingerprint(each) not in known]
    if len(begun) > 0.1 * len(parameters):  # a few may be resized, such as a transformer's embedding of positions
        raise RecipeError(
            f"model: {section.checkpoint} has other weights than {section.name!r} needs: {len(begun)} tensors, such as "
            f"{begun[0]}, are not in it. Set model.name to the model that they are of."
        )


def _fingerprint(tensor: torch.Tensor) -> tuple[int, str]:
    """What names and shapes do not change."""
    return tensor.numel(), f"{float(tensor.detach().double().sum()):.9g}"


def check_model(section: ModelSection, *, start: bool) -> None:
    """Raise RecipeError for a name that timm does not know, UsageError for a checkpoint to ``start`` from that is not there."""
    if start and section.checkpoint is not None:
        find_weights(section.checkpoint)
    if not timm.is_model(section.name):
        hint = did_you_mean(section.name, timm.list_models())
        raise RecipeError(f"model.name: timm has no model {section.name!r}.{hint}")


def normaliser(model: torch.nn.Module) -> Normaliser:
    """The mean and deviation that timm states for ``model``."""
    config = timm.data.resolve_model_data_config(model)
    return Normaliser(config["mean"], config["std"])


def export_model(model: torch.nn.Module, folder: Path, classes: tuple[str, ...], image: ImageSection) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    config = timm.data.resolve_model_data_config(model)
    seen = {
        "input_size": (3, image.size, image.size),
        "crop_pct": 1.0 if image.val_crop == "squash" else image.val_crop,
        "crop_mode": "squash" if image.val_crop == "squash" else "center",
        # timm knows no area filter; antialiased bilinear is the nearest that it has
        "interpolation": "bilinear" if image.interpolation == "area" else image.interpolation,
        "mean": config["mean"],
        "std": config["std"],
    }
    whole = deepcopy(model).cpu().to(memory_format=torch.contiguous_format)  # safetensors refuses channels_last
    with TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
        save_for_hf(whole, temporary, model_config={"label_names": list(classes)}, safe_serialization=True, data_config=seen)
        for name in ("config.json", "model.safetensors"):
            move_into_place(Path(temporary, name), folder / name)
