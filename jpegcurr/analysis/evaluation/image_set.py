"""Images as they lie in folders, archives or tables, as a validation set: whatever ``encode`` takes, without a beton."""

import hashlib
import logging
import os
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from jpegcurr.analysis.evaluation.jpeg_bytes import NOTHING, JpegBytes
from jpegcurr.encoding.jpeg.codec import EncodeSpec, decode_rgb, reencode
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.sources.base import Source
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import map_in_order, open_executor
from jpegcurr.errors import ImageError, UsageError
from jpegcurr.recipe.schema import ImageSection
from jpegcurr.recipe.values import OnTheFlyJpeg
from jpegcurr.runtime import Runtime
from jpegcurr.training.data.classes import Classes, Labels, match_targets
from jpegcurr.training.data.sampling import Batch
from jpegcurr.training.data.targets import SoftTargets
from jpegcurr.training.data.transforms import centre_crop

log = logging.getLogger("jpegcurr")

LEFT_OUT = -100  # the label of an image that cannot be read; torch's cross-entropy ignores it
AHEAD = 4  # batches whose images are read while the model works


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One split of a data set, and how its images are encoded again when they are loaded; None if they are not.

    ``matched`` are the labels as numbers of a model's classes, int64 [n]; None where they are those of the source. An image of
    more than ``max_pixels`` is not read. ``soft`` are the distributions that the model's targets give the images, if any.
    """

    path: Path
    source: Source
    on_the_fly: OnTheFlyJpeg | None = None
    matched: Labels | None = None
    quality: Literal["source"] = "source"
    max_pixels: int = MAX_PIXELS
    soft: SoftTargets | None = None

    def __len__(self) -> int:
        return len(self.source.items)

    @property
    def classes(self) -> Classes:
        """The classes of the source."""
        return Classes(self.source.classes, known=True, owner=str(self.path))

    @property
    def labels(self) -> Labels:
        """The label of every image, int64 [n]: that of the source, or the matched one."""
        return self.source.items.labels if self.matched is None else self.matched

    def match(self, model: Classes) -> "ImageSet":
        """Return the set with labels that are numbers of the classes of ``model``; raises UsageError if one is lacking."""
        of_keys = self.source.shares
        shares = None if of_keys is None else [of_keys[item.key] for item in self.source.items]
        matched, soft = match_targets(self.source.items.labels, shares, self.classes, model)
        return replace(self, matched=matched, soft=soft)

    @property
    def keys(self) -> str:
        """A fingerprint of the images' names and their order."""
        digest = hashlib.sha256()
        for item in self.source.items:
            digest.update(os.fsencode(item.key) + b"\n")
        return digest.hexdigest()


def open_images(path: Path, labels: Path | None = None, max_pixels: int = MAX_PIXELS) -> ImageSet:
    """Open a folder, archive, or whatever else ``encode`` takes: its split ``val``, or its only one.

    Raises:
        SourceError: it cannot be read as a labelled data set.
        UsageError: it has several splits, and none is ``val``.
    """
    sources = {source.split: source for source in open_sources(str(path), labels=labels)}
    if len(sources) > 1 and "val" not in sources:
        raise UsageError(f"{path} has the splits {', '.join(sources)}, and none is val. Name the folder of one of them.")
    source = sources.get("val") or next(iter(sources.values()))
    if len(sources) > 1:
        log.info("%s: its split val is evaluated", path)
    return ImageSet(path, source, max_pixels=max_pixels)


class ImageLoader:
    """Batches of an ``ImageSet``, as both loaders yield them of betons: read, encoded before the crop if at all, and cropped.

    With several processes each image belongs to exactly one, as in ``EpochSampler``. An image that cannot be read has the label
    ``LEFT_OUT`` and is in ``unread``, with the reason. ``read`` counts those of this process that were read, at the quality at
    which they are encoded before the crop: the bytes of the files where that is ``source``.
    """

    replaced = 0

    def __init__(self, images: ImageSet, section: ImageSection, batch: int, runtime: Runtime, workers: int) -> None:
        self._images, self._section, self._batch, self._runtime, self._workers = images, section, batch, runtime, workers
        self._positions = range(runtime.world.rank, len(images), runtime.world.ranks)
        self.unread: list[tuple[str, str]] = []
        self.read = NOTHING

    def __len__(self) -> int:
        return -(-len(self._positions) // self._batch)

    def at(self, _epoch: int, first: int = 0) -> Generator[Batch]:
        """Yield every image of this process once, from batch ``first`` on."""
        positions = self._positions[first * self._batch :]
        with (
            open_executor(max(1, self._workers)) as (executor, _),
            closing(map_in_order(self._prepare, positions, executor, AHEAD * self._batch)) as prepared,
        ):
            while rows := list(islice(prepared, self._batch)):
                yield self._to_batch(rows)

    def _prepare(self, position: int) -> "_Prepared":
        """Read one image, encode it and crop it."""
        item, on_the_fly = self._images.source.items[position], self._images.on_the_fly
        quality = on_the_fly.quality if on_the_fly is not None and isinstance(on_the_fly.quality, int) else None
        max_pixels = self._images.max_pixels
        try:
            data = self._images.source.store.read(item)
            if quality is not None:
                data = reencode(data, [EncodeSpec(quality)], max_pixels)[0].data
            pixels = decode_rgb(data, scratch=True, max_pixels=max_pixels)
            counted = JpegBytes(1, len(data), pixels.shape[0] * pixels.shape[1])
            crop = centre_crop(pixels, self._section)
        except ImageError as error:
            size = self._section.size
            return _Prepared(position, torch.zeros(3, size, size, dtype=torch.uint8), NOTHING, str(error))
        return _Prepared(position, crop, counted)

    def _to_batch(self, rows: Sequence["_Prepared"]) -> Batch:
        positions = np.array([prepared.position for prepared in rows], np.int64)
        labels = self._images.labels[positions].copy()
        for row, prepared in enumerate(rows):
            self.read += prepared.counted
            if prepared.reason:
                labels[row] = LEFT_OUT
                item = self._images.source.items[prepared.position]
                self.unread.append((self._images.source.store.locate(item), prepared.reason))
        images = torch.stack([prepared.crop for prepared in rows]).contiguous(memory_format=torch.channels_last)
        soft = self._images.soft
        targets = None if soft is None else self._runtime.upload(torch.from_numpy(soft.of(positions)))
        return Batch(self._runtime.upload(images), self._runtime.upload(torch.from_numpy(labels)), positions, 0, 0, targets)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The crop of an image, uint8 [3 s s], and the bytes that it was decoded from; or the ``reason`` why it cannot be read."""

    position: int
    crop: torch.Tensor
    counted: JpegBytes
    reason: str = ""
