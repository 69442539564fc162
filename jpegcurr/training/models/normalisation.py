"""Normalisation of a model's inputs: what it is set to, what timm has for the model, and what weights themselves state."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD

import jpegcurr.training.models.isotropic
import jpegcurr.training.models.roadmap  # noqa: F401 (both register their models with timm)
from jpegcurr.errors import RecipeError
from jpegcurr.json_files import parse_json, read_bounded
from jpegcurr.recipe.schema import ImageSection, ModelSection, Recipe
from jpegcurr.training.metrics import Normaliser
from jpegcurr.training.models.fit import create_on_meta
from jpegcurr.training.models.names import check_model, find_weights
from jpegcurr.training.models.pretrained import read_checkpoint

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # beside these, timm and transformers write a description


def normaliser(model: torch.nn.Module, image: ImageSection | None = None) -> Normaliser:
    """Return the normalisation that ``image`` sets or, if it sets none, that of timm's configuration of ``model``."""
    if image is not None and image.mean is not None and image.std is not None:
        return Normaliser(image.mean, image.std)
    config = timm.data.resolve_model_data_config(model)
    return Normaliser(config["mean"], config["std"])


def recipe_normaliser(recipe: Recipe) -> Normaliser:
    """Return what ``normaliser`` returns for the model of ``recipe``, without creating its weights.

    Raises:
        RecipeError: timm does not know the model, or does not tell without its weights.
    """
    if recipe.image.mean is not None and recipe.image.std is not None:
        return Normaliser(recipe.image.mean, recipe.image.std)
    check_model(recipe.model, start=False)
    model = create_on_meta(recipe.model.name)
    if model is None:
        raise RecipeError(f"image.mean, image.std: timm does not tell them of {recipe.model.name!r} alone. Set both.")
    return normaliser(model)


def normalisation_warning(section: ModelSection, used: Normaliser, model: torch.nn.Module) -> str | None:
    """Return a warning if the weights that a run starts from state another normalisation than the one ``used``, else None."""
    if section.checkpoint is not None:
        stated, weights = stated_normaliser(section.checkpoint), str(section.checkpoint)
    else:
        stated, weights = normaliser(model) if section.pretrained else None, section.name
    return describe_mismatch(weights, stated, used, "set image.mean=[{mean}] and image.std=[{std}]")


def describe_mismatch(weights: str, stated: Normaliser | None, used: Normaliser, options: str) -> str | None:
    """Return a warning if ``weights`` state another normalisation than the one ``used``; None also where they state none.

    ``options`` are those that would set the other one, with ``{mean}`` and ``{std}`` in the places of its numbers.
    """
    if stated is None or used.equals(stated):
        return None
    mean, std = (",".join(f"{value:.6g}" for value in values) for values in (stated.levels, stated.deviations))
    return (
        f"{weights}: its weights state that inputs are normalised by {stated.describe()}, but they are normalised by "
        f"{used.describe()}, which may cost accuracy. To normalise as stated: {options.format(mean=mean, std=std)}"
    )


def stated_normaliser(path: Path) -> Normaliser | None:
    """Return the normalisation that weights state: a file's options, or the description beside it; None if neither does.

    Read are a run's and timm's ``config.json``, transformers' ``preprocessor_config.json``, and the options (``args``) that the
    programs of timm and of the ConvNeXt authors write into their checkpoints.

    Raises:
        UsageError: there is no such file, or it holds no weights.
    """
    file = find_weights(path)
    if file.name in _HUB_FILES:
        config, processor = (_read_json(file.with_name(name)) for name in ("config.json", "preprocessor_config.json"))
        described = config.get("pretrained_cfg")
        described = described if isinstance(described, dict) else config  # older ones are flat
        stated = _of(described.get("mean"), described.get("std")) or _of(
            processor.get("image_mean"), processor.get("image_std")
        )
        if stated is not None:
            return stated
    options = None if file.suffix == ".safetensors" else read_checkpoint(file, tensors=False)
    options = options.get("args") if isinstance(options, dict) else None
    return _of_options(options) if isinstance(options, Namespace) else None


def _of_options(options: Namespace) -> Normaliser | None:
    """Return the normalisation in the options of the ConvNeXt authors' program or of timm's, which need not state one."""
    default = getattr(options, "imagenet_default_mean_and_std", None)
    if default is not None:
        imagenet, inception = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD), (IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD)
        return Normaliser(*(imagenet if default else inception))
    return _of(getattr(options, "mean", None), getattr(options, "std", None))


def _of(mean: Any, std: Any) -> Normaliser | None:
    """Return the normalisation that a description has, None unless these are lists of three numbers on the scale 0 to 1."""
    for values in (mean, std):
        if not isinstance(values, list | tuple) or len(values) != 3:
            return None
        if not all(isinstance(value, int | float) and 0 <= value <= 1 for value in values):
            return None
    return Normaliser(tuple(mean), tuple(std)) if all(std) else None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a description, which may be anyone's; nothing if it is missing or cannot be read."""
    try:
        content = parse_json(read_bounded(path))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
