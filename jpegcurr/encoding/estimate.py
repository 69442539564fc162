"""Estimates of an encode from a sample of its images: sizes, time and failures."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.plan import Outputs
from jpegcurr.encoding.sources.base import Item, Source, Store
from jpegcurr.encoding.workers import encode_chunk, map_in_order, split_into_chunks

SAMPLE = 512  # images
OVERHEAD = 48  # bytes of a sample in a beton beside its JPEG


@dataclass(frozen=True, slots=True)
class EncodeEstimate:
    """The estimate of one split.

    ``bytes_in`` is the listing's total, or the sample's scaled up where the listing has no sizes; ``bytes_out`` and
    ``seconds`` are the sample's scaled up. ``sampled`` images were encoded; ``failed`` names those that could not be, each
    with its reason.
    """

    split: str
    images: int
    bytes_in: int
    bytes_out: dict[Path, int]
    seconds: float
    sampled: int
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    """One image of the sample: ``sizes`` by output, in bytes, or the description of its ``failure``."""

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
    specs = list(outputs.values())
    chunks = list(split_into_chunks(source.items, source.items.shuffled(seed)[:SAMPLE]))
    encode = partial(_encode, source.store, specs=specs, max_pixels=max_pixels)
    encode(chunks[0][:4])  # first calls are slow
    start = time.perf_counter()
    samples = [sample for chunk in map_in_order(encode, chunks, executor, ahead=len(chunks)) for sample in chunk]
    scale = len(source.items) / len(samples)
    seconds = (time.perf_counter() - start) * scale
    totals = np.array([sample.sizes for sample in samples if not sample.failure]).reshape(-1, len(specs)).sum(axis=0) * scale
    sizes_known = bool((source.items.sizes >= 0).all())
    bytes_in = int(source.items.sizes.sum()) if sizes_known else round(scale * sum(sample.bytes_in for sample in samples))
    bytes_out = {path: round(total) for path, total in zip(outputs, totals.tolist(), strict=True)}
    failed = tuple(sample.failure for sample in samples if sample.failure)
    return EncodeEstimate(source.split, len(source.items), bytes_in, bytes_out, seconds, len(samples), failed)


def _encode(store: Store, items: Sequence[Item], specs: Sequence[EncodeSpec], max_pixels: int) -> list[_Sample]:
    """Encode images one by one and keep their sizes alone, so that a sample of large images fits into memory."""
    samples = []
    for item in items:
        (outcome,) = encode_chunk(store, [item], specs, max_pixels)
        sizes = tuple(len(encoded.data) + OVERHEAD for encoded in outcome.encoded)
        failure = f"{store.locate(item)}: {outcome.reason}" if outcome.reason else ""
        samples.append(_Sample(outcome.bytes_in, sizes, failure))
    return samples
