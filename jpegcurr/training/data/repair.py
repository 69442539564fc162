"""What becomes of a sample that does not decode."""

import numpy as np

from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.errors import ImageError
from jpegcurr.training.data.sampling import View
from jpegcurr.training.data.transforms import render

ATTEMPTS = 10


def make_sample(view: View, epoch: int, job: np.void, out: Pixels) -> int:
    """Make one sample into ``out``, uint8 [size size 3]; returns the index of the sample that stands there.

    That is another than ``job``'s where its own does not decode and ``view.skip_broken`` is set: which one is a function of
    (seed, epoch, sample), so that every loader takes the same. Validation never replaces.

    Raises:
        ImageError: the sample does not decode, nor, where they were allowed, do ten others drawn for it.
    """
    try:
        out[:] = render(view, job, len(out))
        return int(job["index"])
    except ImageError as error:
        if not view.train:
            raise ImageError(f"{error}. Make the file again.") from None
        if not view.skip_broken:
            raise ImageError(f"{error}. Make the file again, or replace what is broken: --set loader.on_error=skip.") from None
        return _replaced(view, epoch, int(job["index"]), out, error)


def _replaced(view: View, epoch: int, index: int, out: Pixels, first: ImageError) -> int:
    for attempt in range(ATTEMPTS):
        other = view.replacement(epoch, index, attempt)
        try:
            out[:] = render(view, view.jobs(epoch, np.array([other]))[0], len(out))
        except ImageError:
            continue
        return other
    raise ImageError(f"{first}; nor do {ATTEMPTS} samples drawn to replace it. Make the file again.") from None
