"""The compiled resize compared with Pillow and torch, pixel for pixel."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import photograph

from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.training.data.transforms import resize_centre

pytestmark = pytest.mark.compiled
Box = tuple[int, int, int, int]  # top, left, height, width
Size = tuple[int, int]  # height, width

FILTERS = {Image.Resampling.BILINEAR: 1, Image.Resampling.BICUBIC: 2}

# Many lengths are tiny, which exercises the ends of rows and numbers of weights that are no multiple of a vector.
LENGTHS = st.one_of(st.integers(1, 9), st.integers(1, 300))
BOTH_FILTERS = pytest.mark.parametrize("kind", list(FILTERS), ids=lambda kind: kind.name)


def ours(source: Pixels, box: Box, size: Size, kind: Image.Resampling) -> Pixels:
    """Return the crop resized by our code, and check that the memory around the result is unchanged."""
    from jpegcurr.training.data.resample_kernel import resample

    around = np.full(3 * size[0] * size[1] + 64, 119, np.uint8)
    resample(source, *box, around[32:-32].reshape(*size, 3), FILTERS[kind])
    assert (around[:32] == 119).all()
    assert (around[-32:] == 119).all()
    return around[32:-32].reshape(*size, 3)


def theirs(source: Pixels, box: Box, size: Size, kind: Image.Resampling) -> Pixels:
    """Return the crop resized by torch (bilinear), or by Pillow, in two steps so that every version resizes rows first."""
    top, left, height, width = box
    part = np.ascontiguousarray(source[top : top + height, left : left + width])
    if kind == Image.Resampling.BILINEAR:
        batch = torch.from_numpy(part)[None].permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(batch, size, mode="bilinear", antialias=True)
        return resized[0].permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(part).resize((size[1], height), kind).resize(size[::-1], kind))


def noise(height: int, width: int, seed: int = 0, saturated: bool = False) -> Pixels:
    """Return random levels, or only black and white: there the bicubic filter overshoots and is clipped in both passes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return (pixels > 127) * np.uint8(255) if saturated else pixels


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Size, Box]:
    """Draw the size of an image, and a box in it."""
    size, starts, lengths = [], [], []
    for _ in range(2):
        length = draw(LENGTHS)
        start = draw(st.integers(0, 9))
        size.append(start + length + draw(st.integers(0, 9)))
        starts.append(start)
        lengths.append(length)
    return (size[0], size[1]), (starts[0], starts[1], lengths[0], lengths[1])


@BOTH_FILTERS
@given(where=boxes(), size=st.tuples(LENGTHS, LENGTHS), saturated=st.booleans(), seed=st.integers(0, 2**32 - 1))
@example(where=((300, 1), (0, 0, 300, 1)), size=(1, 300), saturated=True, seed=0)
@example(where=((1, 300), (0, 0, 1, 300)), size=(300, 1), saturated=True, seed=0)
@example(where=((100, 60), (0, 0, 97, 60)), size=(64, 44), saturated=True, seed=0)  # Pillow 13 resizes columns first here
@settings(max_examples=400, deadline=None)
def test_pixels_are_theirs_to_the_bit(
    kind: Image.Resampling, where: tuple[Size, Box], size: Size, saturated: bool, seed: int
) -> None:
    whole, box = where
    source = noise(*whole, seed, saturated)
    assert np.array_equal(ours(source, box, size, kind), theirs(source, box, size, kind=kind))


@given(
    where=boxes(),
    share=st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)),
    saturated=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(where=((300, 200), (0, 0, 300, 200)), share=(0.5, 0.25), saturated=True, seed=0)
