"""The compiled decoder: from records of samples to pixels, without the interpreter and without its lock.

It differs from FFCV's ``RandomResizedCropRGBImageDecoder`` where an experiment about JPEG quality needs it:

- It uses libjpeg's accurate DCT. FFCV's fast one is off by up to 48 levels, most in the cleanest files.
- It checks every return code. Where an image does not decode, FFCV leaves the previous one in its place.
- It is given the crops and does not draw them.
- It needs memory for one image per worker, not for every sample in flight at the size of the largest.
- It reads the file with ``pread``. FFCV maps it, so that a file which is cut short ends the process with SIGBUS.

It is compiled once for all loaders, and numba caches the result on the disk. The C functions are libturbojpeg's
(``turbojpeg.py``). ``transforms.make_sample`` is the reference, and takes over what this code gives up on.
"""

import ctypes
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import numpy as np
from numba import njit, types
from numpy.typing import NDArray

from jpegcurr.encoding.beton.format import MODE_JPEG
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.training.data.crops import __file__ as crops_source
from jpegcurr.training.data.crops import blocks_around
from jpegcurr.training.data.resample_kernel import AREA, BICUBIC, BILINEAR, resample, resample_centre
from jpegcurr.training.data.resample_kernel import __file__ as resample_source
from jpegcurr.training.data.sampling import SAMPLE, EpochSampler
from jpegcurr.training.data.transforms import make_sample
from jpegcurr.training.data.turbojpeg import load_library

FILTERS = {"area": AREA, "bilinear": BILINEAR, "bicubic": BICUBIC}

# A sample with everything that compiled code needs: the open file and the position of its stored bytes in it, and their size
# and format as the file states them.
TASK = np.dtype(
    [
        *((name, SAMPLE[name]) for name in SAMPLE.names or ()),
        ("descriptor", np.int32),
        ("offset", np.int64),
        ("size", np.int64),
        ("image_height", np.int32),
        ("image_width", np.int32),
        ("raw", np.bool_),
        ("before_crop", np.bool_),
    ],
    align=True,
)
# The type of all one-dimensional byte arrays. If the same process creates stock FFCV's memory manager, that marks numba's type
# ``uint8[::1]`` as read-only, and numba no longer finds the code that it compiled for that type.
BYTE = np.int8
GOOD, BROKEN = 0, 1

# Larger images are left to Pillow, which refuses them: a header must not decide how much memory is allocated.
_MAX_STORED = 1 << 30  # bytes; a sample that is larger is left to the reference, which does not read it in advance
_MAX_PIXELS = 2 * 89_478_485  # Image.MAX_IMAGE_PIXELS, twice, as Pillow has it
# turbojpeg.h
_RGB, _SAMP_420 = 0, 2
_NO_REALLOC, _ACCURATE_DCT = 1024, 4096


def tasks_of(sampler: EpochSampler, samples: np.ndarray) -> np.ndarray:
    """Return one ``TASK`` record for every ``SAMPLE`` record; what the device does to a sample is no part of its task."""
    tasks = np.zeros(len(samples), TASK)
    for name in SAMPLE.names or ():
        tasks[name] = samples[name]
    for position, variant in enumerate(sampler.variants.values()):
        mine = samples["variant"] == position
        indices, beton = samples["index"][mine], variant.beton
        tasks["descriptor"][mine] = beton.descriptor
        tasks["offset"][mine], tasks["size"][mine] = beton.pointers[indices], beton.sizes[indices]
        tasks["image_height"][mine], tasks["image_width"][mine] = beton.heights[indices], beton.widths[indices]
        tasks["raw"][mine] = beton.modes[indices] != MODE_JPEG
        tasks["before_crop"][mine] = variant.before_crop
    deferred = sampler.deferred(samples)
    tasks["quality"][deferred], tasks["flip"][deferred] = 0, False
    return tasks


def compile_now() -> None:
    """Compile the decoder, or load it from numba's cache, rather than in the first batch, by decoding no samples."""
    decode_tasks(np.zeros(0, TASK), np.zeros(0, np.int64), np.zeros((0, 1, 1, 3), np.uint8), np.zeros(0, BYTE), AREA)


def make_compiled(sampler: EpochSampler, epoch: int, samples: np.ndarray, out: Pixels) -> list[int]:
    """Render samples with compiled code, and with the reference those that it gives up on; see ``thread_loader.MakeSamples``.

    Raises:
        ImageError: a sample does not decode; see ``transforms.make_sample``.
    """
    tasks, status = tasks_of(sampler, samples), np.zeros(len(samples), BYTE)
    decode_tasks(tasks, np.arange(len(tasks)), out, status, FILTERS[sampler.image.interpolation])
    indices: list[int] = samples["index"].tolist()
    for position in np.flatnonzero(status != GOOD):
        indices[position] = make_sample(sampler, epoch, samples[position], out[position])
    return indices


