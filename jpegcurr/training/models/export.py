"""A model's weights as a file of another program: the ConvNeXt authors', torchvision, mmpretrain, transformers, or ONNX.

For the first four they are renamed by ``key_maps``. Before that, they are put into a ConvNeXt as the paper describes it, which
must give the model's own logits: timm's variants (another activation, stem, norm or kernel) may have weights of the same names,
with which the other program would compute something else.
"""

import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from timm.models.convnext import ConvNeXt

from jpegcurr.errors import UsageError
from jpegcurr.files import refuse_existing, staged, staged_folder, write_json
from jpegcurr.training.models.classifier import Classifier
from jpegcurr.training.models.isotropic import IsotropicConvNeXt
from jpegcurr.training.models.key_maps import KEY_MAPS, StateDict
from jpegcurr.training.models.onnx import check_packages, write_onnx
from jpegcurr.training.models.roadmap import RoadmapNet, to_convnext

Target = Literal["authors", "torchvision", "mmpretrain", "transformers", "onnx"]

_SUFFIXES: dict[Target, tuple[str, ...]] = {"onnx": (".onnx",), "transformers": ()}
_TORCH_SUFFIXES = (".pth", ".pt")
_FOLDER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json")
_SIDE = 64  # pixels a side of the image that two networks are compared on
_EQUAL = 1e-9  # of the largest logit, in float64
# Depths and width of the first stage, by the name that torchvision and mmpretrain have for them.
_SIZES = {"tiny": ((3, 3, 9, 3), 96), "small": ((3, 3, 27, 3), 96), "base": ((3, 3, 27, 3), 128), "large": ((3, 3, 27, 3), 192)}
_RESAMPLE = {"bilinear": 2, "bicubic": 3, "area": 2}  # Pillow's numbers; torch has no area filter
_OTHER_WAYS = (
    "timm and transformers load the folder of a run itself (timm.create_model('local-dir:RUN', pretrained=True), "
    "AutoModelForImageClassification.from_pretrained('RUN')), and --to onnx takes every model."
)
_OWN_WAY = "--to onnx takes every model."  # of networks of this package, which timm has only after an import


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts that a published ConvNeXt is built of.

    Attributes:
        depths: blocks of each stage.
        dims: channels of each stage.
        scaled: whether it has a layer scale.
        v2: whether its blocks normalise responses, as those of ConvNeXt V2 do.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    scaled: bool
    v2: bool

    @property
    def size(self) -> str | None:
        """The published name of this size; None if it has none."""
        named = ((size, depths, tuple(dim << stage for stage in range(4))) for size, (depths, dim) in _SIZES.items())
        return next((size for size, depths, dims in named if (depths, dims) == (self.depths, self.dims)), None)

    def torchvision(self, classes: int) -> str:
        """Return the code that creates this network in torchvision."""
        if self.size:
            return f"torchvision.models.convnext_{self.size}(num_classes={classes})"
        home = "torchvision.models.convnext"
        stages = zip(self.dims, (*self.dims[1:], None), self.depths, strict=True)
        blocks = ", ".join(f"{home}.CNBlockConfig({width}, {after}, {depth})" for width, after, depth in stages)
        return f"{home}.ConvNeXt([{blocks}], num_classes={classes})"


def check_output(target: Target, path: Path, *, force: bool) -> None:
    """Raise UsageError if ``path`` is no name for what ``target`` loads, or exists and ``force`` is not set.

    For ONNX, check that the packages that it needs are installed, too.
    """
    if target == "onnx":
        check_packages()
    suffixes = _SUFFIXES.get(target, _TORCH_SUFFIXES)
    if suffixes and path.suffix not in suffixes:
        raise UsageError(f"-o {path}: the name of a file for {target} ends with {' or '.join(suffixes)}.")
    if suffixes:
        refuse_existing([path], force=force)
        return
    if path.suffix in (*_TORCH_SUFFIXES, ".onnx", ".safetensors") or (path.exists() and not path.is_dir()):
        raise UsageError(f"-o {path}: transformers loads a folder. Give the name of a new one.")
    files = sorted(file.name for file in path.iterdir()) if path.is_dir() else []
    if others := [name for name in files if name not in _FOLDER_FILES]:
        raise UsageError(f"-o {path} holds more than an exported model: {others[0]}. Choose another folder.")
    if files and not force:
        raise UsageError(f"{path} exists. Choose another place with -o, or replace it with --force.")


