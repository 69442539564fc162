"""Matrices of many cells as pictures: a transparent PNG in two colours, which a page can show on any background."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RIGHT, WRONG = (0x2F, 0x8F, 0xCF), (0xE0, 0x6A, 0x10)  # visible on white and on black
FAINTEST = 0.3  # opacity


def matrix_picture(shares: NDArray[np.floating], diagonal: NDArray[np.bool_]) -> str:
    """Return ``shares`` of 0 to 1, [rows columns], as the data URI of a PNG with a pixel for every cell.

    A cell that is not empty is the more opaque, the greater the root of its share, from 30 %, so that a rare mistake is still
    visible; cells of the ``diagonal``, [rows columns], have a colour of their own.
    """
    levels = np.where(shares > 0, np.rint(255 * (FAINTEST + (1 - FAINTEST) * np.sqrt(shares))), 0).astype(np.uint8)
    colours = np.where(diagonal[..., None], np.array(RIGHT, np.uint8), np.array(WRONG, np.uint8))
    file = io.BytesIO()
    Image.fromarray(np.dstack([colours, levels])).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
