"""The operations of ``pillow_ops`` for all samples of a layer at once, in a fifth of the kernels: the way of a GPU.

A GPU takes longer to start a kernel than to run it on the few images that draw one operation, and the same thread has to start
those of the network. So all that move pixels are one affine map, all that map levels one look-up in tables, and all that blend
with another image one blend. The pixels are those of ``pillow_ops`` to the bit: every sum and product is the same one. On a CPU
``pillow_ops`` is faster, because there a translation needs no more than what a translation takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from jpegcurr.training.augment.pillow_ops import SLACK, Floats, Interpolation, operate

if TYPE_CHECKING:
    from jpegcurr.training.augment.policies import Layer

Array = NDArray[Any]

_TABLES = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd")
_BLENDS = ("Color", "Contrast", "Sharpness", "Brightness")
_MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel")
_GREY = (19595, 38470, 7471)  # of Pillow's mode L, in 65536ths
_MOST_TAPS = 1 << 27  # of a cubic, 16 a pixel, at 20 bytes each: what is moved at a time


def apply_at_once(images: torch.Tensor, layer: Layer, fill: Sequence[int], interpolation: Interpolation) -> None:
    """Apply ``layer`` to uint8 ``images`` [b 3 h w] in place, as ``operate`` does for each of its operations."""
    tables, blends, moves = (_Samples(layer, names) for names in (_TABLES, _BLENDS, _MOVES))
    height, width = images.shape[2:]
    sides = np.array([float(width), height]).reshape(2, 1, 1)
    sent = _send(
        images.device,
        tabled=tables.numbers,
        blended=blends.numbers,
        moved=moves.numbers,
        one=np.array(1),
        maps=_maps_of(moves, height, width),
        middles=np.arange(max(height, width)) + 0.5,
        sides=sides,
        to_unit=2 / sides,
        last=(sides - 1).astype(np.int32),
        zero=np.array(0, np.int32),
        offsets=np.arange(-1, 3, dtype=np.int32).reshape(4, 1, 1, 1),
        brightest=np.array(255.0),
        levels=np.arange(256.0)[:, None],
        to_negative=np.array([[0, -1], [-1, 1]], np.float32).reshape(2, 2, 1, 1, 1, 1),
        to_other=np.array([[-1, 0], [1, -1]], np.float32).reshape(2, 2, 1, 1, 1, 1),
        factors=blends.amounts.astype(np.float32).reshape(-1, 1, 1, 1),
        grey=np.array(_GREY, np.int32).reshape(3, 1, 1),
        tables=_tables_of(tables),
        fill=np.array(fill, np.uint8).reshape(3, 1, 1),
    )
    if len(tables):
        _map_levels(images, tables, sent)
    if len(blends):
        _blend(images, blends, sent)
    most = max(_MOST_TAPS // (16 * height * width), 1)
    for first in range(0, len(moves), most):
        _move(images, slice(first, first + most), sent, interpolation)


class _Samples:
    """The samples of a layer that drew one of ``names``, in the order of these; ``numbers`` are their places in the batch."""

    def __init__(self, layer: Layer, names: tuple[str, ...]) -> None:
        rank = np.array([names.index(name) if name in names else -1 for name in layer.names] + [-1])  # the last is for none
        ranks = rank[layer.which]
        order = np.argsort(ranks, kind="stable")
        self.numbers: NDArray[np.int64] = order[np.searchsorted(ranks[order], 0) :]
        self.names, self.ranks, self.amounts = names, ranks[self.numbers], layer.amounts[self.numbers]

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, *names: str) -> slice:
        """Return where the samples of some neighbouring operations are; it is empty if none drew them."""
        first, last = self.names.index(names[0]), self.names.index(names[-1])
        start, stop = np.searchsorted(self.ranks, [first, last + 1]).tolist()
        return slice(start, stop)


_Sent = Mapping[str, torch.Tensor]


def _send(device: torch.device, **arrays: Array) -> _Sent:
    """Copy arrays to the device in one go, from page-locked memory, without waiting."""
    sizes = [-(-array.nbytes // 8) * 8 for array in arrays.values()]  # each starts at a multiple of eight bytes
    packed = torch.zeros(sum(sizes), dtype=torch.uint8)
    places = dict(zip(arrays, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    for name, array in arrays.items():
        packed.numpy()[places[name] : places[name] + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    sent = (packed if device.type == "meta" else packed.pin_memory()).to(device, non_blocking=True)
    return {
        name: sent[places[name] : places[name] + array.nbytes].view(torch.from_numpy(array.reshape(-1)).dtype).view(array.shape)
        for name, array in arrays.items()
    }


# Operations that map levels.


def _tables_of(samples: _Samples) -> NDArray[np.uint8]:
    """Return the table of every sample, [k 256]; levels as they are where it depends on the image."""
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 1, 256)
    amounts = torch.from_numpy(samples.amounts)
    tables = levels.flatten().repeat(len(samples), 1)
    for name in _TABLES[2:]:
        part = samples.part(name)
        tables[part] = operate(name, levels.expand(len(amounts[part]), 3, 1, 256), amounts[part])[:, 0, 0]
    return tables.numpy()


def _map_levels(images: torch.Tensor, samples: _Samples, sent: _Sent) -> None:
    """Replace every level by its entry in a table, of which each sample has one for each channel: [k 256 3]."""
    rows, numbers = images.permute(0, 2, 3, 1), sent["tabled"]
    levels = rows[numbers].flatten(1, 2).long()
    tables = sent["tables"][..., None].repeat(1, 1, 3)
    dependent, contrast, equal = (
        samples.part("AutoContrast", "Equalize"),
        samples.part("AutoContrast"),
        samples.part("Equalize"),
    )
    if dependent.stop:
        darkest, brightest = torch.aminmax(levels[dependent], dim=1, keepdim=True)
        if contrast.stop:
            _stretch(tables[contrast], darkest[contrast], brightest[contrast], sent)
        if equal.stop > equal.start:
            _equalize(tables[equal], levels[equal], brightest[equal], sent)
    rows[numbers] = tables.gather(1, levels).view(-1, *rows.shape[1:])


def _stretch(tables: torch.Tensor, darkest: torch.Tensor, brightest: torch.Tensor, sent: _Sent) -> None:
    """Write the tables of AutoContrast."""
    span = brightest - darkest
    scale = sent["brightest"] / span  # a number of Python's divided by a tensor is rounded otherwise
    stretched = (sent["levels"] * scale).sub_(darkest * scale).clamp_(0, 255)
    tables.copy_(torch.where(span > 0, stretched, sent["levels"]))


def _equalize(tables: torch.Tensor, levels: torch.Tensor, brightest: torch.Tensor, sent: _Sent) -> None:
    """Write the tables of Equalize; they hold the levels themselves."""
    counts = levels.new_zeros(len(levels), 257, 3)  # the first is empty, so that sums are of the levels below
    counts[:, 1:].scatter_add_(1, levels, sent["one"].expand_as(levels))
    step = (levels.shape[1] - counts[:, 1:].gather(1, brightest)) // 255
    equal = (step // 2 + counts.cumsum(1)[:, :256]) // step.clamp(min=1)
    tables.copy_(torch.where(step > 0, equal.clamp_(max=255), tables))


# Operations that blend.


def _blend(images: torch.Tensor, samples: _Samples, sent: _Sent) -> None:
    """Blend every sample with an image: its grey, its mean grey, a smooth one, or black."""
    selected = images[sent["blended"]]
    start = torch.zeros_like(selected, dtype=torch.float32)
    color, contrast, sharp = (samples.part(name) for name in ("Color", "Contrast", "Sharpness"))
    if contrast.stop:
        weighted = selected[: contrast.stop] * sent["grey"]
        grey = (weighted.sum(1, keepdim=True, dtype=torch.int32) + 0x8000) >> 16
        start[color] = grey[color]
        if contrast.stop > contrast.start:
            pixels = grey.shape[2] * grey.shape[3]
            start[contrast] = (grey[contrast].sum((1, 2, 3), keepdim=True) + pixels // 2) // pixels
    if sharp.stop > sharp.start:
        start[sharp] = selected[sharp]
        _smooth(start[sharp])
    change = (selected - start).mul_(sent["factors"])
    images[sent["blended"]] = start.add_(change).clamp_(0, 255).to(torch.uint8)


def _smooth(values: torch.Tensor) -> None:
    """Replace ``values`` [k 3 h w] by Pillow's SMOOTH of them, but for the edge. Sums of levels are exact in any order."""
    if min(values.shape[2:]) < 3:
        return
    nine = torch.nn.functional.avg_pool2d(values, 3, stride=1, divisor_override=1)
    total = nine.add_(values[:, :, 1:-1, 1:-1], alpha=4)
    values[:, :, 1:-1, 1:-1] = total.add_(6.5).div_(13).floor_()


