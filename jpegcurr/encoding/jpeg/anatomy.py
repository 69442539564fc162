"""Anatomy of a JPEG: everything that its markers say before the first scan, without decoding.

Source: ITU-T T.81, annexes B (markers) and K.3 (Huffman tables); for the colour space, ``default_decompress_parms`` of libjpeg.
``header.py`` reads the few of these facts that an encode needs, in a tenth of the time.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from jpegcurr.encoding.jpeg.header import chroma_layout
from jpegcurr.encoding.jpeg.pillow import silence_pillow
from jpegcurr.encoding.jpeg.quantisation import Quantisation, Table, read_quality
from jpegcurr.errors import ImageError

PROCESSES = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic",
    0xCA: "arithmetic progressive",
    0xCB: "arithmetic lossless",
    0xCD: "arithmetic hierarchical",
    0xCE: "arithmetic hierarchical",
    0xCF: "arithmetic hierarchical",
}
# The layouts that ``layout`` has besides "other"; libjpeg reads them all.
LAYOUTS = ("4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey", "CMYK")
MARKERS = ("JFIF", "EXIF", "XMP", "ICC", "MPF", "Ducky", "Photoshop", "Adobe", "comment", "other")

_START, _END_OF_IMAGE, _SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_HUFFMAN, _QUANTISATION, _RESTART, _COMMENT, _APP0, _APP14, _APP15 = 0xC4, 0xDB, 0xDD, 0xFE, 0xE0, 0xEE, 0xEF
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
_EXIF = b"Exif\0\0"
# Application segments by their number and the beginning of their contents.
_SEGMENTS = (
    (0xE0, b"JFIF\0", "JFIF"),
    (0xE1, _EXIF, "EXIF"),
    (0xE1, b"http://ns.adobe.com/", "XMP"),  # also its extensions
    (0xE2, b"ICC_PROFILE\0", "ICC"),
    (0xE2, b"MPF\0", "MPF"),  # further pictures behind this one
    (0xEC, b"Ducky", "Ducky"),  # Photoshop's "Save for Web"
    (0xED, b"Photoshop 3.0\0", "Photoshop"),  # its block of settings, which other programs write and keep too
    (0xEE, b"Adobe", "Adobe"),
)
_ORIENTATION, _MAKE, _MODEL, _SOFTWARE = 0x0112, 0x010F, 0x0110, 0x0131
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([1-8])")
_LONGEST_TEXT = 80  # characters

# Annex K.3, as segments have them: class and number, codes of 1 to 16 bits, then the symbols. Tables 0 are luma's, 1 chroma's.
_STANDARD_HUFFMAN = {
    0x00: "00010501010101010100000000000000000102030405060708090a0b",
    0x01: "00030101010101010101010000000000000102030405060708090a0b",
    0x10: "0002010303020403050504040000017d010203000411051221314106135161072271143281"
    "91a1082342b1c11552d1f02433627282090a161718191a25262728292a3435363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a83848586"
    "8788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6"
    "c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa",
    0x11: "0002010204040304070504040001027700010203110405213106124151076171132232810814"
    "4291a1b1c109233352f0156272d10a162434e125f11718191a262728292a35363738393a"
    "434445464748494a535455565758595a636465666768696a737475767778797a82838485"
    "868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5"
    "c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa",
}
_STANDARD_TABLES = {number: bytes.fromhex(text) for number, text in _STANDARD_HUFFMAN.items()}


@dataclass(frozen=True, slots=True)
class JpegAnatomy:
    """The facts about a JPEG.

    Attributes:
        process: how its coefficients are coded, of ``PROCESSES``.
        precision: bits of a sample.
        colour: ``grey``, ``YCbCr``, ``RGB``, ``CMYK``, ``YCCK`` or ``other``.
        layout: the chroma layout in J:a:b notation, ``grey``, ``CMYK`` for four components, or ``other``.
        quantisation: the quality of its tables; None for a lossless one, which has none.
        table: the quantisation table of luma, by which the coefficients of the first component are divided.
        huffman: ``standard`` if all tables are those of the standard, ``optimised`` if any is not, ``absent`` if there is none,
            ``arithmetic`` where no table is needed.
        restart: MCUs between restart markers, 0 without any.
        markers: of ``MARKERS``, in this order.
        orientation: of EXIF or XMP, 1 to 8; 1 if none is stated.
        make, software: from EXIF, ``make`` with the model; "" if not stated.
        comment: the beginning of the first comment.
        ended: an end-of-image marker follows the first scan's header.
    """

    width: int
    height: int
    process: str
    precision: int
    components: int
    colour: str
    layout: str
    quantisation: Quantisation | None
    table: Table | None
    huffman: str
    restart: int
    markers: tuple[str, ...]
    orientation: int
    make: str
    software: str
    comment: str
    ended: bool


def is_jpeg(data: bytes) -> bool:
    """Return whether ``data`` begins as a JPEG does."""
    return data[:3] == b"\xff\xd8\xff"


def read_anatomy(data: bytes) -> JpegAnatomy:
    """Read the markers of a JPEG up to its first scan.

    Raises:
        ImageError: it is no JPEG, ends before its first scan, or has a segment that contradicts itself.
    """
    segments = _Segments()
    for marker, start, end in _walk(data):
        if marker == _SCAN:
            return segments.anatomy(ended=data.rfind(_END_OF_IMAGE, end) >= 0)
        segments.add(marker, data[start:end])
    raise ImageError("the file ends before its first scan")


def name_quality(data: bytes) -> str:
    """Return the quality of a JPEG's tables: ``75``, ``about 75`` where they are not exactly libjpeg's, or ``unknown``."""
    try:
        quantisation = read_anatomy(data).quantisation
    except ImageError:
        return "unknown"
    if quantisation is None:
        return "unknown"
    return str(quantisation.quality) if quantisation.maker == "libjpeg" else f"about {quantisation.quality}"


def _walk(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, the start and the end of every segment's contents, up to the first scan's header."""
    if data[:2] != _START:
        raise ImageError("no JPEG: it does not begin with a start-of-image marker")
    position, size = 2, len(data)
    while position + 4 <= size:
        if data[position] != 0xFF:
            raise ImageError(f"no marker at byte {position}, where one is due")
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _WITHOUT_LENGTH or length < 2:
            raise ImageError(f"the marker {marker:#04x} at byte {position}, before the first scan")
        if position + 2 + length > size:
            return
        yield marker, position + 4, position + 2 + length
        if marker == _SCAN:
            return
        position += 2 + length


