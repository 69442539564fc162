"""Raw Grad-CAM maps of the same images at several qualities and in several runs.

The class explained is one per image, so that two maps never differ because they explain different classes: the first run's
prediction at the first quality, or the true class. Each view's own prediction is explained only if that is asked for. Maps
are compared raw, on the layer's own grid: per-image normalisation (pytorch-grad-cam's default) hides magnitude and can by
itself make other regions look brighter.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.analysis.layers import stages
from jpegcurr.analysis.methods import OURS, Method, find_method
from jpegcurr.analysis.predict import find_images, read_file
from jpegcurr.encoding.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.encoding.pictures import Pixels
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.runtime import Runtime, whole_float32
from jpegcurr.training.model import Run
from jpegcurr.training.views import centre_view

BATCH = 32
NEAR = EncodeSpec(95)  # what a change that nobody sees does to a map: the ceiling of the comparison
Map = NDArray[np.float32]
# The class explained: that of the image's folder, the prediction in the first view, or each view's own prediction
Explains = Literal["label", "clean", "own"]


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
        target: the class explained, which differs between an image's views only if each explains its own prediction.
    """

    top: tuple[tuple[str, float], ...]
    logit: float
    cam: Map
    target: str = ""


@dataclass(frozen=True, slots=True)
class CamImage:
    """One image: its true class where its folder says so, the class explained (in the first view), and what every view saw.

    ``pictures`` are uint8 [size size 3] by quality, as the first run sees them. ``near`` is what the first run sees of the
    image at quality 95, where the first view is of the file itself.
    """

    name: str
    truth: str | None
    target: str
    pictures: dict[str, Pixels]
    seen: tuple[Seen, ...]
    near: Seen | None = None


@dataclass(frozen=True, slots=True)
class CamStudy:
    """Everything that a report is made of; ``skipped`` are (file, reason) pairs, ``found`` how many images there were."""

    views: tuple[CamView, ...]
    images: tuple[CamImage, ...]
    skipped: tuple[tuple[str, str], ...]
    found: int
    layer: str
    runtime: str
    method: str = OURS
    explains: Explains = "clean"