# Operations that move pixels.


def _rotate(amounts: Floats, height: int, width: int) -> Sequence[Floats | float]:
    angle = torch.deg2rad(torch.from_numpy(amounts))
    cos, sin = angle.cos().numpy(), angle.sin().numpy()
    return width / 2, height / 2, cos, sin, -sin, cos, width / 2, height / 2


# Given amounts, height and width: the centre x y, what x adds to places x y, what y adds to them, and what is added to both.
_AFFINE: Mapping[str, Callable[[Floats, int, int], Sequence[Floats | float]]] = {
    "Rotate": _rotate,
    "ShearX": lambda slope, _height, _width: (0, 0, 1, 0, slope, 1, 0, 0),
    "ShearY": lambda slope, _height, _width: (0, 0, 1, slope, 0, 1, 0, 0),
    "TranslateX": lambda pixels, _height, _width: (0, 0, 1, 0, 0, 1, pixels, 0),
    "TranslateY": lambda pixels, _height, _width: (0, 0, 1, 0, 0, 1, 0, pixels),
    "TranslateXRel": lambda share, _height, width: (0, 0, 1, 0, 0, 1, share * width, 0),
    "TranslateYRel": lambda share, height, _width: (0, 0, 1, 0, 0, 1, 0, share * height),
}


