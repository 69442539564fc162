"""Where chunks are encoded: this process's threads, or a Dask cluster."""

import os
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager

from jpegcurr.errors import UsageError


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_executor(threads: int | None = None, dask: str | None = None) -> Iterator[tuple[Executor, int]]:
    """Yield an executor and how many workers it has.

    Threads suffice on one machine: decoding and encoding run outside the interpreter lock. With ``dask``, a scheduler's
    address, the workers must see the images under the same paths.

    Raises:
        UsageError: the extra ``dask`` is not installed, or no scheduler answers.
    """
    if dask is not None:
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
        yield client.get_executor(), max(1, sum(client.nthreads().values()))
