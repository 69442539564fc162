#!/usr/bin/env python3
"""Time and memory of opening a beton as long as ImageNet for training, up to the first batch: our loaders and FFCV's own.

The file holds copies of one tiny JPEG, in a temporary folder (below TMPDIR; half a gigabyte). The benchmark therefore measures
the parts that grow with the number of samples: the index, what a loader keeps of it, and the order of an epoch.

Every run is a process of its own, which imports all modules before the clock starts. "open" ends when the loader exists: for
ours it covers ``Beton`` and the loader's constructor. "first batch" also covers the order of the epoch, the start of threads,
one batch and, with stock FFCV, compilation, which FfcvLoader does in its constructor. Memory is resident memory beyond that at
the start, including pages of the mapped file; "peak" is its maximum so far.
"""

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from common import bench_parser, circumstances, record
from loader import OURS, SOURCE, STOCK, Options, can_open, create_sampler, open_ours, open_stock
from PIL import Image

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.beton.writer import BetonWriter

IMAGENET, CLASSES = 1_281_167, 1000
SIDE = 32  # pixels of the JPEG
OPTIONS = Options(size=224, batch=64, workers=2)
COMPILED, FFCV, PLAIN = "CompiledLoader", "FfcvLoader", "PlainLoader"
IMPORTS = {
    COMPILED: ("jpegcurr.training.data.decode_kernel", "jpegcurr.training.data.thread_loader"),
    PLAIN: ("jpegcurr.training.data.thread_loader",),
    FFCV: ("jpegcurr.training.data.ffcv_loader",),
    STOCK: ("ffcv.loader", "ffcv.transforms", "ffcv.fields.rgb_image"),
}
BETON, OPEN, FIRST = "Beton alone", "open", "first batch"
SECONDS, MEGABYTES = 0, 1
UNITS = ("seconds", "MB")
# Required maxima: seconds and MB until PlainLoader is open, and the ratio of FfcvLoader to stock FFCV.
PLAIN_MOST = (0.5, 150)
FFCV_MOST = 1.0

# Seconds, resident megabytes and their peak since the start, by step.
Marks = dict[str, tuple[float, float, float]]


def make_beton(path: Path, samples: int) -> None:
    """Write a beton of one picture, repeated ``samples`` times, with labels of all classes."""
    data = BytesIO()
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(data, "JPEG", quality=50, optimize=True)
    jpeg = data.getvalue()
    with BetonWriter(path, samples) as writer:
        for number in range(samples):
            writer.append(jpeg, SIDE, SIDE, number % CLASSES)
        writer.finish()


class Meter:
    """A meter of time and memory since its construction."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
        self.marks: Marks = {}
        self._before, _ = resident()
        self._start = time.perf_counter()

    def mark(self, step: str) -> None:
        """Record time and memory at the end of a step."""
        seconds = time.perf_counter() - self._start
        now, peak = resident()
        self.marks[step] = seconds, now - self._before, peak - self._before


def resident() -> tuple[float, float]:
    """Return the resident megabytes of this process, now and at their peak."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    now, peak = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak


def open_once(name: str, path: Path) -> Marks:
    """Open a loader and load one batch, in a fresh process; return the marks."""
    for module in IMPORTS[name]:
        import_module(module)
    meter = Meter()
    if name == STOCK:
        loader = open_stock(path, OPTIONS)
        meter.mark(OPEN)
        batches = iter(loader)
    else:
        beton = Beton(path)
        meter.mark(BETON)
        loader = open_ours(name, create_sampler({SOURCE: beton}, OPTIONS))
        meter.mark(OPEN)
        batches = loader.at(0)
    next(batches)
    meter.mark(FIRST)
    return meter.marks


def measure(path: Path, runs: int) -> dict[str, list[Marks]]:
    """Return the marks of ``runs`` rounds by loader, after a warm-up round that fills numba's cache on disk."""
    names = [name for name in IMPORTS if (can_open(OURS[name]) if name in OURS else find_spec("ffcv"))]
    results: dict[str, list[Marks]] = {name: [] for name in names}
    for turn in range(runs + 1):
        print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)
        for name in names:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                marks = process.submit(open_once, name, path).result()
            results[name] += [marks] if turn else []
    return results


def medians(runs: Sequence[Marks], step: str) -> tuple[float, ...]:
    """Return the medians of seconds, megabytes and their peak."""
    return tuple(statistics.median(column) for column in zip(*(marks[step] for marks in runs), strict=True))


def table(results: Mapping[str, Sequence[Marks]]) -> list[str]:
    """Return a line for every loader and step."""
    lines = [f"{'since the start':<32}{'seconds':>8}{'min':>8}{'max':>8}{'MB':>8}{'peak':>8}"]
    for name, runs in results.items():
        for step in runs[0]:
            seconds, megabytes, peak = medians(runs, step)
            times = [marks[step][SECONDS] for marks in runs]
            numbers = f"{seconds:>8.2f}{min(times):>8.2f}{max(times):>8.2f}{megabytes:>8.0f}{peak:>8.0f}"
            lines.append(f"{f'{name}, {step}':<32}{numbers}")
    return lines


def targets(results: Mapping[str, Sequence[Marks]]) -> list[tuple[str, float, float]]:
    """Return (name, metric, required maximum)."""
    rows = [(f"{PLAIN}, {OPEN}: {unit}", medians(results[PLAIN], OPEN)[i], PLAIN_MOST[i]) for i, unit in enumerate(UNITS)]
    if FFCV in results:
        for step in (OPEN, FIRST):
            ours, stock = medians(results[FFCV], step), medians(results[STOCK], step)
            rows += [(f"{FFCV} against {STOCK}, {step}: {unit}", ours[i] / stock[i], FFCV_MOST) for i, unit in enumerate(UNITS)]
    return rows


def main() -> None:
    """Measure all loaders and print their time and memory."""
    parser = bench_parser(__doc__, runs=3)
    parser.add_argument("--samples", type=int, default=IMAGENET, help=f"number of samples ({IMAGENET})")
    arguments = parser.parse_args()
    if arguments.samples < OPTIONS.batch:
        parser.error(f"--samples is {OPTIONS.batch} or more")
    with TemporaryDirectory(prefix="bench-open-") as folder:
        path = Path(folder) / "train.beton"
        make_beton(path, arguments.samples)
        results = measure(path, arguments.runs)
        counts = f"{arguments.samples} samples, {path.stat().st_size / 1e6:.0f} MB, {arguments.runs} runs after one warm-up"
    rows = targets(results)
    lines = [
        f"{name:<52}{value:>8.2f}   required: at most {most}{'' if value <= most else ', missed'}" for name, value, most in rows
    ]
    print(
        "\n".join([*table(results), "", *lines, "", counts, *(f"{name}: {value}" for name, value in circumstances().items())])
    )
    steps = {f"{name}, {step}": medians(runs, step) for name, runs in results.items() for step in runs[0]}
    metrics = {
        "counts": counts,
        "seconds_mb_peak_mb": {name: [round(value, 2) for value in values] for name, values in steps.items()},
        "asked": {name: round(value, 3) for name, value, _ in rows},
    }
    record(arguments.json, "open", metrics)


if __name__ == "__main__":
    main()
