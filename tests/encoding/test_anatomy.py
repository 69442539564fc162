"""JPEGs taken apart: the quality that made their tables, exactly, and everything else that their markers say."""

import struct
from contextlib import suppress
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from samples import jpeg, photograph

from jpegcurr.encoding.jpeg.anatomy import JpegAnatomy, name_quality, read_anatomy
from jpegcurr.encoding.jpeg.quantisation import QUALITIES, Table, libjpeg_tables, read_quality
from jpegcurr.encoding.survey import read_facts
from jpegcurr.errors import ImageError

# From a file that mozjpeg 4.0.3 has written at quality 75, with this one table for all components.
MOZJPEG_75 = (
    *(8, 8, 8, 8, 9, 8, 9, 10, 10, 9, 13, 14, 12, 14, 13, 19, 17, 16, 16, 17, 19, 28, 20, 22, 20, 22, 20, 28, 43, 27, 31, 27),
    *(27, 31, 27, 43, 38, 46, 37, 35, 37, 46, 38, 68, 53, 47, 47, 53, 68, 78, 66, 62, 66, 78, 95, 85, 85, 95, 119, 113, 119),
    *(156, 156, 209),
)
SMALL = photograph("coffee").crop((100, 100, 132, 124))


def quality(data: bytes) -> tuple[int, bool, str, int | None]:
    found = read_anatomy(data).quantisation
    assert found is not None
    return found.quality, found.exact, found.maker, found.chroma


def made_of(*tables: Table, process: int = 0xC1) -> bytes:
    """Return a JPEG without a picture, with tables of 16 bits; the first is luma's, the last chroma's."""
    defined = b"".join(struct.pack(">B64H", 0x10 + number, *table) for number, table in enumerate(tables))
    components = b"".join(bytes([number, 0x11, min(number - 1, len(tables) - 1)]) for number in (1, 2, 3))
    frame = struct.pack(">BHHB", 8, 24, 32, 3) + components
    segments = ((0xDB, defined), (process, frame), (0xDA, bytes(10)))
    return (
        b"\xff\xd8"
        + b"".join(bytes([0xFF, kind]) + struct.pack(">H", len(body) + 2) + body for kind, body in segments)
        + b"\xff\xd9"
    )


def test_every_quality_of_pillow_and_opencv_is_read_from_colour_and_grey() -> None:
    bgr = np.asarray(SMALL)[:, :, ::-1].copy()
    for number in QUALITIES:
        files = [jpeg(SMALL, quality=number), jpeg(SMALL.convert("L"), quality=number)]
        files.append(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, number])[1].tobytes())
        assert [quality(data) for data in files] == [(number, True, "libjpeg", None)] * 3


def test_every_quality_of_cjpeg_is_read_whose_steps_exceed_255() -> None:
    """Compare with numbers that cjpeg 2.1.5 has written at 1 and 10 without -baseline."""
    assert (libjpeg_tables(1, baseline=False)[0][0], max(libjpeg_tables(1, baseline=False)[0])) == (800, 6050)
    assert [max(table) for table in libjpeg_tables(10, baseline=False)] == [605, 495]
    for number in QUALITIES:
        assert quality(made_of(*libjpeg_tables(number, baseline=False))) == (number, True, "libjpeg", None)


def test_chroma_of_another_quality_and_altered_tables_are_told_apart() -> None:
    luma, chroma = libjpeg_tables(90)[0], libjpeg_tables(70)[1]
    assert quality(made_of(luma, chroma)) == (90, True, "libjpeg", 70)
    altered = tuple(step + (step > 8) for step in libjpeg_tables(80)[0])
    nearest = read_quality((altered,), (libjpeg_tables(80)[1],) * 2)
    assert (nearest.exact, nearest.maker) == (False, "other")
    assert abs(nearest.quality - 80) <= 1
    assert 1 < nearest.factor < 1.05
    assert name_quality(made_of(altered)).startswith("about ")


def test_any_table_has_a_nearest_quality() -> None:
    random = np.random.default_rng(0)
    for most in (3, 40, 255, 65535):
        for _ in range(10):
            found = read_quality((tuple(random.integers(1, most, 64).tolist()),))
            assert found.quality in QUALITIES
            assert (found.exact, found.factor > 1) == (False, True)


