"""The pixels of one sample of a beton, as they are stored or at a JPEG quality."""

import numpy as np

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode, round_trip
from jpegcurr.encoding.jpeg.limits import MOST_PIXELS
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import ImageError


def read_pixels(beton: Beton, index: int, *, quality: int | None = None, scratch: bool = False) -> Pixels:
    """Decode sample ``index`` to RGB, uint8 [h w 3]; raises ImageError if it is not the image that its metadata describe.

    With a ``quality``, the pixels are those that a beton encoded at it from this one would store. ``scratch`` is passed to
    ``decode_rgb``.
    """
    payload = beton.payload(index)
    height, width = int(beton.heights[index]), int(beton.widths[index])
    try:
        if beton.modes[index] != MODE_JPEG:
            pixels = np.frombuffer(payload, np.uint8).reshape(height, width, 3)
            return pixels if quality is None else round_trip(pixels, quality)
        if quality is not None:
            payload = _encode_again(payload, quality, (width, height))
        return decode_rgb(payload, scratch=scratch, size=(width, height))
    except (ImageError, ValueError) as error:
        raise ImageError(f"sample {index} of {beton.path}: {error}") from None


def _encode_again(payload: bytes, quality: int, size: tuple[int, int]) -> bytes:
    """Return a JPEG of ``quality``; of an image with another size than ``size``, the payload itself, whose decoding says so."""
    (encoded,) = reencode(payload, [EncodeSpec(quality)], MOST_PIXELS)
    return encoded.data if (encoded.width, encoded.height) == size else payload
