"""One pass over a labelled folder that writes a ``.beton`` for every quality asked for.

Workers read and encode chunks of images; one writer takes the chunks in order. The look-ahead is bounded, so memory does
not grow with the data set, and the files are the same bytes for any number of workers.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from jpegcurr.encoding.beton import MAX_PAGE_SIZE, BetonWriter, page_size_for
from jpegcurr.encoding.codec import Encoded, EncodeSpec, reencode
from jpegcurr.encoding.manifest import Manifest, items_path, library_versions, manifest_path
from jpegcurr.encoding.sources import Item, Order, Source
from jpegcurr.errors import EncodeError, ImageError
from jpegcurr.files import refuse_existing, staged

CHUNK = 16
AHEAD = 4  # chunks under way for each worker
NAMED_FAILURES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image's fate: ``encoded`` in the order of the specs, or empty with the ``reason`` it failed."""

    item: Item
    bytes_in: int
    encoded: tuple[Encoded, ...]
    reason: str = ""


def output_files(beton: Path) -> list[Path]:
    """Every file that encoding makes for one ``.beton``."""
    return [beton, manifest_path(beton), items_path(beton)]


def encode_dataset(
    source: Source,
    outputs: Mapping[Path, EncodeSpec],
    *,
    executor: Executor,
    workers: int,
    order: Order | None = None,
    seed: int = 0,
    max_failures: int = 0,
    force: bool = False,
    on_outcome: Callable[[Outcome], None] = lambda _outcome: None,
) -> dict[Path, Manifest]:
    """Encode ``source`` once for every output: ``{path of the beton: spec}``, each with its manifest beside it.

    Sample i is the same image in every output: an image that fails at one quality is left out of all. ``order`` is
    ``shuffle`` for the split called train and ``folder`` for any other unless given. ``executor`` runs
    ``encode_chunk``, which is pure and picklable, so a Dask client's executor serves as well as a thread pool.

    Raises:
        UsageError: an output exists and ``force`` is not set.
        EncodeError: more than ``max_failures`` images failed, or an output could not be written. Nothing is kept.
    """
    refuse_existing([file for beton in outputs for file in output_files(beton)], force=force)
    order = order or ("shuffle" if source.split == "train" else "folder")
    items = source.ordered(order, seed)
    page_size = page_size_for(2 * max(item.size for item in items))  # a re-encode can be larger than its source
    if page_size > MAX_PAGE_SIZE:
        raise EncodeError(f"{max(items, key=lambda item: item.size).path} is larger than a .beton can hold (2 GiB).")
    failed: list[Outcome] = []
    try:
        with ExitStack() as stack:
            writers = [stack.enter_context(_Output.opened(path, len(items), page_size)) for path in outputs]
            for outcome in _encoded_in_order(items, tuple(outputs.values()), executor, AHEAD * workers):
                outcome = _checked(outcome, writers)
                for position, writer in enumerate(writers):
                    writer.add(outcome, position)
                on_outcome(outcome)
                if outcome.reason:
                    failed.append(outcome)
                    _stop_at_too_many(failed, max_failures)
            if len(failed) == len(items):
                raise EncodeError(f"None of the {len(items)} files in {source.root} is an image that can be read.")
            return {
                writer.path: writer.finish(source, spec, order, seed)
                for writer, spec in zip(writers, outputs.values(), strict=True)
            }
    except OSError as error:
        raise EncodeError(
            f"{error.filename or next(iter(outputs)).parent}: {error.strerror}. Nothing of the split {source.split} was kept."
        ) from error


def encode_chunk(items: Sequence[Item], specs: Sequence[EncodeSpec]) -> list[Outcome]:
    """Read and encode a few images; a failure is an outcome, never an exception."""
    return [_encode_item(item, specs) for item in items]


def _encode_item(item: Item, specs: Sequence[EncodeSpec]) -> Outcome:
    try:
        data = item.path.read_bytes()
        return Outcome(item, len(data), tuple(reencode(data, specs)))
    except ImageError as error:
        return Outcome(item, item.size, (), str(error))
    except OSError as error:
        return Outcome(item, item.size, (), error.strerror or str(error))