def version_of(*sources: Path) -> str:
    """Return a hash of source files, by which code that is compiled from them is found in numba's cache."""
    return sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()


def _external(library: ctypes.CDLL, name: str, result: types.Type, *arguments: types.Type) -> Callable[..., Any]:
    """Return a C function that compiled code calls by name. Code with a pointer in it could not be cached on the disk."""
    address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
    llvmlite.binding.add_symbol(f"jpegcurr_{name}", address)
    function: Callable[..., Any] = types.ExternalFunction(f"jpegcurr_{name}", result(*arguments))
    return function


def _c_library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL(None)
    except TypeError:
        raise OSError("this system's C library has no pread, by which compiled code reads files") from None


_library, _ = load_library()
_int, _long, _pointer = types.int32, types.int64, types.intp
_init_decompress = _external(_library, "tjInitDecompress", _pointer)
_init_compress = _external(_library, "tjInitCompress", _pointer)
_destroy = _external(_library, "tjDestroy", _int, _pointer)
_read_header = _external(_library, "tjDecompressHeader3", _int, *[_pointer] * 2, _long, *[_pointer] * 4)
_decompress = _external(_library, "tjDecompress2", _int, *[_pointer] * 2, _long, _pointer, *[_int] * 5)
_compress = _external(_library, "tjCompress2", _int, *[_pointer] * 2, *[_int] * 4, *[_pointer] * 2, *[_int] * 3)
_bound = _external(_library, "tjBufSize", _long, *[_int] * 3)
_pread = _external(_c_library(), "pread", _long, _int, _pointer, *[_long] * 2)


def _compile(version: str) -> Callable[..., None]:
    """Compile the decoder and cache it on the disk.

    numba compiles again when this file changes. ``version`` stands for the other files that the code comes from.
    """

    @njit(nogil=True, cache=True)
    def decode_tasks(
        tasks: np.ndarray,
        lane: NDArray[np.int64],
        images: NDArray[np.uint8],
        status: NDArray[np.int8],
        filter_: int,
    ) -> None:
        """Decode those of ``tasks`` (TASK [n]) that ``lane`` lists into ``images`` (uint8 [n h w 3]), in one thread.

        ``status`` (int8 [n]) is then GOOD or BROKEN.
        """
        _ = version  # numba's cache key contains the variables that a function closes over
        pixels = np.empty(_largest_image(tasks, lane), BYTE)
        jpeg = np.empty(_largest_jpeg(tasks, lane, images.shape[1]), BYTE)
        stored = np.empty(_largest_stored(tasks, lane), BYTE)
        decoder, encoder = _init_decompress(), _init_compress()
        for i in lane:
            status[i] = _make(tasks[i], stored, pixels, jpeg, decoder, encoder, images[i], filter_)
        _destroy(decoder)
        _destroy(encoder)

    kernel: Callable[..., None] = decode_tasks
    return kernel


SOURCES = tuple(Path(file) for file in (resample_source, crops_source))  # of the code that is compiled into this file's
decode_tasks = _compile(version_of(*SOURCES))


_blocks_around: Callable[..., tuple[int, int]] = njit(nogil=True)(blocks_around)


@njit(nogil=True)
def _is_sound(task):  # type: ignore[no-untyped-def]
    """Return whether the metadata can be those of an image that contains the crop."""
    height, width = np.int64(task.image_height), np.int64(task.image_width)
    if (
        height * width > _MAX_PIXELS
        or task.size > _MAX_STORED
        or task.top < 0
        or task.left < 0
        or task.height < 1
        or task.width < 1
    ):
        return False
    return task.top + task.height <= height and task.left + task.width <= width


@njit(nogil=True)
def _largest_image(tasks, lane):  # type: ignore[no-untyped-def]
    largest = np.int64(0)
    for i in lane:
        if _is_sound(tasks[i]):
            largest = max(largest, 3 * np.int64(tasks[i].image_height) * np.int64(tasks[i].image_width))
    return largest


@njit(nogil=True)
def _largest_jpeg(tasks, lane, size):  # type: ignore[no-untyped-def]
    largest = 0
    for i in lane:
        if tasks[i].quality and tasks[i].before_crop and _is_sound(tasks[i]):
            largest = max(largest, _bound(tasks[i].image_width, tasks[i].image_height, _SAMP_420))
        elif tasks[i].quality:
            largest = max(largest, _bound(size, size, _SAMP_420))
    return largest


