"""Limits on the pixels of one image, and of all images that are decoded at the same time."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

from PIL import Image

from jpegcurr.errors import ImageError, OversizeError
from jpegcurr.system import available_cpus

# The largest image that is decoded unless ``--max-pixels`` says otherwise: ImageNet's largest has about 20 megapixels, and
# cameras up to 108. Pixels take 4 to 16 bytes each while they are decoded, and a file of 38 bytes can promise any number.
MAX_PIXELS = 128_000_000
MOST_PIXELS = 178_956_970  # the largest limit that can be set: Pillow refuses larger images as decompression bombs
PIXELS_PER_CPU = 16_000_000


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise OversizeError for an image of more than ``max_pixels``, and ImageError for one that Pillow would refuse."""
    pixels = width * height
    pillows = 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else None  # which a program may have changed
    if pillows is not None and pixels > pillows:
        raise ImageError(f"{width}x{height} pixels are more than the {pillows} that Pillow allows an image")
    if pixels > max_pixels:
        limit = f"the {max_pixels} that an image may have; --max-pixels allows larger ones"
        raise OversizeError(f"{width}x{height} pixels are more than {limit}")


class PixelBudget:
    """A budget of pixels that the threads of a process share, so that together they never decode more at a time.

    An image waits until there is room for it, and later ones wait behind it. One that is larger than the whole budget is
    decoded alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._held = 0
        self._turn = Lock()  # held while waiting for room: small images must not overtake a large one for ever
        self._room = Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Hold ``pixels`` of the budget during the block. A thread that holds some must not ask for more."""
        amount = min(pixels, self.total)
        with self._turn, self._room:
            self._room.wait_for(lambda: self._held + amount <= self.total)
            self._held += amount
        try:
            yield
        finally:
            with self._room:
                self._held -= amount
                self._room.notify()  # at most one thread waits, the one that has the turn


BUDGET = PixelBudget(max(MAX_PIXELS, PIXELS_PER_CPU * available_cpus()))
