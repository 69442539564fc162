"""``jpegcurr.jpeg``: Pillow's round trip to the bit by arithmetic on tensors, its gradient, and its devices."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import jpegcurr
from jpegcurr.errors import UsageError
from jpegcurr.training.augment import exact_jpeg
from jpegcurr.training.augment.exact_jpeg import jpeg

LAYOUTS = {"420": "4:2:0", "422": "4:2:2", "444": "4:4:4"}
RNG = torch.Generator().manual_seed(0)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Let every test draw the same numbers, whichever ran before it."""
    RNG.manual_seed(0)


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=RNG, dtype=torch.uint8)


def by_pillow(image: torch.Tensor, quality: int, subsampling: str = "420") -> torch.Tensor:
    """Return what Pillow shows of uint8 [3|1 h w] that it has saved."""
    file = BytesIO()
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy().squeeze(2) if len(image) == 1 else image.permute(1, 2, 0))
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=LAYOUTS[subsampling])
    with Image.open(file) as shown:
        return torch.from_numpy(np.array(shown).reshape(*image.shape[1:], len(image))).permute(2, 0, 1)


def pictures(channels: int, height: int, width: int) -> torch.Tensor:
    """Return four images: noise, extreme levels, smooth shades with an edge, and a saturated colour."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    shades = torch.stack([3 * rows + columns, 7 * columns - rows, 255 - 2 * rows - 3 * columns]).clamp(0, 255).to(torch.uint8)
    shades[:, :, width // 2 :] ^= 96
    color = torch.tensor([255, 0, 10], dtype=torch.uint8)[:, None, None].expand(3, height, width)
    extremes = 255 * (noise(3, height, width) & 1)
    return torch.stack([noise(3, height, width), extremes, shades, color])[:, :channels]


@settings(max_examples=50, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    qualities=st.lists(st.integers(1, 100), min_size=4, max_size=4),
    channels=st.sampled_from([1, 3]),
    subsampling=st.sampled_from(sorted(LAYOUTS)),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_the_pixels_are_pillows(
    height: int, width: int, qualities: list[int], channels: int, subsampling: Any, layout: torch.memory_format
) -> None:
    images = pictures(channels, height, width).contiguous(memory_format=layout)
    shown = jpeg(images, torch.tensor(qualities), subsampling=subsampling)
    for before, after, quality in zip(images, shown, qualities, strict=True):
        assert torch.equal(after, by_pillow(before, quality, subsampling))


def test_every_quality_of_one_batch_is_pillows_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(3, 24, 40).repeat(25, 1, 1, 1)
    expected = torch.stack([by_pillow(image, quality) for quality, image in enumerate(images, 1)])
    assert torch.equal(jpeg(images, torch.arange(1, 101)), expected)
    sizes = []
    whole = exact_jpeg._round_trip
    monkeypatch.setattr(exact_jpeg, "_CHUNK", {"cpu": 7 * 24 * 40})
    monkeypatch.setattr(exact_jpeg, "_round_trip", lambda part, *rest: sizes.append(len(part)) or whole(part, *rest))
    assert torch.equal(jpegcurr.jpeg(images, torch.arange(1, 101, dtype=torch.uint8)), expected)
    assert sizes == [7] * 14 + [2]
    assert torch.equal(jpeg(images, 30)[29], expected[29])
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert torch.equal(jpeg(images[29], 30), expected[29])
    finally:
        torch.set_default_dtype(torch.float32)
    assert jpeg(images[:0], 30).shape == (0, 3, 24, 40)


def test_it_is_one_graph_which_refuses_a_quality_that_is_none() -> None:
    compiled = torch.compile(jpeg, fullgraph=True, backend="eager")
    images, qualities = pictures(3, 17, 22), torch.tensor([1, 50, 75, 100])
    assert torch.equal(compiled(images, qualities), jpeg(images, qualities))
    with pytest.raises(RuntimeError, match="not from 1 to 100"):
        compiled(images, torch.tensor([1, 50, 75, 101]))


def test_nothing_leaves_the_device_or_waits_for_it() -> None:
    """A tensor on ``meta`` has no values, so that whatever reads them fails."""
    images = torch.empty(2, 3, 17, 22, dtype=torch.uint8, device="meta")
    for shown in (jpeg(images, torch.tensor([30, 50])), jpegcurr.JPEG((30, 50))(images), jpeg(images, 50, subsampling="422")):
        assert (shown.device.type, shown.shape, shown.dtype) == ("meta", images.shape, torch.uint8)


@pytest.mark.parametrize("subsampling", sorted(LAYOUTS))
@pytest.mark.parametrize("size", [(16, 24), (13, 19), (5, 3)])
def test_the_gradient_is_that_of_the_steps_without_their_rounding(subsampling: Any, size: tuple[int, int]) -> None:
    images = (pictures(3, *size)[2:3] // 4 + 96).double()  # far from where levels are clamped
    leaf = images.clone().requires_grad_()
    shown = jpeg(leaf, 100, subsampling=subsampling, gradient="straight-through")
    assert torch.equal(shown.detach(), jpeg(images.to(torch.uint8), 100, subsampling=subsampling).double())
    weights = torch.randn(shown.shape, generator=RNG, dtype=torch.double)
    (gradient,) = torch.autograd.grad((shown * weights).sum(), leaf)
    # At quality 100 little is rounded, so differences of the real pixels show the gradient.
    change = torch.where(noise(*images.shape) < 128, -20.0, 20.0).double()
    moved = jpeg((images + change).to(torch.uint8), 100, subsampling=subsampling).double() - shown.detach()
    error = (moved * weights).sum() - (gradient * change).sum()
    assert error.abs() < 5 * weights.norm()  # where the gradient of the identity is about 14 wrong
    if subsampling == "444":
        assert torch.equal(gradient, weights)


def test_a_grey_image_has_the_gradient_of_the_identity() -> None:
    leaf = noise(2, 1, 9, 9).float().requires_grad_()
    jpeg(leaf, 10, gradient="straight-through").square().sum().backward()
    assert torch.equal(leaf.grad, 2 * jpeg(leaf.detach().to(torch.uint8), 10).float())  # type: ignore[arg-type]


IMAGES = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "quality", "options", "message"),
    [
        (IMAGES.numpy(), 50, {}, "takes a tensor, not ndarray"),
        (IMAGES.float(), 50, {}, r"takes uint8 .* not float32 \[2, 3, 8, 8\]"),
        (IMAGES, 50, {"gradient": "straight-through"}, "takes images of floating point .* not uint8"),
        (IMAGES[:, :2], 50, {}, r"not uint8 \[2, 2, 8, 8\]"),
        (IMAGES[..., :0], 50, {}, r"not uint8 \[2, 3, 8, 0\]"),
        (IMAGES, 0, {}, "quality 0 is not a JPEG quality"),
        (IMAGES, "source", {}, "'source' is none for pixels"),
        (IMAGES, torch.tensor([50, 101]), {}, "Qualities from 50 to 101 are not all from 1 to 100"),
        (IMAGES, torch.tensor([50, 60, 70]), {}, r"Qualities \[3\] do not fit 2 images"),
        (IMAGES, torch.tensor([50.5, 60]), {}, "torch.float32 are not whole numbers"),
        (IMAGES, 50, {"subsampling": "440"}, "subsampling '440' is not known. Give 420, 422, 444"),
        (IMAGES, 50, {"gradient": "ste"}, "gradient 'ste' is not known"),
    ],
)
def test_a_mistake_is_a_sentence(images: torch.Tensor, quality: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        jpeg(images, quality, **options)
