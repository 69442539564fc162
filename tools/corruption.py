"""Corrupted inputs for tools/fuzz: small valid images and betons of every kind, and mutations of them."""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image, features

from jpegcurr.encoding.beton.manifest import items_path, manifest_path
from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor

Kind = Literal["image", "beton", "verify"]
SHARES: dict[Kind, float] = {"image": 0.8, "beton": 0.15, "verify": 0.05}
# Values beyond the limit of some integer type or size.
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFDC, 0xFFFF)
NUMBERS += (0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 24)


def picture() -> Image.Image:
    """Return 37x29 pixels of a slope with some noise, so that coefficients of all sizes occur."""
    down, across = np.mgrid[0:29, 0:37]
    slope = np.stack([down * 8, across * 6, (down + across) * 3], 2)
    return Image.fromarray((slope + np.random.default_rng(0).integers(0, 24, slope.shape)).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a file's bytes, written by Pillow."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@cache
def images() -> dict[str, bytes]:
    """Return small valid images of the kinds that Pillow reads, by name."""
    whole = picture()
    palette, alpha = whole.quantize(32), whole.convert("RGBA")
    alpha.putalpha(whole.getchannel(0))
    exif = Image.Exif()
    exif[0x0112] = 6
    layouts = {name: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{name}") for name in ("411", "420", "422", "440", "444")}
    deep = (np.asarray(whole).astype(np.uint16) << 8) + 7
    factor = cv2.IMWRITE_JPEG_SAMPLING_FACTOR
    corpus = {f"jpeg {name}": by_opencv(np.asarray(whole), ".jpg", factor, code) for name, code in layouts.items()}
    corpus |= {
        "jpeg progressive": saved(whole, "JPEG", progressive=True, quality=80),
        "jpeg restarts": by_opencv(np.asarray(whole), ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "jpeg grey": saved(whole.convert("L"), "JPEG"),
        "jpeg CMYK": saved(whole.convert("CMYK"), "JPEG"),
        "jpeg RGB": saved(whole, "JPEG", keep_rgb=True),
        "jpeg EXIF": saved(whole, "JPEG", exif=exif),
        "jpeg XMP": saved(whole, "JPEG", xmp=b'<x tiff:Orientation="6"/>'),
        "jpeg ICC": saved(whole, "JPEG", icc_profile=bytes(300), comment=b"a comment"),
        "png": saved(whole, "PNG"),
        "png EXIF": saved(whole, "PNG", exif=exif),
        "png alpha": saved(alpha, "PNG"),
        "png palette": saved(palette, "PNG", transparency=bytes(range(32))),
        "png 16-bit": by_opencv(deep, ".png"),
        "png 16-bit grey": by_opencv(deep[:, :, 0], ".png"),
        "png 1-bit": saved(whole.convert("1"), "PNG"),
        "gif": saved(palette, "GIF", save_all=True, append_images=[palette.rotate(180)]),
        "webp": saved(whole, "WEBP", exif=exif),
        "webp lossless alpha": saved(alpha, "WEBP", lossless=True),
        "bmp": saved(whole, "BMP"),
        "bmp palette": saved(palette, "BMP"),
        "tiff": saved(whole, "TIFF", exif=exif),
        "tiff LZW": saved(alpha, "TIFF", compression="tiff_lzw"),
        "tiff JPEG": saved(whole, "TIFF", compression="jpeg"),
        "tiff 16-bit": by_opencv(deep[:, :, 0], ".tiff"),
        "ppm": saved(whole, "PPM"),
        "pgm": saved(whole.convert("L"), "PPM"),
        "ico": saved(whole, "ICO", sizes=[(32, 25)]),
        "tga": saved(whole, "TGA", compression="tga_rle"),
    }
    for kind, feature in (("AVIF", "avif"), ("JPEG2000", "jpg_2000")):
        if features.check(feature):
            corpus[kind.lower()] = saved(whole, kind, exif=exif)
    return corpus


def by_opencv(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    """Return a file's bytes, written by OpenCV, in a format that Pillow cannot write."""
    return cv2.imencode(suffix, pixels, options)[1].tobytes()


@dataclass(frozen=True, slots=True)
class Encoded:
    """A beton that jpegcurr wrote, with its manifest and its items."""

    beton: bytes
    manifest: bytes
    items: bytes


@cache
def encoded() -> Encoded:
    """Encode five small images, one of which fails."""
    with TemporaryDirectory(prefix="fuzz-") as folder:
        root = Path(folder)
        for number, name in enumerate(("jpeg 420", "jpeg grey", "png", "jpeg EXIF", "jpeg 444")):
            (root / "d" / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
            (root / "d" / f"class{number % 2}" / f"{number}.jpg").write_bytes(images()[name] if number < 4 else b"")
        sources = open_sources(root / "d")
        with open_executor(1) as (executor, workers):
            outputs = plan_outputs(sources, [EncodeSpec(50)], root)
            encode_dataset(sources, outputs, executor=executor, workers=workers, max_failures=1)
        beton = root / "d-q50.beton"
        manifest = manifest_path(beton).read_text(encoding="utf-8").replace(folder, "")
        return Encoded(beton.read_bytes(), manifest.encode(), items_path(beton).read_bytes())


@cache
def betons() -> dict[str, bytes]:
    """Return small valid betons by name: jpegcurr's, and some as FFCV might write them."""
    raw, jpeg = (1, np.asarray(picture()).tobytes()), (0, images()["jpeg 420"])
    return {
        "ours": encoded().beton,
        "raw": by_hand((2, 1), [raw, jpeg]),
        "label first": by_hand((1, 2), [jpeg, raw, jpeg]),
        "four fields": by_hand((0, 2, 1, 0), [jpeg]),
    }


def by_hand(kinds: Sequence[int], samples: Sequence[tuple[int, bytes]]) -> bytes:
    """Build a beton with fields of FFCV's types 0 (float), 1 (int) and 2 (image) from (mode, payload) samples of 37x29."""
    image = np.dtype([("mode", "u1"), ("width", "<u2"), ("height", "<u2"), ("ptr", "<u8")])
    types = {0: np.dtype("<f8"), 1: np.dtype("<i8"), 2: image}
    records = np.zeros(len(samples), np.dtype([(f"f{i}", types[kind]) for i, kind in enumerate(kinds)], align=True))
    position = 24 + 1041 * len(kinds) + records.nbytes
    payloads, rows = b"", b""
    for number, (mode, payload) in enumerate(samples):
        records[f"f{kinds.index(2)}"][number] = (mode, 37, 29, position + len(payloads))
        rows += struct.pack("<3Q", number, position + len(payloads), len(payload))
        payloads += payload
    fields = b"".join(struct.pack("<B16s1024x", kind, b"field") for kind in kinds)
    header = struct.pack("<HHIQQ", 2, len(kinds), 1 << 21, len(samples), position + len(payloads))
    return header + fields + records.tobytes() + payloads + rows


Mutator = Callable[[bytearray, Random, Sequence[bytes]], bytearray]


def flip_bits(data: bytearray, random: Random, _others: Sequence[bytes]) -> bytearray:
    """Flip one to eight bits."""
    for _ in range(random.randint(1, 8)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def overwrite(data: bytearray, random: Random, _others: Sequence[bytes]) -> bytearray:
    """Overwrite 1, 2, 4 or 8 bytes anywhere with an extreme or a neighbouring number."""
    return put(data, random.randrange(len(data)), random.choice(("B", ">H", "<H", ">I", "<I", "<Q")), random)


def edit_length(data: bytearray, random: Random, _others: Sequence[bytes]) -> bytearray:
    """Change one field that holds a length, a size or a position."""
    fields = length_fields(bytes(data))
    return put(data, *random.choice(fields), random) if fields else data


def truncate(data: bytearray, random: Random, _others: Sequence[bytes]) -> bytearray:
    """Cut the file off at any byte."""
    return data[: random.randrange(len(data))]


def duplicate(data: bytearray, random: Random, _others: Sequence[bytes]) -> bytearray:
    """Insert copies of some bytes anywhere."""
    start, to = random.randrange(len(data)), random.randrange(len(data))
    part = data[start : start + random.randint(1, 256)]
    return data[:to] + part * random.randint(1, 3) + data[to:]


def take_out(data: bytearray, random: Random, _others: Sequence[bytes]) -> bytearray:
    """Remove some bytes."""
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randint(1, 64) :]


def splice(data: bytearray, random: Random, others: Sequence[bytes]) -> bytearray:
    """Join the head of one file and the tail of another."""
    other = random.choice(others)
    return data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]


MUTATORS: dict[Mutator, int] = {flip_bits: 4, overwrite: 4, edit_length: 4, truncate: 1, duplicate: 2, take_out: 2, splice: 1}


def put(data: bytearray, position: int, form: str, random: Random) -> bytearray:
    """Write one of ``NUMBERS``, or a neighbour of the present value, in the ``struct`` format ``form``."""
    size = struct.calcsize(form)
    if position + size > len(data):
        return data
    (value,) = struct.unpack_from(form, data, position)
    number = random.choice((*NUMBERS, value + 1, value - 1, value * 2, value // 2, random.randrange(1 << 16)))
    struct.pack_into(form, data, position, number % (1 << 8 * size))
    return data


def length_fields(data: bytes) -> list[tuple[int, str]]:
    """Return positions and ``struct`` formats of the lengths and sizes in a file of a known format."""
    if data[:2] == b"\xff\xd8":
        segments = [match.end() for match in re.finditer(rb"\xff[\xc0-\xc2\xc4\xda-\xef]", data)]
        frames = [match.end() + more for match in re.finditer(rb"\xff[\xc0-\xc2]", data) for more in (3, 5)]
        return [(position, ">H") for position in segments + frames]
    if data[:4] == b"\x89PNG":
        chunks = [match.start() - 4 for match in re.finditer(rb"IHDR|PLTE|tRNS|eXIf|IDAT|IEND", data)]
        return [(position, ">I") for position in (*chunks, 16, 20)]
    if data[:4] == b"RIFF":
        return [(match.end(), "<I") for match in re.finditer(rb"RIFF|VP8[ LX]|ALPH|EXIF", data)]
    if data[:2] == b"BM":
        return [(position, "<I") for position in (2, 10, 14, 18, 22, 34, 46)]
    if data[:4] == b"GIF8":
        return [(position, "<H") for position in (6, 8)]
    if data[:4] == b"II*\0":
        entries = range(int.from_bytes(data[4:8], "little") + 2, len(data) - 12, 12)
        return [(4, "<I"), *((entry + more, "<I") for entry in entries[:20] for more in (4, 8))]
    if data[:2] == b"\2\0":
        return beton_fields(data)
    return []


def beton_fields(data: bytes) -> list[tuple[int, str]]:
    """Return the fields of the header, metadata and allocation table of a beton of jpegcurr's."""
    fields, samples, table = struct.unpack_from("<2xH4xQQ", data.ljust(24, b"\0"))
    records = range(24 + 1041 * min(fields, 64), len(data), 24)[: min(samples, 8)]
    inside = [(record + more, form) for record in records for more, form in ((1, "<H"), (3, "<H"), (5, "<Q"), (16, "<Q"))]
    rows = [(position, "<Q") for position in range(min(table, len(data)), len(data), 8)]
    return [(2, "<H"), (4, "<I"), (8, "<Q"), (16, "<Q"), *inside, *rows]


def with_checksums(data: bytes) -> bytes:
    """Return a PNG with the right checksum in every whole chunk, so that decoders reach the pixels."""
    repaired, position = bytearray(data), 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if end + 4 <= len(data):
            repaired[end : end + 4] = zlib.crc32(data[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(repaired)


@dataclass(frozen=True, slots=True)
class Input:
    """One damaged file; for the kind ``verify``, ``beside`` names it: beton, manifest or items."""

    kind: Kind
    origin: str
    data: bytes
    beside: str = ""


def make_input(seed: int, index: int) -> Input:
    """Build an input, the same for the same seed, index and library versions."""
    random = Random(f"{seed} {index}")  # noqa: S311
    (kind,) = random.choices(list(SHARES), list(SHARES.values()))
    if kind == "verify":
        origin = beside = random.choice(("beton", "manifest", "items"))
        data, others = getattr(encoded(), beside), [encoded().beton]
    else:
        corpus, beside = images() if kind == "image" else betons(), ""
        origin = random.choice(list(corpus))
        data, others = corpus[origin], list(corpus.values())
    mutated = bytearray(data)
    for mutate in random.choices(list(MUTATORS), list(MUTATORS.values()), k=random.choice((1, 1, 2, 3))):
        if mutated:
            mutated = mutate(mutated, random, others)
    if mutated[:4] == b"\x89PNG" and random.random() < 0.7:
        mutated = bytearray(with_checksums(bytes(mutated)))
    return Input(kind, origin, bytes(mutated), beside)
