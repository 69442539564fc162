"""JPEG as a transform of torchvision's second kind, with Pillow's exact pixels: for pipelines that are not ours.

It encodes the image that it gets. Behind a resize that degrades an image much more than the same quality of the stored file
does: quality 50 before the crop looks about like 85 after it (``OnTheFlyJpeg.stage`` in a recipe). Put first in a pipeline, it
shows the pixels of a beton of that quality.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from jpegcurr.encoding.jpeg.codec import EncodeSpec, Quality, Subsampling, check_quality, round_trip
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import UsageError
from jpegcurr.training.augment.exact_jpeg import jpeg
from jpegcurr.training.data.sampling import QUALITY_STREAM
from jpegcurr.training.sample_rng import SampleRng, named_samples, samples_named

QualityOrRange = Quality | tuple[int, int]


def _is_pure_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) and not isinstance(value, tv_tensors.TVTensor)


class JPEG(v2.Transform):  # type: ignore[misc]  # torchvision has no types
    """Show images as a JPEG of a quality would, to the bit as Pillow saves and opens it.

    It takes images of Pillow's (RGB or L) and uint8 tensors [..., 3 h w] or [..., 1 h w], also ``tv_tensors``, and leaves
    boxes, masks and labels as they are. Every image of a batch is encoded at a quality of its own, every video [..., t c h w]
    at one.
    Tensors on the CPU are encoded; those on a GPU stay there, and get the same pixels by arithmetic (``jpegcurr.jpeg``).

        JPEG(50)                                    # always 50
        JPEG((30, 95))                              # drawn for every image, both ends included, by torch's generator
        JPEG({0: "source", 100: 50})                # as it is, and from epoch 100 on 50; call set_epoch(epoch)
        JPEG((30, 95), seed=0)(images, samples=[7, 8])   # a function of (seed, epoch, sample) alone

    Args:
        quality: 1 to 100; or ``(low, high)``; or ``source``, which changes nothing; or a schedule, a mapping from the epoch at
            which each of these begins, the first of them 0.
        subsampling: the chroma layout, as for ``encode``: 420, 422 or 444. Grey images have none.
        seed: draw by sample, as a recipe with this ``seed`` does: whatever the order, the batch, and the number of workers. The
            caller names the samples, by ``samples``; a ``BetonDataset`` does so for all of its transforms.

    Raises:
        UsageError: one of these makes no sense.
    """

    _transformed_types = (_is_pure_tensor, PIL.Image.Image, tv_tensors.Image, tv_tensors.Video)

    def __init__(
        self,
        quality: QualityOrRange | Mapping[int, QualityOrRange],
        *,
        subsampling: Subsampling = "420",
        seed: int | None = None,
    ) -> None:
        super().__init__()
        phases = quality if isinstance(quality, Mapping) else {0: quality}
        self.schedule = {epoch: _check(phases[epoch]) for epoch in sorted(phases)}
        if 0 not in self.schedule or min(self.schedule) < 0:
            raise UsageError(
                'A schedule begins with epoch 0, such as {0: "source", 100: 50}, where 50 holds from epoch 100 on.'
            )
        if subsampling == "keep":
            raise UsageError("Pixels have no chroma subsampling that could be kept. Give 420, 422 or 444.")
        if seed is not None and not 0 <= seed < 1 << 64:
            raise UsageError(f"seed {seed} is no whole number from 0 to 2^64 - 1.")
        self.subsampling = EncodeSpec("source", subsampling).subsampling
        self.seed = seed
        # Shared with the workers of a DataLoader, which may outlive the epoch that they were started in.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The current epoch, 0 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, on which the schedule and the draws by ``seed`` depend; workers that run already get it too."""
        if epoch < 0:
            raise UsageError(f"epoch {epoch} is none: they are counted from 0.")
        self._epoch.share_memory_()  # a deep copy of this transform shares nothing yet
        self._epoch.fill_(epoch)

    def forward(self, *inputs: Any, samples: int | Sequence[int] | None = None) -> Any:
        """Return the inputs with their images encoded; ``samples`` are the indices of the images, which ``seed`` draws by."""
        if samples is not None and self.seed is None:
            raise UsageError("samples does nothing without a seed. Give JPEG(..., seed=0) one.")
        with samples_named(samples):
            return super().forward(*inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the quality of every image of the batch, ``None`` where it stays as it is; see ``v2.Transform``."""
        epoch = self.epoch
        quality = self.schedule[max(start for start in self.schedule if start <= epoch)]
        count = _count(flat_inputs[0]) if flat_inputs else 0
        if quality == "source":
            return {"qualities": None}
        if isinstance(quality, tuple):
            return {"qualities": self._draw(quality, epoch, count)}
        return {"qualities": [quality] * count}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Return one input encoded at ``params["qualities"]``; raises UsageError for what is no image of 8 bits."""
        qualities: list[int] | None = params["qualities"]
        if qualities is None:
            return inpt
        if _count(inpt) != len(qualities):
            raise UsageError(f"Inputs of {len(qualities)} and of {_count(inpt)} images do not belong to one batch.")
        if isinstance(inpt, PIL.Image.Image):
            return PIL.Image.fromarray(round_trip(_grey_or_rgb(inpt), qualities[0], self.subsampling))
        images = inpt.as_subclass(torch.Tensor)
        frames = images.shape[-4] if isinstance(inpt, tv_tensors.Video) else 1
        flat = images.reshape(-1, *images.shape[-3:])
        by_frame = [quality for quality in qualities for _ in range(frames)]
        shown = (_encode_all if flat.is_cpu else jpeg)(flat, torch.tensor(by_frame), subsampling=self.subsampling).view(
            images.shape
        )
        return tv_tensors.wrap(shown, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else shown

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        quality: object = self.schedule[0] if len(self.schedule) == 1 else self.schedule
        return f"quality={quality!r}, subsampling={self.subsampling!r}, seed={self.seed}"

    def _draw(self, bounds: tuple[int, int], epoch: int, count: int) -> list[int]:
        if self.seed is None:
            drawn: list[int] = torch.randint(bounds[0], bounds[1] + 1, (count,)).tolist()
            return drawn
        samples = named_samples()
        if samples is None:
            raise UsageError(
                f"JPEG(..., seed={self.seed}) draws by sample and was not told which. Call it with samples=index, or give it "
                "to a BetonDataset as its transform."
            )
        if len(samples) != count:
            raise UsageError(f"{len(samples)} samples are named for {count} images. Name one for each.")
        numbers: list[int] = SampleRng(self.seed, epoch, samples).integer(QUALITY_STREAM, *bounds).tolist()
        return numbers


def _check(quality: object) -> QualityOrRange:
    if not isinstance(quality, tuple | list):
        return check_quality(quality)
    bounds = [check_quality(bound) for bound in quality]
    if len(bounds) != 2 or "source" in bounds or bounds[0] > bounds[1]:  # type: ignore[operator]  # they are numbers then
        raise UsageError(f"quality {quality!r} is no range. Give (low, high), such as (30, 95).")
    return bounds[0], bounds[1]  # type: ignore[return-value]


def _count(image: Any) -> int:
    """Return the number of images, or of videos, in one input; raise UsageError for a tensor that is no uint8 image."""
    if isinstance(image, PIL.Image.Image):
        return 1
    inner = 4 if isinstance(image, tv_tensors.Video) else 3
    if image.dtype != torch.uint8 or image.ndim < inner or image.shape[-3] not in (1, 3) or 0 in image.shape[-2:]:
        kind = f"{str(image.dtype).removeprefix('torch.')} {list(image.shape)}"
        raise UsageError(f"JPEG takes uint8 [..., 3 h w] or [..., 1 h w], not {kind}. Put it before the conversion to float.")
    return prod(image.shape[:-inner])


def _grey_or_rgb(image: PIL.Image.Image) -> Pixels:
    if image.mode not in ("RGB", "L"):
        raise UsageError(f"JPEG takes images of Pillow's modes RGB and L, not {image.mode}. Convert it: image.convert('RGB').")
    return np.asarray(image)


def _encode_all(images: torch.Tensor, qualities: torch.Tensor, *, subsampling: Subsampling) -> torch.Tensor:
    """Return what JPEGs show of a batch on the CPU, as ``jpeg`` does, by the codec, which is faster there."""
    shown = torch.empty(images.shape, dtype=torch.uint8)
    for image, quality, out in zip(images, qualities.tolist(), shown, strict=True):
        _encode_into(image, quality, subsampling, out)
    return shown


def _encode_into(image: torch.Tensor, quality: int, subsampling: Subsampling, out: torch.Tensor) -> None:
    """Write into ``out`` what a JPEG shows of ``image``, both uint8 [3 h w] or [1 h w].

    OpenCV puts planes into rows of pixels, and back, in a tenth of the time of torch and NumPy.
    """
    planes = [plane.numpy() for plane in image]
    shown = round_trip(cv2.merge(planes) if len(planes) == 3 else planes[0], quality, subsampling)
    cv2.split(shown, [plane.numpy() for plane in out])
