"""What the model sees of a decoded image: a crop, resized to a square."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from jpegcurr.encoding.pictures import Pixels
from jpegcurr.recipe import ImageSection, Interpolation

_TORCH_FILTERS = {"bilinear": v2.InterpolationMode.BILINEAR, "bicubic": v2.InterpolationMode.BICUBIC}


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def centre_box(height: int, width: int, share: float) -> Box:
    """The centre square of ``share`` times the shorter side, rounded down (FFCV's ``get_center_crop``)."""
    side = int(share * min(height, width))
    return Box((height - side) // 2, (width - side) // 2, side, side)


def centre_view(pixels: Pixels, image: ImageSection) -> torch.Tensor:
    """RGB uint8 [h w 3] -> the validation view, uint8 [3 size size]."""
    box = centre_box(pixels.shape[0], pixels.shape[1], image.val_crop)
    return _resized(pixels, box, image.size, image.interpolation)


def random_view(pixels: Pixels, image: ImageSection, key: tuple[int, int, int]) -> torch.Tensor:
    """RGB uint8 [h w 3] -> a training view, uint8 [3 size size], drawn from ``key`` = (seed, epoch, sample) alone."""
    with torch.random.fork_rng(devices=[]):
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed CUDA's generators as well
        crop = v2.RandomResizedCrop(image.size, scale=image.scale, ratio=image.ratio)
        drawn = crop.make_params([torch.empty(3, *pixels.shape[:2], device="meta")])
        flip = bool(torch.rand(()) < image.hflip)
    box = Box(drawn["top"], drawn["left"], drawn["height"], drawn["width"])
    view = _resized(pixels, box, image.size, image.interpolation)
    return view.flip(2) if flip else view


def _resized(pixels: Pixels, box: Box, size: int, interpolation: Interpolation) -> torch.Tensor:
    part = pixels[box.top : box.top + box.height, box.left : box.left + box.width]
    if interpolation == "area":  # as FFCV does; torch's area filter is another
        return torch.from_numpy(cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA)).permute(2, 0, 1)
    tensor = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)
    resized: torch.Tensor = F.resize(tensor, [size, size], _TORCH_FILTERS[interpolation], antialias=True)
    return resized
