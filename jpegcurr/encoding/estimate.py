"""Estimates of an encode from a sample of its images: sizes, time and failures, and whether the files fit on the disk."""

import logging
import shutil
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from math import sqrt
from pathlib import Path

import numpy as np

from jpegcurr.encoding.beton.manifest import items_path
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.outputs.formats import OUTPUT_FORMATS
from jpegcurr.encoding.outputs.paths import format_of
from jpegcurr.encoding.plan import Outputs
from jpegcurr.encoding.resume import partial_files
from jpegcurr.encoding.sources.base import Item, Source, Store
from jpegcurr.encoding.workers import encode_chunk, map_in_order, split_into_chunks
from jpegcurr.errors import UsageError
from jpegcurr.files import nearest_folder
from jpegcurr.text import megabytes

SAMPLE = 512  # images
ROW = 120  # bytes of an image's row in the items, at least
GROWTH = 2  # no data set grows more than this when it is encoded again
CERTAIN = 3  # standard errors

log = logging.getLogger("jpegcurr")


@dataclass(frozen=True, slots=True)
class EncodeEstimate:
    """The estimate of one split.

    ``bytes_in`` is the listing's total, or the sample's scaled up where the listing has no sizes; ``bytes_out`` and
    ``seconds`` are the sample's scaled up, and ``bytes_error`` is the standard error of ``bytes_out``, which is 0 where all
    images were encoded. ``sampled`` images were encoded; ``failed`` names those that could not be, each with its reason.
    """

    split: str
    images: int
    bytes_in: int
    bytes_out: dict[Path, int]
    seconds: float
    sampled: int
    failed: tuple[str, ...]
    bytes_error: dict[Path, float]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One image of the sample: ``sizes`` of its JPEGs by encoding, in bytes, or the description of its ``failure``."""

    bytes_in: int
    sizes: tuple[int, ...]
    failure: str


def estimate_splits(
    sources: Sequence[Source], outputs: Outputs, executor: Executor, *, seed: int = 0, max_pixels: int = MAX_PIXELS
) -> list[EncodeEstimate]:
    """Encode up to 512 images of every split, chosen by ``seed``, and write nothing; raises EncodeError as encoding does."""
    return [_estimate(source, outputs[source.split], executor, seed, max_pixels) for source in sources]


def _estimate(
    source: Source, outputs: Mapping[Path, EncodeSpec], executor: Executor, seed: int, max_pixels: int
) -> EncodeEstimate:
    specs = list(dict.fromkeys(outputs.values()))  # several formats share an encoding
    chunks = list(split_into_chunks(source.items, source.items.shuffled(seed)[:SAMPLE]))
    encode = partial(_encode, source.store, specs=specs, max_pixels=max_pixels)
    encode(chunks[0][:4])  # first calls are slow
    start = time.perf_counter()
    samples = [sample for chunk in map_in_order(encode, chunks, executor, ahead=len(chunks)) for sample in chunk]
    scale = len(source.items) / len(samples)
    seconds = (time.perf_counter() - start) * scale
    encoded = np.array([sample.sizes or (0,) * len(specs) for sample in samples], np.float64)  # a failure takes no space
    overheads = np.array([OUTPUT_FORMATS[format_of(path)].overhead for path in outputs], np.float64)
    sizes = encoded[:, [specs.index(spec) for spec in outputs.values()]]
    sizes += overheads * (sizes > 0)
    totals = sizes.sum(axis=0) * scale
    errors = sizes.std(axis=0) * len(source.items) / sqrt(len(samples)) * sqrt(1 - len(samples) / len(source.items))
    sizes_known = bool((source.items.sizes >= 0).all())
    bytes_in = int(source.items.sizes.sum()) if sizes_known else round(scale * sum(sample.bytes_in for sample in samples))
    bytes_out = {path: round(total) for path, total in zip(outputs, totals.tolist(), strict=True)}
    bytes_error = dict(zip(outputs, errors.tolist(), strict=True))
    failed = tuple(sample.failure for sample in samples if sample.failure)
    return EncodeEstimate(source.split, len(source.items), bytes_in, bytes_out, seconds, len(samples), failed, bytes_error)


def _encode(store: Store, items: Sequence[Item], specs: Sequence[EncodeSpec], max_pixels: int) -> list[_Sample]:
    """Encode images one by one and keep their sizes alone, so that a sample of large images fits into memory."""
    samples = []
    for item in items:
        (outcome,) = encode_chunk(store, [item], specs, max_pixels)
        sizes = tuple(len(encoded.data) for encoded in outcome.encoded)
        failure = f"{store.locate(item)}: {outcome.reason}" if outcome.reason else ""
        samples.append(_Sample(outcome.bytes_in, sizes, failure))
    return samples


def refuse_too_large(
    sources: Sequence[Source], outputs: Outputs, executor: Executor, *, resume: bool = False, max_pixels: int = MAX_PIXELS
) -> None:
    """Raise UsageError if the outputs surely do not fit on their disks; warn if they probably do not.

    The listing's sizes settle most cases at no cost: outputs that fit even at twice their sources' sizes are taken to fit.
    Otherwise a sample is encoded as for a dry run, and its estimate less three standard errors must fit, so an encode that
    would fit is refused in about one case of a thousand. With ``resume``, what is on the disk already is subtracted.

    It cannot know what other programs write or delete in the meantime, quotas, or sizes that a listing lacks (they count as 0).

    Raises:
        EncodeError: the source fails, as in an encode.
    """
    free: dict[int, int] = {}
    rough: dict[int, int] = defaultdict(int)
    devices: dict[Path, int] = {}
    for source in sources:
        size = int(source.items.sizes.clip(min=0).sum())
        for path in outputs[source.split]:
            folder = nearest_folder(path.parent)
            device = devices[path] = folder.stat().st_dev
            free.setdefault(device, shutil.disk_usage(folder).free)
            rough[device] += GROWTH * size
    if all(rough[device] <= free[device] for device in free):
        return
    estimates = estimate_splits(sources, outputs, executor, max_pixels=max_pixels)
    for device, space in free.items():
        needs = [
            (path, size + ROW * estimate.images, estimate)
            for estimate in estimates
            for path, size in estimate.bytes_out.items()
        ]
        needs = [need for need in needs if devices[need[0]] == device]
        needed = sum(size - (min(size, _present(path)) if resume else 0) for path, size, _ in needs)
        by_split: dict[str, float] = defaultdict(float)
        for path, _, estimate in needs:  # the same images are large at every quality
            by_split[estimate.split] += estimate.bytes_error[path]
        error = sqrt(sum(value**2 for value in by_split.values()))
        message = f"{needs[0][0].parent} needs about {megabytes(needed)} more, and {megabytes(space)} are free"
        if needed - CERTAIN * error > space:
            raise UsageError(
                f"{message}, so this encode does not fit; nothing was written. Free space, choose another place with -o, or "
                "encode less (--quality, --max-side, --split, --limit). --dry-run says what each file needs."
            )
        if needed > space:
            log.warning("%s: it may not fit", message)


def _present(path: Path) -> int:
    """Return the bytes on the disk of an output and its items, finished or not, which --resume keeps."""
    versions = (partial_files(path)[1:], [path, items_path(path)])
    return max(sum(map(_allocated, files)) for files in versions)


def _allocated(path: Path) -> int:
    """Return the bytes that a file, or all files of a folder, take on the disk; their size where the system does not say."""
    sizes = [file.stat() for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return sum(512 * int(getattr(status, "st_blocks", -(-status.st_size // 512))) for status in sizes)
