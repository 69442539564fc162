"""Re-encoding against Pillow, which is what people would otherwise use."""

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import PHOTOGRAPHS, jpeg, photograph, scan

from jpegcurr.encoding.jpeg.codec import EncodeSpec, Resize, decode_rgb, parse_quality, reencode
from jpegcurr.errors import ImageError, UsageError


def pillow(data: bytes, quality: int) -> bytes:
    with Image.open(BytesIO(data)) as image:
        return jpeg(image.convert("RGB"), quality=quality)


@given(
    name=st.sampled_from(sorted(PHOTOGRAPHS)),
    quality=st.integers(1, 100),
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    layout=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "grey"]),
    progressive=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_entropy_coded_bytes_are_those_of_pillow(
    name: str, quality: int, width: int, height: int, layout: str, progressive: bool
) -> None:
    crop = photograph(name).crop((40, 40, 40 + width, 40 + height))
    if layout == "grey":
        data = jpeg(crop.convert("L"), quality=90, progressive=progressive)
    else:
        data = jpeg(crop, quality=96, subsampling=layout, progressive=progressive)
    (encoded,) = reencode(data, [EncodeSpec(quality)])
    assert scan(encoded.data) == scan(pillow(data, quality))
    assert (encoded.width, encoded.height, encoded.copied) == (width, height, False)


def test_one_decode_gives_what_separate_passes_give() -> None:
    data = jpeg(photograph("cat"), quality=95)
    specs = [EncodeSpec(75), EncodeSpec("source"), EncodeSpec(10)]
    assert [encoded.data for encoded in reencode(data, specs)] == [reencode(data, [spec])[0].data for spec in specs]


def test_outputs_of_several_sizes_do_not_disturb_each_other() -> None:
    data = jpeg(photograph("astronaut"), quality=95)
    specs = [
        EncodeSpec(50),
        EncodeSpec(50, resize=Resize("max", 32)),
        EncodeSpec(30),
        EncodeSpec(30, resize=Resize("short", 60)),
    ]
    assert [encoded.data for encoded in reencode(data, specs)] == [reencode(data, [spec])[0].data for spec in specs]


def test_decoded_pixels_are_the_callers_own() -> None:
    first = decode_rgb(jpeg(photograph("cat")))
    kept = first.copy()
    decode_rgb(jpeg(photograph("coffee")))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("text", ["0", "101", "-5", "abc", "", "50.5", "clean"])
def test_a_wrong_quality_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="from 1 to 100, or source"):
        parse_quality(text)


def test_right_qualities_are_read() -> None:
    assert [parse_quality(text) for text in ("1", "50", "100", "source")] == [1, 50, 100, "source"]


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF    WEBP", b"BM", b"II*\0"]


@given(start=st.sampled_from(MAGIC), noise=st.binary(max_size=200))
def test_noise_raises_nothing_but_an_image_error(start: bytes, noise: bytes) -> None:
    with suppress(ImageError):
        reencode(start + noise, [EncodeSpec(50)])
