"""Images of more than 8 bits a sample: scaled by the depth that the file states, or refused with the reason."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from samples import encode_all

from jpegcurr.analysis.prediction.predict import read_image
from jpegcurr.encoding.beton.manifest import read_items
from jpegcurr.encoding.beton.pixels import read_pixels
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg import pillow
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.errors import ImageError

WIDTH, HEIGHT = 37, 20  # odd, so that rows of packed samples end within a byte


def ramp(bits: int, channels: int = 1) -> np.ndarray:
    """Values over the whole range of ``bits``, uint16 [h w c]."""
    values = np.linspace(0, 2**bits - 1, WIDTH * HEIGHT).round().astype(np.uint16).reshape(HEIGHT, WIDTH, 1)
    return np.concatenate([values, values[::-1], values[:, ::-1], values // 2][:channels], axis=2)


def packed(row: np.ndarray, bits: int) -> bytes:
    """Return one row's samples without gaps, the first in the highest bits."""
    text = "".join(f"{value:0{bits}b}" for value in row.ravel().tolist())
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def tiff(
    rows: list[bytes],
    bits: int,
    *,
    big: bool = False,
    photometric: int = 1,
    form: int = 1,
    channels: int = 1,
    planar: int = 1,
) -> bytes:
    """Return an uncompressed TIFF; ``form`` is the SampleFormat: 1 unsigned, 2 signed, 3 floating point."""
    order = ">" if big else "<"
    data = b"".join(rows)
    tags = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8 + 8), (277, channels)]
    tags += [(278, HEIGHT), (279, len(data)), (284, planar), (339, form)]
    if channels > 1:
        tags[2] = (258, 8)  # where the depths of all channels lie
    entries = b""
    for tag, value in tags:
        many = channels if tag == 258 else 1
        kind = "HHIHH" if many == 1 else "HHII"
        entries += struct.pack(order + kind, tag, 3, many, value, *([0] if many == 1 else []))
    depths = struct.pack(f"{order}4H", *[bits] * 4)
    ifd = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return struct.pack(order + "2sHI", b"MM" if big else b"II", 42, 16 + len(data)) + depths + data + ifd


def rows16(values: np.ndarray, order: str) -> list[bytes]:
    return [row.astype(f"{order}u2").tobytes() for row in values]


def pgm(maximum: int, *, plain: bool = False, channels: int = 1) -> bytes:
    values = ramp(16, channels).astype(np.uint32) * maximum // 65535
    head = f"P{(2 if plain else 5) + (channels == 3)} {WIDTH} {HEIGHT} {maximum}\n".encode()
    if plain:
        return head + " ".join(map(str, values.ravel().tolist())).encode()
    return head + values.astype(">u2" if maximum > 255 else "u1").tobytes()


def png(channels: int) -> bytes:
    return bytes(cv2.imencode(".png", ramp(16, channels))[1])


def jpeg2000() -> bytes:
    file = BytesIO()
    Image.fromarray(ramp(16)[:, :, 0]).save(file, "JPEG2000", irreversible=False)
    return file.getvalue()


def grey_alpha_png() -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    values = ramp(16, 2).astype(">u2")
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 4, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def grey(bits: int) -> np.ndarray:
    return np.repeat(ramp(bits) >> (bits - 8), 3, axis=2)


def colour(bits: int, *, bgr: bool = False) -> np.ndarray:
    return (ramp(bits, 3) >> (bits - 8))[:, :, :: -1 if bgr else 1]


