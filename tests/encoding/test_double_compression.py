"""Traces of an earlier compression: planted ones are found, with their quality, and photographs without one show none."""

from io import BytesIO

import pytest
from PIL import Image
from samples import jpeg, photograph

from jpegcurr.encoding.jpeg.double_compression import Trace, find_moved_trace, find_trace
from jpegcurr.encoding.jpeg.quantisation import libjpeg_tables
from jpegcurr.encoding.survey import read_facts

NAMES = ("astronaut", "cat", "coffee", "grass")  # PNGs


def picture(name: str) -> Image.Image:
    return photograph(name).crop((35, 41, 291, 233))


def trace(image: Image.Image, *qualities: int, subsampling: str = "4:2:0") -> Trace:
    """Compress an image at each quality in turn, and look for the last but one."""
    for quality in qualities:
        data = jpeg(image, quality=quality, subsampling=subsampling)
        image = Image.open(BytesIO(data))
    found = read_facts(data, traces=True).trace
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_was_compressed_once_shows_no_trace(name: str) -> None:
    for quality in (40, 75, 85, 95, 100):
        assert not trace(picture(name), quality).detected
    assert not trace(picture(name), 75, 75).detected, "the same tables again leave every coefficient as it is"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("earlier", "later"), [(75, 95), (50, 90), (85, 92), (60, 75)])
def test_what_was_compressed_before_is_detected_with_its_quality(name: str, earlier: int, later: int) -> None:
    found = trace(picture(name), earlier, later, subsampling="4:4:4" if earlier == 85 else "4:2:0")
    assert found.detected
    assert found.lowest <= earlier <= found.highest
    assert found.highest - found.lowest <= 4


def test_another_grid_hides_an_earlier_compression() -> None:
    once = Image.open(BytesIO(jpeg(picture("coffee"), quality=60)))
    assert not trace(once.resize((170, 128), Image.Resampling.BICUBIC), 95).detected
    assert not trace(once.crop((3, 5, 256, 192)), 95).detected
    assert trace(once.crop((8, 16, 256, 192)), 95).detected


def test_a_crop_in_between_is_told_with_its_place() -> None:
    once = Image.open(BytesIO(jpeg(picture("coffee"), quality=75))).crop((3, 5, 195, 149))
    moved = find_moved_trace(jpeg(once, quality=95), libjpeg_tables(95)[0])
    assert moved is not None
    assert (moved.detected, moved.offset) == (True, (5, 3))
    assert moved.lowest <= 75 <= moved.highest
    never = find_moved_trace(jpeg(picture("coffee").crop((3, 5, 195, 149)), quality=90), libjpeg_tables(90)[0])
    assert never is not None
    assert not never.detected
    assert find_moved_trace(jpeg(once, quality=70), libjpeg_tables(70)[0]) is None, "the later steps are too coarse"


def test_of_few_coefficients_nothing_is_told() -> None:
    table = libjpeg_tables(75)[0]
    assert find_trace(jpeg(Image.new("RGB", (256, 256), "navy"), quality=75), table) is None
    assert find_trace(jpeg(picture("cat").crop((0, 0, 9, 9)), quality=75), table) is None
    assert find_trace(jpeg(picture("cat"), quality=75)[:-400], table) is None, "cut off"
    assert read_facts(jpeg(picture("cat").convert("CMYK"), quality=75), traces=True).sampled is False
