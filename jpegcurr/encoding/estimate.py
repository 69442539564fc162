"""What an encode would make, told from a sample of it."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import Outputs
from jpegcurr.encoding.sources.base import Item, Source, Store
from jpegcurr.encoding.workers import cut, encode_chunk, in_order

SAMPLE = 512  # images
OVERHEAD = 48  # bytes a sample in a beton beside its JPEG


@dataclass(frozen=True, slots=True)
class EncodeEstimate:
    """Of one split.

    ``bytes_in`` is what the listing says, or the sample scaled up where it cannot tell; ``bytes_out`` and ``seconds`` are
    the sample's scaled up. ``sampled`` images were encoded, those in ``failed`` (where and why) could not be.
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
    """One image of the sample: ``sizes`` by output, in bytes, or what is wrong with it."""

    bytes_in: int
    sizes: tuple[int, ...]
    wrong: str


def estimate_splits(sources: Sequence[Source], outputs: Outputs, executor: Executor, *, seed: int = 0) -> list[EncodeEstimate]:
    """Encode up to 512 images of every split, chosen by ``seed``, and write nothing; raises EncodeError as encoding does."""
    return [_estimate(source, outputs[source.split], executor, seed) for source in sources]


def _estimate(source: Source, outputs: Mapping[Path, EncodeSpec], executor: Executor, seed: int) -> EncodeEstimate:
    specs = list(outputs.values())
    chunks = list(cut(source.items, source.items.shuffled(seed)[:SAMPLE]))
    _encode(source.store, chunks[0][:4], specs)  # first calls are slow
    began = time.perf_counter()
    encode = partial(_encode, source.store, specs=specs)
    samples = [sample for some in in_order(encode, chunks, executor, ahead=len(chunks)) for sample in some]
    share = len(source.items) / len(samples)
    seconds = (time.perf_counter() - began) * share
    totals = np.array([each.sizes for each in samples if not each.wrong]).reshape(-1, len(specs)).sum(axis=0) * share
    known = bool((source.items.sizes >= 0).all())
    bytes_in = int(source.items.sizes.sum()) if known else round(share * sum(each.bytes_in for each in samples))
    bytes_out = {path: round(total) for path, total in zip(outputs, totals.tolist(), strict=True)}
    failed = tuple(each.wrong for each in samples if each.wrong)
    return EncodeEstimate(source.split, len(source.items), bytes_in, bytes_out, seconds, len(samples), failed)


def _encode(store: Store, items: Sequence[Item], specs: Sequence[EncodeSpec]) -> list[_Sample]:
    """Encode a few images, one after the other, and keep what is asked of them: not the JPEGs."""
    samples = []
    for item in items:
        (outcome,) = encode_chunk(store, [item], specs)
        sizes = tuple(len(each.data) + OVERHEAD for each in outcome.encoded)
        wrong = f"{store.where(item)}: {outcome.reason}" if outcome.reason else ""
        samples.append(_Sample(outcome.bytes_in, sizes, wrong))
    return samples
