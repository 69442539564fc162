"""Workers that read and encode chunks of images: what they do, on threads or on Dask, and their results in order."""

import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from jpegcurr.encoding.jpeg.codec import LIBRARIES, Encoded, EncodeSpec, reencode
from jpegcurr.encoding.jpeg.limits import MAX_PIXELS
from jpegcurr.encoding.sources.base import Item, Store
from jpegcurr.errors import EncodeError, ImageError, JpegcurrError, UsageError
from jpegcurr.system import available_cpus, install_command, library_versions

CHUNK = 16  # images
CHUNK_BYTES = 1 << 22
LARGEST_FILE = 1 << 30  # bytes; a larger file is no photograph, and would be read into memory whole

Part = TypeVar("Part")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one image: ``encoded`` in the order of the specs, or empty with the ``reason`` of the failure.

    ``bytes_in`` and ``crc32`` are the size and the checksum of the image's file; the checksum of a failed image is None, as is
    ``modified``, the file's time stamp (``Store.modified_at``), where no output needs it.
    """

    item: Item
    bytes_in: int
    encoded: tuple[Encoded, ...]
    reason: str = ""
    crc32: int | None = None
    modified: int | None = None


def split_into_chunks(items: Sequence[Item], positions: NDArray[np.int64]) -> Iterator[list[Item]]:
    """Yield the items at ``positions`` in that order, in lists of a few images and a few megabytes."""
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


def encode_chunk(
    store: Store,
    items: Sequence[Item],
    specs: Sequence[EncodeSpec],
    max_pixels: int = MAX_PIXELS,
    *,
    time_stamps: bool = False,
) -> list[Outcome]:
    """Read and encode a few images; a bad image becomes an outcome with a reason, a failing source raises EncodeError."""
    return [_encode_item(store, item, specs, max_pixels, time_stamps) for item in items]


def _encode_item(store: Store, item: Item, specs: Sequence[EncodeSpec], max_pixels: int, time_stamps: bool) -> Outcome:
    try:
        if item.size > LARGEST_FILE:
            raise ImageError(f"{item.size} bytes are more than an image file may have ({LARGEST_FILE})")
        data = store.read(item)
        encoded = tuple(reencode(data, specs, max_pixels, item.box.window if item.box else None))
        modified = store.modified_at(item) if time_stamps else None
        return Outcome(item, len(data), encoded, crc32=zlib.crc32(data), modified=modified)
    except ImageError as error:
        return Outcome(item, item.size, (), str(error))
    except EncodeError:
        raise
    except Exception as error:  # too little memory or a damaged file of the hub must not count as a bad image
        raise EncodeError(f"{store.locate(item)}: {type(error).__name__}: {error}.") from error


def map_in_order(
    function: Callable[[Part], Result], parts: Iterable[Part], executor: Executor, ahead: int
) -> Generator[Result, None, None]:
    """Yield ``function(part)`` for every part, in order, with at most ``ahead`` calls submitted at a time.

    Raises:
        JpegcurrError: raised by ``function``; any other exception of it or of the executor becomes an EncodeError.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for part in parts:
            pending.append(executor.submit(function, part))
            if len(pending) >= ahead:
                yield _wait(pending.popleft())
        while pending:
            yield _wait(pending.popleft())
    finally:
        for future in pending:
            future.cancel()


def _wait(future: Future[Result]) -> Result:
    try:
        return future.result()
    except JpegcurrError:
        raise
    except Exception as error:  # of the executor: a lost cluster, killed workers, too little memory
        reason = str(error) or type(error).__name__
        raise EncodeError(f"The workers failed ({type(error).__name__}): {reason.splitlines()[0]}.") from error


@contextmanager
def open_executor(threads: int | None = None, dask: str | None = None) -> Iterator[tuple[Executor, int]]:
    """Yield an executor and its number of workers: ``threads`` of this process, or the Dask cluster at the address ``dask``.

    Threads suffice on one machine, because decoding and encoding release the interpreter lock. Dask workers must see the
    images under the same paths as this process.

    Raises:
        UsageError: both arguments are given, the extra ``dask`` is not installed, no scheduler or no worker answers, or the
            workers have other versions of the libraries.
    """
    if dask is not None:
        if threads is not None:
            raise UsageError(f"--threads {threads} does nothing with --dask, whose workers have their own threads. Omit it.")
        with _open_dask_executor(dask) as executor_and_workers:
            yield executor_and_workers
        return
    workers = threads or available_cpus()
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as executor:
        yield executor, workers


@contextmanager
def _open_dask_executor(address: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(f"--dask needs the package distributed. Run {install_command('distributed')}.") from None
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError) as error:
        raise UsageError(f"No Dask scheduler answers at {address}: {error}") from None
    with client:
        _check_dask_workers(client, address)
        yield _DaskExecutor(client), sum(client.nthreads().values())


class _DaskExecutor(Executor):
    """A Dask client as an Executor.

    The one of ``Client.get_executor`` reports a result as an error if its worker dies while the result is fetched, although
    the cluster computes it again (distributed 2026.8, ``cfexecutor._cascade_future``). Dask's own futures wait for that.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def submit(self, fn: Callable[..., Any], /, *arguments: Any, **options: Any) -> Any:
        """Submit a call; return Dask's future, which has ``result`` and ``cancel``."""
        return self._client.submit(fn, *arguments, pure=False, **options)


def _check_dask_workers(client: Any, address: str) -> None:
    """Raise UsageError if the cluster has no workers, or workers whose libraries would write other bytes than ours."""
    try:
        client.wait_for_workers(1, timeout=30)
    except TimeoutError:
        raise UsageError(f"The Dask cluster at {address} has no workers. Start some: dask worker {address}.") from None
    try:
        versions_by_worker = client.run(library_versions, LIBRARIES)
    except Exception as error:  # a missing package surfaces as many kinds of exception, of distributed and of the worker
        raise UsageError(f"The workers at {address} cannot run jpegcurr: {error}. Install the same version there.") from None
    ours = library_versions(LIBRARIES)
    for worker, theirs in versions_by_worker.items():
        name = next((name for name in ours if theirs[name] != ours[name]), None)
        if name is not None:
            raise UsageError(
                f"The worker {worker} has {name} {theirs[name]}, this machine has {ours[name]}. "
                "Install the same versions on both."
            )
