"""Methods that turn a layer's activations and gradients into a map: our Grad-CAM, and those of pytorch-grad-cam.

Only the package's step from activations and gradients to a map is used, so all methods share the properties of ours: raw values
on the layer's own grid, any layout, any precision, one short backward pass, and a model that is restored afterwards.
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

from jpegcurr.analysis.cam.grad_cam import Captured, capture, held_still, maps_and_logits, run
from jpegcurr.analysis.layers import find_layer
from jpegcurr.errors import UsageError, did_you_mean
from jpegcurr.system import install_command
from jpegcurr.training.models.factory import unwrapped

# (model, layer, images, targets) -> (maps, logits), as ``maps_and_logits``
Method = Callable[[nn.Module, str, torch.Tensor, torch.Tensor | None], tuple[torch.Tensor, torch.Tensor]]

OURS = "gradcam"
# pytorch-grad-cam's classes by our names. Omitted: those that change the model (AblationCAM), sum over its layers (FullGrad),
# need more gradients (ShapleyCAM), answer another question (FinerCAM), or are random.
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
    """Return the function that computes maps by the method called ``name``.

    The sign of a principal component is arbitrary, so two maps of nearly the same image could be each other's negative; here
    the value of largest magnitude is made positive (Chung and Ying 2025, eq. 13).

    Raises:
        UsageError: there is no such method, or its package is not installed or too old.
    """
    if name == OURS:
        return maps_and_logits
    if name not in PACKAGED:
        raise UsageError(f"--method {name!r} is not known.{did_you_mean(name, METHODS)} Known methods: {', '.join(METHODS)}.")
    return partial(_packaged, name, _find_class(name))


def _find_class(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package's dependencies warn
            package = import_module("pytorch_grad_cam")
    except ImportError as error:
        raise UsageError(
            f"--method {name} needs pytorch-grad-cam, which cannot be imported ({error}). Run "
            f"{install_command('grad-cam')}, or use --method {OURS}."
        ) from None
    kind = getattr(package, PACKAGED[name], None)
    if kind is None:
        raise UsageError(
            f"--method {name}: this version of pytorch-grad-cam has no {PACKAGED[name]}. Run {install_command('grad-cam')}."
        )
    return kind


def _packaged(
    name: str, kind: Any, model: nn.Module, layer: str, images: torch.Tensor, targets: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    captured = capture(model, layer, images, targets)
    model = unwrapped(model)
    module = find_layer(model, layer)
    maps = []
    with held_still(model), torch.inference_mode(False), torch.no_grad(), np.errstate(all="ignore"):
        for index in range(len(images)):  # ScoreCAM runs as many images for each as the layer has channels
            maps.append(_map_of_one(kind, model, module, images[index : index + 1], captured, index))
    raw = np.concatenate(maps)
    if name in _OF_EITHER_SIGN:
        raw = _turned(raw)
    return torch.from_numpy(np.maximum(raw, 0)).to(captured.logits.device), captured.logits.float()


def _map_of_one(
    kind: Any, model: nn.Module, module: nn.Module, image: torch.Tensor, captured: Captured, index: int
) -> NDArray[np.float32]:
    """Return the map [1 h w] of one image, before any scaling."""
    activations, gradients = (
        tensor[index : index + 1].float().cpu().numpy() for tensor in (captured.activations, captured.gradients)
    )
    method = kind(model, [module])
    method.activations_and_grads.release()  # remove its hooks: activations and gradients are there already
    method.model = partial(_logits, model)
    targets = [itemgetter(int(captured.targets[index]))]  # of one image's logits [classes]
    with redirect_stderr(StringIO()):  # the package shows a progress bar for every image
        cam = method.get_cam_image(image.detach().float(), module, targets, activations, gradients, False)
    return np.asarray(cam, np.float32)


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return run(model, images).float()


def _turned(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Make the value of largest magnitude of each map [b h w] positive."""
    flipped = -raw.min(axis=(1, 2)) > raw.max(axis=(1, 2))
    turned: NDArray[np.float32] = np.where(flipped[:, None, None], -raw, raw)
    return turned
