"""The working side: chunks of images encoded by an executor, with a bounded look-ahead, and handed back in order."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from jpegcurr.encoding.codec import Encoded, EncodeSpec, reencode
from jpegcurr.encoding.items import Item, Store
from jpegcurr.errors import EncodeError, ImageError

LARGEST_FILE = 1 << 30  # bytes; what is larger is no photograph, and would be read into memory whole


@dataclass(frozen=True, slots=True)
class Outcome:
    """One image's fate: ``encoded`` in the order of the specs, or empty with the ``reason`` it failed."""

    item: Item
    bytes_in: int
    encoded: tuple[Encoded, ...]
    reason: str = ""


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
    chunks: Iterator[list[Item]], store: Store, specs: Sequence[EncodeSpec], executor: Executor, ahead: int
) -> Generator[list[Outcome], None, None]:
    """Map ``encode_chunk`` over ``chunks`` in order with at most ``ahead`` of them under way."""
    pending: deque[Future[list[Outcome]]] = deque()
    try:
        for items in chunks:
            pending.append(executor.submit(encode_chunk, store, items, specs))
            if len(pending) >= ahead:
                yield _result(pending.popleft())
        while pending:
            yield _result(pending.popleft())
    finally:
        for future in pending:
            future.cancel()


def _result(future: "Future[list[Outcome]]") -> list[Outcome]:
    try:
        return future.result()
    except EncodeError:
        raise
    except Exception as error:  # of the executor's: a cluster that is gone, workers that were killed, memory that is short
        what = str(error) or type(error).__name__
        raise EncodeError(f"The workers failed ({type(error).__name__}): {what.splitlines()[0]}.") from error
