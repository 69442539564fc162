"""The pixels of one sample of a beton."""

import numpy as np

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.jpeg.codec import decode_rgb
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import ImageError


def read_pixels(beton: Beton, index: int, *, scratch: bool = False) -> Pixels:
    """Decode sample ``index`` to RGB, uint8 [h w 3]; raises ImageError if it is not the image that its metadata describe.

    ``scratch`` is passed to ``decode_rgb``.
    """
    payload = beton.payload(index)
    height, width = int(beton.heights[index]), int(beton.widths[index])
    try:
        if beton.modes[index] != MODE_JPEG:
            return np.frombuffer(payload, np.uint8).reshape(height, width, 3)
        return decode_rgb(payload, scratch=scratch, size=(width, height))
    except (ImageError, ValueError) as error:
        raise ImageError(f"sample {index} of {beton.path}: {error}") from None
