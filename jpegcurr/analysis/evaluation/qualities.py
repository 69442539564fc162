"""Several JPEG qualities after the resize, of images that are read, decoded and resized once for all of them."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from jpegcurr.analysis.evaluation.image_set import ImageSet
from jpegcurr.encoding.jpeg.codec import round_trip
from jpegcurr.encoding.jpeg.pillow import Pixels
from jpegcurr.runtime import Runtime
from jpegcurr.training.augment.exact_jpeg import jpeg
from jpegcurr.training.data.datasets import Dataset
from jpegcurr.training.data.loaders import loading_workers
from jpegcurr.training.data.sampling import Batch

EvaluationSet = Dataset | ImageSet


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the images of ``dataset``, at each of ``qualities`` after the resize; None is without a JPEG there.

    ``columns`` are the positions, among all data sets, of those whose pass it is, one for each quality.
    """

    dataset: EvaluationSet
    columns: tuple[int, ...]
    qualities: tuple[int | None, ...]


def plan_pass(dataset: EvaluationSet, datasets: Sequence[EvaluationSet]) -> Pass:
    """Plan the pass of ``dataset`` and of those of ``datasets`` that differ from it in nothing but a JPEG after the resize."""
    if not _is_after_resize(dataset):
        columns = tuple(column for column, candidate in enumerate(datasets) if candidate is dataset)
        return Pass(dataset, columns, (None,) * len(columns))
    columns = tuple(column for column, candidate in enumerate(datasets) if _has_same_views(dataset, candidate))
    return Pass(replace(dataset, on_the_fly=None), columns, tuple(_quality(datasets[column]) for column in columns))


def _has_same_views(one: EvaluationSet, other: EvaluationSet) -> bool:
    same_labels = one.matched is other.matched and one.soft is other.soft
    return _is_after_resize(other) and _store(one) is _store(other) and same_labels


def _is_after_resize(dataset: EvaluationSet) -> bool:
    on_the_fly = dataset.on_the_fly
    return on_the_fly is None or (on_the_fly.stage == "after_resize" and on_the_fly.fixed)


def _store(dataset: EvaluationSet) -> object:
    return dataset.beton if isinstance(dataset, Dataset) else dataset.source


def _quality(dataset: EvaluationSet) -> int | None:
    quality = None if dataset.on_the_fly is None else dataset.on_the_fly.quality
    return quality if isinstance(quality, int) else None


def batches_at(batches: Iterable[Batch], qualities: Sequence[int | None], runtime: Runtime) -> Iterator[Batch]:
    """Yield every batch once for each of ``qualities``, as a JPEG of it shows the images; as they are for None.

    A GPU encodes by integer arithmetic. On a CPU a codec does on threads, all qualities of a batch while the caller works on
    the first. The pixels are Pillow's to the bit either way.
    """
    if all(quality is None for quality in qualities):
        yield from (batch for batch in batches for _ in qualities)
    elif runtime.jpeg_on_device:
        for batch in batches:
            for quality in qualities:
                yield batch if quality is None else batch._replace(images=_by_arithmetic(batch.images, quality))
    else:
        yield from _by_codec(batches, qualities, loading_workers(runtime.world.local_ranks))


def _by_arithmetic(images: torch.Tensor, quality: int) -> torch.Tensor:
    return jpeg(images, quality).contiguous(memory_format=torch.channels_last)


def _by_codec(batches: Iterable[Batch], qualities: Sequence[int | None], threads: int) -> Iterator[Batch]:
    pool = ThreadPoolExecutor(threads, thread_name_prefix="encode")
    try:
        for batch in batches:
            pictures = list(batch.images.permute(0, 2, 3, 1).numpy())
            started = [None if quality is None else _start(pool, pictures, quality) for quality in qualities]
            for encoded in started:
                yield batch if encoded is None else batch._replace(images=_finish(encoded))
    finally:
        pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, pictures: Sequence[Pixels], quality: int) -> list["Future[Pixels]"]:
    return [pool.submit(round_trip, picture, quality) for picture in pictures]


def _finish(encoded: "Sequence[Future[Pixels]]") -> torch.Tensor:
    """Return uint8 [b 3 h w] in channels_last."""
    return torch.from_numpy(np.stack([future.result() for future in encoded])).permute(0, 3, 1, 2)