def export_model(classifier: Classifier, target: Target, path: Path, *, head: bool = True) -> str:
    """Write the weights of ``classifier`` to ``path``, whole or not at all; return the line of code that loads them.

    What is there is replaced: see ``check_output``. Without ``head`` the linear layer is omitted, for use as a backbone.

    Raises:
        UsageError: ``target`` has no such network, or a package is not installed.
    """
    if target == "onnx":
        write_onnx(classifier, path, head=head)
        return f'onnxruntime.InferenceSession("{path}").run(None, {{"images": images}})'
    model = classifier.model
    if isinstance(model, RoadmapNet):
        model = to_convnext(model) or model  # the last step of the roadmap is ConvNeXt
    weights = {name: tensor for name, tensor in model.state_dict().items() if head or not name.startswith("head.fc.")}
    strict, classes = "" if head else ", strict=False", len(classifier.classes)
    if isinstance(model, IsotropicConvNeXt) and target == "authors":
        _save({"model": _renamed(weights, "authors, isotropic")}, path)
        size = f"depth={len(model.blocks)}, dim={model.num_features}, num_classes={classes}"
        size += _without_default(1e-6 if "blocks.0.gamma" in weights else 0, 0)
        return f'model = ConvNeXtIsotropic({size}); model.load_state_dict(torch.load("{path}")["model"]{strict})'
    shape = _require_plain(model, classifier.path, target)
    theirs = _renamed(weights, target)
    if target == "authors":
        _save({"model": theirs}, path)
        kind, size = "ConvNeXtV2" if shape.v2 else "ConvNeXt", f"depths={list(shape.depths)}, dims={list(shape.dims)}"
        scale = "" if shape.v2 else _without_default(1e-6 if shape.scaled else 0, 1e-6)
        creation = f"{kind}({size}, num_classes={classes}{scale})"
        return f'model = {creation}; model.load_state_dict(torch.load("{path}")["model"]{strict})'
    if target == "torchvision":
        _save(theirs, path)
        return f'model = {shape.torchvision(classes)}; model.load_state_dict(torch.load("{path}"){strict})'
    if target == "mmpretrain":
        _save({"state_dict": theirs, "meta": {"dataset_meta": {"classes": list(classifier.classes)}}}, path)
        return _mmpretrain_line(shape, path)
    _write_transformers(classifier, shape, theirs, path, head=head)
    return f'transformers.{"AutoModelForImageClassification" if head else "ConvNextBackbone"}.from_pretrained("{path}")'


def _without_default(scale: float, default: float) -> str:
    """Return the argument of the authors' code for the layer scale, unless it is the default there."""
    return "" if scale == default else f", layer_scale_init_value={scale:g}"


def _require_plain(model: torch.nn.Module, path: Path, target: Target) -> Shape:
    """Return the shape of a ConvNeXt as the paper describes it; raise UsageError if it is none, or ``target`` has none such."""
    shape = _measure(model)
    if shape is None or not _computes_the_same(shape, model):
        raise UsageError(
            f"--to {target} takes ConvNeXts as they were published, and {path} is another network. {_other_ways(model)}"
        )
    if shape.v2 and target != "authors":
        raise UsageError(f"--to {target} does not take ConvNeXt V2, as {path} is; --to authors does. {_other_ways(model)}")
    if target == "torchvision" and not shape.scaled:
        raise UsageError(f"torchvision's ConvNeXt has a layer scale, and {path} has none. {_other_ways(model)}")
    return shape


def _other_ways(model: torch.nn.Module) -> str:
    return _OWN_WAY if type(model).__module__.startswith("jpegcurr.") else _OTHER_WAYS