@settings(max_examples=300, deadline=None)
def test_area_is_that_of_opencv_to_a_level_where_no_side_grows(
    where: tuple[Size, Box], share: tuple[float, float], saturated: bool, seed: int
) -> None:
    from jpegcurr.training.data.resample_kernel import AREA, resample

    whole, (top, left, height, width) = where
    source = noise(*whole, seed, saturated)
    out = np.empty((max(1, int(share[0] * height)), max(1, int(share[1] * width)), 3), np.uint8)
    resample(source, top, left, height, width, out, AREA)
    part = source[top : top + height, left : left + width]
    expected = cv2.resize(part, out.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert abs(out.astype(int) - expected).max() <= 1


@given(where=boxes(), size=st.tuples(LENGTHS, LENGTHS), saturated=st.booleans(), seed=st.integers(0, 2**32 - 1))
@example(where=((1, 1), (0, 0, 1, 1)), size=(1, 2), saturated=True, seed=0)
@example(where=((300, 5), (0, 0, 300, 5)), size=(9, 6), saturated=False, seed=0)  # one side grows, the other shrinks
@settings(max_examples=300, deadline=None)
def test_area_is_that_of_opencv_to_the_bit_where_a_side_grows(
    where: tuple[Size, Box], size: Size, saturated: bool, seed: int
) -> None:
    from jpegcurr.training.data.resample_kernel import AREA, resample

    whole, (top, left, height, width) = where
    assume(size[0] > height or size[1] > width)
    source = noise(*whole, seed, saturated)
    around = np.full(3 * size[0] * size[1] + 64, 119, np.uint8)
    out = around[32:-32].reshape(*size, 3)
    resample(source, top, left, height, width, out, AREA)
    part = source[top : top + height, left : left + width]
    assert np.array_equal(out, cv2.resize(part, size[::-1], interpolation=cv2.INTER_AREA))
    assert (around[:32] == 119).all()
    assert (around[-32:] == 119).all()


@BOTH_FILTERS
def test_every_pair_of_small_lengths_has_their_weights(kind: Image.Resampling) -> None:
    source = noise(1, 70)
    for length in range(1, 70):
        for size in range(1, 70):
            box = (0, 0, 1, length)
            expected = theirs(source, box, (1, size), kind=kind)
            assert np.array_equal(ours(source, box, (1, size), kind), expected), (length, size)


@BOTH_FILTERS
def test_a_size_that_does_not_change_changes_no_pixel(kind: Image.Resampling) -> None:
    source = noise(50, 70, saturated=True)
    assert np.array_equal(ours(source, (3, 5, 40, 60), (40, 60), kind), source[3:43, 5:65])


@BOTH_FILTERS
def test_pixels_outside_the_crop_have_no_effect(kind: Image.Resampling) -> None:
    source = np.asarray(photograph("cat").crop((0, 0, 90, 120))).copy()
    for box in ((0, 0, 100, 70), (20, 20, 100, 70), (11, 7, 100, 71)):
        inside = np.zeros(source.shape, bool)
        inside[box[0] : box[0] + box[2], box[1] : box[1] + box[3]] = True
        first, second = (ours(np.where(inside, source, np.uint8(level)), box, (32, 48), kind) for level in (0, 255))
        assert np.array_equal(first, second)


@pytest.mark.filterwarnings("ignore")  # numba warns about its threading layers
def test_compiled_code_with_fastmath_and_threads_gets_the_same() -> None:
    """Compile with the options of FFCV's kernels, for the types of its fields."""
    from numba import njit, prange

    from jpegcurr.training.data.resample_kernel import BICUBIC, resample

    @njit(parallel=True, fastmath=True, nogil=True, error_model="numpy")
    def batch(source: Pixels, boxes: np.ndarray, out: Pixels) -> None:
        for index in prange(len(boxes)):
            top, left, height, width = boxes[index]
            resample(source, top, left, height, width, out[index], BICUBIC)

    source = np.asarray(photograph("cat"))
    boxes = np.array([(index, 2 * index, 150 - index, 90 + index) for index in range(40)], np.uint32)
    out = np.empty((40, 64, 64, 3), np.uint8)
    batch(source, boxes, out)
    for box, image in zip(boxes.tolist(), out, strict=True):
        assert np.array_equal(image, ours(source, tuple(box), (64, 64), Image.Resampling.BICUBIC))


def centre_of_ours(source: Pixels, box: Box, to: Size, size: int, kind: Image.Resampling) -> Pixels:
    """Return what ``resample_centre`` gives, and check that the memory around the result is unchanged."""
    from jpegcurr.training.data.resample_kernel import resample_centre

    around = np.full(3 * size * size + 64, 119, np.uint8)
    resample_centre(source, *box, *to, around[32:-32].reshape(size, size, 3), FILTERS[kind])
    assert (around[:32] == 119).all()
    assert (around[-32:] == 119).all()
    return around[32:-32].reshape(size, size, 3)


@BOTH_FILTERS
@given(
    where=boxes(),
    size=LENGTHS,
    more=st.tuples(st.integers(0, 40), st.integers(0, 40)),
    saturated=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
@example(where=((1, 300), (0, 0, 1, 300)), size=1, more=(0, 1), saturated=True, seed=0)
@example(where=((300, 2), (0, 0, 300, 2)), size=9, more=(5, 0), saturated=True, seed=0)  # columns first
@example(where=((309, 205), (9, 5, 300, 200)), size=98, more=(2, 30), saturated=True, seed=0)  # columns first
@example(where=((205, 309), (5, 9, 200, 300)), size=98, more=(2, 30), saturated=True, seed=0)
@settings(max_examples=300, deadline=None)
def test_the_centre_of_a_resized_crop_is_that_of_the_plain_loader_to_the_bit(
    kind: Image.Resampling, where: tuple[Size, Box], size: int, more: Size, saturated: bool, seed: int
) -> None:
    whole, box = where
    top, left, height, width = box
    source, to = noise(*whole, seed, saturated), (size + more[0], size + more[1])
    expected = resize_centre(source[top : top + height, left : left + width], to, size, kind.name.lower())
    assert np.array_equal(centre_of_ours(source, box, to, size, kind), expected)
