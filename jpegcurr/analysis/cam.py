"""Raw Grad-CAM maps of the same images at several qualities and in several runs.

The class explained is one per image, fixed by the first run's prediction at the first quality, so that two maps never
differ because they explain different classes. Maps are compared raw, on the layer's own grid: per-image normalisation
(pytorch-grad-cam's default) hides magnitude and can by itself make other regions look brighter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.grad_cam import grad_cam
from jpegcurr.analysis.layers import stages
from jpegcurr.analysis.predict import find_images, read_file
from jpegcurr.encoding.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.encoding.pictures import Pixels
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.model import Run
from jpegcurr.training.views import centre_view

BATCH = 32
Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CamView:
    """One way to look at an image: through a run, at a quality."""

    run: Path
    weights: str
    quality: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One image in one view.

    Attributes:
        top: (class, probability) pairs, likeliest first.
        logit: of the class explained.
        cam: its raw Grad-CAM map [h w], not negative, in the units of the logit's gradient times the activation.
    """

    top: tuple[tuple[str, float], ...]
    logit: float
    cam: Map


@dataclass(frozen=True, slots=True)
class CamImage:
    """One image: its true class where its folder says so, the class explained, and what every view saw of it.

    ``pictures`` are uint8 [size size 3] by quality, as the first run sees them.
    """

    name: str
    truth: str | None
    target: str
    pictures: dict[str, Pixels]
    seen: tuple[Seen, ...]


@dataclass(frozen=True, slots=True)
class CamStudy:
    """Everything that a report is made of; ``skipped`` are (file, reason) pairs, ``found`` how many images there were."""

    views: tuple[CamView, ...]
    images: tuple[CamImage, ...]
    skipped: tuple[tuple[str, str], ...]
    found: int
    layer: str
    runtime: str


def compare_cams(
    runs: Sequence[Run],
    folder: Path,
    specs: Sequence[EncodeSpec],
    runtime: Runtime,
    *,
    layer: str | None = None,
    limit: int = 50,
    on_images: Callable[[int, int], None] = lambda _done, _total: None,
) -> CamStudy:
    """Make the maps of every image in ``folder`` in every run at every quality.

    Each image is re-encoded at full resolution, exactly as ``jpegcurr encode`` stores it, before it is cropped. Of more
    than ``limit`` images, ``limit`` evenly spaced ones are taken.

    Raises:
        UsageError: no image can be read, the runs have different classes or grids, or there is no such layer.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.classes != first.classes:
            raise UsageError(f"{run.path} and {first.path} have different classes, so their maps explain different things.")
    layer = layer or stages(first.model)[-1]
    files = find_images(folder)
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int))]
    images: list[CamImage] = []
    skipped: list[tuple[str, str]] = []
    for start in range(0, len(chosen), BATCH):
        decoded, failed = _decode_all(chosen[start : start + BATCH], specs)
        skipped += failed
        if decoded:
            images += _see(runs, decoded, folder, layer, runtime)
        on_images(min(start + BATCH, len(chosen)), len(chosen))
    if not images:
        raise UsageError(f"{folder}: none of the {len(chosen)} images can be read. {skipped[0][0]}: {skipped[0][1]}.")
    views = tuple(CamView(run.path, run.weights, spec.name) for run in runs for spec in specs)
    return CamStudy(views, tuple(images), tuple(skipped), len(files), layer, runtime.reason)


_Decoded = dict[Path, dict[str, Pixels]]


def _decode_all(files: Sequence[Path], specs: Sequence[EncodeSpec]) -> tuple[_Decoded, list[tuple[str, str]]]:
    """RGB at full resolution by file and quality, and the files that could not be read."""
    decoded: _Decoded = {}
    failed = []
    for file in files:
        try:
            encoded = reencode(read_file(file), specs)
            decoded[file] = {spec.name: decode_rgb(each.data) for spec, each in zip(specs, encoded, strict=True)}
        except ImageError as error:
            failed.append((str(file), str(error)))
    return decoded, failed


def _see(runs: Sequence[Run], decoded: _Decoded, folder: Path, layer: str, runtime: Runtime) -> list[CamImage]:
    """Run one batch of images through every view."""
    seen: list[list[Seen]] = [[] for _ in decoded]
    targets: torch.Tensor | None = None
    for run in runs:
        for quality in next(iter(decoded.values())):
            batch = torch.stack([centre_view(each[quality], run.image) for each in decoded.values()])
            inputs = run.normalise(batch.to(runtime.device, memory_format=torch.channels_last))
            with whole_float32():  # rounding would be a difference too
                maps, logits = grad_cam(run.model, layer, inputs, targets)
            if targets is None:
                targets = logits.argmax(dim=1)
            for index, each in enumerate(_as_seen(maps, logits, targets, run.classes)):
                seen[index].append(each)
    assert targets is not None
    images = []
    for (file, pictures), views, target in zip(decoded.items(), seen, targets.tolist(), strict=True):
        if len({view.cam.shape for view in views}) > 1:
            raise UsageError(f"--layer {layer} has different grids in the runs, so their maps cannot be compared.")
        name = file.relative_to(folder).as_posix() if file != folder else file.name
        small = {quality: _picture(pixels, runs[0]) for quality, pixels in pictures.items()}
        truth = file.parent.name if file.parent.name in runs[0].classes else None
        images.append(CamImage(name, truth, runs[0].classes[target], small, tuple(views)))
    return images


def _as_seen(maps: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, classes: Sequence[str]) -> list[Seen]:
    likeliest = logits.softmax(dim=1).topk(min(3, len(classes)), dim=1)
    return [
        Seen(
            tuple((classes[label], share) for label, share in zip(labels, shares, strict=True)),
            logit,
            cam,
        )
        for labels, shares, logit, cam in zip(
            likeliest.indices.tolist(),
            likeliest.values.tolist(),
            logits.gather(1, targets[:, None])[:, 0].tolist(),
            maps.cpu().numpy(),
            strict=True,
        )
    ]


def _picture(pixels: Pixels, run: Run) -> Pixels:
    picture: Pixels = centre_view(pixels, run.image).permute(1, 2, 0).numpy()
    return picture