def compare_cams(
    runs: Sequence[Run],
    folder: Path,
    specs: Sequence[EncodeSpec],
    runtime: Runtime,
    *,
    layer: str | None = None,
    method: str = OURS,
    explains: Explains = "clean",
    limit: int = 50,
    on_images: Callable[[int, int], None] = lambda _done, _total: None,
) -> CamStudy:
    """Make the maps of every image in ``folder`` in every run at every quality.

    Each image is re-encoded at full resolution, exactly as ``jpegcurr encode`` stores it, before it is cropped. Of more
    than ``limit`` images, ``limit`` evenly spaced ones are taken.

    Raises:
        UsageError: no image can be read or explained, the runs have different classes or grids, or there is no such layer,
            method or class to explain.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.classes != first.classes:
            raise UsageError(f"{run.path} and {first.path} have different classes, so their maps explain different things.")
    if explains not in get_args(Explains):
        raise UsageError(f"--class {explains!r} is not known. Give {', '.join(get_args(Explains))}.")
    look = _Look(runs, specs, layer or _last_stage(first), find_method(method), explains, runtime)
    files = find_images(folder)
    chosen = [files[index] for index in np.unique(np.linspace(0, len(files) - 1, min(limit, len(files))).round().astype(int))]
    images: list[CamImage] = []
    skipped: list[tuple[str, str]] = []
    for start in range(0, len(chosen), BATCH):
        decoded, failed = look.decode(chosen[start : start + BATCH])
        skipped += failed
        if decoded:
            images += look.see(decoded, folder)
        on_images(min(start + BATCH, len(chosen)), len(chosen))
    if not images:
        what = "read, or explained" if explains == "label" else "read"
        raise UsageError(f"{folder}: none of the {len(chosen)} images can be {what}. {skipped[0][0]}: {skipped[0][1]}.")
    views = tuple(CamView(run.path, run.weights, spec.name) for run in runs for spec in specs)
    return CamStudy(views, tuple(images), tuple(skipped), len(files), look.layer, runtime.reason, method, explains)


def _last_stage(run: Run) -> str:
    names = stages(run.model)
    if not names:
        raise UsageError(f"{run.path}: timm names no stages of {run.recipe.model.name}. Give the layer to explain as --layer.")
    return names[-1]


_Decoded = dict[Path, dict[str, Pixels]]


@dataclass(frozen=True, slots=True)
class _Look:
    """How every image is looked at."""

    runs: Sequence[Run]
    specs: Sequence[EncodeSpec]
    layer: str
    method: Method
    explains: Explains
    runtime: Runtime

    @property
    def near(self) -> EncodeSpec | None:
        """The least that re-encoding changes, where the others are compared with the file itself."""
        return NEAR if self.specs[0].quality == "source" else None

    def decode(self, files: Sequence[Path]) -> tuple[_Decoded, list[tuple[str, str]]]:
        """RGB at full resolution by file and quality, and the files that could not be read or have no class to explain."""
        specs = list({spec.name: spec for spec in [*([self.near] if self.near else []), *self.specs]}.values())
        decoded: _Decoded = {}
        failed = []
        for file in files:
            try:
                if self.explains == "label" and self.truth(file) is None:
                    raise ImageError(
                        f"its folder's name, {file.parent.name!r}, is no class of the run, which --class label needs"
                    )
                encoded = reencode(read_file(file), specs)
                decoded[file] = {spec.name: decode_rgb(each.data) for spec, each in zip(specs, encoded, strict=True)}
            except ImageError as error:
                failed.append((str(file), str(error)))
        return decoded, failed

    def truth(self, file: Path) -> str | None:
        """The class that the file's folder is named after."""
        return file.parent.name if file.parent.name in self.runs[0].classes else None

    def see(self, decoded: _Decoded, folder: Path) -> list[CamImage]:
        """Look at one batch of images through every view."""
        labels = [self.runs[0].classes.index(self.truth(file) or "") for file in decoded] if self.explains == "label" else None
        targets = None if labels is None else torch.tensor(labels, device=self.runtime.device)
        columns: list[list[Seen]] = []
        for run in self.runs:
            for spec in self.specs:
                seen, likeliest = self._through(run, [each[spec.name] for each in decoded.values()], targets)
                targets = likeliest if self.explains == "clean" and targets is None else targets
                columns.append(seen)
        near: Sequence[Seen | None] = [None] * len(decoded)
        if self.near:
            near, _ = self._through(self.runs[0], [each[self.near.name] for each in decoded.values()], targets)
        images = zip(decoded.items(), zip(*columns, strict=True), near, strict=True)
        return [self._image(file, pictures, views, beside, folder) for (file, pictures), views, beside in images]

    def _through(self, run: Run, pictures: Sequence[Pixels], targets: torch.Tensor | None) -> tuple[list[Seen], torch.Tensor]:
        """What one view sees, and the likeliest class of each picture; without ``targets`` that is what is explained."""
        batch = torch.stack([centre_view(each, run.image) for each in pictures])
        inputs = run.normalise(batch.to(self.runtime.device, memory_format=torch.channels_last))
        with whole_float32():  # rounding would be a difference too
            maps, logits = self.method(run.model, self.layer, inputs, targets)
        likeliest = logits.argmax(dim=1)
        return _as_seen(maps, logits, likeliest if targets is None else targets, run.classes), likeliest

    def _image(
        self, file: Path, pictures: dict[str, Pixels], views: tuple[Seen, ...], near: Seen | None, folder: Path
    ) -> CamImage:
        if len({view.cam.shape for view in views}) > 1:
            raise UsageError(f"--layer {self.layer} has different grids in the runs, so their maps cannot be compared.")
        name = file.relative_to(folder).as_posix() if file != folder else file.name
        small = {spec.name: _picture(pictures[spec.name], self.runs[0]) for spec in self.specs}
        return CamImage(name, self.truth(file), views[0].target, small, views, near)


def _as_seen(maps: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor, classes: Sequence[str]) -> list[Seen]:
    likeliest = logits.softmax(dim=1).topk(min(3, len(classes)), dim=1)
    return [
        Seen(tuple((classes[label], share) for label, share in zip(labels, shares, strict=True)), logit, cam, classes[target])
        for labels, shares, logit, cam, target in zip(
            likeliest.indices.tolist(),
            likeliest.values.tolist(),
            logits.gather(1, targets[:, None])[:, 0].tolist(),
            maps.cpu().numpy(),
            targets.tolist(),
            strict=True,
        )
    ]


def _picture(pixels: Pixels, run: Run) -> Pixels:
    picture: Pixels = centre_view(pixels, run.image).permute(1, 2, 0).numpy()
    return picture
