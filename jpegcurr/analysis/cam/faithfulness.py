"""Faithfulness of maps to the model, by pytorch-grad-cam: the model classifies images that are changed by their maps."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from jpegcurr.analysis.cam.grad_cam import held_still, run
from jpegcurr.analysis.cam.results import Column, Map
from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.system import install_command
from jpegcurr.training.models.factory import unwrapped

# (model, images, maps, targets, seed) -> the metric of each image
Measure = Callable[[nn.Module, torch.Tensor, Map, torch.Tensor, int], Column]


@dataclass(frozen=True, slots=True)
class FaithfulnessMetric:
    """A metric of pytorch-grad-cam: its column in ``ViewColumns.faithfulness``, its module and class, and what it means."""

    column: str
    module: str
    class_name: str
    meaning: str


FAITHFULNESS = {
    "road": FaithfulnessMetric(
        "road",
        "road",
        "ROADCombined",
        "the explained class's probability without the least relevant pixels less that without the most relevant, over 2; "
        "higher is better",
    ),
    "confidence": FaithfulnessMetric(
        "confidence_change",
        "cam_mult_image",
        "CamMultImageConfidenceChange",
        "the change of the explained class's probability when the image is multiplied by its map",
    ),
}
PERCENTILES = (20, 40, 60, 80)  # of the cells that ROAD removes, as in the package's examples


def find_metrics(names: Sequence[str]) -> dict[str, Measure]:
    """Return the functions that compute the metrics called ``names``, by the names of their columns.

    - ``road``: the probability of the class explained when the least relevant pixels are removed, less that when the most
      relevant are, over 2, averaged over a fifth to four fifths of the pixels (ROAD: Rong et al., ICML 2022). The higher, the
      better the map shows what the model relies on. Removed pixels are filled in from their neighbours, with a little noise
      that is the same in every view.
    - ``confidence``: the change of that probability when the image is multiplied by its map, -1 to 1.

    Raises:
        UsageError: there is no such metric, or its package is not installed or too old.
    """
    for name in names:
        if name not in FAITHFULNESS:
            known = ", ".join(FAITHFULNESS)
            raise UsageError(f"--metrics {name!r} is not known.{did_you_mean(name, FAITHFULNESS)} Known metrics: {known}.")
    measures: dict[str, Measure] = {}
    for name in names:
        metric = FAITHFULNESS[name]
        kind = getattr(_import(f"metrics.{metric.module}", name), metric.class_name, None)
        if kind is None:
            raise UsageError(
                f"--metrics {name}: this version of pytorch-grad-cam has no {metric.class_name}. Run "
                f"{install_command('grad-cam')}."
            )
        measures[metric.column] = partial(_measure, kind(PERCENTILES) if name == "road" else kind(), _import("utils", name))
    return measures


def _import(module: str, name: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package's dependencies warn
            import_module("pytorch_grad_cam.utils.image")
            import_module("pytorch_grad_cam.utils.model_targets")
            return import_module(f"pytorch_grad_cam.{module}")
    except ImportError as error:
        raise UsageError(
            f"--metrics {name} needs pytorch-grad-cam, which cannot be imported ({error}). Run "
            f"{install_command('grad-cam')}, or omit --metrics."
        ) from None


def _measure(
    metric: Any, utils: Any, model: nn.Module, images: torch.Tensor, maps: Map, targets: torch.Tensor, seed: int
) -> Column:
    """Return the metric of every normalised image [b 3 s s] and its raw map [b h w], [b]; nan where the map is constant.

    In a constant map no pixels are more relevant than others, and the package would remove all or none of them.
    """
    values = np.full(len(maps), np.nan, np.float32)
    varied = np.flatnonzero(maps.max(axis=(1, 2)) > maps.min(axis=(1, 2)))
    if not len(varied):
        return values
    whole = utils.image.scale_cam_image(maps[varied], (images.shape[-1], images.shape[-2]))
    scaled = utils.image.scale_cam_image(whole)  # twice, as the package scales its own maps
    wanted = [utils.model_targets.ClassifierOutputSoftmaxTarget(label) for label in targets[varied].tolist()]
    model = unwrapped(model)
    with held_still(model), torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns about the package's sparse matrices
        torch.manual_seed(seed)
        values[varied] = metric(images[varied], scaled, wanted, lambda batch: run(model, batch).float())
    return values
