"""Re-encoding against Pillow, which is what people would otherwise use."""

from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from samples import PHOTOGRAPHS, jpeg, photograph

from jpegcurr.encoding.codec import EncodeSpec, Resize, decode_rgb, parse_quality, reencode
from jpegcurr.errors import ImageError, UsageError

SOURCE = EncodeSpec("source")


def scan(data: bytes) -> bytes:
    """The entropy-coded data: what follows the start-of-scan header of a baseline JPEG."""
    start = data.index(b"\xff\xda")
    return data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


def pillow(data: bytes, quality: int) -> bytes:
    with Image.open(BytesIO(data)) as image:
        return jpeg(ImageOps.exif_transpose(image).convert("RGB"), quality=quality)


def rgb(data: bytes) -> np.ndarray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


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
    specs = [EncodeSpec(75), SOURCE, EncodeSpec(10)]
    assert [each.data for each in reencode(data, specs)] == [reencode(data, [spec])[0].data for spec in specs]


def test_outputs_of_several_sizes_do_not_disturb_each_other() -> None:
    data = jpeg(photograph("astronaut"), quality=95)
    specs = [
        EncodeSpec(50),
        EncodeSpec(50, resize=Resize("max", 32)),
        EncodeSpec(30),
        EncodeSpec(30, resize=Resize("short", 60)),
    ]
    assert [each.data for each in reencode(data, specs)] == [reencode(data, [spec])[0].data for spec in specs]


def test_source_keeps_the_original_bytes_of_a_plain_jpeg() -> None:
    for data in (jpeg(photograph("cat"), quality=80), jpeg(photograph("cat").convert("L")), jpeg(photograph("cat")) + b"junk"):
        (encoded,) = reencode(data, [SOURCE])
        assert encoded.copied
        assert encoded.data == data


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda image: jpeg(image.convert("CMYK"), quality=95), id="CMYK"),
        pytest.param(png, id="PNG"),
        pytest.param(lambda image: png(image.convert("RGBA")), id="alpha"),
    ],
)
def test_source_becomes_quality_95_where_a_jpeg_decoder_would_fail(make) -> None:
    data = make(photograph("cat"))
    (encoded,) = reencode(data, [SOURCE])
    assert not encoded.copied
    expected = jpeg(Image.fromarray(rgb(data)), quality=95, subsampling="4:4:4")
    assert scan(encoded.data) == scan(expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_images_are_stored_upright_at_every_quality(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(photograph("coffee"), quality=95, exif=exif)
    source, half = reencode(data, [SOURCE, EncodeSpec(50)])
    assert scan(half.data) == scan(pillow(data, 50))
    assert source.copied == (orientation == 1)
    assert (source.width, source.height) == (half.width, half.height) == ((400, 600) if orientation > 4 else (600, 400))


def test_a_missing_end_marker_is_not_passed_through() -> None:
    data = jpeg(photograph("cat"), quality=90)
    assert data.endswith(b"\xff\xd9")
    with pytest.raises(ImageError, match="truncated"):
        reencode(data[: len(data) // 2], [SOURCE])


@pytest.mark.parametrize("data", [b"", b"no image at all", b"\xff\xd8\xff", jpeg(Image.new("RGB", (8, 8)))[:100]])
def test_what_is_no_image_is_an_image_error(data: bytes) -> None:
    for specs in ([SOURCE], [EncodeSpec(50)]):
        with pytest.raises(ImageError):
            reencode(data, specs)


def test_decoding_equals_pillow_bit_for_bit() -> None:
    for options in ({"quality": 50}, {"quality": 96, "subsampling": "4:4:4"}, {"progressive": True}):
        data = jpeg(photograph("astronaut"), **options)
        assert np.array_equal(decode_rgb(data), rgb(data))


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


def test_an_exif_block_that_cannot_be_read_says_nothing() -> None:
    data = jpeg(photograph("cat"), quality=90, dpi=(72, 72), exif=b"Exif\0\0garbage")
    source, half = reencode(data, [SOURCE, EncodeSpec(50)])
    assert source.copied
    (expected,) = reencode(jpeg(photograph("cat"), quality=90), [EncodeSpec(50)])
    assert scan(half.data) == scan(expected.data)


MAGIC = [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF    WEBP", b"BM", b"II*\0"]


@given(start=st.sampled_from(MAGIC), noise=st.binary(max_size=200))
def test_noise_raises_nothing_but_an_image_error(start: bytes, noise: bytes) -> None:
    with suppress(ImageError):
        reencode(start + noise, [EncodeSpec(50)])
