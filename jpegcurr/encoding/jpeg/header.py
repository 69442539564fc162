"""Header of a JPEG, everything before its first scan, read in a few microseconds and without decoding.

Source: ITU-T T.81, annex B. Pillow reads the same at ten times the cost, which at a thousand images per second and core
is a tenth of the whole encode.
"""

from dataclasses import dataclass

# Start of frame, Huffman-coded: baseline, extended, progressive. libjpeg reads them with 8 bits per sample.
_FRAMES = {0xC0, 0xC1, 0xC2}
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_WITHOUT_LENGTH = {0x00, 0x01, *range(0xD0, 0xDA)}
_UNSUPPORTED = _OTHER_FRAMES | _WITHOUT_LENGTH
_APP1, _SCAN = 0xE1, 0xDA
# Application segments that no decoder of pixels needs, and comments: all but JFIF's and Adobe's, which names the colours.
_METADATA = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_END_OF_IMAGE = b"\xff\xd9"
# By the sampling factors of luma and chroma: the layouts of libturbojpeg (its getSubsamp), which FFCV decodes with.
_LAYOUTS = {
    ((1, 1), (1, 1)): "4:4:4",
    ((2, 1), (1, 1)): "4:2:2",
    ((2, 2), (1, 1)): "4:2:0",
    ((1, 2), (1, 1)): "4:4:0",
    ((4, 1), (1, 1)): "4:1:1",
    ((2, 2), (1, 2)): "4:2:2",
    ((2, 2), (2, 1)): "4:4:0",
    ((2, 1), (2, 1)): "4:4:4",
    ((1, 2), (1, 2)): "4:4:4",
}


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The header of an 8-bit Huffman-coded JPEG.

    ``layout`` is the chroma layout in J:a:b notation, ``grey``, or ``other``; ``app1`` are the APP1 segments, which hold EXIF
    and XMP blocks; ``ended`` says that an end-of-image marker follows the first scan's header.
    """

    width: int
    height: int
    components: int
    layout: str
    app1: tuple[bytes, ...]
    ended: bool


def read_jpeg_header(data: bytes) -> JpegHeader | None:
    """Read the markers up to the first scan; None if ``data`` is no such JPEG or ends before it."""
    if data[:2] != b"\xff\xd8":
        return None
    position, frame = 2, b""
    app1: list[bytes] = []
    while data[position : position + 1] == b"\xff":
        marker = data[position + 1] if position + 1 < len(data) else 0
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if length < 2 or marker in _UNSUPPORTED or (frame and marker in _FRAMES):
            return None
        if marker in _FRAMES:
            frame = data[position + 4 : position + 2 + length]
        elif marker == _APP1:
            app1.append(data[position + 4 : position + 2 + length])
        elif marker == _SCAN:
            return _header(frame, tuple(app1), data.rfind(_END_OF_IMAGE, position) >= 0)
        position += 2 + length
    return None


def strip_metadata(data: bytes) -> bytes:
    """Return a JPEG whose header ``read_jpeg_header`` reads, without EXIF, XMP, colour profile, thumbnails and comments.

    Its pixels are the same for decoders that apply no colour profile, and shown as those are by the ones that do.
    """
    kept, position = [data[:2]], 2
    while data[position + 1] != _SCAN:
        if data[position + 1] == 0xFF:
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if data[position + 1] not in _METADATA:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])


def _header(frame: bytes, app1: tuple[bytes, ...], ended: bool) -> JpegHeader | None:
    """Read a frame segment: precision, height, width, then (id, sampling, table) per component."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) < 6 + 3 * frame[5]:
        return None
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if not height or not width or not frame[5]:
        return None
    return JpegHeader(width, height, frame[5], chroma_layout(frame), app1, ended)


def chroma_layout(frame: bytes) -> str:
    """Return the chroma layout of a frame segment in J:a:b notation, ``grey``, or ``other``."""
    if frame[5] == 1:
        return "grey"
    luma, *chroma = (divmod(frame[7 + 3 * i], 16) for i in range(frame[5]))
    if len(chroma) != 2 or chroma[0] != chroma[1]:
        return "other"
    return _LAYOUTS.get((luma, chroma[0]), "other")