@njit(nogil=True)
def _largest_stored(tasks, lane):  # type: ignore[no-untyped-def]
    largest = np.int64(0)
    for i in lane:
        if not tasks[i].raw and _is_sound(tasks[i]):
            largest = max(largest, tasks[i].size)
    return largest


@njit(nogil=True)
def _make(task, stored, pixels, jpeg, decoder, encoder, image, filter_):  # type: ignore[no-untyped-def]
    if not _is_sound(task):
        return BROKEN
    height, width = np.int64(task.image_height), np.int64(task.image_width)
    whole = pixels[: 3 * height * width].reshape(height, width, 3).view(np.uint8)
    if task.raw:
        if task.size != whole.size or not _read(task, whole.ctypes.data):
            return BROKEN
    elif not _read(task, stored.ctypes.data) or not _decode(decoder, stored.ctypes.data, task.size, whole):
        return BROKEN
    if task.quality and task.before_crop:
        first_row, end_row = _blocks_around(task.top, task.height, height)
        first_column, end_column = _blocks_around(task.left, task.width, width)
        part = whole[first_row:end_row, first_column:end_column]
        if not _reencode(part, task.quality, jpeg, decoder, encoder):
            return BROKEN
    _resize(whole, task, image, filter_)
    if task.row or task.column:
        _shift(image, task.row, task.column)
    if task.quality and not task.before_crop and not _reencode(image, task.quality, jpeg, decoder, encoder):
        return BROKEN
    if task.flip:
        _mirror(image)
    return GOOD


@njit(nogil=True)
def _read(task, address):  # type: ignore[no-untyped-def]
    """Read a sample's stored bytes to ``address``; return whether all of them were read."""
    done = np.int64(0)
    while done < task.size:
        count = _pread(task.descriptor, address + done, task.size - done, task.offset + done)
        if count <= 0:
            return False
        done += count
    return True


@njit(nogil=True)
def _decode(decoder, address, size, pixels):  # type: ignore[no-untyped-def]
    """Decode the JPEG at ``address`` into ``pixels``; return whether it has their size and decodes without any warning."""
    header = np.empty(4, np.int32)
    cell = header.ctypes.data
    if _read_header(decoder, address, size, cell, cell + 4, cell + 8, cell + 12) != 0:
        return False
    height, width = pixels.shape[0], pixels.shape[1]
    if header[0] != width or header[1] != height:
        return False
    pitch = pixels.strides[0]
    return _decompress(decoder, address, size, pixels.ctypes.data, width, pitch, height, _RGB, _ACCURATE_DCT) == 0


@njit(nogil=True)
def _reencode(pixels, quality, jpeg, decoder, encoder):  # type: ignore[no-untyped-def]
    """Encode ``pixels`` at ``quality`` (4:2:0) and decode the result into them; return whether both succeeded."""
    height, width = pixels.shape[0], pixels.shape[1]
    if not 0 < _bound(width, height, _SAMP_420) <= jpeg.size:
        return False
    cells = np.empty(2, np.int64)
    cells[0], cells[1] = jpeg.ctypes.data, jpeg.size
    cell = cells.ctypes.data
    flags = _NO_REALLOC | _ACCURATE_DCT
    pitch = pixels.strides[0]
    if _compress(encoder, pixels.ctypes.data, width, pitch, height, _RGB, cell, cell + 8, _SAMP_420, quality, flags) != 0:
        return False
    return _decode(decoder, cells[0], cells[1], pixels)


@njit(nogil=True)
def _resize(whole, task, image, filter_):  # type: ignore[no-untyped-def]
    top, left, height, width = task.top, task.left, task.height, task.width
    if task.to_height:
        resample_centre(whole, top, left, height, width, task.to_height, task.to_width, image, filter_)
    else:
        resample(whole, top, left, height, width, image, filter_)


@njit(nogil=True)
def _shift(image, row, column):  # type: ignore[no-untyped-def]
    """Let an image begin at ``row`` and ``column`` of itself, and be black outside; the reference is ``transforms.shift``."""
    height, width = image.shape[0], image.shape[1]
    original = image.copy()
    for y in range(height):
        for x in range(width):
            inside = 0 <= y + row < height and 0 <= x + column < width
            for channel in range(3):
                image[y, x, channel] = original[y + row, x + column, channel] if inside else 0


@njit(nogil=True)
def _mirror(image):  # type: ignore[no-untyped-def]
    width = image.shape[1]
    for row in range(image.shape[0]):
        for left in range(width // 2):
            for channel in range(3):
                right = width - 1 - left
                swapped = image[row, left, channel]
                image[row, left, channel] = image[row, right, channel]
                image[row, right, channel] = swapped
