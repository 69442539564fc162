"""Where chunks are encoded: this process's threads, or a Dask cluster."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from jpegcurr.encoding.beton.manifest import library_versions
from jpegcurr.errors import UsageError
from jpegcurr.system import available_cpus


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