def test_mozjpegs_default_tables_are_exact() -> None:
    found = read_quality((MOZJPEG_75,), (MOZJPEG_75,) * 2)
    assert (found.quality, found.exact, found.maker) == (75, True, "mozjpeg")
    altered = (*MOZJPEG_75[:63], 210)
    assert read_quality((altered,), (altered,) * 2).maker == "other"


def test_markers_are_read() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110], exif[0x0131] = 6, "Nikon", "D70", "Editor\x1b 1.0"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    whole = jpeg(
        SMALL, quality=75, exif=exif, icc_profile=profile, comment="by hand", progressive=True, restart_marker_blocks=2
    )
    anatomy = read_anatomy(whole)
    assert anatomy.markers == ("JFIF", "EXIF", "ICC", "comment")
    assert (anatomy.process, anatomy.huffman, anatomy.restart) == ("progressive", "optimised", 2)
    assert (anatomy.orientation, anatomy.make, anatomy.comment) == (6, "Nikon D70", "by hand")
    assert anatomy.software.startswith("Editor")
    assert (anatomy.width, anatomy.height, anatomy.precision, anatomy.ended) == (32, 24, 8, True)
    plain, optimised = read_anatomy(jpeg(SMALL)), read_anatomy(jpeg(SMALL, optimize=True))
    assert (plain.huffman, optimised.huffman, plain.process, plain.markers) == ("standard", "optimised", "baseline", ("JFIF",))
    assert not read_anatomy(whole[:-2]).ended


def test_colours_and_layouts_are_named() -> None:
    def describe(data: bytes) -> tuple[str, str]:
        anatomy = read_anatomy(data)
        return anatomy.colour, anatomy.layout

    assert describe(jpeg(SMALL.convert("L"))) == ("grey", "grey")
    assert describe(jpeg(SMALL.convert("CMYK"))) == ("CMYK", "CMYK")
    assert describe(jpeg(SMALL, subsampling="4:4:4", keep_rgb=True)) == ("RGB", "4:4:4")
    for name in ("4:4:4", "4:2:2", "4:2:0"):
        assert describe(jpeg(SMALL, subsampling=name)) == ("YCbCr", name)
    for name in ("440", "411"):
        factors = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}")
        data = cv2.imencode(".jpg", np.asarray(SMALL), [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factors])[1].tobytes()
        assert describe(data) == ("YCbCr", ":".join(name))
    assert quality(jpeg(SMALL, quality=83, keep_rgb=True, subsampling="4:4:4"))[:3] == (83, True, "libjpeg")
    assert quality(jpeg(SMALL.convert("CMYK"), quality=83))[:3] == (83, True, "libjpeg")


@pytest.mark.parametrize("process", [0xC9, 0xCA, 0xC3])
def test_other_processes_are_named(process: int) -> None:
    anatomy = read_anatomy(made_of(*libjpeg_tables(50), process=process))
    names = {0xC9: ("arithmetic", "arithmetic"), 0xCA: ("arithmetic progressive", "arithmetic"), 0xC3: ("lossless", "absent")}
    assert (anatomy.process, anatomy.huffman) == names[process]
    assert (anatomy.quantisation is None) == (process == 0xC3)


def test_a_damaged_file_is_a_reason_and_no_crash() -> None:
    random, whole = np.random.default_rng(0), jpeg(SMALL, quality=50, comment="x")
    read = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, 700, random.integers(0, 4)):
            damaged[place] = random.integers(0, 256)
        cut = bytes(damaged[: random.integers(0, len(whole))] if random.random() < 0.3 else damaged)
        with suppress(ImageError):
            read += isinstance(read_anatomy(cut), JpegAnatomy)
        facts = read_facts(cut, traces=True)
        assert bool(facts.reason) == (facts.width == 0)
    assert 50 < read < 250


def test_other_formats_are_named_and_what_is_no_image_has_a_reason() -> None:
    file = BytesIO()
    SMALL.save(file, "PNG")
    facts = read_facts(file.getvalue())
    assert (facts.format, facts.width, facts.height, facts.anatomy, facts.reason) == ("PNG", 32, 24, None, "")
    assert read_facts(b"text").reason
    assert read_facts(b"").reason == "the file is empty"