# File, its RGB at 8 bits, and the largest difference: some readers of Pillow round where others cut.
SCALED: dict[str, tuple[Callable[[], bytes], Callable[[], np.ndarray], int]] = {
    "12.tif": (lambda: tiff([packed(row, 12) for row in ramp(12)], 12), lambda: grey(12), 0),
    "16.tif": (lambda: tiff(rows16(ramp(16), "<"), 16), lambda: grey(16), 0),
    "16 big.tif": (lambda: tiff(rows16(ramp(16), ">"), 16, big=True), lambda: grey(16), 0),
    "16 white is zero.tif": (lambda: tiff(rows16(ramp(16), "<"), 16, photometric=0), lambda: 255 - grey(16), 0),
    "16 colour.tif": (lambda: tiff(rows16(ramp(16, 3), "<"), 16, photometric=2, channels=3), lambda: colour(16), 0),
    "16 colour big.tif": (
        lambda: tiff(rows16(ramp(16, 3), ">"), 16, big=True, photometric=2, channels=3),
        lambda: colour(16),
        0,
    ),
    "1023.pgm": (lambda: pgm(1023), lambda: grey(16), 1),
    "4095.pgm": (lambda: pgm(4095), lambda: grey(16), 1),
    "65535.pgm": (lambda: pgm(65535), lambda: grey(16), 0),
    "1023 as text.pgm": (lambda: pgm(1023, plain=True), lambda: grey(16), 1),
    "100.pgm": (lambda: pgm(100), lambda: grey(16), 3),
    "1023.ppm": (lambda: pgm(1023, channels=3), lambda: colour(16), 1),
    "65535.ppm": (lambda: pgm(65535, channels=3), lambda: colour(16), 1),
    "grey.png": (lambda: png(1), lambda: grey(16), 0),
    "colour.png": (lambda: png(3), lambda: colour(16, bgr=True), 0),
    "alpha.png": (lambda: png(4), lambda: colour(16, bgr=True), 0),
    "grey with alpha.png": (grey_alpha_png, lambda: grey(16), 0),
    "grey.jp2": (jpeg2000, lambda: grey(16), 0),
}
# File, and the reason why it is refused.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "10.tif": (lambda: tiff([packed(row, 10) for row in ramp(10)], 10), "a TIFF with 10 bits per sample"),
    "14 big.tif": (lambda: tiff([packed(row, 14) for row in ramp(14)], 14, big=True), "a TIFF with 14 bits per sample"),
    "12 white is zero.tif": (
        lambda: tiff([packed(row, 12) for row in ramp(12)], 12, photometric=0),
        "a TIFF with 12 bits per sample",
    ),
    "12 colour.tif": (
        lambda: tiff([packed(row, 12) for row in ramp(12, 3)], 12, photometric=2, channels=3),
        "a TIFF with 12 bits per sample",
    ),
    "signed 8.tif": (lambda: tiff([row.tobytes() for row in ramp(8).astype(np.uint8)], 8, form=2), "signed numbers"),
    "signed 16.tif": (lambda: tiff(rows16(ramp(16), "<"), 16, form=2), "signed numbers"),
    "32.tif": (lambda: tiff([row.astype("<u4").tobytes() for row in ramp(16)], 32), "mode I have no fixed range"),
    "float.tif": (lambda: tiff([row.astype("<f4").tobytes() for row in ramp(16)], 32, form=3), "mode F have no fixed range"),
    "16 planar.tif": (
        lambda: tiff(rows16(ramp(16, 3).transpose(2, 0, 1), "<"), 16, photometric=2, channels=3, planar=2),
        "each channel by itself",
    ),
    "16.fits": (lambda: fits(), "FITS pixels of mode I;16 have no fixed range"),
}


def fits() -> bytes:
    cards = {"SIMPLE": "T", "BITPIX": 16, "NAXIS": 2, "NAXIS1": WIDTH, "NAXIS2": HEIGHT}
    head = "".join(f"{name:8}= {value:>20}".ljust(80) for name, value in cards.items()) + "END".ljust(80)
    return head.ljust(2880).encode() + ramp(12).astype(">i2").tobytes()


@pytest.mark.parametrize("name", SCALED)
def test_deep_pixels_are_scaled_by_the_depth_that_the_file_states(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, make_expected, tolerance = SCALED[name]
    data, expected = make(), make_expected().astype(int)
    for strip in (1 << 20, 3 * WIDTH):  # as in a large image, which is converted in parts
        monkeypatch.setattr(pillow, "_STRIP", strip)
        rgb = decode_rgb(data).astype(int)
        assert np.abs(rgb - expected).max() <= tolerance
    assert rgb.min() < 5
    assert rgb.max() > 250, "neither black nor grey"
    (encoded,) = reencode(data, [EncodeSpec(100, "444")])
    assert np.abs(decode_rgb(encoded.data).astype(int) - expected).mean() < 3
    Path(name).write_bytes(data)
    assert np.array_equal(read_image(Path(name)), rgb), "as predict reads it"


@pytest.mark.parametrize("name", REFUSED)
def test_pixels_of_unknown_range_are_refused_with_the_reason(name: str) -> None:
    make, reason = REFUSED[name]
    data = make()
    Path(name).write_bytes(data)
    with pytest.raises(ImageError, match=reason):
        reencode(data, [EncodeSpec("source")])
    with pytest.raises(ImageError, match=reason):
        read_image(Path(name))


def test_in_a_folder_they_are_samples_or_rows_with_the_reason() -> None:
    Path("d/a").mkdir(parents=True)
    for name in ("12.tif", "1023.pgm", "grey.png"):
        Path("d/a", name).write_bytes(SCALED[name][0]())
    Path("d/a/10.tif").write_bytes(REFUSED["10.tif"][0]())
    encode_all("d", Path("o"), ["source"], max_failures=1)
    rows = {row["key"]: row for row in read_items(Path("o/d-source.beton"))}
    failed = {key: row["reason"] for key, row in rows.items() if row["status"] == "failed"}
    assert failed == {"a/10.tif": "not an image that Pillow can read: a TIFF with 10 bits per sample in this arrangement"}
    beton = Beton(Path("o/d-source.beton"))
    assert len(beton) == 3
    for index in range(3):
        assert read_pixels(beton, index).mean() == pytest.approx(127, abs=3)