def _encoded_in_order(items: Sequence[Item], specs: Sequence[EncodeSpec], executor: Executor, ahead: int) -> Iterator[Outcome]:
    """Map ``encode_chunk`` over ``items`` in order with at most ``ahead`` chunks under way."""
    pending: deque[Future[list[Outcome]]] = deque()
    try:
        for start in range(0, len(items), CHUNK):
            if len(pending) == ahead:
                yield from pending.popleft().result()
            pending.append(executor.submit(encode_chunk, items[start : start + CHUNK], specs))
        while pending:
            yield from pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _checked(outcome: Outcome, writers: Sequence["_Output"]) -> Outcome:
    """Turn an image that some page cannot hold into a failure, for all outputs alike."""
    try:
        for writer, encoded in zip(writers, outcome.encoded, strict=False):
            writer.beton.check_fits(encoded.data)
    except ImageError as error:
        return Outcome(outcome.item, outcome.bytes_in, (), str(error))
    return outcome


def _stop_at_too_many(failed: Sequence[Outcome], max_failures: int) -> None:
    if len(failed) <= max_failures:
        return
    named = "\n".join(f"  {outcome.item.path}: {outcome.reason}" for outcome in failed[:NAMED_FAILURES])
    images = "image" if len(failed) == 1 else "images"
    raise EncodeError(
        f"{len(failed)} {images} could not be encoded, {max_failures} may fail: stopped there. Nothing of this split was kept. "
        f"Mend or remove them, or leave up to N such images out with --max-failures N:\n{named}"
    )


class _Output:
    """One beton under way and its rows of items."""

    def __init__(self, path: Path, beton: BetonWriter, rows: TextIO, partial: Path, manifest: Path) -> None:
        self.path, self.beton = path, beton
        self._rows, self._partial, self._manifest = rows, partial, manifest
        self._keys = hashlib.sha256()
        self._images = self._failures = self._copied = self._bytes_in = self._bytes_out = 0

    @classmethod
    @contextmanager
    def opened(cls, path: Path, capacity: int, page_size: int) -> Iterator["_Output"]:
        """Stage the beton last out, so that a beton in place always has its manifest."""
        with (
            staged(path) as partial,
            staged(manifest_path(path)) as manifest,
            staged(items_path(path)) as items,
            BetonWriter(partial, capacity, page_size) as beton,
            items.open("w", encoding="utf-8") as rows,
        ):
            yield cls(path, beton, rows, partial, manifest)

    def add(self, outcome: Outcome, position: int) -> None:
        """Append one image, or the row that says why it is missing."""
        row: dict[str, str | int] = {"key": outcome.item.key, "label": outcome.item.label}
        if outcome.reason:
            self._failures += 1
            row |= {"status": "failed", "reason": outcome.reason}
        else:
            encoded = outcome.encoded[position]
            self.beton.append(encoded.data, encoded.width, encoded.height, outcome.item.label)
            self._keys.update(os.fsencode(outcome.item.key) + b"\n")
            self._images += 1
            self._copied += encoded.copied
            self._bytes_in += outcome.bytes_in
            self._bytes_out += len(encoded.data)
            row |= {"status": "copied" if encoded.copied else "encoded", "bytes": len(encoded.data)}
        self._rows.write(json.dumps(row) + "\n")

    def finish(self, source: Source, spec: EncodeSpec, order: Order, seed: int) -> Manifest:
        """Complete the beton's bytes and write its manifest."""
        self.beton.finish()
        manifest = Manifest(
            split=source.split,
            source=str(source.root),
            quality=spec.quality,
            subsampling=spec.subsampling,
            order=order,
            seed=seed,
            classes=source.classes,
            images=self._images,
            failures=self._failures,
            ignored=source.ignored,
            copied=self._copied,
            bytes_in=self._bytes_in,
            bytes_out=self._bytes_out,
            keys_sha256=self._keys.hexdigest(),
            beton_bytes=self._partial.stat().st_size,
            versions=library_versions(),
        )
        self._manifest.write_text(json.dumps(manifest.model_dump(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return manifest
