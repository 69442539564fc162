"""The working side: what an executor's workers do with a few images at a time, and how it is handed back in order."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.codec import Encoded, EncodeSpec, reencode
from jpegcurr.encoding.sources.base import Item, Store
from jpegcurr.errors import EncodeError, ImageError, JpegcurrError, UsageError
from jpegcurr.system import available_cpus, library_versions


@contextmanager
def open_executor(threads: int | None = None, dask: str | None = None) -> Iterator[tuple[Executor, int]]:
    """Yield an executor and how many workers it has.

    Threads suffice on one machine: decoding and encoding run outside the interpreter lock. With ``dask``, a scheduler's
    address, the workers must see the images under the same paths.

    Raises:
        UsageError: both are given, the extra ``dask`` is not installed, or no scheduler or no worker answers as it should.
    """
    if dask is not None:
        if threads is not None:
            raise UsageError(f"--threads {threads} does nothing with --dask, whose workers have theirs. Leave it away.")
        with _dask_executor(dask) as found:
            yield found
        return
    workers = threads or available_cpus()
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as executor:
        yield executor, workers


@contextmanager
def _dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("--dask needs the package distributed: pip install 'jpegcurr[dask]'.") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"No Dask scheduler answers at {address}: {error}") from None
    with client:
        _check_workers(client, address)
        yield client.get_executor(), sum(client.nthreads().values())


def _check_workers(client: Any, address: str) -> None:
    """Raise UsageError if nobody works there, or with other libraries than ours, which would make other bytes."""
    try:
        client.wait_for_workers(1, timeout=30)
    except TimeoutError:
        raise UsageError(f"The Dask cluster at {address} has no workers. Start some: dask worker {address}.") from None
    try:
        found = client.run(library_versions)
    except Exception as error:  # whatever a worker or distributed makes of a package that is not there
        raise UsageError(f"The workers at {address} cannot run jpegcurr: {error}. Install the same version there.") from None
    ours = library_versions()
    for worker, theirs in found.items():
        other = next((name for name in ours if theirs[name] != ours[name]), None)
        if other is not None:
            raise UsageError(f"{worker} has {other} {theirs[other]}, here it is {ours[other]}. Give all the same packages.")


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
