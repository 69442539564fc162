"""How far maps point at what the model goes by, as pytorch-grad-cam measures it: the model looks again at changed images."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from jpegcurr.analysis.cam.grad_cam import held_still, run
from jpegcurr.analysis.cam.results import Column, Map
from jpegcurr.analysis.layers import unwrapped
from jpegcurr.errors import UsageError, did_you_mean

# (model, images, maps, targets, seed) to the figure of each image
Metric = Callable[[nn.Module, torch.Tensor, Map, torch.Tensor, int], Column]

# The column in ``ViewColumns.faithfulness``, and the package's module and class, by what is asked for
METRICS = {
    "road": ("road", "road", "ROADCombined"),
    "confidence": ("confidence_change", "cam_mult_image", "CamMultImageConfidenceChange"),
}
PERCENTILES = (20, 40, 60, 80)  # of the cells that ROAD takes away, as in the package's examples


def find_metrics(names: Sequence[str]) -> dict[str, Metric]:
    """Return what measures the figures called ``names``, by the names of their columns.

    - ``road``: the probability of the class explained when the least relevant pixels are taken away, less that when the
      most relevant are, over 2, for a fifth to four fifths of the pixels (ROAD: Rong et al., ICML 2022). The higher, the
      better the map says what the model goes by. Pixels taken away are filled in from their neighbours, with a little noise,
      which is the same in every view.
    - ``confidence``: how that probability changes when the image is multiplied by its map, -1 to 1.

    Raises:
        UsageError: there is no such metric, or the package that it is in is not installed or too old.
    """
    for name in names:
        if name not in METRICS:
            raise UsageError(f"--metrics {name!r} is not known.{did_you_mean(name, METRICS)} There are {', '.join(METRICS)}.")
    found: dict[str, Metric] = {}
    for name in names:
        column, module, kind = METRICS[name]
        made = getattr(_import(f"metrics.{module}", name), kind, None)
        if made is None:
            raise UsageError(f"--metrics {name}: this version of pytorch-grad-cam has no {kind}: pip install -U grad-cam.")
        found[column] = partial(_measure, made(PERCENTILES) if name == "road" else made(), _import("utils", name))
    return found


def _import(module: str, name: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            import_module("pytorch_grad_cam.utils.image")
            import_module("pytorch_grad_cam.utils.model_targets")
            return import_module(f"pytorch_grad_cam.{module}")
    except ImportError as error:
        raise UsageError(
            f"--metrics {name} is one of pytorch-grad-cam's, which cannot be imported ({error}): pip install grad-cam. "
            "Without it, leave --metrics out."
        ) from None


def _measure(
    metric: Any, utils: Any, model: nn.Module, images: torch.Tensor, maps: Map, targets: torch.Tensor, seed: int
) -> Column:
    """The figure of every normalised image [b 3 s s] and its raw map [b h w], [b]; nan where all cells are the same.

    Such a map has no pixels that are more relevant than others, of which the package would take away all or none.
    """
    figures = np.full(len(maps), np.nan, np.float32)
    varied = np.flatnonzero(maps.max(axis=(1, 2)) > maps.min(axis=(1, 2)))
    if not len(varied):
        return figures
    whole = utils.image.scale_cam_image(maps[varied], (images.shape[-1], images.shape[-2]))
    scaled = utils.image.scale_cam_image(whole)  # as the package scales every map that it makes
    wanted = [utils.model_targets.ClassifierOutputSoftmaxTarget(label) for label in targets[varied].tolist()]
    model = unwrapped(model)
    with held_still(model), torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SciPy's, about how it is asked
        torch.manual_seed(seed)
        figures[varied] = metric(images[varied], scaled, wanted, lambda batch: run(model, batch).float())
    return figures