def _measure(model: torch.nn.Module) -> Shape | None:
    """Return the shape of a ConvNeXt of timm's; None if it is another network."""
    if not isinstance(model, ConvNeXt):
        return None
    weights = model.state_dict()
    blocks = [re.fullmatch(r"stages\.(\d)\.blocks\.\d+\.conv_dw\.weight", name) for name in weights]
    stages = [(int(match[1]), len(weights[match[0]])) for match in blocks if match]
    depths = tuple(sum(stage == number for stage, _ in stages) for number in range(4))
    scaled, v2 = (f"stages.0.blocks.0.{name}" in weights for name in ("gamma", "mlp.grn.weight"))
    return Shape(depths, tuple(dict(stages).values()), scaled, v2)


@torch.inference_mode()
def _computes_the_same(shape: Shape, model: torch.nn.Module) -> bool:
    """Return whether the paper's ConvNeXt gives the logits of ``model`` from its weights, in float64."""
    classes = int(getattr(model, "num_classes", 0))
    scale = 1.0 if shape.scaled else None
    twin = ConvNeXt(num_classes=classes, depths=shape.depths, dims=shape.dims, ls_init_value=scale, use_grn=shape.v2)
    keys = KEY_MAPS["authors"]
    try:
        twin.load_state_dict(keys.to_timm(keys.from_timm(model.state_dict())))
    except (KeyError, RuntimeError):
        return False
    images = torch.randn(1, 3, _SIDE, _SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = deepcopy(model).cpu().double().eval()(images)
    return bool((twin.double().eval()(images) - expected).abs().max() <= _EQUAL * expected.abs().max())


def _renamed(weights: StateDict, keys: str) -> StateDict:
    """Return the weights by the names of the map ``keys``: on the CPU, contiguous, each in memory of its own."""
    theirs = KEY_MAPS[keys].from_timm(weights)
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in theirs.items()}


def _save(content: Mapping[str, Any], path: Path) -> None:
    with staged(path) as partial:
        torch.save(content, partial)


def _mmpretrain_line(shape: Shape, path: Path) -> str:
    arch = f'"{shape.size}"' if shape.size else f"dict(depths={list(shape.depths)}, channels={list(shape.dims)})"
    scale = "" if shape.scaled else ", layer_scale_init_value=0.0"
    start = f'init_cfg=dict(type="Pretrained", checkpoint="{path}", prefix="backbone.")'
    outputs = "out_indices=[0, 1, 2, 3], gap_before_final_norm=False"
    return f'dict(type="mmpretrain.ConvNeXt", arch={arch}{scale}, {outputs}, {start})'


def _write_transformers(classifier: Classifier, shape: Shape, weights: StateDict, path: Path, *, head: bool) -> None:
    """Write a folder: the model's configuration, its weights, and how its images are prepared."""
    names = classifier.classes if head else ()
    config = {
        "architectures": ["ConvNextForImageClassification" if head else "ConvNextModel"],
        "model_type": "convnext",
        "num_channels": 3,
        "patch_size": 4,
        "num_stages": 4,
        "depths": shape.depths,
        "hidden_sizes": shape.dims,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": 1e-6 if shape.scaled else 0,
        "image_size": classifier.image.size,
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }
    with staged_folder(path) as folder:
        with staged(folder / "model.safetensors") as partial:
            save_file(weights, partial, metadata={"format": "pt"})
        write_json(folder / "config.json", config)
        write_json(folder / "preprocessor_config.json", _preprocessing(classifier))


def _preprocessing(classifier: Classifier) -> dict[str, Any]:
    """Return the settings of transformers' processor that prepares images as validation does."""
    image, normalise = classifier.image, classifier.normalise
    side = int(image.size / image.val_share)
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side} if image.squashed else {"shortest_edge": side},
        "resample": _RESAMPLE[image.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": image.size, "width": image.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(normalise.levels),
        "image_std": list(normalise.deviations),
    }
