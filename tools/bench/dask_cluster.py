#!/usr/bin/env python3
"""Images/s of encoding on a local Dask cluster of worker processes and with as many threads, in turns.

The cost of Dask is the transfer of every result through the scheduler to the one writer.
"""

import statistics
import time
from concurrent.futures import Executor
from pathlib import Path
from tempfile import TemporaryDirectory

from common import bench_parser, circumstances, record
from distributed import LocalCluster

from jpegcurr.encoding.encode import encode_dataset
from jpegcurr.encoding.jpeg.codec import EncodeSpec
from jpegcurr.encoding.plan import plan_outputs
from jpegcurr.encoding.sources.open import open_sources
from jpegcurr.encoding.workers import open_executor


def images_per_second(folder: Path, spec: EncodeSpec, executor: Executor, workers: int) -> float:
    """Encode once; return images per second of wall-clock time."""
    with TemporaryDirectory(prefix="bench-dask-") as out:
        start = time.perf_counter()
        sources = open_sources(folder)
        encode_dataset(sources, plan_outputs(sources, [spec], Path(out)), executor=executor, workers=workers)
        return sum(len(source.items) for source in sources) / (time.perf_counter() - start)


def main() -> None:
    """Measure both and print the medians."""
    parser = bench_parser(__doc__, folder=True, workers=2, runs=5)
    arguments = parser.parse_args()
    rates: dict[str, list[float]] = {}
    quiet = {"dashboard_address": None, "worker_dashboard_address": None, "silence_logs": 50}
    with (
        LocalCluster(n_workers=arguments.workers, threads_per_worker=1, **quiet) as cluster,
        open_executor(dask=cluster.scheduler_address) as (dask, _),
        open_executor(arguments.workers) as (threads, _),
    ):
        for turn in range(arguments.runs + 1):
            for spec in (EncodeSpec(50), EncodeSpec("source")):
                for name, executor in (("threads", threads), ("Dask", dask)):
                    rate = images_per_second(arguments.folder, spec, executor, arguments.workers)
                    rates.setdefault(f"{spec.name}, {name}", []).extend([rate] if turn else [])
    medians = {name: round(statistics.median(values)) for name, values in rates.items()}
    counts = f"{arguments.workers} workers, {arguments.runs} runs after one warm-up"
    for name, value in (medians | {"counts": counts} | circumstances()).items():
        print(f"{name}: {value}")
    record(arguments.json, "dask", {"counts": counts, "images_per_second": medians})


if __name__ == "__main__":
    main()
