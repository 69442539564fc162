#!/usr/bin/env python3
"""Time and memory of opening a beton as long as ImageNet for training, up to the first batch: our two loaders and FFCV's own.

The file holds one tiny JPEG over and over, in a temporary folder (TMPDIR says where; half a gigabyte). So what is measured is
what grows with the number of samples: the index, what a loader keeps of it, and the order of an epoch.

Every run is a process of its own, which has imported all that it needs before the clock starts. "open" is until the loader
exists, which with ours is ``Beton`` and the loader's constructor; "first batch" goes on from there: drawing the order of the
epoch, starting threads, making a batch and, with stock FFCV, compiling, which FfcvLoader does when it is constructed. Memory
is what is resident beyond what was at the start, pages of the mapped file included; "peak" is the most there was on the way.
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
from loader import SOURCE, STOCK, Options, open_ours, open_stock, view_of
from PIL import Image

from jpegcurr.encoding.beton.reader import Beton
from jpegcurr.encoding.beton.writer import BetonWriter

IMAGENET, CLASSES = 1_281_167, 1000
SIDE = 32  # of the JPEG, pixels
OPTIONS = Options(size=224, batch=64, workers=2)
FFCV, PLAIN = "FfcvLoader", "PlainLoader"
IMPORTS = {
    PLAIN: ("jpegcurr.training.data.thread_loader",),
    FFCV: ("jpegcurr.training.data.ffcv_loader",),
    STOCK: ("ffcv.loader", "ffcv.transforms", "ffcv.fields.rgb_image"),
}
BETON, OPEN, FIRST = "Beton alone", "open", "first batch"
SECONDS, MEGABYTES = 0, 1
UNITS = ("seconds", "MB")
# What is asked at most: of PlainLoader until it is open, of FfcvLoader as many times what stock FFCV takes.
PLAIN_MOST = (0.5, 150)
FFCV_MOST = 1.0

# Since the start, at each step: seconds, resident megabytes, and the most that these have been.
Marks = dict[str, tuple[float, float, float]]


def make_beton(path: Path, samples: int) -> None:
    """One picture, in all classes."""
    data = BytesIO()
    Image.linear_gradient("L").resize((SIDE, SIDE)).convert("RGB").save(data, "JPEG", quality=50, optimize=True)
    jpeg = data.getvalue()
    with BetonWriter(path, samples) as writer:
        for number in range(samples):
            writer.append(jpeg, SIDE, SIDE, number % CLASSES)
        writer.finish()


class Meter:
    """Starts when it is made."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
        self.marks: Marks = {}
        self._before, _ = resident()
        self._start = time.perf_counter()

    def mark(self, step: str) -> None:
        """Note where it stands."""
        seconds = time.perf_counter() - self._start
        now, peak = resident()
        self.marks[step] = seconds, now - self._before, peak - self._before


def resident() -> tuple[float, float]:
    """Megabytes of this process: now, and at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    now, peak = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return now, peak


def open_once(name: str, path: Path) -> Marks:
    """Open and take a batch, in a process that has done nothing else."""
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
        loader = open_ours(name, view_of({SOURCE: beton}, OPTIONS))
        meter.mark(OPEN)
        batches = loader.at(0)
    next(batches)
    meter.mark(FIRST)
    return meter.marks


def measure(path: Path, runs: int) -> dict[str, list[Marks]]:
    """Turn by turn, after one round that does not count: numba keeps on the disk what it compiled there for FfcvLoader."""
    names = [name for name in IMPORTS if name == PLAIN or find_spec("ffcv")]
    found: dict[str, list[Marks]] = {name: [] for name in names}
    for turn in range(runs + 1):
        print(f"round {turn} of {runs}" if turn else "warm-up", file=sys.stderr)
        for name in names:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                marks = process.submit(open_once, name, path).result()
            found[name] += [marks] if turn else []
    return found


def medians(runs: Sequence[Marks], step: str) -> tuple[float, ...]:
    """Of seconds, megabytes and their peak."""
    return tuple(statistics.median(column) for column in zip(*(marks[step] for marks in runs), strict=True))


def table(found: Mapping[str, Sequence[Marks]]) -> list[str]:
    """A line for each step."""
    lines = [f"{'since the start':<32}{'seconds':>8}{'min':>8}{'max':>8}{'MB':>8}{'peak':>8}"]
    for name, runs in found.items():
        for step in runs[0]:
            seconds, megabytes, peak = medians(runs, step)
            every = [marks[step][SECONDS] for marks in runs]
            numbers = f"{seconds:>8.2f}{min(every):>8.2f}{max(every):>8.2f}{megabytes:>8.0f}{peak:>8.0f}"
            lines.append(f"{f'{name}, {step}':<32}{numbers}")
    return lines


def targets(found: Mapping[str, Sequence[Marks]]) -> list[tuple[str, float, float]]:
    """What is asked: its name, the figure, and the most that it may be."""
    asked = [(f"{PLAIN}, {OPEN}: {unit}", medians(found[PLAIN], OPEN)[i], PLAIN_MOST[i]) for i, unit in enumerate(UNITS)]
    if FFCV in found:
        for step in (OPEN, FIRST):
            ours, stock = medians(found[FFCV], step), medians(found[STOCK], step)
            asked += [
                (f"{FFCV} against {STOCK}, {step}: {unit}", ours[i] / stock[i], FFCV_MOST) for i, unit in enumerate(UNITS)
            ]
    return asked


def main() -> None:
    """Measure and print."""
    parser = bench_parser(__doc__, runs=3)
    parser.add_argument("--samples", type=int, default=IMAGENET, help=f"how many ({IMAGENET})")
    arguments = parser.parse_args()
    if arguments.samples < OPTIONS.batch:
        parser.error(f"--samples is {OPTIONS.batch} or more")
    with TemporaryDirectory(prefix="bench-open-") as folder:
        path = Path(folder) / "train.beton"
        make_beton(path, arguments.samples)
        found = measure(path, arguments.runs)
        counts = f"{arguments.samples} samples, {path.stat().st_size / 1e6:.0f} MB, {arguments.runs} runs after one warm-up"
    asked = targets(found)
    lines = [
        f"{name:<52}{value:>8.2f}   asked: at most {most}{'' if value <= most else ', missed'}" for name, value, most in asked
    ]
    print("\n".join([*table(found), "", *lines, "", counts, *(f"{name}: {value}" for name, value in circumstances().items())]))
    steps = {f"{name}, {step}": medians(runs, step) for name, runs in found.items() for step in runs[0]}
    figures = {
        "counts": counts,
        "seconds_mb_peak_mb": {name: [round(each, 2) for each in values] for name, values in steps.items()},
        "asked": {name: round(value, 3) for name, value, _ in asked},
    }
    record(arguments.json, "open", figures)


if __name__ == "__main__":
    main()
