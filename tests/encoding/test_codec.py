"""Re-encoding against Pillow, which is what people would otherwise use."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from samples import PHOTOGRAPHS, jpeg, photograph, scan

from jpegcurr.encoding.jpeg.codec import EncodeSpec, Resize, decode_rgb, encode_rgb, parse_quality, reencode, round_trip
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


def test_one_image_is_a_file_or_its_bytes_and_pillows_bytes_come_out() -> None:
    picture = photograph("cat").crop((0, 0, 91, 53))
    Path("cat.jpg").write_bytes(jpeg(picture, quality=92))
    pixels = decode_rgb("cat.jpg")
    assert np.array_equal(pixels, decode_rgb(Path("cat.jpg").read_bytes()))
    for quality, subsampling in ((1, "420"), (50, "444"), (100, "422")):
        data = encode_rgb(pixels, quality, subsampling)  # type: ignore[arg-type]
        layout = ":".join(subsampling)
        assert data == jpeg(Image.fromarray(pixels), quality=quality, subsampling=layout)
        assert np.array_equal(round_trip(pixels, quality, subsampling), decode_rgb(data))  # type: ignore[arg-type]
    assert encode_rgb(pixels[:, ::-1], 50) == jpeg(Image.fromarray(pixels[:, ::-1]), quality=50)
    assert (
        encode_rgb(pixels[..., 0], 50) == encode_rgb(pixels[..., :1], 50) == jpeg(Image.fromarray(pixels[..., 0]), quality=50)
    )
    assert reencode("cat.jpg", [50])[0].data == encode_rgb(pixels, 50)


def test_what_is_no_image_or_quality_is_a_sentence() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    Path("text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.jpg: not an image"):
        decode_rgb(Path("text.jpg"))
    with pytest.raises(ImageError, match=r"nowhere\.jpg: No such file"):
        reencode("nowhere.jpg", [50])
    for quality in (0, 101, 50.5, True, "50"):
        with pytest.raises(UsageError, match="is not a JPEG quality"):
            encode_rgb(pixels, quality)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Pixels have no source"):
        encode_rgb(pixels, "source")  # type: ignore[arg-type]
    for array in (pixels.astype(np.float32), pixels[..., :2], pixels[:0]):
        with pytest.raises(UsageError, match="is no image"):
            encode_rgb(array, 50)
    with pytest.raises(UsageError, match="subsampling '411' is not known"):
        EncodeSpec(50, "411")  # type: ignore[arg-type]