def _maps_of(samples: _Samples, height: int, width: int) -> Floats:
    """Return the affine map of every sample, float64 [k 8], as ``_AFFINE`` orders its numbers."""
    maps = np.zeros((len(samples), 8))
    for name in _MOVES:
        part = samples.part(name)
        for column, values in enumerate(_AFFINE[name](samples.amounts[part], height, width)):
            maps[part, column] = values
    return maps


def _move(images: torch.Tensor, part: slice, sent: _Sent, interpolation: Interpolation) -> None:
    """Let the pixels of some samples come from the places that their maps give; see ``pillow_ops``."""
    height, width = images.shape[2:]
    numbers = sent["moved"][part]
    centre, of_x, of_y, shift = sent["maps"][part].view(-1, 4, 2, 1, 1).unbind(1)
    x, y = sent["middles"][:width] - centre[:, :1], sent["middles"][:height, None] - centre[:, 1:]
    places = (of_x * x + of_y * y).add_(shift)  # [k 2 h w], x first
    planes = images[numbers].contiguous()
    if interpolation == "bicubic":
        moved = _sample_cubic(planes, places, sent)
    else:
        scaled = (places * sent["to_unit"]).sub_(1).permute(0, 2, 3, 1).float()
        moved = torch.nn.functional.grid_sample(planes.float(), scaled, "bilinear", "border", align_corners=False)
    inside = ((places >= 0) & (places < sent["sides"])).all(1, keepdim=True)
    levels = moved.add_(SLACK[interpolation]).clamp_(0, 255).to(torch.uint8)
    images[numbers] = torch.where(inside, levels, sent["fill"])


def _sample_cubic(planes: torch.Tensor, places: torch.Tensor, sent: _Sent) -> torch.Tensor:
    """Return uint8 ``planes`` [k 3 h w] at ``places`` [k 2 h w] by the cubic of ``pillow_ops``, float32."""
    count, channels, height, width = planes.shape
    exact = places - 0.5
    before = exact.floor()
    by_x, by_y = _cubic_weights(exact.sub_(before).float(), sent)
    pixels = (before.int()[:, None] + sent["offsets"]).clamp_(sent["zero"], sent["last"])  # [k 4 2 h w]
    index = torch.empty(count, 4, 4, height, width, dtype=torch.int64, device=planes.device)  # rows first
    torch.add((pixels[:, :, 1] * width)[:, :, None], pixels[:, None, :, 0], out=index)
    taps = planes.flatten(2).gather(2, index.view(count, 1, -1).expand(-1, channels, -1)).view(count, channels, 4, 4, -1)
    lines = taps[:, :, :, 0] * by_x[0][:, :, None]
    for number in (1, 2, 3):
        lines.addcmul_(taps[:, :, :, number], by_x[number][:, :, None])
    sampled = lines[:, :, 0] * by_y[0]
    for number in (1, 2, 3):
        sampled.addcmul_(lines[:, :, number], by_y[number])
    return sampled.view(planes.shape)


def _cubic_weights(right: torch.Tensor, sent: _Sent) -> Iterator[list[torch.Tensor]]:
    """Yield the weights of the four pixels along x and along y, [k 1 h*w], where a place is ``right`` [k 2 h w] of the second.

    The outer weights are -r l^2 and -l r^2, the inner ones 1 - r^2 (1 + l) and 1 - l^2 (1 + r), with l = 1 - r.
    """
    (add, times), (other_add, other_times) = sent["to_negative"], sent["to_other"]
    negative, other = torch.addcmul(add, times, right), torch.addcmul(other_add, other_times, right)  # -r and -l, -l and -r
    outer = negative * other**2
    inner = 1 - negative**2 * (1 - other)
    for axis in range(2):
        yield [weight[:, axis].flatten(1)[:, None] for weight in (outer[0], inner[0], inner[1], outer[1])]
