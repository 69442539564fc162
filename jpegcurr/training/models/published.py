"""Models that timm publishes, by its names of today and of timm 0.6: whether there is one, its classes, its preprocessing."""

from pathlib import Path
from typing import Any

import timm
from pydantic import ValidationError
from timm.data import ImageNetInfo, infer_imagenet_subset
from timm.models import PretrainedCfg

from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import ValResize

_SIZES = ("tiny", "small", "base", "large", "xlarge")
_TAGS = {"_in22ft1k": "fb_in22k_ft_in1k", "_384_in22ft1k": "fb_in22k_ft_in1k_384", "_in22k": "fb_in22k"}
# Names that timm 0.6 had for pretrained ConvNeXts; timm itself still accepts them, with a warning.
LEGACY = {f"convnext_{size}{old}": f"convnext_{size}.{tag}" for old, tag in _TAGS.items() for size in _SIZES}


def check_name(name: str, current: str, checkpoint: Path | None) -> None:
    """Raise UsageError if timm has no model ``current``, the name of today of ``name``, or no weights for it."""
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


def describe_failure(name: str, checkpoint: Path | None, error: Exception | str) -> str:
    """Return why the weights of ``name`` cannot be had, or those of ``checkpoint`` cannot be loaded, and the way out."""
    reason = " ".join(str(error).split())[:600]
    if checkpoint is not None:
        return f"{checkpoint} cannot be loaded into {name}: {reason}"
    return (
        f"The weights of {name} are not on this machine and could not be downloaded ({reason}). "
        "Without a network, give a file of weights: --checkpoint FILE."
    )


def named_classes(config: PretrainedCfg | None) -> tuple[str, ...]:
    """Return the class names of pretrained weights, timm's or WordNet's; none if they do not classify, such as CLIP's."""
    if config is None:
        return ()
    if config.label_names:
        return tuple(config.label_names)
    subset = infer_imagenet_subset(config.to_dict())
    return imagenet_classes(subset) if subset else ()


def imagenet_classes(subset: str) -> tuple[str, ...]:
    """Return the WordNet numbers of timm's subset (``imagenet-1k``, ``imagenet-22k``, ...), in the order of the outputs."""
    return tuple(ImageNetInfo(subset).label_names())


def image_section(name: str, config: dict[str, Any]) -> ImageSection:
    """Return the preprocessing in timm's ``config``; raise UsageError if it is not supported."""
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
