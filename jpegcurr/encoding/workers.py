"""The working side: what an executor's workers do with a few images at a time, and how it is handed back in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.codec import Encoded, EncodeSpec, reencode
from jpegcurr.encoding.sources.base import Item, Store
from jpegcurr.errors import EncodeError, ImageError, JpegcurrError

Part = TypeVar("Part")
Result = TypeVar("Result")

CHUNK = 16  # images
CHUNK_BYTES = 1 << 22
LARGEST_FILE = 1 << 30  # bytes; what is larger is no photograph, and would be read into memory whole


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image's fate: ``encoded`` in the order of the specs, or empty with the ``reason`` it failed."""

    item: Item
    bytes_in: int
    encoded: tuple[Encoded, ...]
    reason: str = ""


def cut(items: Sequence[Item], positions: NDArray[np.int64]) -> Iterator[list[Item]]:
    """Yield the items at ``positions`` in that order, a few images and a few megabytes at a time."""
    chunk: list[Item] = []
    size = 0
    for position in positions:
        chunk.append(items[int(position)])
        size += chunk[-1].size
        if len(chunk) == CHUNK or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def encode_chunk(store: Store, items: Sequence[Item], specs: Sequence[EncodeSpec]) -> list[Outcome]:
    """Read and encode a few images; an image's failure is an outcome, the source's (EncodeError) is not."""
    return [_encode_item(store, item, specs) for item in items]


def _encode_item(store: Store, item: Item, specs: Sequence[EncodeSpec]) -> Outcome:
    try:
        if item.size > LARGEST_FILE:
            raise ImageError(f"{item.size} bytes are more than an image file may have ({LARGEST_FILE})")
        data = store.read(item)
        return Outcome(item, len(data), tuple(reencode(data, specs)))
    except ImageError as error:
        return Outcome(item, item.size, (), str(error))
    except EncodeError:
        raise
    except Exception as error:  # memory that is short, a hub's file that is damaged: not to be taken for a bad image
        raise EncodeError(f"{store.where(item)}: {type(error).__name__}: {error}.") from error


def in_order(
    do: Callable[[Part], Result], parts: Iterable[Part], executor: Executor, ahead: int
) -> Generator[Result, None, None]:
    """Map ``do`` over ``parts`` in order with at most ``ahead`` of them under way.

    Raises:
        JpegcurrError: what ``do`` raises; an EncodeError for whatever else it or the executor does.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for part in parts:
            pending.append(executor.submit(do, part))
            if len(pending) >= ahead:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        for future in pending:
            future.cancel()


def _result(future: Future[Result]) -> Result:
    try:
        return future.result()
    except JpegcurrError:
        raise
    except Exception as error:  # of the executor's: a cluster that is gone, workers that were killed, memory that is short
        what = str(error) or type(error).__name__
        raise EncodeError(f"The workers failed ({type(error).__name__}): {what.splitlines()[0]}.") from error