class _Segments:
    """The segments of one file, as they are read."""

    def __init__(self) -> None:
        self.frame, self.process = b"", ""
        self.tables: dict[int, Table] = {}
        self.huffman: list[bytes] = []
        self.restart = 0
        self.markers: dict[str, bytes] = {}  # the first of each

    def add(self, marker: int, body: bytes) -> None:
        """Take the contents of one segment."""
        if marker in PROCESSES:
            if self.frame:
                raise ImageError("two frames before the first scan")
            self.frame, self.process = body, PROCESSES[marker]
        elif marker == _QUANTISATION:
            self._add_tables(body)
        elif marker == _HUFFMAN:
            self.huffman.append(body)
        elif marker == _RESTART:
            self.restart = int.from_bytes(body[:2], "big")
        elif marker == _COMMENT:
            self.markers.setdefault("comment", body)
        elif _APP0 <= marker <= _APP15:
            names = (name for number, begin, name in _SEGMENTS if marker == number and body.startswith(begin))
            self.markers.setdefault(next(names, "other"), body)

    def _add_tables(self, body: bytes) -> None:
        while body:
            wide, number = divmod(body[0], 16)
            if wide > 1 or len(body) < 65 + 64 * wide:
                raise ImageError("a quantisation table that is cut off")
            if wide:
                self.tables[number] = tuple(int.from_bytes(body[place : place + 2], "big") for place in range(1, 129, 2))
            else:
                self.tables[number] = tuple(body[1:65])
            body = body[65 + 64 * wide :]

    def anatomy(self, *, ended: bool) -> JpegAnatomy:
        """Return the facts, at the first scan."""
        frame = self.frame
        if len(frame) < 6 or len(frame) < 6 + 3 * frame[5]:
            raise ImageError("no frame before the first scan" if not frame else "a frame that is cut off")
        height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
        if not height or not width or not frame[5]:
            raise ImageError(f"{width}x{height} pixels in {frame[5]} components")
        colour = self._colour()
        quantisation, table = (None, None) if "lossless" in self.process else self._quantisation(colour)
        orientation, make, software = self._exif()
        comment = _clean(self.markers.get("comment", b""))
        layout = "CMYK" if frame[5] == 4 else chroma_layout(frame)
        return JpegAnatomy(
            width,
            height,
            self.process,
            frame[0],
            frame[5],
            colour,
            layout,
            quantisation,
            table,
            self._huffman(),
            self.restart,
            tuple(name for name in MARKERS if name in self.markers),
            orientation,
            make,
            software,
            comment,
            ended,
        )

    def _colour(self) -> str:
        """Return the colour space, by libjpeg's rules."""
        components, adobe = self.frame[5], self.markers.get("Adobe", b"")
        transform = adobe[11] if len(adobe) >= 12 else None
        if components == 1:
            return "grey"
        if components == 3:
            ids = bytes(self.frame[6 + 3 * number] for number in range(3))
            if "JFIF" in self.markers or transform == 1:
                return "YCbCr"
            return "RGB" if transform == 0 or (transform is None and ids == b"RGB") else "YCbCr"
        if components == 4:
            return "YCCK" if transform == 2 else "CMYK"
        return "other"

    def _quantisation(self, colour: str) -> tuple[Quantisation, Table]:
        numbers = [self.frame[8 + 3 * component] for component in range(self.frame[5])]
        try:
            tables = [self.tables[number] for number in numbers]
        except KeyError as error:
            raise ImageError(f"the quantisation table {error}, which a component names, is missing") from None
        chroma = (1, 2) if colour in ("YCbCr", "YCCK") else ()
        luma = tuple(table for place, table in enumerate(tables) if place not in chroma)
        return read_quality(luma, tuple(tables[place] for place in chroma)), tables[0]

    def _huffman(self) -> str:
        if self.process.startswith("arithmetic"):
            return "arithmetic"
        if not self.huffman:
            return "absent"
        return "standard" if all(map(_is_standard, self.huffman)) else "optimised"

    def _exif(self) -> tuple[int, str, str]:
        """Return orientation, make with model, and software; what cannot be read counts as not stated."""
        orientation, make, software = 1, "", ""
        if "EXIF" in self.markers:
            silence_pillow()
            exif = Image.Exif()
            try:
                exif.load(self.markers["EXIF"])
                orientation = exif.get(_ORIENTATION, 1)
                make = " ".join(filter(None, (_clean(exif.get(tag, "")) for tag in (_MAKE, _MODEL))))
                software = _clean(exif.get(_SOFTWARE, ""))
            except Exception:
                orientation = 1
            if orientation not in range(1, 9):
                orientation = 1
        elif "XMP" in self.markers and (match := _XMP_ORIENTATION.search(self.markers["XMP"])):
            orientation = int(match[1])
        return orientation, make, software


def _is_standard(body: bytes) -> bool:
    """Return whether all Huffman tables of a segment are those of the standard."""
    while body:
        table = _STANDARD_TABLES.get(body[0])
        if table is None or not body.startswith(table, 1):
            return False
        body = body[1 + len(table) :]
    return True


def _clean(text: object) -> str:
    """Return a text of a marker as one short line."""
    if isinstance(text, bytes):
        try:
            decoded = text.decode("utf-8")
        except UnicodeDecodeError:
            decoded = text.decode("cp1252", "replace")
    else:
        decoded = str(text)
    return " ".join(decoded.replace("\0", " ").split())[:_LONGEST_TEXT]
