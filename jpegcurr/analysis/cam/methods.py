"""Ways to make a map of a layer's activations and gradients: Grad-CAM, which is ours, and those of pytorch-grad-cam.

Of that package only the step from activations and gradients to a map is used, so what holds for ours holds for all: raw
values on the layer's own grid, any layout, any precision, one short backward pass, the model left as it was found.
"""

import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import partial
from importlib import import_module
from io import StringIO
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from jpegcurr.analysis.cam.grad_cam import Captured, capture, grad_cam, held_still, run
from jpegcurr.analysis.layers import find_layer, unwrapped
from jpegcurr.errors import UsageError, did_you_mean

# (model, layer, images, targets) to (maps, logits), as ``grad_cam`` is called
Method = Callable[[nn.Module, str, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]

OURS = "gradcam"
# pytorch-grad-cam's class by our name. Left out is what changes the model (AblationCAM), sums over its layers (FullGrad),
# needs more gradients (ShapleyCAM), explains another question (FinerCAM), or is random.
PACKAGED = {
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "elementwise": "GradCAMElementWise",
    "scorecam": "ScoreCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "segeigencam": "SegEigenCAM",
    "kpcacam": "KPCA_CAM",
    "fem": "FEM",
}
METHODS = (OURS, *PACKAGED)
WITHOUT_CLASS = ("eigencam", "kpcacam", "fem")  # their maps are the same whatever class is explained
_OF_EITHER_SIGN = ("eigencam", "eigengradcam", "kpcacam")


def find_method(name: str) -> Method:
    """Return what makes maps in the way called ``name``.

    The sign of a principal component is whatever the algorithm ends with, so that two maps of nearly the same image could be
    each other's negative; here a component is turned so that its largest value is positive (Chung and Ying 2025, eq. 13).

    Raises:
        UsageError: there is no such method, or the package that it is in is not installed or too old.
    """
    if name == OURS:
        return grad_cam
    if name not in PACKAGED:
        raise UsageError(f"--method {name!r} is not known.{did_you_mean(name, METHODS)} There are {', '.join(METHODS)}.")
    return partial(_packaged, name, _find_class(name))


def _find_class(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own dependencies
            package = import_module("pytorch_grad_cam")
    except ImportError as error:
        raise UsageError(
            f"--method {name} is one of pytorch-grad-cam's, which cannot be imported ({error}): pip install grad-cam. "
            f"Without it there is --method {OURS}."
        ) from None
    found = getattr(package, PACKAGED[name], None)
    if found is None:
        raise UsageError(f"--method {name}: this version of pytorch-grad-cam has no {PACKAGED[name]}: pip install -U grad-cam.")
    return found


def _packaged(
    name: str, kind: Any, model: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    found = capture(model, layer, images, targets)
    model = unwrapped(model)
    module = find_layer(model, layer)
    maps = []
    with held_still(model), torch.inference_mode(False), torch.no_grad(), np.errstate(all="ignore"):
        for index in range(len(images)):  # ScoreCAM makes as many images of each as the layer has channels
            maps.append(_map_of_one(kind, model, module, images[index : index + 1], found, index))
    raw = np.concatenate(maps)
    if name in _OF_EITHER_SIGN:
        raw = _turned(raw)
    return torch.from_numpy(np.maximum(raw, 0)).to(found.logits.device), found.logits.float()


def _map_of_one(
    kind: Any, model: nn.Module, module: nn.Module, image: torch.Tensor, found: Captured, index: int
) -> NDArray[np.float32]:
    """The map [1 h w] of one image, before any scaling."""
    activations, gradients = (each[index : index + 1].float().cpu().numpy() for each in (found.activations, found.gradients))
    method = kind(model, [module])
    method.activations_and_grads.release()  # its hooks: both are there already
    method.model = partial(_logits, model)
    targets = [itemgetter(int(found.targets[index]))]  # of an image's logits [classes]
    with redirect_stderr(StringIO()):  # a progress bar for every image
        cam = method.get_cam_image(image.detach().float(), module, targets, activations, gradients, False)
    return np.asarray(cam, np.float32)


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return run(model, images).float()


def _turned(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    flipped = -raw.min(axis=(1, 2)) > raw.max(axis=(1, 2))
    turned: NDArray[np.float32] = np.where(flipped[:, None, None], -raw, raw)
    return turned
